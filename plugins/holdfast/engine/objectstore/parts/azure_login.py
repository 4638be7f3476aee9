"""How requests to Azure Blob Storage are authorised, without its client: by a shared access signature or a token."""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote

from holdfast.engine.objectstore.access import Credentials, StoreAccess
from holdfast.engine.objectstore.parts._credentials import KeptCredentials

#: Version of the protocol: the first with everything needed here that Azure Stack's and Azurite's releases know too.
API_VERSION = "2021-12-02"
_SCOPE = "https://storage.azure.com/.default"
#: How long a signature made here is valid, and how long it is used.
_SIGNED_FOR = timedelta(hours=12)
_USED_FOR = timedelta(hours=6)


class AzureLogin:
    """Adds what authorises a request to its query and headers.

    Args:
        access: how the store is reached.
        account: its storage account.
        name: the store, for messages.
        now: the wall clock, timezone-aware.
    """

    def __init__(
        self, access: StoreAccess, account: str, name: str, now: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        self._account = account
        self._now = now
        self._kept = None if access.anonymous else KeptCredentials(access.credentials or _login(access.options), name)
        self._made: tuple[str, datetime, str] | None = None

    def authorised(self, query: str, headers: Mapping[str, str]) -> tuple[str, dict[str, str]]:
        """Query and headers of an authorised request."""
        if self._kept is None:
            return query, dict(headers)
        values = self._kept.values()
        if token := values.get("token"):
            return query, {**headers, "Authorization": f"Bearer {token}"}
        if sas := values.get("sas_token"):
            return _joined(query, sas.lstrip("?")), dict(headers)
        return _joined(query, self._signature(values["access_key"] or "")), dict(headers)

    def _signature(self, key: str) -> str:
        """One made from the account's key, used for hours: signing every request would cost time for nothing."""
        made, now = self._made, self._now()
        if made is None or made[0] != key or now >= made[1]:
            self._made = made = (key, now + _USED_FOR, account_sas(self._account, key, now + _SIGNED_FOR))
        return made[2]


def account_sas(account: str, key: str, until: datetime, version: str = API_VERSION) -> str:
    """A signature for the blobs of an account, as ``azure.storage.blob.generate_account_sas`` makes it.

    Args:
        account: its name.
        key: its key, base64.
        until: when it expires, timezone-aware.
        version: of the protocol.
    """
    fields = {
        "sv": version,
        "ss": "b",
        "srt": "co",
        "sp": "rwdlact",
        "se": until.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
    }
    text = "\n".join(
        (account, fields["sp"], fields["ss"], fields["srt"], "", fields["se"], "", "", fields["sv"], "", "")
    )
    signature = hmac.new(base64.b64decode(key), text.encode(), hashlib.sha256).digest()
    fields["sig"] = base64.b64encode(signature).decode()
    return "&".join(f"{name}={quote(value, safe='')}" for name, value in fields.items())


def _joined(query: str, more: str) -> str:
    return f"{query}&{more}" if query else more


def _login(options: Mapping[str, str]) -> Callable[[], Credentials]:
    """A service principal, or what the environment has, through Azure's own library."""
    made: list[Any] = []

    def ask() -> Credentials:
        if not made:
            made.append(_identity(options))
        token = made[0].get_token(_SCOPE)
        return Credentials({"token": token.token}, datetime.fromtimestamp(token.expires_on, UTC))

    return ask


def _identity(options: Mapping[str, str]) -> Any:
    from azure.identity import ClientSecretCredential, DefaultAzureCredential

    if "client_secret" in options:
        return ClientSecretCredential(options["tenant_id"], options["client_id"], options["client_secret"])
    return DefaultAzureCredential()
