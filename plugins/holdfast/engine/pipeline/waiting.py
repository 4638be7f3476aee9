"""Wait for a training job: for the command line and the worker. The triggerer does the same without blocking."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from holdfast.engine.compute import ENDED, JobHandle, JobState, JobStatus, TrainingBackend
from holdfast.engine.runtime import Runtime
from holdfast.errors import HoldfastError

#: A job that its backend shows as running is believed for so long before the register is asked about its epoch.
_BELIEVED_SECONDS = 30.0


class JobWatch:
    """Says when to stop waiting for a job that has not ended.

    It waited for a machine as long as its placement allows; or its epoch is over, and its backend cannot be asked or
    does not know. That a backend does not answer is by itself no reason: "cannot reach" is not "ended".

    Args:
        epoch: the job's own; None: not known, and nothing is asked of the register.
        move_on_at: when a job that still waits for a machine has waited long enough; None: it may wait.
    """

    def __init__(self, runtime: Runtime, group: str, *, epoch: int | None, move_on_at: datetime | None) -> None:
        self._runtime, self._group, self._epoch, self._move_on_at = runtime, group, epoch, move_on_at
        self._asked_at = runtime.clock.monotonic()

    def is_over(self, status: JobStatus | None) -> bool:
        """Whether to stop waiting. None: its backend did not answer."""
        waits = status is not None and status.state is JobState.PENDING
        if waits and self._move_on_at is not None and self._runtime.clock.now() >= self._move_on_at:
            return True
        now = self._runtime.clock.monotonic()
        if self._epoch is None or (status is not None and now - self._asked_at < _BELIEVED_SECONDS):
            return False
        self._asked_at = now
        try:
            state = self._runtime.authority(self._group).read(self._group)
        except HoldfastError:
            return False
        return state is not None and state.epoch > self._epoch


def given_up(status: JobStatus | None) -> JobStatus:
    """The status of a job nobody waits for any more: as it was last seen; lost where its backend did not answer."""
    return status or JobStatus(JobState.LOST, detail="its backend does not answer, and its epoch is over")


def wait_for_job(
    backend: TrainingBackend,
    handle: JobHandle,
    *,
    pause: Callable[[], bool],
    seen: Callable[[JobStatus], None],
    unanswered: Callable[[HoldfastError], None],
    is_over: Callable[[JobStatus | None], bool] = lambda _: False,
) -> JobStatus | None:
    """Ask until the job has ended. A backend that cannot be asked is asked again: that is no end.

    Args:
        pause: called between two looks; True gives the waiting up, and leaves the job alone.
        seen: called with every status.
        unanswered: called with every error that asking again may mend.
        is_over: called with every status that is no end, None for an error; True: see `JobWatch`.

    Returns:
        how it ended, or stood when it was over; ``None``: the waiting was given up by the pause.

    Raises:
        HoldfastError: one that asking again does not mend, e.g. UnknownHandle.
    """
    while True:
        status: JobStatus | None = None
        try:
            status = backend.status(handle)
        except HoldfastError as error:
            if not error.transient:
                raise
            unanswered(error)
        else:
            seen(status)
            if status.state in ENDED:
                return status
        if is_over(status):
            return given_up(status)
        if pause():
            return None
