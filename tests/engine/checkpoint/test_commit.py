"""Commit: blobs first, manifest last, lost answers understood, damage healed, fences kept."""

from __future__ import annotations

import pytest

from engine.checkpoint.worlds import Guard, OrderedFaults, manifest_of, write
from holdfast.engine.checkpoint import elect
from holdfast.engine.checkpoint.commit import WritesHeld, write_checkpoint
from holdfast.engine.checkpoint.errors import Fenced, StepTaken
from holdfast.engine.checkpoint.format import blob_key
from holdfast.engine.checkpoint.guard import Permission
from holdfast.engine.objectstore import memory_store
from holdfast.engine.objectstore.errors import StoreUnavailable
from holdfast.engine.objectstore.faults import Fault, FaultyStore, Kind, Script


def test_the_manifest_is_written_last() -> None:
    store = OrderedFaults(memory_store())
    manifest = write(store, 10)
    assert store.puts[-1] == manifest.key
    assert store.puts[:-1] == [blob_key("run", manifest.model_digest)]


def test_a_lost_answer_is_our_own_commit_when_we_ask_again() -> None:
    store = OrderedFaults(memory_store())
    manifest, blobs = manifest_of(10)
    write_checkpoint(store, manifest, blobs, guard=Guard())  # the blob is there
    manifest, blobs = manifest_of(20, model=blobs["model.bin"])
    store.lose_answers = 1
    with pytest.raises(StoreUnavailable):
        write_checkpoint(store, manifest, blobs, guard=Guard(), intact={manifest.model_digest})
    assert write_checkpoint(store, manifest, blobs, guard=Guard()) == manifest


def test_a_restarted_process_adopts_the_same_content_at_its_step() -> None:
    store = memory_store()
    first = write(store, 10, write_id="first")
    assert write(store, 10, write_id="second").digest == first.digest


def test_other_content_at_the_same_step_and_epoch_is_never_replaced() -> None:
    store = memory_store()
    first = write(store, 10)
    with pytest.raises(StepTaken):
        write(store, 10, model=b"another model")
    assert store.get(first.key) == first.data


@pytest.mark.parametrize("damaged", [b"", b"{", b"\xff" * 40, b"[]"])
def test_a_manifest_nobody_can_read_is_written_over(damaged: bytes) -> None:
    store = memory_store()
    first = write(store, 10)
    store.put(first.key, damaged)
    again = write(store, 10, write_id="again")
    assert store.get(first.key) == again.data
    assert elect(store, "run", epoch=1).digest == again.digest


def test_a_manifest_of_another_version_is_left_alone() -> None:
    store = memory_store()
    first = write(store, 10)
    newer = first.data.replace(b"holdfast.checkpoint/1", b"holdfast.checkpoint/9")
    store.put(first.key, newer)
    with pytest.raises(StepTaken, match="another version"):
        write(store, 10)
    assert store.get(first.key) == newer


def test_a_manifest_that_reads_differently_each_time_is_not_written_over() -> None:
    good = memory_store()
    first = write(good, 10)
    flaky = FaultyStore(good, Script([Fault(Kind.TRUNCATE, "get", first.key)]))
    with pytest.raises(StoreUnavailable):
        write(flaky, 10, model=b"another model")
    assert good.get(first.key) == first.data


def test_the_same_step_in_a_new_epoch_is_another_key() -> None:
    store = memory_store()
    assert write(store, 10, epoch=1).key != write(store, 10, epoch=2, model=b"another model").key


def test_a_damaged_blob_is_healed_when_its_bytes_are_written_again() -> None:
    store = memory_store()
    manifest = write(store, 10)
    key = blob_key("run", manifest.model_digest)
    good = store.get(key)
    store.put(key, b"x" * len(good))
    write(store, 10)
    assert store.get(key) == good


def test_a_fenced_epoch_writes_no_manifest() -> None:
    store = memory_store()
    manifest, blobs = manifest_of(10)
    with pytest.raises(Fenced) as fenced:
        write_checkpoint(store, manifest, blobs, guard=Guard(Permission.FENCED))
    assert fenced.value.exit_code == 76
    assert not any("checkpoints" in info.key for info in store.list())


def test_the_guard_is_asked_after_the_blobs_and_before_the_manifest() -> None:
    store, guard = OrderedFaults(memory_store()), Guard()
    store.before_put = lambda key: setattr(guard, "value", Permission.FENCED if "/blobs/" in key else guard.value)
    manifest, blobs = manifest_of(10)
    with pytest.raises(Fenced):
        write_checkpoint(store, manifest, blobs, guard=guard)
    assert store.puts == [blob_key("run", manifest.model_digest)]


def test_not_knowing_is_not_a_fence_and_not_a_permission() -> None:
    manifest, blobs = manifest_of(10)
    with pytest.raises(WritesHeld):
        write_checkpoint(memory_store(), manifest, blobs, guard=Guard(Permission.HELD))
