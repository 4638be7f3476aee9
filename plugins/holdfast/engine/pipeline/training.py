"""Training at the active site: start a job once, find it again, and say what became of it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from holdfast.engine.checkpoint import begin_run, elect
from holdfast.engine.compute import JobHandle, JobState, JobStatus, job_spec
from holdfast.engine.objectstore.interface import ObjectStore
from holdfast.engine.pipeline.active import require_active
from holdfast.engine.recovery.subjects import base_run
from holdfast.engine.runtime import Runtime
from holdfast.engine.snapshot import latest
from holdfast.errors import ConfigError, HoldfastError


class TrainingLost(HoldfastError):
    """The job ended without a result: it was fenced, stopped or killed. Its checkpoints are there; start it again."""

    transient = True


class TrainingFailed(HoldfastError):
    """The job itself failed; starting it again runs into the same."""


@dataclass(frozen=True, slots=True)
class StartedJob:
    """A training job that runs, or ran, and where to find it."""

    run: str
    epoch: int
    site: str
    dataset_snapshot: str
    handle: JobHandle


def start_training(runtime: Runtime, group: str, job: str, *, run: str) -> StartedJob:
    """Start a run of a training job at the group's active site, or find it there: never two writers.

    A run that a failover took to another site is found under its new epoch, where the plan resumed it.

    Raises:
        UnknownName, GroupNotInitialised, NoMajority: see `require_active`.
        ConfigError: the job's dataset has no snapshot yet.
        EpochUnknownHere: the group failed over and its plan has not said yet what the run resumes from; ask again.
    """
    settings = runtime.topology.job(job)
    state = require_active(runtime, group)
    store = runtime.store(state.active_site)
    begin_run(
        store,
        run,
        epoch=state.epoch,
        site=state.active_site,
        plan_id=state.plan_id or "none",
        holder=runtime.holder,
        clock=runtime.clock,
    )
    data = _trained_on(store, run, settings.dataset, state.epoch)
    spec = job_spec(
        runtime.topology,
        group,
        job,
        run=run,
        epoch=state.epoch,
        site=state.active_site,
        dataset_snapshot=data,
        environ=runtime.environ,
    )
    handle = runtime.backend(state.active_site).submit(spec)
    return StartedJob(run, state.epoch, state.active_site, data, handle)


def _trained_on(store: ObjectStore, run: str, dataset: str, epoch: int) -> str:
    """The snapshot a run goes on with: what its newest checkpoint was trained on, for a new run the newest there is."""
    election = elect(store, run, epoch=epoch)
    if election.manifest is not None and election.manifest.dataset_snapshot is not None:
        return election.manifest.dataset_snapshot
    newest = latest(store, dataset, epoch=epoch)
    if newest is None:
        raise ConfigError(
            "there is nothing to train on",
            where=f"{store.name}: dataset {dataset}",
            expected="a published snapshot",
            found="none",
            fix="Run the DAG replicate_datasets first",
        )
    return newest.snapshot_id


def training_outcome(runtime: Runtime, group: str, job: str, *, run: str, status: JobStatus) -> dict[str, str | int]:
    """What a finished run published.

    Raises:
        TrainingLost: it ended without a result, and may be started again.
        TrainingFailed: it failed.
    """
    facts = {
        "where": f"run {run}",
        "expected": "a job that ends well",
        "found": f"{status.state}: {status.detail or 'no detail'}",
    }
    if status.state is JobState.FAILED:
        raise TrainingFailed("the training job failed", fix="Read the job's log", **facts)
    if status.state is not JobState.SUCCEEDED:
        raise TrainingLost("the training job ended without a result", **facts)
    model = runtime.topology.job(job).model
    state = require_active(runtime, group)
    record = latest(runtime.store(state.active_site), model, epoch=state.epoch)
    if record is None or record.labels.get("run") != run:
        raise TrainingLost(
            "the run published no model at the active site",
            where=f"run {run}",
            expected=f"a snapshot of {model} labelled with this run",
            found="none" if record is None else f"one of run {record.labels.get('run')}",
        )
    return {
        "run": run,
        "epoch": state.epoch,
        "site": state.active_site,
        "model": model,
        "snapshot_id": record.snapshot_id,
        "step": int(record.labels.get("step", 0)),
        "model_digest": record.labels.get("model_digest", ""),
    }


def run_name(group: str, job: str, started_at: datetime) -> str:
    """The name of a run by when it was asked for: a job's newest run is the last in order of names."""
    return f"{base_run(group, job)}.{started_at.astimezone(UTC):%Y%m%dT%H%M%S%f}"
