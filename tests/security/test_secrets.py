"""Secrets of connections and keys show nowhere: not where commands fail, not in what they write."""

from __future__ import annotations

import base64
import json
import logging
import os
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import yaml
from airflow.sdk.exceptions import AirflowFailException
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from typer.testing import CliRunner

from audit_world import add_audit
from folders import add_vault, make_folders
from holdfast.cli.main import app
from holdfast.engine.config import Connection, EnvironmentConnections, load_topology
from holdfast.engine.drill.keys import load_or_create_key, load_public_key
from holdfast.engine.objectstore import open_store
from holdfast.engine.objectstore.connect import access_from_connection
from holdfast.errors import ConfigError, HoldfastError
from holdfast.operators.audit import ExportAuditOperator, VerifyExportsOperator
from holdfast.operators.posture import CheckPostureOperator, CheckResidencyOperator
from security_world import Canary, Repeater, files_below, leaks, repeater

PASSWORD = Canary.of("password")
TOKEN = Canary.of("token")
SIGNATURE = Canary.of("signature")
ACCOUNT_KEY = Canary.base64_of("account")
CANARIES = (PASSWORD, TOKEN, SIGNATURE, ACCOUNT_KEY)
SAS = f"sv=2021-12-02&ss=b&srt=co&sp=rl&se=2030-01-01T00:00:00Z&sig={SIGNATURE.text}"


def test_the_search_finds_a_secret_in_every_form_it_may_take() -> None:
    for name, form in PASSWORD.forms().items():
        assert leaks([PASSWORD], {"here": b"before " + form + b" after"}), name
    assert not leaks([PASSWORD], {"here": b"canary"})


@pytest.fixture(scope="module")
def refusing() -> Iterator[Repeater]:
    with repeater() as found:
        yield found


def aws(url: str) -> dict[str, Any]:
    extra = {"endpoint_url": url, "region_name": "eu-west-1", "aws_session_token": TOKEN.text}
    return {"conn_type": "aws", "login": "AKIA", "password": PASSWORD.text, "extra": extra}


def gcp(url: str) -> dict[str, Any]:
    return {"conn_type": "google_cloud_platform", "extra": {"endpoint_url": url, "token": TOKEN.text}}


def azure_sas(url: str) -> dict[str, Any]:
    return {"conn_type": "wasb", "host": url, "login": "account", "extra": {"sas_token": SAS}}


def azure_key(url: str) -> dict[str, Any]:
    return {"conn_type": "wasb", "host": url, "login": "account", "password": ACCOUNT_KEY.text}


def azure_string(url: str) -> dict[str, Any]:
    text = f"AccountName=account;AccountKey={ACCOUNT_KEY.text};BlobEndpoint={url}/account"
    return {"conn_type": "wasb", "extra": {"connection_string": text}}


LOGINS = {
    "aws": ("aws", aws),
    "gcp": ("gcp", gcp),
    "azure-sas": ("azure", azure_sas),
    "azure-key": ("azure", azure_key),
    "azure-string": ("azure", azure_string),
}


def one_site(tmp_path: Path, cloud: str) -> Path:
    site = {"cloud": cloud, "region": "r", "jurisdiction": "EU", "connection": "canary", "bucket": "bucket"}
    file = tmp_path / "topology.yaml"
    file.write_text(yaml.safe_dump({"version": 1, "sites": {"site-a": site}, "groups": {}}))
    return file


@pytest.mark.parametrize("login", LOGINS)
def test_a_service_that_repeats_what_it_was_told_tells_no_secret_on(
    login: str, tmp_path: Path, refusing: Repeater, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The error's texts, its traceback, the logs: an AccessDenied often quotes the request."""
    cloud, made = LOGINS[login]
    connection = made(refusing.url)
    monkeypatch.setenv("AIRFLOW_CONN_CANARY", json.dumps(connection))
    topology = load_topology(one_site(tmp_path, cloud))
    site = topology.site("site-a")
    found = EnvironmentConnections().get("canary")
    store = open_store("site-a", site, access_from_connection(site, found), retry=None)
    before = len(refusing.seen)
    told: dict[str, str] = {"repr of the connection": repr(found), "str of the connection": str(found)}
    with caplog.at_level(logging.INFO):
        for name, act in {
            "get": lambda: store.get("data/key"),
            "head": lambda: store.head("data/key"),
            "put": lambda: store.put("data/key", b"x"),
            "list": lambda: list(store.list("data/")),
            "delete": lambda: store.delete("data/key"),
        }.items():
            with pytest.raises(HoldfastError) as caught:
                act()
            told[f"the error of {name}"] = f"{caught.value} {caught.value!r} {caught.value.as_dict()}"
            told[f"the traceback of {name}"] = "".join(traceback.format_exception(caught.value))
    assert len(refusing.seen) >= before + 5
    requests = refusing.seen[before:]
    if login in ("gcp", "azure-sas"):  # the others sign: the secret itself is never sent
        assert leaks(CANARIES, {"the requests": repr(requests)})
    told["the logs"] = caplog.text
    assert not leaks([*CANARIES, *made_signatures(requests)], told)


def made_signatures(requests: Iterable[tuple[str, str, dict[str, str], bytes]]) -> list[Canary]:
    """What a key signed for hours opens as much as the key does, meanwhile."""
    found = {value for _, path, _, _ in requests for value in parse_qs(urlsplit(path).query).get("sig", ())}
    return [Canary("a shared access signature", value) for value in sorted(found)]


@pytest.mark.parametrize("login", LOGINS)
def test_an_endpoint_that_is_away_tells_no_secret_on(
    login: str, tmp_path: Path, free_port: Callable[[], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    cloud, made = LOGINS[login]
    found = Connection.model_validate({**made(f"http://127.0.0.1:{free_port()}"), "conn_id": "canary"})
    site = load_topology(one_site(tmp_path, cloud)).site("site-a")
    store = open_store("site-a", site, access_from_connection(site, found), retry=None)
    told = {}
    for act in (lambda: store.get("key"), lambda: store.put("key", b"x"), lambda: list(store.list())):
        with pytest.raises(HoldfastError) as caught:
            act()
        told[f"error {len(told)}"] = "".join(traceback.format_exception(caught.value)) + str(caught.value.as_dict())
    assert not leaks(CANARIES, told)


@pytest.mark.parametrize(
    "text",
    [
        f'{{"conn_type": "aws", "password": "{PASSWORD.text}"',
        f'{{"conn_type": ["{PASSWORD.text}"]}}',
        f'{{"conn_type": "aws", "extra": "{{{PASSWORD.text}"}}',
        f'{{"conn_type": "aws", "extra": ["{PASSWORD.text}"]}}',
        f'{{"conn_type": "aws", "port": "{PASSWORD.text}"}}',
        f'["{PASSWORD.text}"]',
        f"aws://login:{PASSWORD.text}@host",
    ],
)
def test_a_connection_that_cannot_be_read_is_not_quoted(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        EnvironmentConnections({"AIRFLOW_CONN_CANARY": text}).get("canary")
    told = "".join(traceback.format_exception(caught.value)) + str(caught.value.as_dict())
    assert not leaks([PASSWORD], {"the error": told})


class Commands:
    """A topology in folders whose connection, signing key and vault keys are canaries."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.topology = add_vault(add_audit(make_folders(folder, prices={"residency": "eu-only"})))
        document = yaml.safe_load(self.topology.read_text())
        document["cost"] = {"currency": "USD", "exports": {"bill": {"site": "site-c", "bucket": str(folder / "bills")}}}
        self.topology.write_text(yaml.safe_dump(document))
        (folder / "bills").mkdir()
        (folder / "site-a" / "data" / "prices").mkdir(parents=True)
        (folder / "site-a" / "data" / "prices" / "one").write_bytes(b"1" * 1000)
        connection = {"conn_type": "generic", "login": "somebody", "password": PASSWORD.text}
        connection["extra"] = json.dumps({"token": TOKEN.text, "sas_token": SAS})
        monkeypatch.setenv("AIRFLOW_CONN_NONE", json.dumps(connection))
        monkeypatch.setenv("HOLDFAST_TOPOLOGY", str(self.topology))
        monkeypatch.setenv("HOLDFAST_STATE", str(folder / "state"))
        monkeypatch.delenv("HOLDFAST_SIGNING_KEY", raising=False)
        key = load_or_create_key(os.environ)
        plain = key.private_bytes(Encoding.Raw, PrivateFormat.Raw, NoEncryption())
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
        vault_keys = [(folder / f"{role}.key").read_text() for role in ("writer", "reader", "admin")]
        self.secrets = [
            *CANARIES,
            Canary("the signing key", pem.splitlines()[1]),
            Canary("the signing key's bytes, in hex", plain.hex()),
            Canary("the signing key's bytes, in base64", base64.b64encode(plain).decode()),
            *(Canary(f"vault key {number}", text) for number, text in enumerate(vault_keys)),
            *(
                Canary(f"vault key {number}, in base64", base64.b64encode(bytes.fromhex(text)).decode())
                for number, text in enumerate(vault_keys)
            ),
        ]
        self.key_files = [*folder.glob("*.key"), *(folder / "state").rglob("*.pem"), *(folder / "state").rglob("*key*")]
        self.told: dict[str, str] = {}
        self.codes: dict[str, int] = {}

    def run(self, *words: str) -> Any:
        done = CliRunner().invoke(app, list(words))
        name = " ".join(words)
        self.codes[name] = done.exit_code
        self.told[f"stdout of {name}"], self.told[f"stderr of {name}"] = done.stdout, done.stderr
        if done.exc_info is not None:
            self.told[f"the traceback of {name}"] = "".join(traceback.format_exception(*done.exc_info))
        return done


#: Commands and how each ends: 3: folders cannot agree who is active; 7: unknown (no key is trusted, no bill is there).
COMMANDS: Sequence[tuple[int, Sequence[str]]] = (
    (0, ("check", "--offline", "--json")),
    (0, ("check", "--json")),
    (0, ("audit", "keys", "--json")),
    (0, ("vault", "init", "--json")),
    (0, ("vault", "backup", "tree", "{folder}/site-a/data", "--name", "tree", "--json")),
    (0, ("vault", "list", "--json")),
    (0, ("vault", "verify", "--json")),
    (0, ("vault", "keys", "show", "--json")),
    (0, ("vault", "restore", "--to", "{folder}/restored", "--json")),
    (7, ("residency", "check", "--json")),
    (0, ("residency", "policies", "--json")),
    (7, ("posture", "--json")),
    (7, ("cost", "standby", "--json")),
    (7, ("cost", "report", "--json")),
    (3, ("sync", "status", "--group", "desk", "--json")),
    (3, ("sync", "run", "--group", "desk", "--json")),
    (0, ("audit", "export", "--output", "{folder}/export", "--json")),
    (7, ("audit", "verify", "{folder}/export", "--json")),
    (7, ("audit", "coverage", "{folder}/export", "--json")),
    (0, ("audit", "prove", "leaf:0", "--export", "{folder}/export", "--output", "{folder}/proof", "--json")),
)


def test_no_command_shows_or_writes_a_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Their output, tracebacks and logs; then every file at the sites, the state folder and the export."""
    commands = Commands(tmp_path, monkeypatch)
    expected = {}
    with caplog.at_level(logging.INFO):
        for code, words in COMMANDS:
            name = " ".join(word.format(folder=tmp_path) for word in words)
            expected[name] = code
            commands.run(*name.split())
    assert commands.codes == expected, commands.told
    assert not leaks(commands.secrets, {**commands.told, "the logs": caplog.text})
    written = files_below(tmp_path, without=commands.key_files)
    for part in ("/export/segments/", "/site-b/ledger/", "/site-b/vault", "/site-c/", "/state/", "/proof/"):
        assert any(part in name for name in written), f"nothing was written below {part}"
    assert not leaks(commands.secrets, written)


@pytest.mark.parametrize("wrong", ["not-a-key", "the-admin's", "cut-off", "signing", "signing-as-text"])
def test_a_wrong_key_is_not_quoted(wrong: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commands = Commands(tmp_path, monkeypatch)
    commands.run("vault", "init", "--json")
    secret, words = Canary("the wrong key", os.urandom(32).hex() + "zz"), ("vault", "list", "--json")
    files = [tmp_path / f"{role}.key" for role in ("writer", "reader", "admin")]
    if wrong == "not-a-key":
        for file in files:
            file.write_text(secret.text)
    elif wrong == "the-admin's":
        secret = Canary("another key", os.urandom(32).hex())
        for file in files:
            file.write_text(secret.text)
    elif wrong == "cut-off":
        secret = Canary("half a key", files[0].read_text()[:40])
        for file in files:
            file.write_text(secret.text)
    else:
        words = ("audit", "keys", "--json")
        secret = Canary("the wrong key", base64.b64encode(os.urandom(32)).decode())
        text = secret.text if wrong == "signing" else f"-----BEGIN PRIVATE KEY-----\n{secret.text}\n"
        monkeypatch.setenv("HOLDFAST_SIGNING_KEY", text)
    done = commands.run(*words)
    assert done.exit_code in (2, 3), commands.told
    assert not leaks([secret, *commands.secrets], commands.told)


def test_a_private_key_given_as_the_public_one_is_not_quoted() -> None:
    secret = Canary("a key", base64.b64encode(os.urandom(48)).decode())
    with pytest.raises(ConfigError) as caught:
        load_public_key(f"-----BEGIN PRIVATE KEY-----\n{secret.text}\n-----END PRIVATE KEY-----\n")
    assert not leaks([secret], {"the error": f"{caught.value} {caught.value.as_dict()}"})


def test_no_operator_passes_a_secret_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """What goes to XCom, into asset events, rendered fields and the task's log; then what was written."""
    commands = Commands(tmp_path, monkeypatch)
    topology = {"topology_path": str(commands.topology)}
    operators = [
        CheckResidencyOperator(task_id="residency", **topology),
        CheckPostureOperator(task_id="posture", **topology),
        ExportAuditOperator(task_id="export", **topology),
        VerifyExportsOperator(task_id="verify", **topology),
    ]
    told: dict[str, str] = {}
    with caplog.at_level(logging.DEBUG, logger="airflow"), caplog.at_level(logging.INFO):
        for operator in operators:
            events = Events()
            result = operator.execute({"outlet_events": events, "run_id": "test"})
            rendered = {name: getattr(operator, name) for name in operator.template_fields}
            told[operator.task_id] = repr((result, dict(events), rendered))
    told["the logs"] = caplog.text
    assert not leaks(commands.secrets, told)
    assert not leaks(commands.secrets, files_below(tmp_path, without=commands.key_files))


def test_an_operator_that_fails_shows_no_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As Airflow logs it, with its causes."""
    commands = Commands(tmp_path, monkeypatch)
    monkeypatch.setenv("HOLDFAST_SIGNING_KEY", f"-----BEGIN PRIVATE KEY-----\n{PASSWORD.text}\n")
    operator = ExportAuditOperator(task_id="export", topology_path=str(commands.topology))
    with pytest.raises(AirflowFailException) as caught:
        operator.execute({"outlet_events": Events(), "run_id": "test"})
    assert not leaks(commands.secrets, {"the traceback": "".join(traceback.format_exception(caught.value))})


class Events(dict):  # type: ignore[type-arg]
    def __missing__(self, key: Any) -> Any:
        return self.setdefault(key, SimpleNamespace(extra=None))
