"""A gap in the audit trail, an export that was tampered with, a residency breach: recorded."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any, cast

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


class AuditProblemNotifier(AuditFindingNotifier):
    """The same of a task that went well and returned ``problems``; without any, nothing.

    For ``on_success_callback``.

    :param what: what was looked at, for people. (templated)
    """

    def notify(self, context: Context) -> None:
        """Record it from a worker."""
        problems = (context["ti"].xcom_pull() or {}).get("problems")
        if problems:
            told = "; ".join(f"{one['where']}: {one['what']}; found {one['found']}" for one in problems)
            super().notify(cast("Context", {**context, "exception": told}))
