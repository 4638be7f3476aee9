"""Count what a store is asked, how much it carries and how long it takes."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

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
from holdfast.engine.objectstore.parts.decorators import MeteredParts


@dataclass(frozen=True, slots=True)
class VerbCount:
    """What one verb did so far.

    ``seconds_total`` is the time the store took: of a stream, the time its chunks were waited for or consumed.
    """

    calls: int = 0
    failures: Mapping[str, int] = field(default_factory=dict)
    bytes_read: int = 0
    bytes_written: int = 0
    seconds_total: float = 0.0
    seconds_longest: float = 0.0


class Meter:
    """Counters of one or more stores; may be written from many threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: dict[str, VerbCount] = {}

    def counts(self) -> dict[str, VerbCount]:
        """The counts so far, per verb (``list``, ``head``, ``get``, ``open``, ``put``, ``copy``, ``delete``)."""
        with self._lock:
            return dict(self._counts)

    def called(self, verb: str, seconds: float, error: BaseException | None) -> None:
        """One call ended."""
        name = None if error is None else type(error).__name__
        self._change(
            verb,
            lambda count: replace(
                count,
                calls=count.calls + 1,
                failures=count.failures if name is None else _more(count.failures, name),
                seconds_total=count.seconds_total + seconds,
                seconds_longest=max(count.seconds_longest, seconds),
            ),
        )

    def streamed(self, verb: str, seconds: float, error: BaseException | None) -> None:
        """A stream opened earlier ended."""
        name = None if error is None else type(error).__name__
        self._change(
            verb,
            lambda count: replace(
                count,
                failures=count.failures if name is None else _more(count.failures, name),
                seconds_total=count.seconds_total + seconds,
                seconds_longest=max(count.seconds_longest, seconds),
            ),
        )

    def carried(self, verb: str, *, bytes_read: int = 0, bytes_written: int = 0) -> None:
        """Bytes came or went."""
        self._change(
            verb,
            lambda count: replace(
                count, bytes_read=count.bytes_read + bytes_read, bytes_written=count.bytes_written + bytes_written
            ),
        )

    def _change(self, verb: str, change: Callable[[VerbCount], VerbCount]) -> None:
        with self._lock:
            self._counts[verb] = change(self._counts.get(verb, VerbCount()))


def _more(failures: Mapping[str, int], name: str) -> dict[str, int]:
    return {**failures, name: failures.get(name, 0) + 1}


class MeteredStore(StoreDecorator):
    """A store that writes what it does into a `Meter`.

    Args:
        inner: the store.
        meter: where it is counted; may be shared.
        clock: measures.
    """

    def __init__(self, inner: ObjectStore, meter: Meter, *, clock: Clock | None = None) -> None:
        super().__init__(inner)
        self.meter = meter
        self._clock = clock or SystemClock()

    def list(self, prefix: str = "", *, start_after: str | None = None) -> Iterator[ObjectInfo]:
        with self._timed(self.meter.called, "list"):
            yield from self.inner.list(prefix, start_after=start_after)

    def list_pages(self, prefix: str = "", *, start_after: str | None = None, shallow: bool = False) -> Iterator[Page]:
        with self._timed(self.meter.called, "list"):
            yield from list_pages(self.inner, prefix, start_after=start_after, shallow=shallow)

    def head(self, key: str) -> ObjectInfo:
        with self._timed(self.meter.called, "head"):
            return self.inner.head(key)

    def get(self, key: str, *, byte_range: ByteRange | None = None, if_match: ObjectVersion | None = None) -> bytes:
        with self._timed(self.meter.called, "get"):
            data = self.inner.get(key, byte_range=byte_range, if_match=if_match)
        self.meter.carried("get", bytes_read=len(data))
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
        with self._timed(self.meter.called, "open"):
            reader = self.inner.open(
                key, byte_range=byte_range, if_match=if_match, chunk_bytes=chunk_bytes, size_bytes=size_bytes
            )
        return replace(reader, chunks=self._streamed(reader.chunks))

    def _streamed(self, chunks: Iterator[bytes]) -> Iterator[bytes]:
        with self._timed(self.meter.streamed, "open"):
            for chunk in chunks:
                self.meter.carried("open", bytes_read=len(chunk))
                yield chunk

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
        with self._timed(self.meter.called, "put"):
            if isinstance(data, bytes | bytearray | memoryview):
                version = self.inner.put(
                    key, data, mode=mode, content_type=content_type, metadata=metadata, attributes=attributes
                )
                self.meter.carried("put", bytes_written=len(data))
                return version
            sent = self._sent(data)
            return self.inner.put(
                key, sent, mode=mode, content_type=content_type, metadata=metadata, attributes=attributes
            )

    def _sent(self, chunks: Iterable[bytes]) -> Iterator[bytes]:
        for chunk in chunks:
            self.meter.carried("put", bytes_written=len(chunk))
            yield chunk

    def copy(self, source: str, target: str) -> None:
        with self._timed(self.meter.called, "copy"):
            self.inner.copy(source, target)

    def delete(self, key: str) -> None:
        with self._timed(self.meter.called, "delete"):
            self.inner.delete(key)

    def parts(self) -> PartStore | None:
        inner = part_store(self.inner)
        if inner is None:
            return None
        return MeteredParts(
            inner,
            lambda verb: self._timed(self.meter.called, verb),
            lambda verb, read, written: self.meter.carried(verb, bytes_read=read, bytes_written=written),
        )

    @contextmanager
    def _timed(self, ended: Callable[[str, float, BaseException | None], None], verb: str) -> Iterator[None]:
        began = self._clock.monotonic()
        failure: BaseException | None = None
        try:
            yield
        except GeneratorExit:  # a reader that stopped early did not fail
            raise
        except BaseException as error:
            failure = error
            raise
        finally:
            ended(verb, self._clock.monotonic() - began, failure)
