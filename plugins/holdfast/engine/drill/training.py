"""Waiting for the resumed training to end, and finding the model it published."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

from holdfast.engine.authority.interface import NoMajority
from holdfast.engine.compute import job_spec
from holdfast.engine.compute.interface import ENDED, FINAL, JobHandle, JobSpec, JobState, JobStatus
from holdfast.engine.drill.errors import TrainingFailed
from holdfast.engine.drill.log import DrillState
from holdfast.engine.recovery.interface import Progress
from holdfast.engine.snapshot import latest

_LOOK_SECONDS = 0.25
#: A sixth of a drill's claim.
_RENEW_SECONDS = 300.0
_LEAST_SECONDS = 120.0
_MOST_RESTARTS = 2


def await_jobs(state: DrillState, *, renew: Callable[[], object] = lambda: None) -> dict[str, Any]:
    """Wait for every resumed job.

    Args:
        renew: called now and again while it waits, so that the drill's claim on the group does not end meanwhile.

    Raises:
        TrainingFailed: one ended badly, or not in three times its paced length.
    """
    return {"jobs": [_await(state, job, renew) for job in state.evidence("resume_training").get("jobs", [])]}


def _await(state: DrillState, job: dict[str, Any], renew: Callable[[], object]) -> dict[str, Any]:
    settings = state.rooms.topology.job(job["job"])
    restarts = 0
    if job["handle"] is not None:
        restarts = _until_succeeded(state, job, max(_LEAST_SECONDS, 3 * settings.steps * settings.step_seconds), renew)
    record = latest(state.rooms.store(state.plan.target), settings.model, epoch=state.plan.epoch)
    if record is None or record.labels.get("run") != job["run"]:
        return {**_facts(job), "model_digest": None, "detail": "the run published no model in the new epoch's lineage"}
    return {
        **_facts(job),
        "model_digest": record.labels.get("model_digest"),
        "snapshot_id": record.snapshot_id,
        "steps": int(record.labels.get("step", 0)),
        "restarts": restarts,
        "detail": "ended well",
    }


def _facts(job: dict[str, Any]) -> dict[str, Any]:
    return {"job": job["job"], "run": job["run"], "resumed_from_step": job.get("step")}


def _until_succeeded(
    state: DrillState, job: dict[str, Any], patience_seconds: float, renew: Callable[[], object]
) -> int:
    """Wait for the job, and start it again in its epoch when it failed or was killed, as an orchestrator would.

    Returns:
        how often it was started again.
    """
    handle, restarts = JobHandle(**job["handle"]), 0
    while (status := _ended(state, job["run"], handle, patience_seconds, renew)).state is not JobState.SUCCEEDED:
        if status.state in FINAL or restarts == _MOST_RESTARTS:
            raise TrainingFailed(
                "the resumed training did not end well",
                where=f"run {job['run']} at {state.plan.target}",
                expected=str(JobState.SUCCEEDED),
                found=f"{status.state} at step {status.step} after {restarts} restarts: {status.detail}",
                fix="Read the job's log",
            )
        restarts += 1
        state.progress(Progress("await_training", "waiting", detail=f"{job['run']} {status.state}: started again"))
        handle = state.rooms.backend(state.plan.target).submit(_spec(state, job))
    return restarts


def _spec(state: DrillState, job: dict[str, Any]) -> JobSpec:
    return job_spec(
        state.rooms.topology,
        state.plan.group,
        job["job"],
        run=job["run"],
        epoch=state.plan.epoch,
        site=state.plan.target,
        dataset_snapshot=job.get("dataset_snapshot") or None,
        environ=state.rooms.environ,
    )


def _ended(
    state: DrillState, run: str, handle: JobHandle, patience_seconds: float, renew: Callable[[], object]
) -> JobStatus:
    clock, backend = state.rooms.clock, state.rooms.backend(state.plan.target)
    until = clock.monotonic() + patience_seconds
    due = clock.monotonic() + _RENEW_SECONDS
    while True:
        status = backend.status(handle)
        if status.state in ENDED:
            return status
        if clock.monotonic() >= until:
            raise TrainingFailed(
                "the resumed training did not end in the time allowed",
                where=f"run {run}",
                expected=f"its end within {patience_seconds:.0f} s",
                found=f"{status.state} at step {status.step}",
            )
        if clock.monotonic() >= due:
            due = clock.monotonic() + _RENEW_SECONDS
            with suppress(NoMajority):  # the claim still stands for a while; the next look renews it
                renew()
        clock.sleep(_LOOK_SECONDS)
