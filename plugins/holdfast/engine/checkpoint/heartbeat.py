"""The heartbeat: how a training process shows that it lives, and separately that it gets on.

A file, or, on a machine whose files nobody reads, an object in the site's bucket. The file is written by atomic rename,
so a reader sees a whole one or the one before. A thread rewrites it every second, also during a long step; ``at`` then
moves and ``step_at`` does not, which tells a slow step from a dead process.

Nothing here ends a training: where a full disk or a bucket takes no heartbeat, the last one that was written grows old.
"""

from __future__ import annotations

import contextlib
import os
from datetime import UTC, datetime
from pathlib import Path
from threading import Event, Lock, Thread
from typing import Any

from holdfast import strict_json
from holdfast.clock import Clock
from holdfast.engine.objectstore.errors import ObjectStoreError
from holdfast.engine.objectstore.interface import OVERWRITE, ObjectStore

FORMAT = "holdfast.job-heartbeat/1"
#: Beside the heartbeat: whoever creates this file asks for a checkpoint at the next step.
REQUEST_SUFFIX = ".request"


class Heartbeat:
    """Keeps the file current until `close`.

    Args:
        path: the file, or the object; None keeps the facts in memory only.
        clock: stamps ``at``.
        interval_seconds: the longest time between two writes.
        facts: what does not change: run, epoch, site, pid.
    """

    def __init__(
        self, path: Path | HeartbeatObject | None, clock: Clock, *, interval_seconds: float = 1.0, **facts: Any
    ) -> None:
        self.path = path
        self._clock = clock
        self._interval_seconds = interval_seconds
        self._facts: dict[str, Any] = {"format": FORMAT, "pid": os.getpid(), **facts}
        self._lock = Lock()
        self._putting = Lock()
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
        """Change facts; a file is written soon, at most twenty times a second, an object when its turn comes."""
        with self._lock:
            self._facts.update(facts)
        if not isinstance(self.path, HeartbeatObject) and self._clock.monotonic() - self._written >= 0.05:
            self.write()

    def write(self, **facts: Any) -> None:
        """Change facts and write now. What cannot be written is left: `facts` has it, a reader sees an old ``at``."""
        with self._lock:
            self._facts.update(facts)
            self._facts["at"] = stamp(self._clock.now())
            self._written = self._clock.monotonic()
            if isinstance(self.path, Path):
                with contextlib.suppress(OSError):
                    _replace(self.path, self._facts)
        if isinstance(self.path, HeartbeatObject):
            with self._putting:  # one after the other, each with the newest facts: an older one never lands last
                self.path.write(self.facts)

    def close(self, **facts: Any) -> None:
        """Write these last. An object's put that is under way is waited for, as long as the store lets it last."""
        self._closed.set()
        if self._thread.is_alive():
            self._thread.join(timeout=5)
        self.write(**facts)

    def checkpoint_requested(self) -> bool:
        """Whether somebody asked for a checkpoint; asking is then over."""
        if self.path is None:
            return False
        if isinstance(self.path, HeartbeatObject):
            return self.path.take_request()
        try:
            self.path.with_name(f"{self.path.name}{REQUEST_SUFFIX}").unlink()
        except OSError:  # most often there is none; what cannot be taken away would be asked at every step
            return False
        return True

    def _beat(self) -> None:
        while not self._closed.wait(self._interval_seconds):
            self.write()
            if isinstance(self.path, HeartbeatObject):
                self.path.look_for_request()


class HeartbeatObject:
    """A heartbeat in a bucket. A step never waits for it: a thread writes it and looks for requests.

    Args:
        store: the site's bucket.
        key: the object's.
    """

    def __init__(self, store: ObjectStore, key: str) -> None:
        self._store = store
        self.key = key
        self._requested = Event()

    def write(self, facts: dict[str, Any]) -> None:
        """Replace the object. A bucket that does not answer makes the heartbeat old, and ends nothing."""
        with contextlib.suppress(ObjectStoreError):
            data = strict_json.dumps(facts, sort_keys=True).encode()
            self._store.put(self.key, data, mode=OVERWRITE, content_type="application/json")

    def look_for_request(self) -> None:
        with contextlib.suppress(ObjectStoreError):
            self._store.head(f"{self.key}{REQUEST_SUFFIX}")
            self._store.delete(f"{self.key}{REQUEST_SUFFIX}")
            self._requested.set()

    def take_request(self) -> bool:
        """Whether somebody asked since the last time."""
        asked = self._requested.is_set()
        self._requested.clear()
        return asked


def stamp(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _replace(path: Path, facts: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(strict_json.dumps(facts, sort_keys=True), encoding="utf-8")
    temporary.replace(path)
