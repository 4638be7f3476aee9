"""The interface against a model written from its documentation alone, with and without faults below it."""

from __future__ import annotations

import contextlib
import random
import tempfile
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, multiple, rule

from holdfast.clock import FakeClock
from holdfast.engine.objectstore import (
    CREATE,
    OVERWRITE,
    ByteRange,
    IfMatch,
    ObjectStore,
    ObjectVersion,
    RetryingStore,
    RetryPolicy,
    local_store,
    memory_store,
)
from holdfast.engine.objectstore.errors import (
    NotSupported,
    ObjectExists,
    ObjectNotFound,
    PreconditionFailed,
    StoreUnavailable,
)
from holdfast.engine.objectstore.faults import Chance, FaultyStore, Kind

KEYS = st.sampled_from(["a", "ab", "a-b", "b/1", "b/10", "b/2", "c/d/e", "ü"])
BODIES = st.binary(max_size=40)
PREFIXES = st.sampled_from(["", "a", "b", "b/", "b/1", "c/d", "z", "ü"])


class StoreMachine(RuleBasedStateMachine):
    """A dict is the model: what was acknowledged is what is read."""

    versions = Bundle("versions")

    def __init__(self) -> None:
        super().__init__()
        self.cleanup = contextlib.ExitStack()
        self.model: dict[str, bytes] = {}
        #: Versions by key, as the store named them, newest last.
        self.current: dict[str, ObjectVersion] = {}
        self.number = 0

    def make(self) -> ObjectStore:
        return memory_store(prefix="model")

    @initialize()
    def begin(self) -> None:
        self.store = self.make()

    def teardown(self) -> None:
        self.cleanup.close()

    def body(self, body: bytes) -> bytes:
        """Every body names its write, as every record of Holdfast does."""
        self.number += 1
        return b"%d:" % self.number + body

    @rule(target=versions, key=KEYS, body=BODIES, streamed=st.booleans())
    def put(self, key: str, body: bytes, streamed: bool) -> Any:
        data = self.body(body)
        version = self.store.put(
            key, [data[i : i + 7] for i in range(0, len(data), 7)] if streamed else data, mode=OVERWRITE
        )
        self.model[key], self.current[key] = data, version
        return key, version

    @rule(target=versions, key=KEYS, body=BODIES)
    def create(self, key: str, body: bytes) -> Any:
        data = self.body(body)
        if key in self.model:
            with pytest.raises(ObjectExists):
                self.store.put(key, data, mode=CREATE)
            return multiple()
        self.current[key] = self.store.put(key, data, mode=CREATE)
        self.model[key] = data
        return key, self.current[key]

    @rule(target=versions, seen=versions, body=BODIES)
    def swap(self, seen: tuple[str, ObjectVersion], body: bytes) -> Any:
        key, version = seen
        data = self.body(body)
        if not self.store.capabilities().compare_and_swap:
            with pytest.raises(NotSupported):
                self.store.put(key, data, mode=IfMatch(version))
            return multiple()
        if self.current.get(key) != version:
            with pytest.raises(PreconditionFailed):
                self.store.put(key, data, mode=IfMatch(version))
            return multiple()
        self.current[key] = self.store.put(key, data, mode=IfMatch(version))
        self.model[key] = data
        return key, self.current[key]

    @rule(seen=versions)
    def read_pinned(self, seen: tuple[str, ObjectVersion]) -> None:
        key, version = seen
        if key not in self.model:
            with pytest.raises(ObjectNotFound):
                self.store.get(key, if_match=version)
        elif self.current[key] == version:
            assert self.store.get(key, if_match=version) == self.model[key]
        else:
            with pytest.raises(PreconditionFailed):
                self.store.get(key, if_match=version)

    @rule(key=KEYS, start=st.integers(0, 50), length=st.integers(0, 50))
    def read(self, key: str, start: int, length: int) -> None:
        wanted = ByteRange(start, start + length)
        if key not in self.model:
            for ask in (
                lambda: self.store.get(key),
                lambda: self.store.head(key),
                lambda: self.store.get(key, byte_range=wanted),
            ):
                with pytest.raises(ObjectNotFound):
                    ask()
            return
        body = self.model[key]
        assert self.store.get(key) == body
        assert self.store.get(key, byte_range=wanted) == body[start : start + length]
        assert b"".join(self.store.open(key, byte_range=wanted, chunk_bytes=3)) == body[start : start + length]
        info = self.store.head(key)
        assert (info.size_bytes, info.version) == (len(body), self.current[key])

    @rule(source=KEYS, to=KEYS)
    def copy(self, source: str, to: str) -> None:
        if source not in self.model:
            with pytest.raises(ObjectNotFound):
                self.store.copy(source, to)
        elif source != to:
            self.store.copy(source, to)
            self.model[to] = self.model[source]
            self.current[to] = self.store.head(to).version

    @rule(key=KEYS)
    def delete(self, key: str) -> None:
        self.store.delete(key)
        self.model.pop(key, None)
        self.current.pop(key, None)

    @rule(seen=consumes(versions))
    def forget(self, seen: Any) -> None:
        """Keeps the bundle from filling with versions long gone."""

    @rule(prefix=PREFIXES, after=st.one_of(st.none(), KEYS))
    def list_some(self, prefix: str, after: str | None) -> None:
        expected = [key for key in sorted(self.model) if key.startswith(prefix) and (after is None or key > after)]
        assert [info.key for info in self.store.list(prefix, start_after=after)] == expected

    @invariant()
    def acknowledged_writes_are_there(self) -> None:
        if hasattr(self, "store"):
            assert {info.key: info.size_bytes for info in self.store.list()} == {
                k: len(v) for k, v in self.model.items()
            }


class LocalMachine(StoreMachine):
    """The same over a folder."""

    def make(self) -> ObjectStore:
        return local_store("local", self.cleanup.enter_context(tempfile.TemporaryDirectory()))


class FaultyMachine(RuleBasedStateMachine):
    """Under lost requests and lost answers: what was acknowledged is read back, what was refused never appears.

    The model keeps, per key, every body the store may hold; a put without an answer adds one.
    """

    @initialize(seed=st.integers(0, 2**32))
    def begin(self, seed: int) -> None:
        self.base = memory_store()
        chance = Chance(random.Random(seed), {Kind.FAIL_BEFORE: 0.15, Kind.FAIL_AFTER: 0.15})
        policy = RetryPolicy(attempts=3, budget_seconds=1000)
        self.store = RetryingStore(FaultyStore(self.base, chance), policy, clock=FakeClock(), rng=random.Random(seed))
        self.may_be: dict[str, set[bytes | None]] = {}
        self.number = 0

    def body(self) -> bytes:
        self.number += 1
        return b"%d" % self.number

    def may_have_happened(self, error: StoreUnavailable) -> None:
        assert error.outcome_unknown

    def held(self, key: str) -> bytes | None:
        try:
            return self.base.get(key)
        except ObjectNotFound:
            return None

    @rule(key=KEYS)
    def put(self, key: str) -> None:
        body = self.body()
        try:
            self.store.put(key, body)
            self.may_be[key] = {body}
        except StoreUnavailable as error:
            self.may_have_happened(error)
            self.may_be.setdefault(key, {None}).add(body)

    @rule(key=KEYS)
    def create(self, key: str) -> None:
        body, before = self.body(), self.held(key)
        try:
            self.store.put(key, body, mode=CREATE)
            assert before is None
            self.may_be[key] = {body}
        except ObjectExists:
            assert before is not None
            assert self.held(key) == before, "a refused create changed something"
        except StoreUnavailable as error:
            self.may_have_happened(error)
            assert before is None or self.held(key) == before
            self.may_be.setdefault(key, {None}).add(body)

    @rule(key=KEYS)
    def swap(self, key: str) -> None:
        before = self.held(key)
        if before is None:
            return
        version, body = self.base.head(key).version, self.body()
        try:
            self.store.put(key, body, mode=IfMatch(version))
            self.may_be[key] = {body}
        except StoreUnavailable as error:
            self.may_have_happened(error)
            self.may_be.setdefault(key, {None}).add(body)

    @rule(key=KEYS)
    def stale_swap(self, key: str) -> None:
        before, body = self.held(key), self.body()
        with pytest.raises((PreconditionFailed, StoreUnavailable)):
            self.store.put(key, body, mode=IfMatch(ObjectVersion('"stale"')))
        assert self.held(key) == before

    @rule(key=KEYS)
    def delete(self, key: str) -> None:
        try:
            self.store.delete(key)
            self.may_be[key] = {None}
        except StoreUnavailable:
            self.may_be.setdefault(key, {None}).add(None)

    @rule(key=KEYS)
    def read(self, key: str) -> None:
        with contextlib.suppress(StoreUnavailable):
            try:
                read: bytes | None = self.store.get(key)
            except ObjectNotFound:
                read = None
            assert read in self.may_be.get(key, {None})

    @invariant()
    def the_store_holds_what_it_may(self) -> None:
        for key, may_be in getattr(self, "may_be", {}).items():
            assert self.held(key) in may_be


_SETTINGS = settings(
    max_examples=25,
    stateful_step_count=25,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
for machine in (StoreMachine, LocalMachine, FaultyMachine):
    machine.TestCase.settings = _SETTINGS

TestStore = StoreMachine.TestCase
TestLocalFolder = LocalMachine.TestCase
TestUnderFaults = FaultyMachine.TestCase
