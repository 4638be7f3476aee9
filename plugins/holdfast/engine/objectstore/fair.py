"""Shares of something scarce, fair between flows: a protection group's requests, its bytes, its places in flight.

Limits hold within one process. Two processes that use the same site each have the whole limit; give each its part.
"""

from __future__ import annotations

import heapq
import threading
from typing import Generic, TypeVar

from holdfast.clock import Clock

_T = TypeVar("_T")
_MOST_REMEMBERED = 256


class FairQueue(Generic[_T]):
    """Start-time fair queueing (Goyal, Vin, Cheng: SIGCOMM 1996). Not safe among threads by itself.

    Every item gets a start tag: the virtual time now, or the end of what its flow already has waiting. The lowest goes
    first, and virtual time is the tag of the last that went. So a flow gets an equal share by cost as long as it wants
    it, what it leaves is the others', and an item waits for at most one item of every other flow plus its own before.
    """

    def __init__(self) -> None:
        self._virtual = 0.0
        self._number = 0
        self._finish: dict[str, float] = {}
        self._waiting: list[tuple[float, int, float, _T]] = []

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, flow: str, cost: float, item: _T) -> None:
        """Let an item wait."""
        self._number += 1
        heapq.heappush(self._waiting, (self._charge(flow, cost), self._number, cost, item))

    def served(self, flow: str, cost: float) -> None:
        """An item went without waiting, because nothing was scarce: what went before is forgotten."""
        self._finish.clear()
        self._charge(flow, cost)

    def pop(self) -> tuple[_T, float]:
        """The next item and its cost."""
        start, _, cost, item = heapq.heappop(self._waiting)
        self._virtual = max(self._virtual, start)
        if len(self._finish) > _MOST_REMEMBERED:
            self._finish = {flow: end for flow, end in self._finish.items() if end > self._virtual}
        return item, cost

    def head(self) -> _T | None:
        """The next item, left in place."""
        return self._waiting[0][3] if self._waiting else None

    def remove(self, item: _T) -> None:
        """Take an item out, if it still waits. Its share stays charged."""
        self._waiting = [entry for entry in self._waiting if entry[3] is not item]
        heapq.heapify(self._waiting)

    def _charge(self, flow: str, cost: float) -> float:
        start = max(self._virtual, self._finish.get(flow, 0.0))
        self._finish[flow] = start + cost
        return start


class Turn:
    """One thread that waits for its turn."""

    __slots__ = ("event", "granted", "leads", "ticket")

    def __init__(self) -> None:
        self.event = threading.Event()
        self.granted = False
        self.leads = False
        self.ticket = 0


class FairLimiter:
    """So many tokens per second, shared fairly between flows.

    A call may take more tokens than there are; the debt is waited out by whoever comes next. At most a burst of unused
    tokens is kept. Of the waiting threads one (the leader) sleeps until there are tokens and hands them out; the
    others wait for it.

    Args:
        per_second: tokens that flow in.
        burst: tokens that can be saved; by default one second's.
        clock: measures and waits.
    """

    def __init__(self, per_second: float, *, burst: float | None = None, clock: Clock) -> None:
        if per_second <= 0:
            raise ValueError(f"expected more than 0 per second; found {per_second}")
        self._per_second = per_second
        self._burst = per_second if burst is None else burst
        self._clock = clock
        self._lock = threading.Lock()
        self._queue: FairQueue[Turn] = FairQueue()
        self._led = False
        self._tokens = self._burst
        self._at = clock.monotonic()

    def take(self, tokens: float, flow: str = "") -> None:
        """Wait for the flow's turn and take tokens."""
        with self._lock:
            self._refill()
            if not self._queue and self._tokens >= 0:
                self._queue.served(flow, tokens)
                self._tokens -= tokens
                return
            turn = Turn()
            self._queue.add(flow, tokens, turn)
            turn.leads, self._led = not self._led, True
        try:
            if not turn.leads:
                turn.event.wait()
            if not turn.granted:
                self._lead(turn)
        finally:
            self._leave(turn)

    def _lead(self, turn: Turn) -> None:
        while True:
            with self._lock:
                self._refill()
                while self._queue and self._tokens >= 0:
                    other, cost = self._queue.pop()
                    self._tokens -= cost
                    other.granted = True
                    other.event.set()
                if turn.granted:
                    return
                wait_seconds = -self._tokens / self._per_second
            self._clock.sleep(wait_seconds + 1e-6)

    def _leave(self, turn: Turn) -> None:
        """Granted or interrupted: somebody else must lead those who still wait."""
        with self._lock:
            if not turn.granted:
                self._queue.remove(turn)
            if not turn.leads:
                return
            following = self._queue.head()
            if following is None:
                self._led = False
                return
            following.leads = True
            following.event.set()

    def _refill(self) -> None:
        now = self._clock.monotonic()
        self._tokens = min(self._burst, self._tokens + (now - self._at) * self._per_second)
        self._at = now
