"""Point-in-time recovery with the pgBackRest that is installed, on a cluster and a repository of the test's own."""

from __future__ import annotations

import json
import shutil
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

import s3_over_tls
from airflow_world import AIRFLOW, AirflowDatabase, children_of_this_process, migrate, needs_backrest, needs_postgres
from holdfast.engine.vault.airflow_state.command import AirflowCommand
from holdfast.engine.vault.airflow_state.drilling import DrillOptions
from holdfast.engine.vault.airflow_state.pitr import BackRestBackup, Cluster, PgBackRest, Repository
from holdfast.engine.vault.airflow_state.pitr_drill import STEPS, pitr_drill_airflow
from holdfast.engine.vault.airflow_state.programs import find_programs
from holdfast.engine.vault.airflow_state.scratch import ScratchPostgres
from holdfast.engine.vault.airflow_state.sessions import open_session
from holdfast.engine.vault.errors import CommandFailed, MissingProgram
from holdfast.errors import ConfigError

PASSPHRASE = "a passphrase of some length"
#: No machine is lost in a test.
QUICK = {"fsync": "off"}
#: Nothing but a test changes anything.
QUIET = {"autovacuum": "off"}


@dataclass
class Live:
    """A cluster that archives its log, with an Airflow's database in it."""

    server: ScratchPostgres
    backrest: PgBackRest
    repository: Path
    database: AirflowDatabase

    def now(self) -> datetime:
        """By the cluster's clock, after everything committed so far; what is committed later is later than this."""
        with self.database.session() as session:
            found = session.ask("SELECT clock_timestamp() AS now")[0]["now"]
        return datetime.fromisoformat(found)

    def now_after(self, backup: BackRestBackup) -> datetime:
        """The same, as soon as it is a moment that the backup reaches."""
        while not backup.reaches(moment := self.now()):
            assert moment - backup.stopped_at < timedelta(seconds=60)
        return moment

    def add_variable(self, name: str) -> None:
        with self.database.session() as session:
            session.change(f"INSERT INTO variable (key, val, is_encrypted) VALUES ('{name}', 'x', FALSE)")

    def restored(self, at: datetime | None) -> set[str]:
        """The variables of the cluster as of then, restored to a server of its own."""
        with ScratchPostgres(self.server.programs, user=self.server.user, settings=QUICK) as server:
            self.backrest.restore(server.data, at=at)
            server.start(role="holdfast")
            other = AirflowDatabase(server.url_text("airflow"))
            with other.session() as session:
                return {row["key"] for row in session.ask("SELECT key FROM variable")}


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    with ScratchPostgres(find_programs()) as server:
        work, repository = server.make_folder("backrest"), server.make_folder("repository")
        backrest = PgBackRest("airflow", server.folder / "pgbackrest.conf", user=server.user, timeout_seconds=300)
        where = Repository.posix(repository).encrypted(PASSPHRASE)
        backrest.write_config(where, Cluster(server.data), work=work)
        server.settings = {"archive_mode": "on", "archive_command": backrest.archive_command, **QUICK, **QUIET}
        server.initialise()
        server.start()
        cluster = Cluster(server.data, server.port, server.sockets, "holdfast")
        backrest.write_config(where, cluster, work=work)
        server.create_database("airflow")
        database = AirflowDatabase(server.url_text("airflow"))
        migrate(database, tmp_path_factory.mktemp("airflow-pitr"))
        backrest.create()
        backrest.check()
        yield Live(server, backrest, repository, database.fill())


@pytest.mark.slow
@needs_postgres
@needs_backrest
def test_any_moment_since_a_base_backup_is_reached(live: Live) -> None:
    live.add_variable("before")
    first = live.backrest.back_up("full")
    live.add_variable("kept")
    moment = live.now_after(first)
    live.add_variable("too-late")
    later = live.now()
    live.add_variable("last")
    live.backrest.check()
    written = {"before", "kept", "too-late", "last"}
    assert live.restored(moment) & written == {"before", "kept"}
    assert live.restored(later) & written == {"before", "kept", "too-late"}
    second = live.backrest.back_up("incr")
    assert live.restored(None) & written == written
    assert [one.label for one in live.backrest.backups()] == [first.label, second.label]
    assert (first.kind, second.kind) == ("full", "incr")
    assert second.stored_bytes < first.stored_bytes
    assert abs(datetime.now(UTC) - second.stopped_at) < timedelta(hours=1)


@pytest.mark.slow
@needs_postgres
@needs_backrest
def test_what_lies_in_the_repository_is_encrypted_and_needs_the_passphrase(live: Live, tmp_path: Path) -> None:
    live.add_variable("a-name-to-look-for")
    live.backrest.check()
    files = [file for file in live.repository.rglob("*") if file.is_file()]
    assert files
    assert not any(b"airflow" in file.read_bytes() for file in files)
    other = replace(live.backrest, config=live.server.folder / "other.conf")
    other.write_config(
        Repository.posix(live.repository).encrypted("another passphrase"), None, work=live.server.folder / "backrest"
    )
    with pytest.raises(CommandFailed) as caught:
        other.backups()
    assert "another passphrase" not in str(caught.value)


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.e2e
@needs_postgres
@needs_backrest
def test_a_scheduler_runs_a_dag_on_a_cluster_that_was_rolled_forward(live: Live, tmp_path: Path) -> None:
    backup = live.backrest.back_up("full")
    live.add_variable("rolled-forward")
    moment = live.now_after(backup)
    live.add_variable("not-any-more")
    live.backrest.check()
    before = children_of_this_process()
    report = pitr_drill_airflow(
        live.backrest,
        command=live.database.command(tmp_path / "home"),
        superuser="holdfast",
        at=moment,
        keys=live.database.keys,
    )
    assert {step.name: step.outcome for step in report.steps} == dict.fromkeys(STEPS, "passed"), report.steps
    assert report.passed
    assert report.taken_at is not None
    assert report.taken_at <= moment
    assert children_of_this_process() <= before


@pytest.mark.slow
@needs_postgres
@needs_backrest
def test_a_moment_before_the_first_base_backup_fails(live: Live) -> None:
    report = pitr_drill_airflow(
        live.backrest,
        command=AirflowCommand(AIRFLOW, {}),
        superuser="holdfast",
        at=datetime(2020, 1, 1, tzinfo=UTC),
    )
    assert [step.outcome for step in report.steps][:2] == ["failed", "unknown"]
    assert not report.passed


@pytest.mark.slow
@needs_postgres
@needs_backrest
def test_a_moment_that_the_log_does_not_go_beyond_is_told_as_that(live: Live) -> None:
    moment = live.now_after(live.backrest.back_up("full"))
    live.backrest.check()
    report = pitr_drill_airflow(
        live.backrest, command=AirflowCommand(AIRFLOW, {}), superuser="holdfast", at=moment, keys=live.database.keys
    )
    (server,) = [step for step in report.steps if step.name == "server"]
    assert server.outcome == "failed"
    assert "no change after the moment" in server.reason
    assert live.backrest.newest_log() in server.reason


@pytest.mark.slow
@needs_postgres
@needs_backrest
def test_the_repository_may_be_a_bucket_of_s3(tmp_path: Path, free_port: Callable[[], int]) -> None:
    with (
        s3_over_tls.serving(tmp_path, free_port()) as s3,
        ScratchPostgres(find_programs()) as server,
        ScratchPostgres(find_programs()) as other,
    ):
        s3.client().create_bucket(Bucket="recovery")
        shutil.copyfile(s3.certificate, server.folder / "ca.pem")
        backrest = PgBackRest("airflow", server.folder / "pgbackrest.conf", user=server.user, timeout_seconds=200)
        repository = (
            Repository.s3("recovery", s3_over_tls.REGION, key="access-key-id", secret="the-secret-access-key")
            .encrypted(PASSPHRASE)
            .having(
                storage_host=s3_over_tls.HOST,
                storage_port=str(s3.port),
                storage_ca_file=str(server.folder / "ca.pem"),
                s3_uri_style="path",
            )
        )
        work = server.make_folder("backrest")
        backrest.write_config(repository, Cluster(server.data), work=work)
        server.settings = {"archive_mode": "on", "archive_command": backrest.archive_command, **QUICK}
        server.initialise()
        server.start()
        cluster = Cluster(server.data, server.port, server.sockets, "holdfast")
        backrest.write_config(repository, cluster, work=work, options={"repo1-bundle": "y"})
        backrest.create()
        backrest.back_up("full")
        with open_session(server.url("postgres"), server.programs, timeout_seconds=60) as session:
            session.change("CREATE TABLE since AS SELECT 42 AS answer")
        backrest.check()
        backrest.restore(other.data)
        other.start()
        with open_session(other.url("postgres"), other.programs, timeout_seconds=60) as session:
            assert session.ask("SELECT answer FROM since") == [{"answer": 42}]
        listed = s3.client().list_objects_v2(Bucket="recovery")["Contents"]
        assert all(one["Key"].startswith("pgbackrest/") for one in listed)


@needs_backrest
@pytest.mark.parametrize(
    "repository",
    [
        Repository.s3("bucket", "eu-west-1", key="an-access-key", secret="the-secret-key-itself"),
        Repository.s3("bucket", "eu-west-1", key="an-access-key", secret="the-secret-key-itself").encrypted(PASSPHRASE),
        Repository.azure("account", "container", "dGhlLWtleS1pdHNlbGY="),
        Repository.azure("account", "container", "sv=2022&sig=the-key-itself", is_sas=True),
    ],
    ids=["s3", "s3-encrypted", "azure", "azure-sas"],
)
def test_pgbackrest_takes_the_configuration_of_each_cloud(
    repository: Repository, tmp_path: Path, free_port: Callable[[], int]
) -> None:
    port = free_port()
    backrest = PgBackRest("airflow", tmp_path / "pgbackrest.conf", timeout_seconds=60)
    # Nobody listens there: it gets as far as trying to connect, and warns of any option that it does not know.
    away = repository.having(storage_host="127.0.0.1", storage_port=str(port))
    backrest.write_config(away, Cluster(Path("/nowhere")), work=tmp_path, options={"io-timeout": "0.1"})
    with pytest.raises(CommandFailed) as caught:
        backrest.backups()
    assert "unable to connect to '127.0.0.1:" in str(caught.value)
    assert "WARN" not in str(caught.value)
    for secret in (*repository.secrets.values(), PASSPHRASE):
        assert secret not in str(caught.value)
        assert secret not in repr(away)


def test_the_configuration_is_for_its_user_alone_and_replaced_whole(tmp_path: Path) -> None:
    backrest = PgBackRest("airflow", tmp_path / "pgbackrest.conf")
    backrest.write_config(Repository.gcs("bucket", key_file=Path("/keys/gcs.json")), None, work=tmp_path)
    backrest.write_config(Repository.gcs("bucket"), Cluster(Path("/data"), 5433), work=tmp_path, keep_full=7)
    text = backrest.config.read_text()
    assert stat.S_IMODE(backrest.config.stat().st_mode) == 0o600
    for line in (
        "repo1-type=gcs",
        "repo1-gcs-key-type=auto",
        "repo1-retention-full=7",
        "pg1-path=/data",
        "pg1-port=5433",
    ):
        assert line in text.splitlines()
    assert "gcs.json" not in text
    with pytest.raises(ConfigError, match="cipher-pass") as caught:
        backrest.write_config(Repository.gcs("bucket").encrypted("two\nlines-of-secret"), None, work=tmp_path)
    assert "lines-of-secret" not in str(caught.value)
    assert backrest.config.read_text() == text
    assert list(tmp_path.iterdir()) == [backrest.config]


def test_a_missing_pgbackrest_is_said(tmp_path: Path) -> None:
    backrest = PgBackRest("airflow", tmp_path / "pgbackrest.conf", program=tmp_path / "pgbackrest")
    with pytest.raises(MissingProgram, match="pgBackRest is not installed"):
        backrest.require()
    report = pitr_drill_airflow(backrest, command=AirflowCommand(AIRFLOW, {}), options=DrillOptions(folder=tmp_path))
    assert [step.outcome for step in report.steps] == ["failed", *["unknown"] * (len(STEPS) - 1)]
    assert "not installed" in report.steps[0].reason


def test_a_moment_without_a_time_zone_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no time zone"):
        PgBackRest("airflow", tmp_path / "x").restore(tmp_path / "data", at=datetime(2026, 1, 1))


@needs_backrest
def test_pgbackrest_takes_a_service_accounts_key(tmp_path: Path, free_port: Callable[[], int]) -> None:
    port = free_port()
    account = {
        "type": "service_account",
        "client_email": "backup@project.iam.gserviceaccount.com",
        "private_key": _private_key(),
        "token_uri": f"https://localhost:{port}/token",
    }
    (tmp_path / "account.json").write_text(json.dumps(account))
    backrest = PgBackRest("airflow", tmp_path / "pgbackrest.conf", timeout_seconds=60)
    repository = Repository.gcs("bucket", key_file=tmp_path / "account.json")
    backrest.write_config(repository, Cluster(Path("/nowhere")), work=tmp_path, options={"io-timeout": "0.1"})
    with pytest.raises(CommandFailed, match="unable to connect to 'localhost:") as caught:
        backrest.backups()
    assert "WARN" not in str(caught.value)


def _private_key() -> str:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import rsa

    key = rsa.generate_private_key(65537, 2048)
    encoded = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return encoded.decode()
