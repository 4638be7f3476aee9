# Rejected: has no documentation
"""Who is on call cannot know what it does."""

from __future__ import annotations

from airflow.sdk import DAG

with DAG(
    "no_docs",
    schedule=None,
    catchup=False,
    max_active_runs=1,
    tags=["holdfast", "x"],
    default_args={"owner": "me", "retries": 1},
):
    pass
