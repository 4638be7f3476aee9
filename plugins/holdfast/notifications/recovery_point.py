"""A recovery point that is too old, recorded."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseNotifier

if TYPE_CHECKING:
    from airflow.sdk import Context


class StaleRecoveryPointNotifier(BaseNotifier):
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
            "format": "holdfast.stale-recovery-point/1",
            "vault": self.vault,
            "group": self.group,
            "why": None if error is None else str(error),
            "run_id": context.get("run_id"),
            "noticed_at": now.isoformat(),
        }
        name = f"{self.vault}-{self.group}-{now:%Y%m%dT%H%M%S%f}.json"
        file = HoldfastHook().evidence_folder() / "stale-recovery-points" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        self.log.error(
            "The newest verified recovery point of %s in %s is too old: %s; recorded in %s",
            self.group,
            self.vault,
            record["why"],
            file,
        )
        return file
