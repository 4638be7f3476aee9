"""Azure Key Vault as a recipient: wrapKey and unwrapKey with RSA-OAEP-256.

(`Wrap Key <https://learn.microsoft.com/rest/api/keyvault/keys/wrap-key/wrap-key>`_) The context is **not** bound in:
these calls take no label. A wrapped key moved into another key object opens, and then does not open what is sealed
there.

What `wrap` returns is the key's version, a zero byte, and what the service gave: a later version does not open it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from holdfast.engine.keyservice.azure import AzureKeyVaultKey
from holdfast.engine.keyservice.errors import KeyServiceRefused
from holdfast.engine.vault.errors import WrongKey

_ALGORITHM = "RSA-OAEP-256"


@dataclass(frozen=True)
class AzureKeyVaultRecipient(AzureKeyVaultKey):
    """One RSA key. Without a version, `wrap` asks which is the newest, and so needs the right ``keys/get``."""

    kind: str = "azure-key-vault"

    def wrap(self, key: bytes, context: dict[str, str]) -> bytes:  # noqa: ARG002 - the service binds nothing in
        """Raises KeyServiceRefused, KeyServiceUnavailable."""
        version = self.version or self._newest()
        return version.encode() + b"\0" + self.operate("wrapkey", version, _ALGORITHM, key)

    def unwrap(self, wrapped: bytes, context: dict[str, str]) -> bytes:  # noqa: ARG002
        """Raises WrongKey, KeyServiceRefused, KeyServiceUnavailable."""
        version, _, value = wrapped.partition(b"\0")
        if not re.fullmatch(rb"[0-9a-f]{32}", version):
            raise WrongKey("these bytes were not wrapped by an Azure Key Vault", where=self.key_name)
        try:
            return self.operate("unwrapkey", version.decode(), _ALGORITHM, value)
        except KeyServiceRefused as error:
            if error.code != "400":
                raise
            raise WrongKey(
                "the Key Vault does not open it: another key or other bytes", where=self.key_name, found=error.found
            ) from None

    def _newest(self) -> str:
        kid = str(self.shown().get("kid", ""))
        found = re.search(r"/([0-9a-f]{32})$", kid)
        if found is None:
            raise self.odd("the id of the newest version", kid)
        return found[1]
