"""A plan in three parts, each for a process of its own: ask, the critical path, the training."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, cast

from holdfast.engine.recovery import NeedsHuman, Plan, PlanNotFound, Progress, load_plan, new_plan, run_plan
from holdfast.engine.recovery.plan import Verb
from holdfast.engine.recovery.runner import read_records
from holdfast.engine.runtime import Runtime

#: The steps before anything changes, and the one that may follow when the service answers.
_BEFORE = ("detect", "decide")
_AFTER = ("resume_training",)

Say = Callable[[str], object]


@dataclass(frozen=True, slots=True)
class Asked:
    """A plan and, when the rules may not decide alone, the question to a person (Markdown)."""

    plan: Plan
    question: str | None


def identifier(moment: datetime, text: str) -> str:
    """An id that follows from what asked for it, in the form of a plan's: ``<UTC time>-<eight hex digits>``."""
    return f"{moment.astimezone(UTC):%Y%m%dT%H%M%SZ}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def plan_or_ask(
    runtime: Runtime, group: str, *, plan_id: str, verb: str = "failover", target: str | None, reason: str
) -> Asked:
    """Make the plan of this id, or take up the one that is there, and run it to its decision.

    Raises:
        HoldfastError: the plan cannot be made or looked at; nothing was changed.
    """
    try:
        plan = load_plan(runtime, group, plan_id)
    except PlanNotFound:
        plan = new_plan(runtime, group, verb=cast("Verb", verb), target=target, reason=reason, plan_id=plan_id)
    try:
        run_plan(runtime, plan, only=_BEFORE)
    except NeedsHuman as needed:
        return Asked(plan, _question(runtime, plan, needed))
    return Asked(plan, None)


def run_critical_path(
    runtime: Runtime, group: str, plan_id: str, *, approved_by: str | None, say: Say
) -> dict[str, Any]:
    """Run a plan from its decision until the service answers correctly from the new site.

    Raises:
        HoldfastError: a step failed; call it again to roll forward.
    """
    plan = load_plan(runtime, group, plan_id)
    steps = [step for step in plan.steps if step not in _AFTER]
    result = run_plan(runtime, plan, only=steps, approved_by=approved_by, progress=lambda seen: tell(say, seen))
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
    lag = found["replica_lag_seconds"]
    lines = [
        f"**{needed.what}**",
        "",
        f"- reason given: {plan.reason}",
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
