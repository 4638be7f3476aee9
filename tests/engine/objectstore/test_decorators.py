"""Throttle, meter and faults, each over a store in memory."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor

import pytest

from holdfast.clock import FakeClock
from holdfast.engine.objectstore import CREATE, ObjectStore, memory_store
from holdfast.engine.objectstore.errors import ObjectExists, ObjectNotFound, StoreUnavailable
from holdfast.engine.objectstore.faults import Chance, Fault, FaultyStore, Kind, Script
from holdfast.engine.objectstore.meter import Meter, MeteredStore
from holdfast.engine.objectstore.throttle import ThrottledStore, TokenBucket


def test_requests_flow_at_their_rate_after_the_burst() -> None:
    clock = FakeClock()
    store = ThrottledStore(memory_store(), requests_per_second=10, clock=clock)
    for _ in range(10):
        store.put("x", b"")
    assert clock.monotonic() == 0
    for _ in range(20):
        store.head("x")
    assert clock.monotonic() == pytest.approx(2.0)


def test_bytes_flow_at_their_rate_in_both_directions() -> None:
    clock = FakeClock()
    store = ThrottledStore(memory_store(), bytes_per_second=1000, clock=clock)
    store.put("x", b"x" * 3000)
    assert clock.monotonic() == pytest.approx(2.0)
    store.get("x")
    assert clock.monotonic() == pytest.approx(5.0)
    assert b"".join(store.open("x", chunk_bytes=500)) == b"x" * 3000
    assert clock.monotonic() == pytest.approx(8.0)
    store.put("y", iter([b"x" * 1000] * 2))
    assert clock.monotonic() == pytest.approx(10.0)


def test_idle_time_saves_no_more_than_the_burst() -> None:
    clock = FakeClock()
    bucket = TokenBucket(5, clock=clock)
    clock.advance(1000)
    for _ in range(10):
        bucket.take(1)
    assert clock.monotonic() == pytest.approx(1001.0)


def test_a_rate_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="more than 0"):
        TokenBucket(0, clock=FakeClock())


def test_the_meter_counts_calls_bytes_failures_and_time() -> None:
    clock, meter = FakeClock(), Meter()
    slow = FaultyStore(memory_store(), Script([Fault(Kind.DELAY, "get", delay_seconds=2.0)]), clock=clock)
    store = MeteredStore(slow, meter, clock=clock)
    store.put("x", b"12345", mode=CREATE)
    with pytest.raises(ObjectExists):
        store.put("x", b"12345", mode=CREATE)
    store.put("y", iter([b"1", b"23"]))
    store.get("x")
    store.get("y")
    assert b"".join(store.open("x")) == b"12345"
    with pytest.raises(ObjectNotFound):
        store.head("missing")
    list(store.list())
    store.copy("x", "z")
    store.delete("z")
    counts = meter.counts()
    assert {verb: count.calls for verb, count in counts.items()} == {
        "put": 3,
        "get": 2,
        "open": 1,
        "head": 1,
        "list": 1,
        "copy": 1,
        "delete": 1,
    }
    assert (counts["put"].bytes_written, counts["put"].failures) == (8, {"ObjectExists": 1})
    assert (counts["get"].bytes_read, counts["get"].seconds_total, counts["get"].seconds_longest) == (8, 2.0, 2.0)
    assert (counts["open"].bytes_read, counts["head"].failures) == (5, {"ObjectNotFound": 1})


def test_a_reader_that_stops_early_is_no_failure() -> None:
    meter = Meter()
    store = MeteredStore(memory_store(), meter)
    store.put("x", b"12345")
    store.put("y", b"12345")
    chunks = store.open("x", chunk_bytes=1).chunks
    next(chunks)
    chunks.close()  # type: ignore[attr-defined]  # a generator
    listing = store.list()
    next(listing)
    listing.close()  # type: ignore[attr-defined]  # a generator
    assert all(not count.failures for count in meter.counts().values())


def test_many_threads_lose_no_count() -> None:
    meter = Meter()
    store = MeteredStore(memory_store(), meter)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: store.put(f"{number}", b"x"), range(400)))
    assert (meter.counts()["put"].calls, meter.counts()["put"].bytes_written) == (400, 400)


def faulty(*faults: Fault) -> tuple[FaultyStore, ObjectStore, FakeClock]:
    base, clock = memory_store(), FakeClock()
    return FaultyStore(base, Script(faults), clock=clock), base, clock


def test_a_failure_before_leaves_the_store_alone_and_one_after_does_not() -> None:
    store, base, _ = faulty(Fault(Kind.FAIL_BEFORE, "put"), Fault(Kind.FAIL_AFTER, "put"))
    for expected in ([], ["x"]):
        with pytest.raises(StoreUnavailable) as caught:
            store.put("x", b"1")
        assert caught.value.outcome_unknown, "from outside the two look the same"
        assert [info.key for info in base.list()] == expected


def test_corruption_truncation_and_delay_are_silent() -> None:
    faults = [Fault(kind, "get") for kind in (Kind.CORRUPT, Kind.TRUNCATE, Kind.DELAY)]
    store, base, clock = faulty(*faults, Fault(Kind.CORRUPT, "open"))
    base.put("x", b"\0" * 8)
    corrupted = store.get("x")
    assert len(corrupted) == 8
    assert sum(corrupted) == 1
    assert len(store.get("x")) == 4
    assert store.get("x") == b"\0" * 8
    assert clock.monotonic() == 1.0
    assert sum(b"".join(store.open("x", chunk_bytes=2))) == 1


def test_a_script_waits_for_its_verb_and_key_and_happens_once() -> None:
    script = Script([Fault(Kind.FAIL_BEFORE, "get", key="a/")])
    store = FaultyStore(memory_store(), script)
    store.put("a/x", b"1")
    store.put("b", b"1")
    assert store.get("b") == b"1"
    assert len(script.left) == 1
    with pytest.raises(StoreUnavailable):
        store.get("a/x")
    assert store.get("a/x") == b"1"
    assert script.left == ()


def test_chance_is_the_same_for_the_same_seed() -> None:
    def run(seed: int) -> list[bool]:
        store = FaultyStore(memory_store(), Chance(random.Random(seed), {Kind.FAIL_BEFORE: 0.3}))
        outcomes = []
        for _ in range(50):
            try:
                store.put("x", b"1")
                outcomes.append(True)
            except StoreUnavailable:
                outcomes.append(False)
        return outcomes

    assert run(1) == run(1) != run(2)
    assert 0 < run(1).count(False) < 40
