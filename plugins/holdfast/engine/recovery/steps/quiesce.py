"""Of a switchover alone: stop the writers while both sites live, and bring everything over, so that nothing is lost."""

from __future__ import annotations

from holdfast.engine.recovery.context import StepContext
from holdfast.engine.recovery.errors import GateClosed
from holdfast.engine.recovery.interface import Evidence
from holdfast.engine.recovery.points import find_points
from holdfast.engine.recovery.protection import protect_group
from holdfast.engine.recovery.stop_jobs import stop_old_jobs


class Quiesce:
    """Stops the source's jobs at a checkpoint, then replicates until the target is complete."""

    name = "quiesce"

    def gate(self, context: StepContext) -> None:
        if context.evidence("detect")["down"]:
            raise GateClosed(
                "the source is down, a switchover needs it alive",
                where=context.plan.source,
                expected="a healthy site",
                found="down",
                fix="Make a failover",
            )

    def run(self, context: StepContext) -> Evidence:
        stopped = stop_old_jobs(context)
        alive = [s for s in stopped if s["dead"] is False]
        if alive:
            raise GateClosed(
                "a training job at the source did not stop",
                where=context.plan.source,
                expected="no writer",
                found=str(alive[0]["detail"]),
                fix="Stop it, then resume the plan",
            )
        state = context.rooms.authority(context.plan.group).read(context.plan.group)
        assert state is not None  # the plan was made from it
        protected = [
            p for p in protect_group(context.rooms, context.plan.group, state) if p.target == context.plan.target
        ]
        behind = [p for p in protected if not p.ok]
        if behind:
            raise GateClosed(
                "the target is not complete",
                where=context.plan.target,
                expected="everything replicated",
                found="; ".join(f"{p.subject}: {p.detail}" for p in behind),
                fix="Remove the cause, then resume",
            )
        context.ahead("points", lambda: find_points(context.rooms, context.plan, context.pool))
        context.scratch.futures["points"].result()  # what it would be promoted to is there before anything moves
        return {"stopped": stopped, "replicated": [{"subject": p.subject, "detail": p.detail} for p in protected]}
