# Rejected: there is no such group
"""It names a group the topology does not have."""

from __future__ import annotations

from airflow.sdk import DAG

from holdfast.operators.replication import ProtectGroupOperator

with DAG(
    "unknown_group",
    description="d",
    schedule=None,
    catchup=False,
    max_active_runs=1,
    doc_md="x" * 100,
    tags=["holdfast", "x"],
    default_args={"owner": "me", "retries": 1},
):
    ProtectGroupOperator(task_id="protect", group="no-such-group")
