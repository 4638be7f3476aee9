"""Large objects in parts: what a backend offers so that a broken copy goes on where it stopped.

An upload is begun, parts are put, the parts make the object. Nothing is visible under the key before `complete`.
All calls are synchronous and may be made from many threads at once. What `PartLimits.in_order` says holds: where it is
true, parts of one upload are put one after the other, by one thread at a time.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from holdfast.engine.objectstore.checksums import Checksums
from holdfast.engine.objectstore.interface import OVERWRITE, ObjectVersion, PutMode

if TYPE_CHECKING:
    from holdfast.engine.objectstore.attributes import Attributes

_MIB = 1024 * 1024
#: Parts are this large unless there would be too many of them.
USUAL_PART_BYTES = 8 * _MIB

#: The bytes of a part, in a buffer the caller may use again once the call returned.
PartData = bytes | bytearray | memoryview


@dataclass(frozen=True, slots=True)
class PartLimits:
    """What a backend takes.

    Args:
        smallest_bytes: of every part but the last.
        largest_bytes: of every part.
        most_parts: of one object; ``None``: no limit.
        in_order: parts must be put in order, one at a time.
        multiple_bytes: every part but the last is a multiple of this.
    """

    smallest_bytes: int
    largest_bytes: int
    most_parts: int | None
    in_order: bool
    multiple_bytes: int = 1


def part_bytes_for(size_bytes: int, limits: PartLimits) -> int:
    """The size of the parts of an object: a function of its size alone, so that a later process cuts it the same way.

    8 MiB, and where there would be more parts than the backend takes, as little more as makes them few enough, in whole
    MiB: where 10,000 is the limit 8 MiB up to 78 GiB, 105 MiB for 1 TiB, 525 MiB for 5 TiB.

    Args:
        size_bytes: of the whole object.
        limits: of the backend.

    Raises:
        ValueError: no size of part makes so large an object.
    """
    part_bytes = max(USUAL_PART_BYTES, limits.smallest_bytes)
    part_bytes = _rounded_up(part_bytes, limits.multiple_bytes)
    if limits.most_parts is not None and -(-size_bytes // part_bytes) > limits.most_parts:
        part_bytes = _rounded_up(-(-size_bytes // limits.most_parts), math.lcm(limits.multiple_bytes, _MIB))
    if part_bytes > limits.largest_bytes:
        raise ValueError(f"an object of {size_bytes} bytes needs parts of {part_bytes}; {limits.largest_bytes} is most")
    return part_bytes


def _rounded_up(size_bytes: int, multiple_bytes: int) -> int:
    return -(-size_bytes // multiple_bytes) * multiple_bytes


@dataclass(frozen=True, slots=True)
class Upload:
    """An unfinished object. ``upload_id`` is opaque and survives the process: it is all that resuming needs.

    `PartStore.uploads` gives ids that serve to abort an upload; to go on with one, keep the id `begin` gave.
    """

    key: str
    upload_id: str = field(repr=False)  # Google's is a capability: whoever has it may write
    started_at: datetime


@dataclass(frozen=True, slots=True)
class UploadedPart:
    """A part the store has. ``number`` begins at 1; ``tag`` is what the store calls it.

    The checksums are those the part was put with; after a restart those the store tells, ``None`` where it does not.
    """

    number: int
    size_bytes: int
    tag: str
    crc64nvme: int | None = None
    crc32c: int | None = None


@runtime_checkable
class PartStore(Protocol):
    """The part-wise side of an `ObjectStore`. Keys are as there."""

    @property
    def name(self) -> str:
        """As the store's."""

    @property
    def limits(self) -> PartLimits:
        """What it takes."""

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
        """Begin an object of so many bytes (more than none), which will be completed in the same mode.

        CREATE is decided at `complete`; an object that is there already may be noticed here.

        Args:
            key: of the object to be.
            size_bytes: of the whole object.
            content_type: its type; goes before that of ``attributes``.
            metadata: its user metadata; goes before that of ``attributes``.
            attributes: its headers, storage class, tags and metadata.
            mode: OVERWRITE or CREATE.
            part_bytes: of every part but the last; ``None``: `part_bytes_for` its size.

        Raises:
            ObjectExists: mode is CREATE and something is there already.
            NotSupported: mode is IfMatch, or the backend keeps no metadata.
        """

    def put_part(self, upload: Upload, number: int, data: PartData, *, checksums: Checksums) -> UploadedPart:
        """Send one part; sending it again replaces it. The buffer is the caller's again afterwards.

        Args:
            upload: the object.
            number: 1 for the first part.
            data: its bytes.
            checksums: of these bytes, as the caller computed them where they were read.

        Raises:
            BytesCorrupted: the store received other bytes than ``checksums`` says.
            UploadGone: the upload is finished, aborted or expired.
        """

    def parts(self, upload: Upload) -> list[UploadedPart]:
        """The parts that survived, by number. Raises UploadGone."""

    def complete(
        self,
        upload: Upload,
        parts: Sequence[UploadedPart],
        *,
        size_bytes: int,
        checksums: Checksums,
        mode: PutMode = OVERWRITE,
    ) -> ObjectVersion:
        """Make the object out of its parts; the version is the one `ObjectStore.head` and `list` show.

        May be called again after an answer was lost, also by another process: when the object at the key has these
        bytes (size and checksum), its version is returned.

        Args:
            upload: the object.
            parts: all of them, by number from 1.
            size_bytes: of the whole object.
            checksums: of the whole object.
            mode: as at `begin`.

        Raises:
            ObjectExists: mode is CREATE and something else is there. The upload is still to be aborted.
            BytesCorrupted: the store put together other bytes. The object is not at its key, unless mode was OVERWRITE.
            UploadGone: the upload is not there, nor its object.
            StoreUnavailable: no answer came, and what is at the key could not be told.
        """

    def abort(self, upload: Upload) -> None:
        """Drop an upload and its parts. One that is not there is no error."""

    def uploads(self, prefix: str = "") -> Iterator[Upload]:
        """The unfinished uploads whose key starts with ``prefix``, as far as the backend can tell them."""

    def read_into(self, key: str, start: int, buffer: memoryview, *, if_match: ObjectVersion) -> None:
        """Fill the buffer with the object's bytes from ``start``, of exactly this version.

        Raises:
            PreconditionFailed: it is another version.
            ObjectNotFound: it is gone (Azure may say PreconditionFailed).
            StoreUnavailable: the answer was cut short, or there was none.
        """

    def stored_checksums(self, key: str, version: ObjectVersion) -> Checksums | None:
        """What the store itself computed of this version of the object; ``None`` when it tells none.

        Raises ObjectNotFound, PreconditionFailed (it is another version).
        """
