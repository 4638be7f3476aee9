"""Signers whose key is a PEM file of this machine: the ledger's own Ed25519 key, and cosigners of a sandbox."""

from __future__ import annotations

from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from holdfast.engine.audit.tlog.keys import LocalSigner
from holdfast.errors import ConfigError

_EXPECTED = "an unencrypted PEM private key, Ed25519 or P-256"


def signer_from_file(path: Path, name: str) -> LocalSigner:
    """The key in a PEM file, by this name.

    Raises:
        ConfigError: it cannot be read or is no such key. Never holds what lies in it.
    """
    try:
        found = serialization.load_pem_private_key(path.read_bytes(), password=None)
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise ConfigError(
            "the key's file cannot be read",
            where=f"file:{path}",
            expected=_EXPECTED,
            found=type(error).__name__,
            fix="Make one with `openssl genpkey -algorithm ed25519`",
        ) from None
    if not isinstance(found, Ed25519PrivateKey | ec.EllipticCurvePrivateKey):
        raise ConfigError(
            "this key cannot sign a note", where=f"file:{path}", expected=_EXPECTED, found=type(found).__name__
        )
    return LocalSigner.of(name, found)
