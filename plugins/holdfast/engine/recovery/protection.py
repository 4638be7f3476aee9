"""Keeping the other sites ready: replicate what the active site has, and note since when each replica is complete.

The note is what a plan knows of the replication lag once the source is silent: at ``as_of`` the target held all
that the source had. It is overwritten, and only gates a decision; what is promoted is decided by receipts.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, SerializerFunctionWrapHandler, ValidationError, model_serializer

from holdfast.engine.authority.interface import EpochState
from holdfast.engine.checkpoint import copy_forks as copy_run_forks
from holdfast.engine.checkpoint import elect, replicate_checkpoint
from holdfast.engine.compute.interface import JobState
from holdfast.engine.config.writers import is_written
from holdfast.engine.objectstore.errors import ObjectNotFound, ObjectStoreError
from holdfast.engine.objectstore.interface import ObjectStore
from holdfast.engine.policy import COPY_CHECKPOINTS, ResidencyRefused, check_hop, residency_for
from holdfast.engine.recovery.interface import Rooms
from holdfast.engine.recovery.jobs import job_status
from holdfast.engine.recovery.subjects import (
    RunTraces,
    base_run,
    of_epoch,
    published_runs,
    snapshot_subjects,
    traces_of,
)
from holdfast.engine.replication import replicate
from holdfast.engine.replication.admission import copy_forks, refuse_stale
from holdfast.engine.snapshot import latest
from holdfast.engine.snapshot.records import is_committed
from holdfast.errors import HoldfastError


class ProtectionNote(BaseModel):
    """At ``as_of``, ``target`` held everything that ``source`` had committed of ``subject`` in ``epoch``.

    The subject is a dataset, a model or a job's runs by the name of its first (`base_run`); then the note is about
    all of them that had not ended. ``snapshot_id`` is that of the snapshot or of the newest run's checkpoint; ``None``:
    there was none yet. ``ended_runs`` have no model and no job that goes on: a plan does not start them again.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    format: Literal["holdfast.protection/1"] = "holdfast.protection/1"
    subject: str
    source: str
    target: str
    epoch: int
    snapshot_id: str | None
    as_of: datetime
    ended_runs: tuple[str, ...] = ()

    @model_serializer(mode="wrap")
    def _without_none(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """As before there was `ended_runs`, where there are none."""
        written: dict[str, Any] = handler(self)
        if not self.ended_runs:
            written.pop("ended_runs", None)
        return written


@dataclass(frozen=True)
class Protected:
    """How one subject fared on its way to one site.

    ``refused``: its residency forbids the site, so nothing went there. At a witness, which never becomes active, that
    is as it should be (``ok``); elsewhere the group cannot be protected there.
    """

    subject: str
    target: str
    ok: bool
    detail: str
    copied_objects: int = 0
    copied_bytes: int = 0
    refused: bool = False


#: Only a person starts a job again that ended like this.
_OVER = frozenset({JobState.SUCCEEDED, JobState.FENCED, JobState.FAILED})

_Work = Callable[[Rooms, str, str, str, EpochState], Protected]


def _key(group: str, subject: str, target: str) -> str:
    return f"health/replicas/{group}/{subject}.{target}.json"


def protect_group(rooms: Rooms, group: str, state: EpochState) -> tuple[Protected, ...]:
    """Replicate everything the active site holds of the group to the others, and note since when each is complete.

    Datasets and models go to every site their residency allows, checkpoints to the sites that may become active.
    A site that does not answer, or where the residency forbids something, is reported and does not stop the others.

    Args:
        state: the committed state; its active site is the source.
    """
    settings = rooms.topology.group(group)
    targets = [s for s in settings.sites.all() if s != state.active_site]
    resumable = {settings.sites.active, *settings.sites.standby}
    with ThreadPoolExecutor(4, "protect") as pool:
        begun: list[Future[Protected]] = []
        for target in targets:
            begun += [
                pool.submit(_guarded, _snapshot, rooms, group, s, target, state)
                for s in snapshot_subjects(rooms.topology, group)
            ]
            if target in resumable:
                begun += [pool.submit(_guarded, _run, rooms, group, job, target, state) for job in settings.training]
        return tuple(future.result() for future in begun)


def _guarded(work: _Work, rooms: Rooms, group: str, subject: str, target: str, state: EpochState) -> Protected:
    try:
        return work(rooms, group, subject, target, state)
    except ResidencyRefused as error:
        is_witness = target in rooms.topology.group(group).sites.witness
        return Protected(subject, target, is_witness, f"refused: {error}", refused=True)
    except HoldfastError as error:
        return Protected(subject, target, False, str(error))


def _snapshot(rooms: Rooms, group: str, subject: str, target: str, state: EpochState) -> Protected:
    residency = residency_for(rooms.topology, subject)
    check_hop(subject, residency, target, rooms.topology.sites, source=state.active_site)
    source_store, target_store = rooms.store(state.active_site), rooms.store(target)
    as_of = rooms.clock.now()  # before looking: what is committed while we copy is not covered
    record = latest(source_store, subject, epoch=state.epoch)
    if record is None:
        note_complete(rooms, group, state, subject, target, None, as_of)
        return Protected(subject, target, True, "nothing is published yet")
    if is_written(rooms.topology, group, subject, target):
        # Where the epochs began goes there all the same: without it nothing there may be selected after a failover.
        lineage = {"dataset": subject, "source_site": state.active_site}
        refuse_stale(source_store, target_store, epoch=record.epoch, snapshot_id=record.snapshot_id, **lineage)
        copy_forks(source_store, target_store, target_site=target, **lineage)
        if not is_committed(target_store, record):
            # A copy alone would take what was written there since for leftovers of the older state.
            return Protected(
                subject, target, False, "it is written to as well: `holdfast sync run` merges, and brings it"
            )
        note_complete(rooms, group, state, subject, target, record.snapshot_id, as_of)
        return Protected(subject, target, True, f"snapshot {record.snapshot_id}")
    report = replicate(
        source_store,
        target_store,
        record=record,
        source_site=state.active_site,
        target_site=target,
        residency=residency,
        topology_sites=rooms.topology.sites,
        clock=rooms.clock,
    )
    note_complete(rooms, group, state, subject, target, record.snapshot_id, as_of)
    return Protected(
        subject, target, True, f"snapshot {record.snapshot_id}", report.copied_objects, report.copied_bytes
    )


def _run(rooms: Rooms, group: str, job: str, target: str, state: EpochState) -> Protected:
    base, dataset = base_run(group, job), rooms.topology.job(job).dataset
    # A checkpoint is made from the data, so it may lie only where the data may.
    check_hop(
        f"checkpoints of {base}",
        residency_for(rooms.topology, dataset),
        target,
        rooms.topology.sites,
        intent=COPY_CHECKPOINTS,
        source=state.active_site,
        resource=base,
    )
    source_store = rooms.store(state.active_site)
    as_of = rooms.clock.now()
    known = of_epoch(traces_of(source_store, group, job), state.epoch)
    published = published_runs(source_store, rooms.topology.job(job).model, epoch=state.epoch) if known[1:] else ()
    older = [one for one in known[:-1] if one.run not in published]
    ended = tuple(one.run for one in older if _has_ended(rooms, state, one))
    digest: str | None = None
    details: list[str] = []
    for run in (*(one.run for one in older if one.run not in ended), *(one.run for one in known[-1:])):
        election = elect(source_store, run, epoch=state.epoch, or_nothing=True)
        # Also where no checkpoint can be brought over: the target may hold the very one that this site waits for.
        copy_run_forks(source_store, rooms.store(target), run)
        digest = election.digest
        if election.manifest is not None:
            replicate_checkpoint(
                source_store, rooms.store(target), run, election.manifest, site=target, clock=rooms.clock
            )
            details.append(f"checkpoint of step {election.step}" + (f" of {run}" if details or known[1:] else ""))
    note_complete(rooms, group, state, base, target, digest, as_of, ended)
    newest = known[-1].run if known else base
    return Protected(newest, target, True, "; ".join(details) or "no checkpoint yet")


def _has_ended(rooms: Rooms, state: EpochState, run: RunTraces) -> bool:
    """Whether a run without a model has no job any more that would go on by itself; not, where that is not known."""
    try:
        status = job_status(rooms, state.active_site, run.run, state.epoch)
    except HoldfastError:
        return False
    return not run.attempts_in(state.epoch) if status is None else status.state in _OVER


def note_complete(
    rooms: Rooms,
    group: str,
    state: EpochState,
    subject: str,
    target: str,
    snapshot_id: str | None,
    as_of: datetime,
    ended_runs: tuple[str, ...] = (),
) -> None:
    """Note at a target that it held at ``as_of`` everything the active site had committed of a subject."""
    note = ProtectionNote(
        subject=subject,
        source=state.active_site,
        target=target,
        epoch=state.epoch,
        snapshot_id=snapshot_id,
        as_of=as_of,
        ended_runs=ended_runs,
    )
    rooms.store(target).put(
        _key(group, subject, target), note.model_dump_json().encode(), content_type="application/json"
    )


def read_note(store: ObjectStore, group: str, subject: str, target: str) -> ProtectionNote | None:
    """The note about a subject at a target; ``None`` when there is none that can be read."""
    try:
        return ProtectionNote.model_validate_json(store.get(_key(group, subject, target)))
    except (ObjectNotFound, ObjectStoreError, ValidationError):
        return None


@dataclass(frozen=True)
class KnownLag:
    """How far the target may lie behind, by what it knows itself. ``seconds`` is ``None`` when that is unknown."""

    seconds: float | None
    by_subject: dict[str, float | None]


def known_lag(rooms: Rooms, group: str, *, target: str, epoch: int, since: datetime) -> KnownLag:
    """How old the completeness of the target's replicas was when the source fell silent: of the group's datasets, its
    models and its jobs' newest runs. The worst of them counts, and one that is unknown makes all of it unknown.

    Args:
        epoch: notes of another epoch say nothing.
        since: when the source was last known to work; notes made later count as 0 seconds.
    """
    by_subject: dict[str, float | None] = {}
    store, topology = rooms.store(target), rooms.topology
    runs = [base_run(group, job) for job in topology.group(group).training]
    for subject in (*snapshot_subjects(topology, group), *runs):
        note = read_note(store, group, subject, target)
        usable = note is not None and note.epoch == epoch
        by_subject[subject] = max(0.0, (since - note.as_of).total_seconds()) if note and usable else None
    worst = (
        None
        if any(v is None for v in by_subject.values())
        else max((v or 0.0 for v in by_subject.values()), default=0.0)
    )
    return KnownLag(worst, by_subject)
