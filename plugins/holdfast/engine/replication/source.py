"""What the source has: its folder as listed, against what was hashed so far. Tables throughout: counts may be large.

What may be kept by its version, what lies under ``.versions/`` and what is no data of the dataset is `plan_changes`'s
to say; here its answer becomes the rows a snapshot is made of.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from holdfast.engine.config.sync import Sync
from holdfast.engine.objectstore.errors import InvalidKey
from holdfast.engine.objectstore.interface import ObjectStore
from holdfast.engine.objectstore.keys import check_key
from holdfast.engine.objectstore.listing import LISTING, list_table
from holdfast.engine.replication.plan import Action, Reason, plan_changes, rows_of
from holdfast.engine.replication.reports import Refusal
from holdfast.engine.snapshot import keys
from holdfast.engine.snapshot.manifest import SCHEMA as MANIFEST
from holdfast.engine.snapshot.placement import SCHEMA

#: A placement's columns: where bytes lie, in which state they were hashed, what lies at their own key instead.
STATE = SCHEMA.remove_metadata()
FACTS = ("key", "size_bytes", "version", "e_tag", "modified_at")
#: An object to be read: its state as listed, the digest its path had, and when it is copied.
FRESH = pa.schema(
    [
        pa.field("path", pa.string()),
        *(STATE.field(name) for name in FACTS),
        pa.field("before", pa.string()),
        pa.field("wave", pa.int8()),
    ]
)
_MOST_REFUSALS = 1000
_WAY_OUT = "rename the object, or exclude it by `sync.filters.exclude`"


@dataclass(frozen=True)
class Look:
    """One listing of the source's folder, against what was hashed so far."""

    #: Every object of the dataset as listed: path, key, size, time, and what names its state.
    standing: pa.Table
    #: The objects whose digest is known: schema `STATE`, sorted by path.
    chosen: pa.Table
    #: The objects still to be read: schema `FRESH`.
    fresh: pa.Table
    #: What lies in the folder after some replication and is no data: schema `STATE`, without keys.
    left_over: pa.Table
    #: The keys under ``.versions/``.
    inside: pa.Array
    refused: tuple[Refusal, ...]
    #: What it was made of.
    listing: pa.Table

    def same_as(self, other: Look) -> bool:
        """Whether every object of the dataset stands in the same state in both."""
        return bool(self.standing.equals(other.standing))


def look(
    store: ObjectStore, folder: str, state: pa.Table, *, policy: Sync, now: datetime, listing: pa.Table | None = None
) -> Look:
    """List the source's folder.

    Args:
        state: schema `STATE`, sorted by path: what was hashed so far, and leftovers (``key`` is null).
        now: for the policy's ages; the same throughout a run.
        listing: of the folder, where one is known already.
    """
    prefix = keys.data_folder(folder) + "/"
    table = list_table(store, prefix) if listing is None else listing
    identify = store.capabilities().pinned_reads is True
    actions = plan_changes(table, state, folder=folder, policy=policy, now=now, versions_identify=identify)
    inside = one_array(
        table["key"].filter(pc.starts_with(table["key"], prefix + keys.VERSIONS + "/")).cast(pa.string())
    )
    keep, copy, refuse = (rows_of(actions, wanted) for wanted in (Action.KEEP, Action.COPY, Action.REFUSE))
    skip = rows_of(actions, Action.SKIP)
    stray = skip.filter(pc.equal(skip["reason"], Reason.LEFTOVER.value))["path"]
    return Look(
        standing=_standing(actions),
        chosen=_chosen(keep, state),
        fresh=_fresh(copy, state),
        left_over=state.filter(pc.and_(pc.is_null(state["key"]), is_among(state["path"], stray))),
        inside=inside,
        refused=refusals(refuse, prefix),
        listing=table,
    )


def _standing(actions: pa.Table) -> pa.Table:
    """In the plan's order, by wave and path, which does not depend on what is known of an object.

    The version counts where there is no ETag only: a listing may lack it, and then the plan knows it from the read.
    """
    rows = actions.select(["path", "key", "size_bytes", "modified_at"])
    rows = rows.append_column("state", pc.coalesce(actions["e_tag"], actions["version"]))
    ours = (Action.KEEP.value, Action.COPY.value, Action.REFUSE.value)
    mine = pc.is_in(actions["action"], value_set=pa.array(ours))
    return rows if pc.all(mine).as_py() else rows.filter(mine)


def refusals(refuse: pa.Table, prefix: str) -> tuple[Refusal, ...]:
    """What cannot be taken, the first thousand, in words.

    Args:
        refuse: rows of schema `ACTIONS`.
        prefix: of the dataset's folder, ending with ``/``.
    """
    rows = refuse.slice(0, _MOST_REFUSALS).select(["path", "reason"]).to_pylist()
    return tuple(Refusal(row["path"], _in_words(prefix + row["path"], row["reason"])) for row in rows)


def _in_words(key: str, reason: str) -> str:
    if reason != Reason.KEY.value:
        return str(reason)
    try:
        check_key(key, "")
    except InvalidKey as error:
        return f"its key has {error.found}; {_WAY_OUT}"
    return f"not every store keeps its key as it is; {_WAY_OUT}"


def _chosen(keep: pa.Table, state: pa.Table) -> pa.Table:
    if keep.num_rows == state.num_rows:
        return state
    return state.filter(pc.and_(pc.is_valid(state["key"]), is_among(state["path"], keep["path"])))


def _fresh(copy: pa.Table, state: pa.Table) -> pa.Table:
    paths = copy["path"].cast(pa.string())
    at = pc.index_in(paths, value_set=one_array(state["path"]))
    columns = [paths, *(copy[name] for name in FACTS), state["digest"].take(at), copy["wave"]]
    return pa.table(columns, names=FRESH.names).cast(FRESH)


def one_array(column: pa.ChunkedArray) -> pa.Array:
    """A column in one piece."""
    joined = column.combine_chunks()
    return joined if isinstance(joined, pa.Array) else pa.concat_arrays(joined.chunks)


def is_among(column: pa.ChunkedArray, values: pa.ChunkedArray) -> pa.ChunkedArray:
    """Which of the column's texts are among these."""
    return pc.is_in(column, value_set=one_array(values.cast(column.type)))


def merge(state: pa.Table, rows: pa.Table) -> pa.Table:
    """The state with these rows (schema `STATE`) instead of what it had of their paths."""
    if not rows.num_rows:
        return state
    if not state.num_rows:
        return _by_path(rows.cast(STATE))
    rest = state.filter(pc.invert(is_among(state["path"], rows["path"])))
    return _by_path(pa.concat_tables([rest, rows.cast(STATE)]))


def _by_path(rows: pa.Table) -> pa.Table:
    path = rows["path"]
    in_order = len(path) < 2 or pc.all(pc.less(path[:-1], path[1:])).as_py()
    return (rows if in_order else rows.sort_by("path")).combine_chunks()


def hashed_rows(fresh: pa.Table, digests: pa.Array, versions: pa.Array | None = None) -> pa.Table:
    """Rows of schema `STATE` for objects (schema `FRESH`) that were read and hashed.

    Args:
        versions: as the read told them: a listing of S3 or GCS names none, and by its version an object can still be
            read when it was overwritten.
    """
    columns = {"path": fresh["path"], "digest": digests}
    for name in STATE.names[2:]:
        columns.setdefault(name, _fact(fresh, name))
    columns["key"] = fresh["key"]
    if versions is not None:
        columns["version"] = pc.coalesce(fresh["version"], versions)
    return pa.table([columns[name] for name in STATE.names], names=STATE.names).cast(STATE)


def _fact(fresh: pa.Table, name: str) -> Any:
    return fresh[name] if name in FACTS else pa.nulls(fresh.num_rows, STATE.field(name).type)


def left_over_rows(fresh: pa.Table, state: pa.Table, inside: pa.Array) -> pa.Table:
    """Rows of schema `STATE` for listed objects that came with some replication and are no data of the dataset.

    Where the dataset's own bytes of that path still lie under ``.versions/``, the row is theirs.
    """
    known = state.take(pc.index_in(fresh["path"], value_set=one_array(state["path"])))
    spare = pc.fill_null(pc.is_in(known["key"], value_set=inside), False)
    columns = {"path": fresh["path"]}
    for name in ("key", "digest", "size_bytes", "version", "e_tag", "modified_at"):
        columns[name] = pc.if_else(spare, known[name], pa.scalar(None, STATE.field(name).type))
    for name in ("version", "e_tag", "modified_at"):
        columns[f"other_{name}"] = fresh[name]
    return pa.table(columns).select(STATE.names).cast(STATE)


def content(state: pa.Table) -> pa.Table:
    """The rows that are objects, without what lies beside them: equal tables are one point in time."""
    return state.filter(pc.is_valid(state["key"])).select(["path", "digest", *FACTS]).combine_chunks()


def manifest_table(chosen: pa.Table) -> pa.Table:
    """A manifest's table of these rows."""
    return chosen.select(MANIFEST.names).cast(MANIFEST)


def placement_of(seen: Look, prefix: str) -> pa.Table | None:
    """Where the dataset's bytes lie at the source; ``None``: all at their own keys, and nothing else beside them."""
    own = pc.binary_join_element_wise(pa.scalar(prefix), seen.chosen["path"], pa.scalar(""))
    at_own = pc.all(pc.equal(own, seen.chosen["key"])).as_py() is not False
    if at_own and not seen.left_over.num_rows:
        return None
    return pa.concat_tables([seen.chosen, seen.left_over]).sort_by("path")


def listing_of_state(state: pa.Table, prefix: str) -> pa.Table:
    """What a listing of the source must have shown when this was its state, as far as it matters: schema `LISTING`."""
    known = state.filter(pc.is_valid(state["key"])).select(LISTING.names).cast(LISTING)
    beside = state.filter(pc.is_valid(state["other_modified_at"]))
    own = pc.binary_join_element_wise(pa.scalar(prefix), beside["path"], pa.scalar(""))
    # A placement does not keep the size of what lies beside its objects; its version tells it apart all the same.
    size = pa.repeat(pa.scalar(0, pa.int64()), beside.num_rows)
    columns = [own, size, *(beside[f"other_{name}"] for name in LISTING.names[2:])]
    return pa.concat_tables([known, pa.table(columns, names=LISTING.names).cast(LISTING)]).sort_by("key")
