"""What the notifiers share: a record beside the drills' evidence, and a line in the log."""

from __future__ import annotations

import asyncio
import json
from abc import abstractmethod
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseNotifier

if TYPE_CHECKING:
    from airflow.sdk import Context


@dataclass(frozen=True)
class Notice:
    """What is to be recorded.

    Args:
        folder: in the evidence folder.
        name: of the file, without ``.json``.
        facts: what it says, with its format first; when it was noticed is added.
        line: the same for the log.
    """

    folder: str
    name: str
    facts: dict[str, Any]
    line: str


class RecordingNotifier(BaseNotifier):
    """Writes a record beside the drills' evidence, and a line into the log."""

    @abstractmethod
    def notice(self, context: Context, now: datetime) -> Notice:
        """What to record."""

    def notify(self, context: Context) -> None:
        """Record it from a worker."""
        from holdfast.hooks.runtime import HoldfastHook

        now = datetime.now(UTC)
        found = self.notice(context, now)
        file = HoldfastHook().evidence_folder() / found.folder / f"{found.name}.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        record = {**found.facts, "noticed_at": now.isoformat()}
        file.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        self.log.error("%s; recorded in %s", found.line, file)

    async def async_notify(self, context: Context) -> None:
        """Record it from the triggerer, where deadline callbacks run."""
        await asyncio.to_thread(self.notify, context)


def failure_of(context: Context) -> dict[str, Any]:
    """Why a task failed, and in which run."""
    error = context.get("exception")
    return {"why": None if error is None else str(error), "run_id": context.get("run_id")}


def stamp(now: datetime) -> str:
    """A moment as a part of a file's name."""
    return f"{now:%Y%m%dT%H%M%S%f}"
