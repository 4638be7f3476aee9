"""Watches what a loss of the active site would cost a run, from the triggerer, without blocking its event loop."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

from airflow.triggers.base import BaseTrigger, TriggerEvent

from holdfast.errors import ConfigError, HoldfastError
from holdfast.triggers.looking import looks

if TYPE_CHECKING:
    from holdfast.engine.runtime import Runtime


class WorkAtRiskTrigger(BaseTrigger):
    """Fires when the work at risk is within the limits at every standby, or when the watch is over.

    A look that fails (no majority, a bucket or a service that does not answer) is no finding: it is looked again.

    :param group: the protection group.
    :param job: the training job.
    :param run: the run; ``None``: the job's newest.
    :param max_steps: per standby; ``None``: any number.
    :param max_seconds: of training, per standby; ``None``: any time.
    :param window_seconds: how long to watch before firing without a finding.
    :param poll_seconds: between two looks.
    :param topology_path: the topology file; by default the one the configuration names.
    """

    def __init__(
        self,
        *,
        group: str,
        job: str,
        run: str | None = None,
        max_steps: int | None = None,
        max_seconds: float | None = None,
        window_seconds: float = 900.0,
        poll_seconds: float = 10.0,
        topology_path: str | None = None,
    ) -> None:
        super().__init__()
        require_limit(max_steps, max_seconds, where="WorkAtRiskTrigger")
        self.group = group
        self.job = job
        self.run_name = run
        self.max_steps = max_steps
        self.max_seconds = max_seconds
        self.window_seconds = window_seconds
        self.poll_seconds = poll_seconds
        self.topology_path = topology_path

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """The class path and the arguments that make this trigger again."""
        return f"{type(self).__module__}.{type(self).__qualname__}", {
            "group": self.group,
            "job": self.job,
            "run": self.run_name,
            "max_steps": self.max_steps,
            "max_seconds": self.max_seconds,
            "window_seconds": self.window_seconds,
            "poll_seconds": self.poll_seconds,
            "topology_path": self.topology_path,
        }

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Yield one event: what `look_at_risk` found last; ``over`` is empty when all is within the limits."""
        found: dict[str, Any] = {"standbys": [], "over": ["no look succeeded"]}
        async for found in self._looks():
            if not found["over"]:
                break
        yield TriggerEvent(found)

    def _looks(self) -> AsyncIterator[dict[str, Any]]:
        return looks(
            self._look,
            topology_path=self.topology_path,
            window_seconds=self.window_seconds,
            poll_seconds=self.poll_seconds,
            unanswered=self._unanswered,
        )

    def _unanswered(self, error: HoldfastError) -> None:
        self.log.warning("No look at the work at risk of %s now: %s", self.group, error)

    def _look(self, runtime: Runtime) -> dict[str, Any]:
        return look_at_risk(
            runtime, self.group, self.job, self.run_name, max_steps=self.max_steps, max_seconds=self.max_seconds
        )


def look_at_risk(
    runtime: Runtime, group: str, job: str, run: str | None, *, max_steps: int | None, max_seconds: float | None
) -> dict[str, Any]:
    """One look: ``standbys`` (standby, steps, seconds, detail) and ``over``, what is above a limit or not known."""
    from holdfast.engine.pipeline.training_status import over_limits, work_at_risk_of

    risks = work_at_risk_of(runtime, group, job, run=run)
    return {
        "standbys": [
            {"standby": one.standby, "steps": one.steps, "seconds": one.seconds, "detail": one.detail} for one in risks
        ],
        "over": list(over_limits(risks, max_steps=max_steps, max_seconds=max_seconds)),
    }


def require_limit(max_steps: int | None, max_seconds: float | None, *, where: str) -> None:
    """Raises ConfigError: there is no limit, or one is not a number from 0 on."""
    limits = [one for one in (max_steps, max_seconds) if one is not None]
    if not limits or any(isinstance(one, bool) or not isinstance(one, int | float) or one < 0 for one in limits):
        raise ConfigError(
            "there is no limit to wait for",
            where=where,
            expected="max_steps or max_seconds, or both, from 0 on",
            found=f"max_steps={max_steps!r}, max_seconds={max_seconds!r}",
        )
