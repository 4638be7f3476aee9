"""The phases of a drill, each of which can run in a process of its own.

`prepare` → `inject` → `detect` → `fail_over` → `resume_training` → `lift` → `measure` → `await_training` → `compare`
→ `look_again` → `conclude` (in `holdfast.engine.drill.conclude`). A phase that is recorded is not done again.
"""

from __future__ import annotations

import platform
import uuid
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from typing import Any

from holdfast import __version__
from holdfast.engine.authority.interface import EpochState, Operation
from holdfast.engine.compute import JobState
from holdfast.engine.drill.errors import FaultFailed, FaultNotNoticed, SteadyStateFailed
from holdfast.engine.drill.interface import FaultInjector
from holdfast.engine.drill.log import DrillState, open_drill
from holdfast.engine.drill.loss import measure_loss
from holdfast.engine.drill.scenarios import find_scenario
from holdfast.engine.drill.settle import Settled, settle
from holdfast.engine.drill.stale_writes import attempt_stale_writes
from holdfast.engine.drill.training import await_jobs
from holdfast.engine.recovery.errors import GateClosed
from holdfast.engine.recovery.interface import Evidence, Progress, ProgressSink, Rooms, Senses, ignore_progress
from holdfast.engine.recovery.jobs import job_status
from holdfast.engine.recovery.plan import new_plan
from holdfast.engine.recovery.protection import protect_group
from holdfast.engine.recovery.runner import CLAIM_SECONDS, PlanResult, run_plan
from holdfast.engine.recovery.senses import RealSenses
from holdfast.engine.recovery.start_training import StartedJob, start_run
from holdfast.engine.recovery.subjects import current_run, run_name
from holdfast.engine.recovery.unfinished import runs_to_stop
from holdfast.errors import HoldfastError

_FAIL_OVER = ("decide", "commit_epoch", "fence", "promote", "switch_traffic", "verify")
#: How long the steady state may take to show itself: before the fault, and after everything.
_WARM_UP_SECONDS = 30.0
_SETTLE_SECONDS = 60.0
_STOP_SECONDS = 1.0


def new_drill_id(now: datetime) -> str:
    """``<UTC time>-<random>``: ids sort by time."""
    return f"{now:%Y%m%dT%H%M%SZ}-{uuid.uuid4().hex[:6]}"


def prepare(
    rooms: Rooms,
    group: str,
    scenario: str,
    *,
    drill_id: str | None = None,
    senses: Senses | None = None,
    progress: ProgressSink = ignore_progress,
) -> DrillState:
    """Check names and rules, take the group, bring the replicas up to date, and see that the steady state holds.

    Raises:
        UnknownName: no such group or scenario; nothing was changed.
        Refused: a rule forbids the plan, or another drill or plan has the group; nothing was changed.
        SteadyStateFailed: the hypothesis does not hold before any fault; the group is free again.
    """
    chosen = find_scenario(scenario)
    rooms.topology.group(group)
    drill_id = drill_id or new_drill_id(rooms.clock.now())
    plan = new_plan(
        rooms,
        group,
        verb=chosen.verb,
        reason=f"drill {drill_id}: {chosen.name}",
        plan_id=drill_id,
        operation=drill_id,
        operation_kind="drill",
    )
    _require_sites(rooms, group)
    state = DrillState(rooms, drill_id, plan, scenario, senses or RealSenses(), progress)
    committed = claim(state)
    started: list[StartedJob] = []
    try:
        state.refresh()
        if "prepare" in state.records:  # this very drill, prepared before: its plan is the one recorded
            return open_drill(rooms, drill_id, senses=senses, progress=progress)
        state.run("prepare", lambda: _prepare(state, committed, started))
    except BaseException as error:  # also when it is interrupted: nobody else would free the group
        for note in _stop_started(state, started):
            error.add_note(note)
        release(state)
        raise
    return state


def _require_sites(rooms: Rooms, group: str) -> None:
    """Every site's bucket is there and lets us in, before anything is written. Raises what its store raises."""
    with ThreadPoolExecutor(4, "drill-sites") as pool:
        for asked in [pool.submit(_look_into, rooms, site) for site in rooms.topology.group(group).sites.all()]:
            asked.result()


def _look_into(rooms: Rooms, site: str) -> None:
    next(iter(rooms.store(site).list("health/")), None)


def claim(state: DrillState) -> EpochState:
    """Take the group for this drill, or renew. Raises OperationInProgress."""
    now = state.rooms.clock.now()
    return state.rooms.authority(state.plan.group).claim(
        state.plan.group,
        Operation(state.drill_id, "drill", state.rooms.holder, now, now + timedelta(seconds=CLAIM_SECONDS["drill"])),
    )


def release(state: DrillState) -> str | None:
    """Free the group; why not, when that did not work: the claim then ends by itself."""
    try:
        state.rooms.authority(state.plan.group).release(state.plan.group, state.drill_id)
    except HoldfastError as error:
        return str(error)
    return None


def _prepare(state: DrillState, committed: EpochState, started: list[StartedJob]) -> Evidence:
    group = state.rooms.topology.group(state.plan.group)
    if (committed.epoch, committed.active_site) != (state.plan.expected_epoch, state.plan.source):
        raise GateClosed(
            "the group moved on meanwhile",
            where=f"group {state.plan.group}",
            expected=f"epoch {state.plan.expected_epoch}",
            found=f"epoch {committed.epoch}",
            fix="Start again",
        )
    _bring_training(state, committed, started)
    settled = settle(state, committed, patience_seconds=_WARM_UP_SECONDS, training_may_have_ended=False)
    before = settled.steady_state
    evidence: Evidence = {
        "drill_id": state.drill_id,
        "scenario": state.scenario,
        "plan": state.plan.model_dump(mode="json"),
        "plan_hash": state.plan.hash,
        "objectives": group.objectives.model_dump(mode="json"),
        "steady_state": settled.as_dict(),
        "replicated": settled.replicated(),
        "started": [job.run for job in started],
        "versions": {"holdfast": __version__, "python": platform.python_version(), "system": platform.platform()},
    }
    if before.holds is not True:
        error = SteadyStateFailed(
            "the steady state does not hold, so no fault was injected",
            where=f"group {state.plan.group}",
            expected="every check to pass",
            found="; ".join(before.objections()),
            fix="Remove the cause, then drill again",
        )
        error.evidence = evidence
        raise error
    # Looking took its time; what was committed meanwhile is brought over, so that the fault finds fresh replicas.
    protect_group(state.rooms, state.plan.group, committed)
    return evidence


def _bring_training(state: DrillState, committed: EpochState, started: list[StartedJob]) -> None:
    """A drill brings its own load: where no training is under way it starts a run, or there is nothing to resume."""
    rooms, group, site = state.rooms, state.plan.group, committed.active_site
    for job in rooms.topology.group(group).training:
        run = current_run(rooms.store(site), group, job, epoch=committed.epoch)
        status = job_status(rooms, site, run, committed.epoch) if run else None
        if status is None or status.state not in (JobState.PENDING, JobState.RUNNING):
            name = run_name(group, job, rooms.clock.now())
            started.append(start_run(rooms, group, job, run=name, state=committed))


def _stop_started(state: DrillState, started: list[StartedJob]) -> list[str]:
    """A drill that is not begun leaves no training of its own behind. Returns what became of each run it started."""
    notes = []
    for job in started:
        try:
            found = str(state.rooms.backend(job.site).stop(job.handle, grace_seconds=_STOP_SECONDS).state)
        except HoldfastError as error:
            found = f"not known to be stopped: {error}"
        notes.append(f"the run {job.run}, which this drill had started at {job.site}: {found}")
        state.progress(Progress("prepare", "waiting", detail=notes[-1]))
    return notes


def inject(state: DrillState, faults: FaultInjector) -> Evidence:
    """Put the active site under the scenario's fault. Raises FaultFailed."""

    def work() -> Evidence:
        mode = find_scenario(state.scenario).fault_mode
        jobs = _jobs_now(state)
        try:
            faults.inject(state.plan.source, mode)
        except HoldfastError as error:
            raise FaultFailed("the fault could not be injected", where=state.plan.source, found=str(error)) from error
        return {
            "site": state.plan.source,
            "mode": mode,
            "by": faults.description,
            "jobs": jobs,
            "armed_before": armed_before,
        }

    # An earlier attempt died between the two records: the fault may have been in since then.
    armed_before = "arm" in state.records
    # Recorded before it is done: whoever finds a drill that died here knows that the fault may be in.
    state.once(
        "arm",
        lambda: {"site": state.plan.source, "mode": find_scenario(state.scenario).fault_mode, "by": faults.description},
    )
    return state.once("inject", work)


def _jobs_now(state: DrillState) -> list[dict[str, Any]]:
    """Where the job of every run stands that the plan may take along, by their own heartbeats."""
    plan = state.plan
    found = []
    for job in state.rooms.topology.group(plan.group).training:
        for run in runs_to_stop(state.rooms, plan, job):
            status = job_status(state.rooms, plan.source, run, plan.expected_epoch)
            found.append(
                {
                    "job": job,
                    "run": run,
                    "step": status.step if status else None,
                    "state": str(status.state) if status else None,
                }
            )
    return found


def detect(state: DrillState) -> Evidence:
    """The plan's detection, until the rules call the site down.

    Raises:
        FaultNotNoticed: they did not. Whoever runs a drill approves its failover, so without this a drill of a
            fault that nobody sees would fail over a healthy site and pass.
    """

    def work() -> Evidence:
        found = _plan(state, ("detect",)).record("detect")
        assert found is not None
        if state.plan.verb == "failover" and not found.evidence["down"]:
            raise FaultNotNoticed(
                "the fault was not noticed",
                where=f"site {state.plan.source}",
                expected="the verdict down",
                found=f"{found.evidence['verdict']}: {'; '.join(found.evidence['reasons'])}",
                fix="See that the fault is really in, and whether the detection's thresholds fit it",
            )
        return {"verdict": found.evidence["verdict"], "reasons": found.evidence["reasons"]}

    return state.once("detect", work)


def fail_over(state: DrillState, *, approved_by: str | None = None) -> Evidence:
    """The plan from the decision to the first right answer: the critical path.

    Raises:
        GateClosed: nobody has noticed the fault (see `detect`), whoever approves.
    """

    def work() -> Evidence:
        if "detect" not in state.records:
            raise GateClosed(
                "fail_over cannot run yet",
                where=f"drill {state.drill_id}",
                expected="the phase detect done: the fault was noticed",
                found="no record of it",
                fix="Run it first",
            )
        result = _plan(state, _FAIL_OVER, approved_by=approved_by)
        found = {r.step: r.evidence for r in result.records}
        return {
            "epoch": found["commit_epoch"]["epoch"],
            "committed_at": found["commit_epoch"]["committed_at"],
            "promoted": found["promote"],
            "services": found["verify"]["services"],
            "decision": found["decide"],
        }

    return state.once("fail_over", work)


def resume_training(state: DrillState) -> Evidence:
    """Submit the training jobs at the new site."""

    def work() -> Evidence:
        record = _plan(state, ("resume_training",)).record("resume_training")
        assert record is not None
        return record.evidence

    return state.once("resume_training", work)


def _plan(state: DrillState, steps: tuple[str, ...], approved_by: str | None = None) -> PlanResult:
    return run_plan(
        state.rooms,
        state.plan,
        only=steps,
        approved_by=approved_by,
        progress=state.progress,
        senses=state.senses,
        keep_claim=True,  # the drill goes on after its plan, also after one that failed; its conclusion frees the group
    )


def lift(state: DrillState, faults: FaultInjector) -> Evidence:
    """Take the fault away. It may always be called, and any number of times. Raises FaultFailed."""

    def work() -> Evidence:
        try:
            faults.clear(state.plan.source)
        except HoldfastError as error:
            raise FaultFailed(
                "the fault could not be lifted",
                where=state.plan.source,
                found=str(error),
                fix=f"Lift it by hand: holdfast sandbox fault {state.plan.source} up",
            ) from error
        return {"site": state.plan.source, "by": faults.description, "injected": "arm" in state.records}

    return state.run("lift", work)


def measure(state: DrillState) -> None:
    """What was lost, then the attempts at stale writes: in this order, or the attempts would spoil the measurement."""
    promoted = state.evidence("fail_over").get("promoted")
    inject_record = state.records.get("inject")
    if promoted is None or inject_record is None:
        return
    state.once("measure_loss", lambda: measure_loss(state, promoted, fault_at=inject_record.started_at))
    state.once("attempt_stale_writes", lambda: attempt_stale_writes(state))


def await_training(state: DrillState) -> Evidence:
    """Wait until the resumed jobs end; the drill's claim on the group is renewed meanwhile. Raises TrainingFailed."""
    claim(state)
    return state.once("await_training", lambda: await_jobs(state, renew=lambda: claim(state)))


def look_again(state: DrillState) -> Evidence:
    """Protect the group from its new active site, then look whether the steady state holds there."""
    committed = state.rooms.authority(state.plan.group).read(state.plan.group)
    assert committed is not None
    settled: list[Settled] = []

    def once() -> Settled:
        if not settled:
            settled.append(settle(state, committed, patience_seconds=_SETTLE_SECONDS, training_may_have_ended=True))
        return settled[0]

    state.once("reprotect", lambda: {"replicated": once().replicated()})
    return state.once("steady_state_after", lambda: once().as_dict())
