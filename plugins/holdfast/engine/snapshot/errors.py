"""What can go wrong with a snapshot, told apart by what its reader should do."""

from __future__ import annotations

from holdfast.errors import HoldfastError, Refused


class SnapshotError(HoldfastError):
    """Base of the errors of this package."""


class CommitRecordDamaged(SnapshotError):
    """A commit record is not what was written: it does not parse, or its content does not give its id."""


class ManifestDamaged(SnapshotError):
    """A manifest is missing, unreadable, or its bytes do not have the digest the commit record names."""


class ObjectDamaged(SnapshotError):
    """An object is missing or its bytes do not have the digest the manifest names."""


class ObjectOverwritten(ObjectDamaged):
    """The object was overwritten or removed after the snapshot was taken; the snapshot's bytes are gone here."""


class NotInSnapshot(SnapshotError):
    """The snapshot has no object of this path."""


class SnapshotIsReadOnly(Refused, SnapshotError):
    """A snapshot cannot be changed, and what reads it cannot write."""


class SnapshotNotSelectable(SnapshotError):
    """No such snapshot may be selected here: it is not committed, or it is of no epoch of this ancestry."""


class DatasetEmpty(Refused, SnapshotError):
    """The dataset's folder holds no object: more often a wrong path than a true state."""


class DatasetBusy(SnapshotError):
    """Objects kept changing while they were read: no point in time could be seen."""

    transient = True


class Superseded(DatasetBusy):
    """Another snapshot came on top of the one this follows. Nothing was committed."""


class LineSplit(SnapshotError):
    """Two snapshots follow the same one, and neither publisher knew of the other's. Both are committed."""


class LineageError(Refused, SnapshotError):
    """The ancestry of the epochs forbids it."""


class EpochUnknownHere(LineageError):
    """This bucket does not know where the epoch forked from, so nothing in it may be selected or added."""


class ForkConflict(LineageError):
    """Another plan already wrote this epoch's fork record."""


class UnknownParent(LineageError):
    """The parent a snapshot names is not in this bucket."""
