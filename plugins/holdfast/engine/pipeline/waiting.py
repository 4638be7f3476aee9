"""Wait for a training job: for the command line and the worker. The triggerer does the same without blocking."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from holdfast.engine.authority.interface import NoMajority
from holdfast.engine.compute import ENDED, JobHandle, JobState, JobStatus, TrainingBackend
from holdfast.engine.pipeline.active import require_active
from holdfast.engine.runtime import Runtime
from holdfast.errors import HoldfastError

#: Between two questions to the register: each reads a majority of the sites.
_EPOCH_SECONDS = 10.0


class JobWatch:
    """Says when to stop waiting for a job that has not ended.

    It waited for a machine as long as its placement allows; or a plan took its group to another epoch, so nothing it
    does counts. A job that is cut off from every site does not learn that itself, and the service of a lost cloud
    cannot be asked: without this, the waiting would last until the cloud is back. That a backend does not answer is by
    itself no reason: "cannot reach" is not "ended".

    Args:
        group: whose register is asked, at most every ten seconds.
        epoch: the job's own; None: not known, and nothing is asked of the register.
        move_on_at: when a job that still waits for a machine has waited long enough; None: it may wait.
    """

    def __init__(self, runtime: Runtime, group: str, *, epoch: int | None, move_on_at: datetime | None) -> None:
        self._runtime, self._group, self._epoch, self._move_on_at = runtime, group, epoch, move_on_at
        self._next = runtime.clock.monotonic() + _EPOCH_SECONDS

    def over(self, status: JobStatus | None) -> JobStatus | None:
        """What ends the waiting: the job as it stands, or as lost with the epoch that followed; None: nothing does.

        Args:
            status: the last one seen, which was no end; None: its backend did not answer.

        Raises:
            HoldfastError: one that asking again does not mend, e.g. the topology has no such group any more.
        """
        waits = status is not None and status.state is JobState.PENDING
        if waits and self._move_on_at is not None and self._runtime.clock.now() >= self._move_on_at:
            return status
        now = self._runtime.clock.monotonic()
        if self._epoch is None or now < self._next:
            return None
        self._next = now + _EPOCH_SECONDS
        try:
            state = require_active(self._runtime, self._group)
        except NoMajority:
            return None
        if state.epoch <= self._epoch:
            return None
        detail = f"its epoch {self._epoch} is over: epoch {state.epoch} is at {state.active_site}"
        return JobStatus(JobState.LOST, detail=detail)


def wait_for_job(
    backend: TrainingBackend,
    handle: JobHandle,
    *,
    pause: Callable[[], bool],
    seen: Callable[[JobStatus], None],
    unanswered: Callable[[HoldfastError], None],
    over: Callable[[JobStatus | None], JobStatus | None],
) -> JobStatus | None:
    """Ask until the job has ended. A backend that cannot be asked is asked again: that is no end.

    Args:
        pause: called between two looks; True gives the waiting up, and leaves the job alone.
        seen: called with every status.
        unanswered: called with every error that asking again may mend.
        over: called with every status that is no end, None for an error; what it says ends the waiting, see
            `JobWatch`.

    Returns:
        how it ended, or stood when the waiting was over; ``None``: the waiting was given up by the pause.

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
        if (ended := over(status)) is not None:
            return ended
        if pause():
            return None
