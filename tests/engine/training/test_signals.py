"""A trainer under its backend: asked to checkpoint, asked to leave, killed, started again where it was."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from holdfast.clock import SystemClock
from holdfast.engine.checkpoint import elect
from holdfast.engine.compute import JobHandle, JobSpec, JobState, ProcessBackend
from holdfast.engine.objectstore import local_store

#: It checkpoints every thousandth step: all others are asked for.
TRAINER = """
import os, pathlib, sys, time
from holdfast import Checkpointer
from holdfast.engine.checkpoint import TrainingState
from holdfast.engine.objectstore import local_store
from holdfast.errors import HoldfastError

it = Checkpointer(local_store("bucket", sys.argv[1]), "run", epoch=1, site="site-a", every_steps=1000,
                  heartbeat=pathlib.Path(os.environ["HOLDFAST_HEARTBEAT"]))
resumed = it.resume()
try:
    with it:
        for step in range(resumed.step + 1 if resumed else 1, 100_000):
            time.sleep(0.01)
            it.step(step, TrainingState({"model.bin": str(step).encode()}))
except HoldfastError as error:
    sys.exit(error.exit_code)
"""


def wait_for(condition: Callable[[], Any], *, seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)


class World:
    def __init__(self, folder: Path) -> None:
        (folder / "bucket").mkdir()
        self.store = local_store("bucket", folder / "bucket")
        self.backend = ProcessBackend(
            "site-a",
            folder / "state",
            environ={"PATH": os.environ["PATH"]},
            cwd=folder,
            clock=SystemClock(),
            store=lambda: self.store,
        )
        self.spec = JobSpec("run", 1, "site-a", (sys.executable, "-c", TRAINER, str(folder / "bucket")))

    def submit(self, *, until_step: int) -> JobHandle:
        handle = self.backend.submit(self.spec)
        wait_for(lambda: (self.backend.status(handle).step or 0) >= until_step)
        return handle


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    it = World(tmp_path)
    yield it
    handle = it.backend.find(it.spec.name)
    if handle is not None:
        it.backend.stop(handle, grace_seconds=0.0)


def test_a_stopped_job_saves_its_step_and_the_next_attempt_goes_on_from_it(world: World) -> None:
    job = world.submit(until_step=5)
    assert world.backend.stop(job, grace_seconds=30).state is JobState.STOPPED
    assert world.backend.confirm_dead(job)
    saved = elect(world.store, "run", epoch=1).step
    assert saved >= 5
    again = world.submit(until_step=saved + 3)
    beat = world.backend.heartbeat(again)
    assert beat is not None
    assert (again.reference["attempt"], beat["resumed"]["step"], beat["resumed"]["resume"]) == (2, saved, "bitwise")


def test_a_requested_checkpoint_is_what_a_kill_leaves(world: World) -> None:
    job = world.submit(until_step=3)
    world.backend.request_checkpoint(job)
    wait_for(lambda: elect(world.store, "run", epoch=1).step > 0)
    os.killpg(int(job.reference["pid"]), signal.SIGKILL)
    wait_for(lambda: world.backend.confirm_dead(job))
    assert world.backend.status(job).state is JobState.LOST
    saved = elect(world.store, "run", epoch=1).step
    world.submit(until_step=saved + 1)


def test_a_suspended_job_goes_on_where_it_was(world: World) -> None:
    job = world.submit(until_step=3)
    os.killpg(int(job.reference["pid"]), signal.SIGSTOP)
    wait_for(lambda: "suspended" in str(world.backend.status(job).detail))
    assert world.backend.submit(world.spec) == job
    step = world.backend.status(job).step or 0
    os.killpg(int(job.reference["pid"]), signal.SIGCONT)
    wait_for(lambda: (world.backend.status(job).step or 0) > step + 3)
