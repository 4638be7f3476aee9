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
    """Base of a drill's phases.

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
        return self.drill_id or f"drill-{identifier(run.run_after, f'{run.dag_id} {run.run_id}')}"


class PrepareDrillOperator(DrillOperator):
    """Checks everything, takes the group for the drill and measures the steady state. No fault is set here.

    :param group: the protection group. (templated)
    :param scenario: what happens to it. (templated)
    :returns: ``drill_id`` and the steady state.
    """

    template_fields: Sequence[str] = ("drill_id", "group", "scenario")

    def __init__(self, *, group: str, scenario: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.group = group
        self.scenario = scenario
        self.check_names(group=group)

    def act(self, context: Context, runtime: Runtime) -> dict[str, Any]:
        from holdfast.engine.drill import prepare

        state = prepare(runtime, self.group, self.scenario, drill_id=self.drill(context), faults=self.hook.faults())
        return {"drill_id": state.drill_id}


class InjectFaultOperator(DrillOperator):
    """Sets the scenario's fault."""

    def act(self, context: Context, runtime: Runtime) -> Any:
        from holdfast.engine.drill import inject

        return summary(inject(runtime, self.drill(context), faults=self.hook.faults()))


class DetectOutageOperator(DrillOperator):
    """Watches the site until the rules call it down."""

    def act(self, context: Context, runtime: Runtime) -> Any:
        from holdfast.engine.drill import detect

        return summary(detect(runtime, self.drill(context)))


class DrillFailOverOperator(DrillOperator):
    """Runs the plan from the decision to a verified answer, in one task: the critical path."""

    def act(self, context: Context, runtime: Runtime) -> Any:
        from holdfast.engine.drill import fail_over

        return summary(fail_over(runtime, self.drill(context)))


class DrillResumeTrainingOperator(DrillOperator):
    """Resumes the training at the new site and waits for what the scenario wants to see of it."""

    def act(self, context: Context, runtime: Runtime) -> Any:
        from holdfast.engine.drill import resume_training

        return summary(resume_training(runtime, self.drill(context)))


class LiftFaultOperator(DrillOperator):
    """Takes the fault away; use it as a teardown. Lifting what is not there is no error."""

    def act(self, context: Context, runtime: Runtime) -> Any:
        from holdfast.engine.drill import lift

        return summary(lift(runtime, self.drill(context), faults=self.hook.faults()))


class ConcludeDrillOperator(DrillOperator):
    """Measures the steady state again, scores the drill and writes its signed evidence; then passes or fails by it.

    It runs after the teardown, also when a phase failed: a failed drill has evidence too. So that this does not hide
    the failure, the task fails after writing when the drill is not ``completed`` or one of its verdicts is no pass.

    :returns: ``drill_id``, ``status``, ``verdict``, ``rto_seconds``, ``rpo``, ``evidence`` (the folder).
    """

    def act(self, context: Context, runtime: Runtime) -> dict[str, Any]:
        from holdfast.engine.drill import conclude

        drill_id = self.drill(context)
        folder = self.hook.evidence_folder() / drill_id
        journal = conclude(runtime, drill_id, output=folder)
        result = {"drill_id": drill_id, "evidence": str(folder),
                  **{key: journal[key] for key in ("status", "verdict", "rto_seconds", "rpo")}}
        self.log.info("Drill %s: %s", drill_id, result)
        if not journal.passed:
            context["ti"].xcom_push(key="return_value", value=result)
            raise AirflowFailException(f"The drill {journal['status']}; verdicts: {journal['verdict']}. Evidence: {folder}")
        return result


def summary(phase: Any) -> Any:
    """What a phase tells the UI."""
    return phase
