"""A journal as the rows of a table: claim, objective, measured value and the verdict it belongs to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def summary_rows(journal: Mapping[str, Any]) -> list[tuple[str, str, str, str | None]]:
    """Claim, objective, measured value and the verdict's key, from a journal's document."""
    rto, rpo, objectives = journal["rto_seconds"], journal["rpo"], journal["objectives"]
    stale, model, service = journal["stale_writes"], journal["model"], journal["service"]
    return [
        ("Fault noticed", "site called down", _known(journal["verdict"]["detected"]), "detected"),
        ("RTO from the fault", f"≤ {objectives['rto_seconds']:g} s", _seconds(rto["from_fault"]), "rto_met"),
        ("  from the verdict", "", _seconds(rto["from_detection"]), None),
        ("  from the decision", "", _seconds(rto["from_decision"]), None),
        ("  without approval", "", _seconds(rto["without_approval"]), None),
        ("RPO", f"≤ {objectives['rpo_seconds']:g} s", _seconds(rpo["seconds"]), "rpo_met"),
        ("  objects, bytes", "", f"{_known(rpo['objects'])}, {_known(rpo['bytes'])}", None),
        ("  training steps", "", _known(rpo["training_steps"]), None),
        ("Stale writes accepted", "0", f"{_known(stale['accepted'])} of {stale['attempted']}", "stale_writes_refused"),
        ("Model as uninterrupted", "identical", _short(model["digest"]), "model_identical"),
        ("Answers as the model's", "equal", _known(service["answers_equal"]), "answers_equal"),
        ("Steady state again", "holds", _known(journal["verdict"]["steady_state_restored"]), "steady_state_restored"),
        ("Fault lifted", "yes", _known(journal["verdict"]["fault_lifted"]), "fault_lifted"),
    ]


def _seconds(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.2f} s"


def _known(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "unknown" if value is None else str(value)


def _short(digest: str | None) -> str:
    return "unknown" if digest is None else digest[:19]
