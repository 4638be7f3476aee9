"""Back up Airflow's own state."""

from __future__ import annotations

from datetime import timedelta

import pendulum
from airflow.sdk import DAG

from holdfast.hooks.topology import topology_outline
from holdfast.operators.assets import BACKED_UP
from holdfast.operators.vault import BackUpAirflowOperator, BaseBackupOfAirflowOperator

topology = topology_outline()

with DAG(
    dag_id="back_up_airflow",
    description="The metadata database, and what a dump of it lacks, into every vault.",
    schedule="@daily",
    start_date=pendulum.datetime(2026, 1, 1, tz="UTC"),
    catchup=False,
    max_active_runs=1,
    default_args={"owner": "holdfast", "retries": 3, "retry_delay": timedelta(minutes=1)},
    tags=["holdfast", "vault"],
    doc_md="""
    ### Back up Airflow

    Per vault: a consistent dump of the metadata database, checked to its last byte; beside it the configuration without
    its secrets, versions, bundles, and Airflow's keys sealed for whom `airflow_escrow` names. A dump that failed or is
    short makes no backup.

    Airflow keeps tasks away from its database, so the worker needs a URL of its own with a role that may read it:
    `HOLDFAST_AIRFLOW_DATABASE`. Without it the task fails and says so.

    **base_backup**, where the topology describes `airflow.recovery`: a base backup of the whole cluster by pgBackRest,
    on the worker beside it. With the log that the cluster archives, any moment since can be recovered.
    """,
):
    for name in sorted(topology.vaults):
        BackUpAirflowOperator(task_id=f"back_up-{name}", vault=name, outlets=[BACKED_UP])
    if topology.airflow.recovery is not None:
        BaseBackupOfAirflowOperator(task_id="base_backup")
