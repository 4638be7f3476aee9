"""Requests in flight follow what the store bears."""

from __future__ import annotations

import itertools
import threading
import time

import pytest

from holdfast.engine.objectstore.adaptive import AdaptiveConcurrency


def burst(places: AdaptiveConcurrency, throttled: bool) -> None:
    """As many requests as may be in flight, all answered the same."""
    tickets = [places.acquire() for _ in range(places.limit)]
    for ticket in tickets:
        places.release(ticket, throttled=throttled)


def test_a_burst_of_refusals_halves_once() -> None:
    places = AdaptiveConcurrency(32)
    burst(places, throttled=True)
    assert places.limit == 16
    burst(places, throttled=True)
    assert places.limit == 8


def test_it_never_goes_below_one() -> None:
    places = AdaptiveConcurrency(4)
    for _ in range(10):
        burst(places, throttled=True)
    assert places.limit == 1


def test_a_window_of_successes_allows_one_more_up_to_the_most() -> None:
    places = AdaptiveConcurrency(8)
    burst(places, throttled=True)
    seen = []
    for _ in range(8):
        seen.append(places.limit)
        burst(places, throttled=False)
    assert seen[0] == 4
    assert seen[-1] == 8
    assert all(later - earlier in (0, 1) for earlier, later in itertools.pairwise(seen))
    assert places.limit == 8


def test_other_failures_say_nothing_about_the_load() -> None:
    places = AdaptiveConcurrency(8)
    places.release(places.acquire(), throttled=None)
    assert places.limit == 8


def test_it_finds_what_the_store_bears() -> None:
    """A store that bears eleven at once: the number stays near it for ever."""
    places = AdaptiveConcurrency(64)
    seen = []
    for _ in range(200):
        tickets = [places.acquire() for _ in range(places.limit)]
        for number, ticket in enumerate(tickets):
            places.release(ticket, throttled=number >= 11)
        seen.append(places.limit)
    assert all(5 <= limit <= 12 for limit in seen[20:])


def test_places_are_never_exceeded_and_threads_that_wait_get_theirs() -> None:
    places = AdaptiveConcurrency(3)
    most, now, done = 0, 0, 0
    lock = threading.Lock()

    def work() -> None:
        nonlocal most, now, done
        for _ in range(50):
            ticket = places.acquire(threading.current_thread().name)
            with lock:
                now += 1
                most = max(most, now)
            time.sleep(0)
            with lock:
                now -= 1
                done += 1
            places.release(ticket)

    threads = [threading.Thread(target=work) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert (done, places.in_flight) == (600, 0)
    assert most <= 3


def test_a_place_goes_to_the_flow_that_has_fewest() -> None:
    places = AdaptiveConcurrency(1)
    held = places.acquire("greedy")
    order: list[str] = []

    def ask(flow: str) -> None:
        ticket = places.acquire(flow)
        order.append(flow)
        places.release(ticket)

    threads = []
    for waiting, flow in enumerate(["greedy", "greedy", "greedy", "modest"], start=1):
        threads.append(threading.Thread(target=ask, args=(flow,)))
        threads[-1].start()
        deadline = time.monotonic() + 30
        while len(places._queue) < waiting and time.monotonic() < deadline:
            time.sleep(0.001)
    places.release(held)
    for thread in threads:
        thread.join(30)
    assert order[0] == "modest"


@pytest.mark.parametrize("arguments", [{"most": 0}, {"most": 2, "least": 3}, {"most": 2, "decrease": 1.0}])
def test_nonsense_is_refused(arguments) -> None:
    with pytest.raises(ValueError, match="expected"):
        AdaptiveConcurrency(**arguments)
