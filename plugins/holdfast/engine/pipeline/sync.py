"""Bringing a dataset from a group's active site to all its others: checked, published whole, noted, resumable.

The command line, the operators and the DAGs all come through here. Which site is the source, and in which epoch, the
authority says each time.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

from holdfast.engine.authority.interface import EpochState
from holdfast.engine.objectstore.interface import ObjectStore
from holdfast.engine.pipeline.active import require_active
from holdfast.engine.pipeline.draft import suite_of
from holdfast.engine.pipeline.replicas import datasets_of, role_of
from holdfast.engine.recovery.protection import note_complete
from holdfast.engine.replication import Progress, ReplicationReport, ResidencyRefused, check_hop, replicate
from holdfast.engine.runtime import Runtime
from holdfast.engine.snapshot import CommitRecord, latest, publish, take
from holdfast.engine.snapshot.placement import Placed
from holdfast.errors import HoldfastError


@dataclass(frozen=True)
class SyncProgress:
    """How far a sync is; ``phase`` names what is being done."""

    phase: str
    done_objects: int
    total_objects: int
    done_bytes: int
    total_bytes: int


@dataclass(frozen=True)
class TargetReport:
    """How one target fared."""

    site: str
    copied_objects: int = 0
    copied_bytes: int = 0
    carried_objects: int = 0
    verified_objects: int = 0
    receipt_key: str | None = None
    refused: str | None = None
    error: str | None = None
    losses: tuple[str, ...] = ()


@dataclass(frozen=True)
class SyncReport:
    """What a sync did. ``record`` is ``None`` when nothing had changed."""

    record: CommitRecord | None
    snapshot_id: str | None
    source_site: str
    changed_objects: int
    read_bytes: int
    targets: tuple[TargetReport, ...]
    seconds: float


class SyncInterrupted(HoldfastError):
    """Somebody stopped the sync. What was copied stays, and the next run goes on from there."""

    exit_code = 130
    transient = True


class NotSynced(HoldfastError):
    """Some site could not be brought up to date; the others were."""

    transient = True


Tell = Callable[[SyncProgress], None]


def run(
    runtime: Runtime,
    group: str,
    dataset: str,
    *,
    progress: Tell | None = None,
    stop: threading.Event | None = None,
) -> SyncReport:
    """Take what lies at the active site now, check it, publish it there and bring it to every other site, verified.

    A site that fails or refuses is in the report and does not stop the others; `require_synced` makes it an error.

    Args:
        progress: told from the calling thread.
        stop: when set, the run ends at the next object.

    Raises:
        UnknownName, ConfigError, GroupNotInitialised, NoMajority: nothing was read.
        ExpectationsNotMet: the data breaks its suite; nothing was published anywhere.
        SyncInterrupted: ``stop`` was set.
        SnapshotError, StoreUnavailable: the source could not be read or written.
    """
    datasets_of(runtime, group, dataset)
    state = require_active(runtime, group)
    began, as_of = runtime.clock.monotonic(), runtime.clock.now()
    source = runtime.store(state.active_site)
    previous = latest(source, dataset, epoch=state.epoch)
    path = runtime.topology.dataset(dataset).path
    taken = take(source, dataset=dataset, path=path, clock=runtime.clock, previous=previous)
    _go_on(stop, dataset)
    record = previous
    if previous is None or taken.manifest.digest != previous.manifest_digest:
        check = suite_of(runtime, dataset)
        if check is not None:
            check(taken, _Draft(source, path, {row.path: row for row in taken.placement}).read)
        record = publish(
            source,
            taken,
            epoch=state.epoch,
            site=state.active_site,
            parent=previous.snapshot_id if previous else None,
            clock=runtime.clock,
        )
    assert record is not None
    sites = [site for site in runtime.topology.group(group).sites.all() if site != state.active_site]
    targets = tuple(_bring(runtime, record, site, state, progress, stop) for site in sites)
    for one in targets:
        if one.error is None and one.refused is None:
            note_complete(runtime, group, state, dataset, one.site, record.snapshot_id, as_of)
    return SyncReport(
        record=record if record is not previous else None,
        snapshot_id=record.snapshot_id,
        source_site=state.active_site,
        changed_objects=taken.hashed_objects,
        read_bytes=taken.hashed_bytes,
        targets=targets,
        seconds=runtime.clock.monotonic() - began,
    )


def require_synced(runtime: Runtime, group: str, dataset: str, report: SyncReport) -> SyncReport:
    """The report, when every site has what it may have. A witness that may not hold the data is as it should be.

    Raises:
        NotSynced: a site failed; run it again.
        ResidencyRefused: a site that may become active may not hold the data: no retry mends that.
    """
    failed = [f"{one.site}: {one.error}" for one in report.targets if one.error is not None]
    if failed:
        raise NotSynced(
            "some sites do not have the newest snapshot",
            where=f"{dataset} of {group}",
            expected="a verified replica at every site",
            found="; ".join(failed),
            fix="Bring the site back and run it again: what is there is not copied twice",
        )
    settings = runtime.topology.group(group)
    refused = [
        f"{one.site}: {one.refused}"
        for one in report.targets
        if one.refused is not None and role_of(settings, one.site, report.source_site) != "witness"
    ]
    if refused:
        raise ResidencyRefused(
            "a site that may become active may not hold the data",
            where=f"{dataset} of {group}",
            expected="a site whose jurisdiction the residency class allows",
            found="; ".join(refused),
            fix="Make the site a witness, or have the class changed by who answers for it",
        )
    return report


def _bring(
    runtime: Runtime,
    record: CommitRecord,
    site: str,
    state: EpochState,
    progress: Tell | None,
    stop: threading.Event | None,
) -> TargetReport:
    residency = runtime.topology.residency_of(record.dataset)

    def tell(seen: Progress) -> None:
        if progress is not None:
            progress(
                SyncProgress(f"→ {site}", seen.done_objects, seen.total_objects, seen.done_bytes, seen.total_bytes)
            )
        _go_on(stop, record.dataset)

    try:
        check_hop(record.dataset, residency, site, runtime.topology.sites)
        done = replicate(
            runtime.store(state.active_site),
            runtime.store(site),
            record=record,
            source_site=state.active_site,
            target_site=site,
            residency=residency,
            topology_sites=runtime.topology.sites,
            clock=runtime.clock,
            progress=tell,
        )
    except SyncInterrupted:
        raise
    except ResidencyRefused as error:
        return TargetReport(site, refused=str(error))
    except HoldfastError as error:
        return TargetReport(site, error=str(error))
    return _target_report(site, done)


def _target_report(site: str, done: ReplicationReport) -> TargetReport:
    return TargetReport(
        site=site,
        copied_objects=done.copied_objects,
        copied_bytes=done.copied_bytes,
        carried_objects=done.skipped_objects,
        verified_objects=done.verified_objects,
        receipt_key=done.receipt_key,
    )


@dataclass(frozen=True)
class _Draft:
    store: ObjectStore
    path: str
    placed: dict[str, Placed]

    def read(self, path: str) -> bytes:
        place = self.placed.get(path)
        return self.store.get(place.key if place is not None and place.key else f"data/{self.path}/{path}")


def _go_on(stop: threading.Event | None, dataset: str) -> None:
    if stop is not None and stop.is_set():
        raise SyncInterrupted(
            "the sync was stopped",
            where=dataset,
            fix="Run the same command again: what is copied is not copied twice, and nothing half done is visible",
        )
