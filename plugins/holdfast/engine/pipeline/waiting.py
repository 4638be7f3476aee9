"""Wait for a training job: for the command line and the worker. The triggerer does the same without blocking."""

from __future__ import annotations

from collections.abc import Callable

from holdfast.engine.authority.interface import NoMajority
from holdfast.engine.compute import ENDED, JobHandle, JobState, JobStatus, TrainingBackend
from holdfast.engine.pipeline.active import require_active
from holdfast.engine.runtime import Runtime
from holdfast.errors import HoldfastError

#: Between two questions to the register: each reads a majority of the sites.
_EPOCH_SECONDS = 10.0


class EpochWatch:
    """Says when a job need not be waited for: a plan took its group to another epoch, so nothing it does counts.

    A job that is cut off from every site does not learn that itself, and the service of a lost cloud cannot be asked.
    Without this, the waiting would last until the cloud is back.

    Args:
        group: whose register is asked, at most every ten seconds.
        epoch: the job's.
    """

    def __init__(self, runtime: Runtime, group: str, epoch: int) -> None:
        self._runtime, self._group, self._epoch = runtime, group, epoch
        self._next = runtime.clock.monotonic() + _EPOCH_SECONDS

    def over(self) -> JobStatus | None:
        """The job as lost, with the epoch that followed; ``None``: its epoch lasts, or nobody can tell now.

        Raises:
            HoldfastError: one that asking again does not mend, e.g. the topology has no such group any more.
        """
        now = self._runtime.clock.monotonic()
        if now < self._next:
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
    over: Callable[[], JobStatus | None],
) -> JobStatus | None:
    """Ask until the job has ended. A backend that cannot be asked is asked again, for ever: that is no end.

    Args:
        pause: called between two looks; True gives the waiting up, and leaves the job alone.
        seen: called with every status.
        unanswered: called with every error that asking again may mend.
        over: asked after a look that found no end; what it says ends the waiting, see `EpochWatch`.

    Returns:
        how it ended; ``None``: the waiting was given up.

    Raises:
        HoldfastError: one that asking again does not mend, e.g. UnknownHandle.
    """
    while True:
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
        if (ended := over()) is not None:
            return ended
        if pause():
            return None
