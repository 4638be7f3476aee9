"""How many requests may be in flight: as many as the store bears."""

from __future__ import annotations

import threading

from holdfast.engine.objectstore.fair import FairQueue, Turn


class AdaptiveConcurrency:
    """Additive increase, multiplicative decrease (Chiu, Jain 1989), as TCP does it.

    It begins at the most. Every window of successes allows one request more; an answer "slower, please" halves the
    number. Only requests begun after the last halving halve again: a burst of refusals is one sign, not fifty. Threads
    that wait for a place get it fairly by flow.

    Args:
        most: requests in flight at most.
        least: never fewer.
        decrease: what is left of the number after a refusal.
    """

    def __init__(self, most: int, *, least: int = 1, decrease: float = 0.5) -> None:
        if not 1 <= least <= most or not 0 < decrease < 1:
            raise ValueError(f"expected 1 <= least <= most and 0 < decrease < 1; found {least}, {most}, {decrease}")
        self._most = most
        self._least = least
        self._decrease = decrease
        self._lock = threading.Lock()
        self._queue: FairQueue[Turn] = FairQueue()
        self._limit = float(most)
        self._in_flight = 0
        self._round = 0

    @property
    def limit(self) -> int:
        """Requests that may be in flight now."""
        return int(self._limit)

    @property
    def in_flight(self) -> int:
        """Requests that are in flight now."""
        return self._in_flight

    def try_acquire(self, flow: str = "") -> int | None:
        """A place, if one is free and nobody waits for it. Gives the ticket to release it with."""
        with self._lock:
            if self._in_flight >= int(self._limit) or self._queue:
                return None
            self._queue.served(flow, 1)
            self._in_flight += 1
            return self._round

    def acquire(self, flow: str = "") -> int:
        """Wait for a place. Gives the ticket to release it with."""
        with self._lock:
            if self._in_flight < int(self._limit) and not self._queue:
                self._queue.served(flow, 1)
                self._in_flight += 1
                return self._round
            turn = Turn()
            self._queue.add(flow, 1, turn)
        try:
            turn.event.wait()
        except BaseException:
            with self._lock:
                if turn.granted:
                    self._in_flight -= 1
                    self._grant()
                else:
                    self._queue.remove(turn)
            raise
        return turn.ticket

    def release(self, ticket: int, *, throttled: bool | None = False) -> None:
        """Give the place back.

        Args:
            ticket: from `acquire`.
            throttled: the store asked for fewer requests; ``None``: the request failed in another way, which says
                nothing about what the store bears.
        """
        with self._lock:
            self._in_flight -= 1
            if throttled:
                self._cut(ticket)
            elif throttled is not None and self._limit < self._most:
                self._limit = min(float(self._most), self._limit + 1 / self._limit)
            if self._queue:
                self._grant()

    def throttled(self) -> None:
        """A request that held no place was asked for fewer."""
        with self._lock:
            self._cut(self._round)

    def _cut(self, ticket: int) -> None:
        if ticket == self._round:
            self._round += 1
            self._limit = max(float(self._least), self._limit * self._decrease)

    def _grant(self) -> None:
        while self._queue and self._in_flight < int(self._limit):
            turn, _ = self._queue.pop()
            self._in_flight += 1
            turn.granted, turn.ticket = True, self._round
            turn.event.set()
