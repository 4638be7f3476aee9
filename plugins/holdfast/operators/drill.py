"""The phases of a drill, one operator each. The fault is lifted by a teardown task, whatever happened before."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from airflow.sdk.exceptions import AirflowFailException

from holdfast.operators.base import HoldfastOperator

if TYPE_CHECKING:
    from airflow.sdk import Context

    from holdfast.engine.runtime import Runtime

#: The engine's scenarios, written out: importing the engine to ask it would cost every parse most of a second.
SCENARIO_NAMES = ("site-outage",)


class DrillOperator(HoldfastOperator):
    """Base of a drill's phases. A phase that is recorded is not done again, so every task may be retried.

    :param drill_id: the drill; by default one per DAG run, the same for all its tasks and their retries. (templated)
    """

    template_fields: Sequence[str] = ("drill_id",)

    def __init__(self, *, drill_id: str | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.drill_id = drill_id

    def drill(self, context: Context) -> str:
        """The drill's id."""
        from holdfast.engine.pipeline import identifier

        run = context["dag_run"]
        return self.drill_id or identifier(run.run_after, f"{run.dag_id} {run.run_id}")


class PrepareDrillOperator(DrillOperator):
    """Checks everything, takes the group for the drill and measures the steady state. No fault is set here.

    A drill that is refused here leaves signed evidence of the refusal.

    :param group: the protection group. (templated)
    :param scenario: what happens to it. (templated)
    :returns: ``drill_id``, ``source``, ``target``, ``epoch``.
    """

    template_fields: Sequence[str] = ("drill_id", "group", "scenario")

    def __init__(self, *, group: str, scenario: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.group = group
        self.scenario = scenario
        self.check_names(group=group)

    def act(self, context: Context, runtime: Runtime) -> dict[str, Any]:
        from holdfast.engine.pipeline.drills import begin_drill

        drill_id = self.drill(context)
        return begin_drill(
            runtime, self.group, self.scenario, drill_id, self.hook.evidence_folder() / drill_id, say=self.log.info
        )


class InjectFaultOperator(DrillOperator):
    """Sets the scenario's fault."""

    def act(self, context: Context, runtime: Runtime) -> dict[str, Any]:
        from holdfast.engine.pipeline.drills import inject_fault

        return inject_fault(runtime, self.drill(context), self.hook.faults(), say=self.log.info)


class DetectOutageOperator(DrillOperator):
    """Watches the site until the rules call it down."""

    def act(self, context: Context, runtime: Runtime) -> dict[str, Any]:
        from holdfast.engine.pipeline.drills import detect_outage

        return detect_outage(runtime, self.drill(context), say=self.log.info)


class DrillFailOverOperator(DrillOperator):
    """Runs the plan from the decision to a verified answer, in one task: the critical path."""

    def act(self, context: Context, runtime: Runtime) -> dict[str, Any]:
        from holdfast.engine.pipeline.drills import fail_over_in_drill

        return fail_over_in_drill(runtime, self.drill(context), say=self.log.info)


class DrillResumeTrainingOperator(DrillOperator):
    """Resumes the training at the new site."""

    def act(self, context: Context, runtime: Runtime) -> dict[str, Any]:
        from holdfast.engine.pipeline.drills import resume_training_in_drill

        return resume_training_in_drill(runtime, self.drill(context), say=self.log.info)


class LiftFaultOperator(DrillOperator):
    """Takes the fault away; use it as a teardown. Lifting what is not there is no error."""

    def act(self, context: Context, runtime: Runtime) -> dict[str, Any]:
        from holdfast.engine.pipeline.drills import lift_fault

        return lift_fault(runtime, self.drill(context), self.hook.faults(), say=self.log.info)


class ExamineDrillOperator(DrillOperator):
    """Measures the loss, attempts stale writes, waits for the training and compares the model with a reference run."""

    def act(self, context: Context, runtime: Runtime) -> dict[str, Any]:
        from holdfast.engine.pipeline.drills import examine

        return examine(runtime, self.drill(context), say=self.log.info)


class ConcludeDrillOperator(DrillOperator):
    """Scores the drill and writes its signed evidence; then passes or fails by it.

    It runs whatever happened before: a failed drill has evidence too. So that this does not hide the failure, the
    task fails after writing unless the drill is ``completed`` and every one of its verdicts is a pass.

    :returns: ``drill_id``, ``evidence`` (the folder), ``status``, ``verdict``, ``rto_seconds``, ``rpo``.
    """

    def act(self, context: Context, runtime: Runtime) -> dict[str, Any]:
        from holdfast.engine.pipeline.drills import close_drill

        drill_id = self.drill(context)
        folder = self.hook.evidence_folder() / drill_id
        journal = close_drill(runtime, drill_id, folder, say=self.log.info)
        document = journal.as_document()
        result = {
            "drill_id": drill_id,
            "evidence": str(folder),
            **{key: document[key] for key in ("status", "verdict", "rto_seconds", "rpo")},
        }
        if not journal.green:
            context["ti"].xcom_push(key="return_value", value=result)
            raise AirflowFailException(f"The drill is no pass: {result}")
        return result
