"""Waiting for the resumed training to end, and finding the model it published."""

from __future__ import annotations

from typing import Any

from holdfast.engine.compute.interface import JobHandle, JobState, JobStatus
from holdfast.engine.drill.errors import TrainingFailed
from holdfast.engine.drill.log import DrillState
from holdfast.engine.snapshot import latest

_LOOK_SECONDS = 0.25
_LEAST_SECONDS = 120.0
_ENDED = {JobState.SUCCEEDED, JobState.FAILED, JobState.FENCED, JobState.STOPPED, JobState.LOST}


def await_jobs(state: DrillState) -> dict[str, Any]:
    """Wait for every resumed job.

    Raises:
        TrainingFailed: one ended badly, or not in three times its paced length.
    """
    return {"jobs": [_await(state, job) for job in state.evidence("resume_training").get("jobs", [])]}


def _await(state: DrillState, job: dict[str, Any]) -> dict[str, Any]:
    settings = state.rooms.topology.job(job["job"])
    if job["handle"] is not None:
        patience = max(_LEAST_SECONDS, 3 * settings.steps * settings.step_seconds)
        status = _ended(state, job["run"], JobHandle(**job["handle"]), patience)
        if status.state is not JobState.SUCCEEDED:
            raise TrainingFailed(
                "the resumed training did not end well",
                where=f"run {job['run']} at {state.plan.target}",
                expected=str(JobState.SUCCEEDED),
                found=f"{status.state} at step {status.step}: {status.detail}",
                fix="Read the job's log",
            )
    record = latest(state.rooms.store(state.plan.target), settings.model, epoch=state.plan.epoch)
    if record is None or record.labels.get("run") != job["run"]:
        return {**_facts(job), "model_digest": None, "detail": "the run published no model in the new epoch's lineage"}
    return {
        **_facts(job),
        "model_digest": record.labels.get("model_digest"),
        "snapshot_id": record.snapshot_id,
        "steps": int(record.labels.get("step", 0)),
        "detail": "ended well",
    }


def _facts(job: dict[str, Any]) -> dict[str, Any]:
    return {"job": job["job"], "run": job["run"], "resumed_from_step": job.get("step")}


def _ended(state: DrillState, run: str, handle: JobHandle, patience_seconds: float) -> JobStatus:
    clock, backend = state.rooms.clock, state.rooms.backend(state.plan.target)
    until = clock.monotonic() + patience_seconds
    while True:
        status = backend.status(handle)
        if status.state in _ENDED:
            return status
        if clock.monotonic() >= until:
            raise TrainingFailed(
                "the resumed training did not end in the time allowed",
                where=f"run {run}",
                expected=f"its end within {patience_seconds:.0f} s",
                found=f"{status.state} at step {status.step}",
            )
        clock.sleep(_LOOK_SECONDS)
