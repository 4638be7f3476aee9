# Rejected: the argument is out of range
"""An operator is given an amount that makes no sense."""

from __future__ import annotations

from airflow.sdk import DAG

from holdfast.operators.training import TrainOperator

with DAG(
    "no_poll",
    description="d",
    schedule=None,
    catchup=False,
    max_active_runs=1,
    doc_md="x" * 100,
    tags=["holdfast", "x"],
    default_args={"owner": "me", "retries": 1},
):
    TrainOperator(task_id="train", group="market-risk", job="volatility", poll_seconds=0)
