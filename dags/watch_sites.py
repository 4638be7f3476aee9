"""Watch the active site of every group; start a failover when one is down."""

from __future__ import annotations

from datetime import timedelta

import pendulum
from airflow.providers.standard.operators.trigger_dagrun import TriggerDagRunOperator
from airflow.sdk import DAG, TaskGroup

from holdfast.hooks.topology import topology_outline
from holdfast.sensors.health import SiteDownSensor

topology = topology_outline()

with DAG(
    dag_id="watch_sites",
    description="A deferred watch per group, without a pause between two runs.",
    schedule="@continuous",
    start_date=pendulum.datetime(2026, 1, 1, tz="UTC"),
    catchup=False,
    max_active_runs=1,
    default_args={"owner": "holdfast", "retries": 3, "retry_delay": timedelta(seconds=5)},
    tags=["holdfast", "health"],
    doc_md="""
    ### Watch the sites

    One deferred task per protection group looks at the group's active site every few seconds from the triggerer, where
    it costs no worker. A run ends after fifteen minutes, and the next one begins at once.

    A site that is **down by the rules** of its group (K failures in a row, from N vantage points, for a minimum time,
    by two independent kinds of signal, seen by a detector that itself sees a majority) starts **fail_over**: where
    the group's policy is `automatic` the rules decide there, else that DAG waits for a person. At most one run per
    group, epoch and hour is started, and none while a plan or a drill has the group.
    """,
):
    for group in topology.groups:
        with TaskGroup(group_id=group):
            down = SiteDownSensor(task_id="down", group=group)
            found = f"ti.xcom_pull('{group}.down')"
            start_failover = TriggerDagRunOperator(
                task_id="start_failover",
                trigger_dag_id="fail_over",
                trigger_run_id=f"watch__{group}__{{{{ {found}['epoch'] }}}}__{{{{ {found}['since'][:13] }}}}",
                skip_when_already_exists=True,
                conf={
                    "group": group,
                    "reason": f"{{{{ {found}['site'] }}}} is down: {{{{ {found}['reasons'][:300] }}}}",
                },
            )
            down >> start_failover
