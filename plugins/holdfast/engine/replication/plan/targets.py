"""What one target lacks of the source, and what it has too much, block by block."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.compute as pc

from holdfast.engine.replication.plan.schema import (
    ACTIONS,
    TEXT,
    Action,
    Reason,
    action_code,
    actions_of,
    in_order,
    position_after,
    reason_code,
    where,
)

BLOCK_ROWS = 131_072
_BASE = pa.schema([("path", TEXT), ("digest", TEXT), ("key", TEXT), ("size_bytes", pa.int64())])


@dataclass
class _Found:
    work: list[pa.Table] = field(default_factory=list)
    kept: int = 0
    kept_bytes: int = 0

    def keep(self, rows: pa.Table, mask: pa.ChunkedArray) -> None:
        self.kept += int(pc.sum(mask).as_py() or 0)
        self.kept_bytes += int(pc.sum(pc.if_else(mask, rows["size_bytes"], 0)).as_py() or 0)


def work_at(changes: pa.Table, base: pa.Table | None, *, refused: bool) -> tuple[pa.Table, int, int]:
    """What has to be done at a target.

    Args:
        changes: what `plan_changes` said.
        base: what the target's newest snapshot has: a manifest or a placement. ``None``: it has none.
        refused: no byte may come to this target; what would be copied is refused.

    Returns:
        The rows (schema `ACTIONS`, as ordered there) with copy, delete and refuse; objects and bytes that are kept.
        An object that is new or changed at the source is a copy: whether the target has equal bytes already is only
        known once it was read.
    """
    theirs = _base(base)
    data, late = _parts(changes)
    found = _Found()
    begin = 0
    held: list[pa.Table] = []
    for rows, until in _slices(data):
        end = theirs.num_rows if until is None else position_after(theirs["path"], until, begin)
        there = theirs.slice(begin, end - begin)
        if late.num_rows:
            is_late = pc.is_in(there["path"], value_set=late["path"])
            held.append(there.filter(is_late))
            there = there.filter(pc.invert(is_late))
        _compare(rows, there, found, refused)
        begin = end
    if late.num_rows:
        _compare(late, pa.concat_tables(held), found, refused)
    work = pa.concat_tables([ACTIONS.empty_table(), *found.work])
    return ordered(work), found.kept, found.kept_bytes


def _base(base: pa.Table | None) -> pa.Table:
    if base is None:
        return _BASE.empty_table()
    if "key" in base.schema.names:  # a placement names what lies there without belonging to the snapshot
        base = base.filter(pc.is_valid(base["key"]))
    columns = [
        base[name].cast(kind) if name in base.schema.names else pa.chunked_array([pa.nulls(base.num_rows, kind)])
        for name, kind in zip(_BASE.names, _BASE.types, strict=True)
    ]
    return in_order(pa.table(columns, names=_BASE.names), "path")


def _parts(changes: pa.Table) -> tuple[pa.Table, pa.Table]:
    """The rows of the data, by path, and those of the later waves; without what is skipped."""
    skips = pc.equal(changes["action"], Action.SKIP.value)
    if pc.any(skips).as_py():
        changes = changes.filter(pc.invert(skips))
    is_late = pc.greater(changes["wave"], 0)
    if not pc.any(is_late).as_py():
        return changes, changes[:0]
    return changes.filter(pc.invert(is_late)), in_order(changes.filter(is_late), "path")


def _slices(rows: pa.Table) -> Iterator[tuple[pa.Table, str | None]]:
    count = rows.num_rows
    for begin in range(0, count, BLOCK_ROWS) or [0]:
        end = begin + BLOCK_ROWS
        yield rows.slice(begin, BLOCK_ROWS), None if end >= count else rows["path"][end - 1].as_py()


def _compare(rows: pa.Table, base: pa.Table, found: _Found, refused: bool) -> None:
    same_paths = rows["path"].equals(base["path"])
    digest = base["digest"] if same_paths else base["digest"].take(pc.index_in(rows["path"], value_set=base["path"]))
    equal = pc.fill_null(pc.equal(rows["digest"], digest), False)
    copies = pc.equal(rows["action"], Action.COPY.value)
    keeps = pc.equal(rows["action"], Action.KEEP.value)
    refuses = pc.equal(rows["action"], Action.REFUSE.value)
    found.keep(rows, pc.and_(keeps, equal))
    missing = pc.and_not(keeps, equal)
    for mask, reason in ((copies, None), (missing, Reason.MISSING)):
        if pc.any(mask).as_py():
            found.work.append(_copies(where(mask, rows), reason, refused))
    if pc.any(refuses).as_py():
        found.work.append(rows.filter(refuses))
    if not same_paths or pc.any(pc.equal(rows["action"], Action.DELETE.value)).as_py():
        found.work.append(_gone(rows, base, pc.or_(copies, keeps)))


def _copies(rows: pa.Table, reason: Reason | None, refused: bool) -> pa.Table:
    if refused:
        return actions_of(
            rows,
            action=action_code(Action.REFUSE),
            reason=reason_code(Reason.RESIDENCY),
            digest=rows["digest"],
        )
    if reason is None:
        return rows
    return actions_of(rows, action=action_code(Action.COPY), reason=reason_code(reason), digest=rows["digest"])


def _gone(rows: pa.Table, base: pa.Table, belongs: pa.ChunkedArray) -> pa.Table:
    """What the target has and the dataset does not any more; the source's word why, where it has one."""
    gone = base.filter(pc.invert(pc.is_in(base["path"], value_set=rows["path"].filter(belongs))))
    said = rows.filter(pc.equal(rows["reason"], Reason.FILTERED.value))["path"]
    filtered = pc.is_in(gone["path"], value_set=said)
    for name in ("e_tag", "version"):
        gone = gone.append_column(name, pa.nulls(gone.num_rows, TEXT))
    gone = gone.append_column("modified_at", pa.nulls(gone.num_rows, ACTIONS.field("modified_at").type))
    return actions_of(
        gone,
        action=action_code(Action.DELETE),
        reason=pc.if_else(filtered, reason_code(Reason.FILTERED), reason_code(Reason.REMOVED)),
        digest=gone["digest"],
    )


def ordered(work: pa.Table) -> pa.Table:
    """By wave and path. A delete has wave 0 unless the source still names it: it waits for nobody."""
    late = pc.greater(work["wave"], 0)
    if not pc.any(late).as_py():
        return in_order(work, "path")
    ends = work.filter(late).sort_by([("wave", "ascending"), ("path", "ascending")])
    return pa.concat_tables([in_order(work.filter(pc.invert(late)), "path"), ends])
