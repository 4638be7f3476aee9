"""The journal: what a drill measured, in that run. docs/reference/journal.md describes every key.

What is not known is ``None``, and nothing unknown passes.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, computed_field

DrillStatus = Literal["completed", "failed", "aborted", "interrupted", "refused"]


class Verdicts(BaseModel):
    """Each claim of the drill: True, False, or ``None`` where it could not be judged."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    detected: bool | None = None
    rto_met: bool | None = None
    rpo_met: bool | None = None
    stale_writes_refused: bool | None = None
    model_identical: bool | None = None
    answers_equal: bool | None = None
    steady_state_restored: bool | None = None
    fault_lifted: bool | None = None

    @computed_field  # type: ignore[prop-decorator]  # pydantic's own pattern, mypy #14461
    @property
    def passed(self) -> bool | None:
        """False when a claim is false, ``None`` when one is unknown, True only when all hold."""
        claims = (
            self.detected,
            self.rto_met,
            self.rpo_met,
            self.stale_writes_refused,
            self.model_identical,
            self.answers_equal,
            self.steady_state_restored,
            self.fault_lifted,
        )
        if False in claims:
            return False
        return None if None in claims else True


class DrillJournal(BaseModel):
    """One drill, from its start to its end."""

    model_config = ConfigDict(extra="forbid")

    format: Literal["holdfast.drill-journal/1"] = "holdfast.drill-journal/1"
    drill_id: str
    scenario: str
    group: str
    plan: dict[str, Any] | None
    status: DrillStatus
    deviated: bool
    objectives: dict[str, float]
    rto_seconds: dict[str, float | None]
    rpo: dict[str, Any]
    stale_writes: dict[str, Any]
    model: dict[str, Any]
    service: dict[str, Any]
    epoch: dict[str, int | None]
    steady_state: dict[str, Any]
    steps: list[dict[str, Any]]
    fault: dict[str, Any] | None
    decision: dict[str, Any] | None
    training: list[dict[str, Any]] | None
    verdict: Verdicts
    rollback: dict[str, Any]
    clock_source: dict[str, Any]
    versions: dict[str, str]
    error: dict[str, str | None] | None
    started_at: datetime
    ended_at: datetime
    run_by: str

    @property
    def green(self) -> bool:
        """True only for a completed drill whose every claim holds and whose after-hypothesis did not deviate."""
        return self.status == "completed" and not self.deviated and self.verdict.passed is True

    def as_document(self) -> dict[str, Any]:
        """The JSON document that is written and signed."""
        return self.model_dump(mode="json")
