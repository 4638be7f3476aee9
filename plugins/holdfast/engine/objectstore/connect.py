"""From a connection to `StoreAccess`, without Airflow: what the command line and a training process use.

Under Airflow, `holdfast.hooks.site` builds the same `StoreAccess` through the providers' own hooks, which know every
way of logging in; this module knows keys, anonymous access and the environment's own credentials.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlsplit

from holdfast.engine.config import Cloud, Connection, Site
from holdfast.engine.objectstore.access import StoreAccess, fixed
from holdfast.engine.objectstore.gcp_login import gcp_fields
from holdfast.errors import ConfigError

_CONNECTION_TYPES = {
    Cloud.AWS: ("aws",),
    Cloud.GCP: ("google_cloud_platform",),
    Cloud.AZURE: ("wasb", "azure"),
}


def access_from_connection(site: Site, connection: Connection) -> StoreAccess:
    """How the site's store is reached, by the connection's own fields.

    Raises:
        ConfigError: the connection is of another cloud, incomplete, or needs Airflow's hooks to log in.
    """
    if site.cloud is Cloud.LOCAL:
        return StoreAccess()
    expected = _CONNECTION_TYPES[site.cloud]
    if connection.conn_type not in expected:
        raise ConfigError(
            "the connection is of another kind than the site's cloud",
            where=_where(connection),
            expected=f"conn_type {' or '.join(expected)}",
            found=connection.conn_type,
        )
    readers: dict[Cloud, Callable[[Site, Connection], StoreAccess]] = {
        Cloud.AWS: _aws,
        Cloud.GCP: _gcp,
        Cloud.AZURE: _azure,
    }
    return readers[site.cloud](site, connection)


def _where(connection: Connection) -> str:
    return f"connection {connection.conn_id!r}"


def _needs_airflow(connection: Connection, what: str) -> ConfigError:
    return ConfigError(
        f"{what} is done by Airflow's hook and not without it",
        where=_where(connection),
        expected="keys, a token of the environment (workload identity, instance role) or anonymous access",
        fix="Run this under Airflow, or leave the login out and let the environment's credentials apply",
    )


def s3_payload_options(extra: Mapping[str, Any]) -> dict[str, str]:
    """What an S3 connection's extra says of how bytes are vouched for.

    With ``unsigned_payload`` the server checks a CRC-64 of the bytes instead of a SHA-256 in the signature: a third of
    the CPU. A server that ignores the checksum then checks nothing. With ``object_lock`` the CRC-64 goes beside the
    SHA-256: a bucket with a default retention takes nothing without a checksum of its own.
    """
    if _true(extra.get("unsigned_payload")):
        return {"unsigned_payload": "true", "checksum_algorithm": "CRC64NVME"}
    return {"checksum_algorithm": "CRC64NVME"} if _true(extra.get("object_lock")) else {}


def _aws(site: Site, connection: Connection) -> StoreAccess:
    extra = connection.extra
    if extra.get("role_arn"):
        raise _needs_airflow(connection, "assuming `role_arn`")
    endpoint = _mapping(extra.get("service_config"), "s3").get("endpoint_url") or extra.get("endpoint_url")
    options = {"region": str(extra.get("region_name") or site.region), **s3_payload_options(extra)}
    key = connection.login or extra.get("aws_access_key_id")
    secret = connection.password or extra.get("aws_secret_access_key")
    if not key and not secret:
        return StoreAccess(endpoint=endpoint, options=options)
    if not key or not secret:
        raise ConfigError("half of the key pair is missing", where=_where(connection), expected="login and password")
    return StoreAccess(
        endpoint=endpoint,
        options=options,
        credentials=fixed(access_key_id=key, secret_access_key=secret, token=extra.get("aws_session_token")),
    )


def _gcp(_: Site, connection: Connection) -> StoreAccess:
    extra = gcp_fields(connection)
    endpoint = extra.get("endpoint_url")
    if _true(extra.get("is_anonymous")):
        return StoreAccess(endpoint=endpoint, anonymous=True)
    if extra.get("impersonation_chain") or extra.get("credential_config_file") or extra.get("key_secret_name"):
        raise _needs_airflow(connection, "impersonation, workload federation or a key from a secret")
    if token := extra.get("token"):
        return StoreAccess(endpoint=endpoint, credentials=fixed(token=str(token)))
    if keyfile := extra.get("keyfile_dict"):
        text = keyfile if isinstance(keyfile, str) else json.dumps(keyfile)
        return StoreAccess(endpoint=endpoint, options={"service_account_key": text})
    if path := extra.get("key_path"):
        return StoreAccess(endpoint=endpoint, options={"service_account": str(path)})
    return StoreAccess(endpoint=endpoint)


def _azure(_: Site, connection: Connection) -> StoreAccess:
    extra = {name.removeprefix("extra__wasb__"): value for name, value in connection.extra.items()}
    if text := extra.get("connection_string"):
        return _azure_connection_string(connection, str(text))
    endpoint, account = _azure_account(connection)
    if not account:
        raise ConfigError(
            "the storage account is missing",
            where=_where(connection),
            expected="login (account name), host (its URL) or extra.connection_string",
        )
    options = {"account_name": account}
    if tenant := extra.get("tenant_id"):
        if not connection.login or not connection.password:
            raise ConfigError(
                "half of the service principal is missing",
                where=_where(connection),
                expected="login (client id) and password (client secret) beside tenant_id",
            )
        options |= {"tenant_id": str(tenant), "client_id": connection.login, "client_secret": connection.password}
        return StoreAccess(endpoint=endpoint, options=options)
    if key := extra.get("shared_access_key") or connection.password:
        return StoreAccess(endpoint=endpoint, options=options, credentials=fixed(access_key=str(key)))
    if sas := extra.get("sas_token"):
        return StoreAccess(endpoint=endpoint, options=options, credentials=fixed(sas_token=_sas(connection, str(sas))))
    return StoreAccess(endpoint=endpoint, options=options)


def _azure_account(connection: Connection) -> tuple[str | None, str | None]:
    """Endpoint and account name from ``host`` (URL, host name or account name) and ``login``."""
    host = (connection.host or "").rstrip("/")
    by_tenant = bool(connection.extra.get("tenant_id"))  # then the login is a client id
    account = None if by_tenant else connection.login
    if not host:
        return None, account
    if "." not in host and ":" not in host:
        return None, host if by_tenant or not account else account
    url = urlsplit(host if "://" in host else f"https://{host}")
    in_path = url.path.strip("/")
    named = in_path or (url.hostname or "").partition(".")[0]
    if url.scheme == "http" and not in_path and account:
        return f"{url.geturl()}/{account}", account
    return url.geturl(), account or named


def _azure_connection_string(connection: Connection, text: str) -> StoreAccess:
    parts = dict(part.partition("=")[::2] for part in text.split(";") if part.strip())
    fields = {name.strip().lower(): value.strip() for name, value in parts.items()}
    account, endpoint = fields.get("accountname"), fields.get("blobendpoint", "").rstrip("/") or None
    if fields.get("usedevelopmentstorage", "").lower() == "true":
        raise ConfigError(
            "`UseDevelopmentStorage` names no port and no key",
            where=_where(connection),
            expected="a connection string with AccountName, AccountKey and BlobEndpoint",
        )
    if endpoint and not account:
        url = urlsplit(endpoint)
        account = url.path.strip("/") or (url.hostname or "").partition(".")[0]
    if not account:
        raise ConfigError("the connection string names no account", where=_where(connection), expected="AccountName=…")
    if endpoint is None and (suffix := fields.get("endpointsuffix")):
        endpoint = f"{fields.get('defaultendpointsprotocol', 'https')}://{account}.blob.{suffix}"
    if key := fields.get("accountkey"):
        return StoreAccess(endpoint=endpoint, options={"account_name": account}, credentials=fixed(access_key=key))
    if sas := fields.get("sharedaccesssignature"):
        return StoreAccess(
            endpoint=endpoint, options={"account_name": account}, credentials=fixed(sas_token=_sas(connection, sas))
        )
    raise ConfigError(
        "the connection string has no key", where=_where(connection), expected="AccountKey=… or SharedAccessSignature=…"
    )


def _sas(connection: Connection, text: str) -> str:
    if "://" in text:
        text = urlsplit(text).query
    if "sig=" not in text:
        raise ConfigError("the SAS token is not one", where=_where(connection), expected="…&sig=…")
    return text.lstrip("?")


def _mapping(value: Any, key: str) -> dict[str, Any]:
    inner = value.get(key) if isinstance(value, dict) else None
    return inner if isinstance(inner, dict) else {}


def _true(value: Any) -> bool:
    return value is True or str(value).lower() in ("true", "1", "yes")
