"""Trees: the objects of a backup as Arrow tables, cut into segments that are chunks themselves.

A segment ends where the path says so, so an object that changed changes its own segment and no other: the next backup
of a million objects stores the segments that differ.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import pyarrow as pa
from blake3 import blake3

from holdfast.engine.vault.arrow import read_table
from holdfast.engine.vault.errors import Damaged, SourceFailed
from holdfast.engine.vault.pack import CHUNK_ID_BYTES

#: A segment ends after a path whose hash begins with a multiple of this; about so many rows.
_ROWS = 1024
_MOST_ROWS = 8 * _ROWS
_MOST_CHUNKS = 64 * 1024
#: 0001-01-01 to 9999-12-31, in microseconds since 1970.
_FIRST_TIME, _LAST_TIME = -62_135_596_800_000_000, 253_402_300_799_999_999
SCHEMA = pa.schema(
    [
        pa.field("path", pa.string(), nullable=False),
        pa.field("size_bytes", pa.int64(), nullable=False),
        pa.field("digest", pa.string(), nullable=False),
        pa.field("modified_at", pa.timestamp("us", tz="UTC")),
        pa.field("state", pa.string()),
        pa.field("mode", pa.int32()),
        pa.field("chunks", pa.list_(pa.field("item", pa.binary(CHUNK_ID_BYTES), nullable=False)), nullable=False),
    ],
    metadata={b"format": b"holdfast.vault.tree/1"},
)


@dataclass(frozen=True, slots=True)
class TreeRow:
    """One object of a backup.

    Args:
        path: relative, with ``/``.
        digest: ``blake3:…`` of its content.
        modified_at: at the source, where it says so.
        state: what the source calls this state of it (ETag and version, or size, times and inode): equal, unchanged.
        mode: POSIX permission bits, where the source has them.
        chunks: ids of its chunks in order; none for empty content.
    """

    path: str
    size_bytes: int
    digest: str
    modified_at: datetime | None
    state: str | None
    mode: int | None
    chunks: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Segment:
    """A part of a tree: the chunk it lies in, its first path, and how much it says."""

    chunk_id: bytes
    first: str
    rows: int
    size_bytes: int

    def to_list(self) -> list[Any]:
        return [self.chunk_id.hex(), self.first, self.rows, self.size_bytes]

    def describe(self) -> str:
        """What is lost with it, where its paths are."""
        return f"{self.first} … ({self.rows} objects)"

    @classmethod
    def from_list(cls, found: Sequence[Any]) -> Segment:
        return cls(bytes.fromhex(found[0]), str(found[1]), int(found[2]), int(found[3]))


class TreeWriter:
    """Takes rows in path order and stores segments.

    Args:
        store: stores a chunk of a tree and gives its id.
    """

    def __init__(self, store: Callable[[bytes], bytes]) -> None:
        self._store = store
        self._rows: list[TreeRow] = []
        self._chunks = 0
        self._last: str | None = None
        self.segments: list[Segment] = []

    def add(self, row: TreeRow) -> None:
        """Raises SourceFailed: it does not come after the row before it."""
        if self._last is not None and row.path <= self._last:
            raise SourceFailed(
                "a source names its objects out of order, or one twice",
                where=repr(row.path),
                expected=f"a path after {self._last!r}",
                found="one that is not",
                fix="No backup was made of it",
            )
        self._last = row.path
        self._rows.append(row)
        self._chunks += len(row.chunks)
        full = len(self._rows) >= _MOST_ROWS or self._chunks >= _MOST_CHUNKS
        if full or ends_segment(row.path):
            self._end()

    def finish(self) -> list[Segment]:
        """The segments of the whole tree."""
        if self._rows:
            self._end()
        return self.segments

    def _end(self) -> None:
        rows, self._rows, self._chunks = self._rows, [], 0
        size = sum(row.size_bytes for row in rows)
        self.segments.append(Segment(self._store(encode_segment(rows)), rows[0].path, len(rows), size))


def ends_segment(path: str) -> bool:
    return int.from_bytes(blake3(path.encode()).digest(4), "big") % _ROWS == 0


def encode_segment(rows: Iterable[TreeRow]) -> bytes:
    """Rows as an Arrow IPC stream."""
    rows = list(rows)
    table = pa.table(
        [[getattr(row, name) for row in rows] for name in SCHEMA.names[:-1]] + [[list(row.chunks) for row in rows]],
        schema=SCHEMA,
    )
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, SCHEMA) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())


def decode_segment(data: bytes, where: str) -> pa.Table:
    """Raises Damaged."""
    table = read_table(data, SCHEMA, where)
    if not _is_sound(table):
        raise Damaged(
            "a part of the tree names objects as none can be",
            where=where,
            expected="paths in order, sizes, digests and times",
            found="others, sealed by somebody who has the writer's key",
        )
    return table


def _is_sound(table: pa.Table) -> bool:
    import pyarrow.compute as pc

    if table.num_rows == 0:
        return False
    paths = table["path"].combine_chunks().cast(pa.binary())
    times = table["modified_at"].cast(pa.int64())
    in_order = pc.all(pc.less(paths[:-1], paths[1:])).as_py() is not False
    digests = pc.all(pc.match_substring_regex(table["digest"], r"\Ablake3:[0-9a-f]{64}\z")).as_py()
    sizes = pc.all(pc.greater_equal(table["size_bytes"], 0)).as_py()
    dated = pc.all(pc.and_(pc.greater_equal(times, _FIRST_TIME), pc.less_equal(times, _LAST_TIME))).as_py()
    modes = pc.all(pc.and_(pc.greater_equal(table["mode"], 0), pc.less_equal(table["mode"], 0o7777))).as_py()
    return bool(in_order and digests and sizes and dated is not False and modes is not False)


def rows_of(table: pa.Table) -> Iterator[TreeRow]:
    """The rows of a segment."""
    columns = [table[name].to_pylist() for name in SCHEMA.names]
    for path, size, digest, modified, state, mode, chunks in zip(*columns, strict=True):
        yield TreeRow(path, size, digest, modified, state, mode, tuple(chunks))
