# Rejected: a run timeout would skip the teardown
"""When a run times out Airflow skips every unfinished task, the teardown that lifts the fault included."""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import DAG

from holdfast.operators.drill import LiftFaultOperator, PrepareDrillOperator

with DAG(
    "timeout_skips_teardown",
    description="d",
    schedule=None,
    catchup=False,
    max_active_runs=1,
    dagrun_timeout=timedelta(hours=1),
    doc_md="x" * 100,
    tags=["holdfast", "x"],
    default_args={"owner": "me", "retries": 1},
):
    prepare = PrepareDrillOperator(task_id="prepare", group="market-risk", scenario="site-outage")
    LiftFaultOperator(task_id="lift").as_teardown(setups=prepare, on_failure_fail_dagrun=True)
