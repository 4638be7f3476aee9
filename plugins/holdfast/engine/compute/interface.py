"""Where a training job runs: the same few verbs for a process, Kubernetes or a managed service."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Protocol

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
    #: Its machine was taken away after a notice: spare capacity, or an eviction.
    PREEMPTED = "preempted"
    #: It never ran: the service had no machine of this kind.
    NO_CAPACITY = "no-capacity"


#: States after which a job does nothing any more.
ENDED = frozenset(JobState) - {JobState.PENDING, JobState.RUNNING}
#: States after which no other attempt is started but by who knows of them: the job is done, or its epoch is over.
FINAL = frozenset({JobState.SUCCEEDED, JobState.FENCED})


#: How a training process says how it ended.
FENCED_EXIT_CODE = 76
STOPPED_EXIT_CODE = 75


@dataclass(frozen=True, slots=True)
class JobSpec:
    """One training run in one epoch at one site. ``name`` is deterministic: run and epoch.

    ``environment`` is the contract every backend hands to the process: ``HOLDFAST_TOPOLOGY``, ``HOLDFAST_SITE``,
    ``HOLDFAST_GROUP``, ``HOLDFAST_JOB``, ``HOLDFAST_RUN``, ``HOLDFAST_EPOCH``, ``HOLDFAST_DATASET_SNAPSHOT`` and,
    set by the backend, ``HOLDFAST_HEARTBEAT``: a file, or ``object:<key>`` for an object in the site's bucket (see
    `remote`). ``HOLDFAST_RESUME_FROM`` is the digest of the checkpoint that was elected when the attempt was
    written down; not set where there is none. The process elects for itself, and tells where it differs.

    Args:
        machine: machine or instance type; None: what the site's compute names.
        spot: run on capacity that may be taken away.
        after: the newest attempt, by its handle's number, that the submitter knows to have ended; 0: none. An attempt
            with a higher number is the one it means, and is found however it ended: what ended meanwhile is for the
            submitter to judge, not to start again unseen. None: whatever ended unfinished is followed by another.
    """

    run: str
    epoch: int
    site: str
    command: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    machine: str | None = None
    spot: bool = False
    after: int | None = None

    @property
    def name(self) -> str:
        return f"{self.run}.e{self.epoch}"

    def means(self, attempt: int) -> bool:
        """Whether the attempt of this number is what the submitter wants to be found, however it ended."""
        return self.after is not None and attempt > self.after

    def finds(self, attempt: int, state: JobState) -> bool:
        """Whether `submit` returns the newest attempt, of this number and state, instead of starting another one.

        One that is done for good is followed only where the submitter knows how it ended, and asks for another.
        """
        if state not in ENDED or self.means(attempt):
            return True
        return state in FINAL and not (self.after is not None and 0 < attempt <= self.after)


@dataclass(frozen=True, slots=True)
class JobHandle:
    """Enough to find the job again from another process: JSON-able, no live objects.

    ``reference`` has the number of the attempt, ``attempt``: a later attempt of the job has a higher one.
    """

    backend: str
    site: str
    name: str
    reference: Mapping[str, str | int | float]

    @property
    def attempt(self) -> int:
        """The attempt's number; 0 where the backend gives none."""
        return int(self.reference.get("attempt", 0))


@dataclass(frozen=True, slots=True)
class JobStatus:
    state: JobState
    step: int | None = None
    total_steps: int | None = None
    heartbeat_at: datetime | None = None
    detail: str | None = None


@dataclass(frozen=True, slots=True)
class BackendCapabilities:
    """What a backend can do.

    Args:
        preemption_notice_seconds: how long before it is taken a spot machine is told; None: it is not, or no spot.
        spot: whether `JobSpec.spot` means something here.
        region: where its jobs run, as the provider names it; None: on the machine that asks.
    """

    kind: str
    preemption_notice_seconds: float | None
    can_request_checkpoint: bool
    spot: bool = False
    region: str | None = None


class TrainingBackend(Protocol):
    def submit(self, spec: JobSpec) -> JobHandle:
        """Start the job, or reattach when a job of this name runs, ended well, or is the one that is meant.

        Never two writers: see `JobSpec.finds`.

        Raises:
            NoCapacity: the service has no such machine now; nothing was started.
            JobNotStarted: the service refuses the job; trying again does not help.
            ComputeUnavailable: the service does not answer; whether the job was started is found out by asking again.
        """

    def find(self, name: str) -> JobHandle | None:
        """The newest attempt of the job of this name (`JobSpec.name`), ``None`` when there is none. Starts nothing."""

    def status(self, handle: JobHandle) -> JobStatus:
        """How the attempt of this handle stands. Raises UnknownHandle, ComputeUnavailable."""

    def request_checkpoint(self, handle: JobHandle) -> None:
        """Ask it to checkpoint at the next step; a bonus, never the plan."""

    def stop(self, handle: JobHandle, *, grace_seconds: float) -> JobStatus:
        """Ask it to checkpoint and leave; kill it when the grace is over."""

    def confirm_dead(self, handle: JobHandle) -> bool:
        """True only when it is known that the job cannot write any more."""

    def capabilities(self) -> BackendCapabilities: ...

    def log(self, handle: JobHandle, *, last_bytes: int = 8192) -> str:
        """The end of the job's output, as far as this backend can read it."""

    def heartbeat(self, handle: JobHandle) -> dict[str, Any] | None:
        """The job's heartbeat as it wrote it (docs/formats/checkpoint.md), ``None`` before its first."""

    def links(self, handle: JobHandle) -> Mapping[str, str]:
        """Where a person looks at the job: ``{"console": url, "logs": url}``, whichever there are."""
