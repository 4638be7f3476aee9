"""Snapshots: immutable points in time of datasets and models. Take, publish, diff, verify, read; lineage of epochs."""

from holdfast.engine.snapshot.digest import digest_of
from holdfast.engine.snapshot.epochs import begin_epoch
from holdfast.engine.snapshot.errors import (
    CommitRecordDamaged,
    DatasetBusy,
    DatasetEmpty,
    EpochUnknownHere,
    ForkConflict,
    LineageError,
    ManifestDamaged,
    NotInSnapshot,
    ObjectDamaged,
    ObjectOverwritten,
    SnapshotError,
    SnapshotIsReadOnly,
    SnapshotNotSelectable,
    UnknownParent,
)
from holdfast.engine.snapshot.guarantee import PointInTime, point_in_time
from holdfast.engine.snapshot.keys import root
from holdfast.engine.snapshot.lineage import EpochFork, new_fork, read_fork, read_forks, write_fork
from holdfast.engine.snapshot.manifest import Diff, Manifest, ManifestEntry, diff
from holdfast.engine.snapshot.opened import OpenSnapshot
from holdfast.engine.snapshot.publish import publish, put_snapshot, take_and_publish
from holdfast.engine.snapshot.read import load_manifest, open_snapshot, open_table, read_object
from holdfast.engine.snapshot.read import open_selected as open  # noqa: A004 – inside this package's name
from holdfast.engine.snapshot.receipts import Receipt, read_receipt, write_receipt
from holdfast.engine.snapshot.records import CommitRecord, find_record, iter_selectable, latest, records, selectable
from holdfast.engine.snapshot.removals import BytesBeingRemoved
from holdfast.engine.snapshot.rollback import BytesGone, RestoreReport, restore, rollback
from holdfast.engine.snapshot.take import TakenSnapshot, take
from holdfast.engine.snapshot.verify import VerifyReport, verify

__all__ = [
    "BytesBeingRemoved",
    "BytesGone",
    "CommitRecord",
    "CommitRecordDamaged",
    "DatasetBusy",
    "DatasetEmpty",
    "Diff",
    "EpochFork",
    "EpochUnknownHere",
    "ForkConflict",
    "LineageError",
    "Manifest",
    "ManifestDamaged",
    "ManifestEntry",
    "NotInSnapshot",
    "ObjectDamaged",
    "ObjectOverwritten",
    "OpenSnapshot",
    "PointInTime",
    "Receipt",
    "RestoreReport",
    "SnapshotError",
    "SnapshotIsReadOnly",
    "SnapshotNotSelectable",
    "TakenSnapshot",
    "UnknownParent",
    "VerifyReport",
    "begin_epoch",
    "diff",
    "digest_of",
    "find_record",
    "iter_selectable",
    "latest",
    "load_manifest",
    "new_fork",
    "open",
    "open_snapshot",
    "open_table",
    "point_in_time",
    "publish",
    "put_snapshot",
    "read_fork",
    "read_forks",
    "read_object",
    "read_receipt",
    "records",
    "restore",
    "rollback",
    "root",
    "selectable",
    "take",
    "take_and_publish",
    "verify",
    "write_fork",
    "write_receipt",
]
