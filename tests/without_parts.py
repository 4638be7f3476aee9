"""Stores whose part-wise side says less than memory's: none at all, or one that computes no checksums."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from holdfast.engine.objectstore._decorator import StoreDecorator
from holdfast.engine.objectstore.checksums import Checksums
from holdfast.engine.objectstore.interface import ObjectStore, ObjectVersion
from holdfast.engine.objectstore.parts import PartStore, Upload, UploadedPart, part_store


class WithoutParts(StoreDecorator):
    """A store that takes large objects as streams only, as an encrypted one does."""

    def parts(self) -> PartStore | None:
        return None


class UncheckedParts:
    """Memory's parts as Azure has them: survivors tell no checksums, and the end compares none.

    Args:
        ends_by_checksum: as Google Cloud has them: in order, and the end compares the whole.
    """

    def __init__(self, store: ObjectStore, *, ends_by_checksum: bool = False) -> None:
        inner: Any = part_store(store)
        self._inner, self._store, self._checked = inner, store, ends_by_checksum
        self.limits = replace(inner.limits, in_order=ends_by_checksum)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def parts(self, upload: Upload) -> list[UploadedPart]:
        return [replace(part, crc64nvme=None, crc32c=None) for part in self._inner.parts(upload)]

    def stored_checksums(self, key: str, version: ObjectVersion) -> Checksums | None:
        return None

    def complete(self, upload: Upload, parts: Sequence[UploadedPart], **kwargs: Any) -> ObjectVersion:
        begun = self._inner._unfinished.get(upload.upload_id)
        if begun is None:
            return self._inner.complete(upload, parts, **kwargs)
        real = [begun.parts[part.number] for part in parts]
        if not self._checked:
            sums = [Checksums.of(begun.data[part.number]) for part in parts]
            kwargs["checksums"] = sum(sums[1:], sums[0])
        return self._inner.complete(upload, real, **kwargs)


class _Unchecked(StoreDecorator):
    def __init__(self, inner: ObjectStore, *, ends_by_checksum: bool) -> None:
        super().__init__(inner)
        self._parts: Any = UncheckedParts(inner, ends_by_checksum=ends_by_checksum)

    def parts(self) -> PartStore | None:
        return self._parts


def unchecked_parts(store: ObjectStore, *, ends_by_checksum: bool = False) -> ObjectStore:
    """The store with `UncheckedParts`."""
    return _Unchecked(store, ends_by_checksum=ends_by_checksum)
