"""How a training job shows while somebody waits for it: a line when it got on, at most every few seconds."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from rich.console import Console

from holdfast.cli.train_tables import risk_text
from holdfast.engine.compute import ENDED, JobStatus, TrainingBackend
from holdfast.engine.pipeline.training_status import read_beat, work_at_risk_of
from holdfast.engine.recovery.start_training import StartedJob
from holdfast.engine.runtime import Runtime
from holdfast.errors import HoldfastError

#: Each line asks the buckets of every site.
_EVERY_SECONDS = 5.0


class Watching:
    """Turns the looks of `wait_for_job` into lines.

    Args:
        runtime: its clock paces the lines and measures the rate.
        console: where they go.
    """

    def __init__(
        self, runtime: Runtime, group: str, job: str, started: StartedJob, backend: TrainingBackend, console: Console
    ) -> None:
        self._runtime, self._group, self._job, self._started = runtime, group, job, started
        self._backend, self._console = backend, console
        self._told_at = float("-inf")
        self._last: tuple[float, int] | None = None
        self._silent = False

    def seen(self, status: JobStatus) -> None:
        """Tell a status, if it is time."""
        self._silent = False
        now = self._runtime.clock.monotonic()
        if now - self._told_at < _EVERY_SECONDS and status.state not in ENDED:
            return
        self._told_at = now
        parts = [f"{status.state}", f"step {_known(status.step)}/{_known(status.total_steps)}", self._rate(now, status)]
        parts += self._saved()
        self._console.print(", ".join(part for part in parts if part), markup=False)

    def unanswered(self, error: HoldfastError) -> None:
        """Say once that the backend cannot be asked."""
        if not self._silent:
            self._console.print(f"It cannot be asked now, and is asked again: {error}", markup=False)
        self._silent = True

    def _rate(self, now: float, status: JobStatus) -> str:
        before, self._last = self._last, (now, status.step) if status.step is not None else self._last
        if before is None or status.step is None or now <= before[0] or status.step < before[1]:
            return ""
        return f"{(status.step - before[1]) / (now - before[0]):.2f} steps/s"

    def _saved(self) -> list[str]:
        """The durable step and the work at risk; what cannot be asked is left out of a progress line."""
        try:
            beat = read_beat(self._backend, self._started.handle, clock=self._runtime.clock)
            risks = work_at_risk_of(self._runtime, self._group, self._job, run=self._started.run)
        except HoldfastError as error:
            return [f"work at risk unknown: {error.what}"]
        said = [f"saved {beat.checkpoint_step}"] if beat is not None and beat.checkpoint_step is not None else []
        return [*said, *(f"{one.standby} has {one.standby_step}, {risk_text(one)} at risk" for one in risks)]


def _known(value: int | None) -> str:
    return "?" if value is None else str(value)


@contextmanager
def leaving() -> Iterator[threading.Event]:
    """An event that Ctrl-C sets: the waiting ends, the job does not. Outside the main thread it just stays unset."""
    left = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield left
        return

    def handle(_number: int, _frame: FrameType | None) -> None:
        if left.is_set():
            raise KeyboardInterrupt
        left.set()

    before = signal.signal(signal.SIGINT, handle)
    try:
        yield left
    finally:
        signal.signal(signal.SIGINT, before)
