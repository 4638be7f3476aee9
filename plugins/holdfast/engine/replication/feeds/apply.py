"""From what was known and what a feed says to a listing as if listed now, at O(changes) requests.

Every key a feed names is asked for (HEAD), whatever the event says about it: an event may be older than another one
that came before it, and a delete may have been followed by a put whose event is still on its way. So the order in
which events come, and how often, does not matter: once the last event of a key has come, its row is the truth.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import pyarrow as pa
import pyarrow.compute as pc

from holdfast.engine.objectstore.errors import ObjectNotFound
from holdfast.engine.objectstore.interface import ObjectInfo, ObjectStore
from holdfast.engine.objectstore.pages import table_of
from holdfast.engine.replication.feeds.interface import Change, Changes
from holdfast.engine.snapshot.threads import in_threads

#: Asks the store for one key's state now; ``None`` or ObjectNotFound: there is no object.
Head = Callable[[str], ObjectInfo | None]


def apply_changes(
    known: pa.Table, changes: Changes | Iterable[Change], head: Head, *, threads: int = 16, folder: str = ""
) -> pa.Table:
    """The listing of the source, as if it had been listed now.

    Args:
        known: the listing before (schema `LISTING`), sorted by key.
        changes: what a feed says. Of an inventory only the keys that differ from ``known`` are asked for.
        head: the truth about one key. `as_listed` gives exactly a listing's facts; ``store.head`` may tell times in
            another precision than a listing does.
        threads: keys asked for at once.
        folder: with an inventory, only keys that begin with this count as removed.

    Raises:
        StoreUnavailable: a key could not be asked for. Nothing is to be acknowledged then.
    """
    keys = changed_keys(known, changes, folder=folder)
    if not keys:
        return known

    def ask(key: str) -> ObjectInfo | None:
        try:
            return head(key)
        except ObjectNotFound:
            return None

    found = [info for info in in_threads(ask, keys, threads=threads, name="holdfast-feed") if info is not None]
    kept = known.filter(pc.invert(pc.is_in(known["key"], value_set=pa.array(keys, pa.large_string()))))
    merged = pa.concat_tables([kept, listing_of(found)]).combine_chunks()
    return merged.take(pc.sort_indices(merged["key"]))


def changed_keys(known: pa.Table, changes: Changes | Iterable[Change], *, folder: str = "") -> list[str]:
    """The keys whose state has to be asked for, sorted."""
    if isinstance(changes, Changes):
        if changes.listing is not None:
            return different_keys(_under(known, folder), _under(changes.listing, folder))
        changes = changes.changes
    return sorted({change.key for change in changes})


def different_keys(left: pa.Table, right: pa.Table) -> list[str]:
    """The keys that stand in one listing only, or differ in both by size, ETag, else version, else time, sorted."""
    place = pc.index_in(left["key"], value_set=right["key"].combine_chunks())
    in_both = pc.is_valid(place)
    mine, theirs = left.filter(in_both), right.take(place.filter(in_both))
    # Most rows are equal to the letter; only the others are looked at closely.
    equal = pc.and_(pc.equal(mine["size_bytes"], theirs["size_bytes"]), pc.equal(mine["e_tag"], theirs["e_tag"]))
    open_rows = pc.invert(pc.fill_null(equal, False))
    mine, theirs = mine.filter(open_rows), theirs.filter(open_rows)
    found = [
        left["key"].filter(pc.invert(in_both)),
        mine["key"].filter(pc.invert(_same(mine, theirs))),
        right["key"].filter(pc.invert(pc.is_in(right["key"], value_set=left["key"].combine_chunks()))),
    ]
    return sorted(key for keys in found for key in keys.to_pylist())


def as_listed(store: ObjectStore) -> Head:
    """A key's state in exactly the facts a listing shows: the first entry of a listing that begins with the key.

    A HEAD on S3 tells whole seconds and a version id, a listing tells milliseconds and none; whoever compares the two
    sees changes that are none.
    """

    def head(key: str) -> ObjectInfo | None:
        for info in store.list(key):
            return info if info.key == key else None
        return None

    return head


def listing_of(infos: Iterable[ObjectInfo]) -> pa.Table:
    """Objects as a table (schema `LISTING`), sorted by key."""
    return table_of(sorted(infos, key=lambda info: info.key.encode()))


def _under(table: pa.Table, folder: str) -> pa.Table:
    return table.filter(pc.starts_with(table["key"], folder)) if folder else table


def _same(left: pa.Table, right: pa.Table) -> pa.ChunkedArray:
    """Row by row, of the same keys: whether both name one state."""
    tags = [pc.replace_substring(side["e_tag"], '"', "") for side in (left, right)]
    seconds = [pc.floor_temporal(side["modified_at"], unit="second") for side in (left, right)]
    state = pc.coalesce(pc.equal(*tags), pc.equal(left["version"], right["version"]), pc.equal(*seconds))
    return pc.and_(pc.equal(left["size_bytes"], right["size_bytes"]), state)
