"""What decorators of a store share: everything goes to the inner store unless overridden."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from holdfast.engine.objectstore.attributes import Attributes
from holdfast.engine.objectstore.interface import (
    OVERWRITE,
    ByteRange,
    Capabilities,
    ObjectInfo,
    ObjectReader,
    ObjectStore,
    ObjectVersion,
    PutMode,
)
from holdfast.engine.objectstore.pages import Page, Split, list_pages, listing_split, pages_of
from holdfast.engine.objectstore.parts.interface import PartStore


class StoreDecorator:
    """An `ObjectStore` that is another one."""

    def __init__(self, inner: ObjectStore) -> None:
        self.inner = inner

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self.inner!r}>"

    @property
    def name(self) -> str:
        return self.inner.name

    def capabilities(self) -> Capabilities:
        return self.inner.capabilities()

    def list(self, prefix: str = "", *, start_after: str | None = None) -> Iterator[ObjectInfo]:
        return self.inner.list(prefix, start_after=start_after)

    def listing_split(self) -> Split:
        return listing_split(self.inner) if self._has_pages else Split.NOTHING

    def list_pages(self, prefix: str = "", *, start_after: str | None = None, shallow: bool = False) -> Iterator[Page]:
        if self._has_pages:
            return list_pages(self.inner, prefix, start_after=start_after, shallow=shallow)
        return pages_of(self.list(prefix, start_after=start_after))

    @property
    def _has_pages(self) -> bool:
        """Not where a decorator does something to `list` and does not say what it does to pages."""
        own = type(self)
        return own.list is StoreDecorator.list or own.list_pages is not StoreDecorator.list_pages

    def head(self, key: str) -> ObjectInfo:
        return self.inner.head(key)

    def get(self, key: str, *, byte_range: ByteRange | None = None, if_match: ObjectVersion | None = None) -> bytes:
        return self.inner.get(key, byte_range=byte_range, if_match=if_match)

    def open(
        self,
        key: str,
        *,
        byte_range: ByteRange | None = None,
        if_match: ObjectVersion | None = None,
        chunk_bytes: int = 4 * 1024 * 1024,
        size_bytes: int | None = None,
    ) -> ObjectReader:
        return self.inner.open(
            key, byte_range=byte_range, if_match=if_match, chunk_bytes=chunk_bytes, size_bytes=size_bytes
        )

    def put(
        self,
        key: str,
        data: bytes | Iterable[bytes],
        *,
        mode: PutMode = OVERWRITE,
        content_type: str | None = None,
        metadata: Mapping[str, str] | None = None,
        attributes: Attributes | None = None,
    ) -> ObjectVersion:
        return self.inner.put(key, data, mode=mode, content_type=content_type, metadata=metadata, attributes=attributes)

    def copy(self, source: str, target: str) -> None:
        self.inner.copy(source, target)

    def delete(self, key: str) -> None:
        self.inner.delete(key)

    def parts(self) -> PartStore | None:
        """The part-wise side, decorated likewise. None unless a decorator says how: no part goes around one."""
        return None
