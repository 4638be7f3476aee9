"""Watches how far a site lies behind with a dataset, from the triggerer, without blocking its event loop."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

from airflow.triggers.base import BaseTrigger, TriggerEvent

from holdfast.errors import ConfigError, HoldfastError
from holdfast.triggers.looking import looks

if TYPE_CHECKING:
    from holdfast.engine.runtime import Runtime

WHEN = ("under", "over")


class ReplicationLagTrigger(BaseTrigger):
    """Fires when the lag is under (or over) so many seconds, or when the watch is over.

    An unknown lag is never under and always over. A look that fails (no majority, a site that does not answer) is no
    finding: it is looked again.

    :param group: the protection group.
    :param dataset: the dataset.
    :param site: the site that may lie behind.
    :param seconds: the bound.
    :param when: ``under`` or ``over``.
    :param window_seconds: how long to watch before firing without a finding.
    :param poll_seconds: between two looks.
    :param topology_path: the topology file; by default the one the configuration names.
    """

    def __init__(
        self,
        *,
        group: str,
        dataset: str,
        site: str,
        seconds: float,
        when: str = "under",
        window_seconds: float = 900.0,
        poll_seconds: float = 10.0,
        topology_path: str | None = None,
    ) -> None:
        super().__init__()
        if when not in WHEN:
            raise ConfigError(
                "this is nothing to wait for",
                where="ReplicationLagTrigger: when",
                expected=" or ".join(WHEN),
                found=repr(when),
            )
        self.group = group
        self.dataset = dataset
        self.site = site
        self.seconds = seconds
        self.when = when
        self.window_seconds = window_seconds
        self.poll_seconds = poll_seconds
        self.topology_path = topology_path

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """The class path and the arguments that make this trigger again."""
        return f"{type(self).__module__}.{type(self).__qualname__}", {
            "group": self.group,
            "dataset": self.dataset,
            "site": self.site,
            "seconds": self.seconds,
            "when": self.when,
            "window_seconds": self.window_seconds,
            "poll_seconds": self.poll_seconds,
            "topology_path": self.topology_path,
        }

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Yield one event: ``found`` says whether it came true, ``lag_seconds`` the last lag (``None``: unknown)."""
        lag: float | None = None
        async for lag in self._looks():
            if self._found(lag):
                yield TriggerEvent({"found": True, "lag_seconds": lag})
                return
        yield TriggerEvent({"found": False, "lag_seconds": lag})

    def _looks(self) -> AsyncIterator[float | None]:
        return looks(
            self._look,
            topology_path=self.topology_path,
            window_seconds=self.window_seconds,
            poll_seconds=self.poll_seconds,
            unanswered=self._unanswered,
        )

    def _unanswered(self, error: HoldfastError) -> None:
        self.log.warning("No look at %s at %s now: %s", self.dataset, self.site, error)

    def _found(self, lag: float | None) -> bool:
        over = lag is None or lag > self.seconds
        return over if self.when == "over" else not over

    def _look(self, runtime: Runtime) -> float | None:
        from holdfast.engine.pipeline.replicas import lag_seconds

        return lag_seconds(runtime, self.group, self.dataset, self.site)
