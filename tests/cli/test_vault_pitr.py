"""`holdfast vault pitr` with the PostgreSQL and pgBackRest that are installed, as somebody types it."""

from __future__ import annotations

import json
import shutil
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import s3_over_tls
from airflow_world import AirflowDatabase, children_of_this_process, migrate, needs_backrest, needs_postgres
from folders import add_vault
from holdfast.engine.drill.evidence import verify_evidence
from holdfast.engine.vault.airflow_state.pitr_drill import STEPS
from holdfast.engine.vault.airflow_state.scratch import ScratchPostgres
from holdfast.errors import ConfigError
from holdfast.operators.vault import BaseBackupOfAirflowOperator
from recovery_world import PASSPHRASE, QUICK, Recovery, recovery, utc


@pytest.fixture
def pitr(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Recovery]:
    with recovery(tmp_path, monkeypatch) as made:
        yield made


@pytest.mark.slow
@needs_postgres
@needs_backrest
def test_a_cluster_is_configured_backed_up_and_restored_to_a_moment(pitr: Recovery) -> None:
    assert "not configured" in pitr("pitr", "status", code=2).stderr
    pitr.begin()
    config = pitr.server.folder / "pgbackrest.conf"
    assert stat.S_IMODE(config.stat().st_mode) == 0o600
    assert config.owner() == pitr.server.data.owner()
    assert "stanza" in pitr("pitr", "status", code=1).stderr
    assert "stanza" in pitr("pitr", "backup", code=1).stderr
    assert pitr.json("pitr", "check")["backups"] == []
    assert pitr.json("pitr", "status", code=1)["newest_log"]
    first, second = pitr.json("pitr", "backup"), pitr.json("pitr", "backup")
    assert (first["type"], second["type"]) == ("full", "incr")
    task = BaseBackupOfAirflowOperator(task_id="base_backup", kind="full", topology_path=str(pitr.topology))
    assert task.act({}, pitr.runtime())["type"] == "full"
    assert [one["type"] for one in pitr.json("pitr", "status")["backups"]] == ["full", "incr", "full"]
    assert first["backup"] in pitr("pitr", "status").stdout

    pitr.server.create_database("airflow")
    database = AirflowDatabase(pitr.server.url_text("airflow"))
    with database.session() as session:
        session.change("CREATE TABLE kept AS SELECT 1 AS one")
    pitr("pitr", "check")
    with ScratchPostgres(pitr.server.programs, user=pitr.server.user, settings=QUICK) as other:
        done = pitr.json("pitr", "restore", str(other.data))
        assert done == {"folder": str(other.data), "at": None}
        assert "archive_mode = 'off'" in (other.data / "postgresql.auto.conf").read_text()
        other.start(role="holdfast")
        with AirflowDatabase(other.url_text("airflow")).session() as session:
            assert session.ask("SELECT one FROM kept") == [{"one": 1}]
        assert pitr("pitr", "restore", str(other.data), code=1).stderr
    pitr.describe(
        data_folder="/not/on/this/machine",
        config_file=str(pitr.server.folder / "restores.conf"),
        work_folder=str(pitr.server.folder / "restores"),
    )
    assert pitr.json("pitr", "configure", "--only-restores")["settings"] == {}
    with ScratchPostgres(pitr.server.programs, user=pitr.server.user) as other:
        pitr("pitr", "restore", str(other.data))
        assert (other.data / "recovery.signal").exists()
    early = pitr("pitr", "restore", "/tmp/never-made", "--at", "2020-01-01T00:00:00", code=1)
    assert "no base backup was complete by then" in early.stderr
    assert not Path("/tmp/never-made").exists()


@pytest.mark.slow
@needs_postgres
@needs_backrest
def test_the_repository_is_another_sites_bucket(pitr: Recovery, tmp_path: Path, free_port: Callable[[], int]) -> None:
    with s3_over_tls.serving(tmp_path, free_port()) as s3:
        s3.client().create_bucket(Bucket="recovery")
        shutil.copyfile(s3.certificate, pitr.server.folder / "ca.pem")
        endpoint = f"https://{s3_over_tls.HOST}:{s3.port}"
        pitr.environ["AIRFLOW_CONN_AWAY"] = _aws("the-secret-access-key", endpoint)
        pitr.change_site(cloud="aws", region=s3_over_tls.REGION, bucket="recovery", prefix="own", connection="away")
        pitr.describe(options={"repo1-storage-ca-file": str(pitr.server.folder / "ca.pem")})
        pitr.begin()
        pitr("pitr", "check")
        assert pitr.json("pitr", "backup")["type"] == "full"
        listed = s3.client().list_objects_v2(Bucket="recovery")["Contents"]
        assert {one["Key"].split("/")[:2] == ["own", "airflow-recovery"] for one in listed} == {True}


def _aws(secret: str, endpoint: str | None = None, **extra: Any) -> str:
    further = {"endpoint_url": endpoint} if endpoint else {}
    return json.dumps({"conn_type": "aws", "login": "access-key-id", "password": secret, "extra": {**further, **extra}})


def test_where_pgbackrest_is_not_installed_it_is_said(pitr: Recovery, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    for words in (["configure"], ["check"], ["backup"], ["status"], ["restore", "/tmp/x"]):
        assert "pgBackRest is not installed" in pitr("pitr", *words, code=2).stderr
    assert not (pitr.server.folder / "pgbackrest.conf").exists()


@needs_backrest
@pytest.mark.parametrize(
    ("site", "recovery_settings", "environ", "says"),
    [
        ({}, {"passphrase": "env:NOT_SET"}, {}, "passphrase"),
        ({}, {"passphrase": "env:SHORT"}, {"SHORT": "a-short-secret"}, "16 characters"),
        ({"cloud": "aws"}, {}, {"AIRFLOW_CONN_NONE": _aws("s", "http://127.0.0.1:9")}, "TLS only"),
        ({"cloud": "aws"}, {}, {"AIRFLOW_CONN_NONE": _aws("s", aws_session_token="a-token")}, "a session's token"),
        ({"cloud": "aws"}, {"connection": "other"}, {}, "AIRFLOW_CONN_OTHER"),
        (
            {"cloud": "gcp"},
            {},
            {"AIRFLOW_CONN_NONE": '{"conn_type": "google_cloud_platform", "extra": {"token": "a-token"}}'},
            "expire",
        ),
        ({"cloud": "azure"}, {}, {"AIRFLOW_CONN_NONE": '{"conn_type": "wasb", "login": "account"}'}, "account's key"),
    ],
)
def test_what_cannot_be_configured_is_one_clear_error(
    pitr: Recovery, site: dict[str, Any], recovery_settings: dict[str, Any], environ: dict[str, str], says: str
) -> None:
    pitr.environ |= environ
    pitr.change_site(**site)
    pitr.describe(**recovery_settings)
    told = pitr("pitr", "configure", code=2).stderr
    assert says in told
    assert not any(secret in told for secret in ("a-short-secret", "a-token", PASSPHRASE))
    assert not (pitr.server.folder / "pgbackrest.conf").exists()


@needs_backrest
@pytest.mark.parametrize(
    ("cloud", "connection", "lines"),
    [
        (
            "aws",
            {"conn_type": "aws", "login": "the-key", "password": "the-secret"},
            ["repo1-s3-key=the-key", "repo1-s3-key-secret=the-secret", "repo1-s3-endpoint=s3.here.amazonaws.com"],
        ),
        ("aws", {"conn_type": "aws"}, ["repo1-s3-key-type=auto"]),
        (
            "gcp",
            {"conn_type": "google_cloud_platform", "extra": {"keyfile_dict": {"private_key": "the-secret"}}},
            ["repo1-gcs-key-type=service", "repo1-gcs-key={folder}/pgbackrest.key.json"],
        ),
        ("gcp", {"conn_type": "google_cloud_platform"}, ["repo1-gcs-key-type=auto"]),
        (
            "azure",
            {"conn_type": "wasb", "login": "account", "password": "dGhlLXNlY3JldA=="},
            ["repo1-azure-account=account", "repo1-azure-key=dGhlLXNlY3JldA==", "repo1-azure-key-type=shared"],
        ),
        (
            "azure",
            {
                "conn_type": "wasb",
                "login": "account",
                "host": "https://account.blob.core.usgovcloudapi.net",
                "extra": {"sas_token": "sv=1&sig=the-secret"},
            },
            ["repo1-azure-key-type=sas", "repo1-azure-endpoint=blob.core.usgovcloudapi.net"],
        ),
    ],
)
def test_each_clouds_keys_go_into_the_file_and_nowhere_else(
    pitr: Recovery, cloud: str, connection: dict[str, Any], lines: list[str]
) -> None:
    pitr.environ["AIRFLOW_CONN_OWN"] = json.dumps(connection)
    pitr.change_site(cloud=cloud)
    pitr.describe(connection="own", keep_full=5, options={"process-max": "2"})
    done = pitr("pitr", "configure")
    assert "the-secret" not in done.output + done.stderr
    written = (pitr.server.folder / "pgbackrest.conf").read_text().splitlines()
    expected = [line.format(folder=pitr.server.folder) for line in lines]
    further = ["repo1-retention-full=5", "process-max=2", "repo1-cipher-type=aes-256-cbc"]
    assert [line for line in (*expected, *further) if line not in written] == []
    key = pitr.server.folder / "pgbackrest.key.json"
    if cloud == "gcp" and "extra" in connection:
        assert stat.S_IMODE(key.stat().st_mode) == 0o600
        assert json.loads(key.read_text()) == {"private_key": "the-secret"}
    else:
        assert not key.exists()


def test_a_topology_without_recovery_says_how_to_describe_it(pitr: Recovery) -> None:
    document = pitr.topology.read_text()
    pitr.topology.write_text(document[: document.index("airflow:")] + document[document.index("datasets:") :])
    assert "airflow.recovery" in pitr("pitr", "status", code=2).stderr


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.e2e
@needs_postgres
@needs_backrest
def test_a_drill_goes_back_to_a_moment_with_the_escrows_keys_and_is_signed(
    pitr: Recovery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOLDFAST_STATE", str(tmp_path / "state"))
    (tmp_path / "escrow.key").write_text("12" * 32)
    add_vault(pitr.topology, site="site-a", mirrors=[], witnesses=[], airflow_escrow=[f"file:{tmp_path}/escrow.key"])
    pitr.begin()
    pitr.server.create_database("airflow")
    database = AirflowDatabase(pitr.server.url_text("airflow"))
    migrate(database, tmp_path / "home-of-migrate")
    database.fill()
    pitr.environ |= database.environment(tmp_path / "home")
    pitr("init")
    pitr("backup", "airflow")
    pitr("pitr", "check")
    made = pitr.json("pitr", "backup")
    moment = pitr.moment_after(database, made["complete_at"])
    with database.session() as session:
        session.change("INSERT INTO variable (key, val, is_encrypted) VALUES ('too-late', 'x', FALSE)")
    pitr("pitr", "check")
    evidence = tmp_path / "evidence"
    before = children_of_this_process()
    journal = pitr.json("pitr", "drill", "--at", utc(moment), "--output", str(evidence))
    assert {step["name"]: step["outcome"] for step in journal["steps"]} == dict.fromkeys(STEPS, "passed")
    assert (journal["verdict"], journal["kind"]) == ("pass", "airflow-pitr-drill")
    assert journal["source"]["base_backup"] == made["backup"]
    assert journal["source"]["repository"]["site"] == "site-b"
    assert journal["rto_seconds"] > 0
    assert journal["rpo_seconds"] >= 0
    assert verify_evidence(evidence).verdict == "pass"
    kept = pitr.server.folder / "bucket" / "evidence" / journal["drill_id"] / "evidence.dsse.json"
    assert kept.read_bytes() == (evidence / "evidence.dsse.json").read_bytes()
    assert children_of_this_process() <= before
    # Without its keys a database is half of Airflow.
    document = pitr.topology.read_text()
    pitr.topology.write_text(document.replace("escrow.key", "gone.key"))
    journal = pitr.json("pitr", "drill", "--airflow", "/bin/false", "--output", str(evidence), code=1)
    outcomes = {step["name"]: step["outcome"] for step in journal["steps"]}
    assert (outcomes["keys"], outcomes["canary"], outcomes["database"]) == ("failed", "unknown", "passed")


def test_a_kind_of_base_backup_that_is_none_is_refused(pitr: Recovery) -> None:
    task = BaseBackupOfAirflowOperator(task_id="t", kind="whole", topology_path=str(pitr.topology))
    with pytest.raises(ConfigError, match="auto, full, diff, incr"):
        task.act({}, pitr.runtime())
