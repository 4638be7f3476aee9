"""Collect audit events of every cloud and of Airflow, and seal them at two clouds."""

from __future__ import annotations

from datetime import timedelta

import pendulum
from airflow.sdk import DAG

from holdfast.hooks.topology import topology_outline
from holdfast.notifications.audit import AuditFindingNotifier, AuditProblemNotifier
from holdfast.operators.assets import ledger_asset
from holdfast.operators.audit import ExportAuditOperator

audit = topology_outline().audit

DOCS = """
### Export audit events

**export** asks every source of the topology's `audit` for what is new, normalises it to OCSF, and seals it into the
ledger at two clouds or more, under lock where one is wanted. A source that cannot be read is sealed as *unknown*, and
asked again by the next run: the task fails only when nothing can be sealed, or in one cloud alone. A site that lacks
the seal, or has it unlocked though a lock was asked for, is recorded beside the drills' evidence. **verify_exports**
says what is missing.
"""

if audit is not None:
    with DAG(
        dag_id="export_audit",
        description="Audit events of every cloud and of Airflow, normalised and sealed.",
        schedule=audit.export_schedule,
        start_date=pendulum.datetime(2026, 1, 1, tz="UTC"),
        catchup=False,
        max_active_runs=1,
        default_args={"owner": "holdfast", "retries": 3, "retry_delay": timedelta(seconds=30)},
        tags=["holdfast", "audit"],
        doc_md=DOCS,
    ):
        ExportAuditOperator(
            task_id="export",
            outlets=[ledger_asset(audit.origin)],
            on_failure_callback=AuditFindingNotifier(what="Audit events could not be sealed"),
            on_success_callback=AuditProblemNotifier(what="Audit events are sealed, and not all that was asked"),
        )
