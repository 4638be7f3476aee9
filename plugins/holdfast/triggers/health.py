"""Watches a group's sites from the triggerer, one look per interval, without blocking its event loop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

from airflow.triggers.base import BaseTrigger, TriggerEvent

from holdfast.errors import HoldfastError

if TYPE_CHECKING:
    from holdfast.engine.pipeline import GroupWatch


class SiteDownTrigger(BaseTrigger):
    """Fires when a group's active site is down by the rules, or when the watch is over.

    :param group: the protection group.
    :param window_seconds: how long to watch before firing without a finding.
    :param topology_path: the topology file; by default the one the configuration names.
    """

    def __init__(self, *, group: str, window_seconds: float, topology_path: str | None = None) -> None:
        super().__init__()
        self.group = group
        self.window_seconds = window_seconds
        self.topology_path = topology_path

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """The class path and the arguments that make this trigger again."""
        return f"{type(self).__module__}.{type(self).__qualname__}", {
            "group": self.group,
            "window_seconds": self.window_seconds,
            "topology_path": self.topology_path,
        }

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Yield one event: what was found, ``None`` when every look was fine until the end."""
        deadline = time.monotonic() + self.window_seconds
        watch = await asyncio.to_thread(self._open)
        while time.monotonic() < deadline:
            began = time.monotonic()
            try:
                found = await asyncio.to_thread(watch.look)
            except HoldfastError as error:
                if not error.transient:
                    raise
                # Whoever cannot see a majority does not call anybody down.
                self.log.warning("No look at %s now: %s", self.group, error)
            else:
                if found is not None:
                    yield TriggerEvent({"found": found})
                    return
            await asyncio.sleep(max(0.0, watch.interval_seconds - (time.monotonic() - began)))
        yield TriggerEvent({"found": None})

    def _open(self) -> GroupWatch:
        from holdfast.engine.pipeline import GroupWatch
        from holdfast.hooks.runtime import HoldfastHook

        return GroupWatch(HoldfastHook(self.topology_path).runtime, self.group)
