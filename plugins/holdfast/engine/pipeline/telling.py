"""A sync's progress as plain lines, for logs and for whatever is not a terminal."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from holdfast.clock import Clock

if TYPE_CHECKING:
    from holdfast.engine.replication.sync import SyncProgress

_UNITS = ("bytes", "kB", "MB", "GB", "TB", "PB")


class ProgressLines:
    """A line when a phase begins, every few seconds within it, and when it ends.

    Args:
        say: takes one line.
        title: what is synced.
        clock: paces the lines and measures their rate.
        every_seconds: between two lines of one phase.
    """

    def __init__(self, say: Callable[[str], object], title: str, clock: Clock, *, every_seconds: float = 5.0) -> None:
        self._say, self._title, self._clock, self._every = say, title, clock, every_seconds
        self._phase: str | None = None
        self._began = self._told = 0.0
        self._first_bytes = 0

    def __call__(self, seen: SyncProgress) -> None:
        now = self._clock.monotonic()
        ended = seen.done_objects == seen.total_objects
        if seen.phase != self._phase:
            self._phase, self._began, self._first_bytes = seen.phase, now, seen.done_bytes
        elif now - self._told < self._every and not ended:
            return
        self._told = now
        self._say(f"{self._title} {seen.phase}: {self._text(seen, now - self._began)}")

    def _text(self, seen: SyncProgress, seconds: float) -> str:
        counts = f"{seen.done_objects}/{seen.total_objects} objects, {size(seen.done_bytes)}/{size(seen.total_bytes)}"
        done = seen.done_bytes - self._first_bytes
        if seconds <= 0 or done <= 0:
            return counts
        rate = done / seconds
        return f"{counts}, {size(int(rate))}/s, {max(0.0, (seen.total_bytes - seen.done_bytes) / rate):.0f} s left"


def size(value: int) -> str:
    """Bytes for a person, in powers of a thousand."""
    amount, unit = float(value), 0
    while amount >= 1000 and unit < len(_UNITS) - 1:
        amount, unit = amount / 1000, unit + 1
    return f"{value} bytes" if unit == 0 else f"{amount:.1f} {_UNITS[unit]}"
