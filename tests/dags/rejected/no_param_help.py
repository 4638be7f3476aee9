# Rejected: has no description
"""The form asks for something and does not say what."""

from __future__ import annotations

from airflow.sdk import DAG, Param

with DAG(
    "no_param_help",
    description="d",
    schedule=None,
    catchup=False,
    max_active_runs=1,
    doc_md="x" * 100,
    tags=["holdfast", "x"],
    default_args={"owner": "me", "retries": 1},
    params={"group": Param("x", type="string")},
):
    pass
