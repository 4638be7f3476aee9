"""The heartbeat file: how a training process shows that it lives, and separately that it gets on.

Written by atomic rename, so a reader sees a whole file or the one before. A thread rewrites it every second, also
during a long step; ``at`` then moves and ``step_at`` does not, which tells a slow step from a dead process.
"""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from pathlib import Path
from threading import Event, Lock, Thread
from typing import Any

from holdfast.clock import Clock

FORMAT = "holdfast.job-heartbeat/1"
#: Beside the heartbeat: whoever creates this file asks for a checkpoint at the next step.
REQUEST_SUFFIX = ".request"


class Heartbeat:
    """Keeps the file current until `close`.

    Args:
        path: the file; None keeps the facts in memory only.
        clock: stamps ``at``.
        interval_seconds: the longest time between two writes.
        facts: what does not change: run, epoch, site, pid.
    """

    def __init__(self, path: Path | None, clock: Clock, *, interval_seconds: float = 1.0, **facts: Any) -> None:
        self.path = path
        self._clock = clock
        self._interval_seconds = interval_seconds
        self._facts: dict[str, Any] = {"format": FORMAT, "pid": os.getpid(), **facts}
        self._lock = Lock()
        self._closed = Event()
        self._written = float("-inf")
        self._thread = Thread(target=self._beat, name="heartbeat", daemon=True)

    @property
    def facts(self) -> dict[str, Any]:
        with self._lock:
            return dict(self._facts)

    def start(self) -> None:
        self.write(state="starting")
        self._thread.start()

    def note(self, **facts: Any) -> None:
        """Change facts; they are written soon, at most twenty times a second."""
        with self._lock:
            self._facts.update(facts)
        if self._clock.monotonic() - self._written >= 0.05:
            self.write()

    def write(self, **facts: Any) -> None:
        """Change facts and write now."""
        with self._lock:
            self._facts.update(facts)
            self._facts["at"] = stamp(self._clock.now())
            self._written = self._clock.monotonic()
            if self.path is not None:
                _replace(self.path, self._facts)

    def close(self, **facts: Any) -> None:
        self._closed.set()
        if self._thread.is_alive():
            self._thread.join(timeout=5)
        self.write(**facts)

    def checkpoint_requested(self) -> bool:
        """Whether somebody asked for a checkpoint; asking is then over."""
        if self.path is None:
            return False
        try:
            self.path.with_name(f"{self.path.name}{REQUEST_SUFFIX}").unlink()
        except FileNotFoundError:
            return False
        return True

    def _beat(self) -> None:
        while not self._closed.wait(self._interval_seconds):
            try:
                self.write()
            except OSError:  # a full disk must not end the training; the file grows old and says so
                continue


def stamp(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _replace(path: Path, facts: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(json.dumps(facts, sort_keys=True), encoding="utf-8")
    temporary.replace(path)
