"""Azure's management API, Key Vault and Microsoft Graph with the login of a connection."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from functools import cached_property
from typing import Any
from urllib.parse import urlsplit

import httpx

from holdfast.clock import Clock
from holdfast.engine.audit.posture.interface import CannotTell, NotThere
from holdfast.engine.audit.posture.rest import JsonApi
from holdfast.engine.config import Connection, Site
from holdfast.engine.objectstore.connect import access_from_connection
from holdfast.errors import ConfigError

ARM, GRAPH = "https://management.azure.com", "https://graph.microsoft.com"
_SCOPES = {
    "management.azure.com": f"{ARM}/.default",
    "graph.microsoft.com": f"{GRAPH}/.default",
    "vault.azure.net": "https://vault.azure.net/.default",
}
_CLOUDS = (".blob.core.windows.net",)
SUBSCRIPTIONS, STORAGE, INSIGHTS, AUTHORIZATION = "2022-12-01", "2023-05-01", "2021-05-01-preview", "2022-04-01"


class AzureApi:
    """The services the checks ask.

    Args:
        connection: Airflow's ``wasb`` connection with a service principal (login, password, ``extra.tenant_id``) or
            the environment's credentials; an account key or a SAS opens blobs and no settings.
            ``extra.subscription_id`` spares a search; ``extra.posture_endpoints`` (``arm``, ``graph`` → URL) is for
            emulators.
        clock: for the pauses between tries.
        transport: of httpx, instead of the network.
    """

    def __init__(self, connection: Connection, clock: Clock, *, transport: httpx.BaseTransport | None = None) -> None:
        self._connection = connection
        self._extra = {name.removeprefix("extra__wasb__"): value for name, value in connection.extra.items()}
        self._endpoints: dict[str, str] = dict(self._extra.get("posture_endpoints") or {})
        self._http = JsonApi(f"connection {connection.conn_id}", self._headers, clock, transport=transport)

    @property
    def asked_at(self) -> str | None:
        if found := self._endpoints.get("arm"):
            return found
        host = self._connection.host or ""
        named = urlsplit(host if "://" in host else f"https://{host}").hostname or ""
        is_emulator = "." in named and not named.endswith(_CLOUDS)
        return host if is_emulator else None

    def arm(self, path: str, version: str, **params: str) -> dict[str, Any]:
        """Raises NotThere, CannotTell."""
        return self._http.get(self._arm_url(path), {"api-version": version, **params})

    def arm_pages(self, path: str, version: str, **params: str) -> list[Any]:
        return list(self._http.pages(self._arm_url(path), "value", {"api-version": version, **params}))

    def graph_pages(self, path: str, **params: str) -> list[Any]:
        host = self._endpoints.get("graph")
        if host is None and self.asked_at is not None:
            raise self._no_endpoint("graph")
        return list(self._http.pages(f"{host or GRAPH}{path}", "value", params))

    def key_vault(self, url: str) -> dict[str, Any]:
        """A document of a Key Vault, by its own URL. Raises NotThere, CannotTell."""
        host = urlsplit(url).hostname or ""
        if not host.endswith(".vault.azure.net") and self.asked_at is None:
            raise CannotTell("the key's vault is none of Azure's", where=self._where, found=url)
        return self._http.get(url, {"api-version": "7.4"})

    @cached_property
    def principal(self) -> str:
        """The object id of who logs in, as its token says. Raises CannotTell."""
        token = self._token(_SCOPES["management.azure.com"])
        try:
            payload = token.split(".")[1]
            claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
            return str(claims["oid"])
        except (IndexError, ValueError, KeyError, TypeError):
            raise CannotTell("the token names nobody", where=self._where, expected="a claim `oid`") from None

    @property
    def application(self) -> str | None:
        """The client id of a service principal."""
        return self._connection.login if self._extra.get("tenant_id") else None

    def account_name(self, site: Site) -> str:
        """Raises CannotTell."""
        try:
            return str(access_from_connection(site, self._connection).options["account_name"])
        except ConfigError as error:
            raise CannotTell(error.what, where=error.where, expected=error.expected) from None

    def storage_account(self, name: str) -> dict[str, Any]:
        """The account with its id and properties, wherever this login sees it. Raises NotThere, CannotTell."""
        given = self._extra.get("subscription_id")
        subscriptions = (
            [str(given)]
            if given
            else [str(one["subscriptionId"]) for one in self.arm_pages("/subscriptions", SUBSCRIPTIONS)]
        )
        for subscription in subscriptions:
            path = f"/subscriptions/{subscription}/providers/Microsoft.Storage/storageAccounts"
            for account in self.arm_pages(path, STORAGE):
                if account.get("name") == name:
                    return dict(account)
        raise CannotTell(
            "no subscription this login sees has the account",
            where=f"storage account {name}",
            expected="the right Microsoft.Storage/storageAccounts/read",
            found=f"{len(subscriptions)} subscriptions",
        )

    def diagnostic_settings(self, resource: str) -> list[Any]:
        """Where a resource's logs are delivered to; none where nothing is set. Raises CannotTell."""
        try:
            return self.arm_pages(f"{resource}/providers/Microsoft.Insights/diagnosticSettings", INSIGHTS)
        except NotThere:
            return []

    def _arm_url(self, path: str) -> str:
        host = self._endpoints.get("arm")
        if host is None and self.asked_at is not None:
            raise self._no_endpoint("arm")
        return f"{host or ARM}{path}"

    def _no_endpoint(self, service: str) -> CannotTell:
        return CannotTell(
            "the connection names an endpoint for blobs alone",
            where=self._where,
            expected=f"extra.posture_endpoints.{service} beside it",
            found=self.asked_at,
        )

    @property
    def _where(self) -> str:
        return f"connection {self._connection.conn_id!r}"

    def _headers(self, url: str) -> Mapping[str, str]:
        host = urlsplit(url).hostname or ""
        scope = next((scope for end, scope in _SCOPES.items() if host == end or host.endswith(f".{end}")), None)
        if scope is None:
            # An endpoint of the connection's own; its host gets what the management API would.
            scope = _SCOPES["management.azure.com"]
        return {"Authorization": f"Bearer {self._token(scope)}"}

    def _token(self, scope: str) -> str:
        if given := self._extra.get("token"):
            return str(given)
        from azure.core.exceptions import AzureError

        try:
            # azure-identity keeps a token until shortly before it expires.
            return str(self._credential.get_token(scope).token)
        except (AzureError, ValueError) as error:
            said = (str(error).splitlines() or [""])[0][:300]
            raise CannotTell("there is no token", where=self._where, found=said) from None

    @cached_property
    def _credential(self) -> Any:
        try:
            from azure.identity import ClientSecretCredential, DefaultAzureCredential
        except ImportError as error:
            raise CannotTell("azure-identity is not installed here", where=self._where, found=str(error)) from None
        limits = {"connection_timeout": 3, "read_timeout": 10, "retry_total": 2}
        login, password, tenant = self._connection.login, self._connection.password, self._extra.get("tenant_id")
        if tenant and login and password:
            return ClientSecretCredential(str(tenant), login, password, **limits)
        if password or self._extra.get("shared_access_key") or self._extra.get("sas_token"):
            raise CannotTell(
                "an account key or a SAS opens blobs, and no settings",
                where=self._where,
                expected="a service principal (extra.tenant_id) or the environment's credentials",
            )
        return DefaultAzureCredential(**limits)
