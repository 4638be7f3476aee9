"""The object store's access on Azure, through the Microsoft provider's hook."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from holdfast.engine.config import Site
from holdfast.engine.objectstore.access import Credentials, StoreAccess, fixed
from holdfast.engine.objectstore.errors import PermissionRefused, StoreUnavailable
from holdfast.errors import ConfigError
from holdfast.hooks.connections import airflow_connection

STORAGE_SCOPE = "https://storage.azure.com/.default"


def azure_access(site: Site) -> StoreAccess:
    """Endpoint, account and credentials of a site's connection: a key, a SAS, a principal's or an identity's token.

    They are taken from the client that ``WasbHook`` makes, so a connection means here what it means there.

    :raises ConfigError: there is no such connection, it is not a ``wasb`` one, or its fields do not make a client.
    """
    from airflow.providers.microsoft.azure.hooks.wasb import WasbHook

    airflow_connection(site.connection, conn_type="wasb")
    where = f"connection {site.connection!r}"
    try:
        client = WasbHook(wasb_conn_id=site.connection).get_conn()
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        raise ConfigError(
            "the connection's fields make no client",
            where=where,
            expected="what Airflow's WasbHook takes: login and password, a connection string, a SAS token, a tenant …",
            found=str(error)[:200],
        ) from None
    url = urlsplit(client.url)
    account = client.account_name
    if not account:
        raise ConfigError("the connection names no storage account", where=where, expected="login or host")
    return StoreAccess(
        endpoint=urlunsplit((url.scheme, url.netloc, url.path.rstrip("/"), "", "")),
        options={"account_name": account},
        credentials=_credentials(client.credential, url.query, where),
        anonymous=client.credential is None and not url.query,
    )


def _credentials(credential: Any, query: str, where: str) -> Any:
    if key := getattr(credential, "account_key", None):
        return fixed(access_key=key)
    if signature := getattr(credential, "signature", None):
        return fixed(sas_token=signature.lstrip("?"))
    if hasattr(credential, "get_token"):
        return TokenCredentials(credential, where=where)
    return fixed(sas_token=query) if query else None


class TokenCredentials:
    """The storage token of an azure-identity credential, which caches and renews it.

    :param credential: anything with ``get_token``.
    :param where: the connection, for messages.
    """

    def __init__(self, credential: Any, *, where: str) -> None:
        self._credential = credential
        self._where = where

    def __call__(self) -> Credentials:
        from azure.core.exceptions import AzureError, ClientAuthenticationError, ServiceRequestError

        try:
            token = self._credential.get_token(STORAGE_SCOPE)
        except ClientAuthenticationError as error:
            raise PermissionRefused("the login gave no token", where=self._where, found=_first_line(error)) from None
        except ServiceRequestError as error:
            raise StoreUnavailable(
                "the token server cannot be reached", where=self._where, found=_first_line(error)
            ) from None
        except AzureError as error:
            raise StoreUnavailable("the login gave no token", where=self._where, found=_first_line(error)) from None
        return Credentials({"token": token.token}, expires_at=datetime.fromtimestamp(token.expires_on, UTC))


def _first_line(error: Exception) -> str:
    lines = str(error).splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"[:200]
