"""How long one request to a store may take."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Limits of one request.

    Args:
        connect_seconds: to open the connection.
        request_seconds: from connecting to the last byte of the answer, for a request without a body to speak of.
        minimum_bytes_per_second: a request that carries N bytes may take ``N / minimum_bytes_per_second`` longer.
    """

    connect_seconds: float = 2.0
    request_seconds: float = 10.0
    minimum_bytes_per_second: int = 1024 * 1024

    def for_bytes(self, size_bytes: int) -> float:
        """Seconds a request with so many bytes may take, in powers of two so that clients can be shared."""
        seconds = size_bytes / self.minimum_bytes_per_second
        if seconds <= 1:
            return self.request_seconds
        step = 1
        while step < seconds:
            step *= 2
        return self.request_seconds + step
