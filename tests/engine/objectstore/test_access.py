"""From a connection to credentials: what each form means, and when they are renewed."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from holdfast.engine.config import Cloud, Connection, Site
from holdfast.engine.objectstore import StoreAccess, access_from_connection, fixed, open_store
from holdfast.engine.objectstore.access import Credentials
from holdfast.engine.objectstore.credentials import WatchedCredentials
from holdfast.engine.objectstore.errors import PermissionRefused, StoreUnavailable
from holdfast.errors import ConfigError

NOW = datetime(2026, 11, 21, tzinfo=UTC)


def site(cloud: Cloud) -> Site:
    return Site(cloud=cloud, region="eu-west-1", jurisdiction="EU", connection="c", bucket="bucket")


def access(cloud: Cloud, conn_type: str, **fields: Any) -> StoreAccess:
    return access_from_connection(site(cloud), Connection(conn_id="c", conn_type=conn_type, **fields))


def values(found: StoreAccess) -> Any:
    return found.credentials().values if found.credentials else None


def test_aws_keys_and_endpoints() -> None:
    found = access(Cloud.AWS, "aws", login="k", password="s", extra={"endpoint_url": "http://h:1"})
    assert (found.endpoint, found.options["region"]) == ("http://h:1", "eu-west-1")
    assert values(found) == {"access_key_id": "k", "secret_access_key": "s"}
    extra = {
        "aws_access_key_id": "k",
        "aws_secret_access_key": "s",
        "aws_session_token": "t",
        "region_name": "us-east-2",
        "endpoint_url": "http://all",
        "service_config": {"s3": {"endpoint_url": "http://s3"}},
    }
    found = access(Cloud.AWS, "aws", extra=extra)
    assert (found.endpoint, found.options["region"], values(found)["token"]) == ("http://s3", "us-east-2", "t")


@pytest.mark.parametrize(
    ("cloud", "conn_type", "fields"),
    [
        (Cloud.AWS, "aws", {}),
        (Cloud.GCP, "google_cloud_platform", {}),
        (Cloud.AZURE, "wasb", {"login": "acc"}),
    ],
)
def test_without_a_login_the_environments_credentials_apply(
    cloud: Cloud, conn_type: str, fields: dict[str, Any]
) -> None:
    found = access(cloud, conn_type, **fields)
    assert found.credentials is None
    assert not found.anonymous


def test_google_keys_and_anonymous_access() -> None:
    gcp = "google_cloud_platform"
    assert access(Cloud.GCP, gcp, extra={"is_anonymous": True, "endpoint_url": "http://h"}).anonymous
    assert access(Cloud.GCP, gcp, extra={"extra__google_cloud_platform__key_path": "/k"}).options == {
        "service_account": "/k"
    }
    assert access(Cloud.GCP, gcp, extra={"keyfile_dict": {"a": 1}}).options == {"service_account_key": '{"a": 1}'}


@pytest.mark.parametrize(
    ("fields", "endpoint", "account", "expected"),
    [
        ({"login": "acc", "password": "k"}, None, "acc", {"access_key": "k"}),
        (
            {"login": "dev", "password": "k", "host": "http://127.0.0.1:1/dev"},
            "http://127.0.0.1:1/dev",
            "dev",
            {"access_key": "k"},
        ),
        (
            {"login": "dev", "password": "k", "host": "http://127.0.0.1:1/"},
            "http://127.0.0.1:1/dev",
            "dev",
            {"access_key": "k"},
        ),
        (
            {"password": "k", "host": "acc.blob.core.windows.net"},
            "https://acc.blob.core.windows.net",
            "acc",
            {"access_key": "k"},
        ),
        ({"login": "acc", "extra": {"sas_token": "?sig=x"}}, None, "acc", {"sas_token": "sig=x"}),
        (
            {"extra": {"connection_string": "AccountName=acc;AccountKey=k==;EndpointSuffix=core.windows.net"}},
            "https://acc.blob.core.windows.net",
            "acc",
            {"access_key": "k=="},
        ),
        (
            {"extra": {"extra__wasb__connection_string": "BlobEndpoint=http://h:1/dev;SharedAccessSignature=sig=x"}},
            "http://h:1/dev",
            "dev",
            {"sas_token": "sig=x"},
        ),
    ],
)
def test_azure_keys_and_endpoints(fields: dict[str, Any], endpoint: str | None, account: str, expected: Any) -> None:
    found = access(Cloud.AZURE, "wasb", **fields)
    assert (found.endpoint, found.options["account_name"], values(found)) == (endpoint, account, expected)


def test_an_azure_service_principal_logs_in_by_itself() -> None:
    found = access(Cloud.AZURE, "wasb", login="client", password="secret", host="acc", extra={"tenant_id": "t"})
    assert found.options == {"account_name": "acc", "tenant_id": "t", "client_id": "client", "client_secret": "secret"}


@pytest.mark.parametrize(
    ("cloud", "conn_type", "fields", "named"),
    [
        (Cloud.AWS, "google_cloud_platform", {}, "another kind"),
        (Cloud.AWS, "aws", {"login": "only"}, "half of the key pair"),
        (Cloud.AWS, "aws", {"extra": {"role_arn": "arn"}}, "Airflow's hook"),
        (Cloud.GCP, "google_cloud_platform", {"extra": {"impersonation_chain": "x"}}, "Airflow's hook"),
        (Cloud.AZURE, "wasb", {}, "storage account is missing"),
        (Cloud.AZURE, "wasb", {"extra": {"connection_string": "AccountName=a"}}, "no key"),
        (Cloud.AZURE, "wasb", {"extra": {"connection_string": "nonsense"}}, "no account"),
        (Cloud.AZURE, "wasb", {"extra": {"connection_string": "UseDevelopmentStorage=true"}}, "no port"),
        (Cloud.AZURE, "wasb", {"login": "a", "extra": {"sas_token": "nonsense"}}, "SAS token"),
        (Cloud.AZURE, "wasb", {"host": "a", "extra": {"tenant_id": "t"}}, "service principal"),
    ],
)
def test_a_connection_that_does_not_fit_is_named(
    cloud: Cloud, conn_type: str, fields: dict[str, Any], named: str
) -> None:
    with pytest.raises(ConfigError, match=named) as caught:
        access(cloud, conn_type, **fields)
    assert "connection 'c'" in str(caught.value)


def test_secrets_do_not_show() -> None:
    found = access(Cloud.AWS, "aws", login="k", password="hidden-secret")
    assert "hidden-secret" not in repr(found)
    assert "hidden-secret" not in repr(found.credentials())


@pytest.mark.parametrize(
    ("life", "renewed_in"),
    [
        (timedelta(hours=1), timedelta(minutes=59)),
        (timedelta(seconds=60), timedelta(seconds=30)),
        (timedelta(seconds=-5), timedelta(seconds=-5)),
    ],
)
def test_credentials_are_renewed_before_they_expire(life: timedelta, renewed_in: timedelta) -> None:
    watched = WatchedCredentials(lambda: Credentials({"token": "t"}, NOW + life), now=lambda: NOW)
    assert watched()["expires_at"] == NOW + renewed_in


def test_any_time_zone_becomes_pythons_utc() -> None:
    expires = (NOW + timedelta(hours=1)).astimezone(timezone(timedelta(hours=2)))
    assert WatchedCredentials(lambda: Credentials({}, expires), now=lambda: NOW)()["expires_at"].tzinfo is UTC


def test_credentials_that_never_expire_are_asked_for_once(sandbox: Any) -> None:
    assert asked_for_in(sandbox, requests=3, life=None) == 1


def test_credentials_are_asked_for_again_when_they_expire(sandbox: Any) -> None:
    assert asked_for_in(sandbox, requests=3, life=timedelta(seconds=0)) == 3


def test_credentials_that_live_are_not_asked_for_again(sandbox: Any) -> None:
    assert asked_for_in(sandbox, requests=3, life=timedelta(hours=1)) == 1


def asked_for_in(sandbox: Any, *, requests: int, life: timedelta | None) -> int:
    from holdfast.engine.config import EnvironmentConnections, load_topology

    environ = sandbox.environment()
    settings = load_topology(environ["HOLDFAST_TOPOLOGY"], environ).site("aws-eu-west-1")
    found = access_from_connection(settings, EnvironmentConnections(environ).get(settings.connection))
    asked = 0

    def provide() -> Credentials:
        nonlocal asked
        asked += 1
        return Credentials(found.credentials().values, None if life is None else datetime.now(UTC) + life)

    store = open_store("aws", settings, StoreAccess(found.endpoint, found.options, provide))
    for number in range(requests):
        store.put(f"credentials/{number}", b"x")
    return asked


@pytest.mark.parametrize("cloud", [Cloud.AWS, Cloud.GCP, Cloud.AZURE])
@pytest.mark.parametrize(
    ("raised", "expected"),
    [
        (StoreUnavailable("STS is away"), StoreUnavailable),
        (PermissionRefused("no such role"), PermissionRefused),
        (RuntimeError("what"), PermissionRefused),
    ],
)
def test_a_login_that_fails_is_told_as_itself(cloud: Cloud, raised: Exception, expected: type[Exception]) -> None:
    def provide() -> Credentials:
        raise raised

    options = {"account_name": "acc"} if cloud is Cloud.AZURE else {}
    store = open_store("somewhere", site(cloud), StoreAccess("http://127.0.0.1:1", options, provide), retry=None)
    for ask in (lambda: store.get("x"), lambda: store.put("x", b"1"), lambda: list(store.list())):
        with pytest.raises(expected) as caught:
            ask()
        assert type(caught.value) is expected
        assert (str(raised) in str(caught.value)) or (str(raised) in str(caught.value.found))


def test_an_endpoint_that_is_no_url_is_a_configuration_error() -> None:
    store = open_store(
        "azure", site(Cloud.AZURE), StoreAccess("nonsense", {"account_name": "a"}, fixed(access_key="a2V5")), retry=None
    )
    with pytest.raises(ConfigError, match="azure"):
        store.get("x")


def test_a_key_file_that_is_not_there_is_a_configuration_error() -> None:
    store = open_store(
        "gcp", site(Cloud.GCP), access(Cloud.GCP, "google_cloud_platform", extra={"key_path": "/nowhere"}), retry=None
    )
    with pytest.raises(ConfigError, match="gcp"):
        store.get("x")
