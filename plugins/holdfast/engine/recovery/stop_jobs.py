"""Stop the training jobs of the site that is no longer active, where they can be reached at all."""

from __future__ import annotations

from typing import Any

from holdfast.engine.recovery.context import StepContext
from holdfast.engine.recovery.jobs import find_job
from holdfast.engine.recovery.unfinished import runs_to_stop
from holdfast.errors import HoldfastError

_GRACE_SECONDS = 1.0
_NO_JOB = "no job of this epoch is known"


def stop_old_jobs(context: StepContext) -> list[dict[str, Any]]:
    """Ask the source's jobs to checkpoint and leave. A site that is down keeps them: the epoch fences their writes.

    Returns:
        Per run of each job whether it is known to be dead (``None``: not known) and why.
    """
    down = bool(context.evidence("detect")["down"])
    return [found for job in context.group.training for found in _stop_runs(context, job, down)]


def _stop_runs(context: StepContext, job: str, down: bool) -> list[dict[str, Any]]:
    plan = context.plan
    if down:
        return [
            {
                "job": job,
                "dead": None,
                "detail": f"{plan.source} is down: its jobs cannot be reached, their epoch is over",
            }
        ]
    try:
        runs = runs_to_stop(context.rooms, plan, job)
    except HoldfastError as error:
        return [{"job": job, "dead": None, "detail": str(error)}]
    if not runs:
        return [{"job": job, "dead": None, "detail": "no run is known here"}]
    found = [_stop(context, job, run) for run in runs]
    # An older run that has no job in this epoch has nothing to be stopped; of the newest one is expected.
    return [one for one in found[:-1] if one["detail"] != _NO_JOB] + found[-1:]


def _stop(context: StepContext, job: str, run: str) -> dict[str, Any]:
    plan = context.plan
    try:
        backend = context.rooms.backend(plan.source)
        handle = find_job(backend, plan.source, run, plan.expected_epoch)
        if handle is None:
            return {"job": job, "run": run, "dead": None, "detail": _NO_JOB}
        status = backend.stop(handle, grace_seconds=_GRACE_SECONDS)
        return {"job": job, "run": run, "dead": backend.confirm_dead(handle), "detail": str(status.state)}
    except HoldfastError as error:
        return {"job": job, "run": run, "dead": None, "detail": str(error)}
