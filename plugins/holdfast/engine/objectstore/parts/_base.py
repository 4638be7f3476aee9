"""What the backends' parts share: names, pinned reads through the store, and the question whose object is there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from holdfast.engine.config import Cloud
from holdfast.engine.objectstore._translate import Call
from holdfast.engine.objectstore._values import same
from holdfast.engine.objectstore.attribute_rules import check_attributes
from holdfast.engine.objectstore.attributes import NO_ATTRIBUTES, Attributes
from holdfast.engine.objectstore.checksums import NO_BYTES, Checksums
from holdfast.engine.objectstore.errors import (
    BytesCorrupted,
    NotSupported,
    ObjectExists,
    ObjectNotFound,
    PreconditionFailed,
    StoreUnavailable,
    UploadGone,
)
from holdfast.engine.objectstore.interface import ByteRange, Create, ObjectInfo, ObjectVersion, Overwrite, PutMode
from holdfast.engine.objectstore.keys import check_metadata
from holdfast.engine.objectstore.parts.interface import (
    PartData,
    PartLimits,
    Upload,
    UploadedPart,
    part_bytes_for,
)

if TYPE_CHECKING:
    from holdfast.engine.objectstore._obstore import ObstoreStore

#: How much is read at once where an object must be read back.
READ_BACK_BYTES = 8 * 1024 * 1024


class StoreParts:
    """The part-wise side of one store.

    Args:
        store: the store itself.
    """

    limits: PartLimits

    def __init__(self, store: ObstoreStore) -> None:
        self._store = store

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self._store!r}>"

    @property
    def name(self) -> str:
        return self._store.name

    def read_into(self, key: str, start: int, buffer: memoryview, *, if_match: ObjectVersion) -> None:
        wanted = ByteRange(start, start + buffer.nbytes)
        data = self._store.get(key, byte_range=wanted, if_match=if_match)
        if len(data) != buffer.nbytes:
            raise self._cut_short(self._call("read_into", key), buffer.nbytes, len(data))
        buffer[:] = data

    def stored_checksums(self, key: str, version: ObjectVersion) -> Checksums | None:
        self._pinned_head(key, version)
        return None

    # -- for the backends ------------------------------------------------------------------------------------------

    def _call(self, verb: str, key: str | None, *, writes: bool = False) -> Call:
        return Call(self._store.name, verb, key, writes=writes)

    def _asked(
        self,
        call: Call,
        cloud: Cloud,
        content_type: str | None,
        metadata: Mapping[str, str] | None,
        attributes: Attributes | None,
    ) -> Attributes:
        """What the object is to say of itself; raises for what the cloud would refuse or change."""
        if metadata:
            check_metadata(metadata, call.where)
        asked = (attributes or NO_ATTRIBUTES).adding(content_type, metadata)
        check_attributes(asked, cloud, call.where)
        return asked

    def _refuse_what_is_there(self, key: str, mode: PutMode, call: Call) -> None:
        """Before anything large is sent: CREATE has no place where an object is. It is decided at the end."""
        if isinstance(mode, Create) and self._is_there(key):
            raise ObjectExists("an object of this key is there already", where=call.where)

    def _pinned_head(self, key: str, version: ObjectVersion) -> ObjectInfo:
        info = self._store.head(key)
        if not same(info.version, version):
            raise PreconditionFailed(
                "the object is not in the version named",
                where=self._call("head", key).where,
                expected=str(version.e_tag),
                found=str(info.version.e_tag),
            )
        return info

    def _settled(
        self, upload: Upload, *, size_bytes: int, checksums: Checksums, mode: PutMode, refusal: Exception | None = None
    ) -> ObjectVersion:
        """The version of the object at the key when it has these bytes; else the error that says what is there.

        Args:
            upload: the object that was to be.
            size_bytes: its size.
            checksums: those of the whole.
            mode: in which it was to be completed.
            refusal: why the store did not complete it.
        """
        found = self._same_bytes(upload, size_bytes, checksums)
        if found is not None:
            return found
        call = self._call("complete", upload.key)
        if isinstance(refusal, ObjectExists) or (isinstance(mode, Create) and self._is_there(upload.key)):
            raise ObjectExists("an object of this key is there already", where=call.where) from None
        raise upload_gone(call) from None

    def _is_there(self, key: str) -> bool:
        try:
            self._store.head(key)
        except ObjectNotFound:
            return False
        return True

    def _same_bytes(self, upload: Upload, size_bytes: int, checksums: Checksums) -> ObjectVersion | None:
        """The version of the object at the key, when it has these bytes."""
        key = upload.key
        try:
            info = self._store.head(key)
            if info.size_bytes != size_bytes:
                return None
            stored = self.stored_checksums(key, info.version)
            if stored is None or not (stored.confirms(checksums) or stored.contradicts(checksums)):
                stored = self._read_back(key, info, checksums)
            return info.version if stored.confirms(checksums) else None
        except (ObjectNotFound, PreconditionFailed):
            return None  # gone, or replaced while we looked

    def _read_back(self, key: str, info: ObjectInfo, wanted: Checksums) -> Checksums:
        buffer = memoryview(bytearray(min(READ_BACK_BYTES, info.size_bytes)))
        total = NO_BYTES
        while total.size_bytes < info.size_bytes:
            piece = buffer[: info.size_bytes - total.size_bytes]
            self.read_into(key, total.size_bytes, piece, if_match=info.version)
            total += Checksums.of(
                piece, with_crc64nvme=wanted.crc64nvme is not None, with_crc32c=wanted.crc32c is not None
            )
        return total

    def _cut_short(self, call: Call, expected: int, found: int) -> StoreUnavailable:
        return StoreUnavailable(
            "the answer was cut short", where=call.where, expected=f"{expected} bytes", found=f"{found} bytes"
        )


def check_mode(mode: PutMode, call: Call) -> None:
    """Raises NotSupported for a mode parts do not have."""
    if not isinstance(mode, Create | Overwrite):
        raise NotSupported(
            "an object in parts cannot be swapped for one version",
            where=call.where,
            expected="mode CREATE or OVERWRITE",
            found=type(mode).__name__,
        )


def check_begin(size_bytes: int, mode: PutMode, call: Call, limits: PartLimits, part_bytes: int | None) -> int:
    """The size of the parts; raises for what this backend does not begin."""
    check_mode(mode, call)
    if size_bytes <= 0:
        raise ValueError(f"an object in parts has bytes; found {size_bytes}. Put an empty one whole")
    if part_bytes is None:
        return part_bytes_for(size_bytes, limits)
    if part_bytes < limits.smallest_bytes or part_bytes % limits.multiple_bytes:
        raise ValueError(
            f"parts of {part_bytes} bytes; expected {limits.smallest_bytes} or more, in {limits.multiple_bytes}s"
        )
    return part_bytes


def check_part(number: int, data: PartData, checksums: Checksums, limits: PartLimits) -> int:
    """The size of a part; raises ValueError for one that cannot be."""
    size_bytes = data.nbytes if isinstance(data, memoryview) else len(data)
    if number < 1 or (limits.most_parts is not None and number > limits.most_parts):
        raise ValueError(f"part {number}: expected 1 to {limits.most_parts}")
    if size_bytes == 0 or size_bytes > limits.largest_bytes:
        raise ValueError(f"part {number} has {size_bytes} bytes; expected 1 to {limits.largest_bytes}")
    if checksums.size_bytes != size_bytes:
        raise ValueError(f"part {number} has {size_bytes} bytes, its checksums are of {checksums.size_bytes}")
    return size_bytes


def check_whole(parts: Sequence[UploadedPart], size_bytes: int, checksums: Checksums) -> list[UploadedPart]:
    """The parts by number; raises ValueError when they are not all of the object."""
    ordered = sorted(parts, key=lambda part: part.number)
    if [part.number for part in ordered] != list(range(1, len(ordered) + 1)):
        raise ValueError("the parts are not numbered 1, 2, 3 …")
    total = sum(part.size_bytes for part in ordered)
    if total != size_bytes or checksums.size_bytes != size_bytes:
        raise ValueError(f"{size_bytes} bytes expected; the parts have {total}, the checksums {checksums.size_bytes}")
    return ordered


def refuse_wrong_bytes(data: PartData, checksums: Checksums, call: Call, number: int) -> None:
    """Raises BytesCorrupted when the data is not what the checksums say."""
    received = Checksums.of(
        data, with_crc64nvme=checksums.crc64nvme is not None, with_crc32c=checksums.crc32c is not None
    )
    if (difference := received.contradicts(checksums)) is not None:
        raise corrupted(call, f"part {number}: {difference}")


def corrupted(call: Call, found: str | None) -> BytesCorrupted:
    """The error for bytes that arrived as others."""
    return BytesCorrupted(
        "the store received other bytes than were sent", where=call.where, found=found, fix="Send them again"
    )


def upload_gone(call: Call, found: str | None = None) -> UploadGone:
    """The error for an upload that is not there."""
    return UploadGone(
        "the unfinished upload is not there any more",
        where=call.where,
        found=found,
        expected="one begun and neither finished, aborted nor expired",
        fix="Begin the object again",
    )


def microseconds(at: datetime) -> int:
    """Since 1970; for ids."""
    return int(at.timestamp() * 1_000_000)


def at_microseconds(value: int) -> datetime:
    """The inverse of `microseconds`."""
    return datetime.fromtimestamp(value / 1_000_000, UTC)
