"""Look at every site's security posture, and at where every copy of the data lies."""

from __future__ import annotations

from datetime import timedelta

import pendulum
from airflow.sdk import DAG

from holdfast.hooks.topology import topology_outline
from holdfast.notifications.audit import AuditFindingNotifier
from holdfast.operators.assets import POSTURE, RESIDENCY
from holdfast.operators.posture import CheckPostureOperator, CheckResidencyOperator

audit = topology_outline().audit

DOCS = """
### Check posture

**posture** looks at encryption, locks, public access, logins, privileges and audit trails of every site, and mends
nothing. **residency** walks all sites and judges every copy that exists by the policies of today. What they find is
sealed by the next `export_audit`. A task fails when something is not as it should be, and its notifier records it; what
could not be looked at is recorded as unknown.
"""

if audit is not None:
    with DAG(
        dag_id="check_posture",
        description="Findings on every site's posture, and a proof of residency over every copy.",
        schedule=audit.posture_schedule,
        start_date=pendulum.datetime(2026, 1, 1, tz="UTC"),
        catchup=False,
        max_active_runs=1,
        default_args={"owner": "holdfast", "retries": 1, "retry_delay": timedelta(seconds=30)},
        tags=["holdfast", "audit"],
        doc_md=DOCS,
    ):
        CheckPostureOperator(
            task_id="posture",
            outlets=[POSTURE],
            on_failure_callback=AuditFindingNotifier(what="A site is not set up as it should be"),
        )
        CheckResidencyOperator(
            task_id="residency",
            outlets=[RESIDENCY],
            on_failure_callback=AuditFindingNotifier(what="Data lies where it may not"),
        )
