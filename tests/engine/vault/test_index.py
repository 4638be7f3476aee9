"""Where chunks lie: one at a time, and many at once, are the same answer."""

from __future__ import annotations

import os
import random

from holdfast.engine.vault.index import ChunkIndex, IndexedPack, part_of
from holdfast.engine.vault.pack import Codec, PackClass, PackInfo, StoredChunk


def pack_of(*names: bytes) -> IndexedPack:
    chunks = [StoredChunk(name, 100 * at, 90, 80, Codec.RAW, at) for at, name in enumerate(names)]
    return IndexedPack(PackInfo(os.urandom(16), PackClass.DATA, "daily", 100 * len(names), None), chunks)


def test_many_chunks_are_found_as_each_is() -> None:
    rng = random.Random(5)
    names = [rng.randbytes(32) for _ in range(3_000)]
    index = ChunkIndex([part_of([pack_of(*names[:1_000]), pack_of(*names[1_000:2_000])])])
    asked = rng.sample(names, 2_000)
    assert index.find_many(asked) == [index.find(name) for name in asked]
    assert index.packs_of(asked) == [-1 if (found := index.find(name)) is None else found.pack for name in asked]
    assert None in index.find_many(asked)


def test_chunks_whose_names_begin_alike_are_told_apart() -> None:
    names = [b"beginning" + bytes([number]) * 23 for number in range(9)]
    index = ChunkIndex([part_of([pack_of(*names[:5]), pack_of(*names[5:8])])])
    assert index.packs_of(names) == [0] * 5 + [1] * 3 + [-1]
    assert [found.position for found in index.find_many(names[:8]) if found] == [0, 1, 2, 3, 4, 0, 1, 2]


def test_an_empty_index_has_nothing() -> None:
    index = ChunkIndex([])
    assert index.find_many([b"n" * 32]) == [None]
    assert index.packs_of([]) == []
