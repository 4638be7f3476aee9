"""Programs as child processes: an argument list, an explicit environment, bounded output, an end in any case."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import IO

from holdfast.engine.vault.errors import CommandFailed, MissingProgram

#: What is kept of an error output: its last bytes.
KEPT_BYTES = 16 * 1024
#: How much of that an error's message holds.
_TOLD_CHARACTERS = 1500
_PIECE_BYTES = 1024 * 1024
_HIDDEN = "<hidden>"


class Child:
    """One running program. It is killed, by its own process group, when its time is over or when it is closed.

    Args:
        argv: the program and its arguments; no secret belongs in them.
        environ: all of its environment.
        timeout_seconds: after so long it is killed.
        stdin: whether `feed` is used.
        stdout: where its output goes; ``None``: read it with `pieces`.
        hide: secrets that never appear in what is kept of its error output.
        user: the user to run as; only root may say one.
        orphaned: what it is sent when this process is gone without having ended it; where `setpriv` is there.
    """

    def __init__(
        self,
        argv: Sequence[str | Path],
        environ: Mapping[str, str],
        *,
        timeout_seconds: float,
        stdin: bool = False,
        stdout: IO[bytes] | None = None,
        hide: Sequence[str] = (),
        user: str | None = None,
        folder: Path | None = None,
        orphaned: signal.Signals | None = None,
    ) -> None:
        self.name = Path(argv[0]).name
        self.timeout_seconds = timeout_seconds
        self._hide = [secret for secret in hide if len(secret) > 1]
        self._kept = bytearray()
        self.timed_out = False
        try:
            with _signals_later():
                self.process = subprocess.Popen(
                    [*_beginning(user, orphaned), *(str(part) for part in argv)],
                    env=dict(environ),
                    stdin=subprocess.PIPE if stdin else subprocess.DEVNULL,
                    stdout=subprocess.PIPE if stdout is None else stdout,
                    stderr=subprocess.PIPE,
                    cwd=folder,
                    start_new_session=True,
                    **_identity(user),  # type: ignore[call-overload]
                )
            self._reader = threading.Thread(target=self._keep_errors, daemon=True)
            self._reader.start()
            self._watchdog = threading.Timer(timeout_seconds, self._overdue)
            self._watchdog.daemon = True
            self._watchdog.start()
        except OSError as error:
            raise MissingProgram(
                "a program could not be started",
                where=str(argv[0]),
                expected="an executable file",
                found=error.strerror or repr(error),
                fix="Install it, or name the folder it lies in",
            ) from None
        except BaseException:
            if hasattr(self, "process"):
                self._kill()
                self.process.wait()
            raise

    def __enter__(self) -> Child:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def pieces(self) -> Iterator[bytes]:
        """Its output as it comes, until it ends."""
        assert self.process.stdout is not None
        descriptor = self.process.stdout.fileno()
        while piece := os.read(descriptor, _PIECE_BYTES):
            yield piece

    def feed(self, data: bytes | memoryview) -> bool:
        """Write to its input. ``False``: it no longer reads."""
        assert self.process.stdin is not None
        if self.process.stdin.closed:
            return False
        view = memoryview(data)
        try:
            while view:
                view = view[os.write(self.process.stdin.fileno(), view) :]
        except BrokenPipeError:
            return False
        return True

    def end_input(self) -> None:
        """Nothing more will be fed."""
        if self.process.stdin is not None:
            with suppress(BrokenPipeError):
                self.process.stdin.close()

    def end(self) -> None:
        """Wait for its end. Raises CommandFailed where that was not a good one."""
        self.end_input()
        code = self.process.wait()
        self._reader.join(5)
        if code != 0 or self.timed_out:
            raise self.failure()

    def failure(self) -> CommandFailed:
        """How it ended, as an error."""
        code = self.process.poll()
        return CommandFailed(
            f"{self.name} did not end well",
            where=self.name,
            expected=f"exit code 0 within {self.timeout_seconds:g} s",
            found=f"{self._how(code)}: {self.errors[-_TOLD_CHARACTERS:] or 'it said nothing'}",
        )

    def _how(self, code: int | None) -> str:
        if self.timed_out:
            return f"no end after {self.timeout_seconds:g} s, so it was killed"
        if code is None:
            return "it still runs"
        if code < 0:
            return f"killed by {signal.Signals(-code).name}"
        return f"exit code {code}"

    @property
    def errors(self) -> str:
        """The end of what it wrote to its error output, without secrets."""
        text = bytes(self._kept).decode(errors="replace").strip()
        for secret in self._hide:
            text = text.replace(secret, _HIDDEN)
        return text

    @property
    def running(self) -> bool:
        return self.process.poll() is None

    def stop(self, number: signal.Signals = signal.SIGTERM, *, grace_seconds: float = 10.0) -> None:
        """Ask it to end, and kill it where it does not in time."""
        if self.running:
            self.process.send_signal(number)
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(grace_seconds)
        self.close()

    def close(self) -> None:
        """Kill what still runs of it, and reap it."""
        self._watchdog.cancel()
        self._kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                with suppress(BrokenPipeError):
                    pipe.close()
        self._reader.join(5)

    def _kill(self) -> None:
        # The group is this child's own session: its number is not given away while a member lives.
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)

    def _overdue(self) -> None:
        if self.running:
            self.timed_out = True
            self._kill()

    def _keep_errors(self) -> None:
        assert self.process.stderr is not None
        with self.process.stderr as stream:
            while piece := os.read(stream.fileno(), 65536):
                self._kept += piece
                del self._kept[:-KEPT_BYTES]


@contextmanager
def _signals_later() -> Iterator[None]:
    """Signals that have a handler wait until the end: one between the fork and its number would leave a child behind.

    A handler is put in their place, not a mask, which the child would inherit.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # handlers run in the main thread only
        return
    came: list[int] = []
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    handlers = {number: handler for number, handler in handlers.items() if callable(handler)}
    for number in handlers:
        signal.signal(number, lambda number, _frame: came.append(number))
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        for late in dict.fromkeys(came):
            signal.raise_signal(late)


def _beginning(user: str | None, orphaned: signal.Signals | None) -> list[str]:
    """What the command begins with, so that it becomes another user's and ends with this process.

    `setpriv` does both after this process was left by `vfork`. To change the user itself Python has to fork, and what
    other libraries do in the child of a fork (gRPC starts threads there) can crash it.
    """
    setpriv = shutil.which("setpriv") if user is not None or orphaned is not None else None
    if setpriv is None:
        return []
    become = [] if user is None else [f"--{what}={number}" for what, number in _ids(user).items()]
    become += [] if user is None else ["--clear-groups"]
    return [setpriv, *become, *([] if orphaned is None else ["--pdeathsig", orphaned.name.removeprefix("SIG")])]


def _ids(user: str) -> dict[str, int]:
    import pwd

    entry = pwd.getpwnam(user)
    return {"reuid": entry.pw_uid, "regid": entry.pw_gid}


def _identity(user: str | None) -> dict[str, object]:
    """Where `setpriv` is not there."""
    if user is None or shutil.which("setpriv") is not None:
        return {}
    ids = _ids(user)
    return {"user": ids["reuid"], "group": ids["regid"], "extra_groups": []}


def run(
    argv: Sequence[str | Path],
    environ: Mapping[str, str],
    *,
    timeout_seconds: float,
    hide: Sequence[str] = (),
    user: str | None = None,
    folder: Path | None = None,
    most_bytes: int = 64 * 1024 * 1024,
) -> bytes:
    """Run a program to its end. Returns its output.

    Raises:
        CommandFailed: another exit code than 0, a signal, no end in time, or more output than `most_bytes`.
        MissingProgram: there is no such program.
    """
    with Child(argv, environ, timeout_seconds=timeout_seconds, hide=hide, user=user, folder=folder) as child:
        output = bytearray()
        for piece in child.pieces():
            output += piece
            if len(output) > most_bytes:
                raise CommandFailed(
                    "a program writes without end",
                    where=child.name,
                    expected=f"at most {most_bytes} bytes",
                    found=f"{len(output)} and more",
                )
        child.end()
        return bytes(output)
