# Rejected: imports at parse: boto3
"""A cloud SDK is imported every time the file is parsed."""

from __future__ import annotations

import boto3  # noqa: F401
from airflow.sdk import DAG

with DAG(
    "cloud_sdk_at_parse",
    description="d",
    schedule=None,
    catchup=False,
    max_active_runs=1,
    doc_md="x" * 100,
    tags=["holdfast", "x"],
    default_args={"owner": "me", "retries": 1},
):
    pass
