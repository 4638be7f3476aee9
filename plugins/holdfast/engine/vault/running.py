"""Marks of backups that run for long, so that a collection leaves alone what they have written.

Packs no entry names are nobody's after a while. A backup that runs longer than that writes a mark now and then. Nothing
of safety depends on it: a backup whose packs were collected learns it when it commits, and begins anew.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from holdfast.clock import Clock
from holdfast.engine.objectstore.errors import ObjectStoreError
from holdfast.engine.objectstore.interface import CREATE, ObjectInfo, ObjectStore
from holdfast.engine.vault import layout

#: A mark is written so often; shorter backups write none.
EVERY = timedelta(hours=4)


@dataclass
class Marks:
    """Writes the marks of one backup."""

    store: ObjectStore
    clock: Clock
    session: str = field(default_factory=lambda: os.urandom(8).hex())

    def __post_init__(self) -> None:
        self._last = self.clock.monotonic()
        self._written = 0

    def write_if_due(self) -> None:
        """One that cannot be written is left out: the next may be."""
        if self.clock.monotonic() - self._last < EVERY.total_seconds():
            return
        self._last = self.clock.monotonic()
        self._written += 1
        with suppress(ObjectStoreError):
            self.store.put(f"{layout.RUNNING}{self.session}/{self._written:06d}", b"", mode=CREATE)


@dataclass(frozen=True)
class Running:
    """The marks that are there.

    Args:
        since: what was written before this is of no backup that still runs.
        expired: keys of marks of backups that ended or died.
    """

    since: datetime
    expired: tuple[str, ...]


def read_marks(store: ObjectStore, now: datetime, orphan_age: timedelta) -> Running:
    """Args: now: by the store's clock; orphan_age: how long packs no entry names stay at least."""
    by_session: dict[str, list[ObjectInfo]] = {}
    for info in store.list(layout.RUNNING):
        by_session.setdefault(info.key.split("/")[1], []).append(info)
    since = now - orphan_age
    expired: list[str] = []
    for marks in by_session.values():
        times = [info.modified_at for info in marks]
        if now - max(times) > orphan_age + EVERY:
            expired.extend(info.key for info in marks)
        else:
            since = min(since, min(times) - orphan_age)
    return Running(since, tuple(expired))


def leftover_clocks(store: ObjectStore, before: datetime) -> Iterator[str]:
    """Keys that asked the store for its time and whose asker died."""
    return (info.key for info in store.list(layout.CLOCK) if info.modified_at < before)
