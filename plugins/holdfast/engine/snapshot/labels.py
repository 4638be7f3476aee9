"""Labels a sync puts on its own snapshots: that one was planned from a change feed, which proves no common moment."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from holdfast.engine.snapshot.records import CommitRecord

#: ``feed``: which objects to look at a change feed said. Without it the folder was listed, twice.
PLANNED_FROM = "planned_from"
#: When the last full look at the source began before such a snapshot; without it: not known.
LAST_FULL_LOOK = "last_full_look"


def feed_labels(last_full_look: datetime | None) -> dict[str, str]:
    """The labels of a snapshot that is planned from a feed.

    Args:
        last_full_look: when the newest listing of everything began, that the feed's changes were applied to.
    """
    known = {} if last_full_look is None else {LAST_FULL_LOOK: last_full_look.isoformat()}
    return {PLANNED_FROM: "feed", **known}


def feed_labels_of(record: CommitRecord) -> Mapping[str, str]:
    """Of a snapshot's labels those that say it was planned from a feed; empty: it was not."""
    if record.labels.get(PLANNED_FROM) != "feed":
        return {}
    return {name: record.labels[name] for name in (PLANNED_FROM, LAST_FULL_LOOK) if name in record.labels}


def planned_from_feed(record: CommitRecord | None) -> bool:
    """Whether nothing proves that all of a snapshot's objects stood together at one moment."""
    return record is not None and bool(feed_labels_of(record))
