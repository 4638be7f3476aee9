"""Restore a dataset or model from a vault, live, after a person agreed."""

from __future__ import annotations

from datetime import timedelta

import pendulum
from airflow.sdk import DAG, Param

from holdfast.hooks.topology import topology_outline, vaults_by_dag
from holdfast.operators.vault_restore import ApproveRestoreOperator, RestoreBackupOperator, RestoreLiveOperator

topology = topology_outline()
groups = sorted(name for name, group in topology.groups.items() if group.vaults)
sources = sorted({*topology.datasets, *(job.model for job in topology.training.values())})
DEFAULTS = {"owner": "holdfast", "retries": 2, "retry_delay": timedelta(seconds=30)}
START = pendulum.datetime(2026, 1, 1, tz="UTC")


def common(offered: list[str]) -> dict[str, Param]:
    """What both forms ask."""
    return {
        "vault": Param(
            offered[0] if offered else None, type="string", enum=offered, title="Vault", description="From which."
        ),
        "source": Param(
            sources[0] if sources else None,
            type="string",
            enum=sources,
            title="Dataset or model",
            description="Whose backup.",
        ),
        "backup": Param(
            "",
            type="string",
            pattern="^([0-9a-f]{4,32}|entry:[0-9]{1,12})?$",
            title="Backup",
            description="Its id, how that begins, or its entry as entry:17; empty: the newest.",
        ),
        "at": Param(
            "",
            type="string",
            title="Point in time",
            description="The newest backup whose content is not newer than this, e.g. 2026-11-01T00:00:00; empty: now.",
        ),
        "mirror": Param(
            "",
            type="string",
            enum=["", *sorted({site for vault in topology.vaults.values() for site in vault.mirrors})],
            title="Mirror",
            description="Read from this mirror, when the vault's own cloud is gone.",
        ),
    }


def restore_dag(suffix: str, offered: list[str]) -> None:
    """Restores below a prefix."""
    vault = offered[0] if len(offered) == 1 else "{{ params.vault }}"
    with DAG(
        dag_id=f"restore{suffix}",
        description="A backup below a prefix of a site, verified; nothing that is there is overwritten.",
        schedule=None,
        start_date=START,
        catchup=False,
        max_active_runs=1,
        default_args=DEFAULTS,
        tags=["holdfast", "vault"],
        params={
            **common(offered),
            "site": Param(
                sorted(topology.sites)[0],
                type="string",
                enum=sorted(topology.sites),
                title="Site",
                description="Where to.",
            ),
            "prefix": Param(
                "restored",
                type="string",
                minLength=1,
                title="Prefix",
                description="Folder in the site's bucket; one of its own, not where live data lies.",
            ),
            "paths": Param(
                "", type="string", title="Paths", description="Only these and below, comma-separated; empty: all."
            ),
        },
        doc_md="""
        ### Restore

        **restore** writes a backup, or some of its paths, below a prefix of a site, each object verified before it is
        there. Broken off, run it again with the same prefix: it goes on. Data whose residency class forbids the site is
        refused.
        """,
    ):
        RestoreBackupOperator(
            task_id="restore",
            vault=vault,
            site="{{ params.site }}",
            prefix="{{ params.prefix }}",
            source="{{ params.source }}",
            backup="{{ params.backup }}",
            at="{{ params.at }}",
            paths="{{ params.paths }}",
            mirror="{{ params.mirror }}",
        )


def restore_live_dag(suffix: str, offered: list[str]) -> None:
    """Restores live, after a person agreed."""
    vault = offered[0] if len(offered) == 1 else "{{ params.vault }}"
    with DAG(
        dag_id=f"restore_live{suffix}",
        description="A backup as the newest snapshot at the active site, after a person agreed.",
        schedule=None,
        start_date=START,
        catchup=False,
        max_active_runs=1,
        default_args=DEFAULTS,
        tags=["holdfast", "vault"],
        params={
            **common(offered),
            "group": Param(
                groups[0] if groups else None,
                type="string",
                enum=groups,
                title="Protection group",
                description="Whose active site.",
            ),
            "reason": Param(
                "started by hand",
                type="string",
                minLength=3,
                maxLength=200,
                title="Reason",
                description="Why; it is kept.",
            ),
        },
        doc_md="""
        ### Restore live

        **approve** finds the backup and waits for a person under *Required actions*, with what it would take the place
        of; no answer within an hour is a rejection. Where the group's `four_eyes` is set, whoever started the run
        cannot approve it. **restore** writes it at the group's active site, beside what is there, reads it back, and
        publishes it as the newest snapshot. History is not rewritten: the snapshot it takes the place of stays. The
        other sites get it with the next sync.
        """,
    ):
        approve = ApproveRestoreOperator(
            task_id="approve",
            vault=vault,
            group="{{ params.group }}",
            source="{{ params.source }}",
            backup="{{ params.backup }}",
            at="{{ params.at }}",
            reason="{{ params.reason }}",
            mirror="{{ params.mirror }}",
            response_timeout=timedelta(hours=1),
        )
        approve >> RestoreLiveOperator(
            task_id="restore",
            vault=vault,
            group="{{ params.group }}",
            source="{{ params.source }}",
            backup="{{ ti.xcom_pull('approve')['backup'] }}",
            reason="{{ params.reason }}",
            mirror="{{ params.mirror }}",
        )


for dag_suffix, choices in vaults_by_dag(topology):
    restore_dag(dag_suffix, choices)
    restore_live_dag(dag_suffix, choices)
