"""Processes by identity: a pid alone may belong to somebody else by now, a pid and its start time cannot."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

_LINUX = Path("/proc/self/stat").exists()


@dataclass(frozen=True, slots=True)
class Identity:
    """One process for all time: its pid and when it started."""

    pid: int
    started: str

    @property
    def alive(self) -> bool:
        """Running or stopped, and still the same process. A zombie is dead."""
        return started(self.pid) == self.started

    def signal(self, number: int) -> bool:
        """Send a signal to the process and its group, if it still is this process."""
        if not self.alive:
            return False
        try:
            if os.getpgid(self.pid) == self.pid:
                os.killpg(self.pid, number)
            else:
                os.kill(self.pid, number)
        except ProcessLookupError:
            return False
        return True


@cache
def _boot() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()[:8]
    except OSError:
        return ""


def started(pid: int) -> str | None:
    """When the process started, in a form that only serves comparing; ``None`` when it is gone or a zombie."""
    if _LINUX:
        try:
            # The name in parentheses may hold anything, so count from the last one: state is field 3, start time 22.
            fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        except OSError:
            return None
        return None if fields[0] in "ZX" else f"{_boot()}:{fields[19]}"
    answer = subprocess.run(["ps", "-o", "stat=,lstart=", "-p", str(pid)], capture_output=True, text=True, check=False)
    state, _, since = answer.stdout.strip().partition(" ")
    return None if not state or state.startswith("Z") else since.strip()


def identify(pid: int) -> Identity | None:
    """The identity of a running process."""
    since = started(pid)
    return None if since is None else Identity(pid, since)


def find(argv: Sequence[str], *, variable: str, value: str) -> Identity | None:
    """A running process of this user with exactly this command line and this environment variable; Linux only."""
    for folder in Path("/proc").glob("[0-9]*") if _LINUX else ():
        try:
            # A script's `#!` or an interpreter's own resolution may change the first word, never the others.
            words = (folder / "cmdline").read_bytes().decode(errors="replace").split("\0")[:-1]
            if words[1:] == list(argv)[1:] and f"{variable}={value}".encode() in (
                (folder / "environ").read_bytes().split(b"\0")
            ):
                return identify(int(folder.name))
        except OSError:
            continue
    return None


def spawn(
    argv: Sequence[str], *, environ: Mapping[str, str], log: Path, cwd: Path, keep: Sequence[int] = ()
) -> tuple[subprocess.Popen[bytes], Identity]:
    """Start a process in a session of its own, so that it outlives the terminal; its output goes to ``log``."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        process = subprocess.Popen(
            list(argv),
            env=dict(environ),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=cwd,
            start_new_session=True,
            pass_fds=tuple(keep),
        )
    # A process that is not reaped yet keeps its entry, so only one that died at once has no start time.
    return process, identify(process.pid) or Identity(process.pid, "gone")


def stop(identities: Iterable[Identity], *, grace_seconds: float = 3.0) -> None:
    """Ask processes to end, wait, then kill those that did not. Stopped ones are continued first."""
    waiting = [one for one in identities if one.signal(signal.SIGTERM)]
    for one in waiting:
        one.signal(signal.SIGCONT)
    if not _wait_gone(waiting, grace_seconds):
        for one in waiting:
            one.signal(signal.SIGKILL)
        _wait_gone(waiting, 5.0)


def _wait_gone(identities: Sequence[Identity], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while any(one.alive for one in identities):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True
