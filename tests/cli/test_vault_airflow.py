"""`holdfast vault backup airflow` over a real Airflow's database, as somebody types it."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

import pytest
from typer.testing import CliRunner

from airflow_world import AirflowDatabase, migrated_sqlite, sqlite_database  # noqa: F401 - fixtures
from folders import add_vault, folder_runtime, make_folders
from holdfast.cli.main import app
from holdfast.engine.pipeline.vaults import opening
from holdfast.engine.runtime import Runtime


def test_airflows_database_is_backed_up_with_its_keys_in_escrow(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    sqlite_database: AirflowDatabase,  # noqa: F811
) -> None:
    world = tmp_path / "world"
    world.mkdir()
    (world / "escrow.key").write_text("12" * 32)
    topology = add_vault(make_folders(world), airflow_escrow=[f"file:{world}/escrow.key"])
    monkeypatch.setattr(Runtime, "from_environment", lambda *_args, **_kwargs: folder_runtime(topology))
    opening.made(folder_runtime(topology), "desk")
    monkeypatch.setenv("SOME_DATABASE", sqlite_database.url)
    for name, value in sqlite_database.environment(tmp_path / "airflow-home").items():
        monkeypatch.setenv(name, value)
    words = ["vault", "backup", "airflow", "--url-variable", "SOME_DATABASE", "--json"]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output + done.stderr
    made = json.loads(done.stdout)
    assert (made["source"], made["origin"]["database"], made["origin"]["escrow"]) == ("airflow", "sqlite", True)
    done = CliRunner().invoke(app, ["vault", "restore", "--source", "airflow", "--to", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output + done.stderr
    with sqlite3.connect(tmp_path / "out" / "airflow.db") as database:
        assert database.execute("select count(*) from alembic_version").fetchone() == (1,)
    inventory = json.loads((tmp_path / "out" / "airflow-state.json").read_text())
    assert inventory["format"] == "holdfast.airflow-state/1"
    assert (tmp_path / "out" / "airflow-keys.json").is_file()
