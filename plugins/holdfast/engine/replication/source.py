"""What the source has: its folder as listed, against the last snapshot. Tables throughout, so that counts may be large.

The rules are those of `snapshot.take`, row for row: what may be kept by its version, what lies under ``.versions/``,
what is a leftover of some replication and no data.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from holdfast.engine.objectstore.interface import ObjectStore
from holdfast.engine.objectstore.listing import list_table
from holdfast.engine.replication.reports import Refusal
from holdfast.engine.snapshot import keys
from holdfast.engine.snapshot.manifest import SCHEMA as MANIFEST
from holdfast.engine.snapshot.placement import SCHEMA

#: A placement's columns: where bytes lie, in which state they were hashed, what lies at their own key instead.
STATE = SCHEMA.remove_metadata()
#: One object of the source's folder: its path in the dataset and in the folder, and its state.
LIVE = pa.schema(
    [
        pa.field("path", pa.string()),
        pa.field("relative", pa.string()),
        *(STATE.field(name) for name in ("key", "size_bytes", "version", "e_tag", "modified_at")),
    ]
)
_FACTS = ("key", "size_bytes", "version", "e_tag", "modified_at")
#: Decides by a listing's paths in the folder: a table with ``path``, one row for each row kept, and the refusals.
Select = Callable[[pa.Table], tuple[pa.Table, tuple[Refusal, ...]]]


@dataclass(frozen=True)
class Look:
    """One listing of the source's folder."""

    #: Schema `LIVE`, sorted by path.
    live: pa.Table
    #: The keys under ``.versions/``.
    inside: pa.ChunkedArray
    refused: tuple[Refusal, ...]

    def same_as(self, other: Look) -> bool:
        """Whether every object stands in the same state in both."""
        return bool(self.live.equals(other.live))


@dataclass(frozen=True)
class Choice:
    """What belongs to the dataset: objects whose digest is known, and objects still to be read."""

    #: Schema `STATE`, sorted by path.
    chosen: pa.Table
    #: Schema `LIVE` and ``before``, the digest the path had.
    fresh: pa.Table


def look(store: ObjectStore, folder: str, select: Select, *, listing: pa.Table | None = None) -> Look:
    """List the folder.

    Args:
        select: the policy's filters and renames.
        listing: of the folder, where one is known already.
    """
    prefix = keys.data_folder(folder) + "/"
    table = (list_table(store, prefix) if listing is None else listing).select(
        ["key", "size_bytes", "version", "e_tag", "modified_at"]
    )
    table = table.cast(pa.schema([STATE.field(name) for name in table.schema.names]))
    relative = pc.utf8_slice_codeunits(table["key"], start=len(prefix)) if table.num_rows else table["key"]
    hidden = pc.starts_with(relative, keys.VERSIONS + "/")
    # Empty objects whose name ends in a slash are folder markers of other tools.
    marker = pc.and_(pc.ends_with(relative, "/"), pc.equal(table["size_bytes"], 0))
    ours = pc.invert(pc.or_(pc.or_(hidden, marker), pc.equal(relative, "")))
    live = table.append_column("relative", relative).filter(ours)
    live, refused = select(live)
    live = live.select(LIVE.names).cast(LIVE)
    if not _ascending(live["path"]):
        live = live.sort_by("path")
    return Look(live.combine_chunks(), table["key"].filter(hidden), refused)


def _ascending(paths: pa.ChunkedArray) -> bool:
    if len(paths) < 2:
        return True
    return bool(pc.all(pc.less(paths[:-1], paths[1:])).as_py())


def choose(seen: Look, state: pa.Table, *, versions_identify: bool) -> Choice:
    """Tell what need not be read from what must.

    Args:
        state: schema `STATE`, sorted by path: what was hashed so far, and leftovers (``key`` is null).
        versions_identify: the store's versions identify content.
    """
    both = _beside(seen.live, state)
    k_key = both["k_key"]
    here = pc.fill_null(pc.equal(k_key, both["key"]), False)
    displaced = pc.and_(pc.and_(both["k_here"], pc.invert(here)), _other_is_still(both))
    still = pc.and_(pc.and_(here, _is_still(both)), pa.scalar(versions_identify))
    if pc.all(still).as_py() is True and both.num_rows == state.num_rows:
        return Choice(state, _fresh(both.slice(0, 0)))
    keep = pc.or_(still, pc.and_(displaced, pc.is_valid(k_key)))
    chosen = [_known(both.filter(keep)), _inside_only(seen, state)]
    fresh = both.filter(pc.invert(pc.or_(displaced, still)))
    return Choice(pa.concat_tables(chosen).sort_by("path").combine_chunks(), _fresh(fresh))


def _beside(live: pa.Table, state: pa.Table) -> pa.Table:
    """Each listed object with what is known of its path, in columns that begin with ``k_``."""
    known = state.rename_columns([f"k_{name}" for name in state.schema.names])
    known = known.append_column("k_here", pa.repeat(pa.scalar(True), known.num_rows))
    if live.num_rows == state.num_rows and live["path"].equals(state["path"]):
        for name in known.schema.names[1:]:
            live = live.append_column(name, known[name])
        return live
    both = live.join(known, keys="path", right_keys="k_path", join_type="left outer").sort_by("path")
    at = both.schema.get_field_index("k_here")
    return both.set_column(at, "k_here", pc.fill_null(both["k_here"], False))


def same_version(left_tag: Any, left_version: Any, right_tag: Any, right_version: Any) -> Any:
    """As `placement.same_version`, for columns: ETags decide where both have one."""
    return pc.fill_null(pc.coalesce(pc.equal(left_tag, right_tag), pc.equal(left_version, right_version)), False)


def _is_still(both: pa.Table) -> Any:
    same = same_version(both["e_tag"], both["version"], both["k_e_tag"], both["k_version"])
    facts = pc.and_kleene(
        pc.equal(both["size_bytes"], both["k_size_bytes"]), pc.equal(both["modified_at"], both["k_modified_at"])
    )
    return pc.and_(same, pc.fill_null(facts, False))


def _other_is_still(both: pa.Table) -> Any:
    same = same_version(both["e_tag"], both["version"], both["k_other_e_tag"], both["k_other_version"])
    return pc.and_(same, pc.fill_null(pc.equal(both["modified_at"], both["k_other_modified_at"]), False))


def _known(both: pa.Table) -> pa.Table:
    columns = [both["path"], *(both[f"k_{name}"] for name in STATE.names[1:])]
    return pa.table(columns, names=STATE.names).cast(STATE)


def _fresh(both: pa.Table) -> pa.Table:
    return both.select([*LIVE.names, "k_digest"]).rename_columns([*LIVE.names, "before"])


def _inside_only(seen: Look, state: pa.Table) -> pa.Table:
    """Objects that lie under ``.versions/`` alone: nothing is at their own key, nor was when they were hashed."""
    if not len(seen.inside):
        return state.slice(0, 0)
    bare = pc.and_(pc.is_null(state["other_e_tag"]), pc.is_null(state["other_version"]))
    inside = pc.is_in(state["key"], value_set=_one(seen.inside))
    gone = pc.invert(pc.is_in(state["path"], value_set=_one(seen.live["path"])))
    return state.filter(pc.and_(pc.and_(bare, inside), gone))


def _one(column: pa.ChunkedArray) -> pa.Array:
    joined = column.combine_chunks()
    return joined if isinstance(joined, pa.Array) else pa.concat_arrays(joined.chunks)


def merge(state: pa.Table, rows: pa.Table) -> pa.Table:
    """The state with these rows (schema `STATE`) instead of what it had of their paths."""
    if not rows.num_rows:
        return state
    rest = state.filter(pc.invert(pc.is_in(state["path"], value_set=_one(rows["path"]))))
    return pa.concat_tables([rest, rows.cast(STATE)]).sort_by("path").combine_chunks()


def hashed_rows(fresh: pa.Table, digests: pa.Array) -> pa.Table:
    """Rows of schema `STATE` for objects (schema `LIVE`) that were read and hashed."""
    columns = [
        fresh["path"] if name == "path" else digests if name == "digest" else _fact(fresh, name) for name in STATE.names
    ]
    return pa.table(columns, names=STATE.names).cast(STATE)


def _fact(fresh: pa.Table, name: str) -> Any:
    return fresh[name] if name in _FACTS else pa.nulls(fresh.num_rows, STATE.field(name).type)


def left_over_rows(seen: Look, fresh: pa.Table, state: pa.Table) -> pa.Table:
    """Rows of schema `STATE` for listed objects that came with some replication and are no data of the dataset.

    Where the dataset's own bytes of that path still lie under ``.versions/``, the row is theirs.
    """
    both = _beside(fresh.select(LIVE.names), state)
    spare = pc.fill_null(pc.is_in(both["k_key"], value_set=_one(seen.inside)), False)
    columns = {"path": both["path"]}
    for name in ("key", "digest", "size_bytes", "version", "e_tag", "modified_at"):
        columns[name] = pc.if_else(spare, both[f"k_{name}"], pa.scalar(None, STATE.field(name).type))
    for name in ("version", "e_tag", "modified_at"):
        columns[f"other_{name}"] = both[name]
    return pa.table(columns).select(STATE.names).cast(STATE)


def content(state: pa.Table) -> pa.Table:
    """The rows that are objects, without what lies beside them: equal tables are one point in time."""
    return state.filter(pc.is_valid(state["key"])).select(STATE.names[:7])


def manifest_table(chosen: pa.Table) -> pa.Table:
    """A manifest's table of these rows."""
    return chosen.select(MANIFEST.names).cast(MANIFEST)
