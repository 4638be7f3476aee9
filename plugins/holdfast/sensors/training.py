"""Waits until little enough training would be lost with the active site."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

from holdfast.operators.base import HoldfastOperator
from holdfast.triggers.work_at_risk import WorkAtRiskTrigger, look_at_risk, require_limit

if TYPE_CHECKING:
    from airflow.sdk import Context

    from holdfast.engine.runtime import Runtime


class WorkAtRiskSensor(HoldfastOperator):
    """Succeeds once every standby could take a run over with at most so many steps, or seconds, to train again.

    Put it before a planned switchover. What is not known counts as over the limit: a standby that does not answer, or
    has no checkpoint to resume from, and a run that no standby may hold.

    :param group: the protection group. (templated)
    :param job: the training job. (templated)
    :param run: the run; by default the job's newest. (templated)
    :param max_steps: the bound in steps; this or ``max_seconds`` is needed.
    :param max_seconds: the bound in seconds of training.
    :param wait: watch in the triggerer; False: look once, in the worker.
    :param skip: skip what comes after instead of failing, when it is over the limit to the end.
    :param window_seconds: how long one run watches.
    :param poll_seconds: between two looks; each costs a listing and a few reads at every site.
    :returns: per standby ``standby``, ``steps``, ``seconds``, ``detail``.
    """

    template_fields: Sequence[str] = ("group", "job", "run")

    def __init__(
        self,
        *,
        group: str,
        job: str,
        run: str | None = None,
        max_steps: int | None = None,
        max_seconds: float | None = None,
        wait: bool = True,
        skip: bool = False,
        window_seconds: float = 900.0,
        poll_seconds: float = 10.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.group = group
        self.job = job
        self.run = run
        self.max_steps = max_steps
        self.max_seconds = max_seconds
        self.wait = wait
        self.skip = skip
        self.window_seconds = window_seconds
        self.poll_seconds = poll_seconds
        self.check_names(group=group, job=job)
        self.check_positive(window_seconds=window_seconds, poll_seconds=poll_seconds)
        require_limit(max_steps, max_seconds, where=f"task {self.task_id}")

    def act(self, _context: Context, runtime: Runtime) -> list[dict[str, Any]]:
        """Look once, or see that the names fit together and hand over to the triggerer."""
        from holdfast.engine.pipeline.runs import require_job

        require_job(runtime.topology, self.group, self.job)
        run, steps, seconds = self.run or None, self.max_steps, self.max_seconds
        if self.wait:
            self._hand_over(run)
        return self._conclude(look_at_risk(runtime, self.group, self.job, run, max_steps=steps, max_seconds=seconds))

    def _hand_over(self, run: str | None) -> NoReturn:
        self.defer(
            trigger=WorkAtRiskTrigger(
                group=self.group,
                job=self.job,
                run=run,
                max_steps=self.max_steps,
                max_seconds=self.max_seconds,
                window_seconds=self.window_seconds,
                poll_seconds=self.poll_seconds,
                topology_path=self.topology_path,
            ),
            method_name="execute_complete",
        )

    def execute_complete(self, _context: Context, event: dict[str, Any]) -> list[dict[str, Any]]:
        """Report what was found; over the limit fail, or skip."""
        return self._conclude(event)

    def _conclude(self, found: dict[str, Any]) -> list[dict[str, Any]]:
        for one in found["standbys"]:
            self.log.info(
                "%s: %s steps, %s s at risk %s", *(one[name] for name in ("standby", "steps", "seconds", "detail"))
            )
        if not found["over"]:
            standbys: list[dict[str, Any]] = found["standbys"]
            return standbys
        said = "; ".join(found["over"])
        raise AirflowSkipException(said) if self.skip else AirflowFailException(said)
