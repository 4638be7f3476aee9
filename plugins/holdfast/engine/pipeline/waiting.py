"""Wait for a training job: for the command line and the worker. The triggerer does the same without blocking."""

from __future__ import annotations

from collections.abc import Callable

from holdfast.engine.compute import ENDED, JobHandle, JobStatus, TrainingBackend
from holdfast.errors import HoldfastError


def wait_for_job(
    backend: TrainingBackend,
    handle: JobHandle,
    *,
    pause: Callable[[], bool],
    seen: Callable[[JobStatus], None],
    unanswered: Callable[[HoldfastError], None],
) -> JobStatus | None:
    """Ask until the job has ended. A backend that cannot be asked is asked again, for ever: that is no end.

    Args:
        pause: called between two looks; True gives the waiting up, and leaves the job alone.
        seen: called with every status.
        unanswered: called with every error that asking again may mend.

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
        if pause():
            return None
