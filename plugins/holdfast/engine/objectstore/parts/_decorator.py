"""What decorators of a store's parts share: the same is done around every call."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from holdfast.engine.objectstore.checksums import Checksums
from holdfast.engine.objectstore.interface import OVERWRITE, ObjectVersion, PutMode
from holdfast.engine.objectstore.parts.interface import PartData, PartLimits, PartStore, Upload, UploadedPart

if TYPE_CHECKING:
    from holdfast.engine.objectstore.attributes import Attributes

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Asked:
    """A call, as a decorator sees it.

    Args:
        verb: the method's name.
        key: the object's, or the prefix of a listing.
        sends_bytes: what it sends of an object.
        reads_bytes: what it reads of an object.
    """

    verb: str
    key: str
    sends_bytes: int = 0
    reads_bytes: int = 0


class PartDecorator(ABC):
    """A `PartStore` that is another one, with something around each call.

    Args:
        inner: the other one.
    """

    def __init__(self, inner: PartStore) -> None:
        self.inner = inner

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self.inner!r}>"

    @abstractmethod
    def around(self, asked: Asked, call: Callable[[], _T]) -> _T:
        """Make a call and return what it returns.

        Args:
            asked: which call it is.
            call: makes it.
        """

    @property
    def name(self) -> str:
        return self.inner.name

    @property
    def limits(self) -> PartLimits:
        return self.inner.limits

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
        return self.around(
            Asked("begin", key),
            lambda: self.inner.begin(
                key,
                size_bytes=size_bytes,
                content_type=content_type,
                metadata=metadata,
                attributes=attributes,
                mode=mode,
                part_bytes=part_bytes,
            ),
        )

    def put_part(self, upload: Upload, number: int, data: PartData, *, checksums: Checksums) -> UploadedPart:
        return self.around(
            Asked("put_part", upload.key, sends_bytes=checksums.size_bytes),
            lambda: self.inner.put_part(upload, number, data, checksums=checksums),
        )

    def parts(self, upload: Upload) -> list[UploadedPart]:
        return self.around(Asked("parts", upload.key), lambda: self.inner.parts(upload))

    def complete(
        self,
        upload: Upload,
        parts: Sequence[UploadedPart],
        *,
        size_bytes: int,
        checksums: Checksums,
        mode: PutMode = OVERWRITE,
    ) -> ObjectVersion:
        return self.around(
            Asked("complete", upload.key),
            lambda: self.inner.complete(upload, parts, size_bytes=size_bytes, checksums=checksums, mode=mode),
        )

    def abort(self, upload: Upload) -> None:
        self.around(Asked("abort", upload.key), lambda: self.inner.abort(upload))

    def uploads(self, prefix: str = "") -> Iterator[Upload]:
        # Whole, so that it can be asked again: unfinished uploads are few.
        return iter(self.around(Asked("uploads", prefix), lambda: list(self.inner.uploads(prefix))))

    def read_into(self, key: str, start: int, buffer: memoryview, *, if_match: ObjectVersion) -> None:
        self.around(
            Asked("read_into", key, reads_bytes=buffer.nbytes),
            lambda: self.inner.read_into(key, start, buffer, if_match=if_match),
        )

    def stored_checksums(self, key: str, version: ObjectVersion) -> Checksums | None:
        return self.around(Asked("stored_checksums", key), lambda: self.inner.stored_checksums(key, version))

    def placed(self, key: str, version: ObjectVersion) -> tuple[str | None, Mapping[str, str]]:
        """As `HttpParts.placed`; of a backend that tells neither: nothing."""
        placed = getattr(self.inner, "placed", None)
        nothing: tuple[str | None, Mapping[str, str]] = (None, {})
        return nothing if placed is None else self.around(Asked("placed", key), lambda: placed(key, version))
