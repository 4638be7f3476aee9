"""Signals that end a drill early: the first one interrupts it, later ones wait until the fault is lifted."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class DrillInterrupted(BaseException):
    """Somebody asked the drill to stop. No `Exception`: nothing on the way may swallow it."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


class Interrupts:
    """Whether an interruption is let through now."""

    def __init__(self) -> None:
        self.held = False
        self.seen: str | None = None

    def _signalled(self, number: int, _frame: FrameType | None) -> None:
        first, self.seen = self.seen is None, signal.Signals(number).name
        if first and not self.held:
            raise DrillInterrupted(self.seen)


@contextmanager
def interrupts() -> Iterator[Interrupts]:
    """SIGINT and SIGTERM as `DrillInterrupted`, in the main thread; elsewhere the caller's own handling stays."""
    handler = Interrupts()
    if threading.current_thread() is not threading.main_thread():
        yield handler
        return
    before = {number: signal.signal(number, handler._signalled) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield handler
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)
