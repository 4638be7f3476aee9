# Rejected: has no owner
"""Nobody is called when it fails."""

from __future__ import annotations

from airflow.sdk import DAG

with DAG(
    "no_owner",
    description="d",
    schedule=None,
    catchup=False,
    max_active_runs=1,
    doc_md="x" * 100,
    tags=["holdfast", "x"],
    default_args={"retries": 1},
):
    pass
