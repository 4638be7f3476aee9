"""Restore drills of Airflow: what passes, what fails, and what is only not known."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from airflow_world import AirflowDatabase, children_of_this_process, needs_postgres
from holdfast.engine.vault.airflow_state.command import AirflowCommand
from holdfast.engine.vault.airflow_state.drill import STEPS, restore_drill_airflow
from holdfast.engine.vault.airflow_state.drilling import AirflowDrillReport, DrillOptions
from holdfast.engine.vault.airflow_state.keys import escrow_keys
from holdfast.engine.vault.airflow_state.reconcile import reconcile_airflow_database
from holdfast.engine.vault.airflow_state.source import airflow_source
from holdfast.engine.vault.backup import back_up
from holdfast.engine.vault.backups import find_backup
from holdfast.engine.vault.recipients import AgeRecipient
from holdfast.engine.vault.sources import StreamSource
from vault_world import SMALL, VaultWorld


def outcomes(report: AirflowDrillReport) -> dict[str, str]:
    return {step.name: step.outcome for step in report.steps}


@pytest.fixture
def broken(tmp_path: Path) -> AirflowCommand:
    """An installation whose every command fails."""
    airflow = tmp_path / "airflow"
    airflow.write_text("#!/bin/sh\necho its libraries are gone >&2\nexit 1\n")
    airflow.chmod(0o755)
    return AirflowCommand(airflow, {"PATH": "/usr/bin:/bin"})


def back_up_airflow(world: VaultWorld, database: AirflowDatabase, officer: AgeRecipient | None) -> None:
    escrow = None if officer is None else escrow_keys(database.keys, [officer], apart_from=[world.store])
    with airflow_source(database.url, escrow=escrow) as source:
        back_up(world.open(), source, SMALL)


def drill(world: VaultWorld, command: AirflowCommand, folder: Path, officers: list[AgeRecipient]) -> AirflowDrillReport:
    folder.mkdir(exist_ok=True)
    vault = world.open("reader")
    return restore_drill_airflow(
        vault,
        find_backup(vault),
        command=command,
        escrow_recipients=officers,
        options=DrillOptions(folder=folder),
    )


def test_a_failed_step_leaves_the_others_judged_or_unknown(
    world: VaultWorld, sqlite_database: AirflowDatabase, officer: AgeRecipient, broken: AirflowCommand, tmp_path: Path
) -> None:
    back_up_airflow(world, sqlite_database, officer)
    report = drill(world, broken, tmp_path / "work", [officer])
    assert outcomes(report) == {
        **dict.fromkeys(STEPS, "passed"),
        "migrations": "failed",
        "run": "unknown",
    }
    (migrations,) = [step for step in report.steps if step.name == "migrations"]
    assert "its libraries are gone" in migrations.reason
    assert not report.passed
    assert report.taken_at is not None
    assert list((tmp_path / "work").iterdir()) == []


@needs_postgres
def test_the_same_on_a_postgresql_server_of_its_own(
    world: VaultWorld, postgres_database: AirflowDatabase, officer: AgeRecipient, broken: AirflowCommand, tmp_path: Path
) -> None:
    before = children_of_this_process()
    back_up_airflow(world, postgres_database, officer)
    report = drill(world, broken, tmp_path / "work", [officer])
    assert outcomes(report) == {**dict.fromkeys(STEPS, "passed"), "migrations": "failed", "run": "unknown"}
    (server,) = [step for step in report.steps if step.name == "server"]
    assert not Path(f"/proc/{server.facts['pid']}").exists()
    assert children_of_this_process() <= before


@pytest.mark.parametrize("why", ["no-escrow", "nobody-opens-it"])
def test_keys_that_nobody_has_are_unknown_and_no_pass(
    world: VaultWorld,
    sqlite_database: AirflowDatabase,
    officer: AgeRecipient,
    broken: AirflowCommand,
    tmp_path: Path,
    why: str,
) -> None:
    back_up_airflow(world, sqlite_database, None if why == "no-escrow" else officer)
    report = drill(world, broken, tmp_path / "work", [] if why == "nobody-opens-it" else [officer])
    assert (outcomes(report)["keys"], outcomes(report)["canary"]) == ("unknown", "unknown")
    assert not report.passed


def test_somebody_elses_key_fails(
    world: VaultWorld, sqlite_database: AirflowDatabase, officer: AgeRecipient, broken: AirflowCommand, tmp_path: Path
) -> None:
    back_up_airflow(world, sqlite_database, officer)
    report = drill(world, broken, tmp_path / "work", [AgeRecipient.make()])
    assert (outcomes(report)["keys"], outcomes(report)["canary"]) == ("failed", "unknown")


def test_a_database_without_anything_encrypted_leaves_the_canary_unknown(
    world: VaultWorld, sqlite_database: AirflowDatabase, officer: AgeRecipient, broken: AirflowCommand, tmp_path: Path
) -> None:
    with sqlite_database.session() as session:
        session.change("DELETE FROM variable")
        session.change("DELETE FROM connection")
    back_up_airflow(world, sqlite_database, officer)
    (canary,) = [step for step in drill(world, broken, tmp_path / "work", [officer]).steps if step.name == "canary"]
    assert canary.outcome == "unknown"
    assert "add one" in canary.reason


def test_rows_that_are_missing_fail(
    world: VaultWorld, sqlite_database: AirflowDatabase, broken: AirflowCommand, tmp_path: Path
) -> None:
    with airflow_source(sqlite_database.url) as source:
        list(source.objects())
        assert source.inventory is not None
        inventory = source.inventory
    with sqlite_database.session() as session:
        session.change("DELETE FROM task_instance WHERE run_id = 'run-1'")
        session.change("UPDATE dag_version SET bundle_version = 'c0ffee'")
    content = Path(sqlite_database.url.removeprefix("sqlite:///")).read_bytes()
    taken = datetime.now(UTC) - timedelta(hours=2)
    extra = {"airflow-state.json": replace(inventory, taken_at=taken).to_bytes()}
    source = StreamSource("airflow", "airflow.db", lambda: iter([content]), lambda: None, taken, extra=extra)
    back_up(world.open(), source, SMALL)
    report = drill(world, broken, tmp_path / "work", [])
    (counts,) = [step for step in report.steps if step.name == "counts"]
    assert counts.outcome == "failed"
    assert "table task_instance: 2 rows, not 3" in counts.reason
    assert "bundle_versions: 1, not 2" in counts.reason
    assert report.taken_at == taken


def test_a_restored_database_is_quiet_before_a_scheduler_sees_it(sqlite_database: AirflowDatabase) -> None:
    done = reconcile_airflow_database(sqlite_database.url)
    assert (done.paused, done.rescheduled, done.silenced) == (2, 1, 0)
    with sqlite_database.session() as session:
        states = session.ask("SELECT run_id, state FROM task_instance ORDER BY run_id")
        assert [row["state"] for row in states] == [None, "success", "success"]
        assert session.ask("SELECT count(*) AS n FROM dag WHERE NOT is_paused") == [{"n": 0}]
    assert reconcile_airflow_database(sqlite_database.url).rescheduled == 0


def whole_drill(world: VaultWorld, database: AirflowDatabase, officer: AgeRecipient, folder: Path) -> None:
    before = children_of_this_process()
    back_up_airflow(world, database, officer)
    report = drill(world, database.command(folder / "home"), folder / "work", [officer])
    assert outcomes(report) == dict.fromkeys(STEPS, "passed"), report.steps
    assert report.passed
    assert list((folder / "work").iterdir()) == []
    assert children_of_this_process() <= before
    # It was a copy that was drilled.
    with database.session() as session:
        assert session.ask("SELECT count(*) AS n FROM dag WHERE is_paused OR dag_id LIKE 'holdfast%'") == [{"n": 0}]


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.e2e
def test_a_scheduler_runs_a_dag_on_a_restored_sqlite_file(
    world: VaultWorld, sqlite_database: AirflowDatabase, officer: AgeRecipient, tmp_path: Path
) -> None:
    whole_drill(world, sqlite_database, officer, tmp_path)


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.e2e
@needs_postgres
def test_a_scheduler_runs_a_dag_on_a_restored_postgresql_database(
    world: VaultWorld, postgres_database: AirflowDatabase, officer: AgeRecipient, tmp_path: Path
) -> None:
    whole_drill(world, postgres_database, officer, tmp_path)
