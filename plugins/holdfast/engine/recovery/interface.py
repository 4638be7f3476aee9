"""What recovery needs of the world, and what it tells the one who watches.

`holdfast.engine.runtime.Runtime` is the `Rooms` of a real run; tests give their own with stores in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from holdfast.clock import Clock
from holdfast.engine.authority.interface import EpochStore
from holdfast.engine.compute.interface import TrainingBackend
from holdfast.engine.config import Topology
from holdfast.engine.health.interface import SiteVerdict
from holdfast.engine.objectstore.interface import ObjectStore
from holdfast.engine.traffic.interface import TrafficRecord


class Rooms(Protocol):
    """The engine objects of one topology."""

    @property
    def topology(self) -> Topology: ...
    @property
    def clock(self) -> Clock: ...
    @property
    def holder(self) -> str: ...
    @property
    def environ(self) -> Mapping[str, str]: ...

    def store(self, site: str) -> ObjectStore: ...
    def authority(self, group: str) -> EpochStore: ...
    def traffic(self, service: str) -> TrafficRecord: ...
    def backend(self, site: str) -> TrainingBackend: ...


@dataclass(frozen=True, slots=True)
class Answer:
    """What a client got that resolved the service's name and asked it the golden set."""

    site: str | None
    epoch: int | None
    model: str | None
    predictions: tuple[float, ...] | None
    address: str | None
    seconds: float
    refused: str | None = None


class Senses(Protocol):
    """How a plan looks at the world outside the object stores."""

    def verdict(self, rooms: Rooms, group: str, site: str, *, deadline_seconds: float) -> SiteVerdict:
        """Watch a site until the rules call it down, or until the deadline."""

    def ask(self, rooms: Rooms, service: str, *, timeout_seconds: float) -> Answer:
        """Resolve the service like a client, ask it once. Never raises for what it finds."""

    def ask_site(self, rooms: Rooms, service: str, site: str, *, timeout_seconds: float) -> Answer:
        """Ask the instance at one site, past DNS."""

    def refresh(self, rooms: Rooms, service: str, site: str, *, timeout_seconds: float) -> bool:
        """Tell the site's agent to look at the register now. A bonus: agents look by themselves too."""

    def reference(self, rooms: Rooms, service: str, files: Mapping[str, bytes]) -> tuple[float, ...] | None:
        """The golden set's answers computed here from a model's files; ``None`` when they cannot be computed here."""


@dataclass(frozen=True, slots=True)
class Progress:
    """One line for the one who watches: ``phase`` is begun, done, waiting, failed or recorded."""

    step: str
    phase: str
    seconds: float | None = None
    detail: str | None = None


ProgressSink = Callable[[Progress], None]


def ignore_progress(_: Progress) -> None:
    """Nobody watches."""


Evidence = dict[str, Any]
