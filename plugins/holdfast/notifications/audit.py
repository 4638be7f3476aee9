"""A gap in the audit trail, an export that was tampered with, a residency breach: recorded."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseNotifier

if TYPE_CHECKING:
    from airflow.sdk import Context


class AuditFindingNotifier(BaseNotifier):
    """Writes a record that an audit task found something, beside the drills' evidence, and a line into the log.

    For ``on_failure_callback``; beside it, any other notifier can send it on.

    :param what: what was looked at, for people. (templated)
    """

    template_fields = ("what",)

    def __init__(self, *, what: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.what = what

    def notify(self, context: Context) -> None:
        """Record it from a worker."""
        self._record(context)

    async def async_notify(self, context: Context) -> None:
        """Record it from the triggerer."""
        await asyncio.to_thread(self._record, context)

    def _record(self, context: Context) -> Path:
        from holdfast.hooks.runtime import HoldfastHook

        now = datetime.now(UTC)
        error = context.get("exception")
        record = {
            "format": "holdfast.audit-finding/1",
            "what": self.what,
            "why": None if error is None else str(error),
            "run_id": context.get("run_id"),
            "noticed_at": now.isoformat(),
        }
        file = HoldfastHook().evidence_folder() / "audit-findings" / f"{now:%Y%m%dT%H%M%S%f}.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        self.log.error("%s: %s; recorded in %s", self.what, record["why"], file)
        return file
