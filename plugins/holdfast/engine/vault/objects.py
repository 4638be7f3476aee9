"""Objects of the vault: new ones, each under a name of its own that nobody else will ever use, and those not there."""

from __future__ import annotations

from holdfast.engine.objectstore.errors import ObjectNotFound
from holdfast.engine.objectstore.interface import ObjectStore
from holdfast.engine.snapshot.once import create_or_read
from holdfast.engine.vault.errors import Damaged


def create_new(store: ObjectStore, key: str, data: bytes, *, content_type: str = "application/octet-stream") -> None:
    """Write an object whose name was just drawn; an answer that was lost is found by reading.

    Raises:
        Damaged: another object is there.
    """
    if create_or_read(store, key, data, content_type=content_type) != data:
        raise Damaged("another object lies where a new one belongs", where=f"{store.name}: {key}")


def get_if_there(store: ObjectStore, key: str) -> bytes | None:
    """An object, ``None`` where there is none."""
    try:
        return store.get(key)
    except ObjectNotFound:
        return None
