"""The walk over Airflow's audit rows by id: every id is asked for, a hole is confirmed by reading on past it.

Ids order the rows; their times only nearly do. A walk for a window therefore takes all ids up to the last row that was
written before the window's end, whatever the time of the rows between, and leaves those after it to the next window:
each id belongs to exactly one window.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Literal

from holdfast.engine.audit.interface import SourceUnreadable
from holdfast.engine.audit.sources.airflow_position import Anchor, Position, Row

#: So many ids in a row without a row, and none further on either, are the end of the table.
CONFIRMED = 64
#: So many rows in a row from after the window's end, and the walk has passed that end.
SETTLED = 200
#: Ids asked for at once.
_CHUNK = 32
#: How far the end of the table is looked beyond, as a power of two.
_FARTHEST = 21

#: Rows by id, in the order asked for, ``None`` where there is none; raises SourceUnreadable at the id it is about.
Fetch = Callable[[Iterable[int]], Iterator[tuple[int, Row | None]]]


@dataclass(frozen=True, slots=True)
class Hole:
    """Ids without a row between rows.

    Args:
        above: when the row above it was written.
        lowest: nothing is below it.
        each_asked: every one of its ids was asked for; of a wide hole only its borders are.
    """

    first: int
    last: int
    above: datetime | None
    lowest: bool
    each_asked: bool

    @property
    def size(self) -> int:
        """How many ids."""
        return self.last - self.first + 1

    def __str__(self) -> str:
        return str(self.first) if self.first == self.last else f"{self.first} to {self.last}"


class Walk:
    """One walk. Its results are there once `rows` has ended.

    Args:
        fetch: asks for rows.
        after: the id before the first that is asked for.
        hints: ids at which there may be a row, whatever is missing before them.
        end: of the window.
        lowest: nothing is known to exist at or below ``after``.
    """

    def __init__(self, fetch: Fetch, *, after: int, hints: Sequence[int], end: datetime, lowest: bool) -> None:
        self._fetch = fetch
        self._after = after
        self._hints = hints
        self._end = end
        self._lowest = lowest
        self._skipped: list[int] = []
        self._all_holes: list[Hole] = []
        #: The last id that belongs to the window.
        self.cut = after
        #: The newest row that was seen, also beyond the window.
        self.newest = after
        #: Ids of the window's rows.
        self.found: set[int] = set()
        #: What ended the walk before the end; ``None``: nothing.
        self.failure: SourceUnreadable | None = None

    @property
    def holes(self) -> tuple[Hole, ...]:
        """Those among the window's ids."""
        return tuple(hole for hole in self._all_holes if hole.last < self.cut)

    def rows(self) -> Iterator[Row]:
        """The window's rows by ascending id. A refusal ends it and is kept in `failure`."""
        try:
            yield from self._rows()
        except SourceUnreadable as error:
            self.failure = error

    def _rows(self) -> Iterator[Row]:
        cursor, misses = self._after, 0
        later: list[Row] = []
        while True:
            for row_id, row in self._fetch(range(cursor + 1, cursor + 1 + _CHUNK)):
                cursor = row_id
                if row is None:
                    misses += 1
                    continue
                misses = 0
                self._see(row)
                if (row.when is None and later) or (row.when is not None and row.when >= self._end):
                    later.append(row)
                    if len(later) >= SETTLED:
                        return
                    continue
                for ready in (*later, row):
                    self.cut = ready.id
                    self.found.add(ready.id)
                    yield ready
                later.clear()
            if misses >= CONFIRMED:
                beyond = self._beyond(cursor)
                if beyond is None:
                    return
                cursor, misses = beyond - 1, 0

    def _see(self, row: Row) -> None:
        first = self.newest + 1
        if row.id > first:
            each_asked = not any(first <= one < row.id for one in self._skipped)
            lowest = self._lowest and self.newest == self._after
            self._all_holes.append(Hole(first, row.id - 1, row.when, lowest, each_asked))
        self.newest = row.id

    def _beyond(self, missing: int) -> int | None:
        """The first row after a wide hole, by galloping over it and halving back; ``None``: the table ends here."""
        ahead = {missing + 2**power for power in range(_FARTHEST)} | {one for one in self._hints if one > missing}
        there = next((row_id for row_id, row in self._fetch(sorted(ahead)) if row is not None), None)
        if there is None:
            return None
        absent = missing
        while there - absent > 1:
            middle = (absent + there) // 2
            if self._exists(middle):
                there = middle
            else:
                absent = middle
        # The rows need not begin at once: whoever stands a little below the border counts too.
        while True:
            below = range(there - 1, max(missing, there - 1 - CONFIRMED), -1)
            lower = next((row_id for row_id, row in self._fetch(below) if row is not None), None)
            if lower is None:
                break
            there = lower
        if there - CONFIRMED - 1 > missing:
            self._skipped.append(missing + 1)
        return there

    def _exists(self, row_id: int) -> bool:
        return next(iter(self._fetch([row_id])))[1] is not None


@dataclass(frozen=True, slots=True)
class Seen:
    """What became of a row that an earlier walk remembered."""

    anchor: Anchor
    became: Literal["same", "changed", "gone"]


def look_again(fetch: Fetch, position: Position) -> tuple[Seen, ...]:
    """Read the remembered rows again, newest first. Raises SourceUnreadable."""
    found = fetch([anchor.id for anchor in position.anchors])
    return tuple(
        Seen(anchor, "gone" if row is None else "same" if row.sha256 == anchor.sha256 else "changed")
        for anchor, (_, row) in zip(position.anchors, found, strict=True)
    )


def resume_at(position: Position, seen: Sequence[Seen]) -> Position:
    """Where to go on: at the last id, or below whatever is no longer as it was.

    Rows older than the newest one that is still the same are as they were. Where none is, the table was cleaned,
    emptied or replaced, and everything that is in it now is read.
    """
    if not seen or seen[0].became == "same":
        return position
    same = next((one.anchor.id for one in seen if one.became == "same"), 0)
    return replace(
        position,
        last_id=same,
        anchors=tuple(one.anchor for one in seen if one.anchor.id <= same and one.became == "same"),
        open_ids=tuple(one for one in position.open_ids if one <= same),
    )


def is_young(hole: Hole, now: datetime, settle: timedelta) -> bool:
    """Whether a transaction that is still open may fill it."""
    return hole.above is not None and now - hole.above < settle
