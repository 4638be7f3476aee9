"""Sync: take a dataset's next snapshot and bring it to its targets, every changed object read once."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from holdfast.clock import Clock
from holdfast.engine.config import Residency, Site
from holdfast.engine.config.sync import Sync
from holdfast.engine.replication.replicate import replicate
from holdfast.engine.replication.reports import ReadDraft, SyncProgress, SyncReport, SyncSite, TargetReport
from holdfast.engine.replication.residency import check_hop
from holdfast.engine.snapshot.publish import publish
from holdfast.engine.snapshot.read import open_snapshot
from holdfast.engine.snapshot.records import latest
from holdfast.engine.snapshot.take import TakenSnapshot, take
from holdfast.errors import HoldfastError, Refused

__all__ = ["ReadDraft", "SyncProgress", "SyncReport", "SyncSite", "TargetReport", "sync_dataset"]


def sync_dataset(
    source: SyncSite,
    targets: Sequence[SyncSite],
    *,
    dataset: str,
    folder: str,
    policy: Sync,  # noqa: ARG001
    epoch: int,
    residency: Residency | None,
    topology_sites: Mapping[str, Site],
    clock: Clock,
    changes: Any = None,  # noqa: ARG001
    write_source: bool = True,  # noqa: ARG001
    validate: Callable[[TakenSnapshot, ReadDraft], None] | None = None,
    progress: Callable[[SyncProgress], None] | None = None,
    concurrency: Any = None,  # noqa: ARG001
    threads: int = 16,
    stop: threading.Event | None = None,  # noqa: ARG001
) -> SyncReport:
    """Take what is under ``data/<folder>/`` at the source and publish it there and at every target.

    Args:
        source: the active site.
        targets: where it goes; each is served as far as it lets itself be served.
        dataset: the name it is published under.
        folder: folder under ``data/``.
        policy: what belongs to it, how it is copied and verified.
        epoch: the epoch in which the source is active.
        residency: the class of its bytes; ``None``: they may lie anywhere.
        topology_sites: the topology's sites, for the targets' jurisdictions.
        changes: what a change feed says; ``None``: the folder is listed.
        write_source: publish the snapshot at the source too. ``False`` for a source that may only be read.
        validate: called with the taken snapshot and a reader of its objects before it is published anywhere; what it
            raises ends the sync, and nothing is published.
        progress: called from the calling thread.
        threads: objects in flight.
        stop: when set, the sync ends with `Interrupted`; the next one goes on from there.

    Raises:
        DatasetEmpty: nothing lies there.
        DatasetBusy: objects kept changing.
        StoreUnavailable: the source did not answer, or no target did.
    """
    began = clock.monotonic()
    previous = latest(source.store, dataset, epoch=epoch)
    taken = take(source.store, dataset=dataset, path=folder, clock=clock, previous=previous, threads=threads)
    record, new = previous, False
    if record is None or record.manifest_digest != taken.manifest.digest:
        if validate is not None:
            validate(taken, lambda path: source.store.get(f"data/{folder}/{path}"))
        parent = record.snapshot_id if record else None
        record = publish(source.store, taken, epoch=epoch, site=source.site, parent=parent, clock=clock)
        new = True
    reports = []
    for target in targets:
        try:
            check_hop(dataset, residency, target.site, topology_sites)
            done = replicate(
                source.store,
                target.store,
                record=record,
                source_site=source.site,
                target_site=target.site,
                residency=residency,
                topology_sites=topology_sites,
                clock=clock,
                threads=threads,
            )
        except Refused as error:
            reports.append(TargetReport(target.site, refused=str(error)))
        except HoldfastError as error:
            reports.append(TargetReport(target.site, error=str(error)))
        else:
            reports.append(
                TargetReport(
                    target.site,
                    done.copied_objects,
                    done.copied_bytes,
                    done.skipped_objects,
                    done.verified_objects,
                    done.receipt_key,
                )
            )
    opened = open_snapshot(source.store, record)
    if progress is not None:
        size_bytes = opened.manifest.size_bytes
        progress(SyncProgress("publishing", record.object_count, record.object_count, size_bytes, size_bytes))
    return SyncReport(
        record=record if new else None,
        snapshot_id=record.snapshot_id,
        source_site=source.site,
        changed_objects=taken.hashed_objects,
        read_bytes=taken.hashed_bytes,
        targets=tuple(reports),
        seconds=clock.monotonic() - began,
    )
