"""AWS KMS as a recipient: Encrypt and Decrypt of a symmetric key, the context bound in as encryption context.

(`Encrypt <https://docs.aws.amazon.com/kms/latest/APIReference/API_Encrypt.html>`_)
"""

from __future__ import annotations

from dataclasses import dataclass

from holdfast.engine.keyservice.aws import AwsKmsKey
from holdfast.engine.keyservice.errors import KeyServiceRefused
from holdfast.engine.vault.errors import WrongKey

_OTHER_BYTES = ("InvalidCiphertextException", "IncorrectKeyException")


@dataclass(frozen=True)
class AwsKmsRecipient(AwsKmsKey):
    """One symmetric key of AWS KMS."""

    kind: str = "aws-kms"

    def wrap(self, key: bytes, context: dict[str, str]) -> bytes:
        """Raises KeyServiceRefused, KeyServiceUnavailable."""
        return bytes(self.call("encrypt", Plaintext=key, EncryptionContext=context)["CiphertextBlob"])

    def unwrap(self, wrapped: bytes, context: dict[str, str]) -> bytes:
        """Raises WrongKey, KeyServiceRefused, KeyServiceUnavailable."""
        try:
            return bytes(self.call("decrypt", CiphertextBlob=wrapped, EncryptionContext=context)["Plaintext"])
        except KeyServiceRefused as error:
            if error.code not in _OTHER_BYTES:
                raise
            raise WrongKey(
                "AWS KMS does not open it: another key, another context or other bytes",
                where=self.key_name,
                found=error.code,
            ) from None
