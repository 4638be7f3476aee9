"""Keep a store's load under a limit of requests and bytes per second."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

from holdfast.clock import Clock, SystemClock
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
from holdfast.engine.objectstore.pages import Page, list_pages
from holdfast.engine.objectstore.parts import PartStore, part_store
from holdfast.engine.objectstore.parts.decorators import ThrottledParts


class TokenBucket:
    """So many tokens per second, at most a burst of them saved up. Taking more makes a debt that is waited out.

    Args:
        per_second: tokens that flow in.
        burst: tokens that can be saved; by default one second's.
        clock: measures and waits.
    """

    def __init__(self, per_second: float, *, burst: float | None = None, clock: Clock) -> None:
        if per_second <= 0:
            raise ValueError(f"expected more than 0 per second; found {per_second}")
        self._per_second = per_second
        self._burst = per_second if burst is None else burst
        self._clock = clock
        self._lock = threading.Lock()
        self._tokens = self._burst
        self._at = clock.monotonic()

    def take(self, tokens: float) -> None:
        """Take tokens, then wait until the debt is paid, if there is one."""
        with self._lock:
            now = self._clock.monotonic()
            self._tokens = min(self._burst, self._tokens + (now - self._at) * self._per_second) - tokens
            self._at = now
            wait_seconds = -self._tokens / self._per_second
        if wait_seconds > 0:
            self._clock.sleep(wait_seconds)


class ThrottledStore(StoreDecorator):
    """A store whose requests and bytes flow at a bounded rate. Threads share the limit.

    Args:
        inner: the store.
        requests_per_second: calls; a listing counts once per thousand objects. ``None``: no limit.
        bytes_per_second: bytes read and written together. ``None``: no limit.
        clock: measures and waits.
    """

    def __init__(
        self,
        inner: ObjectStore,
        *,
        requests_per_second: float | None = None,
        bytes_per_second: float | None = None,
        clock: Clock | None = None,
    ) -> None:
        super().__init__(inner)
        clock = clock or SystemClock()
        self._requests = None if requests_per_second is None else TokenBucket(requests_per_second, clock=clock)
        self._bytes = None if bytes_per_second is None else TokenBucket(bytes_per_second, clock=clock)

    def list(self, prefix: str = "", *, start_after: str | None = None) -> Iterator[ObjectInfo]:
        self._request()
        for number, info in enumerate(self.inner.list(prefix, start_after=start_after), start=1):
            if number % 1000 == 0:
                self._request()
            yield info

    def list_pages(self, prefix: str = "", *, start_after: str | None = None, shallow: bool = False) -> Iterator[Page]:
        self._request()
        for page in list_pages(self.inner, prefix, start_after=start_after, shallow=shallow):
            yield page
            for _ in range(page.objects.num_rows // 1000):
                self._request()

    def head(self, key: str) -> ObjectInfo:
        self._request()
        return self.inner.head(key)

    def get(self, key: str, *, byte_range: ByteRange | None = None, if_match: ObjectVersion | None = None) -> bytes:
        self._request()
        data = self.inner.get(key, byte_range=byte_range, if_match=if_match)
        self._carry(data)
        return data

    def open(
        self,
        key: str,
        *,
        byte_range: ByteRange | None = None,
        if_match: ObjectVersion | None = None,
        chunk_bytes: int = 4 * 1024 * 1024,
        size_bytes: int | None = None,
    ) -> ObjectReader:
        self._request()
        reader = self.inner.open(
            key, byte_range=byte_range, if_match=if_match, chunk_bytes=chunk_bytes, size_bytes=size_bytes
        )
        return replace(reader, chunks=map(self._carry, reader.chunks))

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
        self._request()
        if isinstance(data, bytes | bytearray | memoryview):
            self._carry(bytes(data))
        else:
            data = map(self._carry, data)
        return self.inner.put(key, data, mode=mode, content_type=content_type, metadata=metadata, attributes=attributes)

    def copy(self, source: str, target: str) -> None:
        self._request()
        self.inner.copy(source, target)

    def delete(self, key: str) -> None:
        self._request()
        self.inner.delete(key)

    def parts(self) -> PartStore | None:
        inner = part_store(self.inner)
        return None if inner is None else ThrottledParts(inner, self._request, self._carry_bytes)

    def _request(self) -> None:
        if self._requests is not None:
            self._requests.take(1)

    def _carry(self, data: bytes) -> bytes:
        self._carry_bytes(len(data))
        return data

    def _carry_bytes(self, size_bytes: int) -> None:
        if self._bytes is not None:
            self._bytes.take(size_bytes)
