"""Training as an external job that outlives the task, the worker, the triggerer and its own cloud."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from airflow.sdk.execution_time.context import NEVER_EXPIRE

from holdfast.operators.base import HoldfastOperator, failing_clearly
from holdfast.triggers.training import TrainingJobTrigger

if TYPE_CHECKING:
    from airflow.sdk import Context

    from holdfast.engine.runtime import Runtime

#: Where the job is kept in the task's state store, which survives retries (an XCom does not).
STATE_KEY = "training_job"


class TrainOperator(HoldfastOperator):
    """Runs a training job at the group's active site and waits for it in the triggerer.

    The job's name follows from run and epoch, and its handle is in the task state store before the task defers. So a
    retry finds the job instead of starting a second one, also when the task died between submitting and storing. When
    the job's cloud was lost, the retry finds the run under its new epoch at the site a failover resumed it at.

    There is no ``on_kill`` here on purpose: Airflow calls it as well when a worker shuts down or loses the API server,
    and the training must not die with it. A user who fails or clears the waiting task stops the job through
    `TrainingJobTrigger.on_kill`.

    :param group: the protection group. (templated)
    :param job: the training job. (templated)
    :param run: name of the run; by default one per DAG run, kept over retries. (templated)
    :param poll_seconds: how often the triggerer asks the job's backend.
    :param grace_seconds: how long a stopped job may take to write a last checkpoint.
    :returns: ``run``, ``epoch``, ``site``, ``model``, ``snapshot_id``, ``step``, ``model_digest``.
    """

    template_fields: Sequence[str] = ("group", "job", "run")

    def __init__(
        self,
        *,
        group: str,
        job: str,
        run: str | None = None,
        poll_seconds: float = 2.0,
        grace_seconds: float = 10.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.group = group
        self.job = job
        self.run = run
        self.poll_seconds = poll_seconds
        self.grace_seconds = grace_seconds
        self.check_names(group=group, job=job)
        self.check_positive(poll_seconds=poll_seconds, grace_seconds=grace_seconds)

    def act(self, context: Context, runtime: Runtime) -> None:
        """Start or find the job, remember it, and hand over to the triggerer."""
        from holdfast.engine.pipeline import start_training

        run = self._run_name(context)
        started = start_training(runtime, self.group, self.job, run=run)
        job = {"run": run, "epoch": started.epoch, "site": started.site, "handle": asdict(started.handle)}
        known = context["task_state_store"].get(STATE_KEY)
        if known is not None:
            moved = known["site"] != started.site or known["epoch"] != started.epoch
            self.log.info(
                "Run %s was at %s in epoch %s; %s %s in epoch %s",
                run,
                known["site"],
                known["epoch"],
                "it is now at" if moved else "reattached at",
                started.site,
                started.epoch,
            )
        context["task_state_store"].set(STATE_KEY, job, retention=NEVER_EXPIRE)
        self.log.info("Training %s at %s in epoch %s as %s", run, started.site, started.epoch, started.handle.name)
        self.defer(
            trigger=TrainingJobTrigger(
                site=started.site,
                handle=asdict(started.handle),
                poll_seconds=self.poll_seconds,
                grace_seconds=self.grace_seconds,
                topology_path=self.topology_path,
            ),
            method_name="execute_complete",
        )

    def execute_complete(self, context: Context, event: dict[str, Any]) -> dict[str, Any]:
        """Say what the ended job published.

        :raises TrainingLost: it was fenced, stopped or killed; a retry goes on from its last checkpoint.
        :raises AirflowFailException: it failed by itself, in an epoch that was not over.
        """
        from holdfast.engine.compute import JobState, JobStatus
        from holdfast.engine.pipeline import training_outcome

        status = JobStatus(JobState(event["state"]), event["step"], event["total_steps"], None, event["detail"])
        known = context["task_state_store"].get(STATE_KEY)
        with failing_clearly():
            return training_outcome(
                self.hook.runtime,
                self.group,
                self.job,
                run=self._run_name(context),
                status=status,
                epoch=int(str(known["epoch"])) if isinstance(known, dict) else None,
            )

    def _run_name(self, context: Context) -> str:
        from holdfast.engine.recovery.subjects import run_name

        return self.run or run_name(self.group, self.job, context["dag_run"].run_after)
