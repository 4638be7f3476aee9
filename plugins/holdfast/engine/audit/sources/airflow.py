"""Airflow's audit trail over REST, row by row: its list hides rows, so every id is asked for.

An interval is the whole window that is asked for; which rows it holds follows from their ids, see
`holdfast.engine.audit.sources.airflow_walk`. Beside the rows lie the answers of people to tasks that asked them, the
versions of the DAGs, and ``position.json``, from which the next window goes on.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa

from holdfast.clock import Clock, SystemClock
from holdfast.engine.audit.interface import (
    Batch,
    Coverage,
    Document,
    Finding,
    Interval,
    SourceObject,
    SourceUnreadable,
    State,
)
from holdfast.engine.audit.sources import airflow_findings as findings
from holdfast.engine.audit.sources.airflow_api import AirflowApi, api_of
from holdfast.engine.audit.sources.airflow_position import POSITION, Anchors, Position, Row, read_row
from holdfast.engine.audit.sources.airflow_walk import Seen, Walk, look_again, resume_at
from holdfast.engine.audit.sources.filling import Filling
from holdfast.engine.config.audit import AirflowSource
from holdfast.engine.runtime import Runtime

#: Rows older than this are final: no transaction is open for longer.
SETTLE = timedelta(minutes=15)
_LIST = "/api/v2/eventLogs"
#: Where the pages of a list are kept, by what the list is called in them.
_FOLDERS = {"hitl_details": "hitl", "dag_versions": "dag-versions"}
#: Airflow's own limit of a page, unless it was configured to be lower.
_PAGE_ENTRIES = 100
#: The list is compared for so many pages; beyond, the walk alone is the proof.
_PAGES = 200
_BATCH_ROWS = 5_000
_PURGES = 8
_AT_ONCE = 4


@dataclass
class _Run:
    """What reading one interval came to."""

    begin: Position
    next: Position
    records: int = 0
    expected: int | None = None
    observed: int = 0
    findings: list[Finding] = field(default_factory=list)
    documents: list[Document] = field(default_factory=list)


class AirflowEvents:
    """The audit rows of one Airflow.

    Args:
        name: of the source.
        api: where they are read.
        position: where the last sealed window ended (`Position.from_bytes` of its ``position.json``); none: at the
            first id.
        clock: says which holes may still be filled.
        settle: how long a transaction may stay open.
    """

    kind = "airflow"

    def __init__(
        self,
        name: str,
        api: AirflowApi,
        *,
        position: Position | None = None,
        clock: Clock | None = None,
        settle: timedelta = SETTLE,
    ) -> None:
        self.name = name
        self._api = api
        self._clock = clock or SystemClock()
        self._settle = settle
        self._position = position or Position()
        self._begins: dict[Interval, Position] = {}
        self._runs: dict[Interval, _Run] = {}

    def intervals(self, window: Interval) -> Sequence[Interval]:
        """The window itself: ids are one sequence, which no hour divides."""
        return (window,)

    def position(self, interval: Interval) -> Position:
        """Where the window after this one begins; it has been read."""
        return self._runs[interval].next

    def read(self, interval: Interval) -> Iterator[Batch]:
        """Its rows by ascending id. What cannot be read ends it, and `completeness` says so: never an error."""
        begin = self._begins.setdefault(interval, self._position)
        run = self._runs[interval] = _Run(begin, begin)
        try:
            yield from self._read(interval, run)
        except SourceUnreadable as error:
            run.findings.append(_refusal(error))
        self._position = run.next

    def completeness(self, interval: Interval) -> Coverage:
        """By the ids: each that has no row is explained, still open, or unexplained."""
        run = self._runs[interval]
        return Coverage(
            interval,
            "ids",
            run.expected,
            run.observed,
            run.records,
            run.records,
            (*run.findings, findings.NOT_RECORDED),
        )

    def documents(self, interval: Interval) -> Iterator[Document]:
        """Answers of people, versions of DAGs, and where the next window begins."""
        run = self._runs[interval]
        yield from run.documents
        yield Document(POSITION, "application/json", run.next.to_bytes())

    def normalise(self, raw: pa.LargeBinaryArray) -> pa.Table:
        """The rows as OCSF, see `holdfast.engine.audit.sources.airflow_events`."""
        from holdfast.engine.audit.sources.airflow_events import normalise

        return normalise(raw)

    # -- one interval -----------------------------------------------------------------------------------------

    def _read(self, interval: Interval, run: _Run) -> Iterator[Batch]:
        newest_listed = self._newest_listed()
        seen = look_again(self._fetch, run.begin)
        begin = resume_at(run.begin, seen)
        walk = Walk(
            self._fetch,
            after=begin.last_id,
            # Rows that the list does not show go on behind the last one that was read, if they do.
            hints=(newest_listed, *range(run.begin.last_id + 1, run.begin.last_id + 9)),
            end=interval.end,
            lowest=all(one.became == "gone" for one in seen),
        )
        tally = _Tally(interval, begin)
        opened = list(self._fetch(begin.open_ids))
        came_late = [row for _, row in opened if row is not None]
        missing = [row_id for row_id, row in opened if row is None]
        yield from _batches(tally.counted(came_late), run)
        yield from _batches(tally.counted(walk.rows()), run)
        self._conclude(interval, run, walk, seen, tally)
        if came_late:
            run.findings.append(
                Finding("came-late", f"{len(came_late)} rows with ids of earlier windows", state=State.COMPLETE)
            )
        if missing:
            run.findings.append(findings.missing(f"still no row at ids {missing[:20]}", missing[0]))
        if walk.failure is not None:
            raise walk.failure
        listed, lowest = self._listed(begin.last_id, run)
        run.findings += findings.of_list(walk.found, listed, lowest, walk.cut)
        run.documents += self._answers(interval)
        run.documents += self._versions(interval)

    def _conclude(self, interval: Interval, run: _Run, walk: Walk, seen: Sequence[Seen], tally: _Tally) -> None:
        """Judge the walk, and say where the next one begins."""
        purges = tally.purges
        found, explained, opened = findings.of_holes(
            walk, purges, interval, run.begin.last_id, self._clock.now(), self._settle
        )
        run.findings += found
        # A walk that was cut off does not know how far the ids go.
        newest = walk.newest if walk.failure is None else run.begin.last_id
        run.findings += findings.of_anchors(seen, purges, newest, run.begin.last_id)
        if walk.failure is None:
            run.expected = walk.cut - tally.begin.last_id - explained
        run.findings += findings.outside(tally.before, tally.after, tally.timeless)
        run.findings += findings.typed(tally.typed)
        run.observed = len(walk.found)
        run.next = Position(
            last_id=walk.cut,
            anchors=tally.anchors.chosen(),
            open_ids=opened,
            purges=tuple(purges[-_PURGES:]),
        )

    def _fetch(self, ids: Iterable[int]) -> Iterator[tuple[int, Row | None]]:
        """Rows by id, in order, a few asked for at once."""
        wanted = list(ids)
        pool = ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="airflow-rows")
        try:
            for row_id, body in zip(wanted, pool.map(self._body, wanted), strict=True):
                where = f"{self._api.url}/api/v2/eventLogs/{row_id}"
                yield row_id, None if body is None else read_row(body, row_id, where)
        finally:
            pool.shutdown(cancel_futures=True)  # nobody wants the rest after a refusal, or once a row was found

    def _body(self, row_id: int) -> bytes | None:
        return self._api.get(f"/api/v2/eventLogs/{row_id}")

    # -- the list, and other endpoints ------------------------------------------------------------------------

    def _newest_listed(self) -> int:
        """The newest id the list shows: not the newest there is."""
        page = self._page(_LIST, "event_logs", {"order_by": "-event_log_id", "limit": 1})
        return max((_id_of(one) for one in page.entries), default=0)

    def _listed(self, after: int, run: _Run) -> tuple[set[int], int]:
        """The ids the list shows, and above which id these are all of them; by default above ``after``.

        Newest first: a row that is added meanwhile comes twice, never not.
        """
        listed: set[int] = set()
        for page in self._pages(_LIST, "event_logs", {"order_by": "-event_log_id"}):
            listed.update(_id_of(one) for one in page.entries)
            if page.is_last or min(listed) <= after:
                return listed, after
        run.findings.append(
            Finding(
                "list-not-compared",
                f"the list endpoint was compared for the newest {len(listed)} rows only",
                state=State.COMPLETE,
            )
        )
        return listed, min(listed, default=1) - 1

    def _answers(self, interval: Interval) -> Iterator[Document]:
        """What people answered in the interval, newest first."""
        params: dict[str, str | int] = {"response_received": "true", "order_by": "-responded_at"}
        return self._kept("/api/v2/dags/~/dagRuns/~/hitlDetails", "hitl_details", params, "responded_at", interval)

    def _versions(self, interval: Interval) -> Iterator[Document]:
        """Versions of DAGs that were made in the interval; their ids ascend with time."""
        return self._kept("/api/v2/dags/~/dagVersions", "dag_versions", {"order_by": "-id"}, "created_at", interval)

    def _kept(
        self, path: str, member: str, params: dict[str, str | int], moment: str, interval: Interval
    ) -> Iterator[Document]:
        """The pages, as Airflow gave them, with entries of the interval; they come newest first."""
        for page in self._pages(path, member, params):
            moments = [_moment_of(one, moment) for one in page.entries]
            if any(one in interval for one in moments):
                about = {"url": f"{self._api.url}{path}", "total_entries": str(page.total)}
                name = f"{_FOLDERS[member]}/{page.number:04}.json"
                yield Document(name, "application/json", page.body, about)
            if any(one < interval.start for one in moments):
                return

    def _pages(self, path: str, member: str, params: dict[str, str | int]) -> Iterator[_Page]:
        """Pages of a list. A server may give shorter ones than it is asked for, so what came counts."""
        offset = 0
        for number in range(_PAGES):
            page = self._page(path, member, {**params, "limit": _PAGE_ENTRIES, "offset": offset}, number)
            yield page
            if page.is_last:
                return
            offset += len(page.entries)

    def _page(self, path: str, member: str, params: dict[str, str | int], number: int = 0) -> _Page:
        body = self._api.get(path, params) or b""
        try:
            answer = json.loads(body)
            return _Page(number, body, list(answer[member]), int(answer["total_entries"]), int(params.get("offset", 0)))
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise _no_page(f"{self._api.url}{path}", f"JSON with `{member}`", error) from None


@dataclass(frozen=True, slots=True)
class _Page:
    number: int
    body: bytes
    entries: list[Any]
    total: int
    offset: int

    @property
    def is_last(self) -> bool:
        return not self.entries or self.offset + len(self.entries) >= self.total


def _id_of(entry: Any) -> int:
    try:
        return int(entry["event_log_id"])
    except (ValueError, KeyError, TypeError) as error:
        raise _no_page(_LIST, "rows with `event_log_id`", error) from None


def _moment_of(entry: Any, member: str) -> datetime:
    try:
        moment = datetime.fromisoformat(entry[member])
        return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    except (ValueError, KeyError, TypeError) as error:
        raise _no_page(member, "a time", error) from None


def _no_page(where: str, expected: str, error: Exception) -> SourceUnreadable:
    return SourceUnreadable(
        "the answer is not a page", code="unexpected-answer", where=where, expected=expected, found=type(error).__name__
    )


class _Tally:
    """Looks at each row that goes by."""

    def __init__(self, interval: Interval, begin: Position) -> None:
        self.begin = begin
        self.anchors = Anchors(begin.anchors)
        self.purges = list(begin.purges)
        self.before = self.after = self.timeless = 0
        self.typed: list[int] = []
        self._interval = interval

    def counted(self, rows: Iterable[Row]) -> Iterator[Row]:
        for row in rows:
            self.anchors.add(row)
            if purge := findings.purge_of(row):
                self.purges.append(purge)
            if findings.is_typed(row):
                self.typed.append(row.id)
            if row.when is None:
                self.timeless += 1
            elif row.when < self._interval.start:
                self.before += 1
            elif row.when >= self._interval.end:
                self.after += 1
            yield row


def _batches(rows: Iterable[Row], run: _Run) -> Iterator[Batch]:
    batch = Filling(most_records=_BATCH_ROWS)
    for row in rows:
        digest = hashlib.sha256(row.raw).hexdigest()
        batch.add(SourceObject(f"eventLogs/{row.id}", len(row.raw), digest, digest), [row.raw])
        run.records += 1
        if batch.is_full:
            yield batch.take()
    if batch.objects:
        yield batch.take()


def _refusal(error: SourceUnreadable) -> Finding:
    return Finding(error.code, str(error), error.where or "", State.UNKNOWN)


def open_airflow(
    runtime: Runtime, name: str, settings: AirflowSource, *, position: Position | None = None
) -> AirflowEvents:
    """The source of a topology. Raises ConfigError when its connection is missing or not complete."""
    api = api_of(runtime.connections.get(settings.connection), clock=runtime.clock)
    return AirflowEvents(name, api, position=position, clock=runtime.clock)
