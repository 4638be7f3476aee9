"""Tiles as specified: their paths, appends in any steps, proofs from them alone, and which of them is wrong."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from hashlib import sha256

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.engine.audit.tlog.errors import TileWrong
from holdfast.engine.audit.tlog.merkle import EMPTY_ROOT, Subtrees, root_of
from holdfast.engine.audit.tlog.tilecheck import check_tiles
from holdfast.engine.audit.tlog.tiles import Tile, TiledTree, append_tiles, copy_tiles, read_tile, tiles_in, tiles_of
from holdfast.engine.audit.tlog.treeproofs import (
    consistency_proof,
    inclusion_proof,
    range_proof,
    verify_consistency,
    verify_inclusion,
    verify_range,
)
from holdfast.engine.objectstore import ObjectStore, memory_store

#: Three levels of tiles: 65,536 leaves fill one of level 1.
COUNT = 66_000
LEAVES = [sha256(number.to_bytes(4)).digest() for number in range(COUNT)]


@cache
def root(size: int) -> bytes:
    return root_of(LEAVES[:size])


def parts(begin: int, end: int, length: int) -> Iterator[list[bytes]]:
    for at in range(begin, end, length):
        yield LEAVES[at : min(at + length, end)]


@cache
def all_tiles(size: int) -> dict[str, bytes]:
    store = memory_store()
    assert append_tiles(store, 0, EMPTY_ROOT, parts(0, size, 7_000)).root == root(size)
    return {info.key: store.get(info.key) for info in store.list()}


def keys(store: ObjectStore) -> set[str]:
    return {info.key for info in store.list()}


# -- layout ----------------------------------------------------------------------------------------------------------


def test_paths_are_as_specified() -> None:
    assert Tile(0, 1234067).path == "tile/0/x001/x234/067"
    assert Tile(1, 0, 17).path == "tile/1/000.p/17"
    assert Tile(2, 1000, 255).path == "tile/2/x001/000.p/255"


def test_a_tree_of_70000_has_the_tiles_of_the_specification_s_example() -> None:
    tiles = list(tiles_of(70_000))
    assert [tile.path for tile in tiles if tile.width < 256] == [
        "tile/0/273.p/112",
        "tile/1/001.p/17",
        "tile/2/000.p/1",
    ]
    assert [sum(tile.level == level and tile.width == 256 for tile in tiles) for level in (0, 1, 2)] == [273, 1, 0]
    assert [tile.path for tile in tiles_of(256)] == ["tile/0/000", "tile/1/000.p/1"]
    assert list(tiles_of(0)) == []


@given(st.integers(0, 70_000), st.integers(0, 70_000))
def test_what_a_larger_tree_has_more_is_told_without_looking_at_the_rest(one: int, other: int) -> None:
    old, new = sorted((one, other))
    assert set(tiles_of(new, since=old)) == set(tiles_of(new)) - set(tiles_of(old))


def test_what_is_written_is_every_tile_of_the_size_and_each_hash_is_of_its_subtree() -> None:
    found = all_tiles(COUNT)
    assert set(found) == {tile.path for tile in tiles_of(COUNT)}
    for tile in (Tile(0, 5), Tile(1, 0), Tile(1, 1, 1), Tile(2, 0, 1)):
        for at, each in enumerate(read_tile(tile, found.get)):
            step = 256**tile.level
            first = (tile.index * 256 + at) * step
            assert each == root_of(LEAVES[first : first + step])


@settings(max_examples=25)
@given(st.lists(st.integers(0, 1500), min_size=1, max_size=6), st.integers(1, 700))
def test_a_log_that_grew_in_steps_has_the_tiles_of_each_step_and_those_of_one_that_did_not(
    steps: list[int], length: int
) -> None:
    store, size, expected = memory_store(), 0, set[str]()
    for step in steps:
        tree = append_tiles(store, size, root(size), parts(size, size + step, length))
        size += step
        assert (tree.end, tree.root) == (size, root(size))
        expected |= {tile.path for tile in tiles_of(size)}
        assert check_tiles(tiles_in(store), size, root(size)) == []
    assert keys(store) == expected
    once = all_tiles(size)
    assert {path: store.get(path) for path in once} == once


def test_what_a_try_before_left_behind_is_found_to_be_the_same_and_another_history_is_refused() -> None:
    store = memory_store()
    append_tiles(store, 0, EMPTY_ROOT, [LEAVES[:300]])
    append_tiles(store, 300, root(300), [LEAVES[300:900]])
    again = append_tiles(store, 300, root(300), parts(300, 900, 50))
    assert again.root == root(900)
    with pytest.raises(TileWrong, match="another tile is there already") as raised:
        append_tiles(store, 300, root(300), [LEAVES[301:901]])
    assert raised.value.path == "tile/0/001"


def test_an_old_tree_that_is_not_the_trusted_one_is_not_appended_to() -> None:
    store = memory_store()
    append_tiles(store, 0, EMPTY_ROOT, [LEAVES[:300]])
    with pytest.raises(TileWrong, match=r"do not lead to the root.*"):
        append_tiles(store, 300, root(299), [LEAVES[300:400]])
    data = store.get("tile/0/001.p/44")
    store.put("tile/0/001.p/44", data[1:] + b"\0")
    with pytest.raises(TileWrong, match=r"tile/0/001\.p/44"):
        append_tiles(store, 300, root(300), [LEAVES[300:400]])
    store.delete("tile/0/001.p/44")
    with pytest.raises(TileWrong, match="missing"):
        append_tiles(store, 300, root(300), [LEAVES[300:400]])


def test_a_partial_tile_that_was_removed_is_read_from_the_full_one() -> None:
    tiles = dict(all_tiles(512))
    assert read_tile(Tile(0, 1, 44), tiles.get) == LEAVES[256:300]


def test_tiles_that_are_missing_at_a_site_are_brought_from_another_and_the_log_goes_on() -> None:
    here, there = memory_store(), memory_store()
    append_tiles(here, 0, EMPTY_ROOT, [LEAVES[:300]])
    append_tiles(there, 0, EMPTY_ROOT, [LEAVES[:300]])
    append_tiles(here, 300, root(300), [LEAVES[300:900]])
    with pytest.raises(TileWrong, match="missing"):
        append_tiles(there, 900, root(900), [LEAVES[900:1000]])
    assert copy_tiles(tiles_in(here), there, 900, root(900)) == 4
    assert copy_tiles(tiles_in(here), there, 900, root(900)) == 0
    assert append_tiles(there, 900, root(900), [LEAVES[900:1000]]).root == root(1000)
    assert check_tiles(tiles_in(there), 1000, root(1000)) == []


def test_tiles_of_another_tree_are_not_brought() -> None:
    here, there = memory_store(), memory_store()
    append_tiles(here, 0, EMPTY_ROOT, [LEAVES[:300]])
    with pytest.raises(TileWrong, match="do not lead"):
        copy_tiles(tiles_in(here), there, 300, root(299))
    here.delete("tile/0/000")
    with pytest.raises(TileWrong, match="missing") as raised:
        copy_tiles(tiles_in(here), there, 300, root(300))
    assert raised.value.path == "tile/0/000"
    assert keys(there) == set()


# -- proofs ----------------------------------------------------------------------------------------------------------


@settings(max_examples=40)
@given(st.data())
def test_every_proof_is_made_from_tiles_alone(data: st.DataObject) -> None:
    size = data.draw(st.sampled_from([1, 255, 256, 257, 700, 65_535, 65_536, 65_537, COUNT]))
    tree = TiledTree(all_tiles(COUNT if size == COUNT else size).get, size)
    index = data.draw(st.integers(0, size - 1))
    verify_inclusion(LEAVES[index], index, size, inclusion_proof(index, size, tree), root(size))
    old = data.draw(st.integers(0, size))
    verify_consistency(old, size, root(old), root(size), consistency_proof(old, size, tree))
    end = data.draw(st.integers(index, min(index + 600, size)))
    proof = range_proof(index, end, size, tree)
    assert verify_range(index, end, size, LEAVES[index:end], proof) == root(size)


def test_a_proof_reads_two_tiles_a_level_at_most() -> None:
    read: list[str] = []
    tiles = all_tiles(COUNT)

    def source(path: str) -> bytes | None:
        read.append(path)
        return tiles.get(path)

    proof = inclusion_proof(12_345, COUNT, TiledTree(source, COUNT))
    assert proof == inclusion_proof(12_345, COUNT, Subtrees(LEAVES))
    assert len(read) == len(set(read)) <= 6


# -- wrong tiles -----------------------------------------------------------------------------------------------------

SIZES = [1, 255, 256, 257, 511, 512, 700, 65_536, COUNT]


@settings(max_examples=60)
@given(st.data())
def test_any_one_wrong_tile_is_named(data: st.DataObject) -> None:
    size = data.draw(st.sampled_from(SIZES))
    tiles = dict(all_tiles(size))
    # Every level alike, of which the lowest has nearly all of them.
    level = data.draw(st.sampled_from(sorted({path.split("/")[1] for path in tiles})))
    path = data.draw(st.sampled_from(sorted(path for path in tiles if path.split("/")[1] == level)))
    harm = data.draw(st.sampled_from(["flip", "cut", "remove", "reorder", "zero"]))
    held = tiles[path]
    at = data.draw(st.integers(0, 2**20)) % len(held)
    if harm == "flip":
        tiles[path] = held[:at] + bytes([held[at] ^ 1]) + held[at + 1 :]
    elif harm == "cut":
        tiles[path] = held[:at]
    elif harm == "remove":
        del tiles[path]
    elif harm == "reorder":
        tiles[path] = held[32:] + held[:32]
    else:
        tiles[path] = bytes(len(held))
    found = check_tiles(tiles.get, size, root(size))
    assert [fault.path for fault in found] == ([path] if tiles.get(path) != held else [])
    wanted = {"remove": "missing", "cut": "another length"}.get(harm, "")
    assert all(wanted in fault.what for fault in found)


def test_two_tiles_that_were_swapped_are_both_named() -> None:
    tiles = dict(all_tiles(COUNT))
    tiles["tile/0/003"], tiles["tile/0/200"] = tiles["tile/0/200"], tiles["tile/0/003"]
    assert [fault.path for fault in check_tiles(tiles.get, COUNT, root(COUNT))] == ["tile/0/003", "tile/0/200"]


def test_a_leaf_changed_with_every_tile_above_it_is_named_at_the_edge() -> None:
    """Whoever changes an entry and mends the tiles above it cannot mend the root."""
    forged = [*LEAVES[:300], bytes(32), *LEAVES[301:700]]
    store = memory_store()
    append_tiles(store, 0, EMPTY_ROOT, [forged])
    assert check_tiles(tiles_in(store), 700, root_of(forged)) == []
    found = check_tiles(tiles_in(store), 700, root(700))
    assert len(found) == 1
    assert "another tree" in str(found[0])


def test_a_tree_of_another_size_is_not_taken_for_this_one() -> None:
    tiles = all_tiles(700)
    assert check_tiles(tiles.get, 701, root(701))
    assert check_tiles(tiles.get, 700, root(699))
    assert check_tiles(tiles.get, 0, root(700))
    assert check_tiles({}.get, 0, EMPTY_ROOT) == []
