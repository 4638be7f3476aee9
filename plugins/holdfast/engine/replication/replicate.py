"""Replicate: bring a published snapshot to another site, whole or not at all.

Order: residency, fork records, objects (hashed on their way and read back), placement, manifest, receipt, and the
commit record last. Cut off anywhere, the target still shows its old snapshot, and running it again copies only what
is missing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from holdfast.clock import Clock
from holdfast.engine.config import Residency, Site
from holdfast.engine.objectstore.encrypted import encrypts
from holdfast.engine.objectstore.errors import ObjectNotFound
from holdfast.engine.objectstore.interface import ObjectInfo, ObjectStore
from holdfast.engine.policy import check_hop
from holdfast.engine.replication.admission import copy_forks, refuse_stale
from holdfast.engine.replication.objects import Landed, ObjectCopier
from holdfast.engine.snapshot import keys
from holdfast.engine.snapshot.errors import SnapshotError
from holdfast.engine.snapshot.line import bring_line
from holdfast.engine.snapshot.manifest import Manifest
from holdfast.engine.snapshot.placement import Placed, leftover, locate, placed_at, write_placement
from holdfast.engine.snapshot.publish import commit, put_manifest
from holdfast.engine.snapshot.read import load_manifest
from holdfast.engine.snapshot.receipts import Receipt, read_receipt, write_receipt
from holdfast.engine.snapshot.records import CommitRecord, is_committed, read_record, record_keys
from holdfast.engine.snapshot.removals import being_removed, check_before_commit
from holdfast.engine.snapshot.threads import in_threads


@dataclass(frozen=True, slots=True)
class Progress:
    """How far the objects of one replication are."""

    done_objects: int
    total_objects: int
    done_bytes: int
    total_bytes: int


@dataclass(frozen=True)
class ReplicationReport:
    """What a replication did."""

    snapshot_id: str
    copied_objects: int
    copied_bytes: int
    #: Read back for an earlier snapshot, and unchanged since by their version.
    skipped_objects: int
    #: Read back and hashed at the target in this run, those just copied included.
    verified_objects: int
    seconds: float
    receipt_key: str | None
    already_there: bool = False


def replicate(
    source_store: ObjectStore,
    target_store: ObjectStore,
    *,
    record: CommitRecord,
    source_site: str,
    target_site: str,
    residency: Residency | None,
    topology_sites: Mapping[str, Site],
    clock: Clock,
    progress: Callable[[Progress], None] | None = None,
    threads: int = 8,
) -> ReplicationReport:
    """Have a snapshot at another site, every byte read back there, then committed there.

    Args:
        record: the snapshot, committed at the source.
        residency: the class of its bytes; ``None``: they may lie anywhere.
        topology_sites: the topology's sites, for the target's jurisdiction.
        progress: called after each object, from the calling thread.
        threads: objects in flight.

    Raises:
        ResidencyRefused: the target may not hold these bytes; nothing was copied.
        StaleSource: the target is in a newer epoch without this snapshot in its ancestry.
        ForkConflict: source and target tell the same epoch's beginning differently.
        SourceChanged: an object was overwritten at the source since the snapshot; take a new one.
        SourceDamaged, ReplicaDamaged: bytes are wrong there, and stay wrong.
        ManifestDamaged, CommitRecordDamaged: metadata at a site is not what was written.
        StoreUnavailable: a store did not answer; run it again.
        BytesBeingRemoved: a delete run removes bytes the replica relies on; run it again.
        SnapshotExpired: the target's delete run ended this snapshot there.
    """
    check_hop(record.dataset, residency, target_site, topology_sites, source=source_site)
    run = _Replication(source_store, target_store, record, source_site, target_site, clock, threads)
    return run.run(progress or (lambda _: None))


class _Replication:
    def __init__(
        self,
        source: ObjectStore,
        target: ObjectStore,
        record: CommitRecord,
        source_site: str,
        target_site: str,
        clock: Clock,
        threads: int,
    ) -> None:
        self._source, self._target, self._record = source, target, record
        self._source_site, self._target_site = source_site, target_site
        self._clock, self._threads = clock, threads

    def run(self, progress: Callable[[Progress], None]) -> ReplicationReport:
        started = self._clock.monotonic()
        # Listed before asking whether it is committed: what this placement will call a leftover is older than a
        # commit by somebody faster, so it can never hide what was written after that.
        listed = self._list()
        self._refuse_stale()
        copy_forks(
            self._source,
            self._target,
            dataset=self._record.dataset,
            source_site=self._source_site,
            target_site=self._target_site,
        )
        if is_committed(self._target, self._record):
            return self._already_there(started)
        manifest = load_manifest(self._source, self._record)
        landed = self._bring(manifest, listed, progress)
        self._place(landed, self._list())
        put_manifest(self._target, self._record, manifest.data)
        receipt_key = self._receipt(manifest, landed)
        self._refuse_stale()
        check_before_commit(self._target, self._record, [one.key for one in landed])
        bring_line(self._source, self._target, self._record)
        commit(self._target, self._record)
        return self._report(landed, started, receipt_key)

    def _list(self) -> dict[str, ObjectInfo]:
        """Everything in the dataset's folder at the target, by key."""
        return {info.key: info for info in self._target.list(keys.data_folder(self._record.path) + "/")}

    def _refuse_stale(self) -> None:
        refuse_stale(
            self._source,
            self._target,
            dataset=self._record.dataset,
            epoch=self._record.epoch,
            snapshot_id=self._record.snapshot_id,
            source_site=self._source_site,
        )

    def _already_there(self, started: float) -> ReplicationReport:
        receipt = read_receipt(self._target, self._record.dataset, self._record.snapshot_id, self._target_site)
        return ReplicationReport(
            snapshot_id=self._record.snapshot_id,
            copied_objects=0,
            copied_bytes=0,
            skipped_objects=self._record.object_count,
            verified_objects=0,
            seconds=self._clock.monotonic() - started,
            receipt_key=receipt.key if receipt else None,
            already_there=True,
        )

    def _bring(
        self, manifest: Manifest, listed: dict[str, ObjectInfo], progress: Callable[[Progress], None]
    ) -> list[Landed]:
        placed = locate(self._source, self._record, manifest)
        copier = ObjectCopier(
            self._source, self._target, self._record, placed=placed, base=self._base(), listed=listed, clock=self._clock
        )
        landed: list[Landed] = []
        done_bytes = 0
        for one in in_threads(copier.bring, manifest.entries(), threads=self._threads, name="holdfast-replicate"):
            landed.append(one)
            done_bytes += one.entry.size_bytes
            progress(Progress(len(landed), manifest.object_count, done_bytes, manifest.size_bytes))
        return landed

    def _base(self) -> dict[str, Placed]:
        """Where the newest snapshot that is committed at the target lies there: what need not be read again."""
        found = record_keys(self._target, self._record.dataset)
        if not found:
            return {}
        try:
            newest = read_record(self._target, found[-1].key)
            if newest.path != self._record.path:
                return {}
            return locate(self._target, newest, load_manifest(self._target, newest))
        except SnapshotError:
            return {}  # what it says cannot be trusted, so everything is read again

    def _place(self, landed: list[Landed], listed: dict[str, ObjectInfo]) -> None:
        """Write where each object lies, in the words of a listing, and what else lies at their keys."""
        rows = []
        for one in landed:
            own = keys.object_key(self._record.path, one.entry.path)
            info = listed.get(one.key)
            if info is None:
                # Removed since it was read back; without facts to recognise it by, it is just read again next time.
                try:
                    info = self._target.head(one.key)
                except ObjectNotFound:
                    raise being_removed(self._target, one.key, "nothing") from None
            rows.append(placed_at(info, one.entry.path, one.entry.digest, listed.get(own) if one.key != own else None))
        folder = keys.data_folder(self._record.path) + "/"
        used = {one.entry.path for one in landed}
        for key, info in listed.items():
            path = key.removeprefix(folder)
            if path not in used and not path.startswith(keys.VERSIONS + "/"):
                rows.append(leftover(info, path))
        write_placement(self._target, self._record, self._target_site, rows)

    def _receipt(self, manifest: Manifest, landed: list[Landed]) -> str:
        read_back = [one for one in landed if one.how != "carried"]
        return write_receipt(
            self._target,
            Receipt(
                subject=self._record.dataset,
                item=self._record.snapshot_id,
                manifest_digest=manifest.digest,
                site=self._target_site,
                source_site=self._source_site,
                object_count=manifest.object_count,
                size_bytes=manifest.size_bytes,
                read_back_objects=len(read_back),
                read_back_bytes=sum(one.entry.size_bytes for one in read_back),
                carried_objects=len(landed) - len(read_back),
                verified_at=self._clock.now(),
                encrypted=encrypts(self._target, self._record.dataset),
            ),
        )

    def _report(self, landed: list[Landed], started: float, receipt_key: str) -> ReplicationReport:
        copied = [one for one in landed if one.how == "copied"]
        carried = sum(1 for one in landed if one.how == "carried")
        return ReplicationReport(
            snapshot_id=self._record.snapshot_id,
            copied_objects=len(copied),
            copied_bytes=sum(one.entry.size_bytes for one in copied),
            skipped_objects=carried,
            verified_objects=len(landed) - carried,
            seconds=self._clock.monotonic() - started,
            receipt_key=receipt_key,
        )
