"""The RSA key that signs the digests of the sandbox's trail: made once for each sandbox, worth nothing elsewhere."""

from __future__ import annotations

import base64
import hashlib
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from holdfast.sandbox.files import write_json, write_text
from holdfast.sandbox.trails.names import public_keys_file, trails_folder

KEY_FILE = "digest-key.pem"
_BITS = 2048
_VALID = timedelta(days=3650)


class DigestKey:
    """Signs, and knows its fingerprint."""

    def __init__(self, key: rsa.RSAPrivateKey) -> None:
        self._key = key
        self.public_der = key.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.PKCS1)
        #: 32 hex digits, as CloudTrail's; how AWS makes them is not published.
        self.fingerprint = hashlib.sha256(self.public_der).hexdigest()[:32]

    def sign(self, text: bytes) -> bytes:
        """SHA256withRSA: PKCS #1 v1.5, so the same text has one signature."""
        return self._key.sign(text, padding.PKCS1v15(), hashes.SHA256())


def load_or_make_key(state: Path, now: datetime | None = None) -> DigestKey:
    """The sandbox's key; at first it is made, and its public half written beside it."""
    file = trails_folder(state) / KEY_FILE
    if file.exists():
        # It is this sandbox's own: checking it anew would cost more than a delivery.
        loaded = serialization.load_pem_private_key(file.read_bytes(), None, unsafe_skip_rsa_key_validation=True)
        assert isinstance(loaded, rsa.RSAPrivateKey)
        key = DigestKey(loaded)
    else:
        made = rsa.generate_private_key(public_exponent=65537, key_size=_BITS)
        pem = made.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        write_text(file, pem.decode("ascii"), durable=True)
        key = DigestKey(made)
    if not public_keys_file(state).exists():
        since = (now or datetime.now(UTC)).replace(microsecond=0)
        listed = {
            "Value": base64.b64encode(key.public_der).decode("ascii"),
            "ValidityStartTime": since.isoformat(),
            "ValidityEndTime": (since + _VALID).isoformat(),
            "Fingerprint": key.fingerprint,
        }
        write_json(public_keys_file(state), {"PublicKeyList": [listed]}, durable=True)
    return key
