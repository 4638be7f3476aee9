"""Large objects in parts: resumable, checksummed, create-only writes and pinned reads into buffers used again."""

from __future__ import annotations

from holdfast.engine.objectstore.interface import ObjectStore
from holdfast.engine.objectstore.parts.interface import (
    USUAL_PART_BYTES,
    PartData,
    PartLimits,
    PartStore,
    Upload,
    UploadedPart,
    part_bytes_for,
)
from holdfast.engine.objectstore.parts.sweep import sweep_uploads

__all__ = [
    "USUAL_PART_BYTES",
    "PartData",
    "PartLimits",
    "PartStore",
    "Upload",
    "UploadedPart",
    "part_bytes_for",
    "part_store",
    "sweep_uploads",
]


def part_store(store: ObjectStore) -> PartStore | None:
    """The part-wise side of a store, through its decorators; ``None`` when the backend has none.

    A store has one by a method ``parts()``. A decorator's is its inner store's, decorated in the same way.
    """
    parts = getattr(store, "parts", None)
    found = parts() if callable(parts) else None
    return found if isinstance(found, PartStore) else None
