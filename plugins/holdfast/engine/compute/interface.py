"""Where a training job runs: the same few verbs for a process, Kubernetes or a managed service."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Protocol

from holdfast.errors import HoldfastError


class ComputeError(HoldfastError):
    """Base of the errors of this package."""


class JobState(StrEnum):
    PENDING = "pending"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    #: It stopped by itself because its epoch is over (exit code FENCED_EXIT_CODE).
    FENCED = "fenced"
    #: It checkpointed and left because it was asked to (exit code STOPPED_EXIT_CODE).
    STOPPED = "stopped"
    #: Its handle names nothing that runs and nothing that ended properly: it was killed.
    LOST = "lost"


#: How a training process says how it ended.
FENCED_EXIT_CODE = 76
STOPPED_EXIT_CODE = 75


@dataclass(frozen=True, slots=True)
class JobSpec:
    """One training run in one epoch at one site. ``name`` is deterministic: run and epoch.

    ``environment`` is the contract every backend hands to the process: ``HOLDFAST_TOPOLOGY``, ``HOLDFAST_SITE``,
    ``HOLDFAST_GROUP``, ``HOLDFAST_JOB``, ``HOLDFAST_RUN``, ``HOLDFAST_EPOCH``, ``HOLDFAST_DATASET_SNAPSHOT`` and,
    set by the backend, ``HOLDFAST_HEARTBEAT`` (a file). Where to resume is in ``runs/<run>/epochs/<epoch>.json``.
    """

    run: str
    epoch: int
    site: str
    command: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return f"{self.run}.e{self.epoch}"


@dataclass(frozen=True, slots=True)
class JobHandle:
    """Enough to find the job again from another process: JSON-able, no live objects."""

    backend: str
    site: str
    name: str
    reference: Mapping[str, str | int | float]


@dataclass(frozen=True, slots=True)
class JobStatus:
    state: JobState
    step: int | None = None
    total_steps: int | None = None
    heartbeat_at: datetime | None = None
    detail: str | None = None


@dataclass(frozen=True, slots=True)
class BackendCapabilities:
    kind: str
    preemption_notice_seconds: float | None
    can_request_checkpoint: bool


class TrainingBackend(Protocol):
    def submit(self, spec: JobSpec) -> JobHandle:
        """Start the job, or reattach when a job of this name runs or ended well: never two writers."""

    def find(self, name: str) -> JobHandle | None:
        """The newest attempt of the job of this name (`JobSpec.name`), ``None`` when there is none. Starts nothing."""

    def status(self, handle: JobHandle) -> JobStatus: ...

    def request_checkpoint(self, handle: JobHandle) -> None:
        """Ask it to checkpoint at the next step; a bonus, never the plan."""

    def stop(self, handle: JobHandle, *, grace_seconds: float) -> JobStatus:
        """Ask it to checkpoint and leave; kill it when the grace is over."""

    def confirm_dead(self, handle: JobHandle) -> bool:
        """True only when it is known that the job cannot write any more."""

    def capabilities(self) -> BackendCapabilities: ...
