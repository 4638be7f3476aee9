"""How a backup, a restore or a verification shows while it runs: a line that is renewed, or a line now and then."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from holdfast.clock import Clock
from holdfast.engine.pipeline.telling import size
from holdfast.engine.vault.backup import Progress as Seen

_EVERY_SECONDS = 5.0


@contextmanager
def vault_progress(console: Console, title: str, clock: Clock) -> Iterator[Callable[[Seen], None]]:
    """What a backup or a restore is to call with its progress: objects, bytes, rate and time left."""
    if not console.is_terminal:
        yield _Lines(console, title, clock)
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.fields[text]}", markup=False),
        TransferSpeedColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bars:
        task = bars.add_task(title, total=None, text="")

        def show(seen: Seen) -> None:
            text = f"{seen.objects} objects, {size(seen.size_bytes)}"
            bars.update(task, completed=seen.size_bytes, total=seen.total_bytes, text=text)

        yield show


class _Lines:
    """A line every few seconds."""

    def __init__(self, console: Console, title: str, clock: Clock) -> None:
        self._console, self._title, self._clock = console, title, clock
        self._began = self._told = clock.monotonic()

    def __call__(self, seen: Seen) -> None:
        now = self._clock.monotonic()
        if now - self._told < _EVERY_SECONDS:
            return
        self._told = now
        rate = seen.size_bytes / max(now - self._began, 0.001)
        left = (
            "" if seen.total_bytes is None else f", {max(0.0, (seen.total_bytes - seen.size_bytes) / rate):.0f} s left"
        )
        text = f"{seen.objects} objects, {size(seen.size_bytes)}, {size(int(rate))}/s{left}"
        self._console.print(f"{self._title}: {text}", markup=False)


@contextmanager
def count_progress(console: Console, title: str, clock: Clock) -> Iterator[Callable[[int, int], None]]:
    """What a verification is to call with packs done and packs in all."""
    if not console.is_terminal:
        told = clock.monotonic()

        def say(done: int, of: int) -> None:
            nonlocal told
            if clock.monotonic() - told >= _EVERY_SECONDS:
                told = clock.monotonic()
                console.print(f"{title}: {done}/{of} packs", markup=False)

        yield say
        return
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bars:
        task = bars.add_task(title, total=None)
        yield lambda done, of: bars.update(task, completed=done, total=of)
