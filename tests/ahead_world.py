"""Stores for tests of what is sent ahead: one that names objects by their MD5 as S3 does, one that answers later."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any, Generic, TypeVar

from holdfast.engine.objectstore._decorator import StoreDecorator
from holdfast.engine.objectstore.attributes import Attributes
from holdfast.engine.objectstore.checksums import Checksums
from holdfast.engine.objectstore.errors import ObjectNotFound, PreconditionFailed
from holdfast.engine.objectstore.interface import (
    OVERWRITE,
    ByteRange,
    Capabilities,
    IfMatch,
    ObjectInfo,
    ObjectReader,
    ObjectStore,
    ObjectVersion,
    PutMode,
)
from holdfast.engine.objectstore.pages import Page, Split, pages_of
from holdfast.engine.objectstore.parts import part_store
from holdfast.engine.replication.verification import md5_tag

_T = TypeVar("_T")


class NamedByMd5(StoreDecorator):
    """A store in memory whose ETags are MD5s, so that equal bytes written again have the same version."""

    def capabilities(self) -> Capabilities:
        return replace(self.inner.capabilities(), backend="s3")

    def parts(self) -> Any:
        return _Checksums(self)

    def listing_split(self) -> Split:
        return Split.NOTHING

    def list(self, prefix: str = "", *, start_after: str | None = None) -> Iterator[ObjectInfo]:
        for info in self.inner.list(prefix, start_after=start_after):
            try:
                yield self._whole(info.key)[0]
            except ObjectNotFound:
                continue

    def list_pages(self, prefix: str = "", *, start_after: str | None = None, shallow: bool = False) -> Iterator[Page]:
        return pages_of(self.list(prefix, start_after=start_after))

    def head(self, key: str) -> ObjectInfo:
        return self._whole(key)[0]

    def get(self, key: str, *, byte_range: ByteRange | None = None, if_match: ObjectVersion | None = None) -> bytes:
        return b"".join(self.open(key, byte_range=byte_range, if_match=if_match))

    def open(
        self, key: str, *, byte_range: ByteRange | None = None, if_match: ObjectVersion | None = None, **_: Any
    ) -> ObjectReader:
        info, data, attributes = self._whole(key)
        if if_match is not None and if_match.e_tag != info.version.e_tag:
            raise PreconditionFailed("another version", where=key)
        part = data if byte_range is None else data[byte_range.start : byte_range.end]
        return ObjectReader(info, iter((part,) if part else ()), attributes)

    def put(self, key: str, data: Any, *, mode: PutMode = OVERWRITE, **kwargs: Any) -> ObjectVersion:
        whole = bytes(data) if isinstance(data, bytes | bytearray | memoryview) else b"".join(data)
        if isinstance(mode, IfMatch):
            there = self.inner.head(key).version
            if self._whole(key)[0].version.e_tag != mode.version.e_tag:
                raise PreconditionFailed("another version", where=key)
            mode = IfMatch(there)
        self.inner.put(key, whole, mode=mode, **kwargs)
        return ObjectVersion(md5_tag(whole))

    def _whole(self, key: str) -> tuple[ObjectInfo, bytes, Attributes]:
        reader = self.inner.open(key)
        data = b"".join(reader)
        return replace(reader.info, version=ObjectVersion(md5_tag(data))), data, reader.attributes


class _Checksums:
    """Of a part-wise side only what it tells of whole objects."""

    def __init__(self, store: NamedByMd5) -> None:
        self._store, self._inner = store, part_store(store.inner)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def stored_checksums(self, key: str, version: ObjectVersion) -> Checksums | None:
        return Checksums.of(self._store.get(key, if_match=version))


class _Later(Generic[_T]):
    """A call made when it was begun or when its answer is taken."""

    def __init__(self, call: Callable[[], _T], *, now: bool, ahead: SentAhead) -> None:
        self._call, self._ahead = call, ahead
        self._value: _T | None = None
        self._error: Exception | None = None
        self._made = False
        if now:
            self._make()
        ahead.on_their_way += 1

    def _make(self) -> None:
        self._made = True
        try:
            self._value = self._call()
        except Exception as error:
            self._error = error

    def result(self) -> _T:
        self._ahead.on_their_way -= 1
        if not self._made:
            self._make()
        if self._error is not None:
            raise self._error
        return self._value  # type: ignore[return-value]

    def abandon(self) -> None:
        self._ahead.on_their_way -= 1


class SentAhead(StoreDecorator):
    """A store that takes requests ahead: it works on them at once, or only when their answers are wanted.

    Args:
        refuses: the share of requests it does not take.
    """

    def __init__(self, inner: ObjectStore, rng: random.Random, refuses: float = 0.1) -> None:
        super().__init__(inner)
        self._rng, self._refuses = rng, refuses
        self.taken = self.on_their_way = 0

    def parts(self) -> Any:
        return part_store(self.inner)

    def takes_ahead(self) -> bool:
        return True

    def begin_open(self, key: str, *, if_match: ObjectVersion | None, size_bytes: int) -> Any:
        def call() -> ObjectReader:
            reader = self.inner.open(key, if_match=if_match, size_bytes=size_bytes)
            return replace(reader, chunks=iter(list(reader)))

        return self._begin(call)

    def begin_put(
        self,
        key: str,
        data: bytes,
        *,
        mode: PutMode,
        metadata: Mapping[str, str] | None = None,
        attributes: Attributes | None = None,
    ) -> Any:
        return self._begin(lambda: self.inner.put(key, data, mode=mode, metadata=metadata, attributes=attributes))

    def _begin(self, call: Callable[[], _T]) -> _Later[_T] | None:
        if self._rng.random() < self._refuses:
            return None
        self.taken += 1
        return _Later(call, now=self._rng.random() < 0.5, ahead=self)
