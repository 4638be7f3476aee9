"""Google Cloud's audit logs, as a Cloud Logging sink lays them out in a bucket.

A sink writes ``<log>/yyyy/mm/dd/HH:00:00_HH:59:59_S<n>.json`` in hourly batches, the first of them after two to three
hours. An entry that is received in another hour than its own goes to an addendum, ``…_A<n>:<unix time>.json``, whose
number is the moment it was shipped (https://cloud.google.com/logging/docs/export/storage). What is proven, and what is
not, is in docs/reference/audit-cloud-logging.md.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, ClassVar

import pyarrow as pa

from holdfast.clock import Clock
from holdfast.engine.audit.interface import Coverage, Document, Finding, Interval, SourceUnreadable, State
from holdfast.engine.audit.sources.cloud_logging_ocsf import SHAPES, normalised
from holdfast.engine.audit.sources.json_blocks import Block
from holdfast.engine.audit.sources.json_lines import Folder, JsonLinesSource, Tally
from holdfast.engine.audit.sources.line_objects import DEFAULT_LIMITS, Limits
from holdfast.engine.audit.sources.mapping import Columns, milliseconds
from holdfast.engine.config.audit import CloudLoggingSource
from holdfast.engine.objectstore.interface import ObjectInfo, ObjectStore

if TYPE_CHECKING:
    from holdfast.engine.runtime import Runtime

_SHARD = re.compile(r"_(?:S(?P<main>[0-9]{1,6})|A(?P<late>[0-9]{1,6})(?::(?P<shipped>[0-9]{1,12}))?)\.json\Z")
#: Settings are read again after so long.
SINK_SECONDS = 300.0
#: The sink's settings as its API gives them. Raises SourceUnreadable.
SinkReader = Callable[[], bytes]


class CloudLogging(JsonLinesSource):
    """An `AuditSource`.

    Args:
        name: of the topology.
        settings: which logs, and how long an hour is held open.
        store: the sink's bucket, below its prefix.
        clock: says what is closed.
        sink_reader: reads the sink's settings, which are kept as evidence; none: they are not.
        limits: of one object.
    """

    kind = "cloud-logging"
    shapes = SHAPES
    proof: ClassVar[str] = "hour-closed"

    def __init__(
        self,
        name: str,
        settings: CloudLoggingSource,
        store: ObjectStore,
        clock: Clock,
        *,
        sink_reader: SinkReader | None = None,
        limits: Limits = DEFAULT_LIMITS,
    ) -> None:
        super().__init__(name, clock, settings.hold_hours, limits)
        self._settings = settings
        self._store = store
        self._sink_reader = sink_reader
        self._sink: Document | None = None
        self._sink_read_at = 0.0
        logs = settings.logs if settings.heartbeat is None else (*settings.logs, settings.heartbeat)
        self._logs = tuple(dict.fromkeys(logs))

    def folders(self, interval: Interval) -> Sequence[Folder]:
        start = interval.start
        hour = f"{start:%Y/%m/%d/%H}:00:00_{start:%H}:59:59_"
        return [Folder(log, self._store, f"{log}/{hour}") for log in self._logs]

    def wanted(self, info: ObjectInfo) -> bool:
        return _SHARD.search(info.key) is not None

    def judge(self, tally: Tally) -> Coverage:
        findings: list[Finding] = []
        expected = observed = 0
        delivers, is_open = self._delivers(tally), self.is_open(tally, "")
        for log in self._logs:
            infos = tally.objects.get(log)
            if infos is None:
                continue  # it could not be listed, which is a finding already
            for shards in _numbers(infos).values():
                expected += max(shards) + 1
                observed += len(shards)
                if holes := sorted(set(range(max(shards) + 1)) - shards.keys()):
                    shown = ", ".join(map(str, holes[:10]))
                    where = re.sub(r"[0-9]+((?::[0-9]+)?\.json)\Z", r"<n>\1", next(iter(shards.values())))
                    what = f"shards are numbered from 0; expected up to {max(shards)}, missing {shown}"
                    findings.append(Finding("shard-missing", what, where))
            findings += self._late_addenda(tally.interval, infos)
            if not infos and not is_open and not (delivers and log != self._settings.heartbeat):
                findings.append(_empty(log, self._settings.heartbeat))
        if is_open:
            closes = self.closes_at(tally.interval).isoformat()
            findings.append(Finding("hour-open", f"shards may arrive until {closes}", state=State.LATE))
        return Coverage(tally.interval, self.proof, expected, observed, tally.read, tally.records, tuple(findings))

    def _delivers(self, tally: Tally) -> bool:
        """Whether the heartbeat shows that the sink delivered in this hour."""
        return bool(self._settings.heartbeat and tally.objects.get(self._settings.heartbeat))

    def _late_addenda(self, interval: Interval, infos: Sequence[ObjectInfo]) -> Iterator[Finding]:
        closes = self.closes_at(interval)
        for info in infos:
            found = _SHARD.search(info.key)
            shipped = found and found["shipped"]
            if shipped and _moment(shipped) > closes:
                what = (
                    f"shipped at {_moment(shipped).isoformat()}, after the hour was held closed; `hold_hours` is short"
                )
                yield Finding("addendum-after-hold", what, info.key, State.COMPLETE)

    def begin(self, tally: Tally) -> None:
        """The sink's settings, read at most every few minutes; that they cannot be read is a finding."""
        if self._sink_reader is None:
            return
        if self._sink is None or self.clock.monotonic() - self._sink_read_at > SINK_SECONDS:
            try:
                data = self._sink_reader()
            except SourceUnreadable as error:
                self._sink = None
                tally.findings.append(Finding(f"sink-{error.code}", str(error), error.where or "", State.UNKNOWN))
                return
            self._sink = Document("sink.json", "application/json", data, {"read_at": self.clock.now().isoformat()})
            self._sink_read_at = self.clock.monotonic()
        tally.findings.extend(judge_sink(self._sink.data, tally.interval, self._settings.bucket))

    def documents(self, interval: Interval) -> Iterator[Document]:  # noqa: ARG002 - as they are now
        """The sink's settings as they were when the interval was read; what they were in it they do not say."""
        if self._sink is not None:
            yield self._sink

    def keys_and_times(self, block: Block) -> tuple[pa.Array, pa.Array]:
        import pyarrow.compute as pc

        columns = Columns(block.table)
        keys = pc.binary_join_element_wise(
            columns.text("logName"), columns.text("timestamp"), columns.text("insertId"), "\n"
        )
        return keys, milliseconds(columns.text("timestamp"))

    def as_ocsf(self, block: Block) -> pa.Table:
        return normalised(block)


def open_cloud_logging(runtime: Runtime, name: str, settings: CloudLoggingSource) -> CloudLogging:
    """The source as the topology has it. Raises UnknownName, ConfigError."""
    reader: SinkReader | None = None
    if settings.sink is not None:
        from holdfast.engine.audit.sources.cloud_logging_sink import sink_reader

        reader = sink_reader(settings.sink, runtime.connections.get(runtime.topology.site(settings.site).connection))
    store = runtime.bucket(settings.site, settings.bucket, settings.prefix)
    return CloudLogging(name, settings, store, runtime.clock, sink_reader=reader)


def _numbers(infos: Sequence[ObjectInfo]) -> dict[str, dict[int, str]]:
    """Each numbering's numbers, with their keys: one of the hour's own shards, and one per shipment of addenda."""
    found: defaultdict[str, dict[int, str]] = defaultdict(dict)
    for info in infos:
        shard = _SHARD.search(info.key)
        if shard is not None:
            series = "S" if shard["main"] is not None else f"A:{shard['shipped'] or ''}"
            found[series][int(shard["main"] or shard["late"])] = info.key
    return found


def _moment(unix: str) -> datetime:
    try:
        return datetime.fromtimestamp(int(unix), UTC)
    except (ValueError, OverflowError, OSError):
        return datetime.max.replace(tzinfo=UTC)


def _empty(log: str, heartbeat: str | None) -> Finding:
    what = "the hour has no object: nothing happened, or nothing was delivered"
    if heartbeat is not None:
        what += "; the heartbeat is not there either" if log != heartbeat else ", not even the heartbeat"
    return Finding("hour-empty", what, log, State.UNKNOWN)


def judge_sink(data: bytes, interval: Interval, bucket: str) -> Iterator[Finding]:
    """What a sink's settings say against an interval, or of it."""
    try:
        sink = json.loads(data)
        name, exclusions = str(sink.get("name", "")), [dict(one) for one in sink.get("exclusions") or ()]
    except (ValueError, TypeError, AttributeError):
        yield Finding("sink-unreadable", "its settings are not what the Logging API gives", "", State.UNKNOWN)
        return
    if sink.get("disabled"):
        yield Finding("sink-disabled", "the sink is disabled: it exports nothing", name, State.UNKNOWN)
    destination = str(sink.get("destination", ""))
    if destination != f"storage.googleapis.com/{bucket}":
        what = f"expected it to write to storage.googleapis.com/{bucket}, found {destination[:200]!r}"
        yield Finding("sink-elsewhere", what, name, State.UNKNOWN)
    if excluded := [str(one.get("name")) for one in exclusions if not one.get("disabled")]:
        what = f"entries are left out by {', '.join(excluded)[:200]}"
        yield Finding("sink-excludes", what, name, State.COMPLETE)
    changed = str(sink.get("updateTime", ""))
    if changed[:19] >= f"{interval.start:%Y-%m-%dT%H:%M:%S}":
        what = f"its settings were changed at {changed[:40]}; what they were before is not known here"
        yield Finding("sink-changed", what, name, State.COMPLETE)
