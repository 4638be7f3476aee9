# Rejected: has no retries
"""A blip of the network fails it."""

from __future__ import annotations

from airflow.sdk import DAG

with DAG(
    "no_retries",
    description="d",
    schedule=None,
    catchup=False,
    max_active_runs=1,
    doc_md="x" * 100,
    tags=["holdfast", "x"],
    default_args={"owner": "me"},
):
    pass
