"""Keys that sign notes: verifier keys as texts, and signers.

A verifier key is ``NAME+ID+BASE64``: eight hex digits of the key's id, and one byte for the kind of signature before
the public key (`signed-note <https://c2sp.org/signed-note>`_). Two kinds are known here: Ed25519 (1), whose public key
is its 32 bytes, and ECDSA on P-256 over SHA-256 (2), whose public key is its DER ``SubjectPublicKeyInfo`` and whose id
is the beginning of that document's SHA-256.
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property
from hashlib import sha256
from typing import Protocol

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from holdfast.engine.audit.tlog.errors import SignerError
from holdfast.errors import ConfigError


class Algorithm(IntEnum):
    """The byte that says which kind of signature a key makes."""

    ED25519 = 1
    ECDSA_P256 = 2


@dataclass(frozen=True)
class VerifierKey:
    """A public key and the name it signs by.

    Args:
        name: as in a signature's line; by custom a URL without a scheme.
        algorithm: what its signatures are.
        public_key: 32 bytes of Ed25519, or the DER of a P-256 key.

    Raises:
        ConfigError: the name or the key cannot be one.
    """

    name: str
    algorithm: Algorithm
    public_key: bytes

    def __post_init__(self) -> None:
        if not is_key_name(self.name):
            raise ConfigError(
                "this is no name of a key",
                where=repr(self.name),
                expected="letters without spaces, control characters or a plus sign",
            )
        try:
            found = self._loaded
        except (ValueError, UnsupportedAlgorithm) as error:
            raise self._no_key(str(error) or type(error).__name__) from None
        if self.algorithm is Algorithm.ECDSA_P256 and _spki(found) != self.public_key:
            raise self._no_key("another encoding")

    def _no_key(self, found: str) -> ConfigError:
        expected = "the 32 bytes of an Ed25519 key"
        if self.algorithm is Algorithm.ECDSA_P256:
            expected = "the DER SubjectPublicKeyInfo of a P-256 key"
        return ConfigError("this is no public key", where=self.name, expected=expected, found=found)

    @cached_property
    def _loaded(self) -> Ed25519PublicKey | ec.EllipticCurvePublicKey:
        if self.algorithm is Algorithm.ED25519:
            return Ed25519PublicKey.from_public_bytes(self.public_key)
        found = serialization.load_der_public_key(self.public_key)
        if not isinstance(found, ec.EllipticCurvePublicKey) or not isinstance(found.curve, ec.SECP256R1):
            raise ValueError("a key of another kind")
        return found

    @classmethod
    def of(cls, name: str, public_key: object) -> VerifierKey:
        """Of a key of the ``cryptography`` package."""
        if isinstance(public_key, Ed25519PublicKey):
            return cls(name, Algorithm.ED25519, public_key.public_bytes_raw())
        if isinstance(public_key, ec.EllipticCurvePublicKey) and isinstance(public_key.curve, ec.SECP256R1):
            return cls(name, Algorithm.ECDSA_P256, _spki(public_key))
        raise ConfigError(
            "this key cannot sign a note",
            where=name,
            expected="Ed25519 or ECDSA on P-256",
            found=str(getattr(getattr(public_key, "curve", None), "name", type(public_key).__name__)),
        )

    @classmethod
    def parse(cls, text: str) -> VerifierKey:
        """From ``NAME+ID+BASE64``. Raises ConfigError."""
        name, _, rest = text.partition("+")
        key_id, _, encoded = rest.partition("+")
        data = decoded_base64(encoded)
        if data is None or not data or data[0] not in tuple(Algorithm):
            raise ConfigError(
                "this is no verifier key",
                where=repr(text[:200]),
                expected="NAME+ID+BASE64 of an Ed25519 or ECDSA P-256 key",
                found="nothing of that form" if data is None else f"kind {data[:1].hex() or 'none'}",
            )
        found = cls(name, Algorithm(data[0]), data[1:])
        if key_id != found.key_id.hex():
            raise ConfigError(
                "the verifier key's id is not its own", where=name, expected=found.key_id.hex(), found=key_id[:20]
            )
        return found

    def __str__(self) -> str:
        encoded = base64.b64encode(bytes([self.algorithm]) + self.public_key).decode()
        return f"{self.name}+{self.key_id.hex()}+{encoded}"

    @cached_property
    def key_id(self) -> bytes:
        """Four bytes that name it beside its name; no proof of anything."""
        if self.algorithm is Algorithm.ECDSA_P256:
            return sha256(self.public_key).digest()[:4]
        return sha256(self.name.encode() + b"\n" + bytes([self.algorithm]) + self.public_key).digest()[:4]

    def verifies(self, message: bytes, signature: bytes) -> bool:
        """Whether it made this signature of this message."""
        key = self._loaded
        try:
            if isinstance(key, Ed25519PublicKey):
                key.verify(signature, message)
            else:
                key.verify(signature, message, ec.ECDSA(hashes.SHA256()))
        except InvalidSignature:
            return False
        return True


def _spki(key: Ed25519PublicKey | ec.EllipticCurvePublicKey) -> bytes:
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def is_key_name(name: str) -> bool:
    """Whether a key may be called so."""
    return bool(name) and not any(letter.isspace() or letter == "+" or letter < " " for letter in name)


def decoded_base64(text: str) -> bytes | None:
    """The bytes whose encoding is exactly this text, if there are any."""
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return None
    return data if base64.b64encode(data).decode() == text else None


class Signer(Protocol):
    """Whoever signs by a key."""

    @property
    def key(self) -> VerifierKey:
        """The public one, with the name, the algorithm and the id."""

    def sign(self, message: bytes) -> bytes:
        """The signature: 64 bytes of Ed25519, or the DER of an ECDSA one.

        Raises KeyServiceRefused, KeyServiceUnavailable, SignerError: a key of a cloud.
        """


def checked_signature(key: VerifierKey, message: bytes, signature: bytes) -> bytes:
    """The signature. Raises SignerError: it is not this key's of this message."""
    if not key.verifies(message, signature):
        raise SignerError(
            "the signature is not of this text and key",
            where=f"{key.name}+{key.key_id.hex()}",
            expected=f"one of {key.algorithm.name}",
            found=f"{len(signature)} bytes that do not verify",
        )
    return signature


@dataclass(frozen=True)
class LocalSigner:
    """A private key in memory.

    Args:
        key: its public part.
        private: Ed25519 or P-256.
    """

    key: VerifierKey
    private: Ed25519PrivateKey | ec.EllipticCurvePrivateKey

    @classmethod
    def of(cls, name: str, private: Ed25519PrivateKey | ec.EllipticCurvePrivateKey) -> LocalSigner:
        """By this name. Raises ConfigError: a key of another curve."""
        return cls(VerifierKey.of(name, private.public_key()), private)

    def __repr__(self) -> str:
        return f"LocalSigner({self.key})"

    def sign(self, message: bytes) -> bytes:
        """By this key."""
        if isinstance(self.private, Ed25519PrivateKey):
            return self.private.sign(message)
        return self.private.sign(message, ec.ECDSA(hashes.SHA256()))


def p256_from_der(name: str, der: bytes) -> VerifierKey:
    """The P-256 key a service shows as DER. Raises ConfigError: another kind of key."""
    try:
        return _p256(name, serialization.load_der_public_key(der))
    except (ValueError, UnsupportedAlgorithm) as error:
        raise _unreadable(name, error) from None


def p256_from_pem(name: str, pem: bytes) -> VerifierKey:
    """The P-256 key a service shows as PEM. Raises ConfigError: another kind of key."""
    try:
        return _p256(name, serialization.load_pem_public_key(pem))
    except (ValueError, UnsupportedAlgorithm) as error:
        raise _unreadable(name, error) from None


def _p256(name: str, public_key: object) -> VerifierKey:
    found = VerifierKey.of(name, public_key)
    if found.algorithm is not Algorithm.ECDSA_P256:
        raise ConfigError("this key cannot cosign", where=name, expected="ECDSA on P-256", found=found.algorithm.name)
    return found


def _unreadable(name: str, error: Exception) -> ConfigError:
    return ConfigError(
        "the key's service shows no public key", where=name, expected="ECDSA on P-256", found=type(error).__name__
    )
