"""A restore reads each byte once: what the election verified is what is used, as far as memory allows."""

from __future__ import annotations

from collections import Counter
from functools import partial
from typing import Any

import pytest

from engine.checkpoint.worlds import write
from holdfast.engine.checkpoint import Checkpointer, CheckpointUnreadable, TrainingState, elect, load_state
from holdfast.engine.checkpoint.format import BlobRef, blob_key, digest_of
from holdfast.engine.checkpoint.restore import spare_memory_bytes, take
from holdfast.engine.checkpoint.verify import KeptBlobs, damage
from holdfast.engine.objectstore import OVERWRITE, ObjectReader, ObjectStore, memory_store
from holdfast.engine.objectstore._decorator import StoreDecorator

BLOBS = {"large.bin": b"large" * 1000, "small.bin": b"small", "empty.bin": b""}


class CountedReads(StoreDecorator):
    def __init__(self, inner: ObjectStore) -> None:
        super().__init__(inner)
        self.reads: Counter[str] = Counter()

    def get(self, key: str, **how: Any) -> bytes:
        self.reads[key] += 1
        return super().get(key, **how)

    def open(self, key: str, **how: Any) -> ObjectReader:
        self.reads[key] += 1
        return super().open(key, **how)

    def of_blobs(self) -> set[int]:
        return {count for key, count in self.reads.items() if "/blobs/" in key}


class Holder:
    """A trainer that takes what it is given."""

    def __init__(self, blobs: dict[str, bytes]) -> None:
        self.blobs = blobs

    def state(self) -> TrainingState:
        return TrainingState(self.blobs)

    def load_state(self, state: TrainingState) -> None:
        self.blobs = dict(state.blobs)


def saved(compression: str = "none") -> CountedReads:
    store = CountedReads(memory_store("a"))
    with Checkpointer(store, "run", epoch=1, site="a", every_steps=1, fingerprint={}, compression=compression) as it:
        it.step(1, TrainingState(BLOBS))
        it.finish(TrainingState(BLOBS))
    store.reads.clear()
    return store


@pytest.mark.parametrize("compression", ["none", "zstd"])
@pytest.mark.parametrize(("memory_bytes", "reads"), [(None, {1}), (5005, {1}), (5004, {1, 2}), (0, {1, 2})])
def test_every_byte_is_read_once_within_the_memory_allowed(
    memory_bytes: int | None, reads: set[int], compression: str
) -> None:
    store, holder = saved(compression), Holder({})
    again = Checkpointer(store, "run", epoch=1, site="a", every_steps=1, fingerprint={}, memory_bytes=memory_bytes)
    assert again.resume(holder) is not None
    assert holder.blobs == BLOBS
    assert store.of_blobs() == reads


def test_a_blob_used_twice_is_read_and_verified_again() -> None:
    store = saved()
    kept = KeptBlobs(10_000)
    found = elect(store, "run", epoch=1, damage_of=partial(damage, kept=kept)).manifest
    assert found is not None
    blobs = load_state(store, found, kept=kept).blobs
    assert blobs["small.bin"] == b"small"
    store.put(blob_key("run", found.blobs["small.bin"].digest), b"other", mode=OVERWRITE)
    with pytest.raises(CheckpointUnreadable, match="changed after it was verified"):
        blobs["small.bin"]


def test_nothing_of_a_checkpoint_that_is_passed_over_is_used_or_kept() -> None:
    store = memory_store("a")
    first = write(store, 1, model=b"first")
    second = write(store, 2, parent=first, model=b"second")
    victim = sorted(second.blobs)[-1]
    store.put(blob_key("run", second.blobs[victim].digest), b"damage", mode=OVERWRITE)
    kept = KeptBlobs(1_000)
    elected = elect(store, "run", epoch=1, damage_of=partial(damage, kept=kept)).manifest
    assert elected is not None
    assert elected.step == 1
    assert all(kept.take(blob) is None for name, blob in second.blobs.items() if blob not in first.blobs.values())
    assert b"first" in [bytes(kept.take(blob) or b"") for blob in first.blobs.values()]


def test_what_is_taken_may_be_changed_and_the_store_is_not() -> None:
    store = saved()
    found = elect(store, "run", epoch=1).manifest
    assert found is not None
    blobs = load_state(store, found).blobs
    mine = take(blobs, "small.bin")
    mine[:1] = b"X"
    assert (bytes(mine), blobs["small.bin"]) == (b"Xmall", b"small")
    plain = {"small.bin": b"small"}
    take(plain, "small.bin")[:1] = b"X"
    assert plain == {"small.bin": b"small"}


def test_two_blobs_of_one_content_are_kept_once_and_counted_once() -> None:
    kept, reference = KeptBlobs(10), BlobRef(digest=digest_of(b"123456"), size_bytes=6)
    for _ in range(2):
        kept.keep(reference, memoryview(bytearray(b"123456")))
    assert kept.take(reference) == b"123456"
    assert kept.take(reference) is None
    assert kept.space(BlobRef(digest=digest_of(b""), size_bytes=10)) is not None, "nothing of the limit is lost"


def test_the_memory_that_is_free_is_known_here() -> None:
    assert spare_memory_bytes() > 0
