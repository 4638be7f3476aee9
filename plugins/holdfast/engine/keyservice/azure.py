"""One key of an Azure Key Vault or Managed HSM, and how it is asked: with deadlines, a few tries, errors told apart.

Over the service's REST API with ``azure-core``, which ``azure-identity`` brings: a few calls of it are wanted
(`Keys <https://learn.microsoft.com/rest/api/keyvault/keys/operation-groups>`_).
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from holdfast.clock import Clock, SystemClock
from holdfast.engine.config import Connection
from holdfast.engine.keyservice.errors import (
    KeyServiceError,
    KeyServiceRefused,
    KeyServiceUnavailable,
    not_installed,
)
from holdfast.errors import ConfigError

_API_VERSION = "7.4"
_LIMITS: Mapping[str, Any] = {"connection_timeout": 3, "read_timeout": 5}
_TRIES = 3
_FIRST_PAUSE_SECONDS = 0.3
_PATH = re.compile(r"/keys/(?P<name>[A-Za-z0-9-]{1,127})(?:/(?P<version>[0-9a-f]{32}))?")
_VERBS = ("sign", "wrapkey", "unwrapkey")
#: Whose token a vault takes, by the end of its host name, and who gives it out. A token goes nowhere else.
_CLOUDS = {
    "vault.azure.net": "login.microsoftonline.com",
    "managedhsm.azure.net": "login.microsoftonline.com",
    "vault.azure.cn": "login.chinacloudapi.cn",
    "vault.usgovcloudapi.net": "login.microsoftonline.us",
}


@dataclass(frozen=True)
class AzureKeyVaultKey:
    """One key of a Key Vault or Managed HSM.

    Args:
        key_name: ``https://NAME.vault.azure.net/keys/KEY``, with ``/VERSION`` or without.
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

    @property
    def version(self) -> str | None:
        """32 hex digits, where the name has them."""
        found = _PATH.fullmatch(urlsplit(self.key_name).path)
        return found["version"] if found else None

    def _path(self) -> str:
        found = _PATH.fullmatch(urlsplit(self.key_name).path)
        assert found is not None
        return f"/keys/{found['name']}"

    def shown(self) -> Mapping[str, Any]:
        """The public key as the service shows it, a JSON Web Key: of this version, or of the newest.

        Raises KeyServiceRefused, KeyServiceUnavailable.
        """
        found = self._call("GET", f"{self._path()}/{self.version or ''}").get("key")
        if not isinstance(found, dict):
            raise self.odd("a key", type(found).__name__)
        return found

    def operate(self, verb: str, version: str, algorithm: str, value: bytes) -> bytes:
        """What a version gives for this value, e.g. by ``sign``. Raises KeyServiceRefused, KeyServiceUnavailable."""
        body = {"alg": algorithm, "value": base64.urlsafe_b64encode(value).rstrip(b"=").decode()}
        return self.decoded(self._call("POST", f"{self._path()}/{version}/{verb}", body).get("value"))

    def decoded(self, text: Any) -> bytes:
        """Of base64url, as all bytes come. Raises KeyServiceUnavailable."""
        try:
            return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
        except (TypeError, ValueError):
            raise self.odd("base64url", "something else") from None

    def odd(self, expected: str, found: str) -> KeyServiceUnavailable:
        """An answer that no Key Vault gives."""
        return KeyServiceUnavailable(
            "the answer is not one of a Key Vault", where=self.key_name, expected=expected, found=found
        )

    def _call(self, method: str, path: str, body: dict[str, str] | None = None) -> dict[str, Any]:
        for attempt in range(1, _TRIES + 1):
            try:
                return self._once(method, path, body)
            except KeyServiceUnavailable:
                if attempt == _TRIES:
                    raise
                self.clock.sleep(_FIRST_PAUSE_SECONDS * 2 ** (attempt - 1))
        raise AssertionError("unreachable")

    def _once(self, method: str, path: str, body: dict[str, str] | None) -> dict[str, Any]:
        client = self._client()
        from azure.core.exceptions import AzureError, ClientAuthenticationError
        from azure.core.rest import HttpRequest

        url = urlsplit(self.key_name)
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
            raise self.odd("JSON", str(error)) from None
        return found if isinstance(found, dict) else {}

    def _refused(self, path: str, answer: Any) -> KeyServiceError:
        try:
            told = answer.json().get("error", {})
            code = str(told.get("innererror", {}).get("code") or told.get("code") or "")
        except (ValueError, AttributeError):
            code = ""
        found, verb = f"HTTP {answer.status_code} {code}".strip(), path.rpartition("/")[2]
        if answer.status_code in (408, 429) or answer.status_code >= 500:
            return KeyServiceUnavailable("the Key Vault is failing or throttling", where=self.key_name, found=found)
        return KeyServiceRefused(
            "the Key Vault refuses the key's use",
            where=self.key_name,
            expected=f"the right keys/{verb if verb in _VERBS else 'get'} on an enabled key that does this",
            found=found,
            fix="Use another key meanwhile",
            code=str(answer.status_code),
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
