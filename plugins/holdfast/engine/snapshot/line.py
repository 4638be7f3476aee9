"""The line of snapshots at a bucket that missed some of it: what it has of before them stays in the ancestry."""

from __future__ import annotations

from collections.abc import Iterator

from holdfast.engine.objectstore.errors import ObjectNotFound
from holdfast.engine.objectstore.interface import OVERWRITE, ObjectStore
from holdfast.engine.snapshot import keys
from holdfast.engine.snapshot.errors import SnapshotError
from holdfast.engine.snapshot.records import CommitRecord, Line, read_line, read_record, record_keys


def bring_line(source: ObjectStore, target: ObjectStore, record: CommitRecord) -> None:
    """Before a snapshot is committed at a target: write the records it missed since the nearest ancestor it has.

    One listing when it missed none. A target that has no ancestor at all needs none.

    Raises:
        StoreUnavailable: one of the two did not answer.
    """
    here = {key.snapshot_id: key for key in record_keys(target, record.dataset)}
    if not here or record.parent is None or record.parent in here:
        return
    oldest = min(here.values()).committed_at
    missed = []
    for one in ancestors(source, record):
        if one.snapshot_id in here:
            break
        missed.append(one)
        if one.committed_at < oldest:
            return  # nothing here is older
    if not missed or missed[-1].parent not in here:
        return
    line = Line(dataset=record.dataset, snapshot_id=record.snapshot_id, records=tuple(missed))
    target.put(
        keys.line_key(record.dataset, record.snapshot_id),
        line.to_json(),
        mode=OVERWRITE,  # a second attempt may know better
        content_type="application/json",
    )


def ancestors(store: ObjectStore, record: CommitRecord) -> Iterator[CommitRecord]:
    """A snapshot's ancestors by their parents, newest first, as far as this bucket knows them."""
    by_id = {key.snapshot_id: key for key in record_keys(store, record.dataset)}
    while record.parent is not None:
        key = by_id.get(record.parent)
        if key is None:
            missed = read_line(store, record)  # the source missed them itself, as a target in an earlier epoch
            yield from missed
            if not missed:
                return
            record = missed[-1]
            continue
        try:
            record = read_record(store, key.key)
        except (ObjectNotFound, SnapshotError):
            return
        yield record
