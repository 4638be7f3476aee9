"""How far a walk over Airflow's audit rows has come, and by what the next one knows that it is the same table."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from holdfast.engine.audit.interface import SourceUnreadable

FORMAT = "holdfast.airflow-position/1"
#: The document that holds one.
POSITION = "position.json"
#: What of a row never changes. Display names do: they are read from other tables when the row is asked for.
_LASTING = (
    "event_log_id", "when", "dag_id", "task_id", "run_id", "map_index", "try_number", "event", "logical_date", "owner",
    "extra",
)  # fmt: skip
#: Of more rows nothing is remembered; the distances between those that are double.
_ANCHORS = 24


@dataclass(frozen=True, slots=True)
class Row:
    """One row of Airflow's ``log`` table as its detail endpoint gave it."""

    id: int
    raw: bytes
    when: datetime | None
    event: str
    extra: str | None
    sha256: str


@dataclass(frozen=True, slots=True)
class Anchor:
    """A row that was read: what it held, and when it was written."""

    id: int
    sha256: str
    when: datetime | None


@dataclass(frozen=True, slots=True)
class Purge:
    """One ``airflow db clean`` of the log that recorded itself: rows older than ``before`` were removed at ``when``."""

    id: int
    when: datetime
    before: datetime


@dataclass(frozen=True, slots=True)
class Position:
    """Where the next walk begins.

    Args:
        last_id: the newest id that a window already holds; 0: none.
        anchors: some rows up to there, newest first, in doubling distances: enough to find how far a table that was
            restored from a backup, or changed, is still the same.
        open_ids: ids that were holes when a transaction could still have filled them.
        purges: cleanings that were recorded so far, the newest few.
    """

    last_id: int = 0
    anchors: tuple[Anchor, ...] = ()
    open_ids: tuple[int, ...] = ()
    purges: tuple[Purge, ...] = ()

    def to_bytes(self) -> bytes:
        """As a document, which `from_bytes` reads."""
        body = {
            "format": FORMAT,
            "last_id": self.last_id,
            "anchors": [[one.id, one.sha256, one.when and one.when.isoformat()] for one in self.anchors],
            "open_ids": list(self.open_ids),
            "purges": [[one.id, one.when.isoformat(), one.before.isoformat()] for one in self.purges],
        }
        return json.dumps(body, sort_keys=True, separators=(",", ":")).encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> Position:
        """What `to_bytes` wrote. Raises SourceUnreadable when it is something else."""
        try:
            body = json.loads(data)
            if body["format"] != FORMAT:
                raise ValueError(body["format"])
            return cls(
                int(body["last_id"]),
                tuple(Anchor(int(i), str(h), w and datetime.fromisoformat(w)) for i, h, w in body["anchors"]),
                tuple(int(one) for one in body["open_ids"]),
                tuple(
                    Purge(int(i), datetime.fromisoformat(w), datetime.fromisoformat(b)) for i, w, b in body["purges"]
                ),
            )
        except (ValueError, KeyError, TypeError) as error:
            raise SourceUnreadable(
                "the position of the last walk cannot be read", where=POSITION, expected=FORMAT,
                found=repr(error), fix="Name no position: the walk then begins at the first id",
            ) from None  # fmt: skip


def read_row(body: bytes, row_id: int, where: str) -> Row:
    """A row from the detail endpoint's answer. Raises SourceUnreadable when it is not this row."""
    try:
        found: Mapping[str, Any] = json.loads(body)
        if found["event_log_id"] != row_id:
            raise ValueError(f"event_log_id {found['event_log_id']!r}")
        when, extra = found["when"], found["extra"]
        lasting = {name: found[name] for name in _LASTING}
        return Row(
            row_id,
            body,
            None if when is None else _utc(when),
            str(found["event"]),
            None if extra is None else str(extra),
            hashlib.sha256(json.dumps(lasting, sort_keys=True, separators=(",", ":")).encode()).hexdigest(),
        )
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise SourceUnreadable(
            "the answer is not a row of the audit log",
            code="unexpected-answer",
            where=where,
            expected=f"the event log {row_id} as JSON",
            found=repr(error),
        ) from None


def _utc(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


class Anchors:
    """Chooses the rows to remember: the newest, and one about every power of two below it."""

    def __init__(self, known: Iterable[Anchor] = ()) -> None:
        self._known = {one.id: one for one in known}

    def add(self, row: Row) -> None:
        """Remember a row; the distances are thinned out now and then."""
        self._known[row.id] = Anchor(row.id, row.sha256, row.when)
        if len(self._known) > 64 * _ANCHORS:
            self._known = {one.id: one for one in self.chosen()}

    def chosen(self) -> tuple[Anchor, ...]:
        """Newest first."""
        ids = sorted(self._known, reverse=True)
        if not ids:
            return ()
        chosen: dict[int, Anchor] = {}
        for distance in (0, *(2**power for power in range(63))):
            below = next((one for one in ids if one <= ids[0] - distance), None)
            if below is None:
                break
            chosen[below] = self._known[below]
        return tuple(sorted(chosen.values(), key=lambda one: -one.id))[:_ANCHORS]
