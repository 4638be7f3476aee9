"""A site's store opened through the providers' hooks: every login becomes credentials that renew themselves."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from holdfast.engine.config import Cloud, Site
from holdfast.engine.objectstore import OVERWRITE, RetryPolicy
from holdfast.engine.objectstore.errors import PermissionRefused, StoreUnavailable
from holdfast.errors import ConfigError
from holdfast.hooks.aws import SessionCredentials
from holdfast.hooks.connections import AirflowConnections
from holdfast.hooks.gcp import TokenCredentials
from holdfast.hooks.site import SiteHook

ROLE = "arn:aws:iam::123456789012:role/holdfast"


def site(cloud: Cloud, connection: str, bucket: str = "bucket") -> Site:
    return Site(cloud=cloud, region="eu-west-1", jurisdiction="EU", connection=connection, bucket=bucket)


@pytest.fixture
def connection(monkeypatch: pytest.MonkeyPatch) -> Any:
    def define(conn_id: str, **fields: Any) -> str:
        monkeypatch.setenv(f"AIRFLOW_CONN_{conn_id.upper()}", json.dumps(fields))
        return conn_id

    return define


def access_of(cloud: Cloud, conn_id: str) -> Any:
    return SiteHook("somewhere", site(cloud, conn_id)).store_access()


@pytest.mark.parametrize("name", ["aws-eu-west-1", "gcp-europe-west1", "azure-westeurope"])
def test_the_sandbox_is_reached_through_the_providers_hooks(sandbox: Any, sandbox_env: Any, name: str) -> None:
    from holdfast.engine.config import load_topology

    settings = load_topology("include/holdfast.yaml").site(name)
    store = SiteHook(name, settings).get_conn()
    store.put("hooks/one", b"bytes", mode=OVERWRITE)
    assert store.get("hooks/one") == b"bytes"


def test_an_assumed_role_is_asked_of_sts_and_again_when_it_expires(sandbox: Any, connection: Any) -> None:
    url = json.loads(sandbox.environment()["AIRFLOW_CONN_HOLDFAST_AWS"])["extra"]["endpoint_url"]
    conn_id = connection(
        "assumed",
        conn_type="aws",
        login="key",
        password="secret",
        extra={
            "role_arn": ROLE,
            "endpoint_url": url,
            "region_name": "eu-west-1",
            "service_config": {"sts": {"endpoint_url": url}},
        },
    )
    access = access_of(Cloud.AWS, conn_id)
    first = access.credentials()
    assert first.values["access_key_id"].startswith("ASIA")
    assert first.values["token"]
    assert first.expires_at > datetime.now(UTC)
    access.credentials._credentials._expiry_time = datetime.now(UTC) + timedelta(seconds=1)
    second = access.credentials()
    assert second.values["access_key_id"] != first.values["access_key_id"]
    store = SiteHook("aws", site(Cloud.AWS, conn_id, "holdfast-eu-west-1")).store()
    store.put("hooks/assumed", b"1")
    assert store.get("hooks/assumed") == b"1"


def test_nothing_is_asked_of_sts_before_the_first_request(connection: Any) -> None:
    conn_id = connection(
        "lazy",
        conn_type="aws",
        login="k",
        password="s",
        extra={"role_arn": ROLE, "service_config": {"sts": {"endpoint_url": "http://127.0.0.1:1"}}},
    )
    SiteHook("aws", site(Cloud.AWS, conn_id)).store()


def test_sts_that_cannot_be_reached_is_not_taken_for_wrong_credentials(connection: Any) -> None:
    conn_id = connection(
        "nosts",
        conn_type="aws",
        login="k",
        password="s",
        extra={
            "role_arn": ROLE,
            "endpoint_url": "http://127.0.0.1:1",
            "service_config": {"sts": {"endpoint_url": "http://127.0.0.1:1"}},
        },
    )
    store = SiteHook("aws", site(Cloud.AWS, conn_id)).store(retry=RetryPolicy(attempts=1))
    with pytest.raises(StoreUnavailable, match="STS cannot be reached"):
        store.head("key")


def test_static_keys_stay_what_they_are(connection: Any) -> None:
    conn_id = connection(
        "static", conn_type="aws", login="AKIA1", password="hidden", extra={"region_name": "us-east-2"}
    )
    access = access_of(Cloud.AWS, conn_id)
    assert access.options["region"] == "us-east-2"
    assert access.endpoint is None
    credentials = access.credentials()
    assert credentials.values == {"access_key_id": "AKIA1", "secret_access_key": "hidden", "token": None}
    assert credentials.expires_at is None


def test_a_session_without_credentials_is_refused() -> None:
    hook = SimpleNamespace(get_session=lambda: SimpleNamespace(get_credentials=lambda: None))
    with pytest.raises(PermissionRefused, match="no credentials"):
        SessionCredentials(hook, where="connection 'x'")()


class FakeGoogleCredentials:
    """Credentials in google-auth's shape whose tokens live for so many seconds."""

    def __init__(self, life_seconds: float) -> None:
        self.life = timedelta(seconds=life_seconds)
        self.refreshed = 0
        self.token: str | None = None
        self.expiry: datetime | None = None

    @property
    def token_state(self) -> Any:
        from google.auth.credentials import TokenState

        fresh = self.expiry is not None and self.expiry > datetime.now(UTC).replace(tzinfo=None) + timedelta(minutes=3)
        return TokenState.FRESH if fresh else TokenState.STALE

    def refresh(self, request: Any) -> None:
        self.refreshed += 1
        self.token = f"token-{self.refreshed}"
        self.expiry = (datetime.now(UTC) + self.life).replace(tzinfo=None)


@pytest.mark.parametrize(("life_seconds", "tokens"), [(3600, ["token-1", "token-1"]), (60, ["token-1", "token-2"])])
def test_a_google_token_is_renewed_only_when_it_is_stale(life_seconds: float, tokens: list[str]) -> None:
    made = FakeGoogleCredentials(life_seconds)
    hook = SimpleNamespace(get_credentials=lambda: made)
    provider = TokenCredentials(hook, where="connection 'x'")
    assert [provider().values["token"] for _ in range(2)] == tokens
    assert provider().expires_at.tzinfo is UTC


def test_a_google_login_that_is_refused_is_not_tried_again() -> None:
    from google.auth.exceptions import RefreshError

    class Refused(FakeGoogleCredentials):
        def refresh(self, request: Any) -> None:
            raise RefreshError("invalid_grant", retryable=False)

    with pytest.raises(PermissionRefused, match="no token"):
        TokenCredentials(SimpleNamespace(get_credentials=lambda: Refused(1)), where="connection 'x'")()


def test_a_google_connection_may_be_anonymous(connection: Any) -> None:
    conn_id = connection(
        "anonymous",
        conn_type="google_cloud_platform",
        extra={"is_anonymous": True, "endpoint_url": "http://127.0.0.1:9"},
    )
    access = access_of(Cloud.GCP, conn_id)
    assert access.anonymous
    assert access.endpoint == "http://127.0.0.1:9"


@pytest.mark.parametrize(
    ("fields", "account", "endpoint", "values"),
    [
        ({"login": "acc", "password": "a2V5"}, "acc", "https://acc.blob.core.windows.net", {"access_key": "a2V5"}),
        (
            {"login": "acc", "extra": {"shared_access_key": "a2V5"}},
            "acc",
            "https://acc.blob.core.windows.net",
            {"access_key": "a2V5"},
        ),
        (
            {"login": "dev", "password": "a2V5", "host": "http://127.0.0.1:9/dev"},
            "dev",
            "http://127.0.0.1:9/dev",
            {"access_key": "a2V5"},
        ),
        (
            {"login": "acc", "extra": {"sas_token": "?sv=1&sig=abc"}},
            "acc",
            "https://acc.blob.core.windows.net",
            {"sas_token": "sv=1&sig=abc"},
        ),
        (
            {"extra": {"sas_token": "https://acc.blob.core.windows.net/?sv=1&sig=abc"}},
            "acc",
            "https://acc.blob.core.windows.net",
            {"sas_token": "sv=1&sig=abc"},
        ),
        (
            {"extra": {"connection_string": "AccountName=acc;AccountKey=a2V5;BlobEndpoint=http://127.0.0.1:9/acc"}},
            "acc",
            "http://127.0.0.1:9/acc",
            {"access_key": "a2V5"},
        ),
        (
            {
                "extra": {
                    "connection_string": "BlobEndpoint=https://acc.blob.core.windows.net;SharedAccessSignature=sig=abc"
                }
            },
            "acc",
            "https://acc.blob.core.windows.net",
            {"sas_token": "sig=abc"},
        ),
    ],
)
def test_an_azure_login_means_what_it_means_to_wasbhook(
    connection: Any, fields: dict[str, Any], account: str, endpoint: str, values: dict[str, str]
) -> None:
    access = access_of(Cloud.AZURE, connection("azure", conn_type="wasb", **fields))
    assert (access.options["account_name"], access.endpoint) == (account, endpoint)
    assert access.credentials().values == values


def test_an_azure_service_principal_gives_tokens(connection: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from azure.identity import ClientSecretCredential

    expires_on = int(datetime.now(UTC).timestamp()) + 600
    asked: list[str] = []

    def get_token(self: Any, *scopes: str, **_: Any) -> Any:
        asked.extend(scopes)
        return SimpleNamespace(token="bearer", expires_on=expires_on)

    monkeypatch.setattr(ClientSecretCredential, "get_token", get_token)
    conn_id = connection(
        "principal",
        conn_type="wasb",
        login="app-id",
        password="app-secret",
        host="https://acc.blob.core.windows.net",
        extra={"tenant_id": "tenant"},
    )
    credentials = access_of(Cloud.AZURE, conn_id).credentials()
    assert credentials.values == {"token": "bearer"}
    assert credentials.expires_at == datetime.fromtimestamp(expires_on, UTC)
    assert asked == ["https://storage.azure.com/.default"]


def test_an_azure_connection_that_makes_no_client_is_named(connection: Any) -> None:
    conn_id = connection("broken", conn_type="wasb", extra={"connection_string": "nonsense"})
    with pytest.raises(ConfigError, match="connection 'broken'"):
        access_of(Cloud.AZURE, conn_id)


@pytest.mark.parametrize("cloud", [Cloud.AWS, Cloud.GCP, Cloud.AZURE])
def test_a_missing_connection_is_one_clear_error(cloud: Cloud) -> None:
    with pytest.raises(ConfigError, match=r"connection 'nowhere'.*not defined"):
        access_of(cloud, "nowhere")


@pytest.mark.parametrize("cloud", [Cloud.AWS, Cloud.GCP, Cloud.AZURE])
def test_a_connection_of_another_kind_is_refused(cloud: Cloud, connection: Any) -> None:
    with pytest.raises(ConfigError, match="another kind"):
        access_of(cloud, connection("ftp", conn_type="ftp"))


def test_airflows_connections_are_the_engines(connection: Any) -> None:
    conn_id = connection("some", conn_type="aws", login="l", password="p", host="h", port=1, schema="s", extra={"a": 1})
    found = AirflowConnections().get(conn_id)
    assert (found.conn_type, found.login, found.password, found.host, found.port, found.schema_, found.extra) == (
        "aws",
        "l",
        "p",
        "h",
        1,
        "s",
        {"a": 1},
    )
    with pytest.raises(ConfigError, match="not defined"):
        AirflowConnections().get("nowhere")
