"""What can go wrong with a replication, told apart by what its reader should do."""

from __future__ import annotations

from holdfast.errors import HoldfastError, Refused


class ReplicationError(HoldfastError):
    """Base of the errors of this package."""


class SourceChanged(ReplicationError):
    """The source's object was overwritten or removed after the snapshot was taken: its bytes cannot be copied."""


class SourceDamaged(ReplicationError):
    """The source's bytes are not the snapshot's though nothing says that they were overwritten."""


class ReplicaDamaged(ReplicationError):
    """Bytes written to the target read back as other bytes, again and again."""


class StaleSource(Refused, ReplicationError):
    """The target is in a newer epoch, and the snapshot is not in its ancestry. Nothing was committed."""


class Interrupted(ReplicationError):
    """The sync was asked to stop. Nothing was published by it; the next one goes on from what has landed."""

    transient = True
