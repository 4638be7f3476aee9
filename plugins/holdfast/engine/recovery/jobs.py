"""The job of a run in an epoch, and how it stands."""

from __future__ import annotations

from holdfast.engine.compute.interface import JobHandle, JobSpec, JobStatus, TrainingBackend
from holdfast.engine.recovery.interface import Rooms


def find_job(backend: TrainingBackend, site: str, run: str, epoch: int) -> JobHandle | None:
    """The job of a run in an epoch at a site, when this backend knows one. Nothing is started."""
    return backend.find(JobSpec(run, epoch, site, ()).name)


def job_status(rooms: Rooms, site: str, run: str, epoch: int) -> JobStatus | None:
    """Where that job stands; ``None`` when none is known."""
    backend = rooms.backend(site)
    handle = find_job(backend, site, run, epoch)
    return None if handle is None else backend.status(handle)
