"""Try again what may work on another try, within a budget, and never turn a lost answer into a wrong one.

Only `StoreUnavailable` is tried again. A conditional put whose answer was lost may have happened; trying it again would
find its own object and take it for somebody else's. So the object is read back and its bytes are compared with the ones
put. If it matters *who* wrote equal bytes, they must name their writer (a write-id), as every record of Holdfast does.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import TypeVar

from holdfast.clock import Clock, SystemClock
from holdfast.engine.objectstore._decorator import StoreDecorator
from holdfast.engine.objectstore.ahead import AheadStore, Pending, ahead_store
from holdfast.engine.objectstore.attributes import Attributes
from holdfast.engine.objectstore.errors import (
    ObjectExists,
    ObjectNotFound,
    PreconditionFailed,
    StoreUnavailable,
)
from holdfast.engine.objectstore.interface import (
    OVERWRITE,
    ByteRange,
    IfMatch,
    ObjectInfo,
    ObjectReader,
    ObjectStore,
    ObjectVersion,
    Overwrite,
    PutMode,
)
from holdfast.engine.objectstore.pages import Page, list_pages
from holdfast.engine.objectstore.parts import PartStore, part_store
from holdfast.engine.objectstore.parts.decorators import RetryingParts

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How long to keep trying.

    Args:
        attempts: requests per call at most, the first one included.
        budget_seconds: no attempt begins after so long.
        first_delay_seconds: the longest pause before the second attempt; it doubles each time.
        longest_delay_seconds: no pause is longer.
    """

    attempts: int = 4
    budget_seconds: float = 15.0
    first_delay_seconds: float = 0.1
    longest_delay_seconds: float = 2.0


#: What `open_store` uses.
DEFAULT_RETRY = RetryPolicy()


class RetryingStore(StoreDecorator):
    """A store that tries again.

    Args:
        inner: the store.
        policy: how long to keep trying.
        clock: measures the budget and sleeps.
        rng: draws the pauses: uniform between zero and the doubling limit ("full jitter", AWS Architecture Blog 2015).
    """

    def __init__(
        self,
        inner: ObjectStore,
        policy: RetryPolicy | None = None,
        *,
        clock: Clock | None = None,
        rng: random.Random | None = None,
    ) -> None:
        super().__init__(inner)
        self._policy = policy or RetryPolicy()
        self._clock = clock or SystemClock()
        self._rng = rng or random.Random()  # noqa: S311 - spreads load, guards nothing

    def list(self, prefix: str = "", *, start_after: str | None = None) -> Iterator[ObjectInfo]:
        last = start_after
        attempts = self._attempts()
        while True:
            try:
                for info in self.inner.list(prefix, start_after=last):
                    yield info
                    last = info.key
                    attempts = self._attempts()
                return
            except StoreUnavailable as error:
                attempts.pause_or_raise(error)

    def list_pages(self, prefix: str = "", *, start_after: str | None = None, shallow: bool = False) -> Iterator[Page]:
        last = start_after
        attempts = self._attempts()
        while True:
            try:
                for page in list_pages(self.inner, prefix, start_after=last, shallow=shallow):
                    yield page
                    if page.objects.num_rows:
                        last = page.objects["key"][-1].as_py()
                    attempts = self._attempts()
                return
            except StoreUnavailable as error:
                attempts.pause_or_raise(error)

    def head(self, key: str) -> ObjectInfo:
        return self._again(lambda: self.inner.head(key))

    def get(self, key: str, *, byte_range: ByteRange | None = None, if_match: ObjectVersion | None = None) -> bytes:
        return self._again(lambda: self.inner.get(key, byte_range=byte_range, if_match=if_match))

    def open(
        self,
        key: str,
        *,
        byte_range: ByteRange | None = None,
        if_match: ObjectVersion | None = None,
        chunk_bytes: int = 4 * 1024 * 1024,
        size_bytes: int | None = None,
    ) -> ObjectReader:
        reader = self._again(
            lambda: self.inner.open(
                key, byte_range=byte_range, if_match=if_match, chunk_bytes=chunk_bytes, size_bytes=size_bytes
            )
        )
        if reader.is_whole:
            return reader
        return replace(reader, chunks=self._resumed(key, reader, byte_range, chunk_bytes))

    def _resumed(
        self, key: str, reader: ObjectReader, byte_range: ByteRange | None, chunk_bytes: int
    ) -> Iterator[bytes]:
        """The reader's chunks; after a break the rest is read from where it stopped, of the same version."""
        size_bytes, version = reader.info.size_bytes, reader.info.version
        position = byte_range.start if byte_range else 0
        end = min(byte_range.end, size_bytes) if byte_range else size_bytes
        chunks = reader.chunks
        attempts = self._attempts()
        while True:
            try:
                for chunk in chunks:
                    yield chunk
                    position += len(chunk)
                    attempts = self._attempts()
                return
            except StoreUnavailable as error:
                attempts.pause_or_raise(error)
            rest = ByteRange(position, end)
            chunks = self._again(
                partial(self.inner.open, key, byte_range=rest, if_match=version, chunk_bytes=chunk_bytes)
            ).chunks

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
        def request() -> ObjectVersion:
            return self.inner.put(
                key, data, mode=mode, content_type=content_type, metadata=metadata, attributes=attributes
            )

        if isinstance(mode, Overwrite):
            # An iterator is used up by the first attempt; a list of chunks, or bytes, can be sent again.
            return request() if iter(data) is data else self._again(request)
        if not isinstance(data, bytes | bytearray | memoryview):
            return request()
        return self._put_conditionally(key, bytes(data), mode, request)

    def _put_conditionally(
        self, key: str, data: bytes, mode: PutMode, request: Callable[[], ObjectVersion]
    ) -> ObjectVersion:
        began = self._clock.monotonic()
        attempts: _Attempts | None = None
        lost: StoreUnavailable | None = None
        while True:
            try:
                return request()
            except StoreUnavailable as error:
                lost = error if error.outcome_unknown else lost
                attempts = attempts or self._attempts(began)
                attempts.pause_or_raise(lost or error)
            except (ObjectExists, PreconditionFailed):
                if lost is None:
                    raise
                return self._resolve(key, data, mode, lost)

    def _resolve(self, key: str, data: bytes, mode: PutMode, lost: StoreUnavailable) -> ObjectVersion:
        """Whose object is it that the second try found? The version of ours, or the error that says the rest."""
        try:
            reader = self.open(key)
            theirs = reader.info.size_bytes != len(data) or b"".join(reader.chunks) != data
        except (ObjectNotFound, PreconditionFailed, StoreUnavailable):
            raise lost from None
        if not theirs:
            return reader.info.version
        if isinstance(mode, IfMatch):
            # Ours may have been written and then replaced: neither success nor refusal can be claimed.
            raise lost from None
        raise ObjectExists(
            "an object of this key with other bytes is there",
            where=lost.where,
            found=f"{reader.info.size_bytes} bytes, after an attempt whose answer was lost",
            fix="If objects of this key are never replaced, this one was not written here",
        )

    @cached_property
    def _ahead(self) -> AheadStore | None:
        return ahead_store(self.inner)

    def takes_ahead(self) -> bool:
        """Whether the inner store does."""
        return self._ahead is not None

    def begin_open(self, key: str, *, if_match: ObjectVersion | None, size_bytes: int) -> Pending[ObjectReader] | None:
        """Once; whoever sent it makes the ordinary call after a failure."""
        inner = self._ahead
        return None if inner is None else inner.begin_open(key, if_match=if_match, size_bytes=size_bytes)

    def begin_put(
        self,
        key: str,
        data: bytes,
        *,
        mode: PutMode,
        metadata: Mapping[str, str] | None = None,
        attributes: Attributes | None = None,
    ) -> Pending[ObjectVersion] | None:
        """Once; whoever sent it finds out what became of it when the answer is lost."""
        inner = self._ahead
        if inner is None:
            return None
        return inner.begin_put(key, data, mode=mode, metadata=metadata, attributes=attributes)

    def copy(self, source: str, target: str) -> None:
        self._again(lambda: self.inner.copy(source, target))

    def delete(self, key: str) -> None:
        self._again(lambda: self.inner.delete(key))

    def parts(self) -> PartStore | None:
        inner = part_store(self.inner)
        return None if inner is None else RetryingParts(inner, self._again)

    def _again(self, request: Callable[[], _T]) -> _T:
        began = self._clock.monotonic()
        attempts: _Attempts | None = None  # nearly every request works the first time
        while True:
            try:
                return request()
            except StoreUnavailable as error:
                attempts = attempts or self._attempts(began)
                attempts.pause_or_raise(error)

    def _attempts(self, began: float | None = None) -> _Attempts:
        return _Attempts(self._policy, self._clock, self._rng, self._clock.monotonic() if began is None else began)


class _Attempts:
    """The attempts of one call, which began at a time of the clock."""

    def __init__(self, policy: RetryPolicy, clock: Clock, rng: random.Random, began: float) -> None:
        self._policy = policy
        self._clock = clock
        self._rng = rng
        self._made = 0
        self._until = began + policy.budget_seconds

    def pause_or_raise(self, error: StoreUnavailable) -> None:
        """Wait before the next attempt, or raise when there is none left."""
        self._made += 1
        limit = self._policy.first_delay_seconds * 2 ** (self._made - 1)
        delay = self._rng.uniform(0, min(limit, self._policy.longest_delay_seconds))
        if self._made >= self._policy.attempts or self._clock.monotonic() + delay >= self._until:
            raise error
        self._clock.sleep(delay)
