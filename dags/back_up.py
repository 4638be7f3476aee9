"""Back up the datasets and models of every group that has a vault."""

from __future__ import annotations

from datetime import timedelta

import pendulum
from airflow.sdk import DAG, Param

from holdfast.hooks.topology import topology_outline, vaults_by_dag
from holdfast.operators.assets import BACKED_UP
from holdfast.operators.vault import BackUpGroupOperator, GroupsOfVaultOperator

topology = topology_outline()

DOCS = """
### Back up

**groups** names the protection groups whose backups lie in this vault; **back_up** runs once for each: the newest
snapshot of every dataset and model at the site that is active now, whatever did not change neither read nor stored
again. Each backup is witnessed at other sites, looked at once more, and copied to the vault's mirrors. The vault's
asset gets an event with the new backups.

A dataset whose residency class forbids the vault's site is refused before a byte moves. A stopped task leaves nothing
to unlock: run it again.

By hand, with the form; a vault with a `backup_schedule` has a DAG of its own, `back_up.<vault>`, and so has each where
their `queues` differ.
"""


def backup_dag(dag_id: str, offered: list[str], schedule: str | None) -> DAG:
    """Backs up into the first of the offered vaults, unless the form says another."""
    vault = offered[0] if len(offered) == 1 else "{{ params.vault }}"
    with DAG(
        dag_id=dag_id,
        description="The newest snapshots of each group into its vault; witnessed, checked, mirrored.",
        schedule=schedule,
        start_date=pendulum.datetime(2026, 1, 1, tz="UTC"),
        catchup=False,
        max_active_runs=1,
        default_args={"owner": "holdfast", "retries": 3, "retry_delay": timedelta(seconds=30)},
        tags=["holdfast", "vault"],
        params={
            "vault": Param(
                offered[0] if offered else None,
                type="string",
                enum=offered,
                title="Vault",
                description="Where to.",
            ),
            "tier": Param(
                "daily",
                type="string",
                enum=["hourly", "daily", "weekly", "monthly", "yearly"],
                title="Retention tier",
                description="What is new is locked for this tier's period, where the store can lock.",
            ),
        },
        doc_md=DOCS,
    ) as dag:
        groups = GroupsOfVaultOperator(task_id="groups", vault=vault)
        BackUpGroupOperator.partial(
            task_id="back_up",
            vault=vault,
            tier="{{ params.tier }}",
            **BackUpGroupOperator.on_queue(vault),
            outlets=[BACKED_UP],
            map_index_template="{{ task.group }}",
        ).expand(group=groups.output)
    return dag


for suffix, offered in vaults_by_dag(topology):
    if not suffix:
        backup_dag("back_up", offered, None)
for name, settings in sorted(topology.vaults.items()):
    if settings.backup_schedule or len(vaults_by_dag(topology)) > 1:
        backup_dag(f"back_up.{name}", [name], settings.backup_schedule)
