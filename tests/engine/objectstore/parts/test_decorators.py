"""Parts through the decorators: nothing goes around them."""

from __future__ import annotations

import random

import pytest

from holdfast.clock import FakeClock
from holdfast.engine.objectstore import ObjectStore, RetryingStore, RetryPolicy, memory_store
from holdfast.engine.objectstore._decorator import StoreDecorator
from holdfast.engine.objectstore.checksums import Checksums
from holdfast.engine.objectstore.errors import BytesCorrupted, StoreUnavailable
from holdfast.engine.objectstore.faults import Fault, FaultyStore, Kind, Script
from holdfast.engine.objectstore.interface import ObjectVersion
from holdfast.engine.objectstore.meter import Meter, MeteredStore
from holdfast.engine.objectstore.parts import PartLimits, PartStore, part_bytes_for, part_store
from holdfast.engine.objectstore.throttle import ThrottledStore

DATA = b"0123456789"


def parts_of(store: ObjectStore) -> PartStore:
    found = part_store(store)
    assert found is not None
    return found


def written(parts: PartStore) -> ObjectVersion:
    upload = parts.begin("key", size_bytes=10)
    sent = [
        parts.put_part(upload, number, piece, checksums=Checksums.of(piece))
        for number, piece in ((1, DATA[:6]), (2, DATA[6:]))
    ]
    return parts.complete(upload, sent, size_bytes=10, checksums=Checksums.of(DATA))


def faulty(*faults: Fault) -> tuple[PartStore, Script]:
    script = Script(faults)
    store = FaultyStore(memory_store(), script, clock=FakeClock())
    policy = RetryPolicy(attempts=3, budget_seconds=60)
    return parts_of(RetryingStore(store, policy, clock=FakeClock(), rng=random.Random(1))), script


def test_a_decorator_that_does_not_know_parts_has_none() -> None:
    assert part_store(StoreDecorator(memory_store())) is None
    assert part_store(RetryingStore(StoreDecorator(memory_store()))) is None


@pytest.mark.parametrize("verb", ["begin", "put_part", "parts", "complete", "abort", "uploads", "read_into"])
@pytest.mark.parametrize("kind", [Kind.FAIL_BEFORE, Kind.FAIL_AFTER])
def test_every_call_is_tried_again(verb: str, kind: Kind) -> None:
    parts, script = faulty(Fault(kind, verb))
    version = written(parts)
    unfinished = parts.begin("other", size_bytes=10)
    assert parts.parts(unfinished) == []
    parts.abort(unfinished)
    leftover = list(parts.uploads())
    assert len(leftover) == (1 if verb == "begin" and kind is Kind.FAIL_AFTER else 0)
    buffer = memoryview(bytearray(10))
    parts.read_into("key", 0, buffer, if_match=version)
    assert bytes(buffer) == DATA
    assert script.left == ()


def test_a_part_damaged_on_its_way_is_sent_again() -> None:
    parts, script = faulty(Fault(Kind.CORRUPT, "put_part"))
    written(parts)
    assert script.left == ()
    parts, _ = faulty(*(Fault(Kind.CORRUPT, "put_part") for _ in range(5)))
    with pytest.raises(BytesCorrupted):
        written(parts)


def test_a_damaged_read_is_the_callers_to_notice() -> None:
    parts, _ = faulty(Fault(Kind.CORRUPT, "read_into"), Fault(Kind.TRUNCATE, "read_into"))
    version = written(parts)
    buffer = memoryview(bytearray(10))
    for expected in (b"01234" + bytes([ord("5") ^ 1]) + b"6789", b"01234" + bytes(5), DATA):
        parts.read_into("key", 0, buffer, if_match=version)
        assert bytes(buffer) == expected


def test_attempts_end() -> None:
    parts, _ = faulty(*(Fault(Kind.FAIL_BEFORE, "begin") for _ in range(3)))
    with pytest.raises(StoreUnavailable):
        parts.begin("key", size_bytes=10)


def test_calls_and_bytes_are_counted() -> None:
    meter = Meter()
    parts = parts_of(MeteredStore(memory_store(), meter, clock=FakeClock()))
    version = written(parts)
    parts.read_into("key", 2, memoryview(bytearray(4)), if_match=version)
    counts = meter.counts()
    assert {verb: count.calls for verb, count in counts.items()} == {
        "begin": 1,
        "put_part": 2,
        "complete": 1,
        "read_into": 1,
    }
    assert counts["put_part"].bytes_written == 10
    assert counts["read_into"].bytes_read == 4


def test_requests_and_bytes_are_waited_for() -> None:
    clock = FakeClock()
    parts = parts_of(ThrottledStore(memory_store(), bytes_per_second=5, clock=clock))
    began = clock.monotonic()
    written(parts)
    assert clock.monotonic() - began == pytest.approx(1.0)  # ten bytes, of which a second's worth was saved up
    clock = FakeClock()
    parts = parts_of(ThrottledStore(memory_store(), requests_per_second=1, clock=clock))
    began = clock.monotonic()
    written(parts)
    assert clock.monotonic() - began == pytest.approx(3.0)


_S3 = PartLimits(5 << 20, 5 << 30, 10_000, in_order=False)
_GOOGLE = PartLimits(256 << 10, 1 << 30, None, in_order=True, multiple_bytes=256 << 10)


@pytest.mark.parametrize(
    ("size_bytes", "part_bytes"),
    [(1, 8 << 20), (78 << 30, 8 << 20), (79 << 30, 9 << 20), (1 << 40, 105 << 20), (5 << 40, 525 << 20)],
)
def test_parts_are_so_large_that_there_are_few_enough(size_bytes: int, part_bytes: int) -> None:
    assert part_bytes_for(size_bytes, _S3) == part_bytes
    assert -(-size_bytes // part_bytes) <= 10_000
    assert part_bytes_for(size_bytes, _GOOGLE) == 8 << 20


def test_an_object_too_large_for_any_parts_is_refused() -> None:
    with pytest.raises(ValueError, match="needs parts of"):
        part_bytes_for(100 << 40, _S3)
