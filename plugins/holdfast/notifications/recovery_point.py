"""A recovery point that is too old, recorded."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

from holdfast.notifications.base import Notice, RecordingNotifier, failure_of, stamp

if TYPE_CHECKING:
    from airflow.sdk import Context


class StaleRecoveryPointNotifier(RecordingNotifier):
    """Writes a record that a vault's newest verified recovery point is older than it may be, and a line into the log.

    For ``on_failure_callback`` of a `CheckRecoveryPointsOperator`; beside it, any other notifier can send it on.

    :param vault: the vault. (templated)
    :param group: the protection group. (templated)
    """

    template_fields = ("vault", "group")

    def __init__(self, *, vault: str, group: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.vault = vault
        self.group = group

    def notice(self, context: Context, now: datetime) -> Notice:
        failure = failure_of(context)
        return Notice(
            "stale-recovery-points",
            f"{self.vault}-{self.group}-{stamp(now)}",
            {"format": "holdfast.stale-recovery-point/1", "vault": self.vault, "group": self.group, **failure},
            f"The newest verified recovery point of {self.group} in {self.vault} is too old: {failure['why']}",
        )
