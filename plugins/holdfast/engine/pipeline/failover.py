"""A plan in three parts, each for a process of its own: ask, the critical path, the training."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, cast

from holdfast.engine.recovery import NeedsHuman, Plan, PlanNotFound, PlanResult, Progress, load_plan, new_plan, run_plan
from holdfast.engine.recovery.four_eyes import same_person
from holdfast.engine.recovery.plan import Verb
from holdfast.engine.recovery.runner import read_records
from holdfast.engine.runtime import Runtime

#: The steps before anything changes, and the one that may follow when the service answers.
_BEFORE = ("detect", "decide")
_AFTER = ("resume_training",)
_AND_NOT_BY_THEM = ", so **somebody else has to approve it** (four eyes)"

Say = Callable[[str], object]


@dataclass(frozen=True, slots=True)
class Asked:
    """A plan and, when the rules may not decide alone, the question to a person (Markdown).

    ``approved_by`` is who approved it where that is recorded already; ``None``: nobody, or the rules decided.
    """

    plan: Plan
    question: str | None
    approved_by: str | None = None


def identifier(moment: datetime, text: str) -> str:
    """An id that follows from what asked for it, in the form of a plan's: ``<UTC time>-<eight hex digits>``."""
    return f"{moment.astimezone(UTC):%Y%m%dT%H%M%SZ}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def plan_or_ask(
    runtime: Runtime,
    group: str,
    *,
    plan_id: str,
    verb: str = "failover",
    target: str | None,
    reason: str,
    asked_by: str | None = None,
) -> Asked:
    """Make the plan of this id, or take up the one that is there, and run it to its decision.

    Args:
        asked_by: the person who asks for it; none: nobody does, it is a schedule's.

    Raises:
        HoldfastError: the plan cannot be made or looked at; nothing was changed.
    """
    try:
        plan = load_plan(runtime, group, plan_id)
    except PlanNotFound:
        plan = new_plan(
            runtime,
            group,
            verb=cast("Verb", verb),
            target=target,
            reason=reason,
            plan_id=plan_id,
            asked_by=asked_by,
        )
    try:
        result = run_plan(runtime, plan, only=_BEFORE)
    except NeedsHuman as needed:
        return Asked(plan, _question(runtime, plan, needed))
    return Asked(plan, None, _approver(result))


def approve_plan(runtime: Runtime, group: str, plan_id: str, approver: Sequence[str]) -> Asked:
    """Record that a person approves a plan. Whoever was first to decide it is the one who counts.

    Args:
        approver: the names they go by, the one to be recorded first.

    Raises:
        SelfApproval: they asked for it, and the group asks for four eyes; the plan waits for somebody else.
        NeedsHuman: no name is given.
        HoldfastError: it cannot be recorded, or the plan was given up.
    """
    plan = load_plan(runtime, group, plan_id)
    # The name by which they asked, should they be the one who asked: the decision compares names.
    name = next((one for one in approver if plan.asked_by and same_person(one, plan.asked_by)), None)
    result = run_plan(runtime, plan, only=_BEFORE, approved_by=name or next(iter(approver), None))
    return Asked(plan, None, _approver(result))


def _approver(result: PlanResult) -> str | None:
    decided = result.record("decide")
    return decided.evidence.get("approved_by") if decided else None


def run_critical_path(runtime: Runtime, group: str, plan_id: str, *, say: Say) -> dict[str, Any]:
    """Run a plan from its decision until the service answers correctly from the new site.

    Raises:
        NeedsHuman: nobody approved it, and the rules may not decide alone.
        HoldfastError: a step failed; call it again to roll forward.
    """
    plan = load_plan(runtime, group, plan_id)
    steps = [step for step in plan.steps if step not in _AFTER]
    result = run_plan(runtime, plan, only=steps, progress=lambda seen: tell(say, seen))
    return {
        "plan_id": plan_id,
        "epoch": plan.epoch,
        "active_site": plan.target,
        "seconds": {record.step: record.seconds for record in result.records},
    }


def finish_plan(runtime: Runtime, group: str, plan_id: str, *, say: Say) -> dict[str, Any]:
    """Run what is left of a plan after the service answers: the training."""
    plan = load_plan(runtime, group, plan_id)
    result = run_plan(runtime, plan, only=_AFTER, progress=lambda seen: tell(say, seen))
    record = result.record(_AFTER[0])
    return {
        "plan_id": plan_id,
        "seconds": record.seconds if record else None,
        "evidence": record.evidence if record else {},
    }


def _question(runtime: Runtime, plan: Plan, needed: NeedsHuman) -> str:
    found = read_records(runtime, plan)["detect"].evidence
    rpo = runtime.topology.group(plan.group).objectives.rpo_seconds
    four_eyes = runtime.topology.group(plan.group).four_eyes
    lag = found["replica_lag_seconds"]
    lines = [
        f"**{needed.what}**",
        "",
        f"- reason given: {plan.reason}",
        *([f"- asked for by {plan.asked_by}{_AND_NOT_BY_THEM if four_eyes else ''}"] if plan.asked_by else []),
        f"- from **{plan.source}** to **{plan.target}**, epoch {plan.expected_epoch} → {plan.epoch}",
        f"- {plan.source} is **{found['verdict']}**: {'; '.join(found['reasons'])}",
        f"- replicas behind by {'an unknown time' if lag is None else f'{lag:.1f} s'} (objective {rpo:g} s)",
        f"- recovery points: {', '.join(f'{name}: {point}' for name, point in found['recovery_points'].items())}",
        "",
        f"Plan `{plan.plan_id}`, `{plan.hash}`.",
    ]
    return "\n".join(lines)


def tell(say: Say, seen: Progress) -> None:
    """One line of progress for a log."""
    seconds = "" if seen.seconds is None else f" in {seen.seconds:.2f} s"
    say(f"{seen.step} {seen.phase}{seconds}{': ' + seen.detail if seen.detail else ''}")
