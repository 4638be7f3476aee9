"""A missed deadline, recorded."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseNotifier

if TYPE_CHECKING:
    from airflow.sdk import Context


class MissedDeadlineNotifier(BaseNotifier):
    """Writes a record of a missed deadline beside the drills' evidence, and a line into the log.

    :param objective: what was missed, for people. (templated)
    """

    template_fields = ("objective",)

    def __init__(self, *, objective: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.objective = objective

    def notify(self, context: Context) -> None:
        """Record it from a worker."""
        self._record(context)

    async def async_notify(self, context: Context) -> None:
        """Record it from the triggerer, where deadline callbacks run."""
        await asyncio.to_thread(self._record, context)

    def _record(self, context: Context) -> Path:
        from holdfast.hooks.runtime import HoldfastHook

        run = context.get("dag_run") or {}
        names = ("dag_id", "dag_run_id", "run_id")
        facts = run if isinstance(run, dict) else {name: getattr(run, name, None) for name in names}
        dag_id, run_id = facts.get("dag_id"), facts.get("dag_run_id") or facts.get("run_id")
        record = {
            "format": "holdfast.missed-deadline/1",
            "objective": self.objective,
            "dag_id": dag_id,
            "run_id": run_id,
            "noticed_at": datetime.now(UTC).isoformat(),
        }
        name = "".join(c if c.isalnum() or c in "-_" else "-" for c in f"{dag_id}-{run_id}")
        file = HoldfastHook().evidence_folder() / "missed-deadlines" / f"{name}.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        self.log.error("Missed: %s (%s, %s); recorded in %s", self.objective, dag_id, run_id, file)
        return file
