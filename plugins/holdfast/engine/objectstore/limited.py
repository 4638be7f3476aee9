"""A site's limits (`Site.limits`) on its store: rates shared fairly between flows, and requests in flight.

Stands *inside* the retry decorator: every attempt pays, and a pause between two attempts holds no place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from typing import Generic, TypeVar

from holdfast.clock import Clock, SystemClock
from holdfast.engine.config.models import Limits
from holdfast.engine.objectstore._decorator import StoreDecorator
from holdfast.engine.objectstore.adaptive import AdaptiveConcurrency
from holdfast.engine.objectstore.ahead import AheadStore, Pending, ahead_store
from holdfast.engine.objectstore.attributes import Attributes
from holdfast.engine.objectstore.errors import StoreUnavailable
from holdfast.engine.objectstore.fair import FairLimiter
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
from holdfast.engine.objectstore.parts import part_store
from holdfast.engine.objectstore.parts._decorator import Asked, PartDecorator
from holdfast.engine.objectstore.parts.interface import PartStore

_T = TypeVar("_T")

#: A read of at most so many bytes has them all when it is open; a longer one makes requests as it is consumed.
_ONE_REQUEST_BYTES = 8 * 1024 * 1024
_LISTED_AT_ONCE = 1000


class SiteLimiter:
    """The limits of one site in this process, shared by every store of it.

    Args:
        limits: the site's.
        clock: measures and waits.
    """

    def __init__(self, limits: Limits, *, clock: Clock | None = None) -> None:
        clock = clock or SystemClock()
        self.places = AdaptiveConcurrency(limits.concurrency)
        self._requests = _limiter(limits.requests_per_second, clock)
        self._bytes = _limiter(limits.bytes_per_second, clock)

    @property
    def counts_bytes(self) -> bool:
        """Whether there is a limit on bytes."""
        return self._bytes is not None

    @property
    def keeps_rates(self) -> bool:
        """Whether requests or bytes per second are limited."""
        return self._requests is not None or self._bytes is not None

    def request(self, flow: str) -> None:
        """Wait until the flow may make a request."""
        if self._requests is not None:
            self._requests.take(1, flow)

    def carry(self, size_bytes: int, flow: str) -> None:
        """Wait until the flow may carry more, and count these bytes."""
        if self._bytes is not None and size_bytes:
            self._bytes.take(size_bytes, flow)

    def run(self, call: Callable[[], _T], flow: str) -> _T:
        """Make a call in a place of its own, and learn from how it ends."""
        self.request(flow)
        ticket = self.places.acquire(flow)
        throttled: bool | None = None
        try:
            answer = call()
            throttled = False
            return answer
        except StoreUnavailable as error:
            throttled = True if error.throttled else None
            raise
        finally:
            self.places.release(ticket, throttled=throttled)

    def begin(self, send: Callable[[], Pending[_T] | None], flow: str) -> Pending[_T] | None:
        """Send a request in a place that is free now; ``None``: there is none. For a limiter that keeps no rates."""
        ticket = self.places.try_acquire(flow)
        if ticket is None:
            return None
        place = _Place(self.places, ticket)
        with place.held():
            pending = send()
        if pending is None:
            place.free(throttled=None)
            return None
        return _PlacedPending(pending, place)

    def listing(self, source: Iterator[_T]) -> Iterator[_T]:
        """A listing, which holds no place while its consumer is at work."""
        try:
            yield from source
        except StoreUnavailable as error:
            if error.throttled:
                self.places.throttled()
            raise


class _Place:
    """A place in flight."""

    __slots__ = ("_places", "_ticket")

    def __init__(self, places: AdaptiveConcurrency, ticket: int) -> None:
        self._places, self._ticket = places, ticket

    def free(self, *, throttled: bool | None) -> None:
        """Give it back."""
        self._places.release(self._ticket, throttled=throttled)

    @contextmanager
    def held(self) -> Iterator[None]:
        """What fails in here gives it back."""
        try:
            yield
        except StoreUnavailable as error:
            self.free(throttled=True if error.throttled else None)
            raise
        except BaseException:
            self.free(throttled=None)
            raise


class _PlacedPending(Generic[_T]):
    """A request that holds a place until its answer is taken."""

    __slots__ = ("_pending", "_place")

    def __init__(self, pending: Pending[_T], place: _Place) -> None:
        self._pending, self._place = pending, place

    def result(self) -> _T:
        """The answer."""
        with self._place.held():
            answer = self._pending.result()
        self._place.free(throttled=False)
        return answer

    def abandon(self) -> None:
        """Nobody wants it any more."""
        self._place.free(throttled=None)
        self._pending.abandon()


def _limiter(per_second: float | None, clock: Clock) -> FairLimiter | None:
    return None if per_second is None else FairLimiter(per_second, clock=clock)


def limited(store: ObjectStore, limiter: SiteLimiter | Limits, *, flow: str = "") -> LimitedStore:
    """The store under limits.

    Args:
        store: what does the work; not a retrying one.
        limiter: the site's limiter, or limits of this store's own.
        flow: whose requests these are, e.g. a protection group; flows get equal shares.
    """
    return LimitedStore(store, SiteLimiter(limiter) if isinstance(limiter, Limits) else limiter, flow)


class LimitedStore(StoreDecorator):
    """A store under its site's limits; see `limited`.

    A listing and a put of an iterator hold no place in flight: what feeds or consumes them may need one itself.
    """

    def __init__(self, inner: ObjectStore, limiter: SiteLimiter, flow: str) -> None:
        super().__init__(inner)
        self._limiter = limiter
        self._flow = flow

    def list(self, prefix: str = "", *, start_after: str | None = None) -> Iterator[ObjectInfo]:
        self._limiter.request(self._flow)
        infos = self._limiter.listing(self.inner.list(prefix, start_after=start_after))
        for number, info in enumerate(infos, start=1):
            if number % _LISTED_AT_ONCE == 0:
                self._limiter.request(self._flow)
            yield info

    def list_pages(self, prefix: str = "", *, start_after: str | None = None, shallow: bool = False) -> Iterator[Page]:
        self._limiter.request(self._flow)
        pages = list_pages(self.inner, prefix, start_after=start_after, shallow=shallow)
        for page in self._limiter.listing(pages):
            yield page
            for _ in range(page.objects.num_rows // _LISTED_AT_ONCE):
                self._limiter.request(self._flow)

    def head(self, key: str) -> ObjectInfo:
        return self._run(lambda: self.inner.head(key))

    def get(self, key: str, *, byte_range: ByteRange | None = None, if_match: ObjectVersion | None = None) -> bytes:
        data = self._run(lambda: self.inner.get(key, byte_range=byte_range, if_match=if_match))
        self._limiter.carry(len(data), self._flow)
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
        reader = self._run(
            lambda: self.inner.open(
                key, byte_range=byte_range, if_match=if_match, chunk_bytes=chunk_bytes, size_bytes=size_bytes
            )
        )
        if reader.info.size_bytes > _ONE_REQUEST_BYTES:
            return replace(reader, chunks=self._fetched(reader.chunks))
        if self._limiter.counts_bytes:
            return replace(reader, chunks=map(self._carried, reader.chunks))
        return reader

    def _fetched(self, chunks: Iterator[bytes]) -> Iterator[bytes]:
        while (chunk := self._limiter_place(chunks)) is not None:
            yield self._carried(chunk)

    def _limiter_place(self, chunks: Iterator[bytes]) -> bytes | None:
        return self._run(lambda: next(chunks, None))

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
        def request(sent: bytes | Iterable[bytes]) -> ObjectVersion:
            return self.inner.put(
                key, sent, mode=mode, content_type=content_type, metadata=metadata, attributes=attributes
            )

        if isinstance(data, bytes | bytearray | memoryview):
            self._limiter.carry(len(data), self._flow)
            return self._run(lambda: request(data))
        self._limiter.request(self._flow)
        try:
            return request(map(self._carried, data))
        except StoreUnavailable as error:
            if error.throttled:
                self._limiter.places.throttled()
            raise

    @cached_property
    def _ahead(self) -> AheadStore | None:
        return ahead_store(self.inner)

    def takes_ahead(self) -> bool:
        """Whether the inner store does, and no rate is to be kept."""
        return not self._limiter.keeps_rates and self._ahead is not None

    def begin_open(self, key: str, *, if_match: ObjectVersion | None, size_bytes: int) -> Pending[ObjectReader] | None:
        """In a place that is free now."""
        inner = self._ahead
        if inner is None:
            return None
        return self._limiter.begin(lambda: inner.begin_open(key, if_match=if_match, size_bytes=size_bytes), self._flow)

    def begin_put(
        self,
        key: str,
        data: bytes,
        *,
        mode: PutMode,
        metadata: Mapping[str, str] | None = None,
        attributes: Attributes | None = None,
    ) -> Pending[ObjectVersion] | None:
        """In a place that is free now."""
        inner = self._ahead
        if inner is None:
            return None
        return self._limiter.begin(
            lambda: inner.begin_put(key, data, mode=mode, metadata=metadata, attributes=attributes), self._flow
        )

    def copy(self, source: str, target: str) -> None:
        self._run(lambda: self.inner.copy(source, target))

    def delete(self, key: str) -> None:
        self._run(lambda: self.inner.delete(key))

    def parts(self) -> PartStore | None:
        inner = part_store(self.inner)
        return None if inner is None else LimitedParts(inner, self._limiter, self._flow)

    def _run(self, call: Callable[[], _T]) -> _T:
        return self._limiter.run(call, self._flow)

    def _carried(self, data: bytes) -> bytes:
        self._limiter.carry(len(data), self._flow)
        return data


class LimitedParts(PartDecorator):
    """The parts of a store under its site's limits."""

    def __init__(self, inner: PartStore, limiter: SiteLimiter, flow: str) -> None:
        super().__init__(inner)
        self._limiter = limiter
        self._flow = flow

    def around(self, asked: Asked, call: Callable[[], _T]) -> _T:
        self._limiter.carry(asked.sends_bytes + asked.reads_bytes, self._flow)
        return self._limiter.run(call, self._flow)
