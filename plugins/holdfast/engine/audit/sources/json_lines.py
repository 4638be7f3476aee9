"""A source whose events lie as JSON lines in a bucket, in a folder for each hour: what such sources share.

They differ in where an hour's objects lie, in when it is closed and what shows that, in what makes two records one
event, and in how a record reads as OCSF.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import ClassVar

import pyarrow as pa
import pyarrow.compute as pc

from holdfast.clock import Clock
from holdfast.engine.audit.interface import (
    Batch,
    Coverage,
    Document,
    Finding,
    Interval,
    SourceUnreadable,
    State,
)
from holdfast.engine.audit.sources.filling import BATCH_BYTES, binary_array
from holdfast.engine.audit.sources.json_blocks import Block, Shape, parse
from holdfast.engine.audit.sources.line_objects import DEFAULT_LIMITS, Broken, Limits, Part, read_object
from holdfast.engine.audit.sources.mapping import concat
from holdfast.engine.objectstore.errors import (
    BucketNotFound,
    BytesCorrupted,
    InvalidKey,
    ObjectArchived,
    ObjectNotFound,
    ObjectStoreError,
    PermissionRefused,
    PreconditionFailed,
    StoreUnavailable,
)
from holdfast.engine.objectstore.interface import ObjectInfo, ObjectStore

HOUR = timedelta(hours=1)
#: Findings of one code in a coverage.
MOST_FINDINGS = 20


@dataclass(frozen=True, slots=True)
class Folder:
    """Where an hour of one log lies.

    Args:
        log: which one, in findings.
        store: its bucket.
        prefix: what its keys begin with.
        named: what its objects' ids begin with, where keys alone are not unique in the source.
    """

    log: str
    store: ObjectStore = field(repr=False)
    prefix: str
    named: str = ""

    def object_id(self, info: ObjectInfo) -> str:
        """Of an object of this folder: unique in the source."""
        return f"{self.named}{info.key}"


@dataclass
class Tally:
    """What one reading of an interval saw."""

    interval: Interval
    #: When it began: what is closed by then can be read whole.
    started: datetime
    objects: dict[str, list[ObjectInfo]] = field(default_factory=dict)  # by log
    was_open: dict[str, bool] = field(default_factory=dict)  # by log, before the first object was read
    read: int = 0
    records: int = 0
    #: Records that are no JSON object, and where the first of them is.
    not_json: int = 0
    first_not_json: str = ""
    outside: int = 0
    earliest: int | None = None
    latest: int | None = None
    keys: array[int] = field(default_factory=lambda: array("q"))
    findings: list[Finding] = field(default_factory=list)
    is_whole: bool = False

    def see(self, keys: pa.Array, times: pa.Array) -> None:
        """The keys by which duplicates are known, and the times in milliseconds, of some records."""
        self.keys.extend(map(hash, keys.drop_null().to_pylist()))
        start, end = (int(moment.timestamp() * 1000) for moment in (self.interval.start, self.interval.end))
        inside = pc.and_(pc.greater_equal(times, start), pc.less(times, end))
        outside = times.filter(pc.invert(pc.fill_null(inside, True)))
        if len(outside):
            self.outside += len(outside)
            found = pc.min_max(outside).as_py()
            self.earliest = min(found["min"], self.earliest if self.earliest is not None else found["min"])
            self.latest = max(found["max"], self.latest if self.latest is not None else found["max"])

    def duplicates(self) -> int:
        """How many records have the key of another one."""
        return len(self.keys) - pc.count_distinct(pa.array(self.keys, pa.int64())).as_py() if self.keys else 0


@dataclass(frozen=True)
class _Parsed:
    raw: pa.LargeBinaryArray
    blocks: list[Block]


class JsonLinesSource(ABC):
    """An `AuditSource`; one leaf per kind says what is its own.

    Intervals are whole hours: of a window those that begin in it.
    """

    kind: ClassVar[str]
    shapes: ClassVar[tuple[Shape, ...]]
    #: Whether an hour's objects are appended to while it is open.
    may_grow: ClassVar[bool] = False

    def __init__(self, name: str, clock: Clock, hold_hours: float, limits: Limits = DEFAULT_LIMITS) -> None:
        self.name = name
        self.clock = clock
        self.limits = limits
        self._hold = timedelta(hours=hold_hours)
        self._tally: Tally | None = None
        self._parsed: _Parsed | None = None

    # -- what each kind says -----------------------------------------------------------------------------------------

    @abstractmethod
    def folders(self, interval: Interval) -> Sequence[Folder]:
        """Where the interval's objects lie."""

    @abstractmethod
    def wanted(self, info: ObjectInfo) -> bool:
        """Whether what was listed in a folder is one of the interval's objects; others are a finding."""

    @abstractmethod
    def judge(self, tally: Tally) -> Coverage:
        """What the interval's objects show; `completeness` adds what every kind finds."""

    @abstractmethod
    def keys_and_times(self, block: Block) -> tuple[pa.Array, pa.Array]:
        """By what duplicates are known, and when it happened, in milliseconds; null where that is not known."""

    @abstractmethod
    def as_ocsf(self, block: Block) -> pa.Table:
        """The block as a table of OCSF events."""

    def begin(self, tally: Tally) -> None:  # noqa: B027 - most kinds do nothing
        """What is done before an interval is read."""

    def is_open(self, tally: Tally, log: str) -> bool:  # noqa: ARG002 - some kinds look at the log
        """Whether more might still come to this log when it was read."""
        return tally.started < self.closes_at(tally.interval)

    def closes_at(self, interval: Interval) -> datetime:
        """When the interval is closed by the clock."""
        return interval.end + self._hold

    # -- AuditSource -------------------------------------------------------------------------------------------------

    def intervals(self, window: Interval) -> Sequence[Interval]:
        """The hours that begin in the window."""
        start = window.start.astimezone(UTC).replace(minute=0, second=0, microsecond=0)
        if start < window.start:
            start += HOUR
        found = []
        while start < window.end:
            found.append(Interval(start, start + HOUR))
            start += HOUR
        return found

    def read(self, interval: Interval) -> Iterator[Batch]:
        """The hour's objects by key, log by log. What cannot be read of one log holds no other one up."""
        tally = self._tally = Tally(interval, self.clock.now())
        refusals: list[SourceUnreadable] = []
        self.begin(tally)
        for folder in self.folders(interval):
            try:
                yield from self._read_folder(folder, tally)
            except ObjectStoreError as error:
                refusal = unreadable(error, folder.log)
                refusals.append(refusal)
                tally.findings.append(Finding(refusal.code, str(refusal), folder.log, State.UNKNOWN))
        tally.is_whole = True
        if refusals and not tally.objects:
            raise refusals[0]

    def listed(self, interval: Interval) -> Iterator[tuple[str, int]]:
        """See `Lists`. Azure makes a category's container with its first record: one that is not there has nothing."""
        for folder in self.folders(interval):
            with suppress(BucketNotFound):
                for info in filter(self.wanted, self._listed(folder)):
                    yield folder.object_id(info), info.size_bytes

    def completeness(self, interval: Interval) -> Coverage:
        """Of the last reading; an interval that was not read to its end is unknown."""
        tally = self._tally
        if tally is None or tally.interval != interval or not tally.is_whole:
            what = "it was not read to its end"
            return Coverage(interval, "none", None, 0, 0, 0, (Finding("not-read", what, state=State.UNKNOWN),))
        judged = self.judge(tally)
        return Coverage(
            interval,
            judged.proof,
            judged.expected,
            judged.observed,
            tally.read,
            tally.records,
            (*_bounded([*judged.findings, *tally.findings]), *_worth_knowing(tally)),
        )

    def documents(self, interval: Interval) -> Iterator[Document]:  # noqa: ARG002 - some kinds have some
        """None, unless a kind has some."""
        return iter(())

    def normalise(self, raw: pa.LargeBinaryArray) -> pa.Table:
        """The records as OCSF; those of the batch that was read last are not parsed again."""
        parsed = self._parsed
        blocks = parsed.blocks if parsed is not None and parsed.raw is raw else parse(raw, self.shapes)
        return concat(self.as_ocsf(block) for block in blocks)

    # -- reading -----------------------------------------------------------------------------------------------------

    def _listed(self, folder: Folder) -> Iterator[ObjectInfo]:
        for count, info in enumerate(folder.store.list(folder.prefix)):
            if count >= self.limits.objects:
                raise SourceUnreadable(
                    "the listing of an hour does not end",
                    code="listing-endless",
                    where=f"{folder.store.name} {folder.prefix}",
                    expected=f"at most {self.limits.objects} objects",
                    found="more",
                )
            if not info.key.endswith("/"):
                yield info

    def _read_folder(self, folder: Folder, tally: Tally) -> Iterator[Batch]:
        listed = sorted(self._listed(folder), key=lambda info: info.key)
        infos = tally.objects[folder.log] = [info for info in listed if self.wanted(info)]
        if strange := [folder.object_id(info) for info in listed if not self.wanted(info)]:
            what = f"{len(strange)} objects have names that are not known here; they are not read"
            tally.findings.append(Finding("object-unexpected", what, strange[0], State.UNKNOWN))
        tally.was_open[folder.log] = self.is_open(tally, folder.log)
        may_grow = self.may_grow and tally.was_open[folder.log]
        parts: list[Part] = []
        size = 0
        refusal: ObjectStoreError | None = None
        for info in infos:
            try:
                for part in self._parts(folder, info, tally, may_grow):
                    parts.append(part)
                    size += sum(map(len, part.records))
                    if size >= BATCH_BYTES:
                        yield self._batch(parts, tally)
                        parts, size = [], 0
            except ObjectStoreError as error:
                refusal = error
                break
        if parts:
            yield self._batch(parts, tally)
        if refusal is not None:
            raise refusal

    def _parts(self, folder: Folder, info: ObjectInfo, tally: Tally, may_grow: bool) -> Iterator[Part]:
        """The object's parts; what is wrong with it alone becomes a finding."""
        object_id = folder.object_id(info)
        try:
            yield from read_object(folder.store, info, object_id, self.limits, may_grow=may_grow)
            tally.read += 1
        except Broken as broken:
            tally.findings.append(broken.finding)
        except ObjectNotFound:
            what = "it was listed and then gone"
            tally.findings.append(Finding("object-gone", what, object_id, State.GAP))
        except PreconditionFailed:
            what = "it was written while it was read; what was read of it stands, the rest is left for later"
            tally.findings.append(Finding("changed-while-read", what, object_id, State.LATE))
        except InvalidKey:
            what = "it has a name that no store keeps as it is; it is not read"
            tally.findings.append(Finding("object-unexpected", what, repr(object_id), State.UNKNOWN))
        except BytesCorrupted:
            what = "the bytes that came are not those that the store has a checksum of"
            tally.findings.append(Finding("object-corrupted", what, object_id, State.GAP))
        except ObjectArchived:
            what = "it lies in an offline storage class"
            tally.findings.append(Finding("object-archived", what, object_id, State.UNKNOWN))

    def _batch(self, parts: Sequence[Part], tally: Tally) -> Batch:
        records = [record for part in parts for record in part.records]
        raw = binary_array(records)
        blocks = parse(raw, self.shapes)
        for part in parts:
            tally.findings.extend(part.findings)
        for block in blocks:
            tally.see(*self.keys_and_times(block))
        _count_not_json(tally, blocks, parts)
        tally.records += len(records)
        self._parsed = _Parsed(raw, blocks)
        return Batch(tuple(part.source for part in parts), tuple(len(part.records) for part in parts), raw)


def unreadable(error: ObjectStoreError, where: str) -> SourceUnreadable:
    """What a store said, as what it makes of an interval."""
    if isinstance(error, PermissionRefused):
        code, what = "permission-refused", "the credentials are expired, wrong, or not allowed to read it"
    elif isinstance(error, BucketNotFound):
        code, what = "bucket-missing", "there is no such bucket or container"
    elif isinstance(error, StoreUnavailable):
        code = "throttled" if error.throttled else "store-unavailable"
        what = "the store gave no answer within the retry budget"
    else:
        code, what = "unreadable", error.what
    return SourceUnreadable(f"{what}: what it holds is unknown", code=code, where=where, found=str(error))


def _count_not_json(tally: Tally, blocks: Sequence[Block], parts: Sequence[Part]) -> None:
    position = 0
    ends = []
    for part in parts:
        position += len(part.records)
        ends.append((position, part))
    position = 0
    for block in blocks:
        if block.understood is not None:
            bad = [row for row, ok in enumerate(block.understood.to_pylist()) if not ok]
            if bad and not tally.not_json:
                end, part = next((end, part) for end, part in ends if position + bad[0] < end)
                line = position + bad[0] - (end - len(part.records)) + 1
                tally.first_not_json = f"{part.source.object_id} line {line}"
            tally.not_json += len(bad)
            last = {end - 1 for end, part in ends if not part.source.suffix}
            for row in bad:
                if position + row in last:
                    part = next(part for end, part in ends if end - 1 == position + row)
                    what = "its last line is cut short: the rest of that event is missing"
                    tally.findings.append(Finding("line-cut-short", what, part.source.object_id, State.GAP))
        position += block.table.num_rows


def _bounded(findings: Sequence[Finding]) -> Iterator[Finding]:
    """At most so many of one code: an hour may have tens of thousands of objects."""
    seen: Counter[str] = Counter()
    for finding in findings:
        seen[finding.code] += 1
        if seen[finding.code] <= MOST_FINDINGS:
            yield finding
        elif seen[finding.code] == MOST_FINDINGS + 1:
            more = sum(1 for other in findings if other.code == finding.code) - MOST_FINDINGS
            yield replace(finding, detail=f"{finding.detail}; so {more} more")


def _worth_knowing(tally: Tally) -> Iterator[Finding]:
    if tally.not_json:
        what = f"{tally.not_json} lines are no JSON object; they are kept as they came, as Base Events"
        yield Finding("line-not-json", what, tally.first_not_json, State.COMPLETE)
    if duplicates := tally.duplicates():
        what = f"{duplicates} records are delivered more than once; all are kept"
        yield Finding("duplicates", what, state=State.COMPLETE)
    if tally.outside:
        times = " to ".join(
            datetime.fromtimestamp((moment or 0) / 1000, UTC).isoformat() for moment in (tally.earliest, tally.latest)
        )
        what = f"{tally.outside} records carry a time outside of their hour: {times}"
        yield Finding("outside-hour", what, state=State.COMPLETE)
