"""An SQLite metadata database: copied while it is in use, whole or not at all."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from airflow_world import AirflowDatabase, restored_as_it_was
from holdfast.engine.vault.airflow_state import restoring
from holdfast.engine.vault.airflow_state.restoring import restore_airflow_database
from holdfast.engine.vault.airflow_state.source import airflow_source
from holdfast.engine.vault.airflow_state.urls import SqliteUrl, parse_url
from holdfast.engine.vault.backup import BackupReport, back_up
from holdfast.engine.vault.backups import find_backup, live_backups
from holdfast.engine.vault.errors import CommandFailed, SourceFailed
from holdfast.errors import ConfigError, Refused
from vault_world import SMALL, VaultWorld


def path_of(database: AirflowDatabase) -> Path:
    parsed = parse_url(database.url)
    assert isinstance(parsed, SqliteUrl)
    return parsed.path


def back_up_to(world: VaultWorld, database: AirflowDatabase, scratch: Path, seconds: float = 60) -> BackupReport:
    scratch.mkdir(exist_ok=True)
    with airflow_source(database.url, folder=scratch, timeout_seconds=seconds) as source:
        return back_up(world.open(), source, SMALL)


def dump(path: Path) -> list[str]:
    with closing(sqlite3.connect(path)) as connection:
        return list(connection.iterdump())


@contextmanager
def holding(path: Path, lock: str) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = DELETE")
        connection.execute(f"BEGIN {lock}")
        yield connection


def test_a_restored_file_has_every_row(world: VaultWorld, sqlite_database: AirflowDatabase, tmp_path: Path) -> None:
    report = back_up_to(world, sqlite_database, tmp_path / "scratch")
    assert report.backup.objects == 2
    vault = world.open("reader")
    inventory = restored_as_it_was(vault, f"sqlite:///{tmp_path}/restored.db")
    assert dump(tmp_path / "restored.db") == dump(path_of(sqlite_database))
    assert inventory.database.counts["dag_runs"] == 3
    assert list((tmp_path / "scratch").iterdir()) == []


def test_what_is_not_committed_is_not_in_it(
    world: VaultWorld, sqlite_database: AirflowDatabase, tmp_path: Path
) -> None:
    with holding(path_of(sqlite_database), "IMMEDIATE") as writer:
        writer.execute("DELETE FROM dag_run")
        back_up_to(world, sqlite_database, tmp_path / "scratch")
        writer.execute("ROLLBACK")
    vault = world.open("reader")
    inventory = restored_as_it_was(vault, f"sqlite:///{tmp_path}/restored.db")
    assert inventory.database.tables["dag_run"] == 3
    assert dump(tmp_path / "restored.db") == dump(path_of(sqlite_database))


def test_a_file_that_is_locked_all_the_time_is_given_up(
    world: VaultWorld, sqlite_database: AirflowDatabase, tmp_path: Path
) -> None:
    with holding(path_of(sqlite_database), "EXCLUSIVE"), pytest.raises(SourceFailed, match=r"in time|locked"):
        back_up_to(world, sqlite_database, tmp_path / "scratch", seconds=1)
    assert live_backups(world.open()) == []
    assert list((tmp_path / "scratch").iterdir()) == []


def test_a_damaged_file_is_no_backup(world: VaultWorld, sqlite_database: AirflowDatabase, tmp_path: Path) -> None:
    path = path_of(sqlite_database)
    data = bytearray(path.read_bytes())
    for page in range(5, 60, 7):
        data[page * 4096 : page * 4096 + 512] = b"\xff" * 512
    path.write_bytes(bytes(data))
    with pytest.raises(SourceFailed, match=r"damaged|could not be"):
        back_up_to(world, sqlite_database, tmp_path / "scratch")
    assert live_backups(world.open()) == []
    assert list((tmp_path / "scratch").iterdir()) == []


def test_a_file_that_is_not_there_is_not_made(world: VaultWorld, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such SQLite file"):
        back_up_to(world, AirflowDatabase(f"sqlite:///{tmp_path}/none.db"), tmp_path / "scratch")
    assert not (tmp_path / "none.db").exists()


def test_nothing_is_restored_over_a_file_that_is_there(
    world: VaultWorld, sqlite_database: AirflowDatabase, tmp_path: Path
) -> None:
    back_up_to(world, sqlite_database, tmp_path / "scratch")
    vault = world.open("reader")
    # Its write-ahead log alone would be taken for that of the restored file.
    (tmp_path / "there.db-wal").write_bytes(b"")
    with pytest.raises(Refused, match="there already"):
        restore_airflow_database(vault, find_backup(vault), f"sqlite:///{tmp_path}/there.db")
    assert not (tmp_path / "there.db").exists()


def test_a_restored_file_is_there_once_it_is_reconciled(
    world: VaultWorld, sqlite_database: AirflowDatabase, tmp_path: Path
) -> None:
    back_up_to(world, sqlite_database, tmp_path / "scratch")
    vault = world.open("reader")
    out = tmp_path / "out"
    done = restore_airflow_database(vault, find_backup(vault), f"sqlite:///{out}/restored.db").reconciled
    assert (done.paused, done.rescheduled) == (2, 1)
    with closing(sqlite3.connect(out / "restored.db")) as restored:
        assert restored.execute("SELECT count(*) FROM dag WHERE NOT is_paused").fetchone() == (0,)
    assert [file.name for file in out.iterdir()] == ["restored.db"]


@pytest.mark.parametrize("error", [CommandFailed("it does not answer"), KeyboardInterrupt()])
def test_a_file_that_could_not_be_reconciled_is_not_there(
    world: VaultWorld,
    sqlite_database: AirflowDatabase,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException,
) -> None:
    back_up_to(world, sqlite_database, tmp_path / "scratch")
    vault = world.open("reader")
    out = tmp_path / "out"
    seen: list[list[str]] = []

    def failing(_session: object) -> None:
        seen.append([file.name for file in out.iterdir()])
        raise error

    monkeypatch.setattr(restoring, "reconcile", failing)
    with pytest.raises(type(error)):
        restore_airflow_database(vault, find_backup(vault), f"sqlite:///{out}/restored.db")
    assert len(seen[0]) == 1
    assert "restored.db" not in seen[0]  # so somebody who kills the process here leaves none either
    assert list(out.iterdir()) == []


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("mysql://u:hush-hush-hush@h/db", "mysql"),
        ("sqlite:///relative.db", "absolute"),
        ("postgresql://u:hush-hush-hush@h:port/db", "cannot be read"),
        ("postgresql://u:hush-hush-hush@h:5432", "names no database"),
        ("postgresql://u:hush-hush-hush@h/db?plugins=x", "plugins"),
        ("nothing", "no URL"),
    ],
)
def test_a_url_that_cannot_be_used_is_refused_without_being_repeated(url: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told) as caught:
        parse_url(url)
    assert "hush" not in str(caught.value)
