"""A restore drill of Airflow: its database restored from the vault into a fresh server, and a scheduler at work on it.

A step that could not be judged is unknown, and a drill passes only when every step passed.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from holdfast.clock import Clock, SystemClock
from holdfast.engine.snapshot.documents import iso_utc
from holdfast.engine.vault.airflow_state.canary_run import ScratchAirflow
from holdfast.engine.vault.airflow_state.command import AirflowCommand
from holdfast.engine.vault.airflow_state.fernet import cannot_open
from holdfast.engine.vault.airflow_state.inventory import Inventory, differences, encrypted_rows, look_at
from holdfast.engine.vault.airflow_state.keys import AirflowKeys, open_escrow
from holdfast.engine.vault.airflow_state.programs import find_programs
from holdfast.engine.vault.airflow_state.reconcile import reconcile
from holdfast.engine.vault.airflow_state.restoring import Beside, read_beside, restore_dump
from holdfast.engine.vault.airflow_state.scratch import ScratchPostgres
from holdfast.engine.vault.airflow_state.sessions import Session, open_session
from holdfast.engine.vault.airflow_state.urls import parse_url
from holdfast.engine.vault.backups import Backup
from holdfast.engine.vault.recipients import Recipient
from holdfast.engine.vault.vault import Vault
from holdfast.errors import HoldfastError

Outcome = Literal["passed", "failed", "unknown"]
#: In order; each needs those before it that `_NEEDS` names.
STEPS = ("read", "keys", "server", "restore", "migrations", "canary", "counts", "reconcile", "run")
_NEEDS = {
    "keys": ("read",),
    "server": ("read",),
    "restore": ("read", "server"),
    "migrations": ("restore",),
    "canary": ("restore", "keys"),
    "counts": ("restore",),
    "reconcile": ("restore",),
    "run": ("migrations", "reconcile"),
}


@dataclass(frozen=True)
class DrillOptions:
    """How to drill.

    Args:
        postgres_programs: the folder of PostgreSQL's programs, the server's among them.
        restore_timeout_seconds, run_timeout_seconds: for the restore, and for a scheduler to run a DAG.
        folder: where the drill works; a temporary one by default.
        progress: told the name of each step as it begins.
    """

    postgres_programs: Path | None = None
    restore_timeout_seconds: float = 4 * 3600.0
    run_timeout_seconds: float = 300.0
    folder: Path | None = None
    progress: Callable[[str], None] = lambda _step: None


@dataclass(frozen=True)
class DrillStep:
    """One step.

    Args:
        seconds: what it took, 0 where it was not reached.
        reason: why it did not pass, or what it found.
    """

    name: str
    outcome: Outcome
    seconds: float
    reason: str
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class AirflowDrillReport:
    """What a drill found.

    Args:
        rto_seconds: from the start to the success of a DAG run by the restored Airflow; ``None``: it did not succeed.
        rpo_seconds: the age of the backup's content at the start.
    """

    backup_id: str
    source: str
    taken_at: datetime
    started_at: datetime
    rpo_seconds: float
    rto_seconds: float | None
    database: str | None
    airflow: str | None
    steps: tuple[DrillStep, ...]

    @property
    def passed(self) -> bool:
        """Every step did; what is not known is no pass."""
        return all(step.outcome == "passed" for step in self.steps) and self.rto_seconds is not None

    def to_dict(self) -> dict[str, Any]:
        """For evidence, and for `--json`."""
        return {
            "kind": "airflow-restore-drill",
            "backup": self.backup_id,
            "source": self.source,
            "passed": self.passed,
            "taken_at": iso_utc(self.taken_at),
            "started_at": iso_utc(self.started_at),
            "rpo_seconds": self.rpo_seconds,
            "rto_seconds": self.rto_seconds,
            "database": self.database,
            "airflow": self.airflow,
            "steps": [
                {
                    "name": step.name,
                    "outcome": step.outcome,
                    "seconds": step.seconds,
                    "reason": step.reason,
                    "facts": step.facts,
                }
                for step in self.steps
            ],
        }


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
    return _Drill(vault, backup, command, escrow_recipients, options or DrillOptions(), clock or SystemClock()).run()


class _Unknown(Exception):
    """A step cannot be judged."""


@dataclass
class _Drill:
    vault: Vault
    backup: Backup
    command: AirflowCommand
    recipients: Sequence[Recipient]
    options: DrillOptions
    clock: Clock
    beside: Beside | None = None
    opened: AirflowKeys = field(default_factory=AirflowKeys)

    def run(self) -> AirflowDrillReport:
        started_at, start = self.clock.now(), self.clock.monotonic()
        steps: list[DrillStep] = []
        rto: float | None = None
        with ExitStack() as self._stack:
            self._folder = Path(tempfile.mkdtemp(prefix="holdfast-drill-", dir=self.options.folder))
            self._stack.callback(shutil.rmtree, self._folder, ignore_errors=True)
            for name in STEPS:
                steps.append(self._step(name, steps))
                if name == "run" and steps[-1].outcome == "passed":
                    rto = self.clock.monotonic() - start
        inventory = None if self.beside is None else self.beside.inventory
        return AirflowDrillReport(
            self.backup.backup_id,
            self.backup.source,
            self.backup.taken_at,
            started_at,
            (started_at - self.backup.taken_at).total_seconds(),
            rto,
            None if inventory is None else f"{inventory.database.kind} {inventory.database.server}",
            None if inventory is None else inventory.airflow,
            tuple(steps),
        )

    def _step(self, name: str, before: Sequence[DrillStep]) -> DrillStep:
        passed = {step.name for step in before if step.outcome == "passed"}
        lacking = [needed for needed in _NEEDS.get(name, ()) if needed not in passed]
        if lacking:
            return DrillStep(name, "unknown", 0.0, f"not reached: {', '.join(lacking)} did not pass")
        self.options.progress(name)
        begun = self.clock.monotonic()
        outcome: Outcome = "passed"
        facts: dict[str, Any] = {}
        try:
            reason, facts = getattr(self, f"_{name}")()
        except _Unknown as unknown:
            outcome, reason = "unknown", str(unknown)
        except HoldfastError as error:
            outcome, reason = "failed", str(error)
        except OSError as error:
            outcome, reason = "failed", f"{type(error).__name__}: {error.strerror}"
        return DrillStep(name, outcome, self.clock.monotonic() - begun, reason, facts)

    # -- steps: each returns what it found, as a sentence and as facts -----------------------------------------------

    def _read(self) -> tuple[str, dict[str, Any]]:
        self.beside = read_beside(self.vault, self.backup)
        database = self._inventory.database
        return f"an inventory of {len(database.tables)} tables", {"counts": database.counts}

    @property
    def _inventory(self) -> Inventory:
        assert self.beside is not None
        return self.beside.inventory

    def _server(self) -> tuple[str, dict[str, Any]]:
        self.programs = find_programs(self.options.postgres_programs)
        if self._inventory.database.kind == "sqlite":
            self.url = f"sqlite:///{self._folder.resolve()}/restored.db"
            return "an SQLite file of its own", {}
        server = self._stack.enter_context(
            ScratchPostgres(
                self.programs,
                lifetime_seconds=self.options.restore_timeout_seconds + self.options.run_timeout_seconds + 600,
                clock=self.clock,
            )
        )
        server.initialise()
        server.start()
        server.create_database("airflow")
        self.url = server.url_text("airflow")
        return f"a PostgreSQL server of its own, pid {server.pid}", {"pid": server.pid}

    def _restore(self) -> tuple[str, dict[str, Any]]:
        timeout = self.options.restore_timeout_seconds
        restore_dump(self.vault, self.backup, self._inventory, parse_url(self.url), self.programs, timeout)
        return f"{self.backup.size_bytes} bytes", {"size_bytes": self.backup.size_bytes}

    def _keys(self) -> tuple[str, dict[str, Any]]:
        sealed = None if self.beside is None else self.beside.keys
        if sealed is None:
            raise _Unknown("the backup has no keys in escrow")
        if not self.recipients:
            raise _Unknown("nobody who can open the escrow was given")
        self.opened = open_escrow(sealed, self.recipients, f"{self.vault.name}: {self.backup.backup_id}")
        return f"{', '.join(self.opened.names)} taken from the escrow", {"keys": list(self.opened.names)}

    def _migrations(self) -> tuple[str, dict[str, Any]]:
        home = self._folder / "airflow"
        home.mkdir()
        self.airflow = ScratchAirflow(self.command, home, self.url, self.opened, self.clock)
        self.airflow.check_migrations()
        installed = self.command.installed.airflow
        facts = {"installed": installed, "alembic": list(self._inventory.database.revisions)}
        return f"Airflow {installed} finds every migration applied", facts

    def _canary(self) -> tuple[str, dict[str, Any]]:
        with self._session() as session:
            rows = encrypted_rows(session)
        if not rows:
            raise _Unknown("the database has no encrypted connection or variable; add one, and back it up")
        if self.opened.fernet_key is None:
            raise _Unknown("there is no Fernet key in the escrow")
        closed = cannot_open(rows, self.opened.fernet_key)
        canary = self._inventory.database.canary
        if closed:
            raise HoldfastError(
                "the Fernet key in escrow does not open what was restored",
                expected="a key for each connection and variable",
                found=f"none for {', '.join(closed[:10])}",
            )
        facts = {"canary": canary, "decrypted": len(rows)}
        return f"{canary or rows[0]['name']} was decrypted, and whatever else is encrypted", facts

    def _counts(self) -> tuple[str, dict[str, Any]]:
        expected = self._inventory.database
        with self._session() as session:
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

    def _reconcile(self) -> tuple[str, dict[str, Any]]:
        with self._session() as session:
            done = reconcile(session, silence=True)
        facts = {"paused": done.paused, "rescheduled": done.rescheduled, "silenced": done.silenced}
        return f"{done.paused} DAGs paused, {done.rescheduled} task instances to be scheduled again", facts

    def _run(self) -> tuple[str, dict[str, Any]]:
        timeout = self.options.run_timeout_seconds
        with self._session() as session:
            run_id = self.airflow.run_canary(session, timeout_seconds=timeout)
        return "a scheduler ran a DAG on the restored database", {"run_id": run_id}

    def _session(self) -> Session:
        return open_session(
            parse_url(self.url),
            self.programs,
            timeout_seconds=self.options.run_timeout_seconds + self.options.restore_timeout_seconds,
        )
