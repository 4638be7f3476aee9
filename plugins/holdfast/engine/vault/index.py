"""Where each chunk lies: arrays sorted by chunk id, read from sealed, write-once index objects.

An index is a cache of the tables at the ends of packs. It is trusted only where the log names it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import pyarrow as pa

from holdfast.engine.vault.arrow import read_table
from holdfast.engine.vault.crypto import TAG_BYTES, seal, unseal
from holdfast.engine.vault.errors import Damaged
from holdfast.engine.vault.layout import TIERS
from holdfast.engine.vault.pack import (
    CHUNK_ID_BYTES,
    MOST_PACK_BYTES,
    MOST_PLAIN_BYTES,
    Codec,
    PackClass,
    PackInfo,
    StoredChunk,
    decompress,
)

if TYPE_CHECKING:
    import numpy as np

KIND = b"I"
#: An index object holds about so many chunks at most: the pack that goes over it is its last.
MOST_CHUNKS = 500_000
#: No index object is larger before it is compressed.
MOST_BYTES = 1024 * 1024 * 1024
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

    packed = unseal(metadata_key, KIND, repository, data, where)
    try:
        size = zstandard.frame_content_size(packed)
    except zstandard.ZstdError:
        size = -1
    if not 4 <= size <= MOST_BYTES:
        raise Damaged("the index cannot be read", where=where, expected=f"4 to {MOST_BYTES} bytes", found=f"{size}")
    plain = decompress(packed, size, where)
    first = 4 + int.from_bytes(plain[:4], "big")
    packs = read_table(memoryview(plain)[4:first], PACK_SCHEMA, where)
    chunks = read_table(memoryview(plain)[first:], CHUNK_SCHEMA, where)
    if not _is_sound(packs, chunks):
        raise Damaged(
            "the index names chunks or packs as none can be",
            where=where,
            expected="chunks inside their packs",
            found="others, sealed by somebody who has the writer's key",
            fix="Rebuild it from the packs: `holdfast vault verify --repair`",
        )
    return IndexPart(packs, chunks)


def _is_sound(packs: pa.Table, chunks: pa.Table) -> bool:
    """Whether packs and chunks are such as a writer makes: nothing else may reach whoever asks where a chunk lies."""
    import numpy as np

    counts, sizes = packs["chunks"].to_numpy().astype(np.int64), packs["size_bytes"].to_numpy()
    classes = packs["class"].to_numpy()
    if counts.sum() != chunks.num_rows or not np.isin(classes, [int(kind) for kind in PackClass]).all():
        return False
    if (sizes > MOST_PACK_BYTES).any() or not set(packs["tier"].unique().to_pylist()) <= set(TIERS):
        return False
    if len(packs["pack_id"].unique()) != packs.num_rows:
        return False
    offset, stored, plain = (
        chunks[name].to_numpy().astype(np.int64) for name in ("offset", "stored_bytes", "plain_bytes")
    )
    codec = chunks["codec"].to_numpy()
    kinds = np.repeat(classes, counts)
    inside = offset + stored <= np.repeat(sizes.astype(np.int64), counts)
    raw = codec == int(Codec.RAW)
    fits = np.where(raw, stored == plain + TAG_BYTES, (codec == int(Codec.ZSTD)) & (stored > TAG_BYTES))
    largest = np.where(kinds == int(PackClass.TREE), MOST_PLAIN_BYTES[PackClass.TREE], MOST_PLAIN_BYTES[PackClass.DATA])
    return bool((inside & fits & (plain <= largest)).all())


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
        return None if row is None else self._location(row)

    def places(self, chunk_id: bytes) -> list[Location]:
        """Every place a chunk lies in, the one `find` gives first."""
        return [self._location(row) for row in self._rows(chunk_id)]

    def _location(self, row: int) -> Location:
        pack, offset, stored, plain, codec, position = (int(column[row]) for column in self._columns)
        return Location(pack, offset, stored, plain, codec, position)

    def find_many(self, chunk_ids: Sequence[bytes]) -> list[Location | None]:
        """The same as `find` for many at once, at a fraction of the time each."""
        rows = self._rows_of_many(chunk_ids)
        found = rows >= 0
        columns = [column[rows[found]].tolist() for column in self._columns]
        places = map(Location, *columns)
        return [next(places) if there else None for there in found.tolist()]

    def packs_of(self, chunk_ids: Sequence[bytes]) -> list[int]:
        """The numbers of the packs that `find` finds chunks in, -1 where it finds none."""
        rows = self._rows_of_many(chunk_ids)
        found = iter(self._columns[0][rows[rows >= 0]].tolist())
        return [next(found) if there else -1 for there in (rows >= 0).tolist()]

    def locate_pack(self, chunk_id: bytes) -> int | None:
        """The number of the pack `find` finds a chunk in."""
        row = self._row(chunk_id)
        return None if row is None else int(self._columns[0][row])

    def __contains__(self, chunk_id: bytes) -> bool:
        return self._row(chunk_id) is not None

    def _rows_of_many(self, chunk_ids: Sequence[bytes]) -> np.ndarray:
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
        return next(self._rows(chunk_id), None)

    def _rows(self, chunk_id: bytes) -> Iterator[int]:
        import numpy as np

        prefix = np.uint64(int.from_bytes(chunk_id[:8], "big"))
        row = int(self._prefixes.searchsorted(prefix))
        while row < len(self._prefixes) and self._prefixes[row] == prefix:
            if self._ids[row].tobytes() == chunk_id:
                yield row
            row += 1

    def pack_number(self, pack_id: bytes) -> int | None:
        """The number of a pack, ``None`` when no index names it."""
        return self._by_id.get(pack_id)

    def chunks_of(self, number: int) -> list[StoredChunk]:
        """The chunks of one pack, in its order."""
        order, starts = self._by_pack
        found = [
            StoredChunk(
                self._ids[row].tobytes(),
                offset=int(self._columns[1][row]),
                stored_bytes=int(self._columns[2][row]),
                plain_bytes=int(self._columns[3][row]),
                codec=Codec(int(self._columns[4][row])),
                position=int(self._columns[5][row]),
            )
            for row in order[starts[number] : starts[number + 1]]
        ]
        return sorted(found, key=lambda chunk: chunk.position)

    @cached_property
    def _by_pack(self) -> tuple[np.ndarray, np.ndarray]:
        """The rows in the order of their packs, and where each pack's begin."""
        import numpy as np

        packs = self._columns[0]
        order = np.argsort(packs, kind="stable")
        return order, np.searchsorted(packs[order], np.arange(len(self.packs) + 1))

    @cached_property
    def chunk_bytes(self) -> list[int]:
        """By pack, the stored size of all its chunks: of the pack without its head and table."""
        import numpy as np

        sizes = np.bincount(self._columns[0], weights=self._columns[2], minlength=len(self.packs))
        return [int(size) for size in sizes]


def batches(packs: Iterable[IndexedPack]) -> Iterator[list[IndexedPack]]:
    """As many packs together as one index object may hold chunks of."""
    batch: list[IndexedPack] = []
    chunks = 0
    for pack in packs:
        batch.append(pack)
        chunks += len(pack.chunks)
        if chunks >= MOST_CHUNKS:
            yield batch
            batch, chunks = [], 0
    if batch:
        yield batch


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
