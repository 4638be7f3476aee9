"""Airflow's own state back for real: its database into an empty one, its keys out of the escrow."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

from holdfast.engine.pipeline.vaults.airflow import airflow_backup, escrow_recipients
from holdfast.engine.pipeline.vaults.opening import opened
from holdfast.engine.pipeline.vaults.restoring import refuse_guess
from holdfast.engine.runtime import Runtime
from holdfast.engine.vault.airflow_state.inventory import Inventory
from holdfast.engine.vault.airflow_state.keys import AirflowKeys, open_escrow
from holdfast.engine.vault.airflow_state.reconcile import Reconciled
from holdfast.engine.vault.airflow_state.restoring import Beside, read_beside, restore_airflow_database
from holdfast.engine.vault.backups import Backup
from holdfast.engine.vault.errors import WrongKey
from holdfast.engine.vault.vault import Vault
from holdfast.errors import ConfigError


@dataclass(frozen=True)
class RestoredAirflow:
    """What was restored."""

    backup: Backup
    inventory: Inventory
    reconciled: Reconciled


def restored_airflow(
    runtime: Runtime, vault: str, url: str, *, backup: str | None = None, vault_site: str | None = None
) -> RestoredAirflow:
    """Restore the metadata database, and make it fit for a scheduler.

    Args:
        url: of an empty PostgreSQL database, or of an SQLite file that is not there.
        backup: its id; by default the newest.
        vault_site: read from this mirror instead of the vault's own site.

    Raises:
        Refused: the database is not empty; nothing was changed.
        CommandFailed, Damaged: it could not be restored; the database is as empty as it was.
        NotReconciled: PostgreSQL was restored and not reconciled; until it is, its user cannot write by default.
        UnknownBackup, WrongKey, ConfigError, RolledBack, HistoryDamaged.
    """
    found, chosen = _chosen(runtime, vault, backup, vault_site)
    done = restore_airflow_database(found, chosen, url)
    return RestoredAirflow(chosen, done.inventory, done.reconciled)


def opened_keys(
    runtime: Runtime, vault: str, *, backup: str | None = None, vault_site: str | None = None
) -> AirflowKeys:
    """Airflow's keys of a backup, by the escrow's recipients. Raises UnknownBackup, WrongKey, ConfigError."""
    found, chosen = _chosen(runtime, vault, backup, vault_site)
    beside: Beside = read_beside(found, chosen)
    if beside.keys is None:
        raise WrongKey(
            "the backup has no keys in escrow",
            where=f"{vault}: {chosen.backup_id}",
            expected="Airflow's keys",
            found="none",
            fix=f"Name who may open them: vaults.{vault}.airflow_escrow",
        )
    return open_escrow(beside.keys, escrow_recipients(runtime, vault), f"{vault}: {chosen.backup_id}")


def written_keys(keys: AirflowKeys, file: Path) -> None:
    """Write keys as JSON by name, for this user alone. Raises ConfigError: the file is there, or cannot be made."""
    try:
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        raise ConfigError("the file cannot be made", where=str(file), found=str(error.strerror)) from None
    with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
        json.dump({name: getattr(keys, name) for name in keys.names}, stream, indent=2)
        stream.write("\n")


def _chosen(runtime: Runtime, vault: str, backup: str | None, vault_site: str | None) -> tuple[Vault, Backup]:
    found = opened(runtime, vault, "reader", site=vault_site)
    refuse_guess(found, backup, vault_site)
    return found, airflow_backup(found, backup)
