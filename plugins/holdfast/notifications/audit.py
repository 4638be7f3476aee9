"""A gap in the audit trail, an export that was tampered with, a residency breach: recorded."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

from holdfast.notifications.base import Notice, RecordingNotifier, failure_of, stamp

if TYPE_CHECKING:
    from airflow.sdk import Context


class AuditFindingNotifier(RecordingNotifier):
    """Writes a record that an audit task found something, beside the drills' evidence, and a line into the log.

    For ``on_failure_callback``; beside it, any other notifier can send it on.

    :param what: what was looked at, for people. (templated)
    """

    template_fields = ("what",)

    def __init__(self, *, what: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.what = what

    def notice(self, context: Context, now: datetime) -> Notice:
        failure = failure_of(context)
        facts = {"format": "holdfast.audit-finding/1", "what": self.what, **failure}
        return Notice("audit-findings", stamp(now), facts, f"{self.what}: {failure['why']}")
