"""How long one request to a store may take."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache


@dataclass(frozen=True, slots=True)
class RequestLimits:
    """The limits of one kind of request, as a client takes them.

    Args:
        connect_seconds: to open the connection.
        silence_seconds: without a byte of the answer; ``None``: only the total counts.
        total_seconds: from connecting to the last byte of the answer.
    """

    connect_seconds: float
    silence_seconds: float | None
    total_seconds: float


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Limits of one request.

    Args:
        connect_seconds: to open the connection.
        request_seconds: to the last byte of the answer when the request carries next to nothing; of a read of any
            size, to the first byte and between any two.
        minimum_bytes_per_second: a request that carries N bytes may take ``N / minimum_bytes_per_second`` longer.
    """

    connect_seconds: float = 2.0
    request_seconds: float = 10.0
    minimum_bytes_per_second: int = 4 * 1024 * 1024

    @lru_cache(maxsize=256)  # noqa: B019 - few are ever made
    def writing(self, size_bytes: int) -> RequestLimits:
        """Limits of a request that sends so many bytes."""
        return self._limits(size_bytes, None)

    @lru_cache(maxsize=256)  # noqa: B019 - few are ever made
    def reading(self, size_bytes: int) -> RequestLimits:
        """Limits of a request that may bring so many bytes."""
        return self._limits(size_bytes, self.request_seconds)

    def _limits(self, size_bytes: int, silence_seconds: float | None) -> RequestLimits:
        more = _power_of_two(size_bytes / self.minimum_bytes_per_second)
        connect_seconds = min(self.connect_seconds, self.request_seconds)
        return RequestLimits(connect_seconds, silence_seconds if more else None, self.request_seconds + more)


def _power_of_two(seconds: float) -> int:
    """Rounded up, so that requests of many sizes share few clients; a quarter of a second and less is nothing."""
    if seconds <= 0.25:
        return 0
    step = 1
    while step < seconds:
        step *= 2
    return step
