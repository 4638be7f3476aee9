"""The tree as tiles (`tlog-tiles <https://c2sp.org/tlog-tiles>`_): 256 hashes an object, every eighth level.

A tile's object is written once and never changes, so a log of any size grows by what is new alone, and every proof can
be made from a handful of objects. Entry bundles are not written: an entry is made again from what the log is about.

Tiles follow from the leaves, and come last: the checkpoint is published, and the order decided, with the seal's record
before any tile is written. So a checkpoint may be ahead of its tiles where the writer was killed; the next one brings
what is missing, and tiles that a try before it left behind are found to be the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from itertools import islice

from holdfast.engine.audit.tlog.errors import TileWrong
from holdfast.engine.audit.tlog.merkle import HASH_BYTES, CompactRange, parents, root_of
from holdfast.engine.objectstore import ObjectStore
from holdfast.engine.objectstore.errors import ObjectNotFound
from holdfast.engine.snapshot.once import create_or_read

TILE_HASHES = 256
TILE_LEVELS = 8
_CONTENT_TYPE = "application/octet-stream"
#: Requests at once, to write or read tiles.
_WORKERS = 16
_KEPT_TILES = 512

#: Gives a tile's bytes by its path, or nothing where there is none.
TileSource = Callable[[str], bytes | None]


@dataclass(frozen=True, slots=True)
class Tile:
    """One tile: ``width`` hashes of subtrees of level ``8 * level``, from ``256 * index`` on."""

    level: int
    index: int
    width: int = TILE_HASHES

    @property
    def path(self) -> str:
        """Below the log's prefix, e.g. ``tile/0/x001/x234/067`` or ``tile/1/000.p/17``."""
        groups, rest = [f"{self.index % 1000:03}"], self.index // 1000
        while rest:
            groups.append(f"x{rest % 1000:03}")
            rest //= 1000
        partial = f".p/{self.width}" if self.width < TILE_HASHES else ""
        return f"tile/{self.level}/{'/'.join(reversed(groups))}{partial}"

    @property
    def whole(self) -> Tile:
        """The full tile it is, or will be the beginning of."""
        return Tile(self.level, self.index)


def tiles_of(size: int, since: int = 0) -> Iterator[Tile]:
    """The tiles of the tree of this size that the tree of ``since`` leaves has not; level by level, left to right."""
    level = 0
    while count := size >> (TILE_LEVELS * level):
        before = since >> (TILE_LEVELS * level)
        yield from (Tile(level, index) for index in range(before // TILE_HASHES, count // TILE_HASHES))
        if count % TILE_HASHES and count != before:
            yield Tile(level, count // TILE_HASHES, count % TILE_HASHES)
        level += 1


def read_tile(tile: Tile, source: TileSource) -> list[bytes]:
    """Its hashes; of a partial tile that was removed since, from the full one.

    Raises:
        TileWrong: it is missing or of another length.
    """
    data = source(tile.path)
    if data is None and tile.width < TILE_HASHES and (whole := source(tile.whole.path)) is not None:
        data = whole[: tile.width * HASH_BYTES]
    if data is None:
        raise TileWrong("the tile is missing", tile.path)
    if len(data) != tile.width * HASH_BYTES:
        raise TileWrong(
            "the tile is of another length",
            tile.path,
            expected=f"{tile.width * HASH_BYTES}",
            found=f"{len(data)} bytes",
        )
    return [data[at : at + HASH_BYTES] for at in range(0, len(data), HASH_BYTES)]


def tiles_in(store: ObjectStore) -> TileSource:
    """The tiles of the log that lies here."""

    def read(path: str) -> bytes | None:
        try:
            return store.get(path)
        except ObjectNotFound:
            return None

    return read


@dataclass
class TiledTree:
    """The tree of one size as its tiles have it, to make proofs from: `Nodes` of `treeproofs`.

    Nothing is compared here; a proof made of wrong tiles does not verify, and `tilecheck` says which ones are wrong.
    """

    source: TileSource
    size: int
    _kept: dict[Tile, list[bytes]] = field(default_factory=dict, repr=False)

    def __call__(self, level: int, index: int) -> bytes:
        """Raises TileWrong."""
        tile_level, above = divmod(level, TILE_LEVELS)
        first = index << above
        count = self.size >> (TILE_LEVELS * tile_level)
        if first + (1 << above) > count:
            raise ValueError(f"expected a subtree of the tree of {self.size}; found level {level}, index {index}")
        number, at = divmod(first, TILE_HASHES)
        hashes = self._tile(Tile(tile_level, number, min(TILE_HASHES, count - number * TILE_HASHES)))
        return root_of(hashes[at : at + (1 << above)])

    def _tile(self, tile: Tile) -> list[bytes]:
        if (found := self._kept.get(tile)) is None:
            if len(self._kept) >= _KEPT_TILES:
                self._kept.pop(next(iter(self._kept)))
            found = self._kept[tile] = read_tile(tile, self.source)
        return found


def edge(size: int, source: TileSource) -> list[list[bytes]]:
    """The hashes of the partial tiles, by level: all that is needed to go on from this size. Raises TileWrong."""
    found, level = [], 0
    while count := size >> (TILE_LEVELS * level):
        width = count % TILE_HASHES
        found.append(read_tile(Tile(level, count // TILE_HASHES, width), source) if width else [])
        level += 1
    return found


def range_of_edge(rows: Sequence[Sequence[bytes]], size: int) -> CompactRange:
    """The compact range of the whole tree, from its partial tiles' hashes by level."""
    hashes = [each for row in reversed(rows) for each in CompactRange().append(row).hashes]
    return CompactRange(0, size, tuple(hashes))


def append_tiles(store: ObjectStore, old_size: int, old_root: bytes, leaves: Iterable[Sequence[bytes]]) -> CompactRange:
    """Write the tiles of a tree that goes on from the old one; those of the old one that changed size stay beside.

    Args:
        store: where the log lies. Every object is put create-only.
        old_root: trusted: the partial tiles that are there must lead to it.
        leaves: leaf hashes in parts of any length; only one part is held at once.

    Returns:
        The compact range of the new tree, with its root.

    Raises:
        TileWrong: a tile of the old tree is missing or not of this root, or a tile with other hashes is there already.
    """
    rows = edge(old_size, tiles_in(store))
    if range_of_edge(rows, old_size).root != old_root:
        paths = [tile.path for tile in tiles_of(old_size) if tile.width < TILE_HASHES]
        raise TileWrong("these tiles do not lead to the root", ", ".join(paths), expected=f"{old_root.hex()}")
    with ThreadPoolExecutor(_WORKERS) as pool:
        size = old_size
        for part in leaves:
            tiles = list(_completed(rows, size, part))
            size += len(part)
            _put_all(store, tiles, pool)
        ends = [
            (Tile(level, (size >> (TILE_LEVELS * level)) // TILE_HASHES, len(row)), row)
            for level, row in enumerate(rows)
            if row
        ]
        _put_all(store, ends, pool)
    return range_of_edge(rows, size)


def copy_tiles(source: TileSource, store: ObjectStore, size: int, root: bytes) -> int:
    """Bring the tiles of the tree of this size to where some are missing: a site was away, a writer was killed.

    What is there already stays as it is, right or wrong.

    Args:
        source: a place that has them all, e.g. another site's `tiles_in`.
        root: trusted: what the tiles of the right edge must lead to, before anything is written.

    Returns:
        How many were written.

    Raises:
        TileWrong: the source lacks one, or its right edge is another tree's.
    """
    if range_of_edge(edge(size, source), size).root != root:
        raise TileWrong("these tiles do not lead to the root", f"the tree of {size}", expected=root.hex())
    there = {info.key for info in store.list("tile/")}
    missing = (tile for tile in tiles_of(size) if tile.path not in there)
    written = 0
    with ThreadPoolExecutor(_WORKERS) as pool:
        while some := list(islice(missing, TILE_HASHES)):
            _put_all(store, list(zip(some, pool.map(partial(read_tile, source=source), some), strict=True)), pool)
            written += len(some)
    return written


def _completed(rows: list[list[bytes]], size: int, part: Sequence[bytes]) -> Iterator[tuple[Tile, list[bytes]]]:
    """The tiles that these leaves fill; what remains stays in ``rows``, of `edge`."""
    row, level = list(part), 0
    while row:
        if level == len(rows):
            rows.append([])
        first = (size >> (TILE_LEVELS * level)) // TILE_HASHES
        hashes = rows[level] + row
        full = len(hashes) // TILE_HASHES
        for number in range(full):
            yield Tile(level, first + number), hashes[number * TILE_HASHES : (number + 1) * TILE_HASHES]
        rows[level] = hashes[full * TILE_HASHES :]
        row = hashes[: full * TILE_HASHES]
        for _ in range(TILE_LEVELS):
            row = parents(row)
        level += 1


def _put_all(store: ObjectStore, tiles: Sequence[tuple[Tile, Sequence[bytes]]], pool: ThreadPoolExecutor) -> None:
    def put(each: tuple[Tile, Sequence[bytes]]) -> None:
        path, data = each[0].path, b"".join(each[1])
        if create_or_read(store, path, data, content_type=_CONTENT_TYPE) != data:
            raise TileWrong("another tile is there already", path, expected="the hashes of this log", found="others")

    for _ in pool.map(put, tiles):
        pass
