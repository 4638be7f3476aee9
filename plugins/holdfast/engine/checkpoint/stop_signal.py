"""What asks a training to leave: SIGTERM, in the process that trains and in none that it forks; its cloud's notice."""

from __future__ import annotations

import functools
import os
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

from holdfast.engine.checkpoint.preemption import PreemptionWatch


class StopSignal:
    """Calls ``stop`` on SIGTERM between `install` and `restore`; the handler that was there before comes back after.

    A forked child (a ``multiprocessing`` pool's, a data loader's) has no training loop that would ever act on it: there
    the handler from before is back before any Python runs. Not by the handler itself alone: Python runs one between two
    steps of its own, so a child about to wait for a lock of the C library would wait on, with the signal unheard.

    Args:
        watch: for a preemption notice, meanwhile; None: none.
    """

    def __init__(self, stop: Callable[[], None], watch: PreemptionWatch | None = None) -> None:
        self._stop = stop
        self.watch = watch
        self._before: dict[int, Any] = {}

    def install(self) -> None:
        """The handler only in the main thread: elsewhere Python allows none."""
        if self.watch is not None:
            self.watch.start()
        if threading.current_thread() is threading.main_thread():
            _watch_forks()
            self._before = {number: signal.signal(number, self._received) for number in _SIGNALS}
            _installed.append(self)

    def restore(self) -> None:
        if self.watch is not None:
            self.watch.close()
        self.restore_handlers()

    def restore_handlers(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._before = {}
        if self in _installed:
            _installed.remove(self)

    def _received(self, _number: int, _frame: FrameType | None) -> None:
        self._stop()


_SIGNALS = (signal.SIGTERM,)
#: The last one is the innermost: restored in reverse, each finds the handler it had found.
_installed: list[StopSignal] = []
_masks = threading.local()


@functools.cache
def _watch_forks() -> None:
    os.register_at_fork(before=_hold, after_in_parent=_release, after_in_child=_begin_child)


def _hold() -> None:
    """A signal between the fork and the child's own handlers would be lost: Python forgets it there."""
    _masks.before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS) if _installed else None


def _release() -> None:
    if (before := _masks.before) is not None:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _begin_child() -> None:
    for one in reversed(tuple(_installed)):
        one.restore_handlers()
    _release()
