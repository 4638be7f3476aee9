"""Faults below the interface, for tests: what networks and stores do to a caller, on script or at random."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from enum import StrEnum

from holdfast.clock import Clock, SystemClock
from holdfast.engine.objectstore._decorator import StoreDecorator
from holdfast.engine.objectstore.attributes import Attributes
from holdfast.engine.objectstore.errors import StoreUnavailable
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
from holdfast.engine.objectstore.parts.decorators import FaultyParts

_WRITES = ("put", "copy", "delete", "begin", "put_part", "complete", "abort")
_CARRIES_BYTES = ("get", "open", "read_into")


class Kind(StrEnum):
    """What goes wrong."""

    FAIL_BEFORE = "fail-before"  # nothing reaches the store
    FAIL_AFTER = "fail-after"  # the store did it; the answer is lost
    CORRUPT = "corrupt"  # one bit of the bytes read, or of a part sent, is flipped, silently
    TRUNCATE = "truncate"  # the bytes read end early, silently (into a buffer: its rest is zeros)
    BREAK = "break"  # a streamed read fails after its first chunk, one into a buffer after filling it
    DELAY = "delay"  # the answer comes late


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault.

    Args:
        kind: what goes wrong.
        verb: the verb it waits for; ``None``: any it can befall.
        key: the key (prefix) it waits for.
        delay_seconds: how late, for ``DELAY``.
    """

    kind: Kind
    verb: str | None = None
    key: str = ""
    delay_seconds: float = 1.0

    def befalls(self, verb: str, key: str) -> bool:
        if self.kind is Kind.CORRUPT and verb not in (*_CARRIES_BYTES, "put_part"):
            return False
        if self.kind is Kind.TRUNCATE and verb not in _CARRIES_BYTES:
            return False
        if self.kind is Kind.BREAK and verb not in ("open", "read_into"):
            return False
        return self.verb in (None, verb) and key.startswith(self.key)


class Script:
    """Faults in order: each call takes the first one left that befalls it. Each happens once."""

    def __init__(self, faults: Sequence[Fault]) -> None:
        self._lock = threading.Lock()
        self._left = list(faults)

    def next(self, verb: str, key: str) -> Fault | None:
        with self._lock:
            found = next((fault for fault in self._left if fault.befalls(verb, key)), None)
            if found is not None:
                self._left.remove(found)
            return found

    @property
    def left(self) -> tuple[Fault, ...]:
        """The faults that have not happened yet."""
        with self._lock:
            return tuple(self._left)


class Chance:
    """Faults at random.

    Args:
        rng: draws them; the same seed and order of calls give the same faults.
        rates: probability per call and kind, together at most one.
    """

    def __init__(self, rng: random.Random, rates: Mapping[Kind, float]) -> None:
        self._lock = threading.Lock()
        self._rng = rng
        self._rates = dict(rates)

    def next(self, verb: str, key: str) -> Fault | None:
        with self._lock:
            drawn = self._rng.random()
        for kind, rate in self._rates.items():
            drawn -= rate
            if drawn < 0:
                fault = Fault(kind)
                return fault if fault.befalls(verb, key) else None
        return None


class FaultyStore(StoreDecorator):
    """A store whose calls go wrong as a script or chance says.

    Args:
        inner: the store.
        faults: what goes wrong next.
        clock: waits out delays.
    """

    def __init__(self, inner: ObjectStore, faults: Script | Chance, *, clock: Clock | None = None) -> None:
        super().__init__(inner)
        self._faults = faults
        self._clock = clock or SystemClock()

    def list(self, prefix: str = "", *, start_after: str | None = None) -> Iterator[ObjectInfo]:
        fault = self._before("list", prefix)
        for number, info in enumerate(self.inner.list(prefix, start_after=start_after)):
            if number == 1:
                self._after(fault, "list", prefix)
                fault = None
            yield info
        self._after(fault, "list", prefix)

    def list_pages(self, prefix: str = "", *, start_after: str | None = None, shallow: bool = False) -> Iterator[Page]:
        fault = self._before("list", prefix)
        for number, page in enumerate(list_pages(self.inner, prefix, start_after=start_after, shallow=shallow)):
            if number == 1:
                self._after(fault, "list", prefix)
                fault = None
            yield page
        self._after(fault, "list", prefix)

    def head(self, key: str) -> ObjectInfo:
        fault = self._before("head", key)
        info = self.inner.head(key)
        self._after(fault, "head", key)
        return info

    def get(self, key: str, *, byte_range: ByteRange | None = None, if_match: ObjectVersion | None = None) -> bytes:
        fault = self._before("get", key)
        data = self.inner.get(key, byte_range=byte_range, if_match=if_match)
        self._after(fault, "get", key)
        return _damaged(data, fault)

    def open(
        self,
        key: str,
        *,
        byte_range: ByteRange | None = None,
        if_match: ObjectVersion | None = None,
        chunk_bytes: int = 4 * 1024 * 1024,
        size_bytes: int | None = None,
    ) -> ObjectReader:
        fault = self._before("open", key)
        reader = self.inner.open(
            key, byte_range=byte_range, if_match=if_match, chunk_bytes=chunk_bytes, size_bytes=size_bytes
        )
        self._after(fault, "open", key)
        return replace(reader, chunks=self._streamed(reader.chunks, fault, key))

    def _streamed(self, chunks: Iterator[bytes], fault: Fault | None, key: str) -> Iterator[bytes]:
        for number, chunk in enumerate(chunks):
            if number == 1 and fault is not None and fault.kind is Kind.BREAK:
                raise self._unavailable("open", key, "broken off")
            if fault is not None and fault.kind is Kind.TRUNCATE and number == 1:
                return
            yield _damaged(chunk, fault) if number == 0 and fault is not None and fault.kind is Kind.CORRUPT else chunk

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
        fault = self._before("put", key)
        version = self.inner.put(
            key, data, mode=mode, content_type=content_type, metadata=metadata, attributes=attributes
        )
        self._after(fault, "put", key)
        return version

    def copy(self, source: str, target: str) -> None:
        fault = self._before("copy", source)
        self.inner.copy(source, target)
        self._after(fault, "copy", source)

    def delete(self, key: str) -> None:
        fault = self._before("delete", key)
        self.inner.delete(key)
        self._after(fault, "delete", key)

    def parts(self) -> PartStore | None:
        inner = part_store(self.inner)
        return None if inner is None else FaultyParts(inner, self._failing)

    @contextmanager
    def _failing(self, verb: str, key: str) -> Iterator[Callable[[bytes], bytes] | None]:
        """Around a call of the parts; gives what damages its bytes."""
        fault = self._before(verb, key)
        damages = fault is not None and fault.kind in (Kind.CORRUPT, Kind.TRUNCATE)
        yield (lambda data: _damaged(data, fault)) if damages else None
        self._after(fault, verb, key)
        if fault is not None and fault.kind is Kind.BREAK:
            raise self._unavailable(verb, key, "broken off")

    def _before(self, verb: str, key: str) -> Fault | None:
        fault = self._faults.next(verb, key)
        if fault is not None and fault.kind is Kind.FAIL_BEFORE:
            raise self._unavailable(verb, key, "failed before")
        if fault is not None and fault.kind is Kind.DELAY:
            self._clock.sleep(fault.delay_seconds)
        return fault

    def _after(self, fault: Fault | None, verb: str, key: str) -> None:
        if fault is not None and fault.kind is Kind.FAIL_AFTER:
            raise self._unavailable(verb, key, "answer lost")

    def _unavailable(self, verb: str, key: str, found: str) -> StoreUnavailable:
        return StoreUnavailable(
            "injected fault",
            where=f"{self.name}: {verb} {key}",
            found=found,
            outcome_unknown=verb in _WRITES,  # whichever it was, the caller cannot know
        )


def _damaged(data: bytes, fault: Fault | None) -> bytes:
    if fault is None or not data:
        return data
    if fault.kind is Kind.CORRUPT:
        middle = len(data) // 2
        return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]
    return data[: len(data) // 2] if fault.kind is Kind.TRUNCATE else data
