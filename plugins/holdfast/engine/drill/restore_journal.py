"""The journal of a restore drill: what was restored where, what was checked, how long it took.

docs/reference/restore-drill-journal.md describes every key. What is not known is ``None``, and nothing unknown passes.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, computed_field

FORMAT = "holdfast.restore-drill/1"

#: How a drill ended: `aborted` before anything was restored, because a rule or a place forbade it.
RestoreStatus = Literal["completed", "failed", "aborted", "interrupted"]
Outcome = Literal["pass", "fail", "aborted"]


class Claim(BaseModel):
    """One thing the drill claims of the restore.

    Args:
        name: stable, for programs.
        title: for people.
        objective, measured: short texts.
        holds: ``None``: it could not be judged.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    title: str
    objective: str
    measured: str
    holds: bool | None


def verdict_of(status: RestoreStatus, claims: Iterable[Claim]) -> Outcome:
    """A pass is a completed drill of which every claim holds; an unknown one is no pass.

    A drill that did not come to judge is aborted, unless something was found false before.
    """
    found = [claim.holds for claim in claims]
    if False in found or status == "failed":
        return "fail"
    if status != "completed":
        return "aborted"
    return "pass" if found and all(holds is True for holds in found) else "fail"


class JudgedJournal(BaseModel):
    """What the journals of a restore have in common: status and claims, and a verdict that follows from them."""

    model_config = ConfigDict(extra="forbid")

    drill_id: str
    status: RestoreStatus
    claims: list[Claim]
    not_claimed: list[str]
    rpo_seconds: float | None
    versions: dict[str, str]
    error: dict[str, str | None] | None
    started_at: datetime
    ended_at: datetime
    run_by: str

    @computed_field  # type: ignore[prop-decorator]  # pydantic's own pattern, mypy #14461
    @property
    def verdict(self) -> Outcome:
        """What status and claims come to."""
        return verdict_of(self.status, self.claims)

    @property
    def green(self) -> bool:
        """True only when the drill passed."""
        return self.verdict == "pass"

    def as_document(self) -> dict[str, Any]:
        """The JSON document that is written and signed."""
        return self.model_dump(mode="json")

    @classmethod
    def read(cls, document: dict[str, Any]) -> Self:
        """From its document. Raises ValueError: it is none, or its verdict is not what its claims come to."""
        given = dict(document)
        told = given.pop("verdict", None)
        journal = cls.model_validate(given)
        if told != journal.verdict:
            raise ValueError(f"the verdict is {told!r}, and its status and claims come to {journal.verdict!r}")
        return journal


class RestoreDrillJournal(JudgedJournal):
    """One restore drill, from its start to its end."""

    format: Literal["holdfast.restore-drill/1"] = "holdfast.restore-drill/1"
    subject: str
    kind: Literal["dataset", "model"]
    group: str
    objectives: dict[str, float]
    rto_seconds: dict[str, float | None]
    vault: dict[str, Any]
    backup: dict[str, Any] | None
    source: dict[str, Any]
    target: dict[str, Any]
    restored: dict[str, Any] | None
    verified: dict[str, Any] | None
    content: dict[str, Any] | None
    expectations: dict[str, Any] | None
    model: dict[str, Any] | None
    tables: list[dict[str, Any]] | None
    cleanup: dict[str, Any]
    cost: dict[str, Any]
    phases: list[dict[str, Any]]
    clock_source: dict[str, Any]
