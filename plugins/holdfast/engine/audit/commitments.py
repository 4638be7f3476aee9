"""What the log commits to: of an event its raw bytes as received, of a document its bytes, of a seal its manifest.

An entry is one byte that says what it is, and a SHA-256 (docs/formats/audit-export.md)::

    0x01 ‖ SHA-256(raw)           an event
    0x02 ‖ SHA-256(data)          a document
    0x03 ‖ SHA-256(data)          the manifest of a seal
    0x04 ‖ SHA-256(salt ‖ raw)    an event of a protected subject; the salt goes with the subject's key

A leaf is RFC 9162's ``SHA-256(0x00 ‖ entry)``. Entries are 33 bytes, so no inner node can be taken for one.
"""

from __future__ import annotations

from hashlib import sha256
from itertools import pairwise

import pyarrow as pa

from holdfast.engine.audit.tlog.merkle import leaf_hash

EVENT, DOCUMENT, MANIFEST, PROTECTED = b"\x01", b"\x02", b"\x03", b"\x04"


def event_leaf(raw: bytes | memoryview) -> bytes:
    """The leaf of one event."""
    return leaf_hash(EVENT + sha256(raw).digest())


def document_leaf(data: bytes) -> bytes:
    """The leaf of a document."""
    return leaf_hash(DOCUMENT + sha256(data).digest())


def manifest_leaf(data: bytes) -> bytes:
    """The leaf of a seal's manifest."""
    return leaf_hash(MANIFEST + sha256(data).digest())


def protected_leaf(salt: bytes, raw: bytes | memoryview) -> bytes:
    """The leaf of an event whose subject's key can be destroyed: without the salt it tells nothing of the event."""
    return leaf_hash(PROTECTED + sha256(salt + raw).digest())


def event_leaves(raw: pa.Array) -> list[bytes]:
    """The leaves of a column of events.

    Args:
        raw: of a binary type, without nulls.
    """
    texts = raw if raw.type == pa.large_binary() else raw.cast(pa.large_binary())
    offsets, data = _offsets(texts), memoryview(texts.buffers()[2] or b"")
    tag = b"\x00" + EVENT
    # `leaf_hash` written out: one loop and two calls into OpenSSL for each event, of which the interpreter is half.
    return [sha256(tag + sha256(data[a:b]).digest()).digest() for a, b in pairwise(offsets)]


def _offsets(texts: pa.LargeBinaryArray) -> list[int]:
    if texts.null_count:
        raise ValueError("expected raw bytes of every event; found nulls")
    start, count = texts.offset, len(texts)
    if not count:
        return [0]
    return memoryview(texts.buffers()[1]).cast("q")[start : start + count + 1].tolist()
