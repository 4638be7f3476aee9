"""Compressed checkpoints from end to end: written, replicated, elected, resumed, collected; mixed with plain ones."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.checkpoint.worlds import OrderedFaults, wait_for
from holdfast.clock import SystemClock
from holdfast.engine.checkpoint import (
    AlwaysGranted,
    Checkpointer,
    CheckpointManifest,
    CheckpointUnreadable,
    Compression,
    TrainingState,
    compression,
    elect,
    fork_run,
    load_state,
    replicate_checkpoint,
)
from holdfast.engine.checkpoint import encoding as codec
from holdfast.engine.checkpoint.collect import collect
from holdfast.engine.checkpoint.commit import commit_manifest
from holdfast.engine.checkpoint.compression import BlobEncoder
from holdfast.engine.checkpoint.errors import StepTaken
from holdfast.engine.checkpoint.format import blob_key, canonical, digest_of, manifest_key, parse_manifest
from holdfast.engine.checkpoint.retention import KeepPolicy
from holdfast.engine.checkpoint.storing import StoredForms, Storing
from holdfast.engine.checkpoint.verify import blob_damage, damage
from holdfast.engine.objectstore import OVERWRITE, ObjectStore, memory_store
from holdfast.engine.objectstore.errors import StoreUnavailable
from holdfast.errors import ConfigError

#: Of each array: large enough that the bytes of one place in an element fill a block of Zstandard.
SIZE = 200_000
FROZEN = (np.random.default_rng(7).standard_normal(SIZE) * 0.02).astype("<f4").tobytes()


class Loop:
    """Gradient descent with momentum on NumPy arrays; a frozen part, and noise that depends on the step alone."""

    def __init__(self) -> None:
        self.weights = np.random.default_rng(1).standard_normal(SIZE).astype("<f4") * np.float32(0.02)
        self.momentum = np.zeros_like(self.weights)
        self.steps = 0

    def train(self, step: int) -> None:
        gradient = np.random.default_rng(step).standard_normal(self.weights.size).astype("<f4") + self.weights
        self.momentum = np.float32(0.9) * self.momentum + gradient
        self.weights -= np.float32(0.01) * self.momentum
        self.steps = step

    def state(self) -> TrainingState:
        blobs = {
            "frozen": FROZEN,
            "weights": self.weights.tobytes(),
            "momentum": self.momentum.tobytes(),
            "rest": b"{}",
        }
        return TrainingState(blobs, {"steps": self.steps}, ("frozen", "weights"))

    def load_state(self, state: TrainingState) -> None:
        self.weights = np.frombuffer(state.blobs["weights"], "<f4").copy()
        self.momentum = np.frombuffer(state.blobs["momentum"], "<f4").copy()
        self.steps = int(str(state.values["steps"]))


def checkpointer(store: ObjectStore, policy: Compression | str = "auto", **changes: Any) -> Checkpointer:
    settings: dict[str, Any] = {"epoch": 1, "site": "site-a", "every_steps": 5, "retry_seconds": 0.01, **changes}
    return Checkpointer(store, "run", compression=policy, fingerprint={}, **settings)


def run(
    store: ObjectStore, until: int, policy: Compression | str = "auto", *, loop: Loop | None = None, **changes: Any
) -> CheckpointManifest:
    """Train from what is there, until a step; each checkpoint is waited for."""
    it, loop = checkpointer(store, policy, mode="blocking", **changes), loop or Loop()
    resumed = it.resume(loop)
    with it:
        for step in range(resumed.step + 1 if resumed else 1, until + 1):
            loop.train(step)
            it.step(step, loop)
        return it.finish(loop).manifest


def elected(store: ObjectStore, **changes: Any) -> CheckpointManifest:
    found = elect(store, "run", **{"epoch": 1, **changes}).manifest
    assert found is not None
    return found


def blobs_of(store: ObjectStore, manifest: CheckpointManifest) -> dict[str, bytes]:
    return dict(load_state(store, manifest).blobs)


def blob_puts(store: OrderedFaults) -> list[str]:
    return [key for key in store.puts if "/blobs/" in key]


def rewrite(store: ObjectStore, manifest: CheckpointManifest, name: str, **changes: Any) -> CheckpointManifest:
    """The same checkpoint with a manifest that lies about one blob."""
    document = manifest.model_dump(mode="json")
    document["blobs"][name] |= changes
    lying = CheckpointManifest.model_validate(document).sealed()
    store.put(lying.key, lying.data, mode=OVERWRITE)
    return lying


@pytest.fixture
def other_version(monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[str]]:
    """Called, Zstandard makes other bytes of the same content from then on; the list tells what was encoded."""

    def begin() -> list[str]:
        told: list[str] = []

        def encode(data: bytes, encoding: Any, *, level: int, at_most: int) -> bytes | None:
            told.append(digest_of(data))
            return codec.encode(data, encoding, level=level + 4, at_most=at_most)

        monkeypatch.setattr(compression, "encode", encode)
        return told

    return begin


# -- what is written -------------------------------------------------------------------------------------------------


def test_encoded_and_plain_blobs_stand_in_one_manifest_and_read_back() -> None:
    store, loop = memory_store(), Loop()
    last = run(store, 20, loop=loop)
    assert {name: one.encoding is not None for name, one in last.blobs.items()} == {
        "frozen": True,
        "weights": True,
        "momentum": True,
        "rest": False,
    }
    assert last.format == "holdfast.checkpoint/2"
    assert last.size_bytes < 0.9 * last.content_bytes
    assert blobs_of(store, last) == dict(loop.state().blobs)


def test_a_checkpoint_without_encoded_blobs_is_the_first_version_of_the_format() -> None:
    for policy in ("none", "auto"):
        store = memory_store()
        with checkpointer(store, policy) as it:
            it.step(5, TrainingState({"model": b"as small as this"}))
            manifest = it.finish(TrainingState({"model": b"as small as this"})).manifest
        assert manifest.format == "holdfast.checkpoint/1"
        assert b"encoding" not in manifest.data


def test_compressed_or_not_the_models_are_equal() -> None:
    assert run(memory_store(), 20, "none").model_digest == run(memory_store(), 20, "zstd").model_digest


def test_the_training_thread_encodes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    threads = set()

    def encode(*args: Any, **settings: Any) -> bytes | None:
        threads.add(threading.current_thread().name)
        return codec.encode(*args, **settings)

    monkeypatch.setattr(compression, "encode", encode)
    run(memory_store(), 20, replicas={"site-b": memory_store()})
    assert threads <= {"checkpoint-writer", "replicate-to-site-b"}
    assert "checkpoint-writer" in threads


def test_a_policy_that_cannot_be_kept_is_refused_before_the_first_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "zstandard", None)
    with pytest.raises(ConfigError, match="need the package zstandard"):
        checkpointer(memory_store(), "auto")
    with pytest.raises(ConfigError, match="no such compression policy"):
        checkpointer(memory_store(), "gzip")
    run(memory_store(), 10, "none")


# -- deduplicated ----------------------------------------------------------------------------------------------------


def test_an_unchanged_blob_keeps_its_form_and_is_neither_encoded_nor_written_again(
    other_version: Callable[[], list[str]],
) -> None:
    store = OrderedFaults(memory_store())
    first = run(store, 5)
    frozen = first.blobs["frozen"]
    puts, told = len(store.puts), other_version()
    assert BlobEncoder(Compression("auto")).again(FROZEN, frozen) is None  # it would come out in other bytes
    told.clear()
    assert run(store, 20).blobs["frozen"] == frozen
    assert told
    assert digest_of(FROZEN) not in told
    assert blob_key("run", frozen.digest) not in store.puts[puts:]


def test_a_parents_blob_that_is_damaged_is_encoded_anew(other_version: Callable[[], list[str]]) -> None:
    store = memory_store()
    frozen = run(store, 5).blobs["frozen"]
    other_version()
    store.put(blob_key("run", frozen.digest), b"damaged", mode=OVERWRITE)
    parent = parse_manifest(store.get(manifest_key("run", 5, 1)), where=manifest_key("run", 5, 1))
    storing = Storing(
        store, "run", {"frozen": FROZEN}, parent=parent, encoder=BlobEncoder(Compression("auto")), intact=set()
    )
    found = storing.ensure()["frozen"]
    assert (found.content, found.digest != frozen.digest) == (frozen.content, True)
    assert blob_damage(store, "run", "frozen", found) is None


def test_what_is_intact_is_not_read_again_and_what_is_lost_meanwhile_is_written_again() -> None:
    store = OrderedFaults(memory_store())
    intact: set[str] = set()
    storing = Storing(
        store, "run", {"frozen": FROZEN}, parent=None, encoder=BlobEncoder(Compression("auto")), intact=intact
    )
    first = storing.ensure()
    assert storing.ensure() == first
    assert len(store.puts) == 1
    store.inner.delete(store.puts[0])
    intact.clear()  # as the writer does after a failure
    assert storing.ensure() == first
    assert len(store.puts) == 2


def test_a_save_survives_a_store_that_comes_and_goes() -> None:
    store, loop = OrderedFaults(memory_store()), Loop()
    with checkpointer(store) as it:
        loop.train(1)
        store.lose_answers = 1
        failures = iter(range(2))

        def fail(key: str) -> None:
            if next(failures, None) is not None:
                raise StoreUnavailable("the store is down", where=key, outcome_unknown=False)

        store.before_put = fail
        it.step(5, loop)
        wait_for(lambda: (it.status()["checkpoint"] or {}).get("step") == 5)
    assert blobs_of(store, elected(store)) == dict(loop.state().blobs)


# -- resumed ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "policies",
    [("auto", "none", "auto"), ("none", "zstd", "none"), (Compression("zstd", 1), Compression("zstd", 9), "auto")],
)
def test_a_run_resumes_bit_for_bit_whatever_the_policy_was_and_becomes(policies: tuple[Compression | str, ...]) -> None:
    undisturbed, loop = Loop(), Loop()
    for step in range(1, 31):
        undisturbed.train(step)
    store = memory_store()
    for part, policy in enumerate(policies):
        loop = Loop()  # a new process
        last = run(store, 10 * (part + 1), policy, loop=loop)
        assert (last.encoded > 0) is (policy != "none")
    assert loop.weights.tobytes() == undisturbed.weights.tobytes()
    assert loop.momentum.tobytes() == undisturbed.momentum.tobytes()
    assert last.model_digest == run(memory_store(), 30, "none").model_digest


def test_a_restarted_process_takes_its_own_checkpoint_in_another_form_for_the_same() -> None:
    store = memory_store()
    first = run(store, 5, "auto")
    store_of_first = {info.key: store.get(info.key) for info in store.list()}
    # Restarted from the start and with another policy: step 5 has its checkpoint already.
    with checkpointer(store, "none", mode="blocking") as it:
        loop = Loop()
        for step in range(1, 6):
            loop.train(step)
            it.step(step, loop)
        assert it.finish(loop).manifest == first
    assert all(store.get(key) == data for key, data in store_of_first.items())


def test_one_in_another_form_that_is_damaged_is_not_taken_for_it() -> None:
    store = memory_store()
    first = run(store, 5, "auto")
    plain = run(memory_store(), 5, "none")
    store.put(blob_key("run", first.blobs["weights"].digest), b"x", mode=OVERWRITE)
    with pytest.raises(StepTaken):
        commit_manifest(store, plain, guard=AlwaysGranted())


def test_a_restore_holds_one_blob_and_not_its_stored_form() -> None:
    import tracemalloc

    store = memory_store()
    content = np.zeros(6 * 1024 * 1024, "<f4").tobytes() + np.random.default_rng(1).bytes(8 * 1024 * 1024)
    state = TrainingState({"one": content, "two": content[::-1]})
    with checkpointer(store, "zstd") as it:
        it.step(5, state)
        manifest = it.finish(state).manifest
    blobs = load_state(store, manifest).blobs
    tracemalloc.start()
    for name in blobs:
        assert len(blobs[name]) == len(content)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1.5 * len(content) + 16 * 1024 * 1024


@settings(max_examples=25, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from(["none", "auto", "zstd"]), st.lists(st.integers(0, 3), min_size=3, max_size=3)),
        min_size=1,
        max_size=8,
    )
)
def test_whatever_changes_under_whatever_policy_each_checkpoint_reads_back(saves: list[tuple[str, list[int]]]) -> None:
    """Three blobs that each take one of four contents: every save by a new process."""
    contents = [bytes(100_000), b"text " * 20_000, np.random.default_rng(3).bytes(70_000), b"small"]
    store, plain_store = memory_store(), memory_store()
    for number, (policy, chosen) in enumerate(saves, start=1):
        state = TrainingState({f"blob-{place}": contents[which] for place, which in enumerate(chosen)})
        made = []
        for where, how in ((store, policy), (plain_store, "none")):
            it = checkpointer(where, how)
            it.resume()
            with it:
                it.step(5 * number, state)
                made.append(it.finish(state).manifest)
        manifest, plain = made
        assert blobs_of(store, manifest) == dict(state.blobs)
        assert elected(store).digest == manifest.digest
        assert (manifest.model_digest, manifest.content_bytes) == (plain.model_digest, plain.size_bytes)
        assert policy != "none" or manifest.encoded == 0
        assert [one.warnings != () for one in made] in ([True, True], [False, False])


# -- what lies, and what is damaged ----------------------------------------------------------------------------------


def test_a_manifest_that_lies_is_passed_over_and_the_older_good_one_offered() -> None:
    lies: list[dict[str, Any]] = [
        {"content_digest": digest_of(b"other")},
        {"content_size_bytes": 7},
        {"content_size_bytes": 2**40},
        {"encoding": "zstd-shuffled-8"},
    ]
    for lie in lies:
        store = memory_store()
        good = run(store, 10)
        rewrite(store, run(store, 15), "momentum", **lie)
        election = elect(store, "run", epoch=1)
        assert election.manifest is not None
        assert election.manifest.digest == good.digest
        assert "'momentum'" in election.passed_over[0].reason


def test_damage_of_the_stored_bytes_is_found_at_the_election_and_at_the_restore() -> None:
    store = memory_store()
    good, last = run(store, 10), run(store, 15)
    key = blob_key("run", last.blobs["weights"].digest)
    data = bytearray(store.get(key))
    data[len(data) // 2] ^= 1
    blobs = load_state(store, last).blobs
    store.put(key, bytes(data), mode=OVERWRITE)
    with pytest.raises(CheckpointUnreadable, match="changed after it was verified"):
        blobs["weights"]
    assert elected(store).digest == good.digest
    store.delete(key)
    with pytest.raises(CheckpointUnreadable, match="nothing"):
        blobs["weights"]
    assert "missing" in elect(store, "run", epoch=1).passed_over[0].reason


def test_a_checkpoint_of_a_later_version_is_passed_over_and_the_older_good_one_offered() -> None:
    store = memory_store()
    good = run(store, 10)
    store.put(manifest_key("run", 20, 1), canonical({"format": "holdfast.checkpoint/3", "run": "run"}))
    election = elect(store, "run", epoch=1)
    assert election.digest == good.digest
    assert "does not read: holdfast.checkpoint/3" in election.passed_over[0].reason


def test_without_the_package_nothing_older_is_elected_in_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    store = memory_store()
    run(store, 5, "none")
    run(store, 10, "auto")
    monkeypatch.setitem(sys.modules, "zstandard", None)
    with pytest.raises(ConfigError, match="need the package zstandard"):
        elect(store, "run", epoch=1)


# -- elsewhere -------------------------------------------------------------------------------------------------------


def test_a_replica_gets_the_stored_form_and_the_run_goes_on_there() -> None:
    site_a, site_b, loop = memory_store(), memory_store(), Loop()
    last = run(site_a, 10, loop=loop, replicas={"site-b": site_b})
    for reference in last.blobs.values():
        assert site_b.get(blob_key("run", reference.digest)) == site_a.get(blob_key("run", reference.digest))
    fork_run(
        site_b,
        "run",
        epoch=2,
        parent_epoch=1,
        election=elect(site_b, "run", epoch=1, site="site-b"),
        site="site-b",
        plan_id="plan",
        holder="test",
        reason="test",
        clock=SystemClock(),
    )
    there = Loop()
    resumed = run(site_b, 20, loop=there, epoch=2, site="site-b")
    for step in range(11, 21):
        loop.train(step)
    assert there.weights.tobytes() == loop.weights.tobytes()
    assert resumed.blobs["frozen"] == last.blobs["frozen"]


def test_the_writer_hands_the_stored_form_over_and_the_source_is_not_read() -> None:
    site_a, site_b, loop = OrderedFaults(memory_store()), memory_store(), Loop()
    reads: list[str] = []
    get = site_a.get

    def told(key: str, **settings: Any) -> bytes:
        reads.append(key)
        return get(key, **settings)

    site_a.get = told  # type: ignore[method-assign]
    loop.train(1)
    with checkpointer(site_a, replicas={"site-b": site_b}) as it:
        it.step(5, loop)
        finished = it.finish(loop)
    assert finished.manifest.encoded == 3
    assert finished.replicated == {"site-b": True}
    assert blobs_of(site_b, finished.manifest) == dict(loop.state().blobs)
    assert not [key for key in reads if "/blobs/" in key]


def test_what_does_not_come_out_the_same_is_read_from_the_source(other_version: Callable[[], list[str]]) -> None:
    site_a, site_b = memory_store(), memory_store()
    last = run(site_a, 5)
    plain = dict(Loop().state().blobs) | blobs_of(site_a, last)
    forms = StoredForms(last, {digest_of(data): data for data in plain.values()}, BlobEncoder(Compression("auto")))
    assert {digest: forms.get(digest) for digest in forms} == {
        one.digest: site_a.get(blob_key("run", one.digest)) for one in last.blobs.values()
    }
    other_version()
    assert [one.encoding for one in last.blobs.values() if forms.get(one.digest) is not None] == [None]
    it = checkpointer(site_a, replicas={"site-b": site_b})
    it.resume(Loop())
    with it:
        wait_for(lambda: it.status()["replicas"]["site-b"]["step"] == 5)
    assert elected(site_b).digest == last.digest


def test_a_collection_keeps_what_the_kept_checkpoints_need_in_whatever_form() -> None:
    store = memory_store()
    run(store, 10, "none")
    run(store, 20, "auto")
    last = run(store, 30, Compression("zstd", 9))
    for _ in range(2):
        collect(store, "run", KeepPolicy(last=1), epoch=1, guard=AlwaysGranted(), clock=SystemClock(), grace_seconds=0)
    kept = {info.key for info in store.list("runs/run/blobs/")}
    assert kept == {blob_key("run", one.digest) for one in last.blobs.values()}
    assert damage(store, elected(store)) is None


def test_replicating_by_hand_needs_no_decoder(monkeypatch: pytest.MonkeyPatch) -> None:
    site_a, site_b = memory_store(), memory_store()
    last = run(site_a, 5)
    monkeypatch.setitem(sys.modules, "zstandard", None)
    receipt = replicate_checkpoint(site_a, site_b, "run", last, site="site-b")
    assert receipt.size_bytes == last.size_bytes
