"""Harm below the sync: what networks, stores, clocks and the source's own writers do to a run, counted by operation."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from itertools import islice
from typing import Any, Protocol

from holdfast.clock import Clock
from holdfast.engine.objectstore._decorator import StoreDecorator
from holdfast.engine.objectstore.checksums import Checksums
from holdfast.engine.objectstore.errors import ObjectStoreError, PermissionRefused, StoreUnavailable
from holdfast.engine.objectstore.interface import ObjectInfo, ObjectReader, ObjectStore, ObjectVersion
from holdfast.engine.objectstore.parts import PartData, PartLimits, PartStore, Upload, UploadedPart, part_store

PAGE_OBJECTS = 4
WRITES = ("put", "copy", "delete", "begin", "put_part", "complete", "abort")


class Mutable(Protocol):
    """Something whose writers go on."""

    def mutate(self, rng: random.Random, names: Sequence[str]) -> None: ...


class Killed(BaseException):
    """The process is gone: no ``except Exception`` sees it."""


@dataclass(frozen=True)
class Op:
    """One operation of a run: its number over all sites, and what it is."""

    index: int
    site: str
    verb: str
    key: str

    @property
    def writes(self) -> bool:
        return self.verb in WRITES


class Harm:
    """What happens to operations. The base does nothing."""

    def before(self, op: Op) -> None:
        """May raise instead of the operation."""

    def after(self, op: Op) -> None:
        """May raise although the store did it."""

    def read(self, op: Op, data: bytes) -> bytes:
        """The bytes that arrive from the store."""
        return data

    def wrote(self, op: Op, data: bytes) -> bytes:
        """The bytes that arrive at the store."""
        return data

    def info(self, op_site: str, info: ObjectInfo) -> ObjectInfo:
        """What a listing or HEAD tells."""
        return info

    def checksums(self, op: Op, found: Checksums) -> Checksums:
        """What the store says it computed."""
        return found


def unavailable(op: Op, found: str, *, unknown: bool) -> StoreUnavailable:
    return StoreUnavailable(
        "injected fault", where=f"{op.site}: {op.verb} {op.key}", found=found, outcome_unknown=unknown and op.writes
    )


@dataclass
class Kill(Harm):
    """The process dies at operation ``at``, before or after the store did it, and stays dead."""

    at: int
    after_it: bool = False

    def before(self, op: Op) -> None:
        if op.index > self.at or (op.index == self.at and not self.after_it):
            raise Killed(f"before {op}")

    def after(self, op: Op) -> None:
        if op.index == self.at:
            raise Killed(f"after {op}")


@dataclass
class Cut(Harm):
    """A site cannot be reached from operation ``at`` on, for so many operations."""

    site: str
    at: int
    operations: int = 1_000_000

    def before(self, op: Op) -> None:
        if op.site == self.site and self.at <= op.index < self.at + self.operations:
            raise unavailable(op, "cut off", unknown=True)


@dataclass
class Denied(Cut):
    """A site's credentials expire at operation ``at``."""

    def before(self, op: Op) -> None:
        if op.site == self.site and self.at <= op.index < self.at + self.operations:
            raise PermissionRefused(
                "the credentials have expired", where=f"{op.site}: {op.verb} {op.key}", found="HTTP 400 ExpiredToken"
            )


@dataclass
class Full(Harm):
    """A site's disk is full from operation ``at`` on: nothing new fits, what is there stays."""

    site: str
    at: int

    def before(self, op: Op) -> None:
        if op.site == self.site and op.index >= self.at and op.verb in ("put", "copy", "put_part", "complete"):
            raise ObjectStoreError(
                "the store refused", where=f"{op.site}: {op.verb} {op.key}", found="No space left on device"
            )


class _Random(Harm):
    """Harm at random; the same seed and order of operations harm the same ones."""

    def __init__(self, rng: random.Random, rate: float, *, site: str | None = None) -> None:
        self._rng, self._rate, self._site, self._lock = rng, rate, site, threading.Lock()

    def _hits(self, op: Op) -> bool:
        with self._lock:
            return self._rng.random() < self._rate and self._site in (None, op.site)


class Storm(_Random):
    """503 and 429."""

    def before(self, op: Op) -> None:
        if self._hits(op):
            raise unavailable(op, "HTTP 503 SlowDown", unknown=False)


class Lost(_Random):
    """The store did it; the answer is lost."""

    def after(self, op: Op) -> None:
        if self._hits(op):
            raise unavailable(op, "answer lost", unknown=True)


class BrownOut(_Random):
    """Answers come late, some too late: the operation happened and was given up."""

    def __init__(self, rng: random.Random, rate: float, clock: Clock, *, site: str | None = None) -> None:
        super().__init__(rng, rate, site=site)
        self._clock = clock

    def after(self, op: Op) -> None:
        if self._hits(op):
            self._clock.sleep(8.0)
            with self._lock:
                late = self._rng.random() < 0.3
            if late:
                raise unavailable(op, "no answer came in time", unknown=True)


def bent(data: bytes, bit: int) -> bytes:
    if not data:
        return data
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ bit]) + data[middle + 1 :]


class BentReads(_Random):
    """One bit of what is read is flipped, silently."""

    def read(self, op: Op, data: bytes) -> bytes:
        return bent(data, 1) if self._hits(op) else data


class CutReads(_Random):
    """What is read ends early, silently."""

    def read(self, op: Op, data: bytes) -> bytes:
        return data[: len(data) // 2] if self._hits(op) else data


class BentWrites(_Random):
    """One bit of an object's bytes is flipped on its way to the store, silently. Records are left alone."""

    def wrote(self, op: Op, data: bytes) -> bytes:
        # Another bit than `BentReads` flips: two wrongs must not make a right.
        return bent(data, 2) if op.key.startswith("data/") and self._hits(op) else data


class WrongChecksums(_Random):
    """The store tells a checksum its bytes do not have."""

    def checksums(self, op: Op, found: Checksums) -> Checksums:
        if not self._hits(op):
            return found
        return replace(
            found,
            crc64nvme=None if found.crc64nvme is None else found.crc64nvme ^ 1,
            crc32c=None if found.crc32c is None else found.crc32c ^ 1,
        )


@dataclass
class Skew(Harm):
    """A site's clock is off by so many seconds."""

    site: str
    seconds: float

    def info(self, op_site: str, info: ObjectInfo) -> ObjectInfo:
        if op_site != self.site:
            return info
        return replace(info, modified_at=info.modified_at + timedelta(seconds=self.seconds))


@dataclass
class Movement(Harm):
    """The source's writers go on: one change before each of these operations."""

    source: Mutable
    rng: random.Random
    names: Sequence[str]
    at: frozenset[int]

    def before(self, op: Op) -> None:
        if op.index in self.at:
            self.source.mutate(self.rng, self.names)


@dataclass
class Trace:
    """What a run did, and the harms it meets."""

    harms: Sequence[Harm] = ()
    ops: list[Op] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def begin(self, site: str, verb: str, key: str) -> Op:
        with self.lock:
            op = Op(len(self.ops), site, verb, key)
            self.ops.append(op)
        for harm in self.harms:
            harm.before(op)
        return op

    def end(self, op: Op) -> None:
        for harm in self.harms:
            harm.after(op)

    def read(self, op: Op, data: bytes) -> bytes:
        for harm in self.harms:
            data = harm.read(op, data)
        return data

    def wrote(self, op: Op, data: bytes) -> bytes:
        for harm in self.harms:
            data = harm.wrote(op, data)
        return data

    def info(self, site: str, info: ObjectInfo) -> ObjectInfo:
        for harm in self.harms:
            info = harm.info(site, info)
        return info

    def checksums(self, op: Op, found: Checksums) -> Checksums:
        for harm in self.harms:
            found = harm.checksums(op, found)
        return found

    def count(self, verb: str, site: str | None = None) -> int:
        return sum(1 for op in self.ops if op.verb == verb and site in (None, op.site))


class HarmedParts:
    """The part-wise side of a harmed store. Like a cloud it tells checksums of its own, of the bytes it really has."""

    def __init__(self, inner: PartStore, store: ObjectStore, site: str, trace: Trace) -> None:
        self._inner, self._store, self._site, self._trace = inner, store, site, trace

    @property
    def name(self) -> str:
        return self._inner.name

    @property
    def limits(self) -> PartLimits:
        return self._inner.limits

    def begin(self, key: str, **kwargs: Any) -> Upload:
        return self._do("begin", key, lambda: self._inner.begin(key, **kwargs))

    def put_part(self, upload: Upload, number: int, data: PartData, *, checksums: Checksums) -> UploadedPart:
        op = self._trace.begin(self._site, "put_part", upload.key)
        part = self._inner.put_part(upload, number, self._trace.wrote(op, bytes(data)), checksums=checksums)
        self._trace.end(op)
        return part

    def parts(self, upload: Upload) -> list[UploadedPart]:
        return self._do("parts", upload.key, lambda: self._inner.parts(upload))

    def complete(self, upload: Upload, parts: Sequence[UploadedPart], **kwargs: Any) -> ObjectVersion:
        return self._do("complete", upload.key, lambda: self._inner.complete(upload, parts, **kwargs))

    def abort(self, upload: Upload) -> None:
        self._do("abort", upload.key, lambda: self._inner.abort(upload))

    def uploads(self, prefix: str = "") -> Iterator[Upload]:
        return self._do("uploads", prefix, lambda: self._inner.uploads(prefix))

    def read_into(self, key: str, start: int, buffer: memoryview, *, if_match: ObjectVersion) -> None:
        op = self._trace.begin(self._site, "read_into", key)
        self._inner.read_into(key, start, buffer, if_match=if_match)
        self._trace.end(op)
        data = self._trace.read(op, bytes(buffer))
        if len(data) != len(buffer):
            raise unavailable(op, "the answer was cut short", unknown=False)
        buffer[:] = data

    def stored_checksums(self, key: str, version: ObjectVersion) -> Checksums | None:
        op = self._trace.begin(self._site, "stored_checksums", key)
        found = self._inner.stored_checksums(key, version) or Checksums.of(self._store.get(key, if_match=version))
        self._trace.end(op)
        return self._trace.checksums(op, found)

    def _do(self, verb: str, key: str, call: Callable[[], Any]) -> Any:
        op = self._trace.begin(self._site, verb, key)
        answer = call()
        self._trace.end(op)
        return answer


class HarmedStore(StoreDecorator):
    """A site's store whose operations are counted and harmed."""

    def __init__(self, inner: ObjectStore, site: str, trace: Trace) -> None:
        super().__init__(inner)
        self._site, self._trace = site, trace

    def parts(self) -> PartStore | None:
        inner = part_store(self.inner)
        return None if inner is None else HarmedParts(inner, self.inner, self._site, self._trace)

    def list(self, prefix: str = "", *, start_after: str | None = None) -> Iterator[ObjectInfo]:
        """In pages, as clouds list: what changes meanwhile is in one page and not in another."""
        while True:
            op = self._trace.begin(self._site, "list", prefix)
            page = list(islice(self.inner.list(prefix, start_after=start_after), PAGE_OBJECTS))
            self._trace.end(op)
            for info in page:
                yield self._trace.info(self._site, info)
            if len(page) < PAGE_OBJECTS:
                return
            start_after = page[-1].key

    def head(self, key: str) -> ObjectInfo:
        return self._trace.info(self._site, self._do("head", key, lambda: self.inner.head(key)))

    def get(self, key: str, **kwargs: Any) -> bytes:
        op = self._trace.begin(self._site, "get", key)
        data = self.inner.get(key, **kwargs)
        self._trace.end(op)
        return self._trace.read(op, data)

    def open(self, key: str, **kwargs: Any) -> ObjectReader:
        op = self._trace.begin(self._site, "open", key)
        reader = self.inner.open(key, **kwargs)
        self._trace.end(op)
        info = self._trace.info(self._site, reader.info)
        return replace(reader, info=info, chunks=(self._trace.read(op, bytes(chunk)) for chunk in reader.chunks))

    def put(self, key: str, data: Any, **kwargs: Any) -> Any:
        op = self._trace.begin(self._site, "put", key)
        if isinstance(data, bytes | bytearray | memoryview):
            data = self._trace.wrote(op, bytes(data))
        else:
            data = (self._trace.wrote(op, bytes(chunk)) for chunk in data)
        version = self.inner.put(key, data, **kwargs)
        self._trace.end(op)
        return version

    def copy(self, source: str, target: str) -> None:
        self._do("copy", source, lambda: self.inner.copy(source, target))

    def delete(self, key: str) -> None:
        self._do("delete", key, lambda: self.inner.delete(key))

    def _do(self, verb: str, key: str, call: Callable[[], Any]) -> Any:
        op = self._trace.begin(self._site, verb, key)
        answer = call()
        self._trace.end(op)
        return answer
