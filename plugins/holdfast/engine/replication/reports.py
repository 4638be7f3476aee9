"""What a sync is told, what it says while it runs, and what it says at its end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from holdfast.engine.objectstore.interface import ObjectStore
from holdfast.engine.snapshot.records import CommitRecord

#: Reads one object of a snapshot that is taken and not published yet, by its path; whole and checked.
ReadDraft = Callable[[str], bytes]
Phase = Literal["listing", "copying", "proving", "publishing"]


@dataclass(frozen=True, slots=True)
class SyncSite:
    """A site of the topology and its store."""

    site: str
    store: ObjectStore = field(repr=False)


@dataclass(frozen=True, slots=True)
class SyncProgress:
    """How far a sync is. The totals may grow: what moves at the source while it is read is read again."""

    phase: Phase
    done_objects: int
    total_objects: int
    done_bytes: int
    total_bytes: int


@dataclass(frozen=True, slots=True)
class Refusal:
    """An object of the source that is not in the snapshot, and why."""

    path: str
    reason: str


@dataclass(frozen=True)
class TargetReport:
    """What a sync did at one target.

    ``error`` is a failure of this target alone: the others went on, and the next sync tries it again. ``refused`` is
    a rule (residency, a newer epoch) that forbids this target: nothing was written there.
    """

    site: str
    copied_objects: int = 0
    copied_bytes: int = 0
    #: Verified for an earlier snapshot, and unchanged since by their version.
    carried_objects: int = 0
    #: Verified in this run in the way the policy asks, those just copied included.
    verified_objects: int = 0
    receipt_key: str | None = None
    refused: str | None = None
    error: str | None = None
    #: What of the objects' attributes this target cannot hold, each once.
    losses: tuple[str, ...] = ()
    #: Objects that cannot be kept here for their names, the first hundred: then ``error`` says so too.
    refusals: tuple[Refusal, ...] = ()

    @property
    def ok(self) -> bool:
        return self.refused is None and self.error is None


@dataclass(frozen=True, slots=True)
class Overruled:
    """What one of two sites had and is not in the merged snapshot, for the other site won. Nothing of it is removed.

    ``what`` is its part in the conflict: ``changed``, ``added`` or ``deleted``; of a deletion there are no bytes.
    """

    path: str
    site: str
    what: str
    digest: str | None = None
    size_bytes: int | None = None
    #: Where its bytes lay at that site when it was overruled, and in which version.
    key: str | None = None
    version: str | None = None
    e_tag: str | None = None


@dataclass(frozen=True)
class MergeReport:
    """What came of both sites' changes since the newest snapshot both have."""

    peer: str
    winner: str
    common_snapshot_id: str
    #: Changes (removals included) of one site alone, as they stand in the snapshot.
    from_active_objects: int = 0
    from_peer_objects: int = 0
    #: Both sites changed them to the same.
    same_objects: int = 0
    #: Gone since the common snapshot, or since a newer one of the active site.
    removed_objects: int = 0
    #: Brought from the peer to the active site by this run.
    brought_objects: int = 0
    brought_bytes: int = 0
    overruled: tuple[Overruled, ...] = ()
    #: Objects at the peer that could not be taken for their names, the first thousand.
    refused_at_peer: tuple[Refusal, ...] = ()
    #: An earlier run's merged snapshot that was published at the peer by this one; `overruled` names its losers too.
    finished_snapshot_id: str | None = None


@dataclass(frozen=True)
class SyncReport:
    """What a sync did."""

    #: The snapshot that was published; ``None``: nothing had changed at the source.
    record: CommitRecord | None
    #: The snapshot the targets have now: the new one, or the one that was there.
    snapshot_id: str | None
    source_site: str
    #: Read at the source and hashed because they were new or had changed.
    changed_objects: int
    #: Bytes read at the source, whatever the number of targets.
    read_bytes: int
    targets: tuple[TargetReport, ...]
    seconds: float
    #: Objects that could not be taken, the first thousand.
    refused_objects: tuple[Refusal, ...] = ()
    #: What said which objects of the snapshot the targets have now to look at. With `feed` nothing proves that all of
    #: them stood together at one moment.
    planned_from: Literal["listing", "feed"] = "listing"
    #: With `feed`: when the last listing of everything began (ISO 8601).
    last_full_look: str | None = None
    #: Of a dataset with writers at two sites.
    merge: MergeReport | None = None
