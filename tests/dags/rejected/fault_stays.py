# Rejected: is not lifted by a teardown
"""A drill that fails would leave the cloud cut off."""

from __future__ import annotations

from airflow.sdk import DAG

from holdfast.operators.drill import ConcludeDrillOperator, InjectFaultOperator, LiftFaultOperator

with DAG(
    "fault_stays",
    description="d",
    schedule=None,
    catchup=False,
    max_active_runs=1,
    doc_md="x" * 100,
    tags=["holdfast", "x"],
    default_args={"owner": "me", "retries": 1},
):
    (
        InjectFaultOperator(task_id="inject")
        >> LiftFaultOperator(task_id="lift")
        >> ConcludeDrillOperator(task_id="conclude", trigger_rule="all_done")
    )
