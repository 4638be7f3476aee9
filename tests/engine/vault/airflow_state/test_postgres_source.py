"""A PostgreSQL metadata database: backed up whole or not at all, restored row for row."""

from __future__ import annotations

import stat
import time
from pathlib import Path

import pytest

from airflow_world import AirflowDatabase, children_of_this_process, needs_postgres, restored_as_it_was
from holdfast.engine.vault.airflow_state import restoring
from holdfast.engine.vault.airflow_state.holding import hold
from holdfast.engine.vault.airflow_state.programs import find_programs
from holdfast.engine.vault.airflow_state.reconcile import reconcile_airflow_database
from holdfast.engine.vault.airflow_state.restoring import NotReconciled, read_beside, restore_airflow_database
from holdfast.engine.vault.airflow_state.scratch import ScratchPostgres
from holdfast.engine.vault.airflow_state.sessions import open_session
from holdfast.engine.vault.airflow_state.source import AirflowSource, airflow_source
from holdfast.engine.vault.airflow_state.urls import parse_url
from holdfast.engine.vault.backup import BackupReport, back_up
from holdfast.engine.vault.backups import find_backup, live_backups
from holdfast.engine.vault.errors import CommandFailed, Damaged, SourceFailed
from holdfast.errors import ConfigError, Refused
from vault_world import SMALL, VaultWorld

pytestmark = needs_postgres


def back_up_airflow(world: VaultWorld, source: AirflowSource) -> BackupReport:
    with source:
        return back_up(world.open(), source, SMALL)


def content(database: AirflowDatabase) -> dict[str, list[str]]:
    with database.session() as session:
        return {name: sorted(str(row) for row in session.ask(f'SELECT * FROM "{name}"')) for name in session.tables()}


@pytest.fixture
def fresh(postgres: ScratchPostgres) -> AirflowDatabase:
    """An empty database."""
    name = f"fresh_{time.monotonic_ns()}"
    postgres.create_database(name)
    return AirflowDatabase(postgres.url_text(name))


def test_a_restored_database_has_every_row(
    world: VaultWorld, postgres_database: AirflowDatabase, fresh: AirflowDatabase
) -> None:
    report = back_up_airflow(world, airflow_source(postgres_database.url))
    vault = world.open("reader")
    inventory = restored_as_it_was(vault, fresh.url)
    assert content(fresh) == content(postgres_database)
    assert inventory.database.counts == {
        "dags": 2,
        "dag_runs": 3,
        "task_instances": 3,
        "active_task_instances": 1,
        "dag_versions": 2,
        "bundles": 2,
        "bundle_versions": 2,
        "connections": 2,
        "variables": 1,
        "encrypted": 2,
    }
    assert inventory.database.revisions
    assert report.backup.origin["counts"] == inventory.database.counts


def test_the_inventory_is_of_the_moment_of_the_dump_whatever_is_written_meanwhile(
    world: VaultWorld, postgres_database: AirflowDatabase, fresh: AirflowDatabase
) -> None:
    class Written(AirflowSource):
        def read(self, item):  # type: ignore[no-untyped-def]
            if item.path == "airflow.dump":
                with postgres_database.session() as session:
                    session.change("DELETE FROM task_instance")
                    session.change("DELETE FROM variable")
            yield from super().read(item)

    source = airflow_source(postgres_database.url)
    source.__class__ = Written
    back_up_airflow(world, source)
    vault = world.open("reader")
    inventory = restored_as_it_was(vault, fresh.url)
    rows = content(fresh)
    assert {name: len(found) for name, found in rows.items()} == dict(inventory.database.tables)
    assert len(rows["task_instance"]) == 3
    assert content(postgres_database)["task_instance"] == []


PRODUCERS = {
    "exits-in-the-middle": ('"$real" "$@" | head -c 40000; exit 3', "exit code 3"),
    "is-killed": ('"$real" "$@" | head -c 40000; kill -9 $$', "killed by SIGKILL"),
    "stops-in-the-middle-and-says-all-is-well": ('"$real" "$@" | head -c 40000', "pg_restore"),
    "lacks-its-last-byte-and-says-all-is-well": ('"$real" "$@" | head -c -1', "pg_restore"),
    "writes-nothing-and-says-all-is-well": ("exit 0", "pg_restore"),
    "leaves-out-the-rows-of-a-table": ('exec "$real" "$@" --exclude-table-data=task_instance', "task_instance"),
    "writes-something-else": ('"$real" "$@" | tr abcdef bcdefa', "pg_restore"),
    "cannot-log-in": ('PGPASSWORD=wrong-wrong-wrong exec "$real" "$@"', "password authentication failed"),
}


@pytest.mark.parametrize("how", PRODUCERS)
def test_a_dump_that_fell_short_is_no_backup(
    world: VaultWorld, postgres_database: AirflowDatabase, tmp_path: Path, how: str
) -> None:
    script, told = PRODUCERS[how]
    before = children_of_this_process()
    source = airflow_source(postgres_database.url, postgres_programs=programs(tmp_path, pg_dump=script))
    with pytest.raises(SourceFailed, match=told):
        back_up_airflow(world, source)
    assert live_backups(world.open()) == []
    assert children_of_this_process() <= before


def test_a_dump_that_hangs_is_killed_when_its_time_is_over(
    world: VaultWorld, postgres_database: AirflowDatabase, tmp_path: Path
) -> None:
    before = children_of_this_process()
    script = '"$real" "$@" | head -c 40000; sleep 1000'
    folder = programs(tmp_path, pg_dump=script)
    source = airflow_source(postgres_database.url, postgres_programs=folder, timeout_seconds=4)
    with pytest.raises(SourceFailed, match="so it was killed"):
        back_up_airflow(world, source)
    assert live_backups(world.open()) == []
    assert children_of_this_process() <= before


def test_a_backup_that_is_given_up_leaves_nothing_running(postgres_database: AirflowDatabase) -> None:
    before = children_of_this_process()
    with airflow_source(postgres_database.url) as source:
        objects = source.objects()
        dump = next(item for item in objects if item.path == "airflow.dump")
        pieces = source.read(dump)
        next(pieces)
        assert children_of_this_process() > before
    assert children_of_this_process() <= before
    with pytest.raises(SourceFailed, match="not read to its end"):
        source.finish()


def test_the_password_is_in_no_argument_list_no_message_and_not_in_the_inventory(
    world: VaultWorld, postgres: ScratchPostgres, postgres_database: AirflowDatabase, tmp_path: Path
) -> None:
    seen = tmp_path / "seen"
    note = f'echo "$0 $*" >> {seen}; exec "$real" "$@"'
    folder = programs(tmp_path, pg_dump=note, pg_restore=note, psql=note)
    back_up_airflow(world, airflow_source(postgres_database.url, postgres_programs=folder))
    lines = seen.read_text()
    assert {"pg_dump", "pg_restore", "psql"} <= {Path(line.split()[0]).name for line in lines.splitlines()}
    assert postgres.password not in lines
    vault = world.open("reader")
    inventory = read_beside(vault, find_backup(vault)).inventory
    assert postgres.password not in inventory.to_bytes().decode()
    wrong = postgres_database.url.replace(postgres.password, "sesame-open-sesame")
    with pytest.raises(SourceFailed) as caught:
        back_up_airflow(world, airflow_source(wrong))
    assert "password authentication failed" in str(caught.value)
    assert "sesame" not in str(caught.value)


def test_a_database_that_is_not_airflows_is_refused(world: VaultWorld, fresh: AirflowDatabase) -> None:
    with pytest.raises(ConfigError, match="not the metadata database"):
        back_up_airflow(world, airflow_source(fresh.url))


def test_a_backup_begins_anew_after_the_vault_went_on(world: VaultWorld, postgres_database: AirflowDatabase) -> None:
    with airflow_source(postgres_database.url) as source:
        first = back_up(world.open(), source, SMALL).backup
        second = back_up(world.open(), source, SMALL).backup
    assert (first.objects, second.objects) == (2, 2)
    assert second.taken_at > first.taken_at


def test_nothing_is_restored_over_a_database_that_is_in_use(
    world: VaultWorld, postgres_database: AirflowDatabase
) -> None:
    back_up_airflow(world, airflow_source(postgres_database.url))
    vault = world.open("reader")
    before = content(postgres_database)
    with pytest.raises(Refused, match="not empty"):
        restore_airflow_database(vault, find_backup(vault), postgres_database.url)
    assert content(postgres_database) == before


def test_a_damaged_backup_leaves_the_new_database_empty(
    world: VaultWorld, postgres_database: AirflowDatabase, fresh: AirflowDatabase
) -> None:
    back_up_airflow(world, airflow_source(postgres_database.url))
    vault = world.open("reader")
    backup, inventory = find_backup(vault), read_beside(vault, find_backup(vault)).inventory
    assert inventory.database.tables
    packs = sorted((info for info in world.store.list("packs/")), key=lambda info: info.size_bytes)
    largest = packs[-1].key
    data = bytearray(world.store.get(largest))
    data[len(data) // 2] ^= 1
    world.store.delete(largest)
    world.store.put(largest, bytes(data))
    with pytest.raises(Damaged):
        restore_airflow_database(vault, backup, fresh.url)
    assert content(fresh) == {}
    with fresh.session() as session:
        session.change("CREATE TABLE its_user_can_write AS SELECT 1 AS one")


def unpaused(database: AirflowDatabase) -> int:
    with database.session() as session:
        return len(session.ask("SELECT 1 FROM dag WHERE NOT is_paused"))


def assert_held_until_it_is_reconciled(world: VaultWorld, database: AirflowDatabase) -> None:
    assert unpaused(database) == 2
    with database.session() as scheduler, pytest.raises(CommandFailed, match="read-only transaction"):
        scheduler.change("UPDATE task_instance SET state = 'queued'")
    vault = world.open("reader")
    with pytest.raises(Refused, match="vault airflow reconcile"):
        restore_airflow_database(vault, find_backup(vault), database.url)
    done = reconcile_airflow_database(database.url)
    assert (done.paused, done.rescheduled, unpaused(database)) == (2, 1, 0)
    with database.session() as scheduler:
        scheduler.change("UPDATE dag SET is_paused = FALSE WHERE dag_id = 'etl'")
    with pytest.raises(Refused, match="not empty"):
        restore_airflow_database(vault, find_backup(vault), database.url)


def test_a_restored_database_is_reconciled_and_can_be_written(
    world: VaultWorld, postgres_database: AirflowDatabase, fresh: AirflowDatabase
) -> None:
    back_up_airflow(world, airflow_source(postgres_database.url))
    vault = world.open("reader")
    done = restore_airflow_database(vault, find_backup(vault), fresh.url).reconciled
    assert (done.paused, done.rescheduled, unpaused(fresh)) == (2, 1, 0)
    with fresh.session() as scheduler:
        scheduler.change("UPDATE dag SET is_paused = FALSE")
    assert unpaused(fresh) == 2


@pytest.mark.parametrize(
    ("error", "told"), [(CommandFailed("it went away"), NotReconciled), (KeyboardInterrupt(), KeyboardInterrupt)]
)
def test_a_database_that_was_not_reconciled_cannot_be_written(
    world: VaultWorld,
    postgres_database: AirflowDatabase,
    fresh: AirflowDatabase,
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException,
    told: type[BaseException],
) -> None:
    back_up_airflow(world, airflow_source(postgres_database.url))
    vault = world.open("reader")

    def failing(*_args: object, **_kwargs: object) -> None:
        raise error

    monkeypatch.setattr(restoring, "reconcile_airflow_database", failing)
    with pytest.raises(told):
        restore_airflow_database(vault, find_backup(vault), fresh.url)
    assert_held_until_it_is_reconciled(world, fresh)


def test_a_restore_whose_good_end_was_not_heard_of_is_held_too(
    world: VaultWorld, postgres_database: AirflowDatabase, fresh: AirflowDatabase, tmp_path: Path
) -> None:
    back_up_airflow(world, airflow_source(postgres_database.url))
    vault = world.open("reader")
    folder = programs(tmp_path, pg_restore='"$real" "$@"; exit 3')
    with pytest.raises(NotReconciled, match="vault airflow reconcile"):
        restore_airflow_database(vault, find_backup(vault), fresh.url, postgres_programs=folder)
    assert_held_until_it_is_reconciled(world, fresh)


def test_a_restore_that_was_killed_before_its_end_can_be_run_again(
    world: VaultWorld, postgres_database: AirflowDatabase, fresh: AirflowDatabase
) -> None:
    back_up_airflow(world, airflow_source(postgres_database.url))
    vault = world.open("reader")
    hold(parse_url(fresh.url), find_programs())  # type: ignore[arg-type]
    restore_airflow_database(vault, find_backup(vault), fresh.url)
    with fresh.session() as scheduler:
        scheduler.change("UPDATE dag SET is_paused = FALSE")


def test_the_newest_installed_version_is_taken(tmp_path: Path) -> None:
    assert find_programs(tmp_path).folder == tmp_path
    assert find_programs().has("pg_dump")


def test_a_scratch_server_leaves_nothing_behind() -> None:
    before = children_of_this_process()
    with ScratchPostgres(find_programs()) as server:
        server.initialise()
        server.start()
        with open_session(server.url("postgres"), server.programs, timeout_seconds=30) as session:
            assert session.ask("SELECT 1 AS one") == [{"one": 1}]
        guessed = AirflowDatabase(server.url_text("postgres").replace(server.password, "guessed"))
        with guessed.session() as session, pytest.raises(CommandFailed, match="password authentication failed"):
            session.ask("SELECT 1")
        assert stat.S_IMODE(server.data.stat().st_mode) == 0o700
    assert not server.folder.exists()
    assert children_of_this_process() <= before


def programs(folder: Path, **scripts: str) -> Path:
    """A folder of PostgreSQL's programs, of which some do what a script says; in it, `$real` is the true one."""
    true = find_programs()
    made = folder / "programs"
    made.mkdir()
    for name in ("pg_dump", "pg_restore", "psql"):
        file = made / name
        script = scripts.get(name, 'exec "$real" "$@"')
        file.write_text(f"#!/bin/sh\nreal={true(name)}\n{script}\n")
        file.chmod(0o755)
    return made
