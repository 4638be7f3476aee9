"""Airflow's metadata database for tests: migrated once per process, filled by SQL, on SQLite and on PostgreSQL."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from cryptography.fernet import Fernet

from holdfast.engine.vault.airflow_state.children import Child
from holdfast.engine.vault.airflow_state.command import AirflowCommand
from holdfast.engine.vault.airflow_state.inventory import Inventory
from holdfast.engine.vault.airflow_state.keys import AirflowKeys
from holdfast.engine.vault.airflow_state.programs import find_programs
from holdfast.engine.vault.airflow_state.restoring import read_beside, restore_dump
from holdfast.engine.vault.airflow_state.scratch import ScratchPostgres
from holdfast.engine.vault.airflow_state.sessions import Session, open_session
from holdfast.engine.vault.airflow_state.urls import parse_url
from holdfast.engine.vault.backups import find_backup
from holdfast.engine.vault.vault import Vault

AIRFLOW = Path(sys.executable).parent / "airflow"
#: How a test is skipped that needs a server where there is none.
needs_backrest = pytest.mark.skipif(shutil.which("pgbackrest") is None, reason="pgbackrest is not installed")
needs_postgres = pytest.mark.skipif(
    not all(find_programs().has(name) for name in ("initdb", "postgres", "pg_dump", "pg_restore", "psql")),
    reason="PostgreSQL is not installed: neither /usr/lib/postgresql/*/bin nor the PATH has its programs",
)
PASSWORD = "correct horse battery staple"


@dataclass
class AirflowDatabase:
    """A database with something in each table that matters.

    Args:
        url: as SQLAlchemy writes it.
    """

    url: str
    keys: AirflowKeys = field(
        default_factory=lambda: AirflowKeys(Fernet.generate_key().decode(), "api-secret-key-1", "jwt-secret-key-22")
    )

    @property
    def is_sqlite(self) -> bool:
        return self.url.startswith("sqlite")

    def session(self) -> Session:
        return open_session(parse_url(self.url), find_programs(), timeout_seconds=60)

    def environment(self, home: Path) -> dict[str, str]:
        """What an installation over this database sees."""
        home.mkdir(exist_ok=True)
        return {
            "PATH": os.environ["PATH"],
            "HOME": str(home),
            "AIRFLOW_HOME": str(home),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__CORE__FERNET_KEY": self.keys.fernet_key or "",
            "AIRFLOW__API__SECRET_KEY": self.keys.api_secret_key or "",
            "AIRFLOW__API_AUTH__JWT_SECRET": self.keys.jwt_secret or "",
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": self.url,
        }

    def command(self, home: Path) -> AirflowCommand:
        return AirflowCommand(AIRFLOW, self.environment(home))

    def fill(self, *, runs: int = 3) -> AirflowDatabase:
        """One bundle with two versions, two DAGs, runs of which one still runs, connections and a variable."""
        now = "'2026-01-02 03:04:05+00:00'"
        token = Fernet(self.keys.fernet_key.encode()).encrypt(PASSWORD.encode()).decode()
        with self.session() as session:
            session.change("INSERT INTO dag_bundle (name, active, version) VALUES ('git', TRUE, 'c0ffee')")
            session.change("INSERT INTO dag_bundle (name, active) VALUES ('local', TRUE)")
            for number, (dag, version) in enumerate((("etl", "c0ffee"), ("train", "decaf"))):
                session.change(
                    "INSERT INTO dag (dag_id, is_paused, is_stale, bundle_name, timetable_type, partition_mapper_info,"
                    " max_active_tasks, max_consecutive_failed_dag_runs, has_task_concurrency_limits)"
                    f" VALUES ('{dag}', FALSE, FALSE, 'git', 'none', '{{}}', 16, 0, FALSE)"
                )
                session.change(
                    "INSERT INTO dag_version (id, version_number, dag_id, bundle_name, bundle_version, created_at,"
                    f" last_updated) VALUES ('{number:032x}', 1, '{dag}', 'git', '{version}', {now}, {now})"
                )
            for number in range(runs):
                state = "running" if number == 0 else "success"
                session.change(
                    "INSERT INTO dag_run (dag_id, run_id, run_type, run_after, state, log_template_id)"
                    f" VALUES ('etl', 'run-{number}', 'manual', {now}, '{state}', 1)"
                )
                session.change(
                    "INSERT INTO task_instance (id, task_id, dag_id, run_id, map_index, try_number, pool, pool_slots,"
                    f" state) VALUES ('{number + 100:032x}', 'load', 'etl', 'run-{number}', -1, 1, 'default_pool', 1,"
                    f" '{state}')"
                )
            session.change(
                "INSERT INTO connection (conn_id, conn_type, host, password, is_encrypted, is_extra_encrypted)"
                f" VALUES ('warehouse', 'postgres', 'db', '{token}', TRUE, FALSE)"
            )
            session.change(
                "INSERT INTO connection (conn_id, conn_type, is_encrypted, is_extra_encrypted)"
                " VALUES ('plain', 'http', FALSE, FALSE)"
            )
            session.change(f"INSERT INTO variable (key, val, is_encrypted) VALUES ('token', '{token}', TRUE)")
        return self


@pytest.fixture(scope="session")
def migrated_sqlite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated database file, to be copied."""
    folder = tmp_path_factory.mktemp("airflow-sqlite")
    file = folder / "airflow.db"
    migrate(AirflowDatabase(f"sqlite:///{file}"), folder)
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return file


@pytest.fixture
def sqlite_database(migrated_sqlite: Path, tmp_path: Path) -> AirflowDatabase:
    """A filled database of this test's own."""
    file = tmp_path / "live.db"
    shutil.copyfile(migrated_sqlite, file)
    return AirflowDatabase(f"sqlite:///{file}").fill()


@pytest.fixture(scope="session")
def postgres() -> Iterator[ScratchPostgres]:
    """A server of this test process, with a migrated template."""
    with ScratchPostgres(find_programs(), settings={"fsync": "off"}) as server:
        server.initialise()
        server.start()
        yield server


@pytest.fixture(scope="session")
def migrated_postgres(postgres: ScratchPostgres, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The name of a migrated database, to be a template."""
    postgres.create_database("migrated")
    migrate(AirflowDatabase(postgres.url_text("migrated")), tmp_path_factory.mktemp("airflow-postgres"))
    return "migrated"


@pytest.fixture
def postgres_database(
    postgres: ScratchPostgres, migrated_postgres: str, request: pytest.FixtureRequest
) -> AirflowDatabase:
    """A filled database of this test's own."""
    name = f"db_{os.urandom(6).hex()}"
    with open_session(postgres.url("postgres"), postgres.programs, timeout_seconds=60) as session:
        session.change(f'CREATE DATABASE "{name}" TEMPLATE "{migrated_postgres}"')
    return AirflowDatabase(postgres.url_text(name)).fill()


def migrate(database: AirflowDatabase, home: Path) -> None:
    subprocess.run(
        [AIRFLOW, "db", "migrate"], env=database.environment(home), check=True, capture_output=True, timeout=280
    )


def restored_as_it_was(vault: Vault, url: str) -> Inventory:
    """The newest backup's database, not reconciled, so that its rows can be compared."""
    backup = find_backup(vault)
    inventory = read_beside(vault, backup).inventory
    restore_dump(vault, backup, inventory, parse_url(url), find_programs(), 300)
    return inventory


def children_of_this_process() -> set[int]:
    """The living children, zombies among them."""
    found: set[int] = set()
    for task in Path("/proc/self/task").glob("*/children"):
        with suppress(FileNotFoundError, ProcessLookupError):  # a thread that has just ended
            found |= {int(pid) for pid in task.read_text().split()}
    return found


__all__ = [
    "AirflowDatabase",
    "Child",
    "migrated_postgres",
    "migrated_sqlite",
    "needs_backrest",
    "needs_postgres",
    "postgres",
    "postgres_database",
    "restored_as_it_was",
    "sqlite_database",
]
