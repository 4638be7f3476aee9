"""A drill of point-in-time recovery: the cluster restored elsewhere, its log replayed, a scheduler at work on it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
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
from holdfast.engine.vault.airflow_state.inventory import look_at
from holdfast.engine.vault.airflow_state.keys import AirflowKeys
from holdfast.engine.vault.airflow_state.pitr import BackRestBackup, PgBackRest, base_for
from holdfast.engine.vault.airflow_state.scratch import ScratchPostgres
from holdfast.engine.vault.errors import CommandFailed

#: How a server says that its log ended before the moment that was asked for.
_SHORT = "recovery ended before configured recovery target was reached"
STEPS = ("read", "keys", "restore", "server", "migrations", "canary", "database", "reconcile", "run")


def pitr_drill_airflow(
    backrest: PgBackRest,
    *,
    command: AirflowCommand,
    database: str = "airflow",
    superuser: str = "postgres",
    at: datetime | None = None,
    keys: AirflowKeys | Callable[[], AirflowKeys] | None = None,
    options: DrillOptions | None = None,
    clock: Clock | None = None,
) -> AirflowDrillReport:
    """Restore the cluster from its repository into a server of the drill's own, and let a scheduler run a DAG on it.

    Args:
        backrest: its user is the one the server is run as.
        database: Airflow's, in the cluster.
        superuser: a role of the cluster; on the copy it gets another password.
        at: the moment to go back to, timezone-aware; ``None``: the newest that the log reaches.
        keys: Airflow's, or what opens them, see `keys.open_escrow`; without them the canary stays unknown.

    Returns:
        A report, also where a step failed. Its `taken_at` is the last change that was replayed, or the end of the base
        backup where there was none.
    """
    return _PitrDrill(
        command,
        options or DrillOptions(),
        clock or SystemClock(),
        backrest=backrest,
        database=database,
        superuser=superuser,
        at=at,
        keys=keys,
    ).run()


@dataclass(kw_only=True)
class _PitrDrill(Drill):
    backrest: PgBackRest
    database: str
    superuser: str
    at: datetime | None
    keys: AirflowKeys | Callable[[], AirflowKeys] | None = field(repr=False)
    backup: BackRestBackup | None = None
    reached: datetime | None = None
    version: str | None = None

    steps: ClassVar = STEPS
    needs: ClassVar = {
        "restore": ("read",),
        "server": ("restore",),
        "migrations": ("server",),
        "canary": ("server",),
        "database": ("server",),
        "reconcile": ("server",),
        "run": ("migrations", "reconcile"),
    }

    def report(self, steps: tuple[DrillStep, ...]) -> AirflowDrillReport:
        installed = next((step.facts.get("installed") for step in steps if step.name == "migrations"), None)
        return AirflowDrillReport(
            "" if self.backup is None else self.backup.label,
            self.reached,
            None if self.version is None else f"postgresql {self.version}",
            installed,
            steps,
        )

    def step_read(self) -> Found:
        backups = self.backrest.backups()
        self.backup = base_for(backups, self.at, self.backrest.stanza)
        facts = {"backups": len(backups), "backup": self.backup.label, "kind": self.backup.kind}
        return f"{len(backups)} base backups, {self.backup.label} the one to begin with", facts

    def step_keys(self) -> Found:
        if self.keys is None:
            raise Unknown("nobody who can open Airflow's keys was given")
        self.opened = self.keys if isinstance(self.keys, AirflowKeys) else self.keys()
        return f"{', '.join(self.opened.names)} taken from the escrow", {"keys": list(self.opened.names)}

    def step_restore(self) -> Found:
        self.server = self.stack.enter_context(
            ScratchPostgres(
                self.programs, lifetime_seconds=self.lifetime_seconds, user=self.backrest.user, clock=self.clock
            )
        )
        self.backrest.restore(self.server.data, at=self.at)
        return "the base backup lies in a folder of its own", {}

    def step_server(self) -> Found:
        try:
            self.server.start(timeout_seconds=self.options.restore_timeout_seconds, role=self.superuser)
        except CommandFailed as error:
            if self.at is None or _SHORT not in (error.found or ""):
                raise
            raise CommandFailed(
                "the log in the repository has no change after the moment that was asked for",
                where=self.backrest.stanza,
                expected=f"one later than {self.at.isoformat()}, to know that everything before is there",
                found=f"none up to {self.backrest.newest_log()}",
                fix="Ask for no moment: it goes as far as the log does",
            ) from None
        self.url = self.server.url_text(self.database)
        with self.session() as session:
            found = session.ask(
                "SELECT pg_last_xact_replay_timestamp() AS reached, current_setting('server_version') AS version"
            )[0]
        self.version = str(found["version"])
        self.reached = datetime.fromisoformat(found["reached"]) if found["reached"] else self._begun_with.stopped_at
        facts = {"reached": found["reached"], "pid": self.server.pid}
        return f"the log was replayed up to {found['reached'] or 'the end of the base backup'}", facts

    @property
    def _begun_with(self) -> BackRestBackup:
        assert self.backup is not None
        return self.backup

    def step_database(self) -> Found:
        with self.session() as session:
            state = look_at(
                session, kind="postgresql", place=self.backrest.stanza, server=self.version or "", configuration=None
            )
        return f"an Airflow with {state.counts['dags']} DAGs and {state.counts['dag_runs']} runs", {
            "counts": state.counts,
            "alembic": list(state.revisions),
        }
