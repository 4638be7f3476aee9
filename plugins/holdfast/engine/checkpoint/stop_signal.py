"""What asks a training to leave: SIGTERM, in the process that trains and in none that it forks; its cloud's notice."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

from holdfast.engine.checkpoint.preemption import PreemptionWatch


class StopSignal:
    """Calls ``stop`` on SIGTERM between `install` and `restore`; the handler that was there before comes back after.

    A forked child (a ``multiprocessing`` pool's, a data loader's) inherits the handler and no training loop that would
    ever act on it. There the handler puts the one from before back and sends the signal again.

    Args:
        watch: for a preemption notice, meanwhile; None: none.
    """

    def __init__(self, stop: Callable[[], None], watch: PreemptionWatch | None = None) -> None:
        self._stop = stop
        self.watch = watch
        self._owner = os.getpid()
        self._before: dict[int, Any] = {}

    def install(self) -> None:
        """The handler only in the main thread: elsewhere Python allows none."""
        self._owner = os.getpid()
        if self.watch is not None:
            self.watch.start()
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._received) for number in (signal.SIGTERM,)}

    def restore(self) -> None:
        if self.watch is not None:
            self.watch.close()
        self._restore_handlers()

    def _restore_handlers(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._before = {}

    def _received(self, number: int, _frame: FrameType | None) -> None:
        if os.getpid() == self._owner:
            self._stop()
            return
        self._restore_handlers()
        os.kill(os.getpid(), number)
