"""Create-only writes whose answer may get lost: who asks again finds out what is there."""

from __future__ import annotations

from holdfast.engine.objectstore.errors import ObjectExists, ObjectNotFound, StoreUnavailable
from holdfast.engine.objectstore.interface import CREATE, ByteRange, ObjectStore


def create_or_read(
    store: ObjectStore, key: str, data: bytes, *, content_type: str | None = None, at_most: int | None = None
) -> bytes:
    """Create an object, or find what was there first.

    A retry below this call may meet its own first write, and an answer may be lost: both are told by reading the
    object. The caller compares (by bytes or by write id) and so never takes its own write for somebody else's.

    Args:
        data: the whole object.
        content_type: as the store shall serve it.
        at_most: no more bytes are read of what was there first.

    Returns:
        What lies at the key now: ``data``, or the other bytes that were there first.

    Raises:
        StoreUnavailable: it is still not known whether the object was written, or it was not.
    """
    part = None if at_most is None else ByteRange(0, at_most)
    try:
        store.put(key, data, mode=CREATE, content_type=content_type)
        return data
    except ObjectExists:
        return store.get(key, byte_range=part)
    except StoreUnavailable as lost:
        if not lost.outcome_unknown:
            raise
        try:
            return store.get(key, byte_range=part)
        except ObjectNotFound:
            raise lost from None
