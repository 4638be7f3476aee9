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


_WORD = pa.dictionary(pa.int8(), pa.string())
FORMAT = b"holdfast.sync-actions/1"
ACTIONS = pa.schema(
    [
        pa.field("path", pa.large_string(), nullable=False),
        pa.field("action", _WORD, nullable=False),
        pa.field("reason", _WORD, nullable=False),
        pa.field("size_bytes", pa.int64()),
        pa.field("key", pa.large_string()),
        pa.field("e_tag", pa.large_string()),
        pa.field("version", pa.large_string()),
        pa.field("modified_at", pa.timestamp("us", tz="UTC")),
        pa.field("digest", pa.large_string()),
        pa.field("wave", pa.int8(), nullable=False),
    ],
    metadata={b"format": FORMAT},
)
_ACTIONS = tuple(Action)
_REASONS = tuple(Reason)
_ACTION_WORDS = pa.array([action.value for action in _ACTIONS])
_REASON_WORDS = pa.array([reason.value for reason in _REASONS])


def action_code(action: Action) -> pa.Scalar:
    return pa.scalar(_ACTIONS.index(action), pa.int8())


def reason_code(reason: Reason) -> pa.Scalar:
    return pa.scalar(_REASONS.index(reason), pa.int8())


def action_words(codes: pa.Array) -> pa.Array:
    """Codes as the column `action`."""
    return pa.DictionaryArray.from_arrays(codes, _ACTION_WORDS)


def reason_words(codes: pa.Array) -> pa.Array:
    """Codes as the column `reason`."""
    return pa.DictionaryArray.from_arrays(codes, _REASON_WORDS)


def with_reason(table: pa.Table, action: Action, reason: Reason) -> pa.Table:
    """The same rows, all with this action and reason."""
    count = table.num_rows
    columns: Mapping[str, pa.Array] = {
        "action": action_words(pa.repeat(action_code(action), count)),
        "reason": reason_words(pa.repeat(reason_code(reason), count)),
    }
    return pa.table([columns.get(name, table[name]) for name in ACTIONS.names], schema=ACTIONS)


def rows_of(actions: pa.Table, *wanted: Action) -> pa.Table:
    """The rows with one of these actions, in their order."""
    return actions.filter(pc.is_in(actions["action"], value_set=pa.array([action.value for action in wanted])))


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
