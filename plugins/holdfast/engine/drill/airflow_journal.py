"""The journal of a drill of Airflow's own state: what was restored, what each step found, how long it took.

docs/reference/airflow-drill-journal.md describes every key. What is not known is ``None``, and nothing unknown passes.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, computed_field

from holdfast.engine.drill.restore_journal import Claim, Outcome, RestoreStatus, verdict_of

FORMAT = "holdfast.airflow-drill/1"
#: From a dump in a vault, or from base backups and the log in pgBackRest's repository.
Kind = Literal["airflow-restore-drill", "airflow-pitr-drill"]


class AirflowDrillJournal(BaseModel):
    """One drill, from its start to its end."""

    model_config = ConfigDict(extra="forbid")

    format: Literal["holdfast.airflow-drill/1"] = "holdfast.airflow-drill/1"
    drill_id: str
    kind: Kind
    status: RestoreStatus
    claims: list[Claim]
    not_claimed: list[str]
    objectives: dict[str, float | None]
    rto_seconds: float | None
    rpo_seconds: float | None
    taken_at: datetime | None
    asked_for: datetime | None
    source: dict[str, Any]
    database: str | None
    airflow: str | None
    steps: list[dict[str, Any]]
    clock_source: dict[str, str]
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


def read_journal(document: dict[str, Any]) -> AirflowDrillJournal:
    """A journal from its document. Raises ValueError: it is none, or its verdict is not what its claims come to."""
    given = dict(document)
    told = given.pop("verdict", None)
    journal = AirflowDrillJournal.model_validate(given)
    if told != journal.verdict:
        raise ValueError(f"the verdict is {told!r}, and its status and claims come to {journal.verdict!r}")
    return journal
