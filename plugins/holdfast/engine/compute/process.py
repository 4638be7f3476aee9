"""Training jobs as processes on this machine, each in a session of its own, found again from any other process.

A job's folder is its truth::

    <state folder>/<site>/<run>.e<epoch>/
      lock                       held by everything of the job that lives
      submitting                 held by whoever starts an attempt
      attempt-000001/claim handle.json heartbeat.json result.json log.txt

A site's bucket tells which disk has an attempt, see `hosts`.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from holdfast.clock import Clock
from holdfast.engine.compute import job
from holdfast.engine.compute.errors import AlreadyRuns, JobNotStarted, OnAnotherHost, UnknownHandle
from holdfast.engine.compute.hosts import HostClaims
from holdfast.engine.compute.interface import (
    BackendCapabilities,
    JobHandle,
    JobSpec,
    JobState,
    JobStatus,
)
from holdfast.engine.compute.job import boot
from holdfast.engine.compute.processes import is_locked, is_suspended, session_members, signal_all
from holdfast.engine.compute.remote import ended_by_code, ended_by_heartbeat, status_of, written_at
from holdfast.engine.objectstore.interface import ObjectStore

KIND = "process"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,200}")
_START_SECONDS = 20.0
_KILL_SECONDS = 5.0
_POLL_SECONDS = 0.02
#: A job writes its heartbeat every second. Longer silence of one on another host says nothing: it may be suspended.
_SILENT_SECONDS = 60.0


class ProcessBackend:
    """A `TrainingBackend` of local processes.

    Args:
        site: the site this machine stands in.
        folder: where handles, heartbeats and logs lie; must be on a local disk (file locks).
        environ: what every job gets beneath its own environment; the parent's own is not inherited.
        cwd: where jobs start.
        clock: for waiting.
        store: opens the site's bucket.
    """

    def __init__(
        self,
        site: str,
        folder: Path,
        *,
        environ: Mapping[str, str],
        cwd: Path,
        clock: Clock,
        store: Callable[[], ObjectStore],
    ) -> None:
        self._hosts = HostClaims(store, site)
        self._site = site
        self._folder = folder / site
        self._environ = dict(environ)
        self._cwd = cwd
        self._clock = clock

    @property
    def environ(self) -> dict[str, str]:
        """What every job gets beneath its own environment."""
        return dict(self._environ)

    def capabilities(self) -> BackendCapabilities:
        return BackendCapabilities(KIND, preemption_notice_seconds=None, can_request_checkpoint=True)

    def submit(self, spec: JobSpec) -> JobHandle:
        """Start the job, or return the handle of the one of this name that runs or ended for good.

        A job that failed, was stopped or was killed gets a new attempt in the same epoch, unless it is the one meant.

        Raises:
            AlreadyRuns: something of an earlier attempt still lives though its handle does not say so.
            OnAnotherHost: one was started on another host and is silent, or on another disk; it may still write.
            ComputeUnavailable: the bucket does not answer, so whether another host has the job is not known.
            JobNotStarted: it could not be started.
        """
        folder = self._job_folder(spec.name)
        folder.mkdir(parents=True, exist_ok=True)
        with _exclusively(folder / "submitting"):
            latest = self.find(spec.name)
            if latest is not None:
                status = self.status(latest)
                if status.state is JobState.RUNNING:
                    self._refuse_silent(latest, status)
                if spec.finds(latest.attempt, status.state):
                    return latest
            return self._start(spec, folder)

    def find(self, name: str) -> JobHandle | None:
        """The newest attempt of the job of this name, ``None`` when there is none. Starts nothing."""
        attempts = sorted(self._job_folder(name).glob("attempt-*/handle.json"))
        return self._handle(name, attempts[-1].parent) if attempts else None

    def status(self, handle: JobHandle) -> JobStatus:
        """How the attempt of this handle stands. A killed one is LOST; a suspended one runs.

        An attempt on another host ended when its result, its heartbeat or (on the same kernel, as between containers)
        its free lock says so; else it counts as RUNNING, with what is known in the detail.
        """
        attempt = self._attempt(handle)
        ended = self._result(attempt)
        if ended is None:
            members = self._members(handle)
            if members:
                detail = "suspended by a signal; it writes again when continued" if is_suspended(members) else None
                return self._status(attempt, JobState.RUNNING, detail)
            if self._is_elsewhere(handle):
                return self._elsewhere(handle, attempt)
            ended = self._result(attempt)  # it may have ended between the two looks
        if ended is not None:
            return self._status(attempt, *ended)
        state = ended_by_heartbeat(_read(attempt / "heartbeat.json")) or JobState.LOST
        return self._status(
            attempt,
            state,
            "nothing of it lives and it left no result: it was killed"
            if state is JobState.LOST
            else "its keeper was killed; the heartbeat tells how it ended",
        )

    def request_checkpoint(self, handle: JobHandle) -> None:
        (self._attempt(handle) / "heartbeat.json.request").touch()

    def stop(self, handle: JobHandle, *, grace_seconds: float) -> JobStatus:
        """SIGTERM to everything of the job; SIGKILL to what lives after the grace."""
        members = self._members(handle)
        # The keeper hands SIGTERM on. A job that is told twice may be killed by the second one in its very last
        # moment, when its interpreter has taken its handlers down already.
        keeper = int(handle.reference.get("pid", 0))
        signal_all([pid for pid in members if pid != keeper] or members, signal.SIGTERM)
        signal_all(members, signal.SIGCONT)  # a suspended job only then receives it
        if not self._wait_gone(handle, grace_seconds):
            signal_all(self._members(handle), signal.SIGKILL)
            self._wait_gone(handle, _KILL_SECONDS)
        return self.status(handle)

    def confirm_dead(self, handle: JobHandle) -> bool:
        """Whether nothing of this attempt lives. Of another machine, or of a lock still held: not known, so False."""
        attempt = self._attempt(handle)
        facts = _read(attempt / "handle.json") or dict(handle.reference)
        if facts.get("host") != os.uname().nodename or self._members(handle):
            return False
        newest = self.find(handle.name)
        is_newest = newest is None or newest.reference["attempt"] == handle.reference["attempt"]
        return not (is_newest and is_locked(attempt.parent / job.LOCK_FILE))

    def log(self, handle: JobHandle, *, last_bytes: int = 8192) -> str:
        """The end of the job's output."""
        try:
            with (self._attempt(handle) / job.LOG_FILE).open("rb") as file:
                file.seek(0, os.SEEK_END)
                file.seek(max(0, file.tell() - last_bytes))
                return file.read().decode("utf-8", errors="replace")
        except FileNotFoundError:
            return ""

    def links(self, handle: JobHandle) -> Mapping[str, str]:  # noqa: ARG002
        """A process has no page of its own; `log` reads its output."""
        return {}

    def heartbeat(self, handle: JobHandle) -> dict[str, Any] | None:
        """The job's heartbeat as it wrote it (docs/formats/checkpoint.md), ``None`` before its first."""
        return _read(self._attempt(handle) / "heartbeat.json")

    # -----------------------------------------------------------------------------------------------------------

    def _start(self, spec: JobSpec, folder: Path) -> JobHandle:
        here = max((int(path.name.removeprefix("attempt-")) for path in folder.glob("attempt-*")), default=0)
        # On a new disk nothing is left of the attempts before, and a number counts once.
        number = max(here, spec.after or 0, self._hosts.newest(spec, folder)) + 1
        attempt = folder / f"attempt-{number:06d}"
        attempt.mkdir()
        self._hosts.take(spec, attempt, number)
        environ = {**self._environ, **spec.environment, "HOLDFAST_HEARTBEAT": str(attempt / "heartbeat.json")}
        try:
            starter = subprocess.run(
                [sys.executable, "-I", "-S", job.__file__, str(folder), str(attempt), *spec.command],
                env=environ,
                cwd=self._cwd,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                start_new_session=True,
                check=False,
                timeout=_START_SECONDS,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise JobNotStarted(
                "the training job could not be started", where=f"{self._site}: {spec.name}", found=str(error)
            ) from None
        if starter.returncode == job.LOCKED:
            raise AlreadyRuns(
                "something of this job still lives; no second one was started",
                where=f"{self._site}: {spec.name}",
                expected="a free lock",
                found=f"{folder / job.LOCK_FILE} is held",
                fix="Stop it (`fuser` on that file tells who holds it), then submit again",
            )
        if starter.returncode != job.STARTED:
            raise JobNotStarted(
                "the training job could not be started",
                where=f"{self._site}: {spec.name}",
                expected="exit code 0 of its keeper",
                found=f"{starter.returncode}: {starter.stderr.decode(errors='replace').strip()[-500:]}",
            )
        handle = self._handle(spec.name, attempt)
        self._hosts.started(spec, handle)
        return handle

    def _job_folder(self, name: str) -> Path:
        if not _NAME.fullmatch(name):
            raise JobNotStarted(
                "the job's name cannot be a folder's name",
                where=self._site,
                expected="letters, digits and . _ -",
                found=repr(name),
            )
        return self._folder / name

    def _handle(self, name: str, attempt: Path) -> JobHandle:
        facts = _read(attempt / job.HANDLE_FILE) or {}
        reference: dict[str, str | int | float] = {
            "folder": str(attempt),
            "attempt": int(attempt.name.removeprefix("attempt-")),
            **{key: facts[key] for key in ("pid", "started", "boot", "host") if key in facts},
        }
        return JobHandle(KIND, self._site, name, reference)

    def _attempt(self, handle: JobHandle) -> Path:
        folder = Path(str(handle.reference.get("folder", "")))
        if handle.backend != KIND or not folder.is_dir():
            raise UnknownHandle(
                "this machine has no such job",
                where=f"{self._site}: {handle.name}",
                expected="a folder of a process job",
                found=str(folder),
                fix="Ask on the machine that started it; its name is in the handle's `host`",
            )
        return folder

    def _members(self, handle: JobHandle) -> list[int]:
        reference = handle.reference
        if self._is_elsewhere(handle):
            return []
        return session_members(int(reference["pid"]), str(reference["started"]), str(reference["boot"]))

    def _is_elsewhere(self, handle: JobHandle) -> bool:
        return handle.reference.get("host") != os.uname().nodename

    def _elsewhere(self, handle: JobHandle, attempt: Path) -> JobStatus:
        """An attempt on another host without a result: nobody here can see whether its processes live."""
        host, here = handle.reference.get("host", "an unknown host"), boot()
        ended = ended_by_heartbeat(_read(attempt / "heartbeat.json"))
        if ended is not None:
            return self._status(attempt, ended, f"on {host}; the heartbeat tells how it ended")
        newest = self.find(handle.name)
        superseded = newest is not None and newest.reference["attempt"] != handle.reference["attempt"]
        locked = not superseded and is_locked(attempt.parent / job.LOCK_FILE)
        # One kernel keeps the locks of all its containers, so there a free lock proves that nothing of the job lives.
        if superseded or (here and handle.reference.get("boot") == here and not locked):
            return self._status(attempt, JobState.LOST, f"nothing of it lives and it left no result: it died on {host}")
        silent = self._silent_seconds(attempt)
        if locked or silent <= _SILENT_SECONDS:
            return self._status(attempt, JobState.RUNNING, f"on {host}, which cannot be seen from here")
        return self._status(
            attempt, JobState.RUNNING, f"on {host}, silent for {silent:.0f} s; whether it lives is not known here"
        )

    def _refuse_silent(self, handle: JobHandle, status: JobStatus) -> None:
        """Reattach to another host's job while it shows that it lives. Raises OnAnotherHost when it does not."""
        attempt = self._attempt(handle)
        if not self._is_elsewhere(handle) or is_locked(attempt.parent / job.LOCK_FILE):
            return
        silent = self._silent_seconds(attempt)
        if silent > _SILENT_SECONDS:
            raise OnAnotherHost(
                "this job was started on another host and is silent; no second one was started",
                where=f"{self._site}: {handle.name}",
                expected=f"a heartbeat of the last {_SILENT_SECONDS:.0f} s, or a result",
                found=status.detail,
                fix=f"Look on {handle.reference.get('host')}; if that host is gone for good, remove {attempt}",
            )

    def _silent_seconds(self, attempt: Path) -> float:
        """Since the newest sign of life, by the writer's clock: its heartbeat, else its start."""
        beat, facts = _read(attempt / "heartbeat.json") or {}, _read(attempt / job.HANDLE_FILE) or {}
        at = written_at(beat)
        seen = at.timestamp() if at is not None else float(facts.get("submitted_at", 0.0))
        return max(0.0, self._clock.now().timestamp() - seen)

    def _result(self, attempt: Path) -> tuple[JobState, str | None] | None:
        result = _read(attempt / job.RESULT_FILE)
        return None if result is None else _ended(int(result["exit_code"]), result.get("detail"))

    def _status(self, attempt: Path, state: JobState, detail: str | None) -> JobStatus:
        return status_of(state, _read(attempt / "heartbeat.json"), detail)

    def _wait_gone(self, handle: JobHandle, seconds: float) -> bool:
        deadline = self._clock.monotonic() + seconds
        while self._members(handle):
            if self._clock.monotonic() >= deadline:
                return False
            self._clock.sleep(_POLL_SECONDS)
        return True


def _ended(exit_code: int, detail: str | None) -> tuple[JobState, str | None]:
    if exit_code in (-signal.SIGKILL, -signal.SIGTERM):
        return JobState.LOST, f"killed by {signal.Signals(-exit_code).name}"
    state = ended_by_code(exit_code)
    return state, detail or (None if state not in (JobState.FAILED, JobState.LOST) else f"exit code {exit_code}")


def _read(path: Path) -> dict[str, Any] | None:
    """A small JSON file that is replaced, never rewritten; None when it is not there."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError):
        return None
    return document if isinstance(document, dict) else None


@contextmanager
def _exclusively(path: Path) -> Iterator[None]:
    """One submitter at a time; the lock goes with the process that holds it."""
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
