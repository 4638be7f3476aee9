"""The end of a drill, however it ended: the journal of what its records say, and the group set free."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from holdfast.engine.drill.journal import DrillJournal, DrillStatus, Verdicts
from holdfast.engine.drill.log import PHASES, DrillState
from holdfast.engine.drill.phases import release
from holdfast.engine.drill.stale_writes import judge_stale_writes
from holdfast.engine.drill.times import clock_source, recovery_times
from holdfast.engine.recovery.interface import Rooms
from holdfast.engine.recovery.journal import StepRecord
from holdfast.engine.recovery.runner import read_records
from holdfast.errors import HoldfastError


def conclude(
    state: DrillState, *, status: DrillStatus | None = None, error: HoldfastError | None = None
) -> DrillJournal:
    """Build the journal from the drill's and the plan's records, and release the group, also when that fails.

    Args:
        status: how it ended, where the caller knows; by default from the records: completed when every phase is
            there, else failed.
        error: what ended it; by default the last failed attempt.
    """
    try:
        state.refresh()
        plan_records = read_records(state.rooms, state.plan)
        failures = state.failures()
        ended = status or ("completed" if all(p in state.records for p in PHASES) else "failed")
        journal = build_journal(state, plan_records, failures, status=ended, error=error)
    except BaseException:
        release(state)
        raise
    journal.rollback["group_released"] = release(state) is None
    return journal


def free_unrecorded(rooms: Rooms, drill_id: str) -> list[str]:
    """Free the groups that a drill took and then left no record of: it died before its fault, nothing is to be lifted.

    Returns:
        the groups that were freed.

    Raises:
        NoMajority: a group's register does not answer.
    """
    freed = []
    for group in sorted(rooms.topology.groups):
        authority = rooms.authority(group)
        state = authority.read(group)
        if state is not None and state.operation is not None and state.operation.plan_id == drill_id:
            authority.release(group, drill_id)
            freed.append(group)
    return freed


def build_journal(
    state: DrillState,
    plan: Mapping[str, StepRecord],
    failures: list[StepRecord],
    *,
    status: DrillStatus,
    error: HoldfastError | None,
) -> DrillJournal:
    """The journal of a drill that was at least prepared, or failed at that."""
    prepared = state.evidence("prepare") or next((f.evidence for f in failures if f.step == "prepare"), {})
    compared = state.evidence("compare_model")
    settings = state.rooms.topology.group(state.plan.group)
    rto = recovery_times(state.records.get("inject"), plan, state.records.get("arm"))
    loss = state.evidence("measure_loss")
    rpo = {
        key: loss.get(key) for key in ("seconds", "objects", "bytes", "training_steps", "by_subject", "by_run", "how")
    }
    stale = judge_stale_writes(state)
    model = compared.get("model") or {"digest": None, "reference_digest": None, "identical": None}
    service = _service(compared)
    after = state.evidence("steady_state_after") or None
    injected = "arm" in state.records
    every = [*state.records.values(), *plan.values(), *failures]
    verdicts = Verdicts(
        detected=plan["detect"].evidence["down"] if "detect" in plan and state.plan.verb == "failover" else None,
        rto_met=_at_most(rto["from_fault"], settings.objectives.rto_seconds),
        rpo_met=_at_most(rpo["seconds"], settings.objectives.rpo_seconds),
        stale_writes_refused=None if stale["accepted"] is None else stale["accepted"] == 0,
        model_identical=model["identical"],
        answers_equal=service["answers_equal"],
        steady_state_restored=after["holds"] if after else None,
        fault_lifted="lift" in state.records if injected else None,
    )
    last = error.as_dict() if error is not None else failures[-1].error if failures and status != "completed" else None
    return DrillJournal(
        drill_id=state.drill_id,
        scenario=state.scenario,
        group=state.plan.group,
        plan={
            **state.plan.model_dump(mode="json"),
            "hash": state.plan.hash,
            "complete": set(state.plan.steps) <= set(plan),
            "stands_at": _stands_at(state, plan),
        },
        status=status,
        deviated=injected and (after is None or after["holds"] is not True),
        objectives=settings.objectives.model_dump(mode="json"),
        rto_seconds=rto,
        rpo=rpo,
        stale_writes=stale,
        model=model,
        service=service,
        epoch={
            "before": state.plan.expected_epoch,
            "after": plan["commit_epoch"].evidence["epoch"]
            if "commit_epoch" in plan
            else state.plan.expected_epoch
            if not injected
            else None,
        },
        steady_state={"before": prepared.get("steady_state"), "after": after},
        steps=_steps(state, plan, failures),
        fault=_fault(state),
        decision=state.evidence("fail_over").get("decision"),
        training=state.evidence("await_training").get("jobs"),
        verdict=verdicts,
        rollback={
            "fault_lifted": "lift" in state.records if injected else None,
            "lifted_at": state.records["lift"].ended_at.isoformat() if "lift" in state.records else None,
            "reprotected": state.evidence("reprotect").get("replicated"),
        },
        clock_source=clock_source(every),
        versions=prepared.get("versions", {}),
        error=last,
        started_at=min((r.started_at for r in every), default=state.plan.created_at),
        ended_at=max((r.ended_at for r in every), default=state.rooms.clock.now()),
        run_by=state.rooms.holder,
    )


def refused_journal(
    drill_id: str,
    group: str,
    scenario: str,
    error: HoldfastError,
    *,
    run_by: str,
    now: Any,
    objectives: dict[str, float],
) -> DrillJournal:
    """The journal of a drill that was refused before it began: nothing was measured and nothing changed."""
    return DrillJournal(
        drill_id=drill_id,
        scenario=scenario,
        group=group,
        plan=None,
        status="refused",
        deviated=False,
        objectives=objectives,
        rto_seconds=recovery_times(None, {}),
        rpo=dict.fromkeys(("seconds", "objects", "bytes", "training_steps")),
        stale_writes={"attempted": 0, "accepted": None, "probes": []},
        model={"digest": None, "reference_digest": None, "identical": None},
        service={"answers_equal": None, "services": []},
        epoch={"before": None, "after": None},
        steady_state={"before": None, "after": None},
        steps=[],
        fault=None,
        decision=None,
        training=None,
        verdict=Verdicts(),
        rollback={"fault_lifted": None},
        clock_source=clock_source([]),
        versions={},
        error=error.as_dict(),
        started_at=now,
        ended_at=now,
        run_by=run_by,
    )


def _service(compared: Mapping[str, Any]) -> dict[str, Any]:
    services = compared.get("services", [])
    equal = [s["answers_equal"] for s in services]
    answers_equal = False if False in equal else None if not equal or None in equal else True
    return {"answers_equal": answers_equal, "services": services}


def _steps(state: DrillState, plan: Mapping[str, StepRecord], failures: list[StepRecord]) -> list[dict[str, Any]]:
    """Everything that was done, in the order it ended. Plan steps carry ``of: plan``, drill phases ``of: drill``."""
    found = [("drill", r) for r in (*state.records.values(), *failures)] + [("plan", r) for r in plan.values()]
    return [
        {
            "name": r.step,
            "of": of,
            "status": r.status,
            "started_at": r.started_at.isoformat(),
            "ended_at": r.ended_at.isoformat(),
            "seconds": round(r.seconds, 6),
            "evidence": r.evidence,
            "error": r.error,
            "runner": r.runner,
        }
        for of, r in sorted(found, key=lambda item: (item[1].ended_at, item[0] == "drill"))
    ]


def _fault(state: DrillState) -> dict[str, Any] | None:
    record = state.records.get("inject") or state.records.get("arm")
    if record is None:
        return None
    return {
        **record.evidence,
        "injected_at": record.started_at.isoformat(),
        "known_to_be_in": "inject" in state.records,
        "lifted_at": state.records["lift"].ended_at.isoformat() if "lift" in state.records else None,
    }


def _stands_at(state: DrillState, plan: Mapping[str, StepRecord]) -> str | None:
    return next((step for step in state.plan.steps if step not in plan), None)


def _at_most(measured: float | None, objective: float) -> bool | None:
    return None if measured is None else measured <= objective


def store_evidence(state: DrillState, files: Mapping[str, bytes]) -> dict[str, str]:
    """As `keep_evidence`, of a drill in progress."""
    return keep_evidence(state.rooms, state.plan.group, state.drill_id, files)


def keep_evidence(rooms: Rooms, group: str, drill_id: str, files: Mapping[str, bytes]) -> dict[str, str]:
    """Keep the evidence in every bucket of the group that answers, under ``evidence/<drill>/``.

    Returns:
        by site ``kept``, or why not.
    """
    return keep_at(rooms, rooms.topology.group(group).sites.all(), drill_id, files)


def keep_at(rooms: Rooms, sites: Iterable[str], drill_id: str, files: Mapping[str, bytes]) -> dict[str, str]:
    """The same in the buckets of these sites."""
    kept = {}
    for site in sites:
        try:
            for name, data in files.items():
                rooms.store(site).put(f"evidence/{drill_id}/{name}", data)
        except HoldfastError as error:
            kept[site] = str(error)
        else:
            kept[site] = "kept"
    return kept
