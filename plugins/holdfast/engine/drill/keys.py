"""The signing key: given, or made once on this machine and kept for its owner alone."""

from __future__ import annotations

import base64
import binascii
import os
from collections.abc import Mapping
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from holdfast.errors import ConfigError

#: Path of a PEM file (PKCS #8, Ed25519, not encrypted), or its text.
KEY_VARIABLE = "HOLDFAST_SIGNING_KEY"
#: Folder of everything Holdfast keeps on a machine.
STATE_VARIABLE = "HOLDFAST_STATE"
_FILE = "signing-key.pem"
_FIX = "Make one with: openssl genpkey -algorithm ed25519 -out signing-key.pem"


def load_or_create_key(environ: Mapping[str, str]) -> Ed25519PrivateKey:
    """The key that ``HOLDFAST_SIGNING_KEY`` gives, else the one of this machine's state folder, made when missing.

    Raises:
        ConfigError: the key named cannot be read, or the folder cannot be written.
    """
    given = environ.get(KEY_VARIABLE)
    if given:
        if given.lstrip().startswith("-----BEGIN"):
            return _private(given.encode(), f"${KEY_VARIABLE}")
        return _read(Path(given).expanduser(), named_by=f"${KEY_VARIABLE}")
    file = Path(environ.get(STATE_VARIABLE) or "~/.holdfast") / _FILE
    try:
        file = file.expanduser()
        if not file.exists():
            _create(file)
    except (OSError, RuntimeError) as error:  # the second: the user has no home
        raise ConfigError(
            "the signing key cannot be made",
            where=str(file),
            expected="a folder to write to",
            found=str(error),
            fix=f"Name a key with {KEY_VARIABLE}",
        ) from None
    return _read(file)


def load_public_key(given: str | Path) -> Ed25519PublicKey:
    """A trusted public key: a PEM file (public, or the private key itself), or its raw 32 bytes in hex or base64.

    Raises:
        ConfigError: it is none of these.
    """
    text = str(given).strip()
    where = "the PEM text" if text.startswith("-----BEGIN") else text[:100]
    try:
        if len(text) in (43, 44, 64) and not Path(text).exists():
            raw = (
                bytes.fromhex(text)
                if len(text) == 64
                else base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
            )
            return Ed25519PublicKey.from_public_bytes(raw)
        data = text.encode() if text.startswith("-----BEGIN") else Path(text).expanduser().read_bytes()
        if b"PRIVATE KEY" in data:
            return _private(data, where).public_key()
        key = load_pem_public_key(data)
    except (OSError, ValueError, binascii.Error, UnsupportedAlgorithm) as error:
        raise ConfigError(
            "the public key cannot be read",
            where=where,
            expected="a PEM file of an Ed25519 key, or its 32 bytes in hex or base64",
            found=str(error),
        ) from None
    if not isinstance(key, Ed25519PublicKey):
        raise ConfigError(
            "the public key is of another kind", where=where, expected="Ed25519", found=type(key).__name__
        )
    return key


def _read(file: Path, named_by: str | None = None) -> Ed25519PrivateKey:
    where = named_by or str(file)
    try:
        where = str(file) if file.is_file() else where  # what names no file may be the key itself
        return _private(file.read_bytes(), where)
    except OSError as error:
        raise ConfigError(
            "the signing key cannot be read",
            where=where,
            expected="a PEM file",
            found=str(error.strerror),
            fix=_FIX,
        ) from None


def _private(data: bytes, where: str) -> Ed25519PrivateKey:
    try:
        key = load_pem_private_key(data, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        # Never the text: it is a secret.
        raise ConfigError(
            "the signing key cannot be read",
            where=where,
            expected="an Ed25519 key in PEM, not encrypted",
            found="something else",
            fix=_FIX,
        ) from None
    if not isinstance(key, Ed25519PrivateKey):
        raise ConfigError(
            "the signing key is of another kind", where=where, expected="Ed25519", found=type(key).__name__, fix=_FIX
        )
    return key


def _create(file: Path) -> None:
    """Make a key only its owner may read. Of several processes at once one wins, and all use its key."""
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    pem = Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    draft = file.with_name(f"{file.name}.{os.getpid()}.{os.urandom(4).hex()}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(pem)
            stream.flush()
            os.fsync(stream.fileno())
        try:
            os.link(draft, file)
        except FileExistsError:
            return
    finally:
        draft.unlink()
