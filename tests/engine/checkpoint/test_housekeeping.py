"""Retention while training goes on: what is not kept goes, at the run's own site and at its standbys."""

from __future__ import annotations

import threading
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest

from engine.checkpoint.worlds import Guard, OrderedFaults, wait_for, write
from holdfast.clock import SystemClock
from holdfast.engine.checkpoint import Checkpointer, Permission, StopRequested, TrainingState, elect, load_state
from holdfast.engine.checkpoint.format import manifest_key, manifest_prefix, run_root
from holdfast.engine.checkpoint.housekeeping import Housekeeper, Retention
from holdfast.engine.checkpoint.replicator import Replicator
from holdfast.engine.checkpoint.retention import KeepPolicy
from holdfast.engine.objectstore import ObjectStore, memory_store
from holdfast.engine.objectstore.errors import StoreUnavailable

AT_ONCE = Retention(KeepPolicy(last=2, every_steps=10), grace_seconds=0.0, every_saves=3)


def state_at(step: int) -> TrainingState:
    return TrainingState({"model.bin": b"model %d" % step, "shared.bin": b"never changes"}, {"position": step})


def run(store: ObjectStore, steps: range, retention: Retention = AT_ONCE, **settings: Any) -> dict[str, Any]:
    it = Checkpointer(
        store,
        "run",
        epoch=1,
        site="site-a",
        every_steps=1,
        retention=retention,
        fingerprint={},
        retry_seconds=0.01,
        **settings,
    )
    it.resume()
    with it:
        for step in steps:
            it.step(step, state_at(step))
            wait_for(lambda step=step: (it.status()["checkpoint"] or {"step": 0})["step"] == step)
            for site, replica in it.status()["replicas"].items():
                wait_for(lambda site=site, step=step: it.status()["replicas"][site]["step"] == step)
                assert replica["work_at_risk"]["steps"] <= 1
        wait_for(lambda: all(it.status()["retention"].values()))
        it.finish(state_at(steps[-1]))
    return it.status()


def steps_at(store: ObjectStore) -> list[int]:
    return sorted(int(info.key.rpartition("/")[2].split(".")[0]) for info in store.list(manifest_prefix("run")))


def blobs_at(store: ObjectStore) -> int:
    return sum(1 for _ in store.list(f"{run_root('run')}/blobs/"))


def test_old_checkpoints_go_here_and_at_the_standby_and_what_is_left_resumes() -> None:
    here, there = memory_store("site-a"), memory_store("site-b")
    shown = run(here, range(1, 26), replicas={"site-b": there})
    for store in (here, there):
        kept = steps_at(store)
        assert {10, 20, 24, 25} <= set(kept)
        assert len(kept) <= 4 + AT_ONCE.every_saves
        # Of each that is left, one; the shared one; and those of the last retirement, whose second phase is to come.
        assert blobs_at(store) <= 1 + len(kept) + AT_ONCE.every_saves
    assert shown["retention"]["site-a"]["retired"] > 10
    assert shown["retention"]["site-b"]["deleted_blobs"] > 10
    election = elect(there, "run", epoch=1, site="site-b")
    assert election.manifest is not None
    assert load_state(there, election.manifest).blobs["shared.bin"] == b"never changes"


def test_a_process_that_dies_soon_still_keeps_house() -> None:
    store = memory_store("site-a")
    for begin in range(1, 13, 2):
        run(store, range(begin, begin + 2))
    assert len(steps_at(store)) < 8


def test_without_a_policy_everything_stays() -> None:
    store = memory_store("site-a")
    it = Checkpointer(store, "run", epoch=1, site="site-a", every_steps=1, fingerprint={})
    with it:
        for step in range(1, 15):
            it.step(step, state_at(step))
            wait_for(lambda step=step: (it.status()["checkpoint"] or {"step": 0})["step"] == step)
    assert steps_at(store) == list(range(1, 15))


def test_a_collection_that_fails_is_told_tried_again_and_stops_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    store = OrderedFaults(memory_store("site-a"))
    failing = [True]
    inner = store.inner.delete

    def delete(key: str) -> None:
        if failing[0]:
            raise StoreUnavailable("no deletions today", where=key, outcome_unknown=True)
        inner(key)

    monkeypatch.setattr(store, "delete", delete)
    shown = run(store, range(1, 8), Retention(KeepPolicy(last=1), grace_seconds=0.0, every_saves=3))
    assert "no deletions today" in shown["retention"]["site-a"]["error"]
    assert sum(1 for _ in store.list(f"{run_root('run')}/retired/")) <= 4, "not one record more with every save"
    assert elect(store, "run", epoch=1).step == 7
    failing[0] = False
    shown = run(store, range(8, 10), Retention(KeepPolicy(last=1), grace_seconds=0.0, every_saves=1))
    assert shown["retention"]["site-a"]["error"] is None
    assert {9} <= set(steps_at(store)) <= {8, 9}, "the last one's collection may have made way for the end"


def test_an_epoch_that_is_over_retires_nothing() -> None:
    store = memory_store("site-a")
    run(store, range(1, 4), Retention(KeepPolicy(last=9)))
    keeper = Housekeeper(
        store,
        "run",
        Retention(KeepPolicy(last=1), 0.0),
        epoch=1,
        site="site-a",
        guard=Guard(Permission.FENCED),
        clock=SystemClock(),
    )
    keeper.committed()
    assert "epoch" in keeper.facts()["error"]
    assert steps_at(store) == [1, 2, 3]


@pytest.mark.parametrize("how", ["finish", "stop"])
def test_the_last_save_does_not_wait_for_a_collection(how: str) -> None:
    """One that reads the newest checkpoint from a store that hangs makes way for it."""
    store = OrderedFaults(memory_store("site-a"))
    reading, go = threading.Event(), threading.Event()
    inner = store.inner.open

    def slowly(key: str, **arguments: Any) -> Any:
        reader = inner(key, **arguments)
        if threading.current_thread().name != "checkpoint-writer":
            return reader

        def chunks() -> Any:
            reading.set()
            assert go.wait(20)
            yield from reader.chunks

        return replace(reader, chunks=chunks())

    store.open = slowly  # type: ignore[method-assign]
    it = Checkpointer(
        store, "run", epoch=1, site="site-a", every_steps=1, retention=AT_ONCE, fingerprint={}, retry_seconds=0.01
    )
    with suppress(StopRequested), it:
        it.step(1, state_at(1))
        assert reading.wait(20), "the collection after the first save"
        threading.Timer(0.2, go.set).start()
        if how == "stop":
            it.request_stop()
            it.step(2, state_at(2))
        else:
            it.step(2, state_at(2))
            it.finish(state_at(2), save_seconds=20)
    assert elect(store.inner, "run", epoch=1).step == 2
    assert it.status()["retention"]["site-a"] == {}, "it was put off"


def test_the_best_by_the_loss_that_was_told_stay() -> None:
    store = memory_store("site-a")
    policy = Retention(KeepPolicy(last=1, best=2, metric="loss"), grace_seconds=0.0, every_saves=1)
    losses = {1: 0.9, 2: 0.1, 3: 0.5, 4: float("nan"), 5: 0.2, 6: 0.8, 7: 0.7}
    it = Checkpointer(store, "run", epoch=1, site="site-a", every_steps=1, retention=policy, fingerprint={})
    with it:
        for step, loss in losses.items():
            it.step(step, state_at(step), loss=loss, metrics={"steps_squared": step**2})
            wait_for(lambda step=step: (it.status()["checkpoint"] or {"step": 0})["step"] == step)
        wait_for(lambda: steps_at(store) == [2, 5, 7])
    found = elect(store, "run", epoch=1).manifest
    assert found is not None
    assert found.state == {"position": 7, "metrics": {"loss": 0.7, "steps_squared": 49.0}}


def test_a_standby_with_a_manifest_nobody_can_hold_still_gets_every_checkpoint() -> None:
    here, there = memory_store("site-a"), memory_store("site-b")
    run(here, range(1, 3))
    key = manifest_key("run", 2, 1)
    there.put(manifest_key("run", 1, 1), here.get(key).replace(b'"position":2', b'"position":NaN'))
    shown = run(here, range(3, 9), Retention(KeepPolicy(last=1), 0.0, every_saves=1), replicas={"site-b": there})
    assert shown["replicas"]["site-b"]["step"] == 8
    assert shown["retention"]["site-b"]["error"] is None


def test_what_fails_after_a_checkpoint_has_arrived_is_told_and_replication_goes_on() -> None:
    here, there = memory_store("site-a"), memory_store("site-b")

    def fail(_seconds: float) -> None:
        raise ZeroDivisionError("housekeeping")

    replicator = Replicator(
        here, there, "site-b", "run", guard=Guard(), clock=SystemClock(), retry_seconds=0.01, arrived=fail
    )
    replicator.start()
    parent = None
    for step in (1, 2):
        parent = write(here, step, parent=parent)
        replicator.offer(parent, {})
        assert replicator.wait(step, 20)
        wait_for(lambda: replicator.status().error == "housekeeping")
    replicator.close()


def test_a_collection_that_breaks_in_a_way_nobody_foresaw_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    store = OrderedFaults(memory_store("site-a"))

    def broken(_prefix: str = "", **_settings: Any) -> Any:
        raise ZeroDivisionError("a store's own bug")

    monkeypatch.setattr(store, "list", broken)
    keeper = Housekeeper(store, "run", AT_ONCE, epoch=1, site="site-a", guard=Guard(), clock=SystemClock())
    keeper.committed()
    assert keeper.facts()["error"] == "ZeroDivisionError: a store's own bug"
