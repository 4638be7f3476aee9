"""The journal of a drill of Airflow's own state: what was restored, what each step found, how long it took.

docs/reference/airflow-drill-journal.md describes every key. What is not known is ``None``, and nothing unknown passes.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from holdfast.engine.drill.restore_journal import JudgedJournal

FORMAT = "holdfast.airflow-drill/1"
#: From a dump in a vault, or from base backups and the log in pgBackRest's repository.
Kind = Literal["airflow-restore-drill", "airflow-pitr-drill"]


class AirflowDrillJournal(JudgedJournal):
    """One drill, from its start to its end."""

    format: Literal["holdfast.airflow-drill/1"] = "holdfast.airflow-drill/1"
    kind: Kind
    objectives: dict[str, float | None]
    rto_seconds: float | None
    taken_at: datetime | None
    asked_for: datetime | None
    source: dict[str, Any]
    database: str | None
    airflow: str | None
    steps: list[dict[str, Any]]
    clock_source: dict[str, str]
