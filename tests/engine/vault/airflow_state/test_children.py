"""Child processes end, whatever happens, and say what they should."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from airflow_world import children_of_this_process
from holdfast.engine.vault.airflow_state.children import KEPT_BYTES, Child, run
from holdfast.engine.vault.errors import CommandFailed, MissingProgram

ENVIRON = {"PATH": os.environ["PATH"]}


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def test_a_child_sees_the_environment_it_is_given_and_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOLDFAST_PROBE", "inherited")
    assert run(["/usr/bin/env"], {"ONLY": "this"}, timeout_seconds=30) == b"ONLY=this\n"


def test_an_exit_code_a_signal_and_a_missing_program_are_told_apart() -> None:
    with pytest.raises(CommandFailed, match="exit code 3: no such table"):
        run(["sh", "-c", "echo no such table >&2; exit 3"], ENVIRON, timeout_seconds=30)
    with pytest.raises(CommandFailed, match="killed by SIGKILL"):
        run(["sh", "-c", "kill -9 $$"], ENVIRON, timeout_seconds=30)
    with pytest.raises(MissingProgram, match="/nowhere/pg_dump"):
        run(["/nowhere/pg_dump"], ENVIRON, timeout_seconds=30)


def test_whoever_runs_out_of_time_is_killed_with_its_own_children_and_reaped() -> None:
    before = children_of_this_process()
    script = "import subprocess, sys, time; p = subprocess.Popen(['sleep', '1000']); print(p.pid, flush=True); p.wait()"
    with Child([sys.executable, "-c", script], ENVIRON, timeout_seconds=3) as child:
        grandchild = int(next(child.pieces()))
        assert is_alive(grandchild)
        with pytest.raises(CommandFailed, match="no end after 3 s"):
            child.end()
    deadline = time.monotonic() + 30
    while is_alive(grandchild):
        assert time.monotonic() < deadline
    assert children_of_this_process() <= before


def test_whoever_is_interrupted_while_a_child_starts_leaves_none(monkeypatch: pytest.MonkeyPatch) -> None:
    before = children_of_this_process()

    class Interrupted(threading.Thread):
        def start(self) -> None:
            raise KeyboardInterrupt

    monkeypatch.setattr(threading, "Thread", Interrupted)
    with pytest.raises(KeyboardInterrupt):
        Child(["sleep", "1000"], ENVIRON, timeout_seconds=900)
    assert children_of_this_process() <= before


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Who is started in the background may have been told to ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_a_signal_between_the_fork_and_its_number_leaves_none(monkeypatch: pytest.MonkeyPatch) -> None:
    before, handler = children_of_this_process(), signal.getsignal(signal.SIGINT)
    forked = subprocess._fork_exec  # type: ignore[attr-defined]

    def interrupted(*args: object) -> int:
        number: int = forked(*args)
        signal.raise_signal(signal.SIGINT)
        return number

    monkeypatch.setattr(subprocess, "_fork_exec", interrupted)
    with pytest.raises(KeyboardInterrupt):
        Child(["sleep", "1000"], ENVIRON, timeout_seconds=900)
    assert children_of_this_process() <= before
    assert signal.getsignal(signal.SIGINT) is handler


@pytest.mark.skipif(os.geteuid() != 0, reason="only root becomes another user")
@pytest.mark.skipif(shutil.which("setpriv") is None, reason="setpriv is not installed")
def test_another_users_program_is_started_without_a_fork(monkeypatch: pytest.MonkeyPatch) -> None:
    """What gRPC does in the child of a fork crashed some of them."""
    asked: list[set[str]] = []

    class Recording(subprocess.Popen[bytes]):
        def __init__(self, *args: Any, **named: Any) -> None:
            asked.append(set(named))
            super().__init__(*args, **named)

    monkeypatch.setattr(subprocess, "Popen", Recording)
    nobody = pwd.getpwnam("nobody")
    found = run(["sh", "-c", "id -u; id -G"], ENVIRON, timeout_seconds=30, user="nobody").split()
    assert [int(number) for number in found] == [nobody.pw_uid, nobody.pw_gid]
    assert not asked[0] & {"user", "group", "extra_groups", "preexec_fn", "umask"}


def test_secrets_do_not_reach_the_error_and_its_length_is_bounded() -> None:
    command = ["sh", "-c", "yes filler | head -c 200000 >&2; echo the password is hunter2hunter2 >&2; exit 1"]
    with Child(command, ENVIRON, timeout_seconds=30, hide=["hunter2hunter2"]) as child:
        with pytest.raises(CommandFailed) as caught:
            child.end()
        assert len(child.errors) <= KEPT_BYTES
    assert "the password is <hidden>" in str(caught.value)
    assert "hunter2" not in str(caught.value)
    assert len(str(caught.value)) < 4000


@pytest.mark.skipif(shutil.which("setpriv") is None, reason="setpriv is not installed")
def test_a_service_ends_with_whoever_started_it_even_if_that_is_killed() -> None:
    starter = (
        "import os, signal; from holdfast.engine.vault.airflow_state.children import Child;"
        "c = Child(['sleep', '1000'], dict(os.environ), timeout_seconds=900, orphaned=signal.SIGTERM);"
        # Its arguments show that it has become the program.
        "p = f'/proc/{c.process.pid}/cmdline'\nwhile b'setpriv' in open(p, 'rb').read(): pass\n"
        "print(c.process.pid, flush=True); os.kill(os.getpid(), signal.SIGKILL)"
    )
    answer = subprocess.run([sys.executable, "-c", starter], capture_output=True, text=True, timeout=60)
    assert answer.returncode == -signal.SIGKILL, answer.stderr
    deadline = time.monotonic() + 30
    while is_alive(int(answer.stdout)):
        assert time.monotonic() < deadline


def test_output_without_end_is_refused() -> None:
    with pytest.raises(CommandFailed, match="without end"):
        run(["yes"], ENVIRON, timeout_seconds=60, most_bytes=1_000_000)
