"""A set of tiles against a checkpoint: whether they are its tree, and which of them is wrong.

What is trusted is the root alone. It shows which partial tiles are right: as they are stored, or as the tiles below
them say. From there down, every hash says what the tile below it must be.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import product

from holdfast.engine.audit.tlog.errors import TileWrong
from holdfast.engine.audit.tlog.merkle import EMPTY_ROOT, root_of
from holdfast.engine.audit.tlog.tiles import TILE_HASHES, TILE_LEVELS, Tile, TileSource, range_of_edge, read_tile

#: Hashes of subtrees that are next to each other; ``None``: not known.
_Row = list[bytes | None]
_Wrong = dict[str, TileWrong]


@dataclass
class _Level:
    """One level of tiles.

    Args:
        number: 0 has the leaves.
        count: how many hashes it has.
        below: what the tiles one level down say it should be; nobody says it of level 0.
        stored: what the tiles hold, by index. Of level 0 only the partial tile's is kept.
        roots: of the full tiles, as they are stored.
    """

    number: int
    count: int
    below: _Row
    stored: dict[int, list[bytes]] = field(default_factory=dict)
    roots: _Row = field(default_factory=list)

    def tiles(self) -> Iterator[Tile]:
        for at in range(0, self.count, TILE_HASHES):
            yield Tile(self.number, at // TILE_HASHES, min(TILE_HASHES, self.count - at))

    @property
    def partial(self) -> Tile | None:
        """The last tile, where it is partial."""
        full, width = divmod(self.count, TILE_HASHES)
        return Tile(self.number, full, width) if width else None

    def rows(self, tile: Tile) -> tuple[_Row, _Row]:
        """What it holds, and what the tiles below say."""
        unknown: _Row = [None] * tile.width
        at = tile.index * TILE_HASHES
        below = self.below[at : at + tile.width] if self.number else unknown
        return list(self.stored.get(tile.index, unknown)), below


def check_tiles(source: TileSource, size: int, root: bytes) -> list[TileWrong]:
    """What is wrong with the tiles of the tree of this size and root; nothing, if they are it.

    Every tile is read once, and about 1/256 of the hashes are held. Where a tile and one below it are both wrong, the
    lower one may show only when the upper one is mended.
    """
    if size == 0:
        return [] if root == EMPTY_ROOT else [TileWrong("the root is not the empty tree's", "checkpoint")]
    wrong: _Wrong = {}
    levels = _read(source, size, wrong)
    edge = _edge(levels, size, root, wrong)
    above: _Row = []
    for level, right in zip(reversed(levels), reversed(edge), strict=True):
        above = _descended(level, above, right, wrong)
    return list(wrong.values())


def _read(source: TileSource, size: int, wrong: _Wrong) -> list[_Level]:
    levels: list[_Level] = []
    below: _Row = []
    while count := size >> (TILE_LEVELS * len(levels)):
        level = _Level(len(levels), count, below)
        for tile in level.tiles():
            try:
                hashes = read_tile(tile, source)
            except TileWrong as fault:
                wrong[tile.path] = fault
                hashes = []
            if hashes and (level.number or tile.width < TILE_HASHES):
                level.stored[tile.index] = hashes
            if tile.width == TILE_HASHES:
                level.roots.append(root_of(hashes) if hashes else None)
        levels.append(level)
        below = level.roots
    return levels


def _edge(levels: Sequence[_Level], size: int, root: bytes, wrong: _Wrong) -> list[list[bytes] | None]:
    """By level, what its partial tile must hold: of what is stored and what is below, that which leads to the root."""
    choices: list[list[list[bytes]]] = []
    for level in levels:
        found: list[list[bytes]] = []
        for row in map(_known, level.rows(level.partial) if level.partial else ([],)):
            if row is not None and row not in found:
                found.append(row)
        choices.append(found)
    for chosen in product(*choices):
        if range_of_edge(chosen, size).root == root:
            return list(chosen)
    partial = [(level.partial, found) for level, found in zip(levels, choices, strict=True) if level.partial]
    contradicted = [tile for tile, found in partial if len(found) != 1]
    for tile in contradicted or [partial[0][0]]:
        fault = TileWrong(
            "the tile does not lead to the root: it was changed, or the checkpoint is of another tree",
            tile.path,
            expected=f"the tree of {size} and root {root.hex()}",
        )
        wrong.setdefault(tile.path, fault)
    return [None] * len(levels)


def _known(row: _Row) -> list[bytes] | None:
    known = [each for each in row if each is not None]
    return known if len(known) == len(row) else None


def _descended(level: _Level, above: _Row, edge: list[bytes] | None, wrong: _Wrong) -> _Row:
    """What this level must hold, as far as it is known from what the level above must hold; of level 0 nothing."""
    want: _Row = []
    for tile in level.tiles():
        is_right, row = _judged(level, tile, above, edge)
        if not is_right:
            fault = TileWrong("the tile is not of the checkpoint's tree", tile.path, expected="what is above it")
            wrong.setdefault(tile.path, fault)
        if level.number:
            want += row
    return want


def _judged(level: _Level, tile: Tile, above: _Row, edge: list[bytes] | None) -> tuple[bool, _Row]:
    """Whether the tile is right as far as it can be told, and what it must hold."""
    stored, below = level.rows(tile)
    agreed = [one if one == other else None for one, other in zip(stored, below, strict=True)]
    if tile.width < TILE_HASHES:
        return (True, agreed) if edge is None else (stored == edge, list(edge))
    parent = above[tile.index]
    if parent is None:
        return True, agreed
    if level.roots[tile.index] == parent:
        return True, stored
    known = _known(below)
    return False, below if known is not None and root_of(known) == parent else agreed
