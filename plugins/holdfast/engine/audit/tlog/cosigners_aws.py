"""A cosigner whose key is AWS KMS's: ECDSA on P-256 over SHA-256.

(`Sign <https://docs.aws.amazon.com/kms/latest/APIReference/API_Sign.html>`_) The message goes raw, never as a digest:
the service hashes it, as moto does; of a digest moto makes a signature of the digest's digest, and verifies it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from holdfast.engine.audit.tlog.keys import VerifierKey, checked_signature, p256_from_der
from holdfast.engine.keyservice.aws import AwsKmsKey
from holdfast.errors import ConfigError

_ALGORITHM = "ECDSA_SHA_256"
#: Longer ones the service wants as a digest.
_MAX_RAW_BYTES = 4096


@dataclass(frozen=True)
class AwsKmsCosigner(AwsKmsKey):
    """One key of spec ECC_NIST_P256 and usage SIGN_VERIFY. Needs ``kms:GetPublicKey`` and ``kms:Sign``.

    Args:
        name: what the key is called in a note.
    """

    name: str = "aws-kms"

    @cached_property
    def key(self) -> VerifierKey:
        """Asked for once. Raises ConfigError (another kind of key), KeyServiceRefused, KeyServiceUnavailable."""
        return p256_from_der(self.name, bytes(self.call("get_public_key")["PublicKey"]))

    def sign(self, message: bytes) -> bytes:
        """Raises SignerError, ConfigError, KeyServiceRefused, KeyServiceUnavailable."""
        if len(message) > _MAX_RAW_BYTES:
            raise ConfigError(
                "the text is longer than AWS KMS signs",
                where=self.key_name,
                expected=f"up to {_MAX_RAW_BYTES} bytes",
                found=f"{len(message)}",
            )
        answer = self.call("sign", Message=message, MessageType="RAW", SigningAlgorithm=_ALGORITHM)
        return checked_signature(self.key, message, bytes(answer["Signature"]))
