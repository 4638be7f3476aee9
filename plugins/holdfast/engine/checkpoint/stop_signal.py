"""SIGTERM as a request to leave, in the process that trains and in none that it forks."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any


class StopSignal:
    """Calls ``stop`` on SIGTERM between `install` and `restore`; the handler that was there before comes back after.

    A forked child (a ``multiprocessing`` pool's, a data loader's) inherits the handler and no training loop that would
    ever act on it. There the handler puts the one from before back and sends the signal again.
    """

    def __init__(self, stop: Callable[[], None]) -> None:
        self._stop = stop
        self._owner = os.getpid()
        self._before: dict[int, Any] = {}

    def install(self) -> None:
        """In the main thread; elsewhere Python allows no handler, and nothing happens."""
        self._owner = os.getpid()
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._received) for number in (signal.SIGTERM,)}

    def restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._before = {}

    def _received(self, number: int, _frame: FrameType | None) -> None:
        if os.getpid() == self._owner:
            self._stop()
            return
        self.restore()
        os.kill(os.getpid(), number)
