"""A site's limits on its store."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from ahead_world import SentAhead
from holdfast.clock import FakeClock
from holdfast.engine.config.models import Limits
from holdfast.engine.objectstore import CREATE, RetryingStore, memory_store
from holdfast.engine.objectstore._decorator import StoreDecorator
from holdfast.engine.objectstore.ahead import ahead_store
from holdfast.engine.objectstore.errors import ObjectNotFound, StoreUnavailable
from holdfast.engine.objectstore.limited import LimitedStore, SiteLimiter, limited
from holdfast.engine.objectstore.parts import part_store

LARGE = bytes(20 * 1024 * 1024)


class Throttling(StoreDecorator):
    """Refuses the first heads as a store under load does."""

    def __init__(self, inner: Any, refusals: int, throttled: bool = True) -> None:
        super().__init__(inner)
        self.left = refusals
        self.throttled = throttled

    def head(self, key: str) -> Any:
        if self.left:
            self.left -= 1
            raise StoreUnavailable("slower", throttled=self.throttled)
        return self.inner.head(key)


def test_bytes_read_and_written_share_one_rate() -> None:
    clock = FakeClock()
    limiter = SiteLimiter(Limits(bytes_per_second=1_000_000), clock=clock)
    store = limited(memory_store(), limiter)
    store.put("a", bytes(3_000_000))
    store.get("a")
    list(store.open("a"))
    store.put("b", iter([bytes(1_000_000)] * 2))
    store.head("a")
    assert clock.monotonic() == pytest.approx(9.0, abs=1.1), "11 MB, one second of it from the burst, the last unpaid"


def test_requests_are_counted() -> None:
    clock = FakeClock()
    store = limited(memory_store(), SiteLimiter(Limits(requests_per_second=10), clock=clock))
    for number in range(110):
        store.put(str(number), b"")
    assert len(list(store.list())) == 110
    assert clock.monotonic() == pytest.approx(10.0, abs=0.3)


def test_a_refusal_for_load_halves_the_places_and_another_does_not() -> None:
    base = memory_store()
    base.put("a", b"x")
    for throttled, places in ((True, 4), (False, 8)):
        limiter = SiteLimiter(Limits(concurrency=8))
        store = RetryingStore(limited(Throttling(base, 1, throttled), limiter), clock=FakeClock())
        assert store.head("a").size_bytes == 1
        assert (limiter.places.limit, limiter.places.in_flight) == (places, 0)


def test_a_failed_call_gives_its_place_back() -> None:
    limiter = SiteLimiter(Limits(concurrency=1))
    store = limited(memory_store(), limiter)
    for _ in range(3):
        with pytest.raises(Exception, match="no object"):
            store.head("missing")
    assert limiter.places.in_flight == 0


def test_a_copy_from_a_site_to_itself_never_waits_for_itself() -> None:
    """A streamed put that is fed by reads of the same site, with one place for all."""
    store = limited(memory_store(), SiteLimiter(Limits(concurrency=1)))
    store.put("a", LARGE)
    with ThreadPoolExecutor(1) as pool:
        pool.submit(lambda: store.put("b", iter(store.open("a")))).result(30)
    assert store.get("b") == LARGE


def test_a_listing_holds_no_place_while_it_is_consumed() -> None:
    store = limited(memory_store(), SiteLimiter(Limits(concurrency=1)))
    for name in "abc":
        store.put(name, b"1")
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(lambda: [store.get(info.key) for info in store.list()]).result(30) == [b"1"] * 3


def test_parts_are_under_the_same_limits() -> None:
    clock = FakeClock()
    parts = part_store(limited(memory_store(), SiteLimiter(Limits(requests_per_second=1), clock=clock)))
    assert parts is not None
    for _ in range(5):
        list(parts.uploads(""))
    assert clock.monotonic() == pytest.approx(4.0, abs=1.1)


def test_flows_of_one_site_share_its_limiter() -> None:
    clock = FakeClock()
    limiter = SiteLimiter(Limits(requests_per_second=1), clock=clock)
    base = memory_store()
    for flow in ("group-a", "group-b"):
        limited(base, limiter, flow=flow).put(flow, b"x")
    limited(base, limiter).head("group-a")
    assert clock.monotonic() == pytest.approx(1.0, abs=0.1)


def test_a_request_sent_ahead_holds_a_place_until_its_answer_is_taken() -> None:
    limiter = SiteLimiter(Limits(concurrency=2))
    store = limited(SentAhead(memory_store(), random.Random(1), 0.0), limiter)
    assert isinstance(store, LimitedStore)
    first, second = (store.begin_put(key, b"1", mode=CREATE) for key in ("a", "b"))
    assert first is not None
    assert second is not None
    assert store.begin_put("c", b"1", mode=CREATE) is None
    first.result()
    taken = store.begin_open("missing", if_match=None, size_bytes=1)
    assert taken is not None
    with pytest.raises(ObjectNotFound):
        taken.result()
    second.abandon()
    assert limiter.places.in_flight == 0


def test_a_refusal_of_a_request_sent_ahead_halves_the_places() -> None:
    class Slow(SentAhead):
        def begin_put(self, key: str, data: bytes, **_: Any) -> Any:
            def refuse() -> None:
                raise StoreUnavailable("slower", throttled=True)

            return self._begin(refuse)

    limiter = SiteLimiter(Limits(concurrency=8))
    pending = limited(Slow(memory_store(), random.Random(1), 0.0), limiter).begin_put("a", b"1", mode=CREATE)
    with pytest.raises(StoreUnavailable):
        pending.result()
    assert limiter.places.limit == 4


def test_nothing_is_sent_ahead_where_a_rate_is_kept() -> None:
    store = limited(SentAhead(memory_store(), random.Random(1)), Limits(requests_per_second=5))
    assert ahead_store(store) is None
    assert ahead_store(limited(SentAhead(memory_store(), random.Random(1)), Limits())) is not None
    assert ahead_store(limited(memory_store(), Limits())) is None
