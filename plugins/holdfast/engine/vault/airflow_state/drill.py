"""A restore drill of Airflow: its database restored from the vault into a fresh one, and a scheduler at work on it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from holdfast.clock import Clock, SystemClock
from holdfast.engine.vault.airflow_state.command import AirflowCommand
from holdfast.engine.vault.airflow_state.drilling import (
    AirflowDrillReport,
    Drill,
    DrillOptions,
    DrillStep,
    Found,
    Unknown,
)
from holdfast.engine.vault.airflow_state.inventory import Inventory, differences, look_at
from holdfast.engine.vault.airflow_state.keys import open_escrow
from holdfast.engine.vault.airflow_state.restoring import Beside, read_beside, restore_dump
from holdfast.engine.vault.airflow_state.scratch import ScratchPostgres
from holdfast.engine.vault.airflow_state.urls import parse_url
from holdfast.engine.vault.backups import Backup
from holdfast.engine.vault.recipients import Recipient
from holdfast.engine.vault.vault import Vault
from holdfast.errors import HoldfastError

STEPS = ("read", "keys", "server", "restore", "migrations", "canary", "counts", "reconcile", "run")


def restore_drill_airflow(
    vault: Vault,
    backup: Backup,
    *,
    command: AirflowCommand,
    escrow_recipients: Sequence[Recipient] = (),
    options: DrillOptions | None = None,
    clock: Clock | None = None,
) -> AirflowDrillReport:
    """Restore a backup of Airflow into a fresh database and let a scheduler run a DAG on it.

    Nothing of the installation's configuration is used: no remote logs, no secrets backend, no DAGs, no plugins. Every
    restored DAG is paused, and what would send messages is removed from the copy. Everything is removed in the end.

    Args:
        vault: opened by a reader.
        command: an installation of the Airflow version that was backed up.
        escrow_recipients: who can open Airflow's keys.

    Returns:
        A report, also where a step failed.
    """
    return _RestoreDrill(
        command,
        options or DrillOptions(),
        clock or SystemClock(),
        vault=vault,
        backup=backup,
        recipients=escrow_recipients,
    ).run()


@dataclass(kw_only=True)
class _RestoreDrill(Drill):
    vault: Vault
    backup: Backup
    recipients: Sequence[Recipient] = ()
    beside: Beside | None = field(default=None, repr=False)

    steps: ClassVar = STEPS
    needs: ClassVar = {
        "keys": ("read",),
        "server": ("read",),
        "restore": ("read", "server"),
        "migrations": ("restore",),
        "canary": ("restore", "keys"),
        "counts": ("restore",),
        "reconcile": ("restore",),
        "run": ("migrations", "reconcile"),
    }

    def report(self, steps: tuple[DrillStep, ...]) -> AirflowDrillReport:
        inventory = None if self.beside is None else self.beside.inventory
        return AirflowDrillReport(
            self.backup.backup_id,
            self.backup.taken_at,
            None if inventory is None else f"{inventory.database.kind} {inventory.database.server}",
            None if inventory is None else inventory.airflow,
            steps,
        )

    def step_read(self) -> Found:
        self.beside = read_beside(self.vault, self.backup)
        database = self._inventory.database
        return f"an inventory of {len(database.tables)} tables", {"counts": database.counts}

    @property
    def _inventory(self) -> Inventory:
        assert self.beside is not None
        return self.beside.inventory

    def step_keys(self) -> Found:
        sealed = None if self.beside is None else self.beside.keys
        if sealed is None:
            raise Unknown("the backup has no keys in escrow")
        if not self.recipients:
            raise Unknown("nobody who can open the escrow was given")
        self.opened = open_escrow(sealed, self.recipients, f"{self.vault.name}: {self.backup.backup_id}")
        return f"{', '.join(self.opened.names)} taken from the escrow", {"keys": list(self.opened.names)}

    def step_server(self) -> Found:
        if self._inventory.database.kind == "sqlite":
            self.url = f"sqlite:///{self.folder.resolve()}/restored.db"
            return "an SQLite file of its own", {}
        server = self.stack.enter_context(
            ScratchPostgres(
                self.programs,
                lifetime_seconds=self.lifetime_seconds,
                clock=self.clock,
            )
        )
        server.initialise()
        server.start()
        server.create_database("airflow")
        self.url = server.url_text("airflow")
        return f"a PostgreSQL server of its own, pid {server.pid}", {"pid": server.pid}

    def step_restore(self) -> Found:
        timeout = self.options.restore_timeout_seconds
        restore_dump(self.vault, self.backup, self._inventory, parse_url(self.url), self.programs, timeout)
        return f"{self.backup.size_bytes} bytes", {"size_bytes": self.backup.size_bytes}

    def step_counts(self) -> Found:
        expected = self._inventory.database
        with self.session() as session:
            found = look_at(
                session,
                kind=expected.kind,
                place=expected.place,
                server=expected.server,
                configuration=self._inventory.configuration,
            )
        told = differences(expected, found)
        if told:
            raise HoldfastError("the restored database is another", expected="the inventory's", found="; ".join(told))
        return f"all {len(expected.tables)} tables have the rows of the inventory", {"counts": found.counts}
