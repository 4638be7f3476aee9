"""What a step is given: the plan, the rooms, the records before it, and what this process remembers."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from threading import Event
from typing import Any, Protocol, TypeVar

from holdfast.engine.config import Group
from holdfast.engine.objectstore.interface import ObjectStore
from holdfast.engine.recovery.errors import GateClosed
from holdfast.engine.recovery.interface import Evidence, Progress, ProgressSink, Rooms, Senses
from holdfast.engine.recovery.journal import StepRecord
from holdfast.engine.recovery.plan import Plan

T = TypeVar("T")


@dataclass
class Scratch:
    """What this process remembers between steps. It only saves time: a plan resumed without it ends the same."""

    #: Monotonic seconds at which this process knew the epoch to be committed.
    committed_at: float | None = None
    futures: dict[str, Future[Any]] = field(default_factory=dict)


@dataclass
class StepContext:
    """The world of one run of a plan."""

    rooms: Rooms
    plan: Plan
    senses: Senses
    pool: ThreadPoolExecutor
    progress: ProgressSink
    records: dict[str, StepRecord]
    approved_by: str | None = None
    scratch: Scratch = field(default_factory=Scratch)
    #: Set when this run ends: nothing begun on its threads may keep it waiting, least of all a fault to be lifted.
    given_up: Event = field(default_factory=Event)

    @property
    def group(self) -> Group:
        return self.rooms.topology.group(self.plan.group)

    @property
    def target(self) -> ObjectStore:
        return self.rooms.store(self.plan.target)

    def evidence(self, step: str) -> Evidence:
        """What an earlier step found. Raises GateClosed when it is not recorded."""
        if step not in self.records:
            raise GateClosed(
                f"the step {step} is not done",
                where=f"plan {self.plan.plan_id}",
                expected="its record",
                found="none",
                fix=f"Run {step} first",
            )
        return self.records[step].evidence

    def ahead(self, name: str, work: Callable[[], T]) -> None:
        """Begin work that a later step will want, unless it was begun."""
        if name not in self.scratch.futures:
            self.scratch.futures[name] = self.pool.submit(work)

    def wanted(self, name: str, work: Callable[[], T]) -> T:
        """The result of work begun ahead; done now when it was not begun or failed."""
        begun = self.scratch.futures.pop(name, None)
        if begun is not None:
            try:
                result: T = begun.result()
                return result
            except Exception as error:
                self.say("ahead", "failed", detail=f"{name}: {error}")
        return work()

    def say(self, step: str, phase: str, *, seconds: float | None = None, detail: str | None = None) -> None:
        self.progress(Progress(step, phase, seconds, detail))


class Step(Protocol):
    """One step: it may be run again at any time and ends the same."""

    name: str

    def gate(self, context: StepContext) -> None:
        """What must hold before it. Raises GateClosed."""

    def run(self, context: StepContext) -> Evidence:
        """Do it; what it returns goes into its record."""
