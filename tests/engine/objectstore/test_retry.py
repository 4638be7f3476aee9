"""Tries again what may work, never what is wrong, and never turns a lost answer into a wrong one."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest

from holdfast.clock import FakeClock
from holdfast.engine.objectstore import (
    CREATE,
    ByteRange,
    IfMatch,
    ObjectStore,
    RetryingStore,
    RetryPolicy,
    memory_store,
)
from holdfast.engine.objectstore._decorator import StoreDecorator
from holdfast.engine.objectstore.errors import (
    ObjectExists,
    ObjectNotFound,
    PermissionRefused,
    PreconditionFailed,
    StoreUnavailable,
)
from holdfast.engine.objectstore.faults import Fault, FaultyStore, Kind, Script

LARGE = bytes(range(256)) * 40_960  # 10 MiB


class Recorder(StoreDecorator):
    """Counts the puts that reach the store, and lets somebody act between two of them."""

    def __init__(self, inner: ObjectStore, between: Callable[[], None] = lambda: None) -> None:
        super().__init__(inner)
        self.puts = 0
        self.between = between

    def put(self, *arguments: Any, **options: Any) -> Any:
        self.puts += 1
        if self.puts == 2:
            self.between()
        return self.inner.put(*arguments, **options)


def retrying(
    *faults: Fault, policy: RetryPolicy | None = None, between: Callable[[ObjectStore], None] | None = None
) -> Any:
    base = memory_store()
    recorder = Recorder(base, (lambda: between(base)) if between else (lambda: None))
    clock = FakeClock()
    store = RetryingStore(
        FaultyStore(recorder, Script(faults), clock=clock), policy or RetryPolicy(), clock=clock, rng=random.Random(1)
    )
    return store, base, recorder, clock


def fail(kind: Kind = Kind.FAIL_BEFORE, verb: str | None = None, times: int = 1) -> list[Fault]:
    return [Fault(kind, verb)] * times


@pytest.mark.parametrize("verb", ["get", "head", "list", "open", "put", "copy", "delete"])
@pytest.mark.parametrize("kind", [Kind.FAIL_BEFORE, Kind.FAIL_AFTER])
def test_every_verb_is_tried_again(verb: str, kind: Kind) -> None:
    store, base, _, clock = retrying(*fail(kind, verb, 3))
    base.put("x", b"1")
    answers = {
        "get": lambda: store.get("x") == b"1",
        "head": lambda: store.head("x").key == "x",
        "list": lambda: [info.key for info in store.list()] == ["x"],
        "open": lambda: b"".join(store.open("x")) == b"1",
        "put": lambda: store.put("x", b"2") == base.head("x").version,
        "copy": lambda: store.copy("x", "y") is None and base.get("y") == b"1",
        "delete": lambda: store.delete("x") is None and list(base.list()) == [],
    }
    assert answers[verb]()
    assert clock.monotonic() > 0


def test_attempts_are_bounded() -> None:
    store, _, recorder, _ = retrying(*fail(Kind.FAIL_AFTER, "put", 9), policy=RetryPolicy(attempts=3))
    with pytest.raises(StoreUnavailable):
        store.put("x", b"1")
    assert recorder.puts == 3


def test_time_is_bounded() -> None:
    slow = [Fault(Kind.DELAY, "head", delay_seconds=4.0), *fail(Kind.FAIL_BEFORE, "head", 90)]

    class Slow(StoreDecorator):
        asked = 0

        def head(self, key: str) -> Any:
            self.asked += 1
            clock.sleep(4.0)
            raise StoreUnavailable("slow")

    clock = FakeClock()
    inner = Slow(memory_store())
    store = RetryingStore(inner, RetryPolicy(attempts=50, budget_seconds=10), clock=clock, rng=random.Random(1))
    with pytest.raises(StoreUnavailable):
        store.head("x")
    assert inner.asked == 3, "no attempt begins after the budget"
    assert clock.monotonic() < 10 + 4 + 1
    assert slow


def test_pauses_double_up_to_a_limit_with_full_jitter() -> None:
    pauses: list[float] = []

    class Listening(FakeClock):
        def sleep(self, seconds: float) -> None:
            pauses.append(seconds)

    class Widest(random.Random):
        def uniform(self, a: float, b: float) -> float:
            assert a == 0
            return b

    store = RetryingStore(
        FaultyStore(memory_store(), Script(fail(times=6))), RetryPolicy(attempts=7), clock=Listening(), rng=Widest()
    )
    with pytest.raises(ObjectNotFound):
        store.head("x")
    assert pauses == [0.1, 0.2, 0.4, 0.8, 1.6, 2.0]


@pytest.mark.parametrize("error", [PermissionRefused, ObjectNotFound, PreconditionFailed, ObjectExists])
def test_permanent_errors_are_never_tried_again(error: type[Exception]) -> None:
    class Wrong(StoreDecorator):
        asked = 0

        def get(self, key: str, **_: Any) -> bytes:
            self.asked += 1
            raise error("wrong")

    inner = Wrong(memory_store())
    with pytest.raises(error):
        RetryingStore(inner).get("x")
    assert inner.asked == 1


def test_a_create_whose_answer_was_lost_finds_its_own_object() -> None:
    store, base, recorder, _ = retrying(*fail(Kind.FAIL_AFTER, "put"))
    version = store.put("x", b"mine, write-id 1", mode=CREATE)
    assert version == base.head("x").version
    assert recorder.puts == 2


def test_a_create_that_did_not_arrive_is_made() -> None:
    store, base, _, _ = retrying(*fail(Kind.FAIL_BEFORE, "put"))
    store.put("x", b"mine", mode=CREATE)
    assert base.get("x") == b"mine"


def test_a_create_that_somebody_else_won_after_ours_was_lost_is_refused() -> None:
    store, base, _, _ = retrying(*fail(Kind.FAIL_BEFORE, "put"))
    base.put("x", b"theirs", mode=CREATE)
    with pytest.raises(ObjectExists):
        store.put("x", b"ours", mode=CREATE)
    assert base.get("x") == b"theirs"


def test_equal_bytes_there_before_the_first_try_are_still_somebody_elses() -> None:
    store, base, _, _ = retrying()
    base.put("x", b"same", mode=CREATE)
    with pytest.raises(ObjectExists):
        store.put("x", b"same", mode=CREATE)


def test_a_swap_whose_answer_was_lost_finds_its_own_object() -> None:
    store, base, _, _ = retrying(*fail(Kind.FAIL_AFTER, "put"))
    version = store.put("x", b"two", mode=IfMatch(base.put("x", b"one")))
    assert version == base.head("x").version
    assert base.get("x") == b"two"


def test_a_swap_that_may_have_been_replaced_claims_nothing() -> None:
    def replace(base: ObjectStore) -> None:
        base.put("x", b"three", mode=IfMatch(base.head("x").version))

    store, base, _, _ = retrying(*fail(Kind.FAIL_AFTER, "put"), between=replace)
    with pytest.raises(StoreUnavailable) as caught:
        store.put("x", b"two", mode=IfMatch(base.put("x", b"one")))
    assert caught.value.outcome_unknown
    assert base.get("x") == b"three"


def test_a_stale_swap_is_refused_as_ever() -> None:
    store, base, _, _ = retrying()
    old = base.put("x", b"one")
    base.put("x", b"two")
    with pytest.raises(PreconditionFailed):
        store.put("x", b"three", mode=IfMatch(old))


def test_a_conditional_put_that_cannot_be_resolved_says_that_it_is_unknown() -> None:
    faults = [*fail(Kind.FAIL_AFTER, "put"), *fail(Kind.FAIL_BEFORE, "open", 20)]
    store, _, _, _ = retrying(*faults)
    with pytest.raises(StoreUnavailable) as caught:
        store.put("x", b"mine", mode=CREATE)
    assert caught.value.outcome_unknown


def test_an_exhausted_conditional_put_says_that_it_is_unknown() -> None:
    class LostThenRefused(StoreDecorator):
        asked = 0

        def put(self, *_: Any, **__: Any) -> Any:
            self.asked += 1
            raise StoreUnavailable("no", outcome_unknown=self.asked == 1)

    store = RetryingStore(LostThenRefused(memory_store()), clock=FakeClock())
    with pytest.raises(StoreUnavailable) as caught:
        store.put("x", b"1", mode=CREATE)
    assert caught.value.outcome_unknown, "the last attempt surely did nothing, the first one may have"


def test_a_stream_that_breaks_is_read_on_from_where_it_stopped() -> None:
    store, base, _, _ = retrying(*fail(Kind.BREAK, "open", 3))
    base.put("x", LARGE)
    assert b"".join(store.open("x", chunk_bytes=1_000_000)) == LARGE
    broken = retrying(*fail(Kind.BREAK, "open", 2))
    broken[1].put("x", LARGE)
    wanted = ByteRange(123, 9_000_000)
    assert b"".join(broken[0].open("x", byte_range=wanted, chunk_bytes=1_000_000)) == LARGE[123:9_000_000]


def test_a_stream_that_breaks_over_a_changed_object_is_not_mixed() -> None:
    store, base, _, _ = retrying(*fail(Kind.BREAK, "open"))
    base.put("x", LARGE)
    chunks = store.open("x", chunk_bytes=1_000_000).chunks
    next(chunks)
    base.put("x", LARGE)
    with pytest.raises(PreconditionFailed):
        list(chunks)


def test_a_listing_that_breaks_goes_on_without_repeating() -> None:
    store, base, _, _ = retrying(*fail(Kind.FAIL_AFTER, "list", 3))
    names = [f"{number:02}" for number in range(20)]
    for name in names:
        base.put(name, b"x")
    assert [info.key for info in store.list()] == names


def test_an_iterator_is_sent_once_and_a_list_of_chunks_again() -> None:
    store, base, recorder, _ = retrying(*fail(Kind.FAIL_AFTER, "put"))
    with pytest.raises(StoreUnavailable):
        store.put("x", iter([b"1", b"2"]))
    assert recorder.puts == 1
    again, base, recorder, _ = retrying(*fail(Kind.FAIL_AFTER, "put"))
    again.put("x", [b"1", b"2"])
    assert (recorder.puts, base.get("x")) == (2, b"12")
