"""Decide: the rules alone where the group allows it and they all hold, else a person, by name."""

from __future__ import annotations

from holdfast.engine.config import Decision, Group
from holdfast.engine.health.interface import Verdict
from holdfast.engine.recovery.abort import check_not_aborted
from holdfast.engine.recovery.context import StepContext
from holdfast.engine.recovery.errors import NeedsHuman
from holdfast.engine.recovery.four_eyes import four_eyes, require_four_eyes
from holdfast.engine.recovery.interface import Evidence
from holdfast.engine.recovery.plan import Plan


class Decide:
    """Changes nothing but the record that says who decided, and why."""

    name = "decide"

    def gate(self, context: StepContext) -> None:
        context.evidence("detect")
        check_not_aborted(context.rooms, context.plan)

    def run(self, context: StepContext) -> Evidence:
        found = context.evidence("detect")
        objections = why_not_automatic(context, found)
        approved_by = context.approved_by
        if objections:
            if not approved_by:
                raise NeedsHuman(
                    "a person has to decide: " + "; ".join(objections),
                    where=f"group {context.plan.group}",
                    expected="approval by name",
                    found="none",
                    fix=f"holdfast failover resume {context.plan.plan_id} --group {context.plan.group} --yes",
                )
            verdict = _two_people(context.group, context.plan, approved_by)
        else:
            verdict = four_eyes(False, context.plan.asked_by, [approved_by] if approved_by else [])
        return {
            "decided_by": approved_by or "the rules",
            "automatic": not objections,
            "approved_by": approved_by,
            "asked_by": context.plan.asked_by,
            "four_eyes": verdict,
            "objections": objections,
            "verdict": found["verdict"],
            "replica_lag_seconds": found["replica_lag_seconds"],
            "decided_at": context.rooms.clock.now().isoformat(),
        }


def _two_people(group: Group, plan: Plan, approved_by: str) -> dict[str, bool | None]:
    """The verdict for the record; a drill is approved by being run. Raises SelfApproval."""
    return require_four_eyes(
        group.four_eyes and plan.operation_kind != "drill",
        plan.asked_by,
        [approved_by],
        where=f"group {plan.group}, plan {plan.plan_id}",
        fix="Let somebody else approve it: in Airflow clear the task, which asks again; or "
        f"`holdfast failover resume {plan.plan_id} --group {plan.group} --yes` under another account",
    )


def why_not_automatic(context: StepContext, found: Evidence) -> list[str]:
    """Everything that stands against deciding without a person; empty: the rules may decide."""
    rpo = context.group.objectives.rpo_seconds
    lag = found["replica_lag_seconds"]
    objections = []
    if context.plan.verb != "failover":
        objections.append(f"a {context.plan.verb} is a person's choice")
    elif found["verdict"] != Verdict.DOWN:
        objections.append(f"{context.plan.source} is {found['verdict']}, not down by the rules")
    if context.group.decision is not Decision.AUTOMATIC:
        objections.append("the group's policy is approval")
    if lag is None:
        objections.append("how far the replicas lie behind is unknown")
    elif lag > rpo:
        objections.append(f"the replicas lie {lag:.1f} s behind, more than the objective of {rpo:g} s")
    return objections
