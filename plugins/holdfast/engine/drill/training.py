"""Waiting for the resumed training to end, and finding the model it published."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from typing import Any

from holdfast.engine.authority.interface import NoMajority
from holdfast.engine.compute.interface import ENDED, FINAL, JobHandle, JobState, JobStatus
from holdfast.engine.config.models import NoCapacityPolicy
from holdfast.engine.drill.errors import TrainingFailed
from holdfast.engine.drill.log import DrillState
from holdfast.engine.recovery.interface import Progress
from holdfast.engine.recovery.placing import Answer, GivenUp, NoRoom, Placed, Wanted, place
from holdfast.engine.snapshot import iter_selectable

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
    degraded = job.get("degraded")
    if degraded is not None and degraded["policy"] == NoCapacityPolicy.GO_ON:
        return {**_facts(job), "model_digest": None, "restarts": 0, "detail": job["detail"]}
    restarts = 0
    if job["handle"] is not None or degraded is not None:
        restarts = _until_succeeded(state, job, max(_LEAST_SECONDS, 3 * settings.steps * settings.step_seconds), renew)
    # Not the newest model: another run of the job may have published one meanwhile.
    published = iter_selectable(state.rooms.store(state.plan.target), settings.model, epoch=state.plan.epoch)
    record = next((one for one in published if one.labels.get("run") == job["run"]), None)
    if record is None:
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
    return {
        "job": job["job"],
        "run": job["run"],
        "resumed_from_step": job.get("step"),
        "placement": job.get("placement"),
        "degraded": (job.get("degraded") or {}).get("reason"),
    }


def _until_succeeded(
    state: DrillState, job: dict[str, Any], patience_seconds: float, renew: Callable[[], object]
) -> int:
    """Wait for the job; a machine that was lost is replaced, and one that is not to be had asked for, as elsewhere.

    Returns:
        how often it was started again.
    """
    until = state.rooms.clock.monotonic() + patience_seconds
    handle = None if job["handle"] is None else JobHandle(**job["handle"])
    move_on_at = datetime.fromisoformat(job["move_on_at"]) if job.get("move_on_at") else None
    restarts = 0
    while True:
        status = None if handle is None else _ended(state, job["run"], handle, move_on_at, patience_seconds, renew)
        if status is not None and status.state is JobState.SUCCEEDED:
            return restarts
        if status is not None and (status.state in FINAL or restarts == _MOST_RESTARTS):
            told = f"{status.state} at step {status.step} after {restarts} restarts: {status.detail}"
            raise _failed(state, job, told)
        found = _place(state, job)
        if isinstance(found, GivenUp):
            raise _failed(state, job, f"{found.reason}: {found.detail or 'no detail'}; {found.counts}")
        if isinstance(found, Placed):
            if status is not None and status.state in ENDED:
                restarts += 1
                said = f"{job['run']} {status.state}: started again"
                state.progress(Progress("await_training", "waiting", detail=said))
            handle, move_on_at = found.handle, found.move_on_at
            continue
        _pause_for_room(state, job, found, until, renew)
        handle = None


def _place(state: DrillState, job: dict[str, Any]) -> Answer:
    snapshot = job.get("dataset_snapshot") or None
    wanted = Wanted(state.plan.group, job["job"], job["run"], state.plan.epoch, state.plan.target, snapshot)
    return place(
        state.rooms,
        wanted,
        say=lambda said: state.progress(Progress("await_training", "waiting", detail=f"{job['run']}: {said}")),
    )


def _pause_for_room(
    state: DrillState, job: dict[str, Any], none: NoRoom, until: float, renew: Callable[[], object]
) -> None:
    """Raises TrainingFailed: there is no machine, and none is to be waited for, or not so long."""
    clock = state.rooms.clock
    policy = state.rooms.topology.group(state.plan.group).no_capacity
    if none.ask_again_at is None or policy is not NoCapacityPolicy.WAIT or clock.monotonic() >= until:
        raise _failed(state, job, f"{none.reason}; {none.counts}; the group's policy is {policy}")
    with suppress(NoMajority):
        renew()
    clock.sleep(max(_LOOK_SECONDS, (none.ask_again_at - clock.now()).total_seconds()))


def _failed(state: DrillState, job: dict[str, Any], found: str) -> TrainingFailed:
    return TrainingFailed(
        "the resumed training did not end well",
        where=f"run {job['run']} at {state.plan.target}",
        expected=str(JobState.SUCCEEDED),
        found=found,
        fix="Read the job's log",
    )


def _ended(
    state: DrillState,
    run: str,
    handle: JobHandle,
    move_on_at: datetime | None,
    patience_seconds: float,
    renew: Callable[[], object],
) -> JobStatus:
    """How the job ended; how it stands when it has waited for a machine as long as its placement allows."""
    clock, backend = state.rooms.clock, state.rooms.backend(state.plan.target)
    until = clock.monotonic() + patience_seconds
    due = clock.monotonic() + _RENEW_SECONDS
    while True:
        status = backend.status(handle)
        waited = status.state is JobState.PENDING and move_on_at is not None and clock.now() >= move_on_at
        if status.state in ENDED or waited:
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
