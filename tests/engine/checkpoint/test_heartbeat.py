"""The heartbeat: whatever becomes of it, training goes on, and what was said last stays said."""

from __future__ import annotations

import json
import shutil
import threading
from pathlib import Path
from typing import Any

import pytest

from engine.checkpoint.worlds import OrderedFaults, wait_for
from holdfast.clock import FakeClock
from holdfast.engine.checkpoint import Checkpointer, StopRequested, TrainingState
from holdfast.engine.checkpoint.heartbeat import Heartbeat, HeartbeatObject
from holdfast.engine.objectstore import ObjectStore, ObjectVersion, memory_store


def checkpointer(heartbeat: Path) -> Checkpointer:
    return Checkpointer(
        memory_store(), "run", epoch=1, site="site-a", every_steps=1, fingerprint={}, heartbeat=heartbeat
    )


def lose(folder: Path) -> None:
    """From now on nothing can be written, renamed or deleted there."""
    shutil.rmtree(folder)
    folder.write_text("no folder any more")


def test_a_heartbeat_that_cannot_be_written_does_not_end_training(tmp_path: Path) -> None:
    folder = tmp_path / "state"
    with checkpointer(folder / "heartbeat.json") as it:
        it.step(1, TrainingState({"model": b"1"}))
        lose(folder)
        it.step(2, TrainingState({"model": b"2"}))
        finished = it.finish(TrainingState({"model": b"2"}))
        assert it.status()["state"] == "finishing"
    assert finished.manifest.step == 2


def test_a_job_asked_to_leave_ends_with_its_own_exit_code_although_the_disk_is_full(tmp_path: Path) -> None:
    folder = tmp_path / "state"

    def train() -> None:
        with checkpointer(folder / "heartbeat.json") as it:
            it.step(1, TrainingState({"model": b"1"}))
            lose(folder)
            it.request_stop()
            it.step(2, TrainingState({"model": b"2"}))

    with pytest.raises(StopRequested):
        train()


def test_the_file_is_current_again_once_it_can_be_written(tmp_path: Path) -> None:
    path, clock = tmp_path / "state" / "heartbeat.json", FakeClock()
    heartbeat = Heartbeat(path, clock)
    heartbeat.write(step=1)
    lose(path.parent)
    clock.advance(1)
    heartbeat.note(step=2)
    assert heartbeat.facts["step"] == 2
    path.parent.unlink()
    clock.advance(1)
    heartbeat.note(loss=0.5)
    assert (json.loads(path.read_text())["step"], json.loads(path.read_text())["loss"]) == (2, 0.5)


def test_a_slow_put_never_lands_after_the_final_one() -> None:
    store, slow, gate, landed = Recording(memory_store()), threading.Event(), threading.Event(), threading.Event()

    def before_put(_key: str) -> None:
        if threading.current_thread().name == "last":
            landed.set()
        elif threading.current_thread().name == "heartbeat" and not slow.is_set():
            slow.set()
            assert gate.wait(20)

    store.before_put = before_put
    heartbeat = Heartbeat(HeartbeatObject(store, "hb"), FakeClock(), interval_seconds=0.01)
    heartbeat.start()
    assert slow.wait(20)
    last = threading.Thread(target=heartbeat.write, kwargs={"state": "finished"}, name="last")
    last.start()
    wait_for(lambda: heartbeat.facts["state"] == "finished")
    landed.wait(0.2)  # where puts are not one after the other, the last one has landed by now
    gate.set()
    last.join()
    heartbeat.close()
    begun, ended = store.states.count("starting"), store.states.count("finished")
    assert store.states == ["starting"] * begun + ["finished"] * ended


class Recording(OrderedFaults):
    """Tells the states that landed, in their order."""

    def __init__(self, inner: ObjectStore) -> None:
        super().__init__(inner)
        self.states: list[str] = []

    def put(self, key: str, data: Any, **more: Any) -> ObjectVersion:
        done = super().put(key, data, **more)
        self.states.append(json.loads(data)["state"])
        return done


def refuse(constant: str) -> None:
    raise AssertionError(f"no JSON: {constant}")


@pytest.mark.parametrize("loss", [float("nan"), float("inf"), float("-inf")])
def test_a_loss_that_is_not_finite_is_null(tmp_path: Path, loss: float) -> None:
    store = memory_store()
    for path in (tmp_path / "heartbeat.json", HeartbeatObject(store, "heartbeat.json")):
        Heartbeat(path, FakeClock(), run="r").write(loss=loss, step=3)
    for data in ((tmp_path / "heartbeat.json").read_bytes(), store.get("heartbeat.json")):
        found = json.loads(data, parse_constant=refuse)
        assert (found["run"], found["step"], found["loss"]) == ("r", 3, None)
