"""Watching a group for as long as nothing happens to it."""

from __future__ import annotations

from holdfast.engine.health import Verdict, open_watch
from holdfast.engine.pipeline.active import require_active
from holdfast.engine.runtime import Runtime

#: How often the register is read again: the active site moves seldom.
_REGISTER_SECONDS = 15.0


class GroupWatch:
    """One look at a time at a group's sites. It blocks for at most the detection's timeout per look."""

    def __init__(self, runtime: Runtime, group: str) -> None:
        self._runtime = runtime
        self._group = group
        self._watch = open_watch(
            runtime.topology, group, runtime.stores(runtime.topology.group(group).sites.all()), clock=runtime.clock
        )
        self._read_at: float | None = None
        self._active = ""

    @property
    def interval_seconds(self) -> float:
        """The pause between two looks the detection rules want."""
        return self._runtime.topology.group(self._group).detection.interval_seconds

    def look(self) -> dict[str, str | int] | None:
        """Look once. What was found when the active site is down and nobody works on it yet, else ``None``.

        Raises:
            NoMajority: nobody knows which site is active; a look that failed is no verdict.
        """
        now = self._runtime.clock.monotonic()
        if self._read_at is None or now - self._read_at > _REGISTER_SECONDS:
            self._active = require_active(self._runtime, self._group).active_site
            self._read_at = now
        verdict = self._watch.step()[self._active]
        if verdict.verdict is not Verdict.DOWN:
            return None
        state = require_active(self._runtime, self._group)
        busy = state.operation is not None and state.operation.expires_at > self._runtime.clock.now()
        if busy or state.active_site != self._active:
            # A plan or a drill has the group: its own detection decides.
            self._active, self._read_at = state.active_site, now
            self._watch.reset()
            return None
        return {
            "group": self._group,
            "site": self._active,
            "epoch": state.epoch,
            "since": verdict.since.isoformat(),
            "reasons": "; ".join(verdict.reasons),
        }
