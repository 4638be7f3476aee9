"""Where each chunk lies: arrays sorted by chunk id, read from sealed, write-once index objects.

An index is a cache of the tables at the ends of packs. It is trusted only where the log names it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pyarrow as pa

from holdfast.engine.vault.crypto import seal, unseal
from holdfast.engine.vault.errors import Damaged
from holdfast.engine.vault.pack import CHUNK_ID_BYTES, Codec, PackClass, PackInfo, StoredChunk

if TYPE_CHECKING:
    import numpy as np

KIND = b"I"
#: An index object holds at most so many chunks.
MOST_CHUNKS = 500_000
PACK_SCHEMA = pa.schema(
    [
        pa.field("pack_id", pa.binary(16), nullable=False),
        pa.field("class", pa.uint8(), nullable=False),
        pa.field("tier", pa.string(), nullable=False),
        pa.field("size_bytes", pa.uint64(), nullable=False),
        pa.field("digest", pa.binary(32)),
        pa.field("chunks", pa.uint32(), nullable=False),
    ],
    metadata={b"format": b"holdfast.vault.index/1"},
)
CHUNK_SCHEMA = pa.schema(
    [
        pa.field("chunk_id", pa.binary(CHUNK_ID_BYTES), nullable=False),
        pa.field("offset", pa.uint32(), nullable=False),
        pa.field("stored_bytes", pa.uint32(), nullable=False),
        pa.field("plain_bytes", pa.uint32(), nullable=False),
        pa.field("codec", pa.uint8(), nullable=False),
    ]
)


@dataclass(frozen=True)
class IndexedPack:
    """A pack and its chunks in order."""

    info: PackInfo
    chunks: Sequence[StoredChunk]


@dataclass(frozen=True, slots=True)
class Location:
    """Where a chunk lies: its pack's number in the index, and its place in it."""

    pack: int
    offset: int
    stored_bytes: int
    plain_bytes: int
    codec: int
    position: int


def encode_index(packs: Sequence[IndexedPack], metadata_key: bytes, repository: bytes) -> tuple[bytes, bytes]:
    """An index object of these packs: its id and its bytes."""
    part = part_of(packs)
    first = _ipc(part.packs)
    data = len(first).to_bytes(4, "big") + first + _ipc(part.chunks)
    return os.urandom(16), seal(metadata_key, KIND, repository, _compressed(data))


def _ipc(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())


def _compressed(data: bytes) -> bytes:
    import zstandard

    return zstandard.ZstdCompressor(level=1).compress(data)


@dataclass(frozen=True)
class IndexPart:
    """One index object as two tables: its packs, and their chunks in the packs' order."""

    packs: pa.Table
    chunks: pa.Table


def decode_index(data: bytes, metadata_key: bytes, repository: bytes, where: str) -> IndexPart:
    """Raises Damaged, WrongKey."""
    import zstandard

    plain = unseal(metadata_key, KIND, repository, data, where)
    try:
        plain = zstandard.ZstdDecompressor().decompress(plain)
        size = int.from_bytes(plain[:4], "big")
        packs = pa.ipc.open_stream(plain[4 : 4 + size]).read_all()
        chunks = pa.ipc.open_stream(memoryview(plain)[4 + size :]).read_all()
    except (zstandard.ZstdError, pa.ArrowException, OSError) as error:
        raise Damaged("the index cannot be read", where=where, found=str(error)) from None
    if packs.schema.metadata != PACK_SCHEMA.metadata or chunks.schema.names != CHUNK_SCHEMA.names:
        raise Damaged(
            "the index is of another format",
            where=where,
            expected="holdfast.vault.index/1",
            found=str(packs.schema.metadata),
            fix="Use a version of Holdfast that knows this format",
        )
    return IndexPart(packs.combine_chunks(), chunks.combine_chunks())


def part_of(packs: Sequence[IndexedPack]) -> IndexPart:
    """The same tables from packs in memory: just written, or read from their own ends."""
    rows = [chunk for pack in packs for chunk in pack.chunks]
    return IndexPart(
        pa.table(
            [
                [pack.info.pack_id for pack in packs],
                [int(pack.info.kind) for pack in packs],
                [pack.info.tier for pack in packs],
                [pack.info.size_bytes for pack in packs],
                [pack.info.digest for pack in packs],
                [len(pack.chunks) for pack in packs],
            ],
            schema=PACK_SCHEMA,
        ).combine_chunks(),
        pa.table(
            [
                [row.chunk_id for row in rows],
                [row.offset for row in rows],
                [row.stored_bytes for row in rows],
                [row.plain_bytes for row in rows],
                [int(row.codec) for row in rows],
            ],
            schema=CHUNK_SCHEMA,
        ).combine_chunks(),
    )


class ChunkIndex:
    """All chunks of a repository that may be used.

    Args:
        parts: index objects.
        without: packs that were collected: nothing is found in them.
    """

    def __init__(self, parts: Iterable[IndexPart], *, without: frozenset[bytes] = frozenset()) -> None:
        import numpy as np

        self.packs: list[PackInfo] = []
        self._by_id: dict[bytes, int] = {}
        columns: list[list[np.ndarray]] = [[] for _ in range(7)]
        for part in parts:
            self._take(part, without, columns)
        ids = np.concatenate(columns[0]) if columns[0] else np.empty((0, CHUNK_ID_BYTES), np.uint8)
        prefixes = _prefixes_of(ids)
        order = np.argsort(prefixes, kind="stable")
        self._prefixes = prefixes[order]
        self._ids = ids[order]
        kinds = (np.uint32, np.uint32, np.uint32, np.uint32, np.uint8, np.uint32)
        self._columns = [
            (np.concatenate(column) if column else np.empty(0, kind))[order]
            for column, kind in zip(columns[1:], kinds, strict=True)
        ]

    def _take(self, part: IndexPart, without: frozenset[bytes], columns: list[list[np.ndarray]]) -> None:
        import numpy as np

        counts = part.packs["chunks"].to_numpy()
        numbers = np.full(len(counts), -1, np.int64)
        for row, (pack_id, kind, tier, size, digest) in enumerate(
            zip(*(part.packs[name].to_pylist() for name in PACK_SCHEMA.names[:5]), strict=True)
        ):
            if pack_id in without or pack_id in self._by_id:
                continue
            numbers[row] = self._by_id[pack_id] = len(self.packs)
            self.packs.append(PackInfo(pack_id, PackClass(kind), tier, size, digest))
        of_chunk = np.repeat(numbers, counts)
        starts = np.repeat(np.cumsum(counts) - counts, counts)
        keep = of_chunk >= 0
        total = part.chunks.num_rows
        ids = part.chunks["chunk_id"].combine_chunks() if total else None
        raw = _fixed(ids, total)
        columns[0].append(raw[keep])
        columns[1].append(of_chunk[keep].astype(np.uint32))
        for number, name in enumerate(("offset", "stored_bytes", "plain_bytes", "codec"), start=2):
            columns[number].append(part.chunks[name].to_numpy()[keep])
        columns[6].append((np.arange(total) - starts)[keep].astype(np.uint32))

    def __len__(self) -> int:
        return len(self._prefixes)

    def find(self, chunk_id: bytes) -> Location | None:
        """Where a chunk lies; of several places the first that was indexed."""
        row = self._row(chunk_id)
        return None if row is None else Location(*(int(column[row]) for column in self._columns))

    def find_many(self, chunk_ids: Sequence[bytes]) -> list[Location | None]:
        """The same for many at once, at a fraction of the time each."""
        rows = self._rows(chunk_ids)
        found = rows >= 0
        columns = [column[rows[found]].tolist() for column in self._columns]
        places = map(Location, *columns)
        return [next(places) if there else None for there in found.tolist()]

    def packs_of(self, chunk_ids: Sequence[bytes]) -> list[int]:
        """The numbers of the packs that `find` finds chunks in, -1 where it finds none."""
        rows = self._rows(chunk_ids)
        found = iter(self._columns[0][rows[rows >= 0]].tolist())
        return [next(found) if there else -1 for there in (rows >= 0).tolist()]

    def locate_pack(self, chunk_id: bytes) -> int | None:
        """The number of the pack `find` finds a chunk in."""
        row = self._row(chunk_id)
        return None if row is None else int(self._columns[0][row])

    def __contains__(self, chunk_id: bytes) -> bool:
        return self._row(chunk_id) is not None

    def _rows(self, chunk_ids: Sequence[bytes]) -> np.ndarray:
        """The row of each, -1 where there is none."""
        import numpy as np

        if not chunk_ids or not len(self):
            return np.full(len(chunk_ids), -1, np.int64)
        ids = np.frombuffer(b"".join(chunk_ids), np.uint8).reshape(-1, CHUNK_ID_BYTES)
        rows = self._prefixes.searchsorted(_prefixes_of(ids))
        near = np.minimum(rows, len(self) - 1)
        same = (self._ids[near] == ids).all(axis=1)
        found = np.where(same, near, -1)
        # Absent, or behind another with the same prefix.
        for number in np.flatnonzero(~same & (self._prefixes[near] == _prefixes_of(ids))).tolist():
            row = self._row(chunk_ids[number])
            found[number] = -1 if row is None else row
        return found

    def _row(self, chunk_id: bytes) -> int | None:
        import numpy as np

        prefix = np.uint64(int.from_bytes(chunk_id[:8], "big"))
        row = int(self._prefixes.searchsorted(prefix))
        while row < len(self._prefixes) and self._prefixes[row] == prefix:
            if self._ids[row].tobytes() == chunk_id:
                return row
            row += 1
        return None

    def pack_number(self, pack_id: bytes) -> int | None:
        """The number of a pack, ``None`` when no index names it."""
        return self._by_id.get(pack_id)

    def chunks_of(self, number: int) -> list[StoredChunk]:
        """The chunks of one pack, in its order."""
        import numpy as np

        rows = np.flatnonzero(self._columns[0] == number)
        found = [
            StoredChunk(
                self._ids[row].tobytes(),
                offset=int(self._columns[1][row]),
                stored_bytes=int(self._columns[2][row]),
                plain_bytes=int(self._columns[3][row]),
                codec=Codec(int(self._columns[4][row])),
                position=int(self._columns[5][row]),
            )
            for row in rows
        ]
        return sorted(found, key=lambda chunk: chunk.position)


def _prefixes_of(ids: np.ndarray) -> np.ndarray:
    """The first eight bytes of each as a number."""
    import numpy as np

    return ids[:, :8].copy().view(">u8").reshape(-1).astype(np.uint64)


def _fixed(column: pa.Array | None, rows: int) -> np.ndarray:
    """A fixed-size binary column as an array of bytes, one row per value."""
    import numpy as np

    if column is None or rows == 0:
        return np.empty((0, CHUNK_ID_BYTES), np.uint8)
    if isinstance(column, pa.ChunkedArray):
        column = pa.concat_arrays(column.chunks)
    width = CHUNK_ID_BYTES
    data = np.frombuffer(column.buffers()[1], np.uint8, count=rows * width, offset=column.offset * width)
    return data.reshape(rows, width)
