"""The keeper: one small process that starts the sandbox's parts and starts them again when they die.

It is told what to run by ``parts.json`` and tells what runs in ``run/<part>.json``. It owns no state of its own:
killed and started again it adopts what still runs.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from types import FrameType

from holdfast.errors import HoldfastError
from holdfast.sandbox import processes
from holdfast.sandbox.files import read_json, write_json
from holdfast.sandbox.layout import Paths
from holdfast.sandbox.parts import PART_VARIABLE, Part, base_environment, mark
from holdfast.sandbox.ports import HOST, is_free
from holdfast.sandbox.processes import Identity
from holdfast.sandbox.provision import provision

_FAST_SECONDS, _IDLE_SECONDS = 0.02, 0.1
_LONGEST_WAIT_SECONDS = 5.0


@dataclass
class Run:
    """What the keeper knows of one part; written to ``run/<part>.json`` when it changes."""

    name: str
    state: str = "stopped"
    pid: int | None = None
    started: str | None = None
    restarts: int = 0
    early_deaths: int = 0
    ready: bool = False
    error: str | None = None
    revision: str = ""

    @property
    def identity(self) -> Identity | None:
        return Identity(self.pid, self.started) if self.pid is not None and self.started is not None else None

    @property
    def alive(self) -> bool:
        identity = self.identity
        return identity is not None and identity.alive


def read_runs(paths: Paths) -> dict[str, Run]:
    """What the keeper wrote last, by part."""
    runs = {}
    for file in paths.run.glob("*.json"):
        document = read_json(file)
        if isinstance(document, dict):
            known = {field.name for field in fields(Run)}
            runs[document["name"]] = Run(**{name: value for name, value in document.items() if name in known})
    return runs


class Keeper:
    """Makes what runs equal to what ``parts.json`` asks for."""

    def __init__(self, paths: Paths) -> None:
        self._paths = paths
        self._parts: dict[str, Part] = {}
        self._seen: tuple[int, int] | None = None
        self._owner: Identity | None = None
        self._runs = read_runs(paths)
        self._written: dict[str, dict[str, object]] = {}
        self._children: dict[int, subprocess.Popen[bytes]] = {}
        self._not_before: dict[str, float] = {}
        self.stopping = False

    def run(self) -> None:
        """Until told to stop, or until the state folder or the owner is gone."""
        while not self.stopping:
            if not self._read_parts() or (self._owner is not None and not self._owner.alive):
                self.stop_everything()
                return
            busy = self.step()
            time.sleep(_FAST_SECONDS if busy else _IDLE_SECONDS)

    def step(self) -> bool:
        """Look at every part once. Returns whether something is on its way up."""
        self._reap()
        for name in [name for name in self._runs if name not in self._parts]:
            self._remove(name)
        for part in self._parts.values():
            run = self._runs.setdefault(part.name, Run(part.name))
            if part.destroyed:
                self._destroy(part, run)
            elif run.alive and run.revision != part.revision:
                self._stop(run)
            elif not run.alive:
                self._start(part, run)
            elif not run.ready:
                self._look(part, run)
            self._write(run)
        return any(not self._runs[p.name].ready and not p.destroyed for p in self._parts.values())

    def stop_everything(self) -> None:
        """Stop every part that is known to run."""
        processes.stop([run.identity for run in self._runs.values() if run.identity is not None])
        self._reap()
        if self._paths.run.is_dir():  # unless the state folder is gone, which must not come back
            for run in self._runs.values():
                run.state, run.ready, run.pid, run.started = "stopped", False, None, None
                self._write(run)

    def _stop(self, run: Run) -> None:
        if run.identity is not None:
            processes.stop([run.identity])
        run.state, run.ready, run.pid, run.started = "stopped", False, None, None

    def _read_parts(self) -> bool:
        try:
            stat = self._paths.parts.stat()
        except OSError:
            return False
        if self._seen != (stat.st_mtime_ns, stat.st_ino):
            document = read_json(self._paths.parts)
            if document is None:
                return False
            self._seen = (stat.st_mtime_ns, stat.st_ino)
            self._parts = {p["name"]: Part.from_dict(p) for p in document["parts"]}
            self._owner = Identity(**document["owner"]) if document.get("owner") else None
            self._not_before.clear()
        return True

    def _start(self, part: Part, run: Run) -> None:
        now = time.monotonic()
        if run.identity is not None and run.state in ("starting", "running"):
            self._note_death(part, run, now)
        if now < self._not_before.get(part.name, 0.0):
            return
        if not is_free(part.port):
            self._take_over(part, run, now)
            return
        marked = {PART_VARIABLE: mark(self._paths, part.name)}
        environ = {**base_environment(), **part.environ, **marked}
        try:
            process, identity = processes.spawn(
                part.argv, environ=environ, log=self._paths.log(part.name), cwd=Path("/")
            )
        except OSError as error:
            run.state, run.error = "failed", f"{part.argv[0]}: {error}"
            self._not_before[part.name] = now + _LONGEST_WAIT_SECONDS
            return
        self._children[process.pid] = process
        run.pid, run.started, run.state, run.ready = identity.pid, identity.started, "starting", False
        run.revision = part.revision

    def _take_over(self, part: Part, run: Run, now: float) -> None:
        """The port is held: by this very part, when a keeper died before it wrote down what it had started?"""
        orphan = processes.find(part.argv, variable=PART_VARIABLE, value=mark(self._paths, part.name))
        if orphan is not None:
            run.pid, run.started, run.state, run.ready = orphan.pid, orphan.started, "starting", False
            run.revision = part.revision
            return
        run.state, run.ready = "port taken", False
        run.error = f"{HOST}:{part.port} is held by another process"
        self._not_before[part.name] = now + 0.2

    def _note_death(self, part: Part, run: Run, now: float) -> None:
        """A part that never served is waited for longer and longer; one that did is started again at once."""
        run.early_deaths = 0 if run.ready else run.early_deaths + 1
        run.restarts += 1
        run.error = f"ended {run.early_deaths} times before it served" if run.early_deaths else None
        run.state, run.ready, run.pid, run.started = "dead", False, None, None
        wait_seconds = min(0.1 * 2.0**run.early_deaths, _LONGEST_WAIT_SECONDS) if run.early_deaths else 0.0
        self._not_before[part.name] = now + wait_seconds

    def _look(self, part: Part, run: Run) -> None:
        try:
            if not answers(part, timeout_seconds=1.0):
                return
            if part.provision is not None:
                provision(part.port, part.provision)
        except (OSError, HoldfastError) as error:
            run.error = str(error)
            return
        run.state, run.ready, run.error, run.early_deaths = "running", True, None, 0

    def _destroy(self, part: Part, run: Run) -> None:
        if run.state == "destroyed":
            return
        if run.identity is not None:
            # No grace: what is destroyed gets no chance to save anything.
            run.identity.signal(signal.SIGKILL)
            processes.stop([run.identity], grace_seconds=0.0)
        if part.data is not None:
            path = Path(part.data)
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
        run.state, run.ready, run.pid, run.started, run.error = "destroyed", False, None, None, None

    def _remove(self, name: str) -> None:
        identity = self._runs.pop(name).identity
        if identity is not None:
            processes.stop([identity])
        (self._paths.run / f"{name}.json").unlink(missing_ok=True)
        self._written.pop(name, None)

    def _write(self, run: Run) -> None:
        document = asdict(run)
        if self._written.get(run.name) != document:
            write_json(self._paths.run / f"{run.name}.json", document)
            self._written[run.name] = document

    def _reap(self) -> None:
        for pid, process in list(self._children.items()):
            if process.poll() is not None:
                del self._children[pid]


def answers(part: Part, *, timeout_seconds: float) -> bool:
    """Whether the part answers on its port: any HTTP answer where it has a probe, else a connection."""
    try:
        if part.probe is None:
            with socket.create_connection((HOST, part.port), timeout_seconds):
                return True
        connection = http.client.HTTPConnection(HOST, part.port, timeout=timeout_seconds)
        with contextlib.closing(connection):
            connection.request("GET", part.probe)
            connection.getresponse().read()
            return True
    except (OSError, http.client.HTTPException):
        return False


def main() -> None:
    paths = Paths(Path(sys.argv[1]))
    keeper = Keeper(paths)

    def stop(_signal: int, _frame: FrameType | None) -> None:
        keeper.stopping = True

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    identity = processes.identify(os.getpid())
    assert identity is not None
    write_json(paths.keeper, asdict(identity))
    keeper.run()


if __name__ == "__main__":
    main()
