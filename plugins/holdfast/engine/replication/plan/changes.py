"""What changed: a listing against what was known, as joins of sorted blocks. No store is asked, no row is looped over.

The rules are those of `snapshot.take`: an object whose version still is the one hashed keeps its digest unread; one
whose bytes lie under ``.versions/`` stays there while what lies at its own key is what lay there before.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from functools import reduce

import pyarrow as pa
import pyarrow.compute as pc

from holdfast.engine.config.sync import Sync
from holdfast.engine.replication.plan.filters import wave_of
from holdfast.engine.replication.plan.schema import (
    TEXT,
    Action,
    Reason,
    action_code,
    actions_of,
    in_order,
    position_after,
    reason_code,
)
from holdfast.engine.replication.plan.source import Source
from holdfast.engine.snapshot import keys
from holdfast.engine.snapshot.placement import SCHEMA as PLACEMENT

#: Rows compared at once: what a join holds in memory does not grow with the dataset.
BLOCK_ROWS = 131_072


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
    source = Source(listing, folder=folder, policy=policy, now=now)
    before = _known(known)
    found, left = [], []
    begin = 0
    for part in source.parts(BLOCK_ROWS):
        end = before.num_rows if part.until is None else position_after(before["path"], part.until, begin)
        theirs = _with_key(before.slice(begin, end - begin), folder)
        found.append(_Block(part.members, theirs, source.inside, policy.last, versions_identify).actions())
        left.append(part.skipped)
        begin = end
    table, skipped = _told_apart(pa.concat_tables(found), pa.concat_tables(left))
    late = pc.greater(table["wave"], 0)
    if pc.any(late).as_py():
        ends = table.filter(late).sort_by([("wave", "ascending"), ("path", "ascending")])
        table = pa.concat_tables([table.filter(pc.invert(late)), ends])
    return pa.concat_tables([table, skipped])


def _known(known: pa.Table | None) -> pa.Table:
    """What was known with the columns of a placement, by path, text as large strings."""
    known = PLACEMENT.empty_table() if known is None else known
    columns = {}
    for field in PLACEMENT:
        kind = TEXT if field.type == pa.string() else field.type
        if field.name in known.schema.names:
            columns[field.name] = known[field.name].cast(kind)
        elif field.name != "key":
            columns[field.name] = pa.chunked_array([pa.nulls(known.num_rows, kind)])
    return in_order(pa.table(columns), "path")


def _with_key(known: pa.Table, folder: str) -> pa.Table:
    """A manifest's rows lie at their own keys."""
    if "key" in known.schema.names:
        return known
    root, nothing = pa.scalar(f"{keys.data_folder(folder)}/", TEXT), pa.scalar("", TEXT)
    return known.append_column("key", pc.binary_join_element_wise(root, known["path"], nothing))


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
        digest = pc.if_else(kept, known["digest"], pa.scalar(None, TEXT))
        rows = live
        if pc.any(elsewhere).as_py():
            for name in ("size_bytes", "key", "e_tag", "version", "modified_at"):
                rows = _replaced(rows, name, pc.if_else(elsewhere, known[name], rows[name]))
        if known["version"].null_count < len(known):  # a listing does not say the generation, what was read did
            version = pc.coalesce(rows["version"], pc.if_else(kept, known["version"], pa.scalar(None, TEXT)))
            rows = _replaced(rows, "version", version)
        return actions_of(rows, action=action, reason=reason, digest=digest)

    def _gone(self, known: pa.Table) -> pa.Table:
        """Known rows at whose own key nothing lies now."""
        known = known.filter(pc.is_valid(known["key"]))
        there = pc.is_in(known["key"], value_set=self.inside)
        untouched = pc.and_(pc.is_null(known["other_e_tag"]), pc.is_null(known["other_version"]))
        stays = pc.and_(there, untouched)
        return actions_of(
            known.append_column("wave", wave_of(known["path"], self.last)),
            action=pc.if_else(stays, action_code(Action.KEEP), action_code(Action.DELETE)),
            reason=pc.if_else(stays, reason_code(Reason.ELSEWHERE), reason_code(Reason.REMOVED)),
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
    both = pa.concat_tables(
        [
            table.filter(pc.invert(filtered)),
            actions_of(
                left, action=action_code(Action.DELETE), reason=reason_code(Reason.FILTERED), digest=left["digest"]
            ),
        ]
    )
    return both.sort_by("path"), others
