"""The primitives of the vault's format, each a thin wrapper with its context bound in.

AES-256-GCM (NIST SP 800-38D), HKDF-SHA-256 (RFC 5869), HPKE with X25519 (RFC 9180), keyed BLAKE3. GCM does not commit
to its key, so everything sealed carries a tag derived from the key beside it and is refused where that differs
(Albertini et al., USENIX Security 2022).
"""

from __future__ import annotations

import hmac
import os
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from holdfast.engine.vault.errors import Damaged, WrongKey

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

TAG_BYTES = 16
COMMITMENT_BYTES = 32
#: Sealed objects: magic, version, class, two zero bytes, id, commitment; then the ciphertext and its tag.
_MAGIC = b"HFVB"
_VERSION = 1
_HEADER_BYTES = 8 + 16 + COMMITMENT_BYTES
#: What a sealed secret is longer by: an X25519 public key and a tag.
HPKE_BYTES = 32 + TAG_BYTES


def hkdf(secret: bytes, *, salt: bytes, info: bytes, length: int = 32) -> bytes:
    """HKDF-SHA-256."""
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF

    return HKDF(algorithm=SHA256(), length=length, salt=salt, info=info).derive(secret)


@dataclass(frozen=True)
class ObjectKey:
    """The key one object of the vault is encrypted with, used for that object only, and its commitment."""

    key: bytes = field(repr=False)
    commitment: bytes = field(repr=False)

    @classmethod
    def derive(cls, secret: bytes, *, salt: bytes, context: bytes) -> ObjectKey:
        """Derive it.

        Args:
            secret: what it comes from.
            salt: the object's own random id, 16 bytes.
            context: what it is for; no context is the beginning of another.
        """
        both = hkdf(secret, salt=salt, info=b"holdfast vault 1|" + context, length=64)
        return cls(both[:32], both[32:])

    def check(self, commitment: bytes, where: str) -> None:
        """Raises WrongKey."""
        if not hmac.compare_digest(self.commitment, commitment):
            raise WrongKey(
                "the object was sealed with another key",
                where=where,
                fix="Open the vault with its own keys; if they are, the object's first bytes are damaged",
            )

    @cached_property
    def aead(self) -> AESGCM:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        return AESGCM(self.key)


def nonce(position: int) -> bytes:
    """The nonce of the n-th thing an object key encrypts."""
    return position.to_bytes(12, "big")


def seal(secret: bytes, kind: bytes, repository: bytes, data: bytes) -> bytes:
    """Encrypt an object whole, under a key of its own.

    Args:
        secret: the metadata key.
        kind: one byte that says what it is; bound in.
        repository: id of the repository; bound in.
        data: at most 64 MiB is sensible, it is encrypted at once.
    """
    object_id = os.urandom(16)
    key = ObjectKey.derive(secret, salt=object_id, context=b"sealed|" + repository + kind)
    header = _MAGIC + bytes([_VERSION]) + kind + b"\0\0" + object_id + key.commitment
    return header + key.aead.encrypt(nonce(0), data, repository + header)


def unseal(secret: bytes, kind: bytes, repository: bytes, data: bytes, where: str) -> bytes:
    """Raises Damaged, WrongKey."""
    from cryptography.exceptions import InvalidTag

    header = data[:_HEADER_BYTES]
    if len(data) < _HEADER_BYTES + TAG_BYTES or header[:8] != _MAGIC + bytes([_VERSION]) + kind + b"\0\0":
        raise Damaged(
            "this is no sealed object of the kind that belongs here",
            where=where,
            expected=f"{_MAGIC!r} version {_VERSION}, kind {kind!r}",
            found=f"{len(data)} bytes beginning {data[:8]!r}",
        )
    key = ObjectKey.derive(secret, salt=header[8:24], context=b"sealed|" + repository + kind)
    key.check(header[24:], where)
    try:
        return key.aead.decrypt(nonce(0), data[_HEADER_BYTES:], repository + header)
    except InvalidTag:
        raise Damaged(
            "its bytes were changed", where=where, expected="an authentic object", found="a wrong tag"
        ) from None


def _suite() -> Any:
    from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite

    return Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)


def seal_to(public: X25519PublicKey, secret: bytes, info: bytes) -> bytes:
    """A secret only the holder of the private key can read: HPKE base mode, one shot."""
    return bytes(_suite().encrypt(secret, public, info=info))


def open_sealed(private: X25519PrivateKey, sealed: bytes, info: bytes, where: str) -> bytes:
    """Raises WrongKey: not for this key, or changed."""
    from cryptography.exceptions import InvalidTag

    try:
        return bytes(_suite().decrypt(sealed, private, info=info))
    except (InvalidTag, ValueError):
        raise WrongKey("the pack's key does not open with the reader's key", where=where) from None
