"""The process a training job lives under: takes the job's lock, leaves its handle, starts it, records how it ended.

Run by its path with a bare interpreter, so it starts in milliseconds and needs nothing but the standard library:

    python -I -S job.py FOLDER ATTEMPT COMMAND...

It detaches into a session of its own. The lock is an open file that the job inherits: as long as anything of the job
lives it is held, whatever happens to this process or to whoever started it.

Exit codes of the starter: 0 the job runs and its handle is on disk, 73 another job holds the lock, 71 it failed.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

STARTED, FAILED_TO_START, LOCKED = 0, 71, 73
LOCK_FILE, HANDLE_FILE, RESULT_FILE, LOG_FILE = "lock", "handle.json", "result.json", "log.txt"


def main(folder: Path, attempt: Path, command: list[str]) -> int:
    """Start the job detached; returns once its handle is on disk."""
    reader, writer = os.pipe()
    if os.fork() != 0:
        os.close(writer)
        answer = os.read(reader, 1)
        return answer[0] if answer else FAILED_TO_START
    os.close(reader)
    os.setsid()
    code = FAILED_TO_START
    try:
        code = _live(folder, attempt, command, writer)
    finally:
        os._exit(code)


def _live(folder: Path, attempt: Path, command: list[str], ready: int) -> int:
    lock = os.open(folder / LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o644)
    if not _take(lock):
        os.write(ready, bytes([LOCKED]))
        return LOCKED
    _redirect(attempt / LOG_FILE)
    _write(
        attempt / HANDLE_FILE,
        {
            "pid": os.getpid(),
            "started": process_started(os.getpid()),
            "boot": boot(),
            "host": socket.gethostname(),
            "command": command,
            "submitted_at": time.time(),
        },
    )
    # From here on the job is considered started: whoever looks finds its handle.
    os.write(ready, bytes([STARTED]))
    os.close(ready)
    _write(attempt / RESULT_FILE, _run(command, lock))
    return 0


def _take(lock: int) -> bool:
    """Take the lock; a reader that only looks holds it for an instant."""
    for _ in range(50):
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            time.sleep(0.01)
    return False


def _run(command: list[str], lock: int) -> dict[str, Any]:
    child: subprocess.Popen[bytes] | None = None
    asked_early: list[int] = []

    def forward(number: int, _frame: object) -> None:
        if child is None:
            asked_early.append(number)
        elif child.poll() is None:
            child.send_signal(number)

    signal.signal(signal.SIGTERM, forward)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL, pass_fds=(lock,))
    except OSError as error:
        return {"exit_code": 127, "ended_at": time.time(), "detail": f"{command[0]} cannot be started: {error}"}
    for number in asked_early[:1]:
        child.send_signal(number)
    return {"exit_code": child.wait(), "ended_at": time.time()}


def _redirect(log: Path) -> None:
    null = os.open(os.devnull, os.O_RDONLY)
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for source, target in ((null, 0), (output, 1), (output, 2)):
        os.dup2(source, target)


def _write(path: Path, document: dict[str, Any]) -> None:
    temporary = path.with_name(f"{path.name}.{os.getpid()}")
    with temporary.open("w", encoding="utf-8") as file:
        json.dump(document, file)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def boot() -> str:
    """Which start of the machine this is; pids and start times mean nothing in another one."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""


def process_started(pid: int) -> str:
    """When a process started, only for comparing; empty when it is gone or a zombie."""
    fields = stat_fields(pid)
    if fields is not None:
        return "" if fields[0] in "ZX" else fields[19]
    if Path("/proc/self").is_dir():
        return ""
    answer = subprocess.run(["ps", "-o", "stat=,lstart=", "-p", str(pid)], capture_output=True, text=True, check=False)
    state, _, since = answer.stdout.strip().partition(" ")
    return "" if not state or state.startswith("Z") else since.strip()


def stat_fields(pid: int | str) -> list[str] | None:
    """The fields of /proc/<pid>/stat after the name: state is 0, group 2, session 3, start time 19."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return None


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:]))
