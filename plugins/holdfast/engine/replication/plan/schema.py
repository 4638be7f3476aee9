"""What a plan says about each object, as a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum

import pyarrow as pa
import pyarrow.compute as pc


class Action(StrEnum):
    """What a sync does with an object."""

    COPY = "copy"  # read at the source and write where it is missing
    KEEP = "keep"  # known, and still as known
    DELETE = "delete"  # belonged to the dataset and does not any more
    REFUSE = "refuse"  # belongs to it, but cannot or may not be copied
    SKIP = "skip"  # lies in the folder, but does not belong to the dataset


class Reason(StrEnum):
    """Why."""

    NEW = "new"
    CHANGED = "changed"
    MISSING = "missing"  # the source's object is as known, the target does not have it
    UNCHANGED = "unchanged"
    ELSEWHERE = "elsewhere"  # its bytes lie under `.versions/`, and still do
    REMOVED = "removed"  # gone from the source
    FILTERED = "filtered"  # still there, but a filter leaves it out now
    KEY = "key"  # its path is none that every backend keeps as it is
    RESIDENCY = "residency"
    LEFTOVER = "leftover"  # came with a replication and is in no snapshot
    MARKER = "marker"  # the folder marker of another tool
    EXCLUDED = "excluded"
    NOT_INCLUDED = "not-included"
    TOO_SMALL = "too-small"
    TOO_LARGE = "too-large"
    TOO_YOUNG = "too-young"
    TOO_OLD = "too-old"


TEXT = pa.large_string()
_WORD = pa.dictionary(pa.int8(), pa.string())
FORMAT = b"holdfast.sync-actions/1"
ACTIONS = pa.schema(
    [
        pa.field("path", TEXT, nullable=False),
        pa.field("action", _WORD, nullable=False),
        pa.field("reason", _WORD, nullable=False),
        pa.field("size_bytes", pa.int64()),
        pa.field("key", TEXT),
        pa.field("e_tag", TEXT),
        pa.field("version", TEXT),
        pa.field("modified_at", pa.timestamp("us", tz="UTC")),
        pa.field("digest", TEXT),
        pa.field("wave", pa.int8(), nullable=False),
    ],
    metadata={b"format": FORMAT},
)
_ACTIONS = tuple(Action)
_REASONS = tuple(Reason)
_ACTION_WORDS = pa.array([action.value for action in _ACTIONS])
_REASON_WORDS = pa.array([reason.value for reason in _REASONS])
_ANY_CODE = pa.scalar(0, pa.int8())


def action_code(action: Action) -> pa.Scalar:
    return pa.scalar(_ACTIONS.index(action), pa.int8())


def reason_code(reason: Reason) -> pa.Scalar:
    return pa.scalar(_REASONS.index(reason), pa.int8())


def actions_of(
    rows: pa.Table,
    *,
    action: pa.Scalar | pa.ChunkedArray = _ANY_CODE,
    reason: pa.Scalar | pa.ChunkedArray = _ANY_CODE,
    digest: pa.ChunkedArray | None = None,
) -> pa.Table:
    """Rows of a listing (with ``path``) as actions.

    Args:
        rows: may carry ``wave``; without it the wave is 0.
        action, reason: codes, one for all or one per row.
    """
    count = rows.num_rows
    made = {
        "action": _words(action, count, _ACTION_WORDS),
        "reason": _words(reason, count, _REASON_WORDS),
        "digest": pa.nulls(count, TEXT) if digest is None else digest,
    }
    if "wave" not in rows.schema.names:
        made["wave"] = pa.repeat(pa.scalar(0, pa.int8()), count)
    return pa.table([made[name] if name in made else rows[name] for name in ACTIONS.names], schema=ACTIONS)


def _words(codes: pa.Scalar | pa.ChunkedArray, count: int, words: pa.Array) -> pa.Array:
    if isinstance(codes, pa.Scalar):
        codes = pa.repeat(codes, count)
    whole = codes.combine_chunks() if isinstance(codes, pa.ChunkedArray) else codes
    return pa.DictionaryArray.from_arrays(whole, words)


def where(mask: pa.ChunkedArray, table: pa.Table) -> pa.Table:
    """The rows of the mask; nothing is copied where that is all."""
    return table if pc.all(mask).as_py() else table.filter(mask)


def in_order(table: pa.Table, column: str) -> pa.Table:
    """The table sorted by a text column; itself when it is."""
    values = table[column]
    is_sorted = len(values) < 2 or pc.all(pc.less_equal(values[:-1], values[1:])).as_py()
    return table if is_sorted else table.sort_by(column)


def position_after(values: pa.ChunkedArray, value: str, low: int = 0) -> int:
    """Where the first one after this value stands in a sorted text column, from ``low`` on."""
    high = len(values)
    while low < high:
        middle = (low + high) // 2
        if values[middle].as_py() <= value:
            low = middle + 1
        else:
            high = middle
    return low


def rows_of(actions: pa.Table, *wanted: Action) -> pa.Table:
    """The rows with one of these actions, in their order."""
    return where(pc.is_in(actions["action"], value_set=pa.array([action.value for action in wanted])), actions)


def counts(actions: pa.Table) -> Mapping[tuple[Action, Reason], tuple[int, int]]:
    """Objects and bytes by action and reason."""
    grouped = (
        actions.select(["action", "reason", "size_bytes"])
        .group_by(["action", "reason"])
        .aggregate([([], "count_all"), ("size_bytes", "sum")])
    )
    rows: Sequence[Mapping[str, object]] = grouped.to_pylist()
    return {
        (Action(str(row["action"])), Reason(str(row["reason"]))): (
            int(str(row["count_all"])),
            int(str(row["size_bytes_sum"] or 0)),
        )
        for row in rows
    }
