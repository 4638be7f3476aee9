"""Who can open a key object: a KMS key of a cloud, an offline age identity, or a key in a file or variable.

A recipient wraps the 32 bytes a key object is encrypted with. The clouds' are leaves of their own: `kms_aws`,
`kms_gcp`, `kms_azure`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, runtime_checkable

from holdfast.engine.vault.errors import WrongKey
from holdfast.errors import ConfigError


@runtime_checkable
class Recipient(Protocol):
    """Wraps and unwraps the key of a key object."""

    @property
    def kind(self) -> str:
        """``age``, ``secret``, ``aws-kms``, ``gcp-kms`` or ``azure-key-vault``."""

    @property
    def key_name(self) -> str:
        """Which key of that kind: an ARN, a resource name, an age recipient. Not a secret."""

    def wrap(self, key: bytes, context: dict[str, str]) -> bytes:
        """Encrypt 32 bytes. ``context`` is bound in where the service can."""

    def unwrap(self, wrapped: bytes, context: dict[str, str]) -> bytes:
        """Decrypt them. Raises WrongKey."""


@dataclass(frozen=True)
class AgeRecipient:
    """An age X25519 key pair (age-encryption.org/v1); the identity usually lies offline.

    Args:
        key_name: the recipient, ``age1…``.
        identity: ``AGE-SECRET-KEY-1…``, only where it is to be opened.
    """

    key_name: str
    identity: str | None = field(default=None, repr=False)
    kind: str = "age"

    @classmethod
    def make(cls) -> AgeRecipient:
        """A new pair."""
        import pyrage

        identity = pyrage.x25519.Identity.generate()
        return cls(str(identity.to_public()), str(identity))

    @classmethod
    def from_identity(cls, text: str, where: str) -> AgeRecipient:
        """From an identity file's text: comments and one key. Raises ConfigError, which never holds the text."""
        import pyrage

        lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]
        try:
            identity = pyrage.x25519.Identity.from_str(lines[0])
        except (IndexError, ValueError, pyrage.IdentityError):
            raise ConfigError(
                "the age identity cannot be read",
                where=where,
                expected="a line AGE-SECRET-KEY-1…",
                found="something else",
                fix="Make one with `age-keygen` or `holdfast vault keys new-offline`",
            ) from None
        return cls(str(identity.to_public()), lines[0])

    def wrap(self, key: bytes, context: dict[str, str]) -> bytes:  # noqa: ARG002 - the age format binds nothing in
        import pyrage

        try:
            recipient = pyrage.x25519.Recipient.from_str(self.key_name)
        except (ValueError, pyrage.RecipientError) as error:
            raise ConfigError(
                "the age recipient cannot be read", where=self.key_name, expected="age1…", found=str(error)
            ) from None
        return bytes(pyrage.encrypt(key, [recipient]))

    def unwrap(self, wrapped: bytes, context: dict[str, str]) -> bytes:  # noqa: ARG002
        import pyrage

        if self.identity is None:
            raise WrongKey("the age identity is not at hand", where=self.key_name)
        try:
            return bytes(pyrage.decrypt(wrapped, [pyrage.x25519.Identity.from_str(self.identity)]))
        except (pyrage.DecryptError, ValueError):
            raise WrongKey("the age identity does not open it", where=self.key_name) from None


@dataclass(frozen=True)
class SecretRecipient:
    """32 random bytes from a file or a secrets backend: AES-KW (RFC 3394).

    Args:
        key_name: what the key is called.
        secret: 32 bytes.
    """

    key_name: str
    secret: bytes = field(repr=False)
    kind: str = "secret"

    def __post_init__(self) -> None:
        if len(self.secret) != 32:
            raise ConfigError(
                "a secret recipient's key has another length",
                where=self.key_name,
                expected="32 bytes",
                found=f"{len(self.secret)} bytes",
            )

    @classmethod
    def from_file(cls, path: Path) -> SecretRecipient:
        """64 hex digits in a file. Raises ConfigError."""
        try:
            return cls(path.name, bytes.fromhex(path.read_text().strip()))
        except (OSError, ValueError):
            raise ConfigError(
                "the secret's file cannot be read",
                where=str(path),
                expected="64 hex digits",
                found="something else",
                fix="Make one with `openssl rand -hex 32`",
            ) from None

    def wrap(self, key: bytes, context: dict[str, str]) -> bytes:  # noqa: ARG002 - nor does AES-KW
        from cryptography.hazmat.primitives.keywrap import aes_key_wrap

        return aes_key_wrap(self.secret, key)

    def unwrap(self, wrapped: bytes, context: dict[str, str]) -> bytes:  # noqa: ARG002
        from cryptography.hazmat.primitives.keywrap import InvalidUnwrap, aes_key_unwrap

        try:
            return aes_key_unwrap(self.secret, wrapped)
        except InvalidUnwrap:
            raise WrongKey("the secret does not open it", where=self.key_name) from None
