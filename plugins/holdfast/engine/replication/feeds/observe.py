"""One run with a feed: what the source holds now, and after the commit the record that it is accounted for.

state = load_state(bucket, dataset=…, site=…, feed=feed.identity)
seen = observe(feed, state, source=store, folder=…, policy=policy, clock=clock)
…  # take and publish from `seen.listing`
settle(bucket, feed, state, seen, snapshot_id=…, clock=clock)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial

import pyarrow as pa

from holdfast.clock import Clock
from holdfast.engine.config.sync import Sync
from holdfast.engine.objectstore.interface import ObjectStore
from holdfast.engine.objectstore.listing import list_table
from holdfast.engine.replication.feeds.apply import apply_changes, as_listed
from holdfast.engine.replication.feeds.cursor import FeedState, save_state
from holdfast.engine.replication.feeds.errors import FeedDamaged, FeedError, FeedRewound
from holdfast.engine.replication.feeds.interface import ChangeFeed, Changes, Rejected
from holdfast.engine.replication.feeds.reconcile import FeedReport, compare, due_for_reconcile
from holdfast.engine.snapshot.keys import data_folder

#: Changes taken in by one run; the rest waits for the next.
LIMIT = 200_000


@dataclass(frozen=True)
class Observation:
    """What one run saw of the source.

    Args:
        listing: everything under the folder (schema `LISTING`), as if listed now.
        polled: what the feed said, to be acknowledged once the listing is in a committed snapshot.
        cursor: where the next run polls from.
        why_full: why the folder was listed in full; ``None``: the listing comes from the feed.
        last_full_at: when the last full listing began, this one included.
        report: with a full listing of a folder that was known: what the feed had missed.
        is_known: the listing is the recorded one, nothing changed.
    """

    listing: pa.Table = field(repr=False)
    polled: tuple[Changes, ...] = field(repr=False)
    cursor: str
    why_full: str | None
    last_full_at: datetime
    report: FeedReport | None
    is_known: bool

    @property
    def rejected(self) -> tuple[Rejected, ...]:
        """What could not be understood."""
        return _rejected(self.polled)

    def as_changes(self) -> Changes | None:
        """The listing as an inventory, for a sync that compares one with its base and asks for what differs.

        ``None`` after a full listing: the sync is to list as well, which costs less than asking for every key it does
        not know.
        """
        if self.why_full is not None:
            return None
        return Changes((), self.cursor, complete=self.complete, listing=self.listing, as_of=self.last_full_at)

    @property
    def complete(self) -> bool:
        """Whether the feed had nothing more to say."""
        return bool(self.polled) and self.polled[-1].complete


def observe(
    feed: ChangeFeed,
    state: FeedState,
    *,
    source: ObjectStore,
    folder: str,
    policy: Sync,
    clock: Clock,
    inventory: ChangeFeed | None = None,
    list_all: Callable[[], pa.Table] | None = None,
    limit: int = LIMIT,
    threads: int = 16,
) -> Observation:
    """The source's listing: from the feed at O(changes) requests, or in full where that is due or the feed fails.

    Args:
        feed: what says what changed.
        state: of `load_state`, for this feed.
        source: the site's store.
        folder: the dataset's folder under ``data/``.
        policy: ``reconcile_every_seconds``.
        inventory: a feed of whole inventories, used instead of a listing where it is newer than the last full one.
        list_all: lists the folder; by default `list_table`.
        limit: changes taken in at most, unless the folder is listed in full.
        threads: requests at once.

    Raises:
        StoreUnavailable: the source did not answer.
        ConfigError: there is no such feed, or no right to read it.
    """
    prefix = f"{data_folder(folder)}/"
    began = clock.now()
    polled, cursor, why = _poll(feed, state.cursor, limit)
    why = why or state.why_full
    report = None
    if why is None and state.known is not None and state.last_full_at is not None:
        look = partial(apply_changes, head=as_listed(source), threads=threads, folder=prefix)
        seen = _FromFeed(state.known, state.last_full_at)
        for changes in polled:
            seen = seen.with_changes(changes, look)
        due = partial(due_for_reconcile, now=began, policy=policy, rejected=_rejected(polled))
        why = due(seen.full_at)
        if why is not None and (newer := _newer_inventory(inventory, seen.full_at)) is not None:
            before, seen = seen.listing, seen.with_changes(newer, look)
            report, why = compare(before, _NOTHING, seen.listing), due(seen.full_at)
        if why is None:
            same = seen.listing.equals(state.known)
            return Observation(seen.listing, polled, cursor, None, seen.full_at, report, is_known=same)
    listing = list_all() if list_all is not None else list_table(source, prefix, threads=threads)
    if state.known is not None:
        report = compare(state.known, _merged(polled), listing)
    same = state.known is not None and listing.equals(state.known)
    return Observation(listing, polled, cursor, why, began, report, is_known=same)


@dataclass(frozen=True)
class _FromFeed:
    """A listing made from hints, and when the last look at everything began."""

    listing: pa.Table
    full_at: datetime

    def with_changes(self, changes: Changes, look: Callable[[pa.Table, Changes], pa.Table]) -> _FromFeed:
        full_at = max(self.full_at, changes.as_of) if changes.full and changes.as_of else self.full_at
        return _FromFeed(look(self.listing, changes), full_at)


def renew(feed: ChangeFeed, seen: Observation) -> None:
    """Keep what was polled from coming again while a long sync runs. Call it every few minutes."""
    for changes in seen.polled:
        feed.renew(changes)


def settle(
    store: ObjectStore, feed: ChangeFeed, state: FeedState, seen: Observation, *, snapshot_id: str | None, clock: Clock
) -> FeedState:
    """After the commit: record what is accounted for, then tell the feed never to send it again.

    A crash before, between or after leaves duplicates: the next run applies the same changes to the older record.

    Raises:
        FeedStateConflict: another run recorded something since `load_state`. Nothing was acknowledged.
        FeedUnavailable: it is recorded, and the changes will come again.
    """
    unchanged = seen.is_known and seen.cursor == (state.cursor or "") and seen.last_full_at == state.last_full_at
    if not unchanged:
        state = save_state(
            store,
            state,
            cursor=seen.cursor,
            listing=seen.listing,
            snapshot_id=snapshot_id,
            last_full_at=seen.last_full_at,
            now=clock.now(),
        )
    for changes in seen.polled:
        feed.acknowledge(changes)
    return state


_NOTHING = Changes((), "", complete=True)


def _poll(feed: ChangeFeed, cursor: str | None, limit: int) -> tuple[tuple[Changes, ...], str, str | None]:
    """What the feed says, where to go on, and why a full listing is needed when the feed cannot be relied on."""
    polled: list[Changes] = []
    taken = 0
    try:
        while taken < limit:
            changes = feed.poll(polled[-1].cursor if polled else cursor, limit - taken)
            polled.append(changes)
            taken += max(1, len(changes.changes))
            if changes.complete:
                break
    except FeedError as error:
        end = _end(feed) if isinstance(error, FeedRewound | FeedDamaged) else None
        # What the cursor cannot reach any more a full listing shows: go on from the feed's present end.
        polled += [end] if end is not None else []
        return tuple(polled), polled[-1].cursor if polled else cursor or "", str(error)
    return tuple(polled), polled[-1].cursor, None


def _end(feed: ChangeFeed) -> Changes | None:
    try:
        return feed.poll(None, 1)
    except FeedError:
        return None


def _newer_inventory(inventory: ChangeFeed | None, last_full_at: datetime) -> Changes | None:
    """A whole inventory that is newer than the last look at everything."""
    if inventory is None:
        return None
    try:
        changes = inventory.poll(None, 1)
    except FeedError:
        return None  # a listing does it as well
    return changes if changes.full and changes.as_of is not None and changes.as_of > last_full_at else None


def _rejected(polled: Sequence[Changes]) -> tuple[Rejected, ...]:
    return tuple(one for changes in polled for one in changes.rejected)


def _merged(polled: tuple[Changes, ...]) -> Changes:
    return Changes(tuple(change for changes in polled for change in changes.changes), "", complete=True)
