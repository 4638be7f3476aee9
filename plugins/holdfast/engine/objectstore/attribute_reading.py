"""All an object says of itself, storage class and tags included, which cost a request or two of their own."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from holdfast.engine.objectstore.attributes import Attributes
from holdfast.engine.objectstore.interface import ByteRange, ObjectStore, ObjectVersion
from holdfast.engine.objectstore.parts import part_store


def read_attributes(store: ObjectStore, key: str) -> Attributes:
    """Everything an object says of itself.

    Raises:
        ObjectNotFound: it is not there.
        PreconditionFailed: it was replaced meanwhile.
        ObjectArchived: it must be restored first.
    """
    reader = store.open(key, byte_range=ByteRange(0, 1))
    return with_class_and_tags(store, key, reader.info.version, reader.attributes)


def with_class_and_tags(store: ObjectStore, key: str, version: ObjectVersion, attributes: Attributes) -> Attributes:
    """What a GET told, with storage class and tags: a HEAD, and on S3 (on Azure if there are tags) a GET more.

    Where the backend tells neither (a folder, memory), as it was. Tags are not part of a version: they are those of
    this moment.

    Args:
        store: where the object lies.
        key: its key.
        version: the one the GET read.
        attributes: from that GET.
    """
    placed = getattr(part_store(store), "placed", None)
    if placed is None:
        return attributes
    storage_class, tags = placed(key, version)
    return replace(attributes, storage_class=storage_class or attributes.storage_class, tags=tags or attributes.tags)


def preserved(
    store: ObjectStore, key: str, version: ObjectVersion, attributes: Attributes, preserve: Collection[str]
) -> Attributes:
    """What a GET told, with those of storage class and tags that a policy wants kept; for none nothing is asked.

    Args: as `with_class_and_tags`.
        preserve: of ``storage-class`` and ``tags``.

    Raises:
        PreconditionFailed, ObjectNotFound: it was replaced or removed meanwhile.
    """
    if not preserve:
        return attributes
    every = with_class_and_tags(store, key, version, attributes)
    return replace(
        attributes,
        storage_class=every.storage_class if "storage-class" in preserve else attributes.storage_class,
        tags=every.tags if "tags" in preserve else attributes.tags,
    )


def tells_class_and_tags(store: ObjectStore) -> bool:
    """Whether a store's objects can be asked for storage class and tags, or have none (a folder, memory)."""
    return store.capabilities().backend in ("local", "memory") or hasattr(part_store(store), "placed")
