"""What was seen of a site, from where, and what follows from it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Protocol


class Signal(StrEnum):
    """The kinds of signal. A verdict of down needs two independent ones."""

    OBJECT_STORE = "object_store"
    SERVICE = "service"
    HEARTBEAT = "heartbeat"


@dataclass(frozen=True, slots=True)
class Observation:
    """One look at one signal of one site from one vantage point.

    ``ok`` is ``None`` when the vantage point itself could not look: "cannot reach" is not "dead".
    """

    site: str
    vantage: str
    signal: Signal
    ok: bool | None
    observed_at: datetime
    latency_seconds: float | None = None
    detail: str | None = None


class Probe(Protocol):
    """Looks once, within its own timeout, and never raises for what it finds."""

    def observe(self) -> Observation: ...


class Verdict(StrEnum):
    HEALTHY = "healthy"
    SUSPECT = "suspect"
    DOWN = "down"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class SiteVerdict:
    """The verdict on a site, with the reasons an auditor can follow."""

    site: str
    verdict: Verdict
    since: datetime
    reasons: tuple[str, ...]
    observations: tuple[Observation, ...] = ()
