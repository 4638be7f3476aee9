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
from holdfast.engine.compute.process import ProcessBackend
from holdfast.engine.compute.spec import job_spec

__all__ = [
    "ENDED",
    "FENCED_EXIT_CODE",
    "FINAL",
    "STOPPED_EXIT_CODE",
    "AlreadyRuns",
    "BackendCapabilities",
    "ComputeError",
    "ComputeRefused",
    "ComputeUnavailable",
    "JobHandle",
    "JobNotStarted",
    "JobSpec",
    "JobState",
    "JobStatus",
    "NoCapacity",
    "ProcessBackend",
    "TrainingBackend",
    "UnknownHandle",
    "job_spec",
    "open_backend",
]
