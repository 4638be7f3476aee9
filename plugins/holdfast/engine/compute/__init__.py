"""Where training jobs run: one small interface; processes on this machine are the default."""

from holdfast.engine.compute.errors import (
    AlreadyRuns,
    ComputeRefused,
    ComputeUnavailable,
    JobNotStarted,
    NoCapacity,
    UnknownHandle,
)
from holdfast.engine.compute.interface import (
    ENDED,
    FENCED_EXIT_CODE,
    FINAL,
    STOPPED_EXIT_CODE,
    BackendCapabilities,
    ComputeError,
    JobHandle,
    JobSpec,
    JobState,
    JobStatus,
    TrainingBackend,
)
from holdfast.engine.compute.opening import open_backend
from holdfast.engine.compute.placement import (
    Counts,
    Decision,
    Degraded,
    GiveUp,
    RunAt,
    allowed_placements,
    check_recovery,
    next_placement,
)
from holdfast.engine.compute.process import ProcessBackend
from holdfast.engine.compute.recovery_strategies import Attempt, RecoveryStrategy, recovery_strategy, register_recovery
from holdfast.engine.compute.spec import job_spec

__all__ = [
    "ENDED",
    "FENCED_EXIT_CODE",
    "FINAL",
    "STOPPED_EXIT_CODE",
    "AlreadyRuns",
    "Attempt",
    "BackendCapabilities",
    "ComputeError",
    "ComputeRefused",
    "ComputeUnavailable",
    "Counts",
    "Decision",
    "Degraded",
    "GiveUp",
    "JobHandle",
    "JobNotStarted",
    "JobSpec",
    "JobState",
    "JobStatus",
    "NoCapacity",
    "ProcessBackend",
    "RecoveryStrategy",
    "RunAt",
    "TrainingBackend",
    "UnknownHandle",
    "allowed_placements",
    "check_recovery",
    "job_spec",
    "next_placement",
    "open_backend",
    "recovery_strategy",
    "register_recovery",
]
