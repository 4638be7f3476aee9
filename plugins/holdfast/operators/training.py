"""Training as an external job that outlives the task, the worker, the triggerer and its own cloud."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, NoReturn

from airflow.sdk.exceptions import AirflowSkipException
from airflow.sdk.execution_time.context import NEVER_EXPIRE

from holdfast.operators.assets import FINISHED_TRAINING, training_asset
from holdfast.operators.base import HoldfastOperator, failing_clearly
from holdfast.operators.links import JOB_LINKS, keep_links
from holdfast.triggers.training import NoMachineTrigger, TrainingJobTrigger, event_of

if TYPE_CHECKING:
    from airflow.sdk import Context
    from pydantic import JsonValue

    from holdfast.engine.compute import JobStatus
    from holdfast.engine.recovery.start_training import StartedJob
    from holdfast.engine.recovery.waiting import AskAgain, Waiter
    from holdfast.engine.runtime import Runtime
    from holdfast.errors import HoldfastError

#: Counted each time a task finds no placement with a machine; tagged with group and job.
NO_MACHINE_METRIC = "holdfast.training.no_machine"

#: Where the job is kept in the task's state store, which survives retries (an XCom does not).
STATE_KEY = "training_job"


class TrainOperator(HoldfastOperator):
    """Runs a training job at the group's active site and waits for it, in the triggerer or in the worker.

    The job's name follows from run and epoch, and its handle is in the task state store before the task defers. So a
    retry finds the job instead of starting a second one, also when the task died between submitting and storing. When
    the job's cloud was lost, the task finds the run under its new epoch at the site a failover resumed it at.

    A machine that was lost, taken away or not to be had is replaced within the same try, as the job's placements and
    its recovery strategy say; how often is counted in the site's bucket. While no placement has a machine, the group's
    ``no_capacity`` says what becomes of the task: it waits, it is skipped, or it fails. A job that was stopped or
    fenced is left to a retry. One that failed by itself, or lost too many machines, fails the task at once; clearing
    the task after that starts the run again.

    Whatever ends the task, the job goes on, and the next try finds it; who clears the task does not make a second one.
    With ``stop_on_kill`` a person who marks the *deferred* task as failed or successful stops the job as well. With
    ``deferrable=False`` Airflow does not tell a person from a worker that shuts down or loses the API server, so there
    everything stops the job that ends the task before its time, short of a SIGKILL.

    With `FINISHED_TRAINING` among its outlets, it updates the job's asset; what it returns is in the event's extra.

    :param group: the protection group. (templated)
    :param job: the training job. (templated)
    :param run: name of the run, ``<group>-<job>`` or ``<group>-<job>.<anything>``: a failover finds it by that. By
        default one per DAG run, by its group, job and time, kept over retries; two DAGs that train one job at the same
        times share a run. (templated)
    :param poll_seconds: how often the triggerer asks the job's backend.
    :param grace_seconds: how long a stopped job may take to write a last checkpoint.
    :param deferrable: wait in the triggerer; False: in the worker, which stays occupied.
    :param stop_on_kill: let the job write a checkpoint and leave when a person ends the task.
    :returns: ``run``, ``epoch``, ``site``, ``model``, ``snapshot_id``, ``step``, ``model_digest``, ``checkpoint``.
    """

    template_fields: Sequence[str] = ("group", "job", "run")
    operator_extra_links = JOB_LINKS

    def __init__(
        self,
        *,
        group: str,
        job: str,
        run: str | None = None,
        poll_seconds: float = 2.0,
        grace_seconds: float = 10.0,
        deferrable: bool = True,
        stop_on_kill: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.group = group
        self.job = job
        self.run = run
        self.poll_seconds = poll_seconds
        self.grace_seconds = grace_seconds
        self.deferrable = deferrable
        self.stop_on_kill = stop_on_kill
        self._waiting_for: StartedJob | None = None
        self.check_names(group=group, job=job)
        self.check_positive(poll_seconds=poll_seconds, grace_seconds=grace_seconds)

    def act(self, context: Context, runtime: Runtime) -> dict[str, Any]:
        """Start or find the job, remember it, and hand over to the triggerer, or wait for it here."""
        return self._found(self._waiter(context, runtime).run())

    def _waiter(
        self, context: Context, runtime: Runtime, *, began: bool = False, epoch: int | None = None
    ) -> Waiter[StartedJob, dict[str, Any]]:
        """Waits here; where the task is deferrable, it defers instead.

        :param epoch: of a job that somebody else waited for.
        """
        from holdfast.engine.pipeline import TrainingLost, goes_on
        from holdfast.engine.recovery.waiting import Waiter

        def own_epoch() -> int | None:
            return epoch if waiter.job is None else waiter.job.epoch

        def again(status: JobStatus) -> bool:
            on = goes_on(runtime, self.group, status=status, epoch=own_epoch())
            if on:
                self.log.info("%s: %s; the run goes on", status.state, status.detail or "no detail")
            return on

        waiter: Waiter[StartedJob, dict[str, Any]] = Waiter(
            runtime.clock,
            start=lambda: self._start_or_say(context, runtime),
            wait=self._hand_over if self.deferrable else lambda started: self._wait(runtime, started),
            goes_on=again,
            finish=lambda status: self._finish(context, runtime, status, own_epoch()),
            pause=lambda later: self._await_turn(runtime, later),
            poll_seconds=self.poll_seconds,
            final=(TrainingLost,),
            began=began,
        )
        return waiter

    def _found(self, outcome: dict[str, Any] | None) -> dict[str, Any]:
        assert outcome is not None, "a pause of this task never gives up"
        return outcome

    def _start_or_say(self, context: Context, runtime: Runtime) -> StartedJob:
        from airflow.sdk.observability.stats import Stats

        from holdfast.engine.config.models import NoCapacityPolicy
        from holdfast.engine.recovery.start_training import NoMachine, TrainingGivenUp

        try:
            return self._start(context, runtime)
        except NoMachine as none:
            Stats.incr(NO_MACHINE_METRIC, tags={"group": self.group, "job": self.job})
            if none.policy is NoCapacityPolicy.GO_ON or none.ask_again_at is None:
                raise AirflowSkipException(f"The group goes on without this training. {none}") from none
            raise
        except TrainingGivenUp as given_up:
            self._tell(context, given_up.epoch, given_up.attempt)
            raise

    def _start(self, context: Context, runtime: Runtime) -> StartedJob:
        from holdfast.engine.pipeline import start_training

        run = self._run_name(context)
        known = context["task_state_store"].get(STATE_KEY)
        told = self._told(context, runtime)
        started = start_training(runtime, self.group, self.job, run=run, again_after=told, say=self.log.info)
        job: dict[str, JsonValue] = {
            "run": run,
            "epoch": started.epoch,
            "site": started.site,
            "attempt": started.attempt,
            "placement": started.placement.model_dump(mode="json", exclude_none=True),
            "handle": asdict(started.handle),
        }
        if isinstance(known, dict) and "site" in known:
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
        self.log.info(
            "Training %s at %s in epoch %s as %s, attempt %s at %s",
            run,
            started.site,
            started.epoch,
            started.handle.name,
            started.attempt,
            job["placement"] or "the site's own machine",
        )
        keep_links(context, runtime.backend(started.site), started.handle, self.log)
        return started

    def _hand_over(self, started: StartedJob) -> NoReturn:
        self.defer(
            trigger=TrainingJobTrigger(
                site=started.site,
                handle=asdict(started.handle),
                group=self.group,
                epoch=started.epoch,
                move_on_at=None if started.move_on_at is None else started.move_on_at.isoformat(),
                poll_seconds=self.poll_seconds,
                grace_seconds=self.grace_seconds,
                stop_on_kill=self.stop_on_kill,
                topology_path=self.topology_path,
            ),
            method_name="execute_complete",
        )

    def execute_complete(self, context: Context, event: dict[str, Any]) -> dict[str, Any]:
        """Say what the ended job published; when a machine is what it lacks, start the next attempt and wait on.

        :raises TrainingLost: it was fenced or stopped; a retry goes on from its last checkpoint.
        :raises AirflowFailException: it failed by itself, in an epoch that was not over, or another machine would not
            help.
        """
        from holdfast.engine.compute import JobState, JobStatus

        ended = None
        if event["state"] is not None:
            ended = JobStatus(JobState(event["state"]), event["step"], event["total_steps"], None, event["detail"])
        known = context["task_state_store"].get(STATE_KEY)
        epoch = int(str(known["epoch"])) if isinstance(known, dict) and "epoch" in known else None
        with failing_clearly():
            waiter = self._waiter(context, self.hook.runtime, began=True, epoch=epoch)
            return self._found(waiter.run(ended))

    def on_kill(self) -> None:
        """Leave the job to the next try, or stop it where ``stop_on_kill`` says so."""
        started = self._waiting_for
        if started is None:
            return
        if not self.stop_on_kill:
            self.log.info("The task ends and %s goes on; a retry finds it", started.handle.name)
            return
        status = self.hook.runtime.backend(started.site).stop(started.handle, grace_seconds=self.grace_seconds)
        self.log.info("%s was stopped: %s", started.handle.name, status.state)

    def _wait(self, runtime: Runtime, started: StartedJob) -> JobStatus:
        from holdfast.engine.recovery.waiting import JobWatch, wait_for_job

        self._waiting_for = started
        ended = wait_for_job(
            runtime.backend(started.site),
            started.handle,
            pause=lambda: self._pause(runtime),
            seen=self._seen,
            unanswered=self._unanswered,
            over=JobWatch(runtime, self.group, epoch=started.epoch, move_on_at=started.move_on_at).over,
        )
        self._waiting_for = None
        assert ended is not None, "a pause of this task never gives up"
        return ended

    def _await_turn(self, runtime: Runtime, later: AskAgain) -> bool:
        """Wait until the run is to be asked for again, in the triggerer or here."""
        self.log.warning("Asking again from %s on: %s", later.at.isoformat(timespec="seconds"), later.why)
        if self.deferrable:
            self.defer(
                trigger=NoMachineTrigger(
                    ask_again_at=later.at.isoformat(),
                    poll_seconds=self.poll_seconds,
                    ended=None if later.ended is None else event_of(later.ended),
                ),
                method_name="execute_complete",
            )
        while runtime.clock.now() < later.at:
            self._pause(runtime)
        return False

    def _tell(self, context: Context, epoch: int, attempt: int) -> None:
        """Remember the failure this task is about to tell: whoever clears it afterwards asks for the run again."""
        known = context["task_state_store"].get(STATE_KEY)
        job: dict[str, JsonValue] = {
            **(known if isinstance(known, dict) else {}),
            "told": {"epoch": epoch, "attempt": attempt},
        }
        context["task_state_store"].set(STATE_KEY, job, retention=NEVER_EXPIRE)

    def _told(self, context: Context, runtime: Runtime) -> int | None:
        """The attempt of this epoch whose failure this task has told before; None: none."""
        from holdfast.engine.pipeline import require_active

        known = context["task_state_store"].get(STATE_KEY)
        told = known.get("told") if isinstance(known, dict) else None
        if not isinstance(told, dict) or told["epoch"] != require_active(runtime, self.group).epoch:
            return None
        return int(str(told["attempt"]))

    def _pause(self, runtime: Runtime) -> bool:
        runtime.clock.sleep(self.poll_seconds)
        return False

    def _seen(self, status: JobStatus) -> None:
        self.log.info("%s, step %s of %s", status.state, status.step, status.total_steps)

    def _unanswered(self, error: HoldfastError) -> None:
        self.log.warning("The job's backend cannot be asked, asking again: %s", error)

    def _finish(self, context: Context, runtime: Runtime, status: JobStatus, epoch: int | None) -> dict[str, Any]:
        from holdfast.engine.pipeline import TrainingFailed, training_outcome

        run = self._run_name(context)
        try:
            outcome = training_outcome(runtime, self.group, self.job, run=run, status=status, epoch=epoch)
        except TrainingFailed:
            known = context["task_state_store"].get(STATE_KEY)
            if isinstance(known, dict) and epoch is not None:
                self._tell(context, epoch, int(str(known.get("attempt", 1))))
            raise
        if FINISHED_TRAINING in self.outlets:
            extra: dict[str, JsonValue] = {**outcome, "group": self.group, "job": self.job}
            context["outlet_events"][FINISHED_TRAINING].add(training_asset(self.job), extra=extra)
        return outcome

    def _run_name(self, context: Context) -> str:
        from holdfast.engine.recovery.subjects import run_name

        return self.run or run_name(self.group, self.job, context["dag_run"].run_after)
