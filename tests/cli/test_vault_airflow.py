"""`holdfast vault backup airflow` and `vault drill airflow` over a real Airflow's database, as somebody types them."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import Result
from typer.testing import CliRunner

from airflow_world import AirflowDatabase, children_of_this_process, migrated_sqlite, sqlite_database  # noqa: F401
from folders import SITES, add_vault, folder_runtime, make_folders
from holdfast.cli.main import app
from holdfast.engine.pipeline.vaults import opening
from holdfast.engine.runtime import Runtime

STEPS = ("read", "keys", "server", "restore", "migrations", "canary", "counts", "reconcile", "run")


@dataclass
class Backed:
    """A vault with a backup of an Airflow."""

    topology: Path
    evidence: Path

    def __call__(self, *words: str, code: int = 0) -> Result:
        done = CliRunner().invoke(app, list(words))
        assert done.exit_code == code, done.output + done.stderr
        assert "Traceback" not in done.output + done.stderr
        return done

    def drill(self, *words: str, code: int) -> dict[str, Any]:
        told = self("vault", "drill", "airflow", "--output", str(self.evidence), "--json", *words, code=code)
        found: dict[str, Any] = json.loads(told.stdout)
        return found

    def verified(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self("drill", "verify", str(self.evidence), "--json").stdout)
        return found

    def change(self, section: str, **settings: Any) -> None:
        document = yaml.safe_load(self.topology.read_text())
        document.setdefault(section, {}).update(settings)
        self.topology.write_text(yaml.safe_dump(document))


@pytest.fixture
def backed(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    sqlite_database: AirflowDatabase,  # noqa: F811
) -> Backed:
    world = tmp_path / "world"
    world.mkdir()
    (world / "escrow.key").write_text("12" * 32)
    topology = add_vault(make_folders(world), airflow_escrow=[f"file:{world}/escrow.key"])
    monkeypatch.setattr(Runtime, "from_environment", lambda *_args, **_kwargs: folder_runtime(topology))
    opening.made(folder_runtime(topology), "desk")
    for name, value in sqlite_database.environment(tmp_path / "airflow-home").items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("SOME_DATABASE", sqlite_database.url)
    monkeypatch.setenv("HOLDFAST_STATE", str(tmp_path / "state"))
    return Backed(topology, tmp_path / "evidence")


def back_up(backed: Backed) -> dict[str, Any]:
    words = ("vault", "backup", "airflow", "--url-variable", "SOME_DATABASE", "--json")
    made: dict[str, Any] = json.loads(backed(*words).stdout)
    return made


@pytest.fixture
def broken(tmp_path: Path) -> str:
    """An installation whose every command fails."""
    airflow = tmp_path / "broken-airflow"
    airflow.write_text("#!/bin/sh\necho its libraries are gone >&2\nexit 1\n")
    airflow.chmod(0o755)
    return str(airflow)


def test_airflows_database_is_backed_up_with_its_keys_in_escrow(backed: Backed, tmp_path: Path) -> None:
    made = back_up(backed)
    assert (made["source"], made["origin"]["database"], made["origin"]["escrow"]) == ("airflow", "sqlite", True)
    backed("vault", "restore", "--source", "airflow", "--to", str(tmp_path / "out"))
    with sqlite3.connect(tmp_path / "out" / "airflow.db") as database:
        assert database.execute("select count(*) from alembic_version").fetchone() == (1,)
    inventory = json.loads((tmp_path / "out" / "airflow-state.json").read_text())
    assert inventory["format"] == "holdfast.airflow-state/1"
    assert (tmp_path / "out" / "airflow-keys.json").is_file()


def test_the_database_and_its_keys_come_back_for_real(
    backed: Backed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    back_up(backed)
    fresh = tmp_path / "fresh.db"
    monkeypatch.setenv("FRESH", f"sqlite:///{fresh}")
    words = ("vault", "airflow", "restore", "--url-variable", "FRESH")
    assert "is not named" in backed(*words[:-1], "NOT_SET", code=2).stderr
    done = json.loads(backed(*words, "--from", SITES[2], "--json").stdout)
    assert (done["paused"], done["rescheduled"], done["counts"]["dags"]) == (2, 1, 2)
    with sqlite3.connect(fresh) as database:
        assert database.execute("select count(*) from dag where not is_paused").fetchone() == (0,)
    assert "nothing is overwritten" in backed(*words, code=3).stderr
    assert json.loads(backed("vault", "airflow", "reconcile", "--url-variable", "SOME_DATABASE", "--json").stdout) == {
        "paused": 2,
        "rescheduled": 1,
    }
    keys = tmp_path / "keys.json"
    told = backed("vault", "airflow", "keys", str(keys))
    opened = json.loads(keys.read_text())
    assert set(opened) == {"fernet_key", "api_secret_key", "jwt_secret"}
    assert opened["fernet_key"] == os.environ["AIRFLOW__CORE__FERNET_KEY"]
    assert not any(key in told.output + told.stderr for key in opened.values())
    assert keys.stat().st_mode & 0o777 == 0o600
    assert "cannot be made" in backed("vault", "airflow", "keys", str(keys), code=2).stderr
    (backed.topology.parent / "escrow.key").write_text("34" * 32)
    backed("vault", "airflow", "keys", str(tmp_path / "other.json"), code=3)
    assert not (tmp_path / "other.json").exists()


@pytest.mark.slow
def test_what_else_was_backed_up_under_its_name_is_no_airflow(
    backed: Backed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = back_up(backed)["backup"]
    empty, fresh = tmp_path / "empty", tmp_path / "fresh.db"
    empty.mkdir()
    monkeypatch.setenv("FRESH", f"sqlite:///{fresh}")
    other = json.loads(backed("vault", "backup", "tree", str(empty), "--name", "airflow", "--json").stdout)["backup"]
    restore = ("vault", "airflow", "restore", "--url-variable", "FRESH")
    for words in (restore, ("vault", "airflow", "keys", str(tmp_path / "keys.json"))):
        assert "no backup of Airflow" in backed(*words, "--backup", other, code=2).stderr
    assert not fresh.exists()
    assert json.loads(backed(*restore, "--json").stdout)["backup"] == made
    backed("vault", "airflow", "keys", str(tmp_path / "keys.json"))


@pytest.mark.slow
def test_a_backup_without_a_dump_is_refused(backed: Backed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    back_up(backed)
    folder, fresh = tmp_path / "out", tmp_path / "fresh.db"
    backed("vault", "restore", "--source", "airflow", "--to", str(folder))
    (folder / "airflow.db").unlink()
    monkeypatch.setenv("FRESH", f"sqlite:///{fresh}")
    other = json.loads(backed("vault", "backup", "tree", str(folder), "--name", "airflow", "--json").stdout)["backup"]
    restore = ("vault", "airflow", "restore", "--url-variable", "FRESH", "--backup", other)
    assert "airflow.db" in backed(*restore, code=2).stderr
    assert not fresh.exists()


def test_a_drill_that_fails_is_signed_with_what_it_measured(backed: Backed, broken: str) -> None:
    made = back_up(backed)
    backed.change("airflow", rto_seconds=600)
    journal = backed.drill("--airflow", broken, code=1)
    outcomes = {step["name"]: step["outcome"] for step in journal["steps"]}
    assert outcomes == {**dict.fromkeys(STEPS, "passed"), "migrations": "failed", "run": "unknown"}
    assert (journal["format"], journal["verdict"], journal["status"]) == (
        "holdfast.airflow-drill/1",
        "fail",
        "completed",
    )
    claims = {claim["name"]: claim["holds"] for claim in journal["claims"]}
    assert (claims["rto_met"], claims["rpo_met"], claims["history_witnessed"]) == (None, True, True)
    assert (journal["rto_seconds"], journal["objectives"]) == (None, {"rto_seconds": 600, "rpo_seconds": 26 * 3600})
    assert 0 <= journal["rpo_seconds"] < 3600
    assert journal["source"]["backup"]["backup"] == made["backup"]
    assert journal["source"]["vault"]["site"] == SITES[1]
    found = backed.verified()
    assert (found["verdict"], found["journal_format"], found["drill_id"]) == (
        "fail",
        "holdfast.airflow-drill/1",
        journal["drill_id"],
    )
    for site in SITES:
        kept = backed.topology.parent / site / "evidence" / journal["drill_id"]
        assert {one.name for one in kept.iterdir()} == {"journal.json", "report.html", "evidence.dsse.json"}
        assert (kept / "journal.json").read_bytes() == (backed.evidence / "journal.json").read_bytes()
    page = (backed.evidence / "report.html").read_text()
    assert "its libraries are gone" in page
    assert "correct horse" not in page


@pytest.mark.slow
def test_evidence_whose_numbers_were_changed_is_refused(backed: Backed, broken: str) -> None:
    back_up(backed)
    backed.drill("--airflow", broken, code=1)
    journal = backed.evidence / "journal.json"
    journal.write_text(journal.read_text().replace('"verdict":"fail"', '"verdict":"pass"'))
    assert "not the one that was signed" in backed("drill", "verify", str(backed.evidence), code=1).stderr


def test_a_drill_without_a_backup_or_without_its_key_is_signed_too(backed: Backed) -> None:
    journal = backed.drill(code=1)
    assert (journal["status"], journal["error"]["error"]) == ("failed", "UnknownBackup")
    assert {step["outcome"] for step in journal["steps"]} == {"unknown"}
    assert backed.verified()["verdict"] == "fail"
    (backed.topology.parent / "reader.key").write_text("34" * 32)
    journal = backed.drill(code=1)
    assert journal["error"]["error"] == "WrongKey"
    assert "34" * 8 not in json.dumps(journal)


def test_a_drill_that_is_interrupted_ends_what_it_started_and_is_signed(backed: Backed, tmp_path: Path) -> None:
    back_up(backed)
    before = children_of_this_process()
    told = tmp_path / "told"
    os.mkfifo(told)
    airflow = tmp_path / "slow-airflow"
    airflow.write_text(f"#!/bin/sh\necho began > {told}\nexec sleep 600\n")
    airflow.chmod(0o755)

    def interrupt() -> None:
        told.read_text()  # returns once the program runs
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=interrupt)
    thread.start()
    journal = backed.drill("--airflow", str(airflow), code=130)
    thread.join()
    assert (journal["status"], journal["verdict"]) == ("interrupted", "aborted")
    outcomes = {step["name"]: step["outcome"] for step in journal["steps"]}
    assert (outcomes["restore"], outcomes["migrations"], outcomes["run"]) == ("passed", "unknown", "unknown")
    assert backed.verified()["verdict"] == "aborted"
    assert children_of_this_process() <= before


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.e2e
def test_a_drill_that_passes_is_signed(backed: Backed) -> None:
    back_up(backed)
    backed.change("airflow", rto_seconds=3600)
    journal = backed.drill(code=0)
    assert {step["name"]: step["outcome"] for step in journal["steps"]} == dict.fromkeys(STEPS, "passed")
    assert all(claim["holds"] is True for claim in journal["claims"])
    assert journal["rto_seconds"] >= sum(step["seconds"] for step in journal["steps"]) * 0.99
    assert backed.verified()["verdict"] == "pass"
    told = backed("vault", "drill", "airflow", "--output", str(backed.evidence)).stdout
    assert "Passed: RTO" in told
