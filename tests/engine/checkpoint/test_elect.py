"""Election: the newest of the newest epoch's lineage that is really there, and nothing of a stale writer."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.checkpoint.worlds import OrderedFaults, manifest_of, write
from holdfast.clock import FakeClock
from holdfast.engine.checkpoint import (
    Checkpointer,
    CheckpointUnreadable,
    Election,
    FormatUnknown,
    NothingSelectable,
    begin_run,
    elect,
    fork_run,
    replicate_checkpoint,
    work_at_risk,
)
from holdfast.engine.checkpoint.commit import write_checkpoint
from holdfast.engine.checkpoint.format import (
    BlobRef,
    CheckpointManifest,
    blob_key,
    digest_of,
    manifest_key,
    parse_manifest,
)
from holdfast.engine.checkpoint.guard import AlwaysGranted
from holdfast.engine.checkpoint.verify import KeptBlobs, damage
from holdfast.engine.objectstore import ObjectStore, memory_store
from holdfast.engine.snapshot.errors import EpochUnknownHere, ForkConflict
from holdfast.engine.snapshot.lineage import EpochFork


def raw_tensors(header: bytes, data: bytes) -> bytes:
    return len(header).to_bytes(8, "little") + header + data


def fork(store: ObjectStore, epoch: int, *, plan_id: str = "plan", parent_epoch: int | None = None) -> None:
    election = elect(store, "run", epoch=epoch - 1) if parent_epoch is None else elect(store, "run", epoch=parent_epoch)
    fork_run(
        store,
        "run",
        epoch=epoch,
        parent_epoch=epoch - 1,
        election=election,
        site="site-b",
        plan_id=plan_id,
        holder="test",
        reason="test",
        clock=FakeClock(),
    )


def chain(
    store: ObjectStore, *steps: int, epoch: int = 1, parent: CheckpointManifest | None = None, tag: str = ""
) -> CheckpointManifest:
    for step in steps:
        parent = write(store, step, epoch=epoch, parent=parent, model=f"{tag}{step}".encode())
    assert parent is not None
    return parent


def test_a_run_without_checkpoints_starts_from_the_start() -> None:
    election = elect(memory_store(), "run", epoch=1)
    assert (election.manifest, election.step, election.resume) == (None, 0, "from the start")


def test_the_newest_step_is_elected() -> None:
    store = memory_store()
    last = chain(store, 10, 20, 100)
    assert elect(store, "run", epoch=1).digest == last.digest


def test_a_stale_epochs_later_checkpoint_is_never_elected() -> None:
    store = memory_store()
    at_fork = chain(store, 10, 20)
    fork(store, 2)
    zombie = chain(store, 30, 40, 50, parent=at_fork)
    election = elect(store, "run", epoch=2)
    assert election.digest == at_fork.digest
    assert (zombie.key, "not in the lineage of epoch 2") in {(one.key, one.reason) for one in election.passed_over}


@pytest.mark.parametrize("data", [b"", b"damaged"])
def test_the_ancestors_of_a_fork_are_known_though_its_own_manifest_is_damaged(data: bytes) -> None:
    """Else the run would begin from the start beside checkpoints that are whole."""
    store = memory_store()
    before = chain(store, 10, 20)
    at_fork = chain(store, 30, parent=before)
    fork(store, 2)
    chain(store, 40, parent=at_fork, tag="stale")
    store.put(at_fork.key, data)
    assert elect(store, "run", epoch=2).digest == before.digest


def test_an_epoch_that_goes_on_from_a_checkpoint_is_never_begun_anew_in_silence() -> None:
    store, elsewhere = memory_store("b"), memory_store("a")
    kept = [write(elsewhere, 10)]
    kept.append(write(elsewhere, 20, parent=kept[0]))
    for one in kept:
        replicate_checkpoint(elsewhere, store, "run", one)
    fork(store, 2)
    for one in kept:
        store.delete(one.key)
    with pytest.raises(NothingSelectable, match="nothing of it can be resumed") as refused:
        elect(store, "run", epoch=2)
    assert kept[1].digest in str(refused.value)
    with pytest.raises(NothingSelectable):
        Checkpointer(store, "run", epoch=2, site="b", every_steps=1).resume()
    replicate_checkpoint(elsewhere, store, "run", kept[0])
    assert elect(store, "run", epoch=2).step == 10


def test_a_site_that_is_promoted_without_the_checkpoint_goes_on_from_it_once_it_is_there() -> None:
    store, elsewhere = memory_store("b"), memory_store("a")
    last = chain(elsewhere, 10, 20)
    replicate_checkpoint(elsewhere, store, "run", last)
    fork(store, 2)
    store.delete(last.key)
    nothing = elect(store, "run", epoch=2, or_nothing=True)
    assert (nothing.manifest, nothing.resume) == (None, "from the start")
    begun = fork_run(
        store,
        "run",
        epoch=3,
        parent_epoch=2,
        election=nothing,
        site="site-c",
        plan_id="plan-3",
        holder="test",
        reason="test",
        clock=FakeClock(),
    )
    assert (begun.forked_from, begun.ancestors) == (last.digest, last.ancestors)
    with pytest.raises(NothingSelectable):
        elect(store, "run", epoch=3)
    replicate_checkpoint(elsewhere, store, "run", last)
    assert elect(store, "run", epoch=3).step == 20


@pytest.mark.parametrize("older", ["also of a later format", "damaged"])
def test_nobody_begins_anew_beside_checkpoints_of_a_later_format(older: str) -> None:
    store = memory_store()
    first = chain(store, 10)
    second = chain(store, 20, parent=first)
    for one in (first, second) if older != "damaged" else (second,):
        store.put(one.key, one.data.replace(b"checkpoint/1", b"checkpoint/3"))
    if older == "damaged":
        store.delete(blob_key("run", first.model_digest))
    with pytest.raises(FormatUnknown, match=r"checkpoint/3"):
        elect(store, "run", epoch=1)
    store.put(first.key, first.data)
    chain(store, 10)  # its blob
    assert elect(store, "run", epoch=1).step == 10


def test_the_golden_fork_record_is_what_a_failover_writes_and_reads() -> None:
    store = memory_store()
    chain(store, 10, 20, 30)
    fork_run(
        store,
        "run",
        epoch=2,
        parent_epoch=1,
        election=elect(store, "run", epoch=1),
        site="site-b",
        plan_id="plan-1",
        holder="host/1/abc",
        reason="site-a is down",
        clock=FakeClock(),
    )
    golden = (Path(__file__).parents[2] / "golden" / "checkpoint" / "fork.json").read_bytes()
    written = json.loads(store.get("runs/run/epochs/000002.json"))
    assert {**written, "write_id": "w-2"} == json.loads(golden)
    found = EpochFork.model_validate_json(golden)
    assert found.to_json() == golden
    assert len(found.ancestors) == 2


def test_an_epoch_this_bucket_does_not_know_elects_nothing() -> None:
    store = memory_store()
    chain(store, 10, 20)
    with pytest.raises(EpochUnknownHere):
        elect(store, "run", epoch=2)


def test_corrupt_missing_and_truncated_blobs_are_passed_over_with_the_reason() -> None:
    store = memory_store()
    good = chain(store, 10)
    corrupt, missing, short = (write(store, step, parent=good, model=f"{step}".encode() * 9) for step in (20, 30, 40))
    store.put(blob_key("run", corrupt.model_digest), b"?" * 18)
    store.delete(blob_key("run", missing.model_digest))
    store.put(blob_key("run", short.model_digest), b"?")
    election = elect(store, "run", epoch=1)
    assert election.digest == good.digest
    assert [one.key for one in election.passed_over] == [m.key for m in (short, missing, corrupt)]
    for one, reason in zip(election.passed_over, ("bytes instead of", "is missing", "another digest"), strict=True):
        assert reason in one.reason


def test_a_manifest_with_a_number_none_can_hold_is_passed_over() -> None:
    store = memory_store()
    good = chain(store, 10)
    bad = write(store, 20, parent=good, state={"position": 2})
    store.put(bad.key, bad.data.replace(b'"position":2', b'"position":NaN'))
    election = elect(store, "run", epoch=1)
    assert (election.step, [one.key for one in election.passed_over]) == (10, [bad.key])


OVERLAPPING = {
    "a": {"dtype": "U8", "shape": [8], "data_offsets": [0, 8]},
    "b": {"dtype": "U8", "shape": [8], "data_offsets": [4, 12]},
}


@pytest.mark.parametrize("kept", [None, 0, 10**6])
@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        ("model-000.safetensors", pickle.dumps({"a": 1}), "a pickle"),
        ("model-000.safetensors", b"", "0 bytes"),
        ("model-000.safetensors", raw_tensors(json.dumps(OVERLAPPING).encode(), bytes(12)), "overlap"),
        ("model-000.safetensors", (1 << 40).to_bytes(8, "little") + b"{}", "a header of"),
        ("sharded.json", b"{}", "layout of the shards"),
    ],
)
def test_what_no_restore_would_read_is_passed_over_though_its_digest_is_right(
    kept: int | None, name: str, data: bytes, reason: str
) -> None:
    store = memory_store()
    good = chain(store, 10)
    blobs = {name: data, "model.bin": b"20"}
    references = {one: BlobRef(digest=digest_of(blob), size_bytes=len(blob)) for one, blob in blobs.items()}
    manifest, _ = manifest_of(20, parent=good, model=b"20", blobs=references)
    write_checkpoint(store, manifest, blobs, guard=AlwaysGranted())
    reading = partial(damage, kept=None if kept is None else KeptBlobs(kept))
    election = elect(store, "run", epoch=1, damage_of=reading)
    assert election.step == 10
    assert reason in election.passed_over[0].reason


def test_tensors_that_are_sound_are_elected_in_pieces_of_any_size() -> None:
    class Crumbs(OrderedFaults):
        def open(self, key: str, **settings: Any) -> Any:
            return (bytes((one,)) for one in self.inner.get(key))

    store = memory_store()
    header = json.dumps({"a": {"dtype": "U8", "shape": [8], "data_offsets": [0, 8]}}).encode()
    data = raw_tensors(header, bytes(8))
    references = {"model.bin": BlobRef(digest=digest_of(b"m"), size_bytes=1)}
    references["model-000.safetensors"] = BlobRef(digest=digest_of(data), size_bytes=len(data))
    manifest, _ = manifest_of(20, model=b"m", blobs=references)
    write_checkpoint(store, manifest, {"model.bin": b"m", "model-000.safetensors": data}, guard=AlwaysGranted())
    assert elect(store, "run", epoch=1).step == elect(Crumbs(store), "run", epoch=1).step == 20


def test_a_damaged_manifest_is_passed_over_and_its_ancestors_are_still_found() -> None:
    store = memory_store()
    chain(store, 10, 20, 30)
    fork(store, 2)
    store.put(manifest_key("run", 20, 1), b"damage")
    last = elect(store, "run", epoch=1).manifest
    assert last is not None
    store.delete(blob_key("run", last.model_digest))
    assert elect(store, "run", epoch=2).step == 10


def test_a_replica_that_skipped_checkpoints_still_has_its_lineage() -> None:
    source, target = memory_store("a"), memory_store("b")
    parent, kept = None, []
    for step in range(10, 110, 10):
        parent = write(source, step, parent=parent)
        kept.append(parent)
    for manifest in (kept[1], kept[5], kept[9]):
        replicate_checkpoint(source, target, "run", manifest, site="site-b")
    fork(target, 2)
    target.delete(blob_key("run", kept[9].model_digest))
    election = elect(target, "run", epoch=2)
    assert election.step == kept[5].step


def test_equal_fingerprints_alone_make_a_resume_bitwise() -> None:
    store = memory_store()
    write(store, 10, fingerprint={"machine": "x", "torch": "1"})
    assert elect(store, "run", epoch=1).resume == "numerically equivalent"
    assert elect(store, "run", epoch=1, fingerprint={"machine": "x", "torch": "1"}).resume == "bitwise"
    other = elect(store, "run", epoch=1, fingerprint={"machine": "x", "torch": "2"})
    assert (other.resume, other.differences) == ("numerically equivalent", ("torch: 1 -> 2",))


def test_two_plans_cannot_fork_one_epoch_and_one_plan_can_twice() -> None:
    store = memory_store()
    chain(store, 10)
    fork(store, 2)
    fork(store, 2)
    with pytest.raises(ForkConflict):
        fork(store, 2, plan_id="another")


def test_a_new_run_in_a_later_epoch_begins_from_the_start_and_an_old_one_does_not() -> None:
    store, clock = memory_store(), FakeClock()
    begin = begin_run(store, "run", epoch=4, site="site-a", plan_id="none", holder="test", clock=clock)
    assert begin is not None
    assert begin.forked_from is None
    assert elect(store, "run", epoch=4).resume == "from the start"
    write(store, 10, epoch=4)
    with pytest.raises(EpochUnknownHere):
        begin_run(store, "run", epoch=5, site="site-a", plan_id="none", holder="test", clock=clock)


def test_work_at_risk_is_what_the_other_site_does_not_have() -> None:
    source, target = memory_store("a"), memory_store("b")
    first = chain(source, 10)
    replicate_checkpoint(source, target, "run", first)
    chain(source, 20, 30, parent=first)
    risk = work_at_risk(source, target, "run", 1)
    assert (risk.steps, risk.source_step, risk.target_step, risk.seconds) == (20, 30, 10, 0.0)


def test_replication_writes_the_manifest_last_and_a_receipt_before_it() -> None:
    source, target = memory_store("a"), OrderedFaults(memory_store("b"))
    manifest = chain(source, 10)
    replicate_checkpoint(source, target, "run", manifest, site="site-b")
    assert [key.split("/")[0] for key in target.puts] == ["runs", "receipts", "runs"]
    assert target.puts[-1] == manifest.key


def test_a_blob_damaged_at_the_source_is_not_replicated() -> None:
    source, target = memory_store("a"), memory_store("b")
    manifest = chain(source, 10)
    source.put(blob_key("run", manifest.model_digest), b"damage")
    with pytest.raises(CheckpointUnreadable):
        replicate_checkpoint(source, target, "run", manifest)
    assert elect(target, "run", epoch=1).manifest is None


#: What may happen to a run with three sites, in any order.
_EVENTS = st.lists(
    st.one_of(
        st.tuples(st.just("train"), st.integers(0, 4), st.integers(1, 3)),  # the writer of this epoch, stale or not
        st.tuples(st.just("replicate"), st.integers(0, 2), st.integers(0, 2)),
        st.tuples(st.just("fail over"), st.integers(0, 2), st.just(0)),
        st.tuples(st.just("damage"), st.integers(0, 2), st.integers(0, 50)),
    ),
    max_size=25,
)


def check_history(events: list[tuple[str, int, int]], choose: Callable[..., Election]) -> None:
    """Play the events; after each, what `choose` takes at any site is in the newest epoch's true lineage."""
    stores = [memory_store(f"site-{number}") for number in range(3)]
    epoch, active = 1, {1: 0}  # epoch -> site
    heads: dict[int, CheckpointManifest | None] = {1: None}  # what each epoch's writer last wrote, stale writers too
    true_parent: dict[str, str | None] = {}
    lineage: set[str] = set()  # of the newest epoch, by the test's own bookkeeping
    written: dict[str, CheckpointManifest] = {}
    for event, first, second in events:
        if event == "train":
            writer = max(1, epoch - first)
            head = heads[writer]
            for _ in range(second):
                step = (head.step if head else 0) + 10
                manifest = write(
                    stores[active[writer]],
                    step,
                    epoch=writer,
                    parent=head,
                    model=f"{writer}:{step}:{len(written)}".encode(),
                )
                true_parent[manifest.digest] = head.digest if head else None
                written[manifest.digest] = head = manifest
                if writer == epoch:
                    lineage.add(manifest.digest)
            heads[writer] = head
        elif event == "replicate":
            present = {info.key for info in stores[first].list("runs/run/checkpoints/")}
            for manifest in [m for m in written.values() if m.key in present][-2:]:
                if first != second:
                    with suppress(CheckpointUnreadable):
                        replicate_checkpoint(stores[first], stores[second], "run", manifest)
        elif event == "damage":
            blobs = [info.key for info in stores[first].list("runs/run/blobs/")]
            if blobs:
                stores[first].delete(blobs[second % len(blobs)])
        else:
            target = stores[first]
            try:
                election = elect(target, "run", epoch=epoch, or_nothing=True)
            except EpochUnknownHere:
                continue
            epoch += 1
            begun = fork_run(
                target,
                "run",
                epoch=epoch,
                parent_epoch=epoch - 1,
                election=election,
                site=f"site-{first}",
                plan_id=f"plan-{epoch}",
                holder="test",
                reason="test",
                clock=FakeClock(),
            )
            active[epoch], heads[epoch] = first, election.manifest
            ancestor, lineage = begun.forked_from, set()
            while ancestor is not None:
                lineage.add(ancestor)
                ancestor = true_parent[ancestor]
        for store in stores:
            try:
                election = choose(store, "run", epoch=epoch)
            except (EpochUnknownHere, NothingSelectable):
                continue
            assert election.digest is None or election.digest in lineage


@settings(max_examples=150, deadline=None)
@given(_EVENTS)
def test_whatever_happens_an_elected_checkpoint_is_an_ancestor_of_the_newest_epoch(
    events: list[tuple[str, int, int]],
) -> None:
    check_history(events, elect)


def test_the_property_catches_an_election_by_step_alone() -> None:
    def newest_step(store: ObjectStore, run: str, *, epoch: int) -> Election:
        election = elect(store, run, epoch=epoch)  # the same refusals
        keys = [info.key for info in store.list(f"runs/{run}/checkpoints/")]
        newest = parse_manifest(store.get(keys[-1]), where=keys[-1]) if keys else None
        return replace(election, manifest=newest, digest=newest.digest if newest else None)

    zombie = [("train", 0, 2), ("replicate", 0, 1), ("fail over", 1, 0), ("train", 1, 2), ("replicate", 0, 1)]
    check_history(zombie, elect)
    with pytest.raises(AssertionError):
        check_history(zombie, newest_step)
