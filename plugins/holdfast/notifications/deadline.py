"""A missed deadline, recorded."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

from holdfast.notifications.base import Notice, RecordingNotifier

if TYPE_CHECKING:
    from airflow.sdk import Context


class MissedDeadlineNotifier(RecordingNotifier):
    """Writes a record of a missed deadline beside the drills' evidence, and a line into the log.

    :param objective: what was missed, for people. (templated)
    """

    template_fields = ("objective",)

    def __init__(self, *, objective: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.objective = objective

    def notice(self, context: Context, now: datetime) -> Notice:  # noqa: ARG002 - a run has one record
        run = context.get("dag_run") or {}
        names = ("dag_id", "dag_run_id", "run_id")
        found = run if isinstance(run, dict) else {name: getattr(run, name, None) for name in names}
        dag_id, run_id = found.get("dag_id"), found.get("dag_run_id") or found.get("run_id")
        facts = {
            "format": "holdfast.missed-deadline/1",
            "objective": self.objective,
            "dag_id": dag_id,
            "run_id": run_id,
        }
        name = "".join(c if c.isalnum() or c in "-_" else "-" for c in f"{dag_id}-{run_id}")
        return Notice("missed-deadlines", name, facts, f"Missed: {self.objective} ({dag_id}, {run_id})")
