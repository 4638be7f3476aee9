"""What a target has of a dataset, as a table: which digest lies where, in which version, and how that is known."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from holdfast.engine.replication.source import FACTS, STATE, is_among, one_array
from holdfast.engine.snapshot import keys

HAVE = pa.schema(
    [
        pa.field("path", pa.string()),
        pa.field("digest", pa.string()),
        pa.field("key", pa.string()),
        pa.field("version", pa.string()),
        pa.field("e_tag", pa.string()),
        # Null: the write did not tell.
        pa.field("modified_at", STATE.field("modified_at").type),
        # Null: verified for an earlier snapshot.
        pa.field("proof", pa.string()),
    ]
)
_LISTED = pa.schema([STATE.field(name) for name in FACTS])


@dataclass(frozen=True)
class Settled:
    """Where each object of a snapshot lies at a target, by a listing made after it landed there."""

    #: Schema `STATE`: a placement.
    placement: pa.Table
    #: By row of the snapshot: how it is known to be right; null: carried.
    proof: pa.ChunkedArray


def lacking(chosen: pa.Table, have: pa.Table) -> pa.ChunkedArray:
    """Which rows of ``chosen`` (``path``, ``digest``) are not there, by row."""
    at = pc.index_in(chosen["path"], value_set=one_array(have["path"]))
    return pc.invert(pc.fill_null(pc.equal(have["digest"].take(at), chosen["digest"]), False))


def newest(have: pa.Table, rows: pa.Table) -> pa.Table:
    """``have`` with these rows instead of what it had of their paths."""
    if not rows.num_rows:
        return have
    rest = have.filter(pc.invert(is_among(have["path"], rows["path"])))
    return pa.concat_tables([rest, rows]).combine_chunks()


def settle(chosen: pa.Table, have: pa.Table, listing: pa.Table, folder: str) -> tuple[Settled | None, list[str]]:
    """Hold what the target is believed to have against a listing of its folder.

    Args:
        chosen: the snapshot: ``path``, ``digest``, ``size_bytes``, each of which ``have`` has.
        listing: schema `LISTING`.

    Returns:
        the placement; or ``None`` and the paths whose objects do not stand any more.
    """
    listed = listing.select(_LISTED.names).cast(_LISTED)
    listed_keys = one_array(listed["key"])
    mine = have.take(pc.index_in(chosen["path"], value_set=one_array(have["path"]))).combine_chunks()
    there = listed.take(pc.index_in(mine["key"], value_set=listed_keys)).combine_chunks()
    stands = _stands(chosen, mine, there)
    if pc.all(stands).as_py() is False:
        return None, chosen["path"].filter(pc.invert(stands)).to_pylist()
    prefix = keys.data_folder(folder) + "/"
    own = pc.binary_join_element_wise(pa.scalar(prefix), chosen["path"], pa.scalar(""))
    elsewhere = pc.not_equal(own, mine["key"])
    no_key = pa.scalar(None, pa.string())
    other = listed.take(pc.index_in(pc.if_else(elsewhere, own, no_key), value_set=listed_keys))
    other = _without_null_key(other, elsewhere)
    columns = {name: chosen[name] for name in ("path", "digest", "size_bytes")}
    columns["key"] = mine["key"]
    for name in ("version", "e_tag", "modified_at"):
        columns[name] = there[name]
        columns[f"other_{name}"] = other[name]
    placed = pa.table([columns[name] for name in STATE.names], names=STATE.names).cast(STATE)
    stray = _left_over(listed, chosen, prefix)
    if stray.num_rows:
        placed = pa.concat_tables([placed, stray]).sort_by("path")
    return Settled(placed, mine["proof"]), []


def _without_null_key(other: pa.Table, elsewhere: pa.ChunkedArray) -> pa.Table:
    """Nulls where the object lies at its own key: a null is found in no listing, and must not match one either."""
    columns = [pc.if_else(elsewhere, other[name], pa.scalar(None, other[name].type)) for name in other.schema.names]
    return pa.table(columns, names=other.schema.names)


def _stands(chosen: pa.Table, mine: pa.Table, there: pa.Table) -> pa.ChunkedArray:
    tags, versions = pc.equal(mine["e_tag"], there["e_tag"]), pc.equal(mine["version"], there["version"])
    untold = pc.and_(pc.is_null(mine["e_tag"]), pc.is_null(mine["version"]))
    same = pc.or_(untold, pc.fill_null(pc.coalesce(tags, versions), False))
    at = pc.or_(pc.is_null(mine["modified_at"]), pc.fill_null(_equal_times(mine, there), False))
    size = pc.fill_null(pc.equal(chosen["size_bytes"], there["size_bytes"]), False)
    return pc.and_(pc.and_(size, at), same)


def _equal_times(mine: pa.Table, there: pa.Table) -> pa.ChunkedArray:
    return pc.equal(mine["modified_at"], there["modified_at"])


def _left_over(listed: pa.Table, chosen: pa.Table, prefix: str) -> pa.Table:
    """What else lies in the folder: rows of schema `STATE` without keys."""
    path = pc.utf8_slice_codeunits(listed["key"], len(prefix))
    ours = pc.or_(is_among(path, chosen["path"]), pc.starts_with(path, keys.VERSIONS + "/"))
    stray = listed.append_column("path", path).filter(pc.invert(ours))
    columns = {"path": stray["path"], **{f"other_{name}": stray[name] for name in ("version", "e_tag", "modified_at")}}
    arrays = [
        columns[name] if name in columns else pa.nulls(stray.num_rows, STATE.field(name).type) for name in STATE.names
    ]
    return pa.table(arrays, names=STATE.names).cast(STATE)
