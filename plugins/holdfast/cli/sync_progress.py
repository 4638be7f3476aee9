"""How a sync shows while it runs: a bar with rate and time left on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from types import FrameType

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.text import Text

from holdfast.clock import Clock
from holdfast.engine.pipeline.telling import ProgressLines
from holdfast.engine.replication.sync import SyncProgress

Show = Callable[[SyncProgress], None]


class _Objects(ProgressColumn):
    """Objects done of all."""

    def render(self, task: Task) -> Text:
        return Text(f"{task.fields['objects']}/{task.fields['all_objects']} objects")


@contextmanager
def sync_progress(console: Console, title: str, clock: Clock) -> Iterator[Show]:
    """What a sync is to call with its progress, from its own thread.

    Args:
        console: where it shows; plain lines unless it is a terminal.
        title: what is synced.
        clock: paces the plain lines and measures their rate.
    """
    if not console.is_terminal:
        yield ProgressLines(partial(console.print, markup=False), title, clock)
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        _Objects(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bars:
        yield _Bars(bars, title)


class _Bars:
    """One bar per phase."""

    def __init__(self, bars: Progress, title: str) -> None:
        self._bars, self._title = bars, title
        self._tasks: dict[str, TaskID] = {}

    def __call__(self, seen: SyncProgress) -> None:
        if seen.phase not in self._tasks:
            self._tasks[seen.phase] = self._bars.add_task(
                f"{self._title} {seen.phase}", total=None, objects=0, all_objects=0
            )
        self._bars.update(
            self._tasks[seen.phase],
            completed=seen.done_bytes,
            total=seen.total_bytes or None,
            objects=seen.done_objects,
            all_objects=seen.total_objects,
        )


@contextmanager
def stopping() -> Iterator[threading.Event]:
    """An event that the first Ctrl-C (or SIGTERM) sets; a second one ends the process as always.

    Outside the main thread signals are not ours; the event just stays unset.
    """
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def handle(_number: int, _frame: FrameType | None) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()
        # Past every buffer and lock: whatever the main thread was writing, it is in the middle of.
        os.write(2, b"\nStopping as soon as what is in flight is done; once more ends it at once.\n")

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)
