"""Where a service's clients go: one record per service, which names the site and the epoch that put it there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from holdfast.errors import HoldfastError, Refused


class TrafficError(HoldfastError):
    """Base of the errors of this package."""


class TrafficUnavailable(TrafficError):
    """The provider's control plane did not answer."""

    transient = True


class StaleTrafficEpoch(Refused, TrafficError):
    """The record was set in a newer epoch than the caller's; the old writer is fenced."""


@dataclass(frozen=True, slots=True)
class TrafficState:
    """What the provider's API holds: the site traffic goes to, the epoch that set it and the record's values."""

    site: str | None
    epoch: int
    values: tuple[str, ...]
    ttl_seconds: int


class TrafficRecord(Protocol):
    """The record of one service at one provider."""

    def read(self) -> TrafficState | None:
        """The record as the provider's API holds it; ``None`` when it was never created."""

    def switch(self, site: str, *, epoch: int) -> TrafficState:
        """Point the record at ``site``; a compare-and-swap on what was read, idempotent on (site, epoch).

        Raises:
            StaleTrafficEpoch: the record carries a newer epoch.
            TrafficUnavailable: no answer within the budget.
        """
