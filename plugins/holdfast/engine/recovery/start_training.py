"""Start a run of a training job at the active site, or find it there: never two writers."""

from __future__ import annotations

from dataclasses import dataclass

from holdfast.engine.authority.interface import EpochState, Operation
from holdfast.engine.checkpoint import begin_run, elect
from holdfast.engine.compute import ENDED, FINAL, JobHandle, job_spec
from holdfast.engine.objectstore.interface import ObjectStore
from holdfast.engine.recovery.errors import RecoveryError
from holdfast.engine.recovery.interface import Rooms
from holdfast.engine.recovery.stop_jobs import find_job
from holdfast.engine.replication import check_hop, residency_for
from holdfast.engine.snapshot import EpochUnknownHere, latest
from holdfast.errors import ConfigError

#: Jobs that ended like this get another attempt when they are submitted.
_STARTED_AGAIN = ENDED - FINAL


class TrainingMustWait(RecoveryError):
    """The group is on its way to another site; what trains in it is started when it has arrived."""

    transient = True


@dataclass(frozen=True, slots=True)
class StartedJob:
    """A training job that runs, or ran, and where to find it."""

    run: str
    epoch: int
    site: str
    dataset_snapshot: str
    handle: JobHandle


def start_run(rooms: Rooms, group: str, job: str, *, run: str, state: EpochState) -> StartedJob:
    """Start a run at the site that is active in ``state``, or find it there.

    Raises:
        ConfigError: the job's dataset has no snapshot yet.
        ResidencyRefused: the job's dataset may not lie at the active site.
        TrainingMustWait: a plan is moving the group, or has not said yet what the run resumes from; ask again.
    """
    try:
        return _start_run(rooms, group, job, run=run, state=state)
    except EpochUnknownHere as error:
        raise TrainingMustWait(
            "the group failed over and its plan has not said yet what the run goes on from",
            where=f"run {run} at {state.active_site}",
            expected=f"what epoch {state.epoch} forked from",
            found=str(error),
            fix="Ask again once the plan has promoted the site; roll it forward if its runner died",
        ) from error


def _start_run(rooms: Rooms, group: str, job: str, *, run: str, state: EpochState) -> StartedJob:
    settings = rooms.topology.job(job)
    check_hop(
        settings.dataset, residency_for(rooms.topology, settings.dataset), state.active_site, rooms.topology.sites
    )
    store = rooms.store(state.active_site)
    if (moving := _moving(rooms, state)) is not None:
        handle = _without_starting(rooms, run, state)
        if handle is None:
            raise TrainingMustWait(
                f"a {moving.kind} has the group, so no training is started",
                where=f"group {group}",
                expected="no plan under way",
                found=f"plan {moving.plan_id} of {moving.holder}",
                fix="Ask again when it has ended; it resumes the group's training itself",
            )
        data = _trained_on(store, run, settings.dataset, state)
        return StartedJob(run, state.epoch, state.active_site, data, handle)
    # First of all: where the data is not promoted yet, nothing of a new run may be written.
    latest(store, settings.dataset, epoch=state.epoch)
    begin_run(
        store,
        run,
        epoch=state.epoch,
        site=state.active_site,
        plan_id=state.plan_id or "none",
        holder=rooms.holder,
        clock=rooms.clock,
    )
    data = _trained_on(store, run, settings.dataset, state)
    spec = job_spec(
        rooms.topology,
        group,
        job,
        run=run,
        epoch=state.epoch,
        site=state.active_site,
        dataset_snapshot=data,
        environ=rooms.environ,
    )
    handle = rooms.backend(state.active_site).submit(spec)
    return StartedJob(run, state.epoch, state.active_site, data, handle)


def _moving(rooms: Rooms, state: EpochState) -> Operation | None:
    """The plan that has the group. A drill is none: it starts training itself, and its plan is refused by the epoch."""
    operation = state.operation
    if operation is None or operation.kind == "drill" or operation.expires_at <= rooms.clock.now():
        return None
    return operation


def _without_starting(rooms: Rooms, run: str, state: EpochState) -> JobHandle | None:
    """The run's job in this epoch, where submitting it would only find it."""
    backend = rooms.backend(state.active_site)
    handle = find_job(backend, state.active_site, run, state.epoch)
    return handle if handle is not None and backend.status(handle).state not in _STARTED_AGAIN else None


def _trained_on(store: ObjectStore, run: str, dataset: str, state: EpochState) -> str:
    """The snapshot a run goes on with: what its newest checkpoint was trained on, for a new run the newest there is."""
    election = elect(store, run, epoch=state.epoch, site=state.active_site)
    if election.manifest is not None and election.manifest.dataset_snapshot is not None:
        return election.manifest.dataset_snapshot
    newest = latest(store, dataset, epoch=state.epoch)
    if newest is None:
        raise ConfigError(
            "there is nothing to train on",
            where=f"{store.name}: dataset {dataset}",
            expected="a published snapshot",
            found="none",
            fix="Run the DAG replicate_datasets first",
        )
    return newest.snapshot_id
