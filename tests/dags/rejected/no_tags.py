# Rejected: has no tags
"""Nobody finds it."""

from __future__ import annotations

from airflow.sdk import DAG

with DAG(
    "no_tags",
    description="d",
    schedule=None,
    catchup=False,
    max_active_runs=1,
    doc_md="x" * 100,
    default_args={"owner": "me", "retries": 1},
):
    pass
