"""Runs of `resume_worker` that are killed, as one call."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

from engine.checkpoint import resume_worker
from holdfast.engine.checkpoint import TrainingState

STEPS = 14


def run_killed(kind: str, folder: Path, kills: tuple[int, ...]) -> TrainingState:
    """The last state of a run that was killed after each of these steps, each time in a process of its own."""
    folder.mkdir()
    for kill_after in (*kills, 0):
        command = [sys.executable, resume_worker.__file__, kind, str(folder), str(STEPS), str(kill_after)]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        assert ended.returncode == (-signal.SIGKILL if kill_after else 0), ended.stderr
    found = resume_worker.newest(folder)
    assert found is not None
    assert found[0] == STEPS
    return found[1]
