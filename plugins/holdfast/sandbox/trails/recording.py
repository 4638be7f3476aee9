"""The file a fault proxy writes its records to: one JSON document a line, as the exchange ends.

Each line is written with one system call and no buffer, so what a killed proxy had seen is there for the next
delivery. A line that a crash cut off has no line end, and is never taken for an event.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

_ENCODE = json.JSONEncoder(separators=(",", ":"), check_circular=False).encode
SUFFIX = ".jsonl"
#: A file is closed once it is this long, so that what was delivered can be removed.
_LONGEST_BYTES = 8 * 1024 * 1024


def recorded_folder(state: Path, site: str) -> Path:
    """Where the records of a site's proxy lie."""
    return state / "trails" / "recorded" / site


class Recorder:
    """Appends to a file of this process alone. Nothing it does may harm the traffic, so it counts what fails.

    Args:
        folder: of the site.
        listener: whose traffic it is: ``store`` or ``dns``.
    """

    def __init__(self, folder: Path, listener: str) -> None:
        self._folder = folder
        self._listener = listener
        self._handle: int | None = None
        self._written = 0
        self.recorded = self.unparsed = self.lost = 0

    def record(self, exchange: dict[str, Any]) -> None:
        if self._append(exchange):
            self.recorded += 1

    def not_understood(self, peer: str) -> None:
        self.unparsed += 1
        self._append({"at_ns": time.time_ns(), "end": "unparsed", "peer": peer})

    def as_dict(self) -> dict[str, int]:
        """How many exchanges were kept, how many streams were no HTTP, how many records could not be written."""
        return {"recorded": self.recorded, "unparsed": self.unparsed, "lost": self.lost}

    def _append(self, document: dict[str, Any]) -> bool:
        try:
            if self._handle is None:
                self._handle = self._open()
            line = (_ENCODE(document) + "\n").encode()
            if os.write(self._handle, line) == len(line):
                self._written += len(line)
                if self._written > _LONGEST_BYTES:
                    self.close()
                return True
            # A full disk took a part of it: the rest goes to a new file, and this line counts as lost.
            self.close()
        except (OSError, ValueError):
            pass
        self.lost += 1
        return False

    def close(self) -> None:
        if self._handle is not None:
            os.close(self._handle)
            self._handle, self._written = None, 0

    def _open(self) -> int:
        self._folder.mkdir(parents=True, exist_ok=True)
        name = f"{time.time_ns():020d}-{self._listener}-{os.getpid()}{SUFFIX}"
        return os.open(self._folder / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o600)
