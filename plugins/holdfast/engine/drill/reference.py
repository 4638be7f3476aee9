"""The reference: the same run, never interrupted, in a process of its own that writes to a scratch folder only."""

from __future__ import annotations

import re
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Event
from typing import Any

from holdfast.engine.compute import job_spec
from holdfast.engine.compute.interface import ENDED, JobHandle, JobSpec, JobState, JobStatus, TrainingBackend
from holdfast.engine.config import Topology
from holdfast.engine.config.models import NoCapacityPolicy
from holdfast.engine.drill.errors import ReferenceFailed
from holdfast.engine.drill.log import DrillState
from holdfast.engine.objectstore import local_store
from holdfast.engine.recovery.expected import model_files
from holdfast.engine.snapshot import latest

_LOOK_SECONDS = 0.2
_PATIENCE_SECONDS = 180.0
_RUN = re.compile(r"reference-\d{8}T\d{6}Z-[0-9a-f]{6,}-(?P<job>.+?)(\.\d+)?")


@dataclass(frozen=True)
class Reference:
    """What the uninterrupted run ended with."""

    model_digest: str
    files: dict[str, bytes]
    seconds: float


def job_of_reference(topology: Topology, run: str) -> str | None:
    """The job of the topology that a reference run trained once more; ``None``: it is no reference run of one.

    Its model stays in a scratch folder, but its machine's backend keeps a few files of the job in the site's bucket.
    """
    match = _RUN.fullmatch(run)
    return match["job"] if match is not None and match["job"] in topology.training else None


def run_references(state: DrillState, given_up: Event | None = None) -> dict[str, Reference]:
    """Train each of the drill's resumed runs once more from its first step, without pauses, one after another.

    It reads the dataset from the new site and writes neither buckets nor register.

    Args:
        given_up: set when nobody wants it any more; it is then stopped.

    Returns:
        the finished model by run; a job of which no run was resumed has none.

    Raises:
        ReferenceFailed: it did not end well.
    """
    found: dict[str, Reference] = {}
    for job in state.evidence("resume_training").get("jobs", []):
        if job["run"] is not None and not _goes_on_without(job):
            with tempfile.TemporaryDirectory(prefix="holdfast-reference-") as folder:
                found[job["run"]] = _train(state, job, len(found) + 1, Path(folder), given_up or Event())
    return found


def _goes_on_without(job: dict[str, Any]) -> bool:
    """Whether the group went on without this training: there is no model to compare, and perhaps no machine."""
    return (job.get("degraded") or {}).get("policy") == NoCapacityPolicy.GO_ON


def _train(state: DrillState, job: dict[str, Any], number: int, folder: Path, given_up: Event) -> Reference:
    clock, plan = state.rooms.clock, state.plan
    began = clock.monotonic()
    backend = state.rooms.backend(plan.target)
    handle = backend.submit(_spec(state, job, number, folder))
    try:
        status = _ended(state, backend, handle, given_up)
    except BaseException:
        backend.stop(handle, grace_seconds=0.5)
        raise
    if status.state is not JobState.SUCCEEDED:
        raise ReferenceFailed(
            "the reference run did not end well",
            where=handle.name,
            expected=str(JobState.SUCCEEDED),
            found=f"{status.state}: {status.detail}",
            fix="Read the job's log",
        )
    store = local_store("reference", folder)
    record = latest(store, state.rooms.topology.job(job["job"]).model, epoch=1)
    if record is None or "model_digest" not in record.labels:
        raise ReferenceFailed(
            "the reference run published no model",
            where=handle.name,
            expected="a model with its digest",
            found="none" if record is None else str(record.labels),
        )
    return Reference(record.labels["model_digest"], model_files(store, record), round(clock.monotonic() - began, 3))


def _spec(state: DrillState, job: dict[str, Any], number: int, folder: Path) -> JobSpec:
    # Of several runs of a job each has a reference of its own: by one name the second would only find the first.
    spec = job_spec(
        state.rooms.topology,
        state.plan.group,
        job["job"],
        run=f"reference-{state.drill_id}-{job['job']}" + (f".{number}" if number > 1 else ""),
        epoch=1,
        site=state.plan.target,
        dataset_snapshot=job.get("dataset_snapshot"),
        environ=state.rooms.environ,
    )
    return replace(
        spec, environment={**spec.environment, "HOLDFAST_SCRATCH": str(folder), "HOLDFAST_STEP_SECONDS": "0"}
    )


def _ended(state: DrillState, backend: TrainingBackend, handle: JobHandle, given_up: Event) -> JobStatus:
    clock = state.rooms.clock
    until = clock.monotonic() + _PATIENCE_SECONDS
    while (status := backend.status(handle)).state not in ENDED:
        if given_up.is_set() or clock.monotonic() >= until:
            raise ReferenceFailed(
                "the reference run did not end in the time allowed",
                where=handle.name,
                expected=f"its end within {_PATIENCE_SECONDS:.0f} s",
                found=f"{status.state} at step {status.step}",
            )
        clock.sleep(_LOOK_SECONDS)
    return status
