"""Lose a site on purpose, and measure what happens."""

from __future__ import annotations

from datetime import timedelta

import pendulum
from airflow.sdk import DAG, AsyncCallback, DeadlineAlert, DeadlineReference, Param, TriggerRule

from holdfast.hooks.topology import topology_outline
from holdfast.notifications.deadline import MissedDeadlineNotifier
from holdfast.operators.drill import (
    SCENARIO_NAMES,
    ConcludeDrillOperator,
    DetectOutageOperator,
    DrillFailOverOperator,
    DrillResumeTrainingOperator,
    ExamineDrillOperator,
    InjectFaultOperator,
    LiftFaultOperator,
    PrepareDrillOperator,
)

topology = topology_outline()
groups = sorted(topology.groups)
# What a drill does besides recovering: its steady state before and after, the training it lets finish, its evidence.
AROUND = timedelta(minutes=5)

DOCS = """
### Failover drill

An experiment: steady state → fault → the same plan as a real failover → steady state → journal. Nothing is
simulated but the fault itself; traffic and training really move to the standby.

**lift** is the teardown of **prepare**: it takes the fault away whatever happened before, also when a task failed
or the run was ended by hand. **examine** measures what was lost, attempts stale writes and compares the finished
model with an uninterrupted run's. **conclude** runs in any case, writes journal, report and signature, and fails
the run unless the drill completed with every verdict a pass. Neither can hide a failure.

The deadline alert is on the RTO plus five minutes for what a drill does besides recovering; the RTO itself is
measured by the drill, four ways, and judged in its journal.

Run it by hand with the form. A group with a `drill_schedule` in the topology has a DAG of its own,
`failover_drill.<group>`, that does the same on that schedule.
"""


def drill_dag(dag_id: str, offered: list[str], schedule: str | None) -> DAG:
    """A drill of the first of the offered groups, unless the form says another."""
    rto = timedelta(seconds=max((topology.groups[name].objectives.rto_seconds for name in offered), default=3600.0))
    objective = f"a drill ends within {(rto + AROUND).total_seconds():g} s: its RTO and what is around it"
    # No dagrun_timeout: at that moment Airflow would skip every unfinished task, the one that lifts the fault included.
    # Each task has a timeout of its own instead.
    with DAG(
        dag_id=dag_id,
        description="Steady state, fault, detection, failover, training, lifting the fault, evidence.",
        schedule=schedule,
        start_date=pendulum.datetime(2026, 1, 1, tz="UTC"),
        catchup=False,
        max_active_runs=1,
        default_args={
            "owner": "holdfast",
            "retries": 1,
            "retry_delay": timedelta(seconds=5),
            "execution_timeout": timedelta(minutes=10),
        },
        tags=["holdfast", "drill"],
        deadline=DeadlineAlert(
            reference=DeadlineReference.DAGRUN_QUEUED_AT,
            interval=rto + AROUND,
            callback=AsyncCallback(MissedDeadlineNotifier, kwargs={"objective": objective}),
            name="rto",
        ),
        params={
            "group": Param(
                offered[0] if offered else None,
                type="string",
                enum=offered,
                title="Protection group",
                description="Whose active site is lost in this drill. Traffic really moves.",
            ),
            "scenario": Param(
                "site-outage",
                type="string",
                enum=list(SCENARIO_NAMES),
                title="Scenario",
                description="What happens to the active site.",
            ),
        },
        doc_md=DOCS,
    ) as dag:
        prepare = PrepareDrillOperator(
            task_id="prepare", group="{{ params.group }}", scenario="{{ params.scenario }}", retries=0
        )
        inject = InjectFaultOperator(task_id="inject")
        detect = DetectOutageOperator(task_id="detect")
        fail_over = DrillFailOverOperator(task_id="fail_over")
        resume = DrillResumeTrainingOperator(task_id="resume_training")
        lift = LiftFaultOperator(task_id="lift", retries=5).as_teardown(setups=prepare, on_failure_fail_dagrun=True)
        examine = ExamineDrillOperator(task_id="examine", execution_timeout=timedelta(minutes=30))
        conclude = ConcludeDrillOperator(task_id="conclude", trigger_rule=TriggerRule.ALL_DONE)
        prepare >> inject >> detect >> fail_over >> resume >> lift >> examine >> conclude
    # Not only through the teardown, which ends well whatever went wrong before it.
    resume >> examine
    return dag


drill_dag("failover_drill", groups, None)
for name in groups:
    if topology.groups[name].drill_schedule:
        drill_dag(f"failover_drill.{name}", [name], topology.groups[name].drill_schedule)
