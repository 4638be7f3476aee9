"""Process jobs: found again from anywhere, never two writers, dead only when known to be."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from holdfast.clock import SystemClock
from holdfast.engine.compute import JobHandle, JobNotStarted, JobSpec, JobState, ProcessBackend, UnknownHandle
from holdfast.engine.compute.errors import AlreadyRuns, ComputeUnavailable, OnAnotherHost
from holdfast.engine.compute.remote import claim_key
from holdfast.engine.objectstore import local_store
from holdfast.engine.objectstore.errors import StoreUnavailable
from holdfast.engine.objectstore.interface import CREATE

#: A job that writes its pid and waits, and leaves with the code it finds in `leave`.
WAITING = """
import os, pathlib, sys, time
folder = pathlib.Path(sys.argv[1])
(folder / f"ran-{os.getpid()}").touch()
while not (folder / "leave").exists():
    time.sleep(0.01)
sys.exit(int((folder / "leave").read_text()))
"""


def wait_for(condition: Callable[[], Any], *, seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)


class World:
    """A backend in a folder of its own, and the jobs it started, ended afterwards."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.jobs = folder / "work"
        self.jobs.mkdir()
        (folder / "bucket").mkdir()
        self.store: Any = local_store("site-a", folder / "bucket")
        self.backend = self.open()

    def open(self, disk: str = "state") -> ProcessBackend:
        return ProcessBackend(
            "site-a",
            self.folder / disk,
            environ={"PATH": os.environ["PATH"]},
            cwd=self.folder,
            clock=SystemClock(),
            store=lambda: self.store,
        )

    def spec(self, code: str = WAITING, *, run: str = "run", epoch: int = 1) -> JobSpec:
        return JobSpec(run, epoch, "site-a", (sys.executable, "-I", "-S", "-c", code, str(self.jobs)), {"GIVEN": "yes"})

    def ran(self) -> list[int]:
        return [int(path.name.removeprefix("ran-")) for path in self.jobs.glob("ran-*")]

    def leave(self, code: int) -> None:
        temporary = self.jobs / "leaving"
        temporary.write_text(str(code))
        temporary.rename(self.jobs / "leave")

    def state(self, handle: JobHandle) -> JobState:
        return self.backend.status(handle).state


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    it = World(tmp_path)
    yield it
    for path in (tmp_path / "state").glob("site-a/*/attempt-*/handle.json"):
        handle = it.backend._handle(path.parent.parent.name, path.parent)
        it.backend.stop(handle, grace_seconds=0.0)


@pytest.mark.parametrize(
    ("code", "state"), [(0, JobState.SUCCEEDED), (76, JobState.FENCED), (75, JobState.STOPPED), (1, JobState.FAILED)]
)
def test_how_a_job_ended_is_known_from_its_exit_code(world: World, code: int, state: JobState) -> None:
    handle = world.backend.submit(world.spec())
    assert world.state(handle) is JobState.RUNNING
    world.leave(code)
    wait_for(lambda: world.state(handle) is state)
    wait_for(lambda: world.backend.confirm_dead(handle))


def test_a_second_submit_finds_the_running_job(world: World) -> None:
    first = world.backend.submit(world.spec())
    assert world.open().submit(world.spec()) == first
    wait_for(lambda: len(world.ran()) == 1)


def test_many_submits_at_once_start_one_job(world: World) -> None:
    with ThreadPoolExecutor(8) as pool:
        handles = set(pool.map(lambda _: str(world.open().submit(world.spec())), range(8)))
    assert len(handles) == 1
    wait_for(world.ran)
    assert len(world.ran()) == 1


@pytest.mark.parametrize(("code", "starts_again"), [(0, False), (76, False), (75, True), (1, True)])
def test_what_ended_for_good_is_not_started_again(world: World, code: int, starts_again: bool) -> None:
    first = world.backend.submit(world.spec())
    world.leave(code)
    wait_for(lambda: world.state(first) is not JobState.RUNNING)
    wait_for(lambda: world.backend.confirm_dead(first))
    assert (world.backend.submit(world.spec()) != first) is starts_again


@pytest.mark.parametrize("code", [0, 76])
def test_what_ended_for_good_is_started_again_by_who_knows_of_it(world: World, code: int) -> None:
    first = world.backend.submit(replace(world.spec(), after=0))
    world.leave(code)
    wait_for(lambda: world.backend.confirm_dead(first))
    assert world.backend.submit(replace(world.spec(), after=0)) == first
    assert world.backend.submit(replace(world.spec(), after=1)).attempt == 2


def test_an_end_the_submitter_does_not_know_of_is_found_and_not_started_again(world: World) -> None:
    backend = world.backend
    world.leave(1)
    first = backend.submit(replace(world.spec(), after=0))
    wait_for(lambda: backend.confirm_dead(first))
    assert backend.submit(replace(world.spec(), after=0)) == first
    second = backend.submit(replace(world.spec(), after=1))
    assert (first.attempt, second.attempt) == (1, 2)
    assert backend.submit(replace(world.spec(), after=1)) == second
    assert backend.submit(replace(world.spec(), after=0)) == second


def test_the_job_survives_the_kill_of_the_group_that_submitted_it(world: World) -> None:
    script = f"""
import os, pathlib, signal, sys
from holdfast.clock import SystemClock
from holdfast.engine.compute import JobSpec, ProcessBackend
from holdfast.engine.objectstore import local_store
backend = ProcessBackend("site-a", pathlib.Path({str(world.folder / "state")!r}), environ={{}}, cwd=pathlib.Path("/"),
                         clock=SystemClock(), store=lambda: local_store("site-a", {str(world.folder / "bucket")!r}))
backend.submit(JobSpec("run", 1, "site-a", {world.spec().command!r}))
os.killpg(0, signal.SIGKILL)
"""
    parent = subprocess.run(
        [sys.executable, "-c", script],
        start_new_session=True,
        check=False,
        timeout=60,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert parent.returncode == -signal.SIGKILL
    handle = world.backend.find("run.e1")
    assert handle is not None
    assert world.state(handle) is JobState.RUNNING
    world.leave(0)
    wait_for(lambda: world.state(handle) is JobState.SUCCEEDED)


def test_a_handle_that_went_through_json_finds_the_job_from_another_process(world: World) -> None:
    handle = world.backend.submit(world.spec())
    text = json.dumps(
        {"backend": handle.backend, "site": handle.site, "name": handle.name, "reference": dict(handle.reference)}
    )
    again = JobHandle(**json.loads(text))
    assert world.open().status(again).state is JobState.RUNNING


def test_a_killed_job_is_lost_and_starts_again(world: World) -> None:
    first = world.backend.submit(world.spec())
    os.killpg(int(first.reference["pid"]), signal.SIGKILL)
    wait_for(lambda: world.state(first) is JobState.LOST)
    wait_for(lambda: world.backend.confirm_dead(first))
    second = world.backend.submit(world.spec())
    assert second.reference["attempt"] == 2
    assert world.state(second) is JobState.RUNNING
    assert world.state(first) is JobState.LOST


def test_a_job_whose_trainer_alone_is_killed_is_lost_with_the_signal(world: World) -> None:
    handle = world.backend.submit(world.spec())
    wait_for(world.ran)
    os.kill(world.ran()[0], signal.SIGKILL)
    wait_for(lambda: world.state(handle) is JobState.LOST)
    assert world.backend.status(handle).detail == "killed by SIGKILL"


def test_a_trainer_that_outlives_its_keeper_still_counts_as_running(world: World) -> None:
    handle = world.backend.submit(world.spec())
    wait_for(world.ran)
    os.kill(int(handle.reference["pid"]), signal.SIGKILL)
    wait_for(lambda: not Path(f"/proc/{handle.reference['pid']}/fd/0").exists())
    assert world.state(handle) is JobState.RUNNING
    assert not world.backend.confirm_dead(handle)
    assert world.backend.submit(world.spec()) == handle
    assert len(world.ran()) == 1


def test_the_lock_keeps_a_second_writer_out_though_no_handle_tells_of_the_first(world: World) -> None:
    handle = world.backend.submit(world.spec())
    attempt = Path(str(handle.reference["folder"]))
    (attempt / "handle.json").rename(attempt / "hidden")
    with pytest.raises(AlreadyRuns):
        world.backend.submit(world.spec())
    (attempt / "hidden").rename(attempt / "handle.json")


def test_a_suspended_job_is_not_dead(world: World) -> None:
    handle = world.backend.submit(world.spec())
    wait_for(world.ran)
    os.killpg(int(handle.reference["pid"]), signal.SIGSTOP)
    wait_for(lambda: "suspended" in str(world.backend.status(handle).detail))
    assert world.state(handle) is JobState.RUNNING
    assert not world.backend.confirm_dead(handle)
    assert world.backend.stop(handle, grace_seconds=5.0).state is JobState.LOST
    assert world.backend.confirm_dead(handle)


def test_stop_gives_the_job_its_grace_and_then_kills_it(world: World) -> None:
    polite = world.backend.submit(
        world.spec(
            "import signal, sys, time, pathlib\n"
            "signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))\n"
            "pathlib.Path(sys.argv[1], 'ran-1').touch()\ntime.sleep(600)"
        )
    )
    wait_for(world.ran)
    assert world.backend.stop(polite, grace_seconds=20.0).state is JobState.STOPPED
    deaf = world.backend.submit(
        world.spec(
            "import signal, sys, time, pathlib\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
            "pathlib.Path(sys.argv[1], 'ran-2').touch()\ntime.sleep(600)",
            epoch=2,
        )
    )
    wait_for(lambda: len(world.ran()) == 2)
    assert world.backend.stop(deaf, grace_seconds=0.2).state is JobState.LOST
    assert world.backend.confirm_dead(deaf)


def test_a_job_is_asked_to_stop_once(world: World) -> None:
    """Asked again while it ends, it would be killed and count as lost, though it left in good order."""
    handle = world.backend.submit(
        world.spec(
            "import signal, sys, pathlib\n"
            "signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])\n"
            "pathlib.Path(sys.argv[1], 'ran-1').touch()\n"
            "signal.sigwait([signal.SIGTERM])\n"
            "again = signal.sigtimedwait([signal.SIGTERM], 0.5)\n"
            "sys.exit(1 if again else 75)"
        )
    )
    wait_for(world.ran)
    assert world.backend.stop(handle, grace_seconds=20.0).state is JobState.STOPPED


def test_a_pid_that_belongs_to_somebody_else_by_now_is_not_the_job(world: World) -> None:
    handle = world.backend.submit(world.spec())
    world.backend.stop(handle, grace_seconds=0.0)
    mine = replace(handle, reference={**handle.reference, "pid": os.getpid(), "started": "1"})
    assert world.backend.status(mine).state is JobState.LOST
    world.backend.stop(mine, grace_seconds=0.0)  # and this test goes on


def test_another_machines_job_is_never_confirmed_dead(world: World) -> None:
    handle = world.backend.submit(world.spec())
    world.backend.stop(handle, grace_seconds=0.0)
    facts = Path(str(handle.reference["folder"]), "handle.json")
    facts.write_text(json.dumps({**json.loads(facts.read_text()), "host": "another"}))
    assert not world.backend.confirm_dead(handle)


def moved_away(world: World, handle: JobHandle, *, silent_seconds: float, **facts: str) -> JobHandle:
    """The handle as a worker on another host finds it in a shared folder."""
    attempt = Path(str(handle.reference["folder"]))
    known = json.loads((attempt / "handle.json").read_text())
    began = time.time() - silent_seconds
    (attempt / "handle.json").write_text(
        json.dumps({**known, "host": "another", "boot": "another", "submitted_at": began, **facts})
    )
    at = datetime.fromtimestamp(began, UTC).isoformat()
    (attempt / "heartbeat.json").write_text(json.dumps({"state": "running", "step": 7, "at": at}))
    found = world.backend.find(handle.name)
    assert found is not None
    return found


def killed(world: World) -> JobHandle:
    handle = world.backend.submit(world.spec())
    world.backend.stop(handle, grace_seconds=0.0)
    for result in Path(str(handle.reference["folder"])).glob("result.json"):
        result.unlink()
    return handle


def test_another_hosts_job_is_never_called_lost_and_gets_no_second_writer(world: World) -> None:
    silent = moved_away(world, killed(world), silent_seconds=3600)
    status = world.backend.status(silent)
    assert status.state is JobState.RUNNING
    assert "another" in str(status.detail)
    assert "not known" in str(status.detail)
    with pytest.raises(OnAnotherHost, match="another") as refused:
        world.backend.submit(world.spec())
    assert refused.value.transient
    assert len(list((world.folder / "state").glob("site-a/*/attempt-*"))) == 1


def test_another_hosts_job_that_beats_is_reattached(world: World) -> None:
    beating = moved_away(world, killed(world), silent_seconds=1)
    assert world.state(beating) is JobState.RUNNING
    assert world.backend.submit(world.spec()) == beating


def test_another_hosts_job_ended_as_its_result_or_heartbeat_says(world: World) -> None:
    moved = moved_away(world, killed(world), silent_seconds=3600)
    attempt = Path(str(moved.reference["folder"]))
    (attempt / "heartbeat.json").write_text(json.dumps({"state": "stopped"}))
    assert world.state(moved) is JobState.STOPPED
    (attempt / "result.json").write_text(json.dumps({"exit_code": 0}))
    assert world.state(moved) is JobState.SUCCEEDED


def test_a_free_lock_proves_the_job_of_a_container_on_this_kernel_dead(world: World) -> None:
    handle = killed(world)
    here = str(handle.reference["boot"])
    assert world.state(moved_away(world, handle, silent_seconds=1, boot=here)) is JobState.LOST


def test_a_held_lock_shows_that_another_hosts_job_lives(world: World) -> None:
    handle = world.backend.submit(world.spec())
    wait_for(world.ran)
    moved = moved_away(world, handle, silent_seconds=3600, boot=str(handle.reference["boot"]))
    assert world.state(moved) is JobState.RUNNING
    assert world.backend.submit(world.spec()) == moved
    moved_away(world, handle, silent_seconds=0, host=os.uname().nodename, boot=str(handle.reference["boot"]))


def test_a_worker_with_a_disk_of_its_own_starts_no_second_writer(world: World) -> None:
    first = world.backend.submit(world.spec())
    other = world.open("state-of-worker-2")
    with pytest.raises(OnAnotherHost, match="another disk") as refused:
        other.submit(world.spec())
    assert refused.value.transient
    wait_for(world.ran)
    assert len(world.ran()) == 1
    assert world.backend.submit(world.spec()) == first
    world.backend.stop(first, grace_seconds=0.0)
    # This host still, so it can see that the process is gone; the number is not used again.
    second = other.submit(world.spec())
    assert second.attempt == 2
    other.stop(second, grace_seconds=0.0)


def test_of_two_disks_that_start_at_once_one_has_the_job(world: World) -> None:
    disks = [world.open(f"disk-{number}") for number in range(4)]

    def submit(backend: ProcessBackend) -> JobHandle | None:
        try:
            return backend.submit(world.spec())
        except OnAnotherHost:
            return None

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(submit, disks))
    try:
        assert len([one for one in found if one is not None]) == 1
    finally:
        for backend, handle in zip(disks, found, strict=True):
            if handle is not None:
                backend.stop(handle, grace_seconds=0.0)


@pytest.mark.parametrize("changed", [{"holder": "another"}, {"boot": "another"}, {"processes": "pid:[1]"}])
def test_a_job_of_a_host_that_is_gone_goes_on_once_a_person_says_so(world: World, changed: dict[str, str]) -> None:
    handle = world.backend.submit(world.spec())
    world.backend.stop(handle, grace_seconds=0.0)
    key = claim_key("run", 1, 1)
    claim = json.loads(world.store.get(key))
    world.store.delete(key)
    world.store.put(key, json.dumps({**claim, **changed}).encode(), mode=CREATE)
    other = world.open("state-of-worker-2")
    with pytest.raises(OnAnotherHost) as refused:
        other.submit(replace(world.spec(), after=0))
    assert key in str(refused.value.fix)
    known = other.submit(replace(world.spec(), after=1))  # its end was written down
    assert known.attempt == 2
    other.stop(known, grace_seconds=0.0)
    world.store.delete(claim_key("run", 1, 2))
    world.store.delete(key)
    third = world.open("state-of-worker-3")
    again = third.submit(world.spec())
    third.stop(again, grace_seconds=0.0)


def test_nothing_is_started_while_the_bucket_cannot_say_who_has_the_job(world: World) -> None:
    class Away:
        def list(self, prefix: str) -> Any:
            raise StoreUnavailable("the bucket does not answer", where=prefix)

    there, world.store = world.store, Away()
    with pytest.raises(ComputeUnavailable):
        world.backend.submit(world.spec())
    assert not world.ran()
    world.store = there
    handle = world.backend.submit(world.spec())
    world.store = Away()
    assert world.backend.submit(world.spec()) == handle


def test_the_parents_environment_is_not_inherited(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW__CORE__FERNET_KEY", "secret")
    handle = world.backend.submit(world.spec("import os\nprint(sorted(os.environ))"))
    wait_for(lambda: world.state(handle) is JobState.SUCCEEDED)
    log = world.backend.log(handle)
    assert "GIVEN" in log
    assert "HOLDFAST_HEARTBEAT" in log
    assert "FERNET" not in log


def test_a_command_that_does_not_exist_fails_with_the_reason(world: World) -> None:
    handle = world.backend.submit(replace(world.spec(), command=("/no/such/program",)))
    wait_for(lambda: world.state(handle) is JobState.FAILED)
    assert "/no/such/program" in str(world.backend.status(handle).detail)


def test_the_heartbeat_shows_in_the_status(world: World) -> None:
    code = (
        "import json, os, pathlib, sys, time\npathlib.Path(os.environ['HOLDFAST_HEARTBEAT']).write_text(json.dumps("
        "{'step': 7, 'total_steps': 300, 'at': '2026-01-02T03:04:05.000000Z'}))\ntime.sleep(600)"
    )
    handle = world.backend.submit(world.spec(code))
    wait_for(lambda: world.backend.status(handle).step == 7)
    status = world.backend.status(handle)
    assert (status.total_steps, status.heartbeat_at and status.heartbeat_at.isoformat()) == (
        300,
        "2026-01-02T03:04:05+00:00",
    )


def test_a_request_for_a_checkpoint_lies_beside_the_heartbeat(world: World) -> None:
    handle = world.backend.submit(world.spec())
    world.backend.request_checkpoint(handle)
    assert Path(str(handle.reference["folder"]), "heartbeat.json.request").exists()


def test_a_handle_of_nothing_and_a_name_that_is_a_path_are_refused(world: World) -> None:
    with pytest.raises(UnknownHandle):
        world.backend.status(JobHandle("process", "site-a", "run.e1", {"folder": "/no/such/folder"}))
    with pytest.raises(JobNotStarted):
        world.backend.submit(world.spec(run="../elsewhere"))
    assert world.backend.find("run.e9") is None
