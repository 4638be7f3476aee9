# Rejected: may run 16 times at once
"""Two drills at once measure each other."""

from __future__ import annotations

from airflow.sdk import DAG

with DAG(
    "two_at_once",
    description="d",
    schedule=None,
    catchup=False,
    doc_md="x" * 100,
    tags=["holdfast", "x"],
    default_args={"owner": "me", "retries": 1},
):
    pass
