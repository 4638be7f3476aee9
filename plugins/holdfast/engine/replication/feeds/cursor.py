"""Where a feed was read to, and the source's listing as of then: written only after the snapshot has committed.

Two objects under ``feeds/<dataset>/``: ``<site>.json`` (the cursor) and the listing it names, whose key carries its
digest. The cursor is replaced by compare-and-swap, so of two runs at once one learns that its changes are not
recorded and acknowledges nothing. A crash anywhere leaves the older pair: the same changes are applied again.
"""

from __future__ import annotations

import contextlib
import uuid
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

import pyarrow as pa
from pydantic import ValidationError

from holdfast.engine.objectstore.errors import (
    ObjectExists,
    ObjectNotFound,
    ObjectStoreError,
    PreconditionFailed,
    StoreUnavailable,
)
from holdfast.engine.objectstore.interface import CREATE, OVERWRITE, IfMatch, ObjectStore, ObjectVersion, PutMode
from holdfast.engine.objectstore.listing import LISTING
from holdfast.engine.replication.feeds.errors import FeedStateConflict
from holdfast.engine.snapshot.digest import digest_of
from holdfast.engine.snapshot.documents import Document, UtcTime
from holdfast.engine.snapshot.errors import ManifestDamaged
from holdfast.engine.snapshot.keys import check_name
from holdfast.engine.snapshot.manifest import read_table, write_table

#: The listing as a file: `LISTING` with its format.
LISTING_FILE = LISTING.with_metadata({b"format": b"holdfast.listing/1"})


class FeedCursor(Document):
    """How far a site's feed is accounted for in a dataset's snapshots."""

    format: Literal["holdfast.feed-cursor/1"] = "holdfast.feed-cursor/1"
    dataset: str
    site: str
    feed: str
    cursor: str
    snapshot_id: str | None
    listing_key: str
    listing_digest: str
    last_full_at: UtcTime
    written_at: UtcTime
    write_id: str


@dataclass(frozen=True)
class FeedState:
    """What is durable about a feed. Without ``known`` a full listing is needed, and ``why_full`` says why.

    Args:
        cursor: where to poll from.
        known: the source's listing as of the cursor.
        last_full_at: when the last full listing began.
        record: the cursor object as read.
    """

    dataset: str
    site: str
    feed: str
    cursor: str | None = None
    known: pa.Table | None = field(default=None, repr=False)
    last_full_at: datetime | None = None
    why_full: str | None = None
    record: FeedCursor | None = None
    found: ObjectVersion | None = None


def cursor_key(dataset: str, site: str) -> str:
    return f"feeds/{check_name(dataset)}/{site}.json"


def load_state(store: ObjectStore, *, dataset: str, site: str, feed: str) -> FeedState:
    """What was recorded last. Whatever is missing or damaged is no error: a full listing replaces it.

    Args:
        store: the bucket that keeps the state.
        feed: `ChangeFeed.identity`.

    Raises:
        StoreUnavailable: the bucket cannot be read now.
    """
    blank = FeedState(dataset, site, feed)

    def full(why: str, found: ObjectVersion | None = None) -> FeedState:
        return FeedState(dataset, site, feed, why_full=why, found=found)

    try:
        reader = store.open(cursor_key(dataset, site))
        data = b"".join(reader)
    except ObjectNotFound:
        return full("no cursor yet")
    found = reader.info.version
    try:
        record = FeedCursor.model_validate_json(data)
    except ValidationError:
        return full("the cursor cannot be read", found)
    if record.feed != blank.feed:
        return full(f"the cursor is of another feed, {record.feed}", found)
    try:
        known = store.get(record.listing_key)
        if digest_of(known) != record.listing_digest:
            return full("the recorded listing is damaged", found)
        table = read_table(known, LISTING_FILE, record.listing_key)
    except (ObjectNotFound, ManifestDamaged) as error:
        return full(f"the recorded listing cannot be read: {error.what}", found)
    return FeedState(
        dataset, site, feed, record.cursor, table.cast(LISTING), record.last_full_at, record=record, found=found
    )


def save_state(
    store: ObjectStore,
    state: FeedState,
    *,
    cursor: str,
    listing: pa.Table,
    snapshot_id: str | None,
    last_full_at: datetime,
    now: datetime,
) -> FeedState:
    """Record that everything up to ``cursor`` is in a committed snapshot. Call it before `ChangeFeed.acknowledge`.

    Args:
        state: what `load_state` gave this run.
        cursor: of the last poll.
        listing: the source's listing the snapshot was made of.
        snapshot_id: the snapshot; ``None`` when there was nothing to publish.
        last_full_at: when the last full listing began: this run's, or the state's.

    Raises:
        FeedStateConflict: another run was faster. Acknowledge nothing.
        StoreUnavailable: it is not known whether it was recorded. Acknowledge nothing.
    """
    data = write_table(listing.cast(LISTING).replace_schema_metadata(LISTING_FILE.metadata))
    digest = digest_of(data)
    listing_key = f"feeds/{check_name(state.dataset)}/{state.site}/{digest.partition(':')[2][:32]}.parquet"
    if state.record is None or state.record.listing_key != listing_key:
        store.put(listing_key, data, mode=OVERWRITE)  # the key says what it holds: equal whoever writes it
    record = FeedCursor(
        dataset=state.dataset,
        site=state.site,
        feed=state.feed,
        cursor=cursor,
        snapshot_id=snapshot_id,
        listing_key=listing_key,
        listing_digest=digest,
        last_full_at=last_full_at,
        written_at=now,
        write_id=uuid.uuid4().hex,
    )
    found = _swap(store, state, record)
    before = state.record
    if before is not None and before.listing_key != listing_key:
        with contextlib.suppress(ObjectStoreError):  # litter, not damage
            store.delete(before.listing_key)
    return FeedState(state.dataset, state.site, state.feed, cursor, listing, last_full_at, record=record, found=found)


def _swap(store: ObjectStore, state: FeedState, record: FeedCursor) -> ObjectVersion:
    key = cursor_key(state.dataset, state.site)
    try:
        return store.put(key, record.to_json(), mode=_mode(store, state), content_type="application/json")
    except (ObjectExists, PreconditionFailed, StoreUnavailable) as error:
        if isinstance(error, StoreUnavailable) and not error.outcome_unknown:
            raise
        try:  # an answer that was lost: the write id tells whose it is
            if store.get(key) == record.to_json():
                return store.head(key).version
        except ObjectNotFound:
            pass
        if isinstance(error, StoreUnavailable):
            raise
        raise FeedStateConflict(
            "another run moved the feed's cursor",
            where=f"{store.name}: {key}",
            expected=f"the cursor of {state.record.write_id if state.record else 'nobody'}",
            found="another",
            fix="Run the sync again: the same changes come again and nothing is lost",
        ) from None


def _mode(store: ObjectStore, state: FeedState) -> PutMode:
    if state.found is None:
        return CREATE
    # A local folder has no compare-and-swap; there two runs at once are the caller's to prevent.
    return IfMatch(state.found) if store.capabilities().compare_and_swap else OVERWRITE
