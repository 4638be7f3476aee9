"""Azure Key Vault as a recipient: wrapKey and unwrapKey with RSA-OAEP-256.

Over the service's REST API with ``azure-core``, which ``azure-identity`` brings: the vault needs two calls of it
(`Wrap Key <https://learn.microsoft.com/rest/api/keyvault/keys/wrap-key/wrap-key>`_). The context is **not** bound in:
these calls take no label. A wrapped key moved into another key object opens, and then does not open what is sealed
there.

What `wrap` returns is the key's version, a zero byte, and what the service gave: a later version does not open it.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from holdfast.clock import Clock, SystemClock
from holdfast.engine.config import Connection
from holdfast.engine.vault.errors import (
    KeyServiceRefused,
    KeyServiceUnavailable,
    VaultError,
    WrongKey,
    not_installed,
)
from holdfast.errors import ConfigError

_API_VERSION = "7.4"
_ALGORITHM = "RSA-OAEP-256"
_LIMITS: Mapping[str, Any] = {"connection_timeout": 3, "read_timeout": 5}
_TRIES = 3
_FIRST_PAUSE_SECONDS = 0.3
_PATH = re.compile(r"/keys/(?P<name>[A-Za-z0-9-]{1,127})(?:/(?P<version>[0-9a-f]{32}))?")
#: Whose token a vault takes, by the end of its host name, and who gives it out. A token goes nowhere else.
_CLOUDS = {
    "vault.azure.net": "login.microsoftonline.com",
    "managedhsm.azure.net": "login.microsoftonline.com",
    "vault.azure.cn": "login.chinacloudapi.cn",
    "vault.usgovcloudapi.net": "login.microsoftonline.us",
}


@dataclass(frozen=True)
class AzureKeyVaultRecipient:
    """One RSA key of a Key Vault or Managed HSM.

    Args:
        key_name: ``https://NAME.vault.azure.net/keys/KEY``, with ``/VERSION`` or without. Without one, `wrap` asks
            which is the newest, and so needs the right ``keys/get``.
        connection: Airflow's Azure connection: login, password and ``extra.tenantId``, else the machine's identity.
        client: an ``azure.core.PipelineClient`` to use instead of one made from the connection.
        clock: waits between tries.

    Raises:
        ConfigError: the name is no key's.
    """

    key_name: str
    connection: Connection | None = field(default=None, repr=False)
    client: Any = field(default=None, repr=False, compare=False)
    clock: Clock = field(default_factory=SystemClock, repr=False, compare=False)
    kind: str = "azure-key-vault"

    def __post_init__(self) -> None:
        url = urlsplit(self.key_name)
        known = self.client is not None or self._domain() in _CLOUDS
        if url.scheme != "https" or not _PATH.fullmatch(url.path) or url.query or url.fragment or not known:
            raise ConfigError(
                "this names no key of an Azure Key Vault",
                where=f"azure-key-vault:{self.key_name}",
                expected=f"https://NAME.DOMAIN/keys/KEY[/VERSION], DOMAIN one of {', '.join(_CLOUDS)}",
                found=f"host {url.hostname!r}, path {url.path!r}",
                fix="`az keyvault key show --vault-name … --name … --query key.kid` shows it",
            )

    def _domain(self) -> str:
        return (urlsplit(self.key_name).hostname or "").partition(".")[2]

    def wrap(self, key: bytes, context: dict[str, str]) -> bytes:  # noqa: ARG002 - the service binds nothing in
        """Raises KeyServiceRefused, KeyServiceUnavailable."""
        version = self._version() or self._newest()
        answer = self._call("POST", f"{self._path()}/{version}/wrapkey", key)
        return version.encode() + b"\0" + self._value(answer)

    def unwrap(self, wrapped: bytes, context: dict[str, str]) -> bytes:  # noqa: ARG002
        """Raises WrongKey, KeyServiceRefused, KeyServiceUnavailable."""
        version, _, value = wrapped.partition(b"\0")
        if not re.fullmatch(rb"[0-9a-f]{32}", version):
            raise WrongKey("these bytes were not wrapped by an Azure Key Vault", where=self.key_name)
        return self._value(self._call("POST", f"{self._path()}/{version.decode()}/unwrapkey", value))

    def _version(self) -> str | None:
        found = _PATH.fullmatch(urlsplit(self.key_name).path)
        return found["version"] if found else None

    def _path(self) -> str:
        found = _PATH.fullmatch(urlsplit(self.key_name).path)
        assert found is not None
        return f"/keys/{found['name']}"

    def _newest(self) -> str:
        kid = str(self._call("GET", f"{self._path()}/").get("key", {}).get("kid", ""))
        found = _PATH.fullmatch(urlsplit(kid).path)
        if found is None or not found["version"]:
            raise self._odd("the id of the newest version", kid)
        return found["version"]

    def _value(self, answer: Mapping[str, Any]) -> bytes:
        text = str(answer.get("value", ""))
        try:
            return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
        except (binascii.Error, ValueError):
            raise self._odd("base64url", "something else") from None

    def _odd(self, expected: str, found: str) -> KeyServiceUnavailable:
        return KeyServiceUnavailable(
            "the answer is not one of a Key Vault", where=self.key_name, expected=expected, found=found
        )

    def _call(self, method: str, path: str, value: bytes | None = None) -> dict[str, Any]:
        for attempt in range(1, _TRIES + 1):
            try:
                return self._once(method, path, value)
            except KeyServiceUnavailable:
                if attempt == _TRIES:
                    raise
                self.clock.sleep(_FIRST_PAUSE_SECONDS * 2 ** (attempt - 1))
        raise AssertionError("unreachable")

    def _once(self, method: str, path: str, value: bytes | None) -> dict[str, Any]:
        client = self._client()
        from azure.core.exceptions import AzureError, ClientAuthenticationError
        from azure.core.rest import HttpRequest

        url = urlsplit(self.key_name)
        body = None
        if value is not None:
            body = {"alg": _ALGORITHM, "value": base64.urlsafe_b64encode(value).rstrip(b"=").decode()}
        request = HttpRequest(
            method, f"{url.scheme}://{url.netloc}{path}", params={"api-version": _API_VERSION}, json=body
        )
        try:
            answer = client.send_request(request, **_LIMITS)
            if answer.status_code != 200:
                raise self._refused(path, answer)
            found = answer.json()
        except ClientAuthenticationError as error:
            raise KeyServiceRefused(
                "there are no credentials for the Key Vault", where=self.key_name, found=_first_line(error)
            ) from None
        except AzureError as error:
            raise KeyServiceUnavailable(
                "the Key Vault does not answer", where=self.key_name, found=_first_line(error)
            ) from None
        except ValueError as error:
            raise self._odd("JSON", str(error)) from None
        return found if isinstance(found, dict) else {}

    def _refused(self, path: str, answer: Any) -> VaultError:
        try:
            told = answer.json().get("error", {})
            code = str(told.get("innererror", {}).get("code") or told.get("code") or "")
        except (ValueError, AttributeError):
            code = ""
        found = f"HTTP {answer.status_code} {code}".strip()
        if answer.status_code in (408, 429) or answer.status_code >= 500:
            return KeyServiceUnavailable("the Key Vault is failing or throttling", where=self.key_name, found=found)
        if answer.status_code == 400 and path.endswith("/unwrapkey"):
            return WrongKey(
                "the Key Vault does not open it: another key or other bytes", where=self.key_name, found=found
            )
        return KeyServiceRefused(
            "the Key Vault refuses the key's use",
            where=self.key_name,
            expected="the rights keys/wrapKey or keys/unwrapKey on an enabled RSA key",
            found=found,
            fix="Use another recipient of the key set meanwhile",
        )

    def _client(self) -> Any:
        if self.client is None:
            try:
                from azure.core import PipelineClient
                from azure.core.pipeline.policies import BearerTokenCredentialPolicy
            except ImportError as error:
                raise not_installed("azure-identity", self.key_name, error) from None
            token = BearerTokenCredentialPolicy(self._credential(), f"https://{self._domain()}/.default")
            url = urlsplit(self.key_name)
            policies: list[Any] = [token]
            made: Any = PipelineClient(f"{url.scheme}://{url.netloc}", policies=policies)
            object.__setattr__(self, "client", made)
        return self.client

    def _credential(self) -> Any:
        from azure.identity import ClientSecretCredential, DefaultAzureCredential

        authority = _CLOUDS[self._domain()]
        connection = self.connection
        if connection is not None:
            extra = connection.extra
            tenant = extra.get("tenantId") or extra.get(f"extra__{connection.conn_type}__tenantId")
            if connection.login and connection.password and tenant:
                return ClientSecretCredential(str(tenant), connection.login, connection.password, authority=authority)
        return DefaultAzureCredential(authority=authority)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0][:300]
