"""What lives of a job's session. A pid alone may be somebody else's by now; with its start time it cannot be."""

from __future__ import annotations

import fcntl
import os
import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from holdfast.engine.compute.job import boot, process_started, stat_fields


def session_members(leader_pid: int, leader_started: str, leader_boot: str) -> list[int]:
    """The processes that live in the leader's session, zombies left out, stopped ones not.

    A kernel gives a pid away again only when no session bears it; so a leader's pid with another start time says that
    the whole session is gone.
    """
    if leader_boot != boot():
        return []
    now = process_started(leader_pid)
    if now and now != leader_started:
        return []
    members = [pid for pid, fields in _processes() if fields[3] == str(leader_pid) and fields[0] not in "ZX"]
    return members or ([leader_pid] if now else [])


def is_suspended(pids: list[int]) -> bool:
    """Whether all of them were stopped by a signal: such a job lives, and writes again when it is continued."""
    states = [fields[0] for pid in pids if (fields := stat_fields(pid)) is not None]
    return bool(states) and all(state in "Tt" for state in states)


def signal_all(pids: list[int], number: signal.Signals) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def is_locked(path: Path) -> bool:
    """Whether something of a job holds this lock file."""
    try:
        descriptor = os.open(path, os.O_RDWR)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def _processes() -> Iterator[tuple[int, list[str]]]:
    for entry in Path("/proc").glob("[0-9]*"):
        if (fields := stat_fields(entry.name)) is not None:
            yield int(entry.name), fields
