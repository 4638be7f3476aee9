"""Stop a run by hand: its job in the newest epoch, wherever a failover took it."""

from __future__ import annotations

from dataclasses import dataclass

from holdfast.engine.compute import ENDED, JobHandle, JobStatus
from holdfast.engine.pipeline.active import require_active
from holdfast.engine.pipeline.runs import NoRun
from holdfast.engine.recovery.jobs import find_job
from holdfast.engine.runtime import Runtime


@dataclass(frozen=True, slots=True)
class StoppedRun:
    """What became of a run's job.

    Args:
        status: as its backend told it last; one that is no end: it did not leave in its grace.
        already: it had ended before, and nobody was asked to leave.
    """

    run: str
    epoch: int
    site: str
    handle: JobHandle
    status: JobStatus
    already: bool


def stop_run(runtime: Runtime, group: str, run: str, *, grace_seconds: float) -> StoppedRun:
    """Ask the run's job in the group's newest epoch to write a checkpoint and leave.

    The run is not over: whoever asks for it again, a retry of its task included, goes on from there.

    Args:
        grace_seconds: how long it may take; then it is killed.

    Raises:
        NoRun: the run has no job in this epoch.
        UnknownName, GroupNotInitialised, NoMajority: see `require_active`.
        ComputeUnavailable: its service does not answer.
    """
    state = require_active(runtime, group)
    backend = runtime.backend(state.active_site)
    handle = find_job(backend, state.active_site, run, state.epoch)
    if handle is None:
        raise NoRun(
            "the run has no job to stop",
            where=f"run {run} at {state.active_site}",
            expected=f"a job of epoch {state.epoch}",
            found="none",
        )
    before = backend.status(handle)
    already = before.state in ENDED
    status = before if already else backend.stop(handle, grace_seconds=grace_seconds)
    return StoppedRun(run, state.epoch, state.active_site, handle, status, already)
