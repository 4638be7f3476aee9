"""Lag: what a site would lose of a dataset if its source were gone now."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from holdfast.engine.objectstore.interface import ObjectStore
from holdfast.engine.snapshot.errors import EpochUnknownHere
from holdfast.engine.snapshot.manifest import diff
from holdfast.engine.snapshot.read import load_manifest
from holdfast.engine.snapshot.records import CommitRecord, iter_selectable, latest, record_keys


@dataclass(frozen=True)
class ReplicationLag:
    """How far a target is behind a source. ``seconds`` counts from when the oldest missing snapshot was taken."""

    seconds: float
    objects: int
    bytes: int
    missing_snapshots: int
    #: The point in time the target can be promoted to; ``None``: it has nothing.
    recovery_point_at: datetime | None


def lag(
    source_store: ObjectStore, target_store: ObjectStore, dataset: str, *, epoch: int, now: datetime
) -> ReplicationLag:
    """Compare two sites' selectable snapshots of a dataset.

    Args:
        epoch: the newest committed epoch.
        now: the wall clock.

    Returns:
        Zeros when the target has the source's newest snapshot (or the source has none).

    Raises:
        EpochUnknownHere: the source does not know the epoch.
        StoreUnavailable: a site did not answer: the lag is unknown.
    """
    there = _latest_known(target_store, dataset, epoch)
    at = there.taken_at if there is not None else None
    have = {key.snapshot_id for key in record_keys(target_store, dataset)}
    missing = []
    for record in iter_selectable(source_store, dataset, epoch=epoch):
        if record.snapshot_id in have:
            break
        missing.append(record)
    if not missing:
        return ReplicationLag(0.0, 0, 0, 0, at)
    target = load_manifest(target_store, there) if there is not None else None
    changes = diff(load_manifest(source_store, missing[0]), target)
    return ReplicationLag(
        seconds=max(0.0, (now - missing[-1].taken_at).total_seconds()),
        objects=changes.copy_objects,
        bytes=changes.copy_bytes,
        missing_snapshots=len(missing),
        recovery_point_at=at,
    )


def _latest_known(store: ObjectStore, dataset: str, epoch: int) -> CommitRecord | None:
    try:
        return latest(store, dataset, epoch=epoch)
    except EpochUnknownHere:
        return None
