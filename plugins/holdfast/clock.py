"""Time as an argument: what the engine calls instead of the time module."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """Wall time for records, monotonic time for durations and leases."""

    def now(self) -> datetime:
        """The wall clock, timezone-aware, in UTC."""

    def monotonic(self) -> float:
        """Seconds that only grow, comparable within this host."""

    def sleep(self, seconds: float) -> None:
        """Wait for so many seconds."""


class SystemClock:
    """The real clock.

    ``monotonic`` is ``CLOCK_BOOTTIME`` where there is one: it goes on while a machine is suspended, so a lease
    cannot outlive a pause of its holder.
    """

    def now(self) -> datetime:
        return datetime.now(UTC)

    def monotonic(self) -> float:
        clock_id = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
        return time.clock_gettime(clock_id)

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)


class FakeClock:
    """A clock that moves only when told; ``sleep`` moves it."""

    def __init__(self, start: datetime | None = None) -> None:
        self._wall = start or datetime(2026, 1, 1, tzinfo=UTC)
        self._elapsed = 0.0

    def now(self) -> datetime:
        from datetime import timedelta

        return self._wall + timedelta(seconds=self._elapsed)

    def monotonic(self) -> float:
        return self._elapsed

    def sleep(self, seconds: float) -> None:
        self.advance(seconds)

    def advance(self, seconds: float) -> None:
        """Move both clocks forward by so many seconds."""
        self._elapsed += seconds
