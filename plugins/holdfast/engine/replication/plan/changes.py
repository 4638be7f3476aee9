"""What changed: a listing against what was known, as joins of sorted blocks. No store is asked, no row is looped over.

The rules are those of `snapshot.take`: an object whose version still is the one hashed keeps its digest unread; one
whose bytes lie under ``.versions/`` stays there while what lies at its own key is what lay there before.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from functools import reduce

import pyarrow as pa
import pyarrow.compute as pc

from holdfast.engine.config.sync import Sync
from holdfast.engine.objectstore.keys import MAXIMUM_KEY_BYTES
from holdfast.engine.replication.plan.errors import PathsCollide
from holdfast.engine.replication.plan.filters import left_out, renamed, wave_of
from holdfast.engine.replication.plan.schema import (
    ACTIONS,
    Action,
    Reason,
    action_code,
    action_words,
    reason_code,
    reason_words,
    with_reason,
)
from holdfast.engine.snapshot import keys
from holdfast.engine.snapshot.placement import SCHEMA as PLACEMENT

#: Rows compared at once: what a join holds in memory does not grow with the dataset.
BLOCK_ROWS = 500_000
#: `objectstore.keys.check_key` as a regular expression of RE2.
_NOT_PLAIN = r"[\x00-\x1f\x7f\\]|(?:\A|/)\.{0,2}(?:/|\z)"
_TEXT = pa.large_string()


def plan_changes(
    listing: pa.Table,
    known: pa.Table | None,
    *,
    folder: str,
    policy: Sync,
    now: datetime,
    versions_identify: bool = True,
) -> pa.Table:
    """What a listing has over what was known of the dataset.

    Args:
        listing: everything under ``data/<folder>/``, schema `LISTING`.
        known: where the objects of the last snapshot lie in this bucket, with the columns of a placement or of a
            manifest (then every object lies at its own key). ``None``: nothing is known.
        folder: the dataset's folder under ``data/``.
        policy: filters, renames and what is copied last.
        now: the wall clock, for ages.
        versions_identify: whether an equal version means equal bytes (`Capabilities.pinned_reads`); otherwise every
            object is read again.

    Returns:
        Schema `ACTIONS`, by wave and path. ``copy``: must be read; ``keep``: as known, with its digest; ``delete``:
        known and gone, or left out by a filter now; ``refuse``: its path cannot be kept by every backend; ``skip``:
        not of the dataset (these rows come last, under the source's relative path; all other paths are unique).
        `youngest_seconds` holds back new objects alone: leaving out a known one that changed would take it from the
        dataset.

    Raises:
        PathsCollide: renames bring two objects to one path.
    """
    live, skipped, inside = _live(listing, folder, policy, now)
    before = _known(known, folder)
    found = [
        _Block(mine, theirs, inside, policy.last, versions_identify).actions() for mine, theirs in _blocks(live, before)
    ]
    table = pa.concat_tables(found) if found else ACTIONS.empty_table()
    table, skipped = _told_apart(table, skipped)
    late = pc.greater(table["wave"], 0)
    if pc.any(late).as_py():
        ends = table.filter(late).sort_by([("wave", "ascending"), ("path", "ascending")])
        table = pa.concat_tables([table.filter(pc.invert(late)), ends])
    return pa.concat_tables([table, skipped])


# -- the two sides -----------------------------------------------------------------------------------------------------


def _live(listing: pa.Table, folder: str, policy: Sync, now: datetime) -> tuple[pa.Table, pa.Table, pa.ChunkedArray]:
    """The dataset's objects by path, those left out as actions, and the keys under ``.versions/``."""
    root = keys.data_folder(folder) + "/"
    own, versions = pc.starts_with(listing["key"], root), pc.starts_with(listing["key"], f"{root}{keys.VERSIONS}/")
    inside = listing["key"].filter(versions)
    listing = _where(pc.and_not(own, versions), listing)
    relative = pc.utf8_slice_codeunits(listing["key"], len(root))
    why = left_out(relative, listing["size_bytes"], listing["modified_at"], policy.filters, now)
    why = pc.if_else(_marker(relative, listing["size_bytes"]), reason_code(Reason.MARKER), why)
    young = pc.fill_null(pc.equal(why, reason_code(Reason.TOO_YOUNG)), False)
    belongs = pc.or_(pc.is_null(why), young)
    table = listing.append_column("path", renamed(relative, policy.rename)).append_column("young", young)
    members = _by_path(_where(belongs, table))
    if policy.rename:
        _check_collisions(members)
    members = members.append_column("plain", _plain(members["path"], root))
    members = members.append_column("wave", wave_of(members["path"], policy.last))
    others = pc.invert(belongs)
    skipped = listing.append_column("path", relative).append_column("why", why).filter(others)
    return members, _skipped(skipped, skipped["why"]), inside


def _where(mask: pa.ChunkedArray, table: pa.Table) -> pa.Table:
    return table if pc.all(mask).as_py() else table.filter(mask)


def _marker(relative: pa.ChunkedArray, size_bytes: pa.ChunkedArray) -> pa.ChunkedArray:
    empty = pc.and_(pc.ends_with(relative, "/"), pc.equal(size_bytes, 0))
    return pc.or_(empty, pc.equal(relative, pa.scalar("", _TEXT)))


def _plain(path: pa.ChunkedArray, root: str) -> pa.ChunkedArray:
    """Which paths every backend keeps as they are."""
    too_long = pc.greater(pc.binary_length(path), MAXIMUM_KEY_BYTES - len(root.encode()))
    return pc.invert(pc.or_(pc.match_substring_regex(path, _NOT_PLAIN), too_long))


def _by_path(table: pa.Table) -> pa.Table:
    path = table["path"]
    in_order = len(path) < 2 or pc.all(pc.less_equal(path[:-1], path[1:])).as_py()
    return table if in_order else table.sort_by("path")


def _check_collisions(members: pa.Table) -> None:
    path = members["path"]
    at = pc.index(pc.equal(path[:-1], path[1:]), value=True).as_py() if len(path) > 1 else -1
    if at < 0:
        return
    one, other = (repr(members["key"][place].as_py()) for place in (at, at + 1))
    raise PathsCollide(
        f"two objects would get the path {path[at].as_py()!r}",
        where="sync.rename",
        expected="one object for each path",
        found=f"{one} and {other}",
        fix="Change `rename`, or leave one of them out with `filters.exclude`",
    )


def _skipped(rows: pa.Table, reasons: pa.ChunkedArray) -> pa.Table:
    return _actions(
        rows,
        action=pa.repeat(action_code(Action.SKIP), rows.num_rows),
        reason=reasons.combine_chunks(),
        wave=pa.repeat(pa.scalar(0, pa.int8()), rows.num_rows),
    )


def _known(known: pa.Table | None, folder: str) -> pa.Table:
    """What was known with the columns of a placement, by path, text as large strings."""
    known = PLACEMENT.empty_table() if known is None else known
    columns = {}
    for field in PLACEMENT:
        kind = _TEXT if field.type == pa.string() else field.type
        if field.name in known.schema.names:
            columns[field.name] = known[field.name].cast(kind)
        elif field.name == "key":
            root, nothing = pa.scalar(f"{keys.data_folder(folder)}/", _TEXT), pa.scalar("", _TEXT)
            columns["key"] = pc.binary_join_element_wise(root, known["path"].cast(_TEXT), nothing)
        else:
            columns[field.name] = pa.chunked_array([pa.nulls(known.num_rows, kind)])
    return _by_path(pa.table(columns))


# -- the join ----------------------------------------------------------------------------------------------------------


def _blocks(live: pa.Table, known: pa.Table) -> Iterator[tuple[pa.Table, pa.Table]]:
    """Both sides cut at the same paths."""
    begin = known_begin = 0
    while begin < live.num_rows or known_begin < known.num_rows:
        end = min(begin + BLOCK_ROWS, live.num_rows)
        if end < live.num_rows:
            known_end = _after(known["path"], live["path"][end - 1].as_py(), known_begin)
        else:
            known_end = known.num_rows
        mine, theirs = live.slice(begin, end - begin), known.slice(known_begin, known_end - known_begin)
        yield mine.combine_chunks(), theirs.combine_chunks()
        begin, known_begin = end, known_end


def _after(paths: pa.ChunkedArray, path: str, low: int) -> int:
    """Where the first path after this one stands, from ``low`` on."""
    high = len(paths)
    while low < high:
        middle = (low + high) // 2
        if paths[middle].as_py() <= path:
            low = middle + 1
        else:
            high = middle
    return low


@dataclass(frozen=True)
class _Block:
    """Some of the live objects and the known ones between the same paths."""

    live: pa.Table
    known: pa.Table
    inside: pa.ChunkedArray
    last: tuple[str, ...]
    identify: bool

    def actions(self) -> pa.Table:
        """The block's rows, by path."""
        if self.live["path"].equals(self.known["path"]):
            return self._compared(self.known)
        at = pc.index_in(self.live["path"], value_set=self.known["path"])
        stays = pc.is_in(self.known["path"], value_set=self.live["path"])
        compared = self._compared(self.known.take(at))
        gone = self._gone(self.known.filter(pc.invert(stays)))
        return pa.concat_tables([compared, gone]).sort_by("path") if gone.num_rows else compared

    def _compared(self, known: pa.Table) -> pa.Table:
        """The live rows; ``known`` has the row of the same path at the same place, or nulls."""
        live = self.live
        at_own = _true(pc.equal(live["key"], known["key"]))
        same_bytes = pc.and_(_true(pc.equal(live["size_bytes"], known["size_bytes"])), _same_version(live, known, ""))
        stands = pc.and_(at_own, same_bytes) if self.identify else pc.and_(at_own, False)
        displaced = pc.and_not(_same_version(live, known, "other_"), at_own)
        has_bytes = pc.is_valid(known["key"])
        elsewhere, leftover = pc.and_(displaced, has_bytes), pc.and_not(displaced, has_bytes)
        early = pc.and_not(live["young"], has_bytes)
        verdicts = (
            (early, Action.SKIP, Reason.TOO_YOUNG),
            (has_bytes, Action.COPY, Reason.CHANGED),
            (pc.invert(live["plain"]), Action.REFUSE, Reason.KEY),
            (leftover, Action.SKIP, Reason.LEFTOVER),
            (elsewhere, Action.KEEP, Reason.ELSEWHERE),
            (stands, Action.KEEP, Reason.UNCHANGED),
        )
        action = reduce(lambda code, row: pc.if_else(row[0], action_code(row[1]), code), verdicts, _COPY)
        reason = reduce(lambda code, row: pc.if_else(row[0], reason_code(row[2]), code), verdicts, _NEW)
        kept = pc.or_(stands, elsewhere)
        digest = pc.if_else(kept, known["digest"], pa.scalar(None, _TEXT))
        rows = live
        if pc.any(elsewhere).as_py():
            for name in ("size_bytes", "key", "e_tag", "version", "modified_at"):
                rows = _replaced(rows, name, pc.if_else(elsewhere, known[name], rows[name]))
        if known["version"].null_count < len(known):  # a listing does not say the generation, what was read did
            version = pc.coalesce(rows["version"], pc.if_else(kept, known["version"], pa.scalar(None, _TEXT)))
            rows = _replaced(rows, "version", version)
        return _actions(rows, action=_whole(action), reason=_whole(reason), wave=live["wave"], digest=digest)

    def _gone(self, known: pa.Table) -> pa.Table:
        """Known rows at whose own key nothing lies now."""
        known = known.filter(pc.is_valid(known["key"]))
        there = pc.is_in(known["key"], value_set=self.inside)
        untouched = pc.and_(pc.is_null(known["other_e_tag"]), pc.is_null(known["other_version"]))
        stays = pc.and_(there, untouched)
        return _actions(
            known,
            action=_whole(pc.if_else(stays, action_code(Action.KEEP), action_code(Action.DELETE))),
            reason=_whole(pc.if_else(stays, reason_code(Reason.ELSEWHERE), reason_code(Reason.REMOVED))),
            wave=wave_of(known["path"], self.last),
            digest=known["digest"],
        )


_COPY, _NEW = action_code(Action.COPY), reason_code(Reason.NEW)


def _same_version(live: pa.Table, known: pa.Table, which: str) -> pa.ChunkedArray:
    """`placement.same_version` and the same time, by row; ``which``: the prefix of the known columns."""
    at = _true(pc.equal(live["modified_at"], known[f"{which}modified_at"]))
    tags = pc.equal(live["e_tag"], known[f"{which}e_tag"])
    versions = _true(pc.equal(live["version"], known[f"{which}version"]))
    return pc.and_(at, pc.if_else(pc.is_valid(tags), tags, versions))


def _true(values: pa.ChunkedArray) -> pa.ChunkedArray:
    return pc.fill_null(values, False)


def _replaced(table: pa.Table, name: str, column: pa.ChunkedArray) -> pa.Table:
    return table.set_column(table.schema.get_field_index(name), name, column)


def _whole(column: pa.ChunkedArray) -> pa.Array:
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column


def _actions(
    rows: pa.Table,
    *,
    action: pa.Array,
    reason: pa.Array,
    wave: pa.ChunkedArray | pa.Array,
    digest: pa.ChunkedArray | None = None,
) -> pa.Table:
    made = {
        "action": action_words(action),
        "reason": reason_words(reason),
        "wave": wave,
        "digest": pa.nulls(rows.num_rows, _TEXT) if digest is None else digest,
    }
    return pa.table([made[name] if name in made else rows[name] for name in ACTIONS.names], schema=ACTIONS)


def _told_apart(table: pa.Table, skipped: pa.Table) -> tuple[pa.Table, pa.Table]:
    """A known object that a filter leaves out now is one row: a delete that says so."""
    gone = pc.equal(table["action"], Action.DELETE.value)
    if not skipped.num_rows or not pc.any(gone).as_py():
        return table, skipped
    filtered = pc.and_(gone, pc.is_in(table["key"], value_set=skipped["key"]))
    if not pc.any(filtered).as_py():
        return table, skipped
    left = table.filter(filtered)
    others = skipped.filter(pc.invert(pc.is_in(skipped["key"], value_set=left["key"])))
    both = pa.concat_tables([table.filter(pc.invert(filtered)), with_reason(left, Action.DELETE, Reason.FILTERED)])
    return both.sort_by("path"), others
