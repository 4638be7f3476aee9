"""A store below a prefix of another one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

from holdfast.engine.objectstore._decorator import StoreDecorator
from holdfast.engine.objectstore.attributes import Attributes
from holdfast.engine.objectstore.interface import (
    OVERWRITE,
    ByteRange,
    ObjectInfo,
    ObjectReader,
    ObjectStore,
    ObjectVersion,
    PutMode,
)


class PrefixedStore(StoreDecorator):
    """What lies below a prefix, with keys relative to it.

    Args:
        inner: the store.
        prefix: without slashes at its ends.
    """

    def __init__(self, inner: ObjectStore, prefix: str) -> None:
        super().__init__(inner)
        self._prefix = f"{prefix}/"

    @property
    def name(self) -> str:
        return f"{self.inner.name} {self._prefix[:-1]}"

    def list(self, prefix: str = "", *, start_after: str | None = None) -> Iterator[ObjectInfo]:
        after = None if start_after is None else self._prefix + start_after
        for info in self.inner.list(self._prefix + prefix, start_after=after):
            yield replace(info, key=info.key.removeprefix(self._prefix))

    def head(self, key: str) -> ObjectInfo:
        return replace(self.inner.head(self._prefix + key), key=key)

    def get(self, key: str, *, byte_range: ByteRange | None = None, if_match: ObjectVersion | None = None) -> bytes:
        return self.inner.get(self._prefix + key, byte_range=byte_range, if_match=if_match)

    def open(
        self,
        key: str,
        *,
        byte_range: ByteRange | None = None,
        if_match: ObjectVersion | None = None,
        chunk_bytes: int = 4 * 1024 * 1024,
        size_bytes: int | None = None,
    ) -> ObjectReader:
        reader = self.inner.open(
            self._prefix + key, byte_range=byte_range, if_match=if_match, chunk_bytes=chunk_bytes, size_bytes=size_bytes
        )
        return replace(reader, info=replace(reader.info, key=key))

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
        return self.inner.put(
            self._prefix + key, data, mode=mode, content_type=content_type, metadata=metadata, attributes=attributes
        )

    def copy(self, source: str, target: str) -> None:
        self.inner.copy(self._prefix + source, self._prefix + target)

    def delete(self, key: str) -> None:
        self.inner.delete(self._prefix + key)
