"""Restore backups into another cloud for proof."""

from __future__ import annotations

from datetime import timedelta

import pendulum
from airflow.sdk import DAG, Param

from holdfast.hooks.topology import topology_outline
from holdfast.operators.vault_restore import RestoreDrillOperator

topology = topology_outline()

DOCS = """
### Restore drill

**drill** restores the newest backup of a dataset or model into a place of its own in *another* cloud, verifies every
object, runs the dataset's expectations, compares rows and schema with what the backup recorded, asks a restored model
the golden questions, measures how long that took (RTO) and how old the content is (RPO), removes what it restored, and
signs the evidence. It fails unless every claim holds; the evidence is there in any case.

One DAG per vault with groups; on the vault's `drill_schedule`, and by hand with the form.
"""


def drill_dag(dag_id: str, vault: str, groups: list[str], schedule: str | None) -> DAG:
    """Drills one vault."""
    with DAG(
        dag_id=dag_id,
        description="Restore into another cloud, check, time, remove, sign.",
        schedule=schedule,
        start_date=pendulum.datetime(2026, 1, 1, tz="UTC"),
        catchup=False,
        max_active_runs=1,
        default_args={"owner": "holdfast", "retries": 1, "execution_timeout": timedelta(hours=6)},
        tags=["holdfast", "vault", "drill"],
        params={
            "group": Param(groups[0], type="string", enum=groups, title="Protection group", description="Whose."),
            "subject": Param(
                "",
                type="string",
                title="Dataset or model",
                description="Whose backup; empty: the group's first dataset.",
            ),
            "target": Param(
                "",
                type="string",
                enum=["", *sorted(topology.sites)],
                title="Site",
                description="Where to restore; empty: the first site in another cloud.",
            ),
        },
        doc_md=DOCS,
    ) as dag:
        RestoreDrillOperator(
            task_id="drill",
            vault=vault,
            group="{{ params.group }}",
            subject="{{ params.subject }}",
            target="{{ params.target }}",
        )
    return dag


for name in sorted(topology.vaults):
    protected = sorted(group for group, settings in topology.groups.items() if name in settings.vaults)
    if protected:
        drill_dag(f"restore_drill.{name}", name, protected, topology.vaults[name].drill_schedule)
