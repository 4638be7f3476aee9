"""Shares of a limit: equal by cost, and nobody starves."""

from __future__ import annotations

import random
import threading
import time

import pytest

from holdfast.clock import FakeClock, SystemClock
from holdfast.engine.objectstore.fair import FairLimiter, FairQueue


def served(queue: FairQueue[str], wants: dict[str, float], total: float) -> dict[str, float]:
    """What each flow got when every flow always has one item waiting."""
    got = dict.fromkeys(wants, 0.0)
    for flow, cost in wants.items():
        queue.add(flow, cost, flow)
    while sum(got.values()) < total:
        flow, cost = queue.pop()
        got[flow] += cost
        queue.add(flow, wants[flow], flow)
    return got


def test_flows_get_equal_bytes_whatever_the_size_of_their_requests() -> None:
    got = served(FairQueue(), {"large": 8_000_000, "small": 64_000, "middle": 1_000_000}, 900_000_000)
    for size in got.values():
        assert size == pytest.approx(300_000_000, abs=8_000_000)


def test_many_waiting_requests_of_one_flow_do_not_delay_another() -> None:
    queue: FairQueue[str] = FairQueue()
    for number in range(1000):
        queue.add("greedy", 1, f"greedy {number}")
    for _ in range(10):
        queue.pop()
    queue.add("modest", 1, "modest")
    assert "modest" in [queue.pop()[0] for _ in range(2)]


def test_what_one_flow_leaves_is_the_others() -> None:
    queue: FairQueue[int] = FairQueue()
    for number in range(100):
        queue.add("only", 5, number)
    assert [queue.pop()[0] for _ in range(100)] == list(range(100)), "nothing is kept free for flows that want nothing"


def test_no_flow_starves_under_any_arrival() -> None:
    rng = random.Random(3)
    queue: FairQueue[tuple[str, int]] = FairQueue()
    waiting_since: dict[tuple[str, int], int] = {}
    for step in range(5000):
        for flow in ("a", "b", "c", "d"):
            if rng.random() < 0.3:
                item = (flow, step)
                queue.add(flow, rng.choice([1, 1, 1, 50]), item)
                waiting_since[item] = step
        if len(queue):
            item, _ = queue.pop()
            oldest_of_flow = min(at for (flow, at) in waiting_since if flow == item[0])
            assert item[1] == oldest_of_flow, "a flow's own order is kept"
            del waiting_since[item]
        while len(queue) > 200:
            item, _ = queue.pop()
            del waiting_since[item]
    while len(queue):
        del waiting_since[queue.pop()[0]]
    assert not waiting_since, "everything that waited went"


def test_the_rate_holds_on_the_clock() -> None:
    clock = FakeClock()
    limiter = FairLimiter(100, burst=10, clock=clock)
    for _ in range(1010):
        limiter.take(1, "a")
    assert clock.monotonic() == pytest.approx(10.0, rel=0.01)


def test_a_request_larger_than_the_burst_goes_and_is_waited_out_by_the_next() -> None:
    clock = FakeClock()
    limiter = FairLimiter(100, burst=10, clock=clock)
    limiter.take(1000)
    assert clock.monotonic() == 0
    limiter.take(1)
    assert clock.monotonic() == pytest.approx(9.9, rel=0.01)


def test_threads_of_several_flows_all_finish_with_fair_shares() -> None:
    """Many threads of one flow against one of another: the one gets about half while both want."""
    limiter = FairLimiter(4000, burst=1, clock=SystemClock())
    counts = {"many": 0, "one": 0}
    stop = threading.Event()
    lock = threading.Lock()

    def work(flow: str) -> None:
        while not stop.is_set():
            limiter.take(1, flow)
            with lock:
                counts[flow] += 1
                if sum(counts.values()) >= 600:
                    stop.set()

    threads = [threading.Thread(target=work, args=("many",)) for _ in range(8)]
    threads.append(threading.Thread(target=work, args=("one",)))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads)
    assert counts["one"] > sum(counts.values()) / 9 * 1.5, f"far more than one thread of nine would get: {counts}"


def test_an_interrupted_leader_leaves_the_others_running() -> None:
    class Interrupting(FakeClock):
        def __init__(self) -> None:
            super().__init__()
            self.asleep = threading.Event()
            self.go = threading.Event()
            self.interrupt = True

        def sleep(self, seconds: float) -> None:
            if self.interrupt:
                self.interrupt = False
                self.asleep.set()
                assert self.go.wait(30)
                raise KeyboardInterrupt
            super().sleep(seconds)

    clock = Interrupting()
    limiter = FairLimiter(10, burst=1, clock=clock)
    limiter.take(100)
    interrupted: list[BaseException] = []

    def lead() -> None:
        try:
            limiter.take(1, "a")
        except KeyboardInterrupt as error:
            interrupted.append(error)

    first = threading.Thread(target=lead)
    first.start()
    assert clock.asleep.wait(30)
    second = threading.Thread(target=limiter.take, args=(1, "b"))
    second.start()
    deadline = time.monotonic() + 30
    while len(limiter._queue) != 2 and time.monotonic() < deadline:
        time.sleep(0.001)
    clock.go.set()
    first.join(30)
    second.join(30)
    assert interrupted
    assert not second.is_alive()
