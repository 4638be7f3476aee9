"""Commit the epoch: the point of no return."""

from __future__ import annotations

from holdfast.engine.authority.interface import EpochConflict, EpochState, NoMajority
from holdfast.engine.recovery.context import StepContext
from holdfast.engine.recovery.errors import PlanSuperseded
from holdfast.engine.recovery.interface import Evidence

#: An advance without an answer may have been committed; it is idempotent on the plan, so it is asked again.
_TRIES = 3
_PAUSE_SECONDS = 0.2


class CommitEpoch:
    """Advances the register to the plan's epoch, exactly once however often it is run."""

    name = "commit_epoch"

    def gate(self, context: StepContext) -> None:
        context.evidence("decide")

    def run(self, context: StepContext) -> Evidence:
        state = self._advance(context)
        context.scratch.committed_at = context.rooms.clock.monotonic()
        return {
            "epoch_before": context.plan.expected_epoch,
            "epoch": state.epoch,
            "active_site": state.active_site,
            "committed_at": state.committed_at.isoformat(),
            "committed_by": state.holder,
            "write_id": state.write_id,
        }

    def _advance(self, context: StepContext) -> EpochState:
        plan = context.plan
        for attempt in range(1, _TRIES + 1):
            try:
                return context.rooms.authority(plan.group).advance(
                    plan.group,
                    expected_epoch=plan.expected_epoch,
                    active_site=plan.target,
                    plan_id=plan.plan_id,
                    reason=plan.reason,
                )
            except EpochConflict as error:
                raise PlanSuperseded(
                    "another plan moved the group first",
                    where=error.where,
                    expected=error.expected,
                    found=error.found,
                    fix="Make a new plan from the group's present state",
                ) from error
            except NoMajority as error:
                if attempt == _TRIES:
                    raise
                context.say(self.name, "waiting", detail=str(error))
                context.rooms.clock.sleep(_PAUSE_SECONDS * attempt)
        raise AssertionError("unreachable")
