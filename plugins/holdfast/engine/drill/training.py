"""Waiting for the resumed training to end, and finding the model it published."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from holdfast.clock import Clock
from holdfast.engine.authority.interface import NoMajority
from holdfast.engine.compute.interface import ENDED, FINAL, JobHandle, JobState, JobStatus
from holdfast.engine.config.models import NoCapacityPolicy
from holdfast.engine.drill.errors import TrainingFailed
from holdfast.engine.drill.log import DrillState
from holdfast.engine.recovery.interface import Progress
from holdfast.engine.recovery.placing import GivenUp, NoRoom, Wanted, place
from holdfast.engine.recovery.start_training import NoMachine, TrainingGivenUp, given_up, without_machine
from holdfast.engine.recovery.waiting import AskAgain, JobWatch, Waiter, wait_for_job
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


@dataclass(frozen=True, slots=True)
class _Job:
    handle: JobHandle
    move_on_at: datetime | None


def _until_succeeded(
    state: DrillState, job: dict[str, Any], patience_seconds: float, renew: Callable[[], object]
) -> int:
    """Wait for the job; a machine that was lost is replaced, and one that is not to be had asked for, as elsewhere.

    Returns:
        how often it was started again.
    """
    clock = state.rooms.clock
    claim = _Claim(clock, renew)
    until = clock.monotonic() + patience_seconds
    moment = datetime.fromisoformat(job["move_on_at"]) if job.get("move_on_at") else None
    resumed = None if job["handle"] is None else _Job(JobHandle(**job["handle"]), moment)
    restarts = 0

    def start() -> _Job:
        nonlocal resumed
        found, resumed = resumed, None
        return found or _place(state, job)

    def goes_on(ended: JobStatus) -> bool:
        nonlocal restarts
        if ended.state in FINAL or (ended.state in ENDED and restarts == _MOST_RESTARTS):
            return False
        if ended.state in ENDED:
            restarts += 1
            said = f"{job['run']} {ended.state}: started again"
            state.progress(Progress("await_training", "waiting", detail=said))
        return True

    def finish(ended: JobStatus) -> int:
        if ended.state is not JobState.SUCCEEDED:
            told = f"{ended.state} at step {ended.step} after {restarts} restarts: {ended.detail}"
            raise _failed(state, job, told)
        return restarts

    def pause(later: AskAgain) -> bool:
        if clock.monotonic() >= until:
            raise _failed(state, job, str(later.why))
        claim.keep()
        clock.sleep(max(_LOOK_SECONDS, (later.at - clock.now()).total_seconds()))
        return False

    waiter = Waiter(
        clock,
        start=start,
        wait=lambda started: _wait(state, job["run"], started, patience_seconds, claim),
        goes_on=goes_on,
        finish=finish,
        pause=pause,
        poll_seconds=_LOOK_SECONDS,
        began=True,
    )
    try:
        found = waiter.run()
    except (NoMachine, TrainingGivenUp) as error:
        raise _failed(state, job, str(error)) from error
    assert found is not None, "a pause of a drill never gives up"
    return found


def _place(state: DrillState, job: dict[str, Any]) -> _Job:
    """Raises NoMachine, TrainingGivenUp, and what `place` raises."""
    plan = state.plan
    wanted = Wanted(plan.group, job["job"], job["run"], plan.epoch, plan.target, job.get("dataset_snapshot") or None)
    found = place(
        state.rooms,
        wanted,
        say=lambda said: state.progress(Progress("await_training", "waiting", detail=f"{job['run']}: {said}")),
    )
    if isinstance(found, GivenUp):
        raise given_up(wanted, found)
    if isinstance(found, NoRoom):
        raise without_machine(state.rooms, plan.group, job["run"], plan.target, found, epoch=plan.epoch)
    return _Job(found.handle, found.move_on_at)


def _failed(state: DrillState, job: dict[str, Any], found: str) -> TrainingFailed:
    return TrainingFailed(
        "the resumed training did not end well",
        where=f"run {job['run']} at {state.plan.target}",
        expected=str(JobState.SUCCEEDED),
        found=found,
        fix="Read the job's log",
    )


class _Claim:
    """The drill's claim on the group, renewed when it is due."""

    def __init__(self, clock: Clock, renew: Callable[[], object]) -> None:
        self._clock, self._renew = clock, renew
        self._due = clock.monotonic() + _RENEW_SECONDS

    def keep(self) -> None:
        if self._clock.monotonic() < self._due:
            return
        self._due = self._clock.monotonic() + _RENEW_SECONDS
        with suppress(NoMajority):  # the claim still stands for a while; the next look renews it
            self._renew()


def _wait(state: DrillState, run: str, job: _Job, patience_seconds: float, claim: _Claim) -> JobStatus | None:
    """How the job ended; how it stands when it has waited for a machine as long as its placement allows.

    Raises:
        TrainingFailed: it did not end in its time.
    """
    clock = state.rooms.clock
    until = clock.monotonic() + patience_seconds
    last = "its backend did not answer"

    def seen(status: JobStatus) -> None:
        nonlocal last
        last = f"{status.state} at step {status.step}"

    def pause() -> bool:
        if clock.monotonic() >= until:
            raise TrainingFailed(
                "the resumed training did not end in the time allowed",
                where=f"run {run}",
                expected=f"its end within {patience_seconds:.0f} s",
                found=last,
            )
        claim.keep()
        clock.sleep(_LOOK_SECONDS)
        return False

    return wait_for_job(
        state.rooms.backend(state.plan.target),
        job.handle,
        pause=pause,
        seen=seen,
        unanswered=lambda _error: None,
        # Nobody takes the group from a drill that holds it: its register is not asked.
        over=JobWatch(state.rooms, state.plan.group, epoch=None, move_on_at=job.move_on_at).over,
    )
