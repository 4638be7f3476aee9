# Rejected: parses in
"""It works while it is parsed."""

from __future__ import annotations

import time

from airflow.sdk import DAG

time.sleep(1.1)
with DAG(
    "slow_parse",
    description="d",
    schedule=None,
    catchup=False,
    max_active_runs=1,
    doc_md="x" * 100,
    tags=["holdfast", "x"],
    default_args={"owner": "me", "retries": 1},
):
    pass
