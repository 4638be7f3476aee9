"""A command whose output is backed up: only an exit code of 0 makes a backup of it."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from holdfast.engine.vault.sources import SourceObject, failed

_PIECE_BYTES = 1024 * 1024
_ERROR_BYTES = 4096
_END_SECONDS = 10.0


@dataclass
class CommandSource:
    """What a command writes to its standard output, as one object.

    Args:
        name: of the series.
        path: what the object is called.
        command: program and arguments; they are kept in the backup, so no secret belongs there.
        taken_at: when it was started.
        environ: the command's environment.
    """

    name: str
    path: str
    command: Sequence[str]
    taken_at: datetime
    environ: Mapping[str, str]
    kind: str = "stream"
    is_remote: bool = False
    _code: int | None = None
    _said: bytearray = field(default_factory=bytearray, repr=False)

    @property
    def origin(self) -> Mapping[str, Any]:
        return {"command": list(self.command), "exit_code": self._code}

    def objects(self) -> Iterator[SourceObject]:
        yield SourceObject(self.path, None, self.taken_at, None, None, None)

    def read(self, item: SourceObject) -> Iterator[bytes]:  # noqa: ARG002 - there is one
        """Raises SourceFailed: it cannot be started."""
        try:
            child = subprocess.Popen(
                list(self.command), stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=dict(self.environ)
            )
        except OSError as error:
            raise failed(
                "the command cannot be started", where=self.command[0], expected="a program", found=str(error.strerror)
            ) from None
        assert child.stdout is not None
        listener = threading.Thread(target=self._listen, args=(child,), daemon=True)
        listener.start()
        try:
            while piece := child.stdout.read(_PIECE_BYTES):
                yield piece
            self._code = child.wait()
        finally:
            if child.poll() is None:
                child.kill()
                child.wait()
            listener.join(_END_SECONDS)
            child.stdout.close()

    def _listen(self, child: subprocess.Popen[bytes]) -> None:
        """Keep the end of what it says, so that it never waits for somebody to read it."""
        assert child.stderr is not None
        with child.stderr:
            while said := child.stderr.read1(_ERROR_BYTES):  # type: ignore[attr-defined]
                self._said.extend(said)
                del self._said[:-_ERROR_BYTES]

    def finish(self) -> None:
        """Raises SourceFailed: it ended with another code than 0."""
        if self._code != 0:
            said = self._said.decode(errors="replace").strip()[-500:] or "it said nothing"
            raise failed(
                "the command failed",
                where=" ".join(self.command[:3]),
                expected="exit code 0",
                found=f"exit code {self._code}: {said}",
            )
