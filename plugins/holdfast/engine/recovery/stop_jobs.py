"""Stop the training jobs of the site that is no longer active, where they can be reached at all."""

from __future__ import annotations

from typing import Any

from holdfast.engine.compute.interface import JobHandle, JobSpec, JobStatus, TrainingBackend
from holdfast.engine.recovery.context import StepContext
from holdfast.engine.recovery.interface import Rooms
from holdfast.engine.recovery.subjects import current_run
from holdfast.errors import HoldfastError

_GRACE_SECONDS = 1.0


def stop_old_jobs(context: StepContext) -> list[dict[str, Any]]:
    """Ask the source's jobs to checkpoint and leave. A site that is down keeps them: the epoch fences their writes.

    Returns:
        Per job its run, whether it is known to be dead (``None``: not known) and why.
    """
    down = bool(context.evidence("detect")["down"])
    return [_stop(context, job, down) for job in context.group.training]


def _stop(context: StepContext, job: str, down: bool) -> dict[str, Any]:
    plan = context.plan
    if down:
        return {
            "job": job,
            "dead": None,
            "detail": f"{plan.source} is down: its jobs cannot be reached, their epoch is over",
        }
    try:
        run = current_run(context.target, plan.group, job, epoch=plan.expected_epoch)
        if run is None:
            return {"job": job, "dead": None, "detail": "no run is known here"}
        backend = context.rooms.backend(plan.source)
        handle = find_job(backend, plan.source, run, plan.expected_epoch)
        if handle is None:
            return {"job": job, "run": run, "dead": None, "detail": "no job of this epoch is known"}
        status = backend.stop(handle, grace_seconds=_GRACE_SECONDS)
        return {"job": job, "run": run, "dead": backend.confirm_dead(handle), "detail": str(status.state)}
    except HoldfastError as error:
        return {"job": job, "dead": None, "detail": str(error)}


def find_job(backend: TrainingBackend, site: str, run: str, epoch: int) -> JobHandle | None:
    """The job of a run in an epoch at a site, when this backend knows one. Nothing is started."""
    return backend.find(JobSpec(run, epoch, site, ()).name)


def job_status(rooms: Rooms, site: str, run: str, epoch: int) -> JobStatus | None:
    """Where that job stands; ``None`` when none is known."""
    backend = rooms.backend(site)
    handle = find_job(backend, site, run, epoch)
    return None if handle is None else backend.status(handle)
