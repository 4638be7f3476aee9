"""A tiny object store that can be down, hang, or lose answers; the epoch stores every behaviour test runs on."""

from __future__ import annotations

import hashlib
import random
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime

import pytest

from holdfast.clock import FakeClock
from holdfast.engine.authority import EpochStore, MemoryEpochStore, RankedRegister
from holdfast.engine.objectstore.errors import ObjectExists, ObjectNotFound, PreconditionFailed, StoreUnavailable
from holdfast.engine.objectstore.interface import Create, IfMatch, ObjectInfo, ObjectReader, ObjectVersion, Overwrite

SITES = ("aws", "gcp", "azure")


@dataclass
class TinyStore:
    """Enough of an ObjectStore for the authority: `open` and `put`, versions by content as S3's ETags are."""

    name: str
    down: bool = False
    hang: threading.Event | None = None
    #: Puts to come whose answer is lost: "after" (it happened) or "before" (it did not).
    lose: list[str] = field(default_factory=list)
    objects: dict[str, bytes] = field(default_factory=dict)
    puts: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def _reach(self) -> None:
        if self.hang is not None:
            self.hang.wait()
        if self.down:
            raise StoreUnavailable("connection refused", where=self.name)

    def open(self, key: str, **_: object) -> ObjectReader:
        self._reach()
        with self.lock:
            if key not in self.objects:
                raise ObjectNotFound("nothing here", where=f"{self.name}/{key}")
            body = self.objects[key]
        return ObjectReader(ObjectInfo(key, len(body), datetime.now(UTC), _version(body)), iter([body]))

    def put(self, key: str, data: bytes, *, mode: Overwrite | Create | IfMatch, **_: object) -> ObjectVersion:
        self._reach()
        with self.lock:
            self.puts += 1
            fate = self.lose.pop(0) if self.lose else ""
            if fate == "before":
                raise StoreUnavailable("connection reset", where=self.name, outcome_unknown=True)
            there = self.objects.get(key)
            if isinstance(mode, Create) and there is not None:
                raise ObjectExists("it is there", where=key)
            if isinstance(mode, IfMatch) and (there is None or _version(there) != mode.version):
                raise PreconditionFailed("another version", where=key)
            self.objects[key] = data
            if fate == "after":
                raise StoreUnavailable("connection reset", where=self.name, outcome_unknown=True)
            return _version(data)


def _version(body: bytes) -> ObjectVersion:
    return ObjectVersion(hashlib.md5(body, usedforsecurity=False).hexdigest())


@pytest.fixture
def stores() -> dict[str, TinyStore]:
    return {site: TinyStore(site) for site in SITES}


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def register(stores: dict[str, TinyStore]) -> Callable[..., RankedRegister]:
    """Makes a register over the tiny stores, on the real clock."""

    def make(holder: str = "test", budget_seconds: float = 5.0, **options: object) -> RankedRegister:
        rng = random.Random(holder)
        return RankedRegister(stores, holder=holder, rng=rng, budget_seconds=budget_seconds, **options)

    return make


@pytest.fixture(params=["memory", "register"])
def epochs(request: pytest.FixtureRequest, stores: dict[str, TinyStore], clock: FakeClock) -> Iterator[EpochStore]:
    """Every epoch store there is, on a clock that moves only when told."""
    if request.param == "memory":
        yield MemoryEpochStore(holder="test", clock=clock)
    else:
        yield RankedRegister(stores, holder="test", clock=clock, rng=random.Random(1), budget_seconds=5.0)
