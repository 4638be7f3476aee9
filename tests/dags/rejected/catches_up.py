# Rejected: catches up
"""It would run once for every day since its start."""

from __future__ import annotations

from datetime import datetime

from airflow.sdk import DAG

with DAG(
    "catches_up",
    description="d",
    schedule="@daily",
    start_date=datetime(2020, 1, 1),
    catchup=True,
    max_active_runs=1,
    doc_md="x" * 100,
    tags=["holdfast", "x"],
    default_args={"owner": "me", "retries": 1},
):
    pass
