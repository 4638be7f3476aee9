"""Keys in escrow, what the inventory says, and what it must not say."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.fernet import Fernet

from airflow_world import PASSWORD, AirflowDatabase
from holdfast.engine.objectstore import memory_store
from holdfast.engine.vault.airflow_state.inventory import Inventory, differences, parse_inventory
from holdfast.engine.vault.airflow_state.keys import AirflowKeys, escrow_keys, open_escrow
from holdfast.engine.vault.airflow_state.redact import REDACTED, redact
from holdfast.engine.vault.airflow_state.restoring import read_beside
from holdfast.engine.vault.airflow_state.source import airflow_source
from holdfast.engine.vault.backup import back_up
from holdfast.engine.vault.backups import find_backup, live_backups
from holdfast.engine.vault.errors import Damaged, SourceFailed, WrongKey
from holdfast.engine.vault.keysets import make_vault
from holdfast.engine.vault.recipients import AgeRecipient, SecretRecipient
from holdfast.errors import ConfigError, Refused
from vault_world import SMALL, VaultWorld

GOLDEN = Path(__file__).parents[3] / "golden" / "airflow-state"
KEYS = AirflowKeys(Fernet.generate_key().decode(), "api-secret-key-1", "jwt-secret-key-22")


def test_only_the_escrows_recipient_opens_it(world: VaultWorld, officer: AgeRecipient) -> None:
    escrow = escrow_keys(KEYS, [officer], apart_from=[world.store])
    assert open_escrow(escrow.data, [officer]) == KEYS
    for secret in KEYS.secrets:
        assert secret.encode() not in escrow.data
        assert secret not in repr((escrow, KEYS))
    assert isinstance(world.recipient, AgeRecipient)
    with pytest.raises(WrongKey):
        open_escrow(escrow.data, [world.recipient])
    with pytest.raises(WrongKey):
        open_escrow(escrow.data, [replace(world.recipient, key_name=officer.key_name)])


def test_who_reads_the_backups_may_not_hold_the_keys(world: VaultWorld, officer: AgeRecipient) -> None:
    with pytest.raises(Refused, match="also opens the backups"):
        escrow_keys(KEYS, [officer, world.recipient], apart_from=[world.store])


def test_the_same_secret_under_another_name_is_refused_too(officer: AgeRecipient) -> None:
    store, secret = memory_store("vault"), os.urandom(32)
    readers = [SecretRecipient("reader", secret), officer]
    make_vault("vault", store, {"writer": readers, "reader": readers, "admin": readers})
    with pytest.raises(Refused, match="also opens the backups"):
        escrow_keys(KEYS, [SecretRecipient("another-name", secret)], apart_from=[store])
    assert escrow_keys(KEYS, [SecretRecipient("reader-of-keys", os.urandom(32))], apart_from=[store]).data


def test_an_escrow_that_nobody_could_open_or_that_holds_nothing_is_refused(
    world: VaultWorld, officer: AgeRecipient
) -> None:
    with pytest.raises(ConfigError, match="nobody could open"):
        escrow_keys(KEYS, [], apart_from=[world.store])
    with pytest.raises(ConfigError, match="nothing to put in escrow"):
        escrow_keys(AirflowKeys(), [officer], apart_from=[world.store])


def test_a_changed_escrow_is_refused(world: VaultWorld, officer: AgeRecipient) -> None:
    document = json.loads(escrow_keys(KEYS, [officer], apart_from=[world.store]).data)
    sealed = document["sealed"]
    document["sealed"] = sealed[:-8] + ("A" if sealed[-8] != "A" else "B") + sealed[-7:]
    with pytest.raises(Damaged):
        open_escrow(json.dumps(document).encode(), [officer])
    with pytest.raises(Damaged):
        open_escrow(b"{}", [officer])


def test_keys_that_do_not_open_the_database_are_no_escrow_of_it(
    world: VaultWorld, sqlite_database: AirflowDatabase, officer: AgeRecipient
) -> None:
    escrow = escrow_keys(KEYS, [officer], apart_from=[world.store])
    with pytest.raises(SourceFailed, match="connection warehouse, variable token"):
        back_up(world.open(), airflow_source(sqlite_database.url, escrow=escrow), SMALL)
    assert live_backups(world.open()) == []


def test_a_rotated_key_still_counts_when_the_old_one_is_named_beside_it(
    world: VaultWorld, sqlite_database: AirflowDatabase, officer: AgeRecipient
) -> None:
    both = replace(KEYS, fernet_key=f"{KEYS.fernet_key},{sqlite_database.keys.fernet_key}")
    escrow = escrow_keys(both, [officer], apart_from=[world.store])
    with airflow_source(sqlite_database.url, escrow=escrow) as source:
        back_up(world.open(), source, SMALL)
    vault = world.open("reader")
    beside = read_beside(vault, find_backup(vault))
    assert beside.keys is not None
    assert open_escrow(beside.keys, [officer]) == both


def test_the_command_tells_configuration_and_keys_and_no_secret_lies_open(
    world: VaultWorld, sqlite_database: AirflowDatabase, officer: AgeRecipient, tmp_path: Path
) -> None:
    command = sqlite_database.command(tmp_path / "home")
    command = replace(
        command,
        environment={
            **command.environment,
            "AIRFLOW__LOGGING__REMOTE_LOGGING": "True",
            "AIRFLOW__LOGGING__REMOTE_BASE_LOG_FOLDER": "s3://logs/airflow",
            "AIRFLOW__COMMON_IO__XCOM_OBJECTSTORAGE_PATH": "s3://aws_default@xcom/airflow",
            "AIRFLOW__CELERY__BROKER_URL": "redis://:broker-password@redis:6379/0",
            "AIRFLOW__API__BASE_URL": "https://somebody:in-the-base-url@airflow.example",
            "AIRFLOW__CORE__HOSTNAME_CALLABLE": f"a.{KEYS.jwt_secret}",
        },
    )
    keys = AirflowKeys.from_command(command)
    assert keys == sqlite_database.keys == AirflowKeys.from_environment(command.environment)
    assert keys.jwt_private_key is None
    escrow = escrow_keys(keys, [officer], apart_from=[world.store])
    with airflow_source(sqlite_database.url, command=command, escrow=escrow) as source:
        back_up(world.open(), source, SMALL)
    vault = world.open("reader")
    beside = read_beside(vault, find_backup(vault))
    text = beside.inventory.to_bytes().decode()
    for secret in (*keys.secrets, "broker-password", "in-the-base-url", PASSWORD):
        assert secret not in text
    document = json.loads(text)
    assert document["format"] == "holdfast.airflow-state/1"
    assert document["airflow"] == document["pins"]["apache-airflow-core"]
    assert document["pins"]["apache-airflow-providers-standard"]
    assert document["configuration"]["core"]["fernet_key"] == REDACTED
    assert document["configuration"]["core"]["executor"] == "LocalExecutor"
    assert document["locations"]["remote_log_folder"] == "s3://logs/airflow"
    assert document["locations"]["xcom_path"] == "s3://aws_default@xcom/airflow"
    assert document["escrow"]["keys"] == ["fernet_key", "api_secret_key", "jwt_secret"]
    assert document["escrow"]["recipients"] == [{"kind": "age", "key": officer.key_name}]


def test_only_git_bundles_are_called_versioned(world: VaultWorld, sqlite_database: AirflowDatabase) -> None:
    bundles = [
        {"name": "git", "classpath": "airflow.providers.git.bundles.git.GitDagBundle", "kwargs": {"token": "t0p"}},
        {"name": "local", "classpath": "airflow.dag_processing.bundles.local.LocalDagBundle", "kwargs": {}},
    ]
    configuration = {"dag_processor": {"dag_bundle_config_list": json.dumps(bundles)}}
    inventory = look(sqlite_database, configuration)
    assert {one.name: (one.versioned, one.version, one.versions) for one in inventory.database.bundles} == {
        "git": (True, "c0ffee", 2),
        "local": (False, None, 0),
    }
    assert "t0p" not in inventory.to_bytes().decode()
    assert {one.versioned for one in look(sqlite_database, None).database.bundles} == {None}


def look(database: AirflowDatabase, configuration: dict[str, dict[str, str]] | None) -> Inventory:
    with airflow_source(database.url, configuration=configuration) as source:
        assert [item.path for item in source.objects()] == ["airflow-state.json", "airflow.db"]
        assert source.inventory is not None
        return source.inventory


def test_an_inventory_reads_back_and_says_every_difference(sqlite_database: AirflowDatabase) -> None:
    inventory = look(sqlite_database, None)
    assert parse_inventory(inventory.to_bytes(), "here") == inventory
    state = inventory.database
    assert differences(state, state) == []
    changed = {
        "table dag_run: 2 rows, not 3": replace(state, tables={**state.tables, "dag_run": 2}),
        "table dag: not there, not 2 rows": replace(
            state, tables={k: v for k, v in state.tables.items() if k != "dag"} | {"dag": None}
        ),
        "table new: 1 rows, not not there": replace(state, tables={**state.tables, "new": 1}),
        "Alembic revision abc": replace(state, revisions=("abc",)),
        "active_task_instances: 9": replace(state, active_tasks=9),
        "bundle git: ('c0ffee', 1)": replace(
            state, bundles=(replace(state.bundles[0], versions=1), *state.bundles[1:])
        ),
    }
    for told, other in changed.items():
        assert any(line.startswith(told) for line in differences(state, other)), told
    with pytest.raises(Damaged):
        parse_inventory(b'{"format": "holdfast.airflow-state/2"}', "here")


@pytest.mark.parametrize(
    ("option", "value", "kept"),
    [
        ("fernet_key", "abc", REDACTED),
        ("sql_alchemy_conn", "postgresql://u:p@h/d", REDACTED),
        ("broker_url", "redis://:p@h", REDACTED),
        ("smtp_password", "p", REDACTED),
        ("backend_kwargs", '{"role_id": "x"}', REDACTED),
        ("flower_basic_auth_token", "p", REDACTED),
        ("sentry_dsn", "https://k@sentry/1", REDACTED),
        ("jwt_secret", "p", REDACTED),
        ("jwt_secret_cmd", "cat /run/x", REDACTED),
        ("api_url", "https://u:p@ss@h/x", f"https://u:{REDACTED}@h/x"),
        ("git_url", "https://ghp_0123@github.com/x", f"https://{REDACTED}@github.com/x"),
        ("xcom_path", "s3://aws_default@bucket/x", "s3://aws_default@bucket/x"),
        ("sas_url", "https://a.blob/x?sv=1&sig=abc%3D", f"https://a.blob/x?sv=1&sig={REDACTED}"),
        ("min_length_masked_secret", "5", REDACTED),
        ("parallelism", "32", "32"),
        ("dags_folder", "/dags", "/dags"),
        ("empty_password", "", ""),
        ("note", "holds topsecret9 inside", f"holds {REDACTED} inside"),
        (
            "bundles",
            '[{"kwargs": {"access_token": "t", "path": "/x"}}]',
            f'[{{"kwargs": {{"access_token": "{REDACTED}", "path": "/x"}}}}]',
        ),
    ],
)
def test_secrets_leave_the_configuration(option: str, value: str, kept: str) -> None:
    assert redact({"s": {option: value}}, ["topsecret9"]) == {"s": {option: kept}}


def test_documents_of_version_one_are_read_and_written_as_ever() -> None:
    data = (GOLDEN / "airflow-state.json").read_bytes()
    inventory = parse_inventory(data, "golden")
    assert inventory.to_bytes() == data
    assert inventory.airflow == "3.3.2"
    assert [bundle.versioned for bundle in inventory.database.bundles] == [True, False]
    identity = AgeRecipient.from_identity((GOLDEN / "airflow-keys.identity").read_text(), "golden")
    keys = open_escrow((GOLDEN / "airflow-keys.json").read_bytes(), [identity])
    assert (keys.api_secret_key, keys.jwt_secret, keys.jwt_private_key) == ("api-secret", "jwt-secret", None)
    assert inventory.escrow is not None
    assert inventory.escrow["recipients"] == [{"kind": "age", "key": identity.key_name}]
    with pytest.raises(Damaged):
        parse_inventory(data.replace(b'"pins"', b'"pin"'), "golden")
