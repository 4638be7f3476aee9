"""The finished model against an uninterrupted run's, and the service's answers against that model's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from holdfast.engine.drill.log import DrillState
from holdfast.engine.drill.reference import Reference, run_reference
from holdfast.engine.recovery.interface import Evidence

_ANSWER_FOR_SECONDS = 20.0


def compare(state: DrillState, reference: Callable[[], Reference | None] | None = None) -> Evidence:
    """The finished model against an uninterrupted run's, and the service's answers against that model's.

    Args:
        reference: gives the reference run's result when it was begun before; by default it is run now.
    """

    def work() -> Evidence:
        found = reference() if reference is not None else run_reference(state)
        digest = next(
            (j["model_digest"] for j in state.evidence("await_training")["jobs"] if j.get("model_digest")), None
        )
        other = found.model_digest if found else None
        return {
            "model": {
                "digest": digest,
                "reference_digest": other,
                "identical": None if digest is None or other is None else digest == other,
                "reference_seconds": found.seconds if found else None,
            },
            "services": [
                _answers(state, service, found, digest)
                for service in state.rooms.topology.group(state.plan.group).services
            ],
        }

    return state.once("compare_model", work)


def _answers(state: DrillState, service: str, reference: Reference | None, digest: str | None) -> dict[str, Any]:
    """Ask through DNS until the service has the finished model, then compare its answers with the reference's."""
    expected = state.senses.reference(state.rooms, service, reference.files) if reference else None
    clock = state.rooms.clock
    until = clock.monotonic() + _ANSWER_FOR_SECONDS
    while True:
        answer = state.senses.ask(state.rooms, service, timeout_seconds=2.0)
        equal = None if expected is None or answer.predictions is None else answer.predictions == expected
        if equal or clock.monotonic() >= until or (expected is None and answer.model == digest):
            return {
                "service": service,
                "answers_equal": equal,
                "site": answer.site,
                "epoch": answer.epoch,
                "model": answer.model,
                "answers": list(answer.predictions or ()),
                "refused": answer.refused,
                "expected": list(expected) if expected is not None else None,
            }
        clock.sleep(0.2)
