# Rejected: a drill that fails leaves no evidence
"""The evidence is only written when all went well."""

from __future__ import annotations

from airflow.sdk import DAG

from holdfast.operators.drill import (
    ConcludeDrillOperator,
    InjectFaultOperator,
    LiftFaultOperator,
    PrepareDrillOperator,
)

with DAG(
    "failure_without_evidence",
    description="d",
    schedule=None,
    catchup=False,
    max_active_runs=1,
    doc_md="x" * 100,
    tags=["holdfast", "x"],
    default_args={"owner": "me", "retries": 1},
):
    prepare = PrepareDrillOperator(task_id="prepare", group="market-risk", scenario="site-outage")
    lift = LiftFaultOperator(task_id="lift").as_teardown(setups=prepare, on_failure_fail_dagrun=True)
    prepare >> InjectFaultOperator(task_id="inject") >> lift >> ConcludeDrillOperator(task_id="conclude")
