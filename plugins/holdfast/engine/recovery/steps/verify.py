"""Ask the services like a client until they answer correctly, from the new site, in the new epoch."""

from __future__ import annotations

from typing import Any

from holdfast.engine.recovery.context import StepContext
from holdfast.engine.recovery.errors import WrongAnswer
from holdfast.engine.recovery.expected import Expected, expect_answers
from holdfast.engine.recovery.interface import Answer, Evidence

_LOOK_SECONDS = 0.05
_ASK_SECONDS = 1.5
_LEAST_SECONDS = 20.0


class Verify:
    """The time of the first right answer ends the recovery time."""

    name = "verify"

    def gate(self, context: StepContext) -> None:
        context.evidence("switch_traffic")

    def run(self, context: StepContext) -> Evidence:
        asking = [context.pool.submit(_until_right, context, service) for service in context.group.services]
        answered = [future.result() for future in asking]
        return {
            "services": answered,
            "answered_at": max((a["answered_at"] for a in answered), default=context.rooms.clock.now().isoformat()),
        }


def _until_right(context: StepContext, service: str) -> dict[str, Any]:
    clock = context.rooms.clock
    began = clock.monotonic()
    until = began + max(_LEAST_SECONDS, context.group.objectives.rto_seconds)
    asked, reason = 0, "it was never asked"
    expected: Expected | None = None
    while clock.monotonic() < until and not context.given_up.is_set():
        answer = context.senses.ask(context.rooms, service, timeout_seconds=_ASK_SECONDS)
        asked += 1
        answered_at = clock.now()
        if _from_new_site(context, answer):
            expected = expected or context.wanted("expected", lambda: expect_answers(context))[service]
        wrong = why_wrong(context, answer, expected)
        if wrong is None:
            assert expected is not None
            return {
                "service": service,
                "site": answer.site,
                "epoch": answer.epoch,
                "model": answer.model,
                "address": answer.address,
                "asked": asked,
                "answered_at": answered_at.isoformat(),
                "seconds": round(clock.monotonic() - began, 6),
                "predictions": list(answer.predictions or ()),
                "model_snapshot": expected.snapshot_id,
                "answers_equal": None if expected.predictions is None else answer.predictions == expected.predictions,
                "checked_against": "the recovery point's model, computed here"
                if expected.predictions is not None
                else "site and epoch alone: the golden set's answers could not be computed here",
            }
        if wrong != reason:
            reason = wrong
            context.say("verify", "waiting", detail=f"{service}: {wrong}")
        clock.sleep(_LOOK_SECONDS)
    raise WrongAnswer(
        f"{service} gave no correct answer",
        where=f"{context.plan.target}, epoch {context.plan.epoch}",
        expected="the recovery point's answers through DNS",
        found=reason,
        fix=f"Look at its agent; then `holdfast failover resume {context.plan.plan_id}`",
    )


def _from_new_site(context: StepContext, answer: Answer) -> bool:
    return answer.predictions is not None and (answer.site, answer.epoch) == (context.plan.target, context.plan.epoch)


def why_wrong(context: StepContext, answer: Answer, expected: Expected | None) -> str | None:
    """What is wrong with an answer, ``None`` when it is right."""
    if answer.predictions is None:
        return answer.refused or "no answer"
    if answer.site != context.plan.target:
        return f"answered by {answer.site}"
    if answer.epoch != context.plan.epoch:
        return f"answered in epoch {answer.epoch}"
    if expected is not None and expected.predictions is not None and answer.predictions != expected.predictions:
        return "other predictions than the recovery point's model gives"
    return None
