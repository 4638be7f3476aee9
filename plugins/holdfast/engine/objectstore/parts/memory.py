"""Parts of objects in this process's memory."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from holdfast.engine.objectstore.checksums import Checksums
from holdfast.engine.objectstore.errors import ObjectExists
from holdfast.engine.objectstore.interface import OVERWRITE, ObjectVersion, PutMode
from holdfast.engine.objectstore.parts._base import (
    StoreParts,
    check_begin,
    check_mode,
    check_part,
    check_whole,
    refuse_wrong_bytes,
    upload_gone,
)
from holdfast.engine.objectstore.parts.interface import PartData, PartLimits, Upload, UploadedPart

if TYPE_CHECKING:
    from holdfast.engine.objectstore._obstore import ObstoreStore
    from holdfast.engine.objectstore.attributes import Attributes


@dataclass
class _Unfinished:
    upload: Upload
    content_type: str | None
    metadata: Mapping[str, str] | None
    attributes: Attributes | None
    data: dict[int, bytes] = field(default_factory=dict)
    parts: dict[int, UploadedPart] = field(default_factory=dict)


class MemoryParts(StoreParts):
    """Uploads live as long as their store.

    Args:
        store: the store.
        now: the wall clock, timezone-aware.
    """

    limits = PartLimits(smallest_bytes=1, largest_bytes=1 << 40, most_parts=10_000, in_order=False)

    def __init__(self, store: ObstoreStore, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        super().__init__(store)
        self._now = now
        self._lock = threading.Lock()
        self._unfinished: dict[str, _Unfinished] = {}

    def begin(
        self,
        key: str,
        *,
        size_bytes: int,
        content_type: str | None = None,
        metadata: Mapping[str, str] | None = None,
        attributes: Attributes | None = None,
        mode: PutMode = OVERWRITE,
        part_bytes: int | None = None,
    ) -> Upload:
        call = self._call("begin", key, writes=True)
        check_begin(size_bytes, mode, call, self.limits, part_bytes)
        self._store.path_of(key)
        self._refuse_what_is_there(key, mode, call)
        upload = Upload(key, uuid.uuid4().hex, self._now())
        with self._lock:
            self._unfinished[upload.upload_id] = _Unfinished(upload, content_type, metadata, attributes)
        return upload

    def put_part(self, upload: Upload, number: int, data: PartData, *, checksums: Checksums) -> UploadedPart:
        call = self._call("put_part", upload.key, writes=True)
        size_bytes = check_part(number, data, checksums, self.limits)
        unfinished = self._find(upload, "put_part")
        refuse_wrong_bytes(data, checksums, call, number)
        part = UploadedPart(number, size_bytes, f"{number}", checksums.crc64nvme, checksums.crc32c)
        with self._lock:
            unfinished.data[number] = bytes(data)
            unfinished.parts[number] = part
        return part

    def parts(self, upload: Upload) -> list[UploadedPart]:
        unfinished = self._find(upload, "parts")
        with self._lock:
            return [unfinished.parts[number] for number in sorted(unfinished.parts)]

    def complete(
        self,
        upload: Upload,
        parts: Sequence[UploadedPart],
        *,
        size_bytes: int,
        checksums: Checksums,
        mode: PutMode = OVERWRITE,
    ) -> ObjectVersion:
        call = self._call("complete", upload.key, writes=True)
        check_mode(mode, call)
        ordered = check_whole(parts, size_bytes, checksums)
        with self._lock:
            unfinished = self._unfinished.get(upload.upload_id)
        if unfinished is None:
            return self._settled(upload, size_bytes=size_bytes, checksums=checksums, mode=mode)
        with self._lock:
            if any(unfinished.parts.get(part.number) != part for part in ordered):
                raise upload_gone(call, "other parts than those named")
            whole = b"".join(unfinished.data[part.number] for part in ordered)
        refuse_wrong_bytes(whole, checksums, call, len(ordered))
        try:
            version = self._store.put(
                upload.key,
                whole,
                mode=mode,
                content_type=unfinished.content_type,
                metadata=unfinished.metadata,
                attributes=unfinished.attributes,
            )
        except ObjectExists as refusal:
            version = self._settled(upload, size_bytes=size_bytes, checksums=checksums, mode=mode, refusal=refusal)
        self.abort(upload)
        return version

    def abort(self, upload: Upload) -> None:
        with self._lock:
            self._unfinished.pop(upload.upload_id, None)

    def uploads(self, prefix: str = "") -> Iterator[Upload]:
        with self._lock:
            found = [unfinished.upload for unfinished in self._unfinished.values()]
        return iter(
            sorted((upload for upload in found if upload.key.startswith(prefix)), key=lambda upload: upload.key)
        )

    def _find(self, upload: Upload, verb: str) -> _Unfinished:
        with self._lock:
            unfinished = self._unfinished.get(upload.upload_id)
        if unfinished is None or unfinished.upload.key != upload.key:
            raise upload_gone(self._call(verb, upload.key))
        return unfinished
