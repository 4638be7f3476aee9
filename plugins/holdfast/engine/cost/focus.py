"""One file of a FOCUS export, of any version from 1.0 on, as a table of `columns.SCHEMA`.

Read by which columns are present. Money stays decimal from the file to the sum: a CSV's text is parsed as it stands, a
Parquet file's doubles (AWS writes costs so) by the shortest text that gives the same double. What cannot be read as
what it should be refuses the file, with the first such row: a total without it would be wrong.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterable, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pcsv
import pyarrow.parquet as pq

from holdfast.engine.cost import columns
from holdfast.engine.cost.errors import BillDamaged
from holdfast.engine.cost.tags import normalised_tags

MIB = 1024 * 1024
#: A file may inflate to so many times its own limit.
_INFLATES = 16
_MOST_COLUMNS = 2000
_BLOCK_BYTES = 8 * MIB
_WIDE = pa.decimal256(76, 38)
_ZONED = r"(Z|[+-]\d\d:?\d\d)$"
_WRONG_ROW = re.compile(r"Row #(?P<row>\d+): Expected (?P<expected>\d+) columns, got (?P<found>\d+)")
_NULLS = ["", "NULL", "null"]


def read_focus(
    data: bytes, *, name: str, export: str, version: str | None = None, most_file_mib: int = 2048
) -> pa.Table:
    """The lines of one file.

    Args:
        data: Parquet, CSV or gzipped CSV, told apart by the bytes, not by the name.
        name: of the file, for messages and the column ``x_SourceFile``.
        export: of the topology, for ``x_Export``.
        version: what the export's manifest says; none: by the columns.
        most_file_mib: a larger file is refused, and one that inflates to more than 16 times this.

    Raises:
        BillDamaged: the file, its first wrong row, what was expected and found.
    """
    if len(data) > most_file_mib * MIB:
        raise _damaged(name, "the file is too large", f"{most_file_mib} MiB at most", f"{len(data) / MIB:.0f} MiB")
    most_bytes = most_file_mib * MIB * _INFLATES
    is_csv = data[:4] != b"PAR1"
    try:
        raw, names = _read_csv(data, name, most_bytes) if is_csv else _read_parquet(data, name, most_bytes)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        kind = "a CSV file" if is_csv else "a Parquet file"
        raise _damaged(name, f"{kind} cannot be read", "what a billing export writes", str(error)[:300]) from None
    first = 2 if is_csv else 1
    table = pa.table(
        [_column(raw, column, name, first) for column in columns.FOCUS_1_2],
        schema=pa.schema([columns.SCHEMA.field(column) for column in columns.FOCUS_1_2]),
    )
    _require(table, name, first)
    told = version or columns.version_of(names)
    rows = table.num_rows
    for field, values in zip(
        columns.ADDED,
        (
            pa.repeat(pa.scalar(told), rows),
            pa.repeat(pa.scalar(export), rows),
            pa.repeat(pa.scalar(name), rows),
            pa.array(range(first, first + rows), pa.int64()),
        ),
        strict=True,
    ):
        table = table.append_column(field, values)
    return table


def _wanted(names: Sequence[str], where: str) -> list[str]:
    if len(names) > _MOST_COLUMNS:
        raise _damaged(where, "the file has too many columns", f"{_MOST_COLUMNS} at most", str(len(names)))
    repeated = sorted({name for name in names if names.count(name) > 1 and name in columns.SCHEMA.names})
    if repeated:
        raise _damaged(where, "a column stands twice", "each column once", ", ".join(repeated))
    missing = [name for name in columns.REQUIRED if name not in names]
    if missing:
        raise _damaged(
            where,
            "this is no FOCUS export",
            f"the columns of FOCUS 1.0 or later, among them {', '.join(missing)}",
            ", ".join(names[:12]) + (" …" if len(names) > 12 else ""),
            fix="Choose the FOCUS dataset when the export is made; version 0.5 and 1.0-preview are not read",
        )
    known = {*columns.FOCUS_1_2, *columns.RENAMED}
    return [name for name in names if name in known]


def _read_csv(data: bytes, where: str, most_bytes: int) -> tuple[pa.Table, Sequence[str]]:
    header = _header(data, where)
    wanted = _wanted(header, where)
    try:
        table = pcsv.open_csv(
            _counted(data, where, most_bytes),
            # On one thread, for then Arrow knows which row is wrong.
            read_options=pcsv.ReadOptions(use_threads=False, block_size=_BLOCK_BYTES),
            parse_options=pcsv.ParseOptions(newlines_in_values=True),
            convert_options=pcsv.ConvertOptions(
                include_columns=wanted,
                column_types=dict.fromkeys(wanted, pa.string()),
                null_values=_NULLS,
                strings_can_be_null=True,
            ),
        ).read_all()
    except pa.ArrowInvalid as error:
        wrong = _WRONG_ROW.search(str(error))
        if wrong is None:
            raise
        raise _damaged(
            f"{where}: row {wrong['row']}",
            "a row has another number of cells than the header",
            f"{wrong['expected']} cells",
            wrong["found"],
        ) from None
    return table, header


def _header(data: bytes, where: str) -> list[str]:
    """The first row's cells. A header without an end, or one that inflates and inflates, is not read on."""
    with _plain(data) as stream:
        start = bytes(stream.read(MIB))
    if start.startswith(b"\xef\xbb\xbf"):
        start = start[3:]
    line, end, _ = start.partition(b"\n")
    if not end and len(start) >= MIB:
        raise _damaged(where, "the header has no end", "a line of column names", f"{MIB} bytes without one")
    if not line.strip():
        raise _damaged(where, "the file is empty", "a header and rows", f"{len(data)} bytes")
    try:
        table = pcsv.read_csv(
            io.BytesIO(line + b"\n"), read_options=pcsv.ReadOptions(use_threads=False, autogenerate_column_names=True)
        )
    except pa.ArrowInvalid as error:
        raise _damaged(where, "the header cannot be read", "a line of column names", str(error)[:200]) from None
    return [str(table.column(at)[0].as_py()).strip() for at in range(table.num_columns)]


def _plain(data: bytes) -> Any:
    """The file's bytes, inflated as they are read."""
    source = pa.BufferReader(data)
    return pa.CompressedInputStream(source, "gzip") if data[:2] == b"\x1f\x8b" else source


class _Counted(io.RawIOBase):
    """A stream that refuses to give more than it may."""

    def __init__(self, inner: Any, where: str, most_bytes: int) -> None:
        self._inner, self._where, self._left, self._most = inner, where, most_bytes, most_bytes

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        found = bytes(self._inner.read(size if size is not None and size >= 0 else self._left + 1))
        self._left -= len(found)
        if self._left < 0:
            raise _damaged(
                self._where, "the file inflates without measure", f"{self._most} bytes at most", "more than that"
            )
        return found


def _counted(data: bytes, where: str, most_bytes: int) -> Any:
    return pa.PythonFile(_Counted(_plain(data), where, most_bytes), mode="r")


def _read_parquet(data: bytes, where: str, most_bytes: int) -> tuple[pa.Table, Sequence[str]]:
    file = pq.ParquetFile(
        pa.BufferReader(data), thrift_string_size_limit=64 * MIB, thrift_container_size_limit=1_000_000
    )
    names = file.schema_arrow.names
    wanted = _wanted(names, where)
    meta = file.metadata
    inflated = sum(meta.row_group(at).total_byte_size for at in range(meta.num_row_groups))
    if inflated > most_bytes or meta.num_rows > most_bytes // 16:
        raise _damaged(
            where,
            "the file inflates without measure",
            f"{most_bytes} bytes at most",
            f"{inflated} bytes in {meta.num_rows} rows",
        )
    table = file.read(columns=wanted)
    table.validate(full=True)  # else a text that is no UTF-8 is found by whoever looks at it first
    return table, names


def _column(raw: pa.Table, name: str, where: str, first: int) -> pa.ChunkedArray:
    try:
        return _converted(raw, name, where, first)
    except (pa.ArrowNotImplementedError, pa.ArrowInvalid) as error:
        raise _damaged(
            f"{where}: {name}", "a column has another type than it should", str(columns.type_of(name)), str(error)[:200]
        ) from None


def _converted(raw: pa.Table, name: str, where: str, first: int) -> pa.ChunkedArray:
    source = name
    if name not in raw.column_names or _is_empty(raw.column(name)):
        source = next((new for new, old in columns.RENAMED.items() if old == name and new in raw.column_names), name)
    if source not in raw.column_names:
        return pa.chunked_array([pa.nulls(raw.num_rows, columns.type_of(name))])
    values = raw.column(source)
    if pa.types.is_dictionary(values.type):
        values = pc.cast(values, values.type.value_type)
    if name == "Tags":
        return normalised_tags(values, lambda row, found: _bad_cell(where, first + row, name, "a map of tags", found))
    if name in columns.DECIMALS:
        return _decimals(values, name, where, first)
    if name in columns.TIMES:
        return _times(values, name, where, first)
    return pc.cast(values, pa.string()) if not pa.types.is_nested(values.type) else _as_json(values)


def _is_empty(values: pa.ChunkedArray) -> bool:
    return bool(values.null_count == len(values))


def _as_json(values: pa.ChunkedArray) -> pa.ChunkedArray:
    """A nested value that is text in 1.2 (``SkuPriceDetails``): as JSON, once for each row that has one."""

    def text(value: Any) -> str | None:
        if value is None:
            return None
        plain = dict(value) if isinstance(value, list) and all(isinstance(pair, tuple) for pair in value) else value
        return json.dumps(plain, default=str, sort_keys=True)

    return pa.chunked_array([pa.array([text(value) for value in values.to_pylist()], pa.string())])


def _decimals(values: pa.ChunkedArray, name: str, where: str, first: int) -> pa.ChunkedArray:
    if pa.types.is_floating(values.type):
        if pc.any(pc.invert(pc.is_finite(values))).as_py():
            row = pc.index(pc.fill_null(pc.is_finite(values), True), False).as_py()
            raise _bad_cell(where, first + row, name, "a finite number", str(values[row].as_py()))
        values = pc.cast(values, pa.string())
    if pa.types.is_string(values.type) or pa.types.is_large_string(values.type):
        values = pc.utf8_trim_whitespace(values)
    try:
        wide = pc.cast(values, _WIDE)
        return pc.cast(pc.round(wide, 18, round_mode="half_to_even"), columns.DECIMAL)
    except pa.ArrowInvalid:
        row = _first_that_fails(values, lambda cell: pc.cast(pc.round(pc.cast(cell, _WIDE), 18), columns.DECIMAL))
        found = str(values[row].as_py())
        raise _bad_cell(where, first + row, name, "a decimal number below 10^20", found) from None


def _times(values: pa.ChunkedArray, name: str, where: str, first: int) -> pa.ChunkedArray:
    if pa.types.is_timestamp(values.type):
        # Without a zone it is UTC, as the specification wants every time to be.
        return pc.cast(values, columns.TIME, safe=False)
    if pa.types.is_date(values.type):
        return pc.cast(pc.cast(values, pa.timestamp("us")), columns.TIME)
    text = pc.replace_substring(pc.utf8_trim_whitespace(pc.cast(values, pa.string())), " UTC", "Z")
    text = pc.if_else(pc.equal(pc.utf8_length(text), 10), pc.binary_join_element_wise(text, "T00:00:00Z", ""), text)
    zoned = pc.match_substring_regex(text, _ZONED)
    text = pc.if_else(zoned, text, pc.binary_join_element_wise(text, "Z", ""))
    try:
        return pc.cast(text, columns.TIME)
    except pa.ArrowInvalid:
        row = _first_that_fails(text, lambda cell: pc.cast(cell, columns.TIME))
        raise _bad_cell(where, first + row, name, "a time as 2026-10-01T00:00:00Z", str(values[row].as_py())) from None


def _first_that_fails(values: pa.ChunkedArray, convert: Any) -> int:
    """The row that cannot be converted, by halving: each look is one vectorised conversion."""
    low, length = 0, len(values)
    while length > 1:
        half = length // 2
        try:
            convert(values.slice(low, half))
        except pa.ArrowInvalid:
            length = half
        else:
            low, length = low + half, length - half
    return low


def _require(table: pa.Table, where: str, first: int) -> None:
    for name in columns.NEVER_NULL:
        values = table.column(name)
        if values.null_count:
            row = pc.index(pc.is_null(values), True).as_py()
            raise _bad_cell(where, first + row, name, "a value", "nothing")
    wrong = pc.invert(pc.match_substring_regex(table.column("BillingCurrency"), "^[A-Z]{3}$"))
    if pc.any(wrong).as_py():
        row = pc.index(wrong, True).as_py()
        found = str(table.column("BillingCurrency")[row].as_py())
        raise _bad_cell(where, first + row, "BillingCurrency", "three capital letters", found)


def _bad_cell(where: str, row: int, column: str, expected: str, found: str) -> BillDamaged:
    return _damaged(f"{where}: row {row}: {column}", "a cell cannot be read", expected, repr(found[:120]))


def _damaged(where: str, what: str, expected: str, found: str, fix: str | None = None) -> BillDamaged:
    return BillDamaged(
        what, where=where, expected=expected, found=found, fix=fix or "Have the cloud deliver the export again"
    )


def joined(tables: Iterable[pa.Table]) -> pa.Table:
    """The lines of several files; an empty table of the schema when there are none."""
    found = list(tables)
    return pa.concat_tables(found) if found else columns.SCHEMA.empty_table()
