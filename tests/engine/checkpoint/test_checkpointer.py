"""The Checkpointer: training never waits for a store, and never writes for an epoch that is over."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest

from engine.checkpoint.worlds import Guard, OrderedFaults, wait_for
from holdfast.clock import FakeClock
from holdfast.engine.checkpoint import (
    Checkpointer,
    CheckpointError,
    CheckpointFailed,
    Fenced,
    Permission,
    StateTooLarge,
    StopRequested,
    TrainingState,
    elect,
    fork_run,
    read_checkpoint_receipt,
    replicate_checkpoint,
)
from holdfast.engine.checkpoint.format import blob_key
from holdfast.engine.checkpoint.heartbeat import HeartbeatObject
from holdfast.engine.compute import JobState
from holdfast.engine.compute.remote import REQUEST_SUFFIX, ended_by_heartbeat, read_heartbeat, request_checkpoint
from holdfast.engine.objectstore import ObjectStore, memory_store
from holdfast.engine.objectstore.errors import PermissionRefused
from holdfast.engine.snapshot.errors import EpochUnknownHere


def state_at(step: int) -> TrainingState:
    return TrainingState({"model.bin": f"model {step}".encode()}, {"position": step})


def checkpointer(store: ObjectStore, **changes: Any) -> Checkpointer:
    settings: dict[str, Any] = {
        "epoch": 1,
        "site": "site-a",
        "every_steps": 10,
        "retry_seconds": 0.01,
        "heartbeat_seconds": 0.05,
        **changes,
    }
    return Checkpointer(store, "run", **settings)


def durable(it: Checkpointer, step: int) -> None:
    wait_for(lambda: (it.status()["checkpoint"] or {"step": -1})["step"] >= step)


def hold(store: OrderedFaults) -> threading.Event:
    """Writes wait until the event is set."""
    gate = threading.Event()
    store.before_put = lambda _key: assert_true(gate.wait(20))
    return gate


def assert_true(value: bool) -> None:
    assert value


def train(it: Checkpointer, begin: int, end: int) -> None:
    for step in range(begin, end + 1):
        it.step(step, state_at(step))


def test_holdfast_gives_the_checkpointer_without_airflow() -> None:
    import holdfast

    assert holdfast.Checkpointer is Checkpointer


def test_every_nth_step_becomes_durable_and_the_last_one_does() -> None:
    store = memory_store()
    with checkpointer(store) as it:
        for step in range(1, 26):
            it.step(step, state_at(step))
            if step % 10 == 0:
                durable(it, step)
        finished = it.finish(state_at(25))
    keys = [info.key[-24:] for info in store.list("runs/run/checkpoints/")]
    assert keys == ["000000000010.000001.json", "000000000020.000001.json", "000000000025.000001.json"]
    assert finished.manifest.step == 25


@pytest.mark.parametrize(("compression", "needed"), [("none", 2_000), ("zstd", 2_600)])
def test_bytes_beyond_the_memory_allowed_are_refused_before_anything_is_written(compression: str, needed: int) -> None:
    """Two states, and with compression the larger blob once more."""
    state = TrainingState({"model": bytes(600), "optimizer": bytes(400)})
    for memory_bytes, fits in ((needed, True), (needed - 1, False)):
        store = OrderedFaults(memory_store())
        with checkpointer(store, every_steps=1, memory_bytes=memory_bytes, compression=compression) as it:
            if fits:
                it.step(1, state)
                assert it.finish(state).manifest.step == 1
            else:
                with pytest.raises(StateTooLarge, match="twice the state"):
                    it.step(1, state)
                assert store.puts == []


def test_a_resumed_run_gets_exactly_the_state_and_chains_to_it() -> None:
    store = memory_store()
    with checkpointer(store) as it:
        train(it, 1, 10)
        first = it.finish(state_at(10)).manifest
    again = checkpointer(store)
    resumed = again.resume()
    assert resumed is not None
    assert (resumed.step, resumed.resume) == (10, "bitwise")
    assert dict(resumed.state.blobs) == {"model.bin": b"model 10"}
    assert resumed.state.values == {"position": 10}
    with again:
        train(again, 11, 20)
        assert again.finish(state_at(20)).manifest.parent == first.digest


def test_a_finished_run_restarted_before_it_published_ends_at_once() -> None:
    store = memory_store()
    with checkpointer(store) as it:
        train(it, 1, 10)
        first = it.finish(state_at(10)).manifest
    again = checkpointer(store)
    assert again.resume() is not None
    with again:
        assert again.finish(state_at(10), save_seconds=0.0).manifest == first


def test_another_environment_is_called_numerically_equivalent() -> None:
    store = memory_store()
    with checkpointer(store, fingerprint={"isa": "avx512"}) as it:
        train(it, 1, 10)
        it.finish(state_at(10))
    resumed = checkpointer(store, fingerprint={"isa": "avx2"}).resume()
    assert resumed is not None
    assert resumed.resume == "numerically equivalent"


def test_a_run_restarted_over_a_damaged_checkpoint_reaches_its_step_again() -> None:
    store = memory_store()
    with checkpointer(store) as it:
        train(it, 1, 10)
        wait_for(lambda: it.status()["checkpoint"] is not None)
        train(it, 11, 20)
        last = it.finish(state_at(20)).manifest
    store.put(blob_key("run", last.model_digest), b"model 2X")
    again = checkpointer(store)
    resumed = again.resume()
    assert resumed is not None
    assert resumed.step == 10
    assert len(resumed.passed_over) == 1
    with again:
        train(again, 11, 20)
        assert again.finish(state_at(20)).manifest.digest == last.digest
    assert elect(store, "run", epoch=1).step == 20


def test_a_run_whose_last_manifest_was_damaged_can_end_in_the_same_epoch() -> None:
    store = memory_store()
    with checkpointer(store) as it:
        train(it, 1, 10)
        durable(it, 10)
        train(it, 11, 20)
        last = it.finish(state_at(20)).manifest
    store.put(last.key, last.data[:40])
    again = checkpointer(store)
    resumed = again.resume()
    assert resumed is not None
    with again:
        train(again, resumed.step + 1, 20)
        assert again.finish(state_at(20), save_seconds=5.0).manifest.model_digest == last.model_digest
    assert elect(store, "run", epoch=1).step == 20


@pytest.mark.parametrize("mode", ["copy", "blocking"])
def test_other_content_at_a_taken_step_saves_the_next_one_instead(mode: str) -> None:
    store = memory_store()
    with checkpointer(store) as it:
        train(it, 1, 10)
        it.finish(state_at(10))
    other = checkpointer(store, mode=mode)  # starts over, on another path
    with other:
        for step in range(1, 11):
            other.step(step, TrainingState({"model.bin": f"other {step}".encode()}))
        wait_for(lambda: other.status()["saving"]["error"] is not None)
        assert other.step(11, TrainingState({"model.bin": b"other 11"}))
        assert other.finish(state_at(11)).manifest.step == 11


def test_the_state_is_taken_before_step_returns() -> None:
    store = OrderedFaults(memory_store())
    gate = hold(store)
    weights = bytearray(b"weights at 10")
    with checkpointer(store) as it:
        it.step(10, lambda: TrainingState({"model.bin": weights}))  # type: ignore[dict-item]  # what frameworks hand out
        weights[:] = b"torn torn torn"
        gate.set()
        wait_for(lambda: it.status()["checkpoint"] is not None)
    resumed = checkpointer(store).resume()
    assert resumed is not None
    assert resumed.state.blobs["model.bin"] == b"weights at 10"


def test_a_store_that_is_down_never_stops_training_and_the_newest_state_wins() -> None:
    store = OrderedFaults(memory_store())
    with checkpointer(store) as it:
        store.down = True
        train(it, 1, 200)
        wait_for(lambda: it.status()["saving"]["error"] is not None)
        saving = it.status()["saving"]
        assert saving["committed"] == 0
        store.down = False
        durable(it, 200)
        assert it.status()["saving"]["superseded"] >= 1
    assert len(list(store.list("runs/run/checkpoints/"))) < 20


def test_at_most_two_states_are_held_while_a_save_hangs() -> None:
    store = OrderedFaults(memory_store())
    gate = hold(store)
    with checkpointer(store) as it:
        it.step(10, state_at(10))
        wait_for(lambda: it.status()["saving"]["in_flight_step"] == 10)
        train(it, 11, 100)
        saving = it.status()["saving"]
        assert (saving["in_flight_step"], saving["pending_step"], saving["superseded"]) == (10, 100, 8)
        gate.set()
        durable(it, 100)


def test_a_fenced_epoch_ends_training_and_writes_nothing_more() -> None:
    store, guard = memory_store(), Guard()
    it = checkpointer(store, guard=guard)
    with it:
        train(it, 1, 10)
        durable(it, 10)
        guard.value = Permission.FENCED
        with pytest.raises(Fenced) as fenced:
            train(it, 11, 1000)
    assert fenced.value.exit_code == 76
    assert [info.key[-24:] for info in store.list("runs/run/checkpoints/")] == ["000000000010.000001.json"]


def test_a_fenced_epoch_does_not_resume() -> None:
    with pytest.raises(Fenced):
        checkpointer(memory_store(), guard=Guard(Permission.FENCED)).resume()


def test_without_a_majority_training_goes_on_and_nothing_is_committed_until_there_is_one() -> None:
    store, guard = memory_store(), Guard(Permission.HELD)
    with checkpointer(store, guard=guard) as it:
        train(it, 1, 50)
        wait_for(lambda: "majority" in str(it.status()["saving"]["error"]))
        assert not list(store.list("runs/run/checkpoints/"))
        guard.value = Permission.GRANTED
        assert it.finish(state_at(50)).manifest.step == 50


def test_wrong_credentials_end_training_with_the_reason() -> None:
    store = OrderedFaults(memory_store())

    def refuse(_key: str) -> None:
        raise PermissionRefused("the key is not known", where=store.name)

    store.before_put = refuse
    with checkpointer(store) as it:
        it.step(10, state_at(10))
        wait_for(lambda: it.status()["saving"]["error"] is not None)
        with pytest.raises(CheckpointFailed, match="the key is not known"):
            it.step(11, state_at(11))


def test_a_checkpoint_reaches_the_standby_with_a_receipt_and_elects_there() -> None:
    store, standby = memory_store("a"), memory_store("b")
    with checkpointer(store, replicas={"site-b": standby}) as it:
        train(it, 1, 10)
        finished = it.finish(state_at(10))
    assert finished.replicated == {"site-b": True}
    assert elect(standby, "run", epoch=1).digest == finished.manifest.digest
    receipt = read_checkpoint_receipt(standby, "run", finished.manifest.digest, "site-b")
    assert receipt is not None
    assert receipt.step == 10


def test_a_dead_standby_never_stalls_training_and_catches_up_when_it_is_back() -> None:
    store, standby = memory_store("a"), OrderedFaults(memory_store("b"))
    standby.down = True
    with checkpointer(store, every_steps=1, keep_every=10, replicas={"site-b": standby}) as it:
        for step in range(1, 61):
            it.step(step, state_at(step))
            durable(it, step)
        assert it.status()["replicas"]["site-b"]["step"] is None
        assert it.status()["replicas"]["site-b"]["skipped"] > 0
        standby.down = False
        finished = it.finish(state_at(60))
        assert finished.replicated == {"site-b": True}
        wait_for(lambda: it.status()["replicas"]["site-b"]["waiting"] == 0)
    there = [int(info.key.split("/")[-1][:12]) for info in standby.list("runs/run/checkpoints/")]
    assert 60 in there
    assert len(there) < 20
    assert elect(standby, "run", epoch=1).step == 60


def test_the_newest_state_reaches_the_standby_though_the_source_is_gone_by_then() -> None:
    store, standby = OrderedFaults(memory_store("a")), OrderedFaults(memory_store("b"))
    standby.down = True
    with checkpointer(store, replicas={"site-b": standby}) as it:
        train(it, 1, 10)
        wait_for(lambda: it.status()["checkpoint"] is not None)
        wait_for(lambda: it.status()["replicas"]["site-b"]["error"] is not None)
        store.inner.delete(blob_key("run", it.status()["checkpoint"]["model_digest"]))
        standby.down = False
        wait_for(lambda: it.status()["replicas"]["site-b"]["step"] == 10)


def test_what_a_new_epoch_goes_on_from_is_replicated_onwards_at_once() -> None:
    first, second, third = memory_store("a"), memory_store("b"), memory_store("c")
    with checkpointer(first) as it:
        train(it, 1, 10)
        manifest = it.finish(state_at(10)).manifest
    replicate_checkpoint(first, second, "run", manifest, site="site-b")
    fork_run(
        second,
        "run",
        epoch=2,
        parent_epoch=1,
        election=elect(second, "run", epoch=1),
        site="site-b",
        plan_id="plan",
        holder="test",
        reason="test",
        clock=FakeClock(),
    )
    resumed = checkpointer(second, epoch=2, site="site-b", replicas={"site-c": third})
    assert resumed.resume() is not None
    with resumed:
        wait_for(lambda: resumed.status()["replicas"]["site-c"]["step"] == 10)
    assert elect(third, "run", epoch=2).digest == manifest.digest


def test_an_epoch_nobody_forked_is_refused() -> None:
    with pytest.raises(EpochUnknownHere):
        checkpointer(memory_store(), epoch=2).resume()


def test_asked_to_leave_it_saves_the_step_it_is_at() -> None:
    store = memory_store()
    it = checkpointer(store)
    with it:
        train(it, 1, 13)
        it.request_stop()
        with pytest.raises(StopRequested) as stopped:
            train(it, 14, 1000)
    assert stopped.value.exit_code == 75
    assert elect(store, "run", epoch=1).step == 14


def test_a_requested_checkpoint_is_taken_at_the_next_step(tmp_path: Path) -> None:
    store, heartbeat = memory_store(), tmp_path / "heartbeat.json"
    with checkpointer(store, heartbeat=heartbeat) as it:
        train(it, 1, 3)
        (tmp_path / "heartbeat.json.request").touch()
        assert it.step(4, state_at(4))
        assert not it.step(5, state_at(5))
        wait_for(lambda: it.status()["checkpoint"] is not None)
    assert elect(store, "run", epoch=1).step == 4


def test_a_job_elsewhere_keeps_its_heartbeat_in_the_bucket_and_is_asked_there() -> None:
    store, key = memory_store(), "runs/run/heartbeats/000001.000001.json"
    with Checkpointer(
        store,
        "run",
        epoch=1,
        site="site-a",
        every_steps=1000,
        heartbeat=HeartbeatObject(store, key),
        heartbeat_seconds=0.01,
    ) as checkpointer:
        checkpointer.step(1, TrainingState({"model": b"1"}))
        wait_for(lambda: json.loads(store.get(key)).get("step") == 1)
        request_checkpoint(store, key)
        wait_for(lambda: not list(store.list(f"{key}{REQUEST_SUFFIX}")))
        wait_for(lambda: checkpointer.step(2, TrainingState({"model": b"2"})))
    assert ended_by_heartbeat(read_heartbeat(store, key)) is JobState.SUCCEEDED


def test_the_heartbeat_moves_during_a_long_step_and_tells_it_from_progress(tmp_path: Path) -> None:
    heartbeat = tmp_path / "heartbeat.json"
    with checkpointer(memory_store(), heartbeat=heartbeat, total_steps=300) as it:
        it.step(7, state_at(7), loss=0.5)
        wait_for(lambda: json.loads(heartbeat.read_text())["step"] == 7)
        before = json.loads(heartbeat.read_text())
        wait_for(lambda: json.loads(heartbeat.read_text())["at"] > before["at"])
        now = json.loads(heartbeat.read_text())
        assert now["step_at"] == before["step_at"]
        assert (now["total_steps"], now["epoch"], now["state"], now["loss"]) == (300, 1, "training", 0.5)
    assert json.loads(heartbeat.read_text())["state"] == "finished"


def test_a_run_that_failed_says_so_in_its_heartbeat(tmp_path: Path) -> None:
    heartbeat = tmp_path / "heartbeat.json"
    with pytest.raises(ZeroDivisionError), checkpointer(memory_store(), heartbeat=heartbeat):
        raise ZeroDivisionError("a bug")
    assert json.loads(heartbeat.read_text())["state"] == "failed"
    assert json.loads(heartbeat.read_text())["detail"] == "a bug"


def test_weights_that_do_not_move_raise_the_alarm() -> None:
    store = memory_store()
    with checkpointer(store) as it:
        for step in (10, 20):
            it.step(step, TrainingState({"model.bin": b"frozen"}, {"position": step}))
            durable(it, step)
        assert "identical to step 10" in it.status()["checkpoint"]["warnings"][0]


def test_a_checkpointer_outside_its_context_says_how_to_use_it() -> None:
    with pytest.raises(CheckpointError, match="with checkpointer"):
        checkpointer(memory_store()).step(1, state_at(1))
