"""Whether a selection can be all there is: "no such event" means something only where everything was collected."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise

from holdfast.engine.audit.coverage import CoverageManifest, worst
from holdfast.engine.audit.interface import Coverage, Interval, State
from holdfast.engine.audit.manifest import Manifest
from holdfast.engine.audit.selection.query import Query
from holdfast.engine.snapshot.documents import Document, UtcTime


class IntervalAnswer(Document):
    """One interval that overlaps what was asked; ``why`` is empty where it is complete."""

    start: UtcTime
    end: UtcTime
    state: State
    why: str = ""


class SourceAnswer(Document):
    """Of one source whether the selection can be complete; ``undecided``: events the query cannot be answered for."""

    source: str
    kind: str
    state: State
    undecided: int
    intervals: tuple[IntervalAnswer, ...]


@dataclass(frozen=True)
class Part:
    """One export, as far as it matters here."""

    manifest: Manifest
    coverage: Sequence[CoverageManifest]


def answers(query: Query, parts: Sequence[Part], unclear: Mapping[str, int]) -> tuple[SourceAnswer, ...]:
    """Per source and interval asked.

    Args:
        parts: the exports, oldest first.
        unclear: per source how many events the query cannot be answered for.
    """
    kinds = {one.name: one.kind for part in parts for one in part.manifest.sources}
    seals = [part.manifest.seal for part in parts]
    has_holes = any(later != earlier + 1 for earlier, later in pairwise(seals))
    return tuple(
        _of_source(name, kind, query, parts, has_holes, unclear.get(name, 0))
        for name, kind in sorted(kinds.items())
        if not query.sources or name in query.sources
    )


def _of_source(
    name: str, kind: str, query: Query, parts: Sequence[Part], has_holes: bool, unclear: int
) -> SourceAnswer:
    folded: dict[Interval, Coverage] = {}
    windows: list[Interval] = []
    for part in parts:
        windows += [
            Interval(one.window.start, one.window.end)
            for one in part.manifest.sources
            if one.name == name and one.window and one.window.start < one.window.end
        ]
        for coverage in part.coverage:
            if coverage.source == name:
                folded.update((one.interval, one) for one in coverage.intervals)
    asked = [one for span, one in sorted(folded.items()) if _overlaps(span, query)]
    found = [_of_interval(one, windows, has_holes) for one in asked]
    found += [
        IntervalAnswer(start=start, end=end, state=State.UNKNOWN, why="no export here covers it")
        for start, end in _holes([one.interval for one in asked], query)
    ]
    found.sort(key=lambda one: one.start)
    states = [one.state for one in found] + ([State.UNKNOWN] if unclear else [])
    return SourceAnswer(source=name, kind=kind, state=worst(states), undecided=unclear, intervals=tuple(found))


def _of_interval(one: Coverage, windows: Sequence[Interval], has_holes: bool) -> IntervalAnswer:
    state = one.state
    why = "; ".join(found.code for found in one.findings if found.state is not State.COMPLETE)
    if state is not State.COMPLETE:
        why = why or f"{one.observed} of {one.expected} parts by proof {one.proof!r}"
    elif has_holes or not any(one.interval.start in window for window in windows):
        # An interval is asked first in the window it begins in; that export, with what it had by then, is not here.
        state, why = State.UNKNOWN, "an earlier export holds a part of it, and is not here"
    return IntervalAnswer(start=one.interval.start, end=one.interval.end, state=state, why=why)


def _overlaps(span: Interval, query: Query) -> bool:
    return (query.end is None or span.start < query.end) and (query.start is None or query.start < span.end)


def _holes(spans: Iterable[Interval], query: Query) -> list[tuple[datetime, datetime]]:
    """What of the window asked no interval is of; open ends begin and end where the intervals do."""
    holes = []
    at = query.start
    for span in spans:
        if at is not None and span.start > at:
            holes.append((at, span.start))
        at = span.end if at is None else max(at, span.end)
    if query.end is not None and at is not None and at < query.end:
        holes.append((at, query.end))
    return holes
