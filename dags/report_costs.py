"""Report what standing by, moving bytes and drills cost, from the clouds' own bills."""

from __future__ import annotations

from datetime import timedelta

import pendulum
from airflow.sdk import DAG, Param

from holdfast.hooks.topology import topology_outline
from holdfast.operators.assets import COSTS
from holdfast.operators.cost import ReportCostsOperator

topology = topology_outline()

DOCS = """
### Report costs

**report** reads the FOCUS exports of the topology's `cost` section for one billing period (by default the last month),
and writes `costs/<period>/` in the evidence folder: the report (standby by tier and site, egress per dataset, drills,
minutes of RPO and RTO, advice with its lines) and standby and drills as a FOCUS 1.2 dataset. It fails when a bill is
missing, damaged or cannot be read: what is unknown is not zero. **month_to_date** does the same of the running month,
whose bill is not final and may not have come yet.
"""

if topology.cost is not None:
    with DAG(
        dag_id="report_costs",
        description="Standby, egress and drill cost from the clouds' FOCUS exports.",
        schedule=topology.cost.schedule,
        start_date=pendulum.datetime(2026, 1, 1, tz="UTC"),
        catchup=False,
        max_active_runs=1,
        default_args={"owner": "holdfast", "retries": 2, "retry_delay": timedelta(minutes=5)},
        tags=["holdfast", "cost"],
        params={
            "period": Param(
                "last",
                type="string",
                pattern=r"^(last|this|\d{4}-(0[1-9]|1[0-2]))$",
                title="Billing period",
                description="`last` month, `this` month, or one as 2026-10.",
            ),
        },
        doc_md=DOCS,
    ) as dag:
        ReportCostsOperator(task_id="report", period="{{ params.period }}", outlets=[COSTS])
        ReportCostsOperator(task_id="month_to_date", period="this", require_known=False)
