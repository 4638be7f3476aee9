"""JSON records as Arrow columns: a block at a time, and record by record only where a block cannot be read whole.

Arrow's reader does not keep rows and lines apart: it would take two documents in one line for two rows, and one that
goes over two lines for one. So a block is read whole only when every record begins with ``{`` and ends with ``}``, and
the rows are as many as the records. A document cannot then go over a line: inside an object or a list a ``}`` is never
followed by a ``{``, and a string holds no newline. So every record gave one row at least, and hence exactly one.
"""

from __future__ import annotations

import json
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import pyarrow as pa

#: A block that cannot be read whole is halved until it is no longer than this.
SMALL_BLOCK = 32
#: About so many bytes are read at once: what a processor caches.
RUN_BYTES = 2 * 1024 * 1024
_INT64 = range(-(2**63), 2**63)


@dataclass(frozen=True)
class Shape:
    """Fields that are wanted of a record, with their types; all others are ignored.

    Args:
        schema: structs, lists, strings and 64-bit integers. Polymorphic fields are left out, or are of another shape.
        by: the text field that says whether a record is of this shape; none: every record is.
        fits: whether it is, by that field's value or None. What a record reads as never depends on its neighbours.
        marks: bytes that a block with records of this shape holds; none: any block may be of it.
    """

    schema: pa.Schema
    by: str | None = None
    fits: Callable[[str | None], bool] = lambda _: True
    marks: bytes = b""

    def holds(self, table: pa.Table) -> bool:
        """Whether all these records are of it."""
        return self.by is None or all(map(self.fits, table.column(self.by).unique().to_pylist()))

    def is_of(self, record: Mapping[str, Any]) -> bool:
        """Whether this record is."""
        return self.by is None or self.fits(_as(record.get(self.by), pa.string()))


@dataclass(frozen=True)
class Block:
    """Consecutive records as columns of their shape.

    Args:
        table: a row per record.
        understood: which records are JSON objects; None: all.
    """

    table: pa.Table
    understood: pa.BooleanArray | None = None


def parse(records: pa.LargeBinaryArray, shapes: Sequence[Shape]) -> list[Block]:
    """The records, in order.

    Args:
        records: one JSON document each, if all is well; none is null.
        shapes: by preference; the last one takes what fits no other.
    """
    blocks: list[Block] = []
    for run in _runs(records):
        blocks += _parse_run(run, shapes)
    return [_joined(same) for same in _alike(blocks)]


def parse_all(records: pa.LargeBinaryArray, schema: pa.Schema) -> pa.Table:
    """One row per record, in order, for records of one shape; what is not as it should be is null."""
    blocks = parse(records, (Shape(schema),))
    return blocks[0].table.combine_chunks() if blocks else schema.empty_table()


def _runs(records: pa.LargeBinaryArray) -> Iterator[pa.LargeBinaryArray]:
    count, start = len(records), 0
    if not count:
        return
    ends = _ends(records)
    while start < count:
        end = min(bisect_left(ends, ends[start] + RUN_BYTES, start + 1), count)
        yield records.slice(start, end - start)
        start = end


def _parse_run(records: pa.LargeBinaryArray, shapes: Sequence[Shape]) -> list[Block]:
    block = read_whole(records, shapes)
    if block is not None:
        return [block]
    if len(records) <= SMALL_BLOCK:
        return _one_by_one(records.to_pylist(), shapes)
    half = len(records) // 2
    return [*_parse_run(records[:half], shapes), *_parse_run(records[half:], shapes)]


def _alike(blocks: Sequence[Block]) -> Iterator[list[Block]]:
    """Neighbours of one shape together."""
    for _, same in groupby(blocks, key=lambda block: block.table.schema):
        yield list(same)


def _joined(blocks: Sequence[Block]) -> Block:
    table = pa.concat_tables(block.table for block in blocks).combine_chunks()
    if all(block.understood is None for block in blocks):
        return Block(table)
    return Block(
        table,
        pa.concat_arrays(
            [
                pa.repeat(pa.scalar(True), block.table.num_rows) if block.understood is None else block.understood
                for block in blocks
            ]
        ),
    )


def read_whole(records: pa.LargeBinaryArray, shapes: Sequence[Shape]) -> Block | None:
    """All records at once as the first shape that they are of; None where one of them is odd in any way."""
    ends, content = _ends(records), records.buffers()[2]
    content = content.slice(ends[0], ends[-1] - ends[0]).to_pybytes() if content is not None else b""
    # Looked for where nothing separates them: to count separators takes as long as a quarter of reading the records.
    if b"\n" in content or b"\0" in content or not _is_utf8(content):
        return None
    lines: list[bytes] = records.to_pylist()
    whole = [line.rstrip(b"\r") for line in lines] if b"\r" in content else lines
    if not all(line[:1] == b"{" and line[-1:] == b"}" for line in whole):
        return None
    data = b"\n".join(lines)
    for shape in shapes:
        if shape.marks in content:
            table = _table(data, shape.schema)
            if table is not None and table.num_rows == len(lines) and shape.holds(table):
                return Block(table)
    return None


def _ends(records: pa.LargeBinaryArray) -> memoryview:
    """Where in their buffer the records lie: one number more than there are records."""
    return memoryview(records.buffers()[1]).cast("q")[records.offset : records.offset + len(records) + 1]


def _table(data: bytes, schema: pa.Schema) -> pa.Table | None:
    from pyarrow import json as arrow_json

    try:
        return arrow_json.read_json(
            pa.py_buffer(data),
            read_options=arrow_json.ReadOptions(use_threads=False, block_size=len(data) + 1),
            parse_options=arrow_json.ParseOptions(explicit_schema=schema, unexpected_field_behavior="ignore"),
        )
    except pa.ArrowInvalid:
        return None


def _is_utf8(data: bytes) -> bool:
    if data.isascii():
        return True
    ends = pa.array([0, len(data)], pa.int64()).buffers()[1]
    try:
        pa.LargeStringArray.from_buffers(1, ends, pa.py_buffer(data)).validate(full=True)  # a tenth of decoding it
    except pa.ArrowInvalid:
        return False
    return True


def _one_by_one(records: Sequence[bytes], shapes: Sequence[Shape]) -> list[Block]:
    found = [_load(record, shapes) for record in records]
    blocks: list[Block] = []
    for number, same in groupby(found, key=lambda record: _shape_of(record, shapes)):
        rows, schema = list(same), shapes[number].schema
        wanted = [_fields(row, schema) for row in rows]
        understood = pa.array([row is not None for row in rows])
        blocks.append(Block(pa.Table.from_pylist(wanted, schema=schema), understood))
    return blocks


def _fields(record: Mapping[str, Any] | None, schema: pa.Schema) -> dict[str, Any]:
    return {field.name: _as(record.get(field.name), field.type) for field in schema} if record is not None else {}


def _load(record: bytes, shapes: Sequence[Shape]) -> dict[str, Any] | None:
    """The record by Python's reader, which takes more; by Arrow's what that does not: depth, long numbers, `Inf`."""
    try:
        found = json.loads(record.decode("utf-8-sig"))
    except UnicodeDecodeError:
        return None
    except (ValueError, RecursionError) as error:
        if isinstance(error, json.JSONDecodeError) and b"Inf" not in record:
            return None
        block = read_whole(pa.array([record], pa.large_binary()), shapes)
        found = None if block is None else block.table.to_pylist()[0]
    return found if isinstance(found, dict) else None


def _shape_of(record: Mapping[str, Any] | None, shapes: Sequence[Shape]) -> int:
    last = len(shapes) - 1
    return last if record is None else next((n for n, shape in enumerate(shapes) if shape.is_of(record)), last)


def _as(value: Any, kind: pa.DataType) -> Any:
    """The value where it is of this type, else None; a number or a truth is also a text."""
    if pa.types.is_struct(kind):
        return (
            {child.name: _as(value.get(child.name), child.type) for child in kind} if isinstance(value, dict) else None
        )
    if pa.types.is_list(kind):
        return [_as(item, kind.value_type) for item in value] if isinstance(value, list) else None
    if pa.types.is_integer(kind):
        return value if isinstance(value, int) and not isinstance(value, bool) and value in _INT64 else None
    if pa.types.is_boolean(kind):
        return value if isinstance(value, bool) else None
    if isinstance(value, bool | int | float):
        return json.dumps(value)
    return value.encode(errors="replace").decode() if isinstance(value, str) else None
