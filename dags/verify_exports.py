"""Read sealed exports back from the ledger's sites, and verify them as an auditor does."""

from __future__ import annotations

from datetime import timedelta

import pendulum
from airflow.sdk import DAG

from holdfast.hooks.topology import topology_outline
from holdfast.notifications.audit import AuditFindingNotifier
from holdfast.operators.assets import verified_asset
from holdfast.operators.audit import VerifyExportsOperator

audit = topology_outline().audit

DOCS = """
### Verify exports

**verify** fetches the exports since its last run from one of the ledger's sites, each site in turn, and verifies them:
signatures, every byte, every event's place in the log, that the log only grew, and that no source has a gap. It fails
with the first thing that is not so, and its notifier records it. What is late may be so for a day.
"""

if audit is not None:
    with DAG(
        dag_id="verify_exports",
        description="Signatures, bytes, log and coverage of the sealed exports, read back from their sites.",
        schedule=audit.verify_schedule,
        start_date=pendulum.datetime(2026, 1, 1, tz="UTC"),
        catchup=False,
        max_active_runs=1,
        default_args={"owner": "holdfast", "retries": 2, "retry_delay": timedelta(seconds=30)},
        tags=["holdfast", "audit"],
        doc_md=DOCS,
    ):
        VerifyExportsOperator(
            task_id="verify",
            outlets=[verified_asset(audit.origin)],
            on_failure_callback=AuditFindingNotifier(what="A sealed export does not verify, or lacks events"),
        )
