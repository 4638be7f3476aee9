"""What the tests of the sync share: a source with a history, sites that are harmed on script, and what must hold.

The rule of all of them: whatever a site shows is a state the source really had, byte for byte, and no older than the
run that claims it.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

from holdfast.clock import Clock, FakeClock, SystemClock
from holdfast.engine.config import Site
from holdfast.engine.config.sync import Sync
from holdfast.engine.objectstore._decorator import StoreDecorator
from holdfast.engine.objectstore.checksums import Checksums
from holdfast.engine.objectstore.errors import ObjectStoreError, PermissionRefused, StoreUnavailable
from holdfast.engine.objectstore.interface import ObjectInfo, ObjectReader, ObjectStore, ObjectVersion
from holdfast.engine.objectstore.parts import (
    PartData,
    PartLimits,
    PartStore,
    Upload,
    UploadedPart,
    part_store,
    sweep_uploads,
)
from holdfast.engine.replication.sync import SyncReport, SyncSite, sync_dataset
from holdfast.engine.snapshot import CommitRecord, latest, open_snapshot, records

DATASET = FOLDER = "market"
SITES = {
    "aws": Site(cloud="aws", region="eu-west-1", jurisdiction="EU", connection="c", bucket="b"),
    "gcp": Site(cloud="gcp", region="europe-west1", jurisdiction="EU", connection="c", bucket="b"),
    "azure": Site(cloud="azure", region="westeurope", jurisdiction="EU", connection="c", bucket="b"),
}
WRITES = ("put", "copy", "delete", "begin", "put_part", "complete", "abort")

State = Mapping[str, bytes]


class Source:
    """The dataset as its writers change it, and every state it ever had."""

    def __init__(self, store: ObjectStore, folder: str = FOLDER) -> None:
        self.store, self.folder = store, folder
        self._lock = threading.Lock()
        self._live: dict[str, bytes] = {}
        self.states: list[dict[str, bytes]] = [{}]

    @property
    def live(self) -> dict[str, bytes]:
        with self._lock:
            return dict(self._live)

    def put(self, path: str, data: bytes) -> None:
        with self._lock:
            self.store.put(f"data/{self.folder}/{path}", data)
            self._live[path] = data
            self.states.append(dict(self._live))

    def delete(self, path: str) -> None:
        with self._lock:
            self.store.delete(f"data/{self.folder}/{path}")
            self._live.pop(path, None)
            self.states.append(dict(self._live))

    def rolled_back(self, state: State) -> None:
        """The dataset is an earlier state again; what lies at the objects' own keys stays and does not count."""
        with self._lock:
            self._live = dict(state)
            self.states.append(dict(self._live))

    def mutate(self, rng: random.Random, names: Sequence[str]) -> None:
        """One change by a writer: an object added, overwritten (often in its own size) or deleted."""
        live = self.live
        name = rng.choice(list(names))
        if name in live and len(live) > 1 and rng.random() < 0.3:
            self.delete(name)
            return
        size = len(live[name]) if name in live and rng.random() < 0.5 else rng.choice((0, 1, 10, 1000, 70_000))
        self.put(name, rng.randbytes(size))

    def now(self) -> int:
        """The number of the newest state."""
        with self._lock:
            return len(self.states) - 1

    def had(self, state: State, *, since: int = 0) -> bool:
        """Whether the source had exactly this state at some moment from ``since`` on."""
        with self._lock:
            return any(other == state for other in self.states[since:])


def see(store: ObjectStore, record: CommitRecord) -> dict[str, bytes]:
    """A snapshot's content, read through its manifest and placement, every byte checked."""
    opened = open_snapshot(store, record)
    return {path: opened.read(path) for path in opened.manifest.paths}


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

    source: Source
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

    def list(self, prefix: str = "", **kwargs: Any) -> Iterator[ObjectInfo]:
        op = self._trace.begin(self._site, "list", prefix)
        for number, info in enumerate(self.inner.list(prefix, **kwargs)):
            if number == 1:
                self._trace.end(op)
            yield self._trace.info(self._site, info)

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


class World:
    """A source and its targets, in memory or in folders."""

    def __init__(self, stores: Mapping[str, ObjectStore], *, clock: Clock | None = None, source: str = "aws") -> None:
        self.stores = dict(stores)
        self.clock = clock or FakeClock()
        self.site = source
        self.source = Source(self.stores[source])
        self.targets = tuple(name for name in self.stores if name != source)

    def sync(
        self,
        trace: Trace | None = None,
        *,
        policy: Sync | None = None,
        threads: int = 1,
        epoch: int = 1,
        wrap: Callable[[str, ObjectStore], ObjectStore] = lambda _, store: store,
        **kwargs: Any,
    ) -> SyncReport:
        def store(name: str) -> ObjectStore:
            inner = self.stores[name]
            return wrap(name, inner if trace is None else HarmedStore(inner, name, trace))

        if isinstance(self.clock, FakeClock):
            self.clock.advance(1)
        return sync_dataset(
            SyncSite(self.site, store(self.site)),
            [SyncSite(name, store(name)) for name in self.targets],
            dataset=DATASET,
            folder=self.source.folder,
            policy=policy or Sync(),
            epoch=epoch,
            residency=None,
            topology_sites=SITES,
            clock=self.clock,
            threads=threads,
            **kwargs,
        )

    def latest(self, site: str, epoch: int = 1) -> CommitRecord | None:
        return latest(self.stores[site], DATASET, epoch=epoch)

    def shows(self, site: str) -> dict[str, bytes] | None:
        record = self.latest(site)
        return None if record is None else see(self.stores[site], record)

    def check_everything_shown(self) -> None:
        """Every record at every target is a state the source had; at the source every id is known too."""
        for site in self.targets:
            for record in records(self.stores[site], DATASET):
                shown = see(self.stores[site], record)
                assert self.source.had(shown), f"{site} shows {record.snapshot_id}, which never was: {sorted(shown)}"

    def check_claims(self, report: SyncReport, since: int) -> None:
        """A target reported as done shows a state that is not older than the run."""
        for target in report.targets:
            if target.error is None and target.refused is None:
                shown = self.shows(target.site) or {}
                assert self.source.had(shown, since=since), f"{target.site} is stale: {sorted(shown)}"

    def sweep(self, *, older_than_seconds: float = 0.0) -> None:
        for site in self.targets:
            # The stores' own clock: uploads begin by it, whatever clock the sync goes by.
            sweep_uploads(self.stores[site], "", older_than_seconds=older_than_seconds, clock=SystemClock())

    def unfinished(self, site: str) -> list[str]:
        """Keys of uploads that are neither finished nor aborted."""
        parts = part_store(self.stores[site])
        return [] if parts is None else [upload.key for upload in parts.uploads("")]
