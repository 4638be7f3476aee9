"""Training at the active site: start a job once, find it again, and say what became of it."""

from __future__ import annotations

from holdfast.engine.authority.interface import EpochState
from holdfast.engine.checkpoint import newest
from holdfast.engine.compute import JobState, JobStatus
from holdfast.engine.compute.placement import LOST_MACHINE
from holdfast.engine.pipeline.active import require_active
from holdfast.engine.pipeline.runs import check_run_name, require_job
from holdfast.engine.recovery.placing import Say, say_nothing
from holdfast.engine.recovery.start_training import StartedJob, start_run
from holdfast.engine.runtime import Runtime
from holdfast.engine.snapshot import CommitRecord, EpochUnknownHere, iter_selectable
from holdfast.errors import HoldfastError


class TrainingLost(HoldfastError):
    """The job ended without a result: fenced, stopped, killed, preempted, or without a machine. Start it again."""

    exit_code = 7
    transient = True


class TrainingFailed(HoldfastError):
    """The job itself failed; starting it again runs into the same."""


def start_training(
    runtime: Runtime, group: str, job: str, *, run: str, again_after: int | None = None, say: Say = say_nothing
) -> StartedJob:
    """Start a run of a training job at the group's active site, or find it there: never two writers.

    A run that a failover took to another site is found under its new epoch, where the plan resumed it. One whose
    machine was lost, or that found none, gets its next attempt, as its placements and its recovery strategy say.

    Args:
        again_after, say: see `start_run`.

    Raises:
        ConfigError: the job is not the group's, or a failover would not find the run by its name, see `check_run_name`.
        UnknownName, GroupNotInitialised, NoMajority: see `require_active`.
        ConfigError, ResidencyRefused, TrainingMustWait, TrainingGivenUp, NoMachine: see `start_run`.
    """
    require_job(runtime.topology, group, job)
    check_run_name(group, job, run)
    state = require_active(runtime, group)
    return start_run(runtime, group, job, run=run, state=state, again_after=again_after, say=say)


def goes_on(runtime: Runtime, group: str, *, status: JobStatus, epoch: int | None) -> bool:
    """Whether `start_training` is to be called again after a wait: for the next attempt, or where the run went.

    Not after an end that only a person mends: the job's own failure, a stop on request, a fence in its own epoch.

    Args:
        status: the last one seen; one that did not end: the waiting for it was given up, see `JobWatch`.
        epoch: the job's own; None when it is not known.

    Raises:
        NoMajority: nobody knows which site is active; ask again.
    """
    if status.state is JobState.SUCCEEDED:
        return False
    waited_for = (JobState.PENDING, JobState.RUNNING, JobState.NO_CAPACITY)
    if status.state in LOST_MACHINE or status.state in waited_for:
        return True
    return epoch is not None and require_active(runtime, group).epoch > epoch


def training_outcome(
    runtime: Runtime, group: str, job: str, *, run: str, status: JobStatus, epoch: int | None = None
) -> dict[str, str | int | None]:
    """What a finished run published.

    ``checkpoint`` is the digest of the checkpoint the model was made from, ``None`` when it is not there.

    Args:
        status: how the job ended.
        epoch: the job's own; ``None`` when it is not known.

    Raises:
        TrainingLost: it ended without a result, and may be started again.
        TrainingFailed: it failed by itself, or published no model: its epoch was not over.
        NoMajority: nobody knows which site is active; ask again.
    """
    facts = {
        "where": f"run {run}",
        "expected": "a job that ends well",
        "found": f"{status.state}: {status.detail or 'no detail'}",
    }
    state = require_active(runtime, group)
    if status.state is JobState.FAILED:
        if epoch is not None and state.epoch > epoch:
            # Its site was taken from under it: what it failed of is no finding about the job.
            raise TrainingLost(
                "the training job failed in an epoch that is over",
                fix=f"Start it again: epoch {state.epoch} is at {state.active_site}",
                **facts,
            )
        raise TrainingFailed("the training job failed", fix="Read the job's log", **facts)
    if status.state is not JobState.SUCCEEDED:
        raise TrainingLost("the training job ended without a result", **facts)
    model = runtime.topology.job(job).model
    # Not the newest model: another run may have published one meanwhile.
    try:
        published = iter_selectable(runtime.store(state.active_site), model, epoch=state.epoch)
        record = next((one for one in published if one.labels.get("run") == run), None)
    except EpochUnknownHere as error:
        raise TrainingLost(
            "the group failed over as the run ended, and its plan has not promoted the new site yet",
            where=f"run {run} at {state.active_site}",
            expected=f"what epoch {state.epoch} forked from",
            found=str(error),
            fix="Ask again: the run goes on, or is found, in the new epoch",
        ) from error
    if record is None:
        missing = {
            "where": f"run {run} at {state.active_site}",
            "expected": f"a snapshot of {model} labelled with this run",
            "found": "none",
        }
        if epoch is None or state.epoch > epoch:
            raise TrainingLost("the run published no model at the active site", fix="Start it again", **missing)
        raise TrainingFailed(
            "the training job ended well, but published no model",
            fix="Let the trainer call `publish_model` before it ends; `holdfast train resume` starts the run again",
            **missing,
        )
    return {
        "run": run,
        "epoch": state.epoch,
        "site": state.active_site,
        "model": model,
        "snapshot_id": record.snapshot_id,
        "step": int(record.labels.get("step", 0)),
        "model_digest": record.labels.get("model_digest", ""),
        "checkpoint": _checkpoint_of(runtime, run, record, state),
    }


def _checkpoint_of(runtime: Runtime, run: str, record: CommitRecord, state: EpochState) -> str | None:
    """The newest checkpoint, if it has the published model; not knowing it is no reason to fail a finished run."""
    try:
        found = newest(runtime.store(state.active_site), run, epoch=state.epoch)
    except HoldfastError:
        return None
    if found is None or found.model_digest != record.labels.get("model_digest"):
        return None
    return found.digest
