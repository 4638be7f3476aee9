"""Where a merge begins: each site's newest snapshot, the newest they share, and what an earlier run had prepared."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from holdfast.engine.objectstore.interface import ObjectStore
from holdfast.engine.replication.directions import NoCommonSnapshot
from holdfast.engine.replication.errors import ReplicationError
from holdfast.engine.replication.target import Run
from holdfast.engine.replication.written import WrittenTarget
from holdfast.engine.snapshot import keys
from holdfast.engine.snapshot.line import ancestors
from holdfast.engine.snapshot.manifest import Manifest
from holdfast.engine.snapshot.placement import locate_table
from holdfast.engine.snapshot.read import load_manifest
from holdfast.engine.snapshot.receipts import read_receipt
from holdfast.engine.snapshot.records import CommitRecord, latest, record_keys


@dataclass(frozen=True)
class Begun:
    """What a merge builds on."""

    #: At the active site: what the merged snapshot follows.
    newest: CommitRecord
    newest_there: CommitRecord
    #: The newest snapshot on the active site's line that the peer has, and its manifest.
    common: CommitRecord
    manifest: Manifest
    #: An earlier run's snapshot that was committed at the peer just now.
    finished: CommitRecord | None


def begin(run: Run, peer: WrittenTarget) -> Begun:
    """Find where the two sites agreed last; first commit at the peer what an earlier run left prepared there.

    Args:
        run: its source is the active site.

    Raises:
        NoCommonSnapshot: they never agreed.
        StaleSource, ForkConflict: the peer is in a newer epoch, or tells an epoch's beginning otherwise.
        EpochUnknownHere: one of the two has snapshots, and not the one the epoch forked from.
        ReplicationError: `encrypt` was switched since the peer's newest snapshot.
    """
    here = run.source.store
    newest = latest(here, run.dataset, epoch=run.epoch)
    if newest is None or newest.path != run.folder:
        raise _never_agreed(run, peer, f"no snapshot of this folder at {run.source.site}")
    peer.admit(here, newest)
    finished = _finish_prepared(run, peer, newest)
    known = {key.snapshot_id for key in record_keys(peer.store, run.dataset)}
    line = _line(here, newest)
    common = next((one for one in line if one.snapshot_id in known and one.path == run.folder), None)
    newest_there = latest(peer.store, run.dataset, epoch=run.epoch)
    if common is None or newest_there is None or newest_there.path != run.folder:
        raise _never_agreed(run, peer, f"{len(known)} others at {peer.site}")
    _require_same_encryption(run, peer, newest_there)
    return Begun(newest, newest_there, common, load_manifest(here, common), finished)


def _line(store: ObjectStore, newest: CommitRecord) -> Iterator[CommitRecord]:
    """A snapshot and its ancestors as the active site knows them; newest first, read as they are asked for."""
    yield newest
    yield from ancestors(store, newest)


def _finish_prepared(run: Run, peer: WrittenTarget, newest: CommitRecord) -> CommitRecord | None:
    """Commit at the peer what an earlier run committed at the active site and had prepared at the peer.

    Its placement is of the moment that was compared; without it that run's changes would count as unmerged.
    """
    known = {key.snapshot_id for key in record_keys(peer.store, run.dataset)}
    for record in _line(run.source.store, newest):
        if record.snapshot_id in known:
            return None
        receipt = read_receipt(peer.store, run.dataset, record.snapshot_id, peer.site)
        placed = next(iter(peer.store.list(keys.placement_prefix(run.dataset, record.snapshot_id))), None)
        if receipt is not None and placed is not None and receipt.encrypted == peer.encrypted:
            placement = locate_table(peer.store, record, load_manifest(peer.store, record))
            peer.finish(run.source.store, record, placement)
            return record
    return None


def _require_same_encryption(run: Run, peer: WrittenTarget, record: CommitRecord) -> None:
    receipt = read_receipt(peer.store, run.dataset, record.snapshot_id, peer.site)
    if receipt is not None and receipt.encrypted != peer.encrypted:
        raise ReplicationError(
            "`encrypt` was turned on or off since the peer's newest snapshot",
            where=f"{peer.store.name}: {run.dataset}",
            expected="objects that lie there as the policy says",
            found="encrypted objects" if receipt.encrypted else "plain objects",
            fix="Set `direction: one-way`, sync once, and bring what was written at the peer by hand",
        )


def _never_agreed(run: Run, peer: WrittenTarget, found: str) -> NoCommonSnapshot:
    return NoCommonSnapshot(
        "the two sites have no snapshot in common, so nothing tells what either changed",
        where=f"{run.dataset} at {run.source.site} and {peer.site}",
        expected="a snapshot that both have committed",
        found=found,
        fix="Sync with `direction: one-way` first, from the site whose content shall stand; then switch over",
    )
