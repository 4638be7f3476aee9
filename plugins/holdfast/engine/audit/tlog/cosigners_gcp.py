"""A cosigner whose key is Google Cloud KMS's: ECDSA on P-256 over SHA-256, of a digest made here.

(`asymmetricSign
<https://cloud.google.com/kms/docs/reference/rest/v1/projects.locations.keyRings.cryptoKeys.cryptoKeyVersions/asymmetricSign>`_)
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256

from holdfast.engine.audit.tlog.keys import VerifierKey, checked_signature, p256_from_pem
from holdfast.engine.keyservice.gcp import GcpKmsKey
from holdfast.engine.objectstore.checksums import crc32c
from holdfast.errors import ConfigError

_NAME = re.compile(r"projects/[^/]+/locations/[^/]+/keyRings/[^/]+/cryptoKeys/[^/]+/cryptoKeyVersions/[1-9][0-9]*")


@dataclass(frozen=True)
class GcpKmsCosigner(GcpKmsKey):
    """One version of an asymmetric key of algorithm EC_SIGN_P256_SHA256.

    Needs ``cloudkms.cryptoKeyVersions.viewPublicKey`` and ``…useToSign``.

    Args:
        key_name: with its version: another version is another key.
        name: what the key is called in a note.

    Raises:
        ConfigError: the name is no version's.
    """

    name: str = "gcp-kms"

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.key_name):
            raise ConfigError(
                "this names no version of a key of Cloud KMS",
                where=f"gcp-kms:{self.key_name}",
                expected="projects/P/locations/L/keyRings/R/cryptoKeys/K/cryptoKeyVersions/N",
                fix="`gcloud kms keys versions list --key K --keyring R --location L` shows them as `NAME`",
            )

    @cached_property
    def key(self) -> VerifierKey:
        """Asked for once. Raises ConfigError (another kind of key), KeyServiceRefused, KeyServiceUnavailable."""
        answer = self.call("get_public_key", {}, lambda came: came.pem_crc32c == crc32c(came.pem.encode()))
        return p256_from_pem(self.name, str(answer.pem).encode())

    def sign(self, message: bytes) -> bytes:
        """Raises SignerError, ConfigError, KeyServiceRefused, KeyServiceUnavailable."""
        digest = sha256(message).digest()
        answer = self.call(
            "asymmetric_sign",
            {"digest": {"sha256": digest}, "digest_crc32c": crc32c(digest)},
            lambda came: bool(
                came.verified_digest_crc32c
                and came.name == self.key_name
                and came.signature_crc32c == crc32c(came.signature)
            ),
        )
        return checked_signature(self.key, message, bytes(answer.signature))
