"""Read backups back, forget and collect, and say when the newest verified one is too old."""

from __future__ import annotations

from datetime import timedelta

import pendulum
from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import DAG, Param, TriggerRule

from holdfast.hooks.topology import topology_outline
from holdfast.notifications.recovery_point import StaleRecoveryPointNotifier
from holdfast.operators.vault import (
    CheckRecoveryPointsOperator,
    NoteVerificationOperator,
    RenewLocksOperator,
    RetainBackupsOperator,
    VerifyBackupsOperator,
)

topology = topology_outline()

DOCS = """
### Verify backups

**verify** reads the packs that are due: in the vault's `verify_days` every one is read and opened once. What is wrong
fails the task and is named, with every object that cannot be restored for it; **verify-(mirror)** does the same of each
mirror, with a schedule of its own. **note** signs what was found whole: it has the writer's key, and **verify** the
reader's; it fails when what restores lacks a part of what makes it survive the next loss, such as a share. **retain**
forgets what the topology's `keep` does not keep, and collects what no backup needs any more; it runs only after a
verification that found nothing wrong. **lock**, of a vault with `lock_days`, renews the locks of all that still counts,
whatever the others found, and fails with what is not locked. **check** runs in any case, and fails when the newest
verified backup of a dataset or model is too old; its notifier records it. **outcome** is the run's: it succeeds when
all of them did.

One DAG per vault with a `verify_schedule`, `verify_backups.<vault>`; by hand the depth can be chosen.
"""


def verify_dag(dag_id: str, vault: str, schedule: str | None) -> DAG:
    """Looks after one vault."""
    with DAG(
        dag_id=dag_id,
        description="Sampled decryption that covers everything in a set time; retention; age of the recovery points.",
        schedule=schedule,
        start_date=pendulum.datetime(2026, 1, 1, tz="UTC"),
        catchup=False,
        max_active_runs=1,
        default_args={"owner": "holdfast", "retries": 2, "retry_delay": timedelta(seconds=30)},
        tags=["holdfast", "vault"],
        params={
            "depth": Param(
                "sample",
                type="string",
                enum=["structure", "sample", "full"],
                title="Depth",
                description="`structure`: all is there. `sample`: what is due opens. `full`: every byte is right.",
            ),
        },
        doc_md=DOCS,
    ) as dag:
        depth = "{{ params.depth }}"
        verify = VerifyBackupsOperator(task_id="verify", vault=vault, depth=depth, note=False)
        note = NoteVerificationOperator(task_id="note", vault=vault, verification=verify.output)
        retain = RetainBackupsOperator(task_id="retain", vault=vault)
        verify >> retain
        # What runs in any case would else be the last, and its success the run's.
        outcome = EmptyOperator(task_id="outcome")
        [note, retain] >> outcome
        for mirror in topology.vaults[vault].mirrors:
            at = {"vault": vault, "mirror": mirror}
            of_mirror = VerifyBackupsOperator(task_id=f"verify-{mirror}", depth=depth, note=False, **at)
            NoteVerificationOperator(task_id=f"note-{mirror}", verification=of_mirror.output, **at) >> outcome
        if topology.vaults[vault].lock_days:
            # After retention, so that what was just forgotten is not locked for another period; in any case.
            retain >> RenewLocksOperator(task_id="lock", vault=vault, trigger_rule=TriggerRule.ALL_DONE) >> outcome
        for group, settings in topology.groups.items():
            if vault in settings.vaults:
                check = CheckRecoveryPointsOperator(
                    task_id=f"check-{group}",
                    vault=vault,
                    group=group,
                    retries=0,
                    trigger_rule=TriggerRule.ALL_DONE,  # too old is too old, whatever else is wrong
                    on_failure_callback=StaleRecoveryPointNotifier(vault=vault, group=group),
                )
                note >> check >> outcome
    return dag


for name in sorted(topology.vaults):
    verify_dag(f"verify_backups.{name}", name, topology.vaults[name].verify_schedule)
