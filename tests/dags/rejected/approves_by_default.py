# Rejected: is not rejected when nobody answers
"""Silence would approve a failover."""

from __future__ import annotations

from datetime import timedelta

from airflow.providers.standard.operators.hitl import ApprovalOperator
from airflow.sdk import DAG

with DAG(
    "approves_by_default",
    description="d",
    schedule=None,
    catchup=False,
    max_active_runs=1,
    doc_md="x" * 100,
    tags=["holdfast", "x"],
    default_args={"owner": "me", "retries": 1},
):
    ApprovalOperator(task_id="approve", subject="?", defaults="Approve", response_timeout=timedelta(hours=1))
