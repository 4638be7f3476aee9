"""DSSE v1 envelopes with one Ed25519 signature (https://github.com/secure-systems-lab/dsse).

Stricter than the specification where it leaves room: an envelope has exactly one spelling (RFC 8785 JSON, padded
standard base64), so that no byte of it can be changed without its being noticed.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from holdfast.engine.snapshot.documents import canonical
from holdfast.errors import HoldfastError


class EnvelopeInvalid(HoldfastError):
    """A DSSE envelope is not well-formed or its signature is wrong."""


@dataclass(frozen=True)
class Envelope:
    """What an envelope says, before its signature was checked."""

    payload: bytes
    payload_type: str
    key_id: str
    signature: bytes


def key_id_of(key: Ed25519PublicKey) -> str:
    """SHA-256 of the raw 32-byte public key, in hex."""
    return hashlib.sha256(key.public_bytes_raw()).hexdigest()


def pre_authentication_encoding(payload_type: str, payload: bytes) -> bytes:
    """PAE of DSSE v1: what is signed, type and lengths included."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def sign(payload: bytes, payload_type: str, key: Ed25519PrivateKey) -> bytes:
    """The bytes of an envelope around a payload."""
    signature = key.sign(pre_authentication_encoding(payload_type, payload))
    return _spell(Envelope(payload, payload_type, key_id_of(key.public_key()), signature))


def parse(data: bytes, *, where: str) -> Envelope:
    """Read an envelope's form; says nothing of its signature. Raises EnvelopeInvalid."""
    try:
        document = json.loads(data)
        (signature,) = document["signatures"]
        envelope = Envelope(
            base64.b64decode(document["payload"], validate=True),
            document["payloadType"],
            signature["keyid"],
            base64.b64decode(signature["sig"], validate=True),
        )
        spelled = _spell(envelope)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, binascii.Error, UnicodeError):
        raise EnvelopeInvalid(
            "this is no DSSE envelope",
            where=where,
            expected="payload, payloadType and one signature",
            found=f"{len(data)} other bytes",
        ) from None
    if spelled != data:
        raise EnvelopeInvalid(
            "the envelope is not spelled as it was written",
            where=where,
            expected="RFC 8785 JSON with nothing else in it",
            found="other bytes of the same meaning",
        )
    return envelope


def check(envelope: Envelope, payload_type: str, key: Ed25519PublicKey, *, where: str) -> None:
    """Check an envelope's type and signature against a key. Raises EnvelopeInvalid."""
    if envelope.payload_type != payload_type:
        raise EnvelopeInvalid(
            "the envelope is about something else", where=where, expected=payload_type, found=envelope.payload_type
        )
    if envelope.key_id != key_id_of(key):
        raise EnvelopeInvalid(
            "the envelope was signed with another key",
            where=where,
            expected=f"key {key_id_of(key)}",
            found=f"key {envelope.key_id}",
        )
    try:
        key.verify(envelope.signature, pre_authentication_encoding(envelope.payload_type, envelope.payload))
    except InvalidSignature:
        raise EnvelopeInvalid(
            "the signature is wrong: the statement or its signature was changed",
            where=where,
            expected=f"a signature by key {envelope.key_id}",
            found="something else",
        ) from None


def _spell(envelope: Envelope) -> bytes:
    return canonical(
        {
            "payload": base64.b64encode(envelope.payload).decode(),
            "payloadType": envelope.payload_type,
            "signatures": [{"keyid": envelope.key_id, "sig": base64.b64encode(envelope.signature).decode()}],
        }
    )
