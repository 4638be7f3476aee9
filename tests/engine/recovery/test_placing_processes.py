"""Placing real processes: starters that race and die, machines that are lost, and one process at a time."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import placing_world
from holdfast.engine.compute import JobState
from holdfast.engine.recovery.placing import GivenUp, NoRoom, Placed
from placing_world import RUN, ScarceBackend, make, start


def wait_for(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    make(tmp_path)
    yield tmp_path
    backend = ScarceBackend(tmp_path)
    for path in (tmp_path / "state").glob("site-a/*/attempt-*/handle.json"):
        backend.stop(backend._handle(path.parent.parent.name, path.parent), grace_seconds=0.0)


def placed(folder: Path) -> Placed:
    found = start(folder)
    assert isinstance(found, Placed), found
    return found


def asked(folder: Path) -> list[str]:
    return (folder / "asked").read_text().split()


def ran(folder: Path) -> list[int]:
    return [int(path.name.removeprefix("ran-")) for path in folder.glob("ran-*")]


def kill(folder: Path, found: Placed) -> None:
    """The machine is lost: the job and its keeper die at once."""
    backend = ScarceBackend(folder)
    wait_for(lambda: ran(folder))
    for pid in backend._members(found.handle):
        os.kill(pid, signal.SIGKILL)
    wait_for(lambda: backend.status(found.handle).state is JobState.LOST)


def starter(folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, placing_world.__file__, str(folder)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.PIPE,
        text=True,
    )


def answers(starters: list[subprocess.Popen[str]]) -> list[Any]:
    said = [one.communicate(timeout=120)[0] for one in starters]
    assert [one.returncode for one in starters] == [0] * len(starters)
    return [json.loads(one) for one in said]


def test_the_first_placement_that_has_a_machine_runs_the_job(folder: Path) -> None:
    (folder / "full-small").touch()
    found = placed(folder)
    assert (found.attempt, found.placement.machine) == (2, "big")
    assert ScarceBackend(folder).status(found.handle).state is JobState.RUNNING
    assert placed(folder).handle == found.handle
    assert asked(folder) == ["small", "big"]


def test_no_machine_starts_no_process(folder: Path) -> None:
    (folder / "full-small").touch()
    (folder / "full-big").touch()
    found = start(folder)
    assert isinstance(found, NoRoom)
    assert found.counts.without_capacity == 2
    assert ScarceBackend(folder).find(f"{RUN}.e1") is None


def test_a_killed_job_goes_on_at_the_next_placement(folder: Path) -> None:
    first = placed(folder)
    kill(folder, first)
    second = placed(folder)
    assert (second.attempt, second.placement.machine) == (2, "big")
    assert ScarceBackend(folder).confirm_dead(first.handle)
    assert ScarceBackend(folder).status(second.handle).state is JobState.RUNNING


def test_a_job_that_fails_by_itself_is_not_started_again(folder: Path) -> None:
    (folder / "leave").write_text("3")
    first = placed(folder)
    wait_for(lambda: ScarceBackend(folder).status(first.handle).state is JobState.FAILED)
    for _ in range(2):
        found = start(folder)
        assert isinstance(found, GivenUp)
        assert found.counts.user_errors == 1
    assert asked(folder) == ["small"]


@pytest.mark.slow
def test_starters_in_processes_of_their_own_start_one_job(folder: Path) -> None:
    first = answers([starter(folder) for _ in range(4)])
    assert len({tuple(one) for one in first}) == 1
    assert first[0][:2] == [1, "small"]
    found = placed(folder)
    assert found.handle.reference["pid"] == first[0][2]
    kill(folder, found)
    second = answers([starter(folder) for _ in range(4)])
    assert len({tuple(one) for one in second}) == 1
    assert second[0][:2] == [2, "big"]
    assert asked(folder) == ["small", "big"]
    assert len(ran(folder)) <= 2


def test_a_starter_that_died_before_it_submitted_left_an_attempt_that_is_submitted_once(folder: Path) -> None:
    (folder / "die").touch()
    died = starter(folder)
    died.communicate(timeout=120)
    assert died.returncode == 9
    attempt = folder / "bucket" / "runs" / RUN / "attempts" / "000001.000001.json"
    written = attempt.read_bytes()
    (folder / "die").unlink()
    found = placed(folder)
    assert (found.attempt, found.placement.machine, found.submitted) == (1, "small", True)
    assert placed(folder).handle == found.handle
    assert attempt.read_bytes() == written
    assert len(list(attempt.parent.iterdir())) == 1


def test_a_failure_is_not_started_again_unseen_on_a_new_disk(folder: Path) -> None:
    for _ in range(2):
        kill(folder, placed(folder))
        for path in folder.glob("ran-*"):
            path.unlink()
    third = placed(folder)
    assert third.attempt == 3
    backend = ScarceBackend(folder)
    (folder / "leave").write_text("1")
    wait_for(lambda: backend.status(third.handle).state is JobState.FAILED)
    shutil.rmtree(folder / "state")
    again = placed(folder)
    assert (again.attempt, again.submitted) == (3, True)
    assert again.handle.attempt > 2
    wait_for(lambda: backend.status(again.handle).state is JobState.FAILED)
    assert isinstance(start(folder), GivenUp)
    assert isinstance(start(folder), GivenUp)
    assert len(asked(folder)) == 4
