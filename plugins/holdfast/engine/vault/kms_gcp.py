"""Google Cloud KMS as a recipient: Encrypt and Decrypt, the context bound in as additional authenticated data."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from holdfast.engine.keyservice.errors import KeyServiceRefused
from holdfast.engine.keyservice.gcp import GcpKmsKey
from holdfast.engine.objectstore.checksums import crc32c
from holdfast.engine.snapshot.documents import canonical
from holdfast.engine.vault.errors import WrongKey
from holdfast.errors import ConfigError

_NAME = re.compile(r"projects/[^/]+/locations/[^/]+/keyRings/[^/]+/cryptoKeys/[^/]+")


@dataclass(frozen=True)
class GcpKmsRecipient(GcpKmsKey):
    """One symmetric key of Cloud KMS; its primary version wraps, any of its versions unwraps.

    Args:
        key_name: ``projects/…/locations/…/keyRings/…/cryptoKeys/…``, without a version.

    Raises:
        ConfigError: the name is no key's.
    """

    kind: str = "gcp-kms"

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.key_name):
            raise ConfigError(
                "this names no key of Cloud KMS",
                where=f"gcp-kms:{self.key_name}",
                expected="projects/P/locations/L/keyRings/R/cryptoKeys/K",
                found="a version of one" if "/cryptoKeyVersions/" in self.key_name else "something else",
                fix="`gcloud kms keys list --keyring R --location L` shows it as `NAME`",
            )

    def wrap(self, key: bytes, context: dict[str, str]) -> bytes:
        """Raises KeyServiceRefused, KeyServiceUnavailable."""
        bound = canonical(context)
        request = {
            "plaintext": key,
            "plaintext_crc32c": crc32c(key),
            "additional_authenticated_data": bound,
            "additional_authenticated_data_crc32c": crc32c(bound),
        }
        return bytes(self.call("encrypt", request, self._is_sound_encryption).ciphertext)

    def unwrap(self, wrapped: bytes, context: dict[str, str]) -> bytes:
        """Raises WrongKey, KeyServiceRefused, KeyServiceUnavailable."""
        bound = canonical(context)
        request = {
            "ciphertext": wrapped,
            "ciphertext_crc32c": crc32c(wrapped),
            "additional_authenticated_data": bound,
            "additional_authenticated_data_crc32c": crc32c(bound),
        }
        try:
            answer = self.call("decrypt", request, lambda came: came.plaintext_crc32c == crc32c(came.plaintext))
        except KeyServiceRefused as error:
            if error.code != "InvalidArgument":
                raise
            raise WrongKey(
                "Cloud KMS does not open it: another key, another context or other bytes",
                where=self.key_name,
                found=error.found,
            ) from None
        return bytes(answer.plaintext)

    def _is_sound_encryption(self, answer: Any) -> bool:
        return bool(
            answer.verified_plaintext_crc32c
            and answer.verified_additional_authenticated_data_crc32c
            and answer.ciphertext_crc32c == crc32c(answer.ciphertext)
            and answer.name.startswith(f"{self.key_name}/cryptoKeyVersions/")
        )
