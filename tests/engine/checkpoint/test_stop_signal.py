"""SIGTERM: the process that trains saves and leaves; what it forked dies of it, as it would without Holdfast."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

#: Forks a child inside the context, ends it by SIGTERM, says how it ended; then gets SIGTERM itself.
TRAINER = """
import os, signal, sys
from holdfast.engine.checkpoint import Checkpointer, StopRequested, TrainingState
from holdfast.engine.objectstore import memory_store

if sys.argv[1] == "own-handler":
    signal.signal(signal.SIGTERM, lambda *_: os._exit(9))
before = signal.getsignal(signal.SIGTERM), signal.pthread_sigmask(signal.SIG_BLOCK, [])
it = Checkpointer(memory_store(), "run", epoch=1, site="site-a", every_steps=100)
try:
    with it:
        ready, told = os.pipe()
        child = os.fork()
        if child == 0:
            signal.alarm(60)
            now = signal.getsignal(signal.SIGTERM), signal.pthread_sigmask(signal.SIG_BLOCK, [])
            os.write(told, b"y" if now == before else b"n")
            signal.pause()
            os._exit(3)  # it outlived the signal
        print("as before", os.read(ready, 1), signal.pthread_sigmask(signal.SIG_BLOCK, []) == before[1])
        os.kill(child, signal.SIGTERM)
        print("child", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        it.step(1, TrainingState({"model": b"1"}))
        os.kill(os.getpid(), signal.SIGTERM)
        it.step(2, TrainingState({"model": b"2"}))
except StopRequested as error:
    print("parent", error.exit_code, it.status()["checkpoint"]["step"])
"""


@pytest.mark.parametrize(("handler", "ends"), [("none", -signal.SIGTERM), ("own-handler", 9)])
def test_a_forked_child_is_ended_by_sigterm_and_the_trainer_saves_and_leaves(handler: str, ends: int) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", TRAINER, handler],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
        env=dict(os.environ),
    )
    assert done.stdout.splitlines() == ["as before b'y' True", f"child {ends}", "parent 75 2"], done.stderr
