"""Whether a snapshot at a site is a point in time for as long as it is kept there, and why."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Literal

from holdfast.engine.objectstore.interface import ObjectStore
from holdfast.engine.snapshot import keys
from holdfast.engine.snapshot.labels import LAST_FULL_LOOK, planned_from_feed
from holdfast.engine.snapshot.opened import OpenSnapshot
from holdfast.engine.snapshot.read import open_snapshot
from holdfast.engine.snapshot.records import CommitRecord

#: Folders whose name is the digest of what they hold (`put_snapshot`): written once.
_IMMUTABLE = re.compile(r"(?:^|/)[0-9a-f]{32}$")


@dataclass(frozen=True)
class PointInTime:
    """What `holdfast sync status` says of one snapshot at one site.

    A reader never gets other bytes than the snapshot's either way; this says whether it will get them.
    """

    snapshot_id: str
    #: ``True``: all its objects stood together at one moment, and whatever writers do to the dataset's folder, its
    #: bytes stay readable. ``None``: not known; never more for a snapshot that was planned from a feed.
    holds: bool | None
    how: Literal["write-once keys", "versioned bucket", "direct layout", "unknown"]
    reason: str
    #: Objects whose bytes lie where a writer of the dataset may overwrite them.
    exposed_objects: int
    total_objects: int
    #: With `feed`: which objects to look at a change feed said, so that nothing proves a common moment.
    planned_from: Literal["listing", "feed"] = "listing"

    @property
    def text(self) -> str:
        """One line."""
        state = {True: "point-in-time", False: "not point-in-time", None: "unknown"}[self.holds]
        return f"{state}: {self.reason}"


def point_in_time(store: ObjectStore, record: CommitRecord, *, versioned: bool | None = None) -> PointInTime:
    """What guarantee a site gives for a snapshot.

    Args:
        store: the site's store; the snapshot is committed there.
        versioned: whether its bucket keeps overwritten and removed versions, when the caller knows (the probe of
            `holdfast doctor` finds out); by default what the store's capabilities say. Unknown is not yes.

    Raises:
        ManifestDamaged: as `open_snapshot`.
    """
    known = store.capabilities().versions if versioned is None else versioned
    return judge(open_snapshot(store, record), known)


def judge(opened: OpenSnapshot, versioned: bool | None) -> PointInTime:
    """As `point_in_time`, of an open snapshot; ``versioned`` is what is known of the bucket."""
    kept = _kept(opened, versioned)
    if not planned_from_feed(opened.record):
        return kept
    last = opened.record.labels.get(LAST_FULL_LOOK, "at a time that is not known")
    return replace(
        kept,
        holds=None if kept.holds else kept.holds,
        reason=f"planned from a change feed, which proves no common moment (last full look {last}); {kept.reason}",
        planned_from="feed",
    )


def _kept(opened: OpenSnapshot, versioned: bool | None) -> PointInTime:
    """Whether the snapshot's bytes stay readable, whatever is known of the moment they are of."""
    record, total = opened.record, opened.manifest.object_count
    folder = keys.data_folder(record.path) + "/"
    inside = f"{folder}{keys.VERSIONS}/"
    rows = [opened.placed[path] for path in opened.manifest.paths if path in opened.placed]
    exposed = [row for row in rows if row.key is None or not row.key.startswith(inside)]
    if not exposed or _IMMUTABLE.search(record.path):
        where = "in a folder named for its content" if exposed else f"under {inside}"
        return PointInTime(
            record.snapshot_id, True, "write-once keys", f"every object lies {where}, written once", 0, total
        )
    count = len(exposed)
    named = sum(1 for row in exposed if row.version is not None)
    if versioned and named == count:
        return PointInTime(
            record.snapshot_id,
            True,
            "versioned bucket",
            f"the bucket keeps versions, and the placement names the version of all {count} objects at their own keys",
            count,
            total,
        )
    if versioned:
        return PointInTime(
            record.snapshot_id,
            None,
            "unknown",
            f"the bucket keeps versions, but the placement names none for {count - named} of {count} objects at their "
            "own keys",
            count,
            total,
        )
    at_risk = f"{count} of {total} objects lie at their own keys, where a writer may overwrite them"
    if versioned is None:
        return PointInTime(
            record.snapshot_id,
            None,
            "unknown",
            f"{at_risk}; whether the bucket keeps versions is not known",
            count,
            total,
        )
    return PointInTime(
        record.snapshot_id,
        False,
        "direct layout",
        f"{at_risk}, and the bucket keeps no versions; `layout: staged` keeps every snapshot",
        count,
        total,
    )
