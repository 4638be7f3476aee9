"""Start a run of a training job at the active site, or find it there: never two writers."""

from __future__ import annotations

from dataclasses import dataclass

from holdfast.engine.authority.interface import EpochState
from holdfast.engine.checkpoint import begin_run, elect
from holdfast.engine.compute import JobHandle, job_spec
from holdfast.engine.objectstore.interface import ObjectStore
from holdfast.engine.recovery.interface import Rooms
from holdfast.engine.replication import check_hop, residency_for
from holdfast.engine.snapshot import latest
from holdfast.errors import ConfigError


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
        EpochUnknownHere: the group failed over and its plan has not said yet what the run resumes from; ask again.
    """
    settings = rooms.topology.job(job)
    check_hop(
        settings.dataset, residency_for(rooms.topology, settings.dataset), state.active_site, rooms.topology.sites
    )
    store = rooms.store(state.active_site)
    begin_run(
        store,
        run,
        epoch=state.epoch,
        site=state.active_site,
        plan_id=state.plan_id or "none",
        holder=rooms.holder,
        clock=rooms.clock,
    )
    data = _trained_on(store, run, settings.dataset, state.epoch)
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
