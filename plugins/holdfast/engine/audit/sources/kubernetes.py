"""Kubernetes' audit logs: `audit.k8s.io/v1` events as JSON lines, which something else brought into a bucket.

The API server writes them to a file or a webhook; how they get into a bucket is not Kubernetes' matter. So the layout
is configured, and only an exporter that numbers its objects shows that none is missing
(docs/reference/audit-kubernetes.md).
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING

import pyarrow as pa

from holdfast.clock import Clock
from holdfast.engine.audit.interface import Coverage, Finding, Interval, State
from holdfast.engine.audit.sources.json_blocks import Block
from holdfast.engine.audit.sources.json_lines import HOUR, Folder, JsonLinesSource, Tally, unreadable
from holdfast.engine.audit.sources.kubernetes_ocsf import SHAPES, normalised
from holdfast.engine.audit.sources.line_objects import DEFAULT_LIMITS, Limits
from holdfast.engine.audit.sources.mapping import Columns, milliseconds
from holdfast.engine.config.audit import KubernetesSource
from holdfast.engine.objectstore.errors import ObjectStoreError
from holdfast.engine.objectstore.interface import ObjectInfo, ObjectStore

if TYPE_CHECKING:
    from holdfast.engine.runtime import Runtime

#: How far before and after an hour its neighbours' numbers are looked for.
LOOK_HOURS = 24


class Kubernetes(JsonLinesSource):
    """An `AuditSource`.

    Args:
        name: of the topology.
        settings: the cluster's name, the layout, and how long an hour is held open.
        store: the bucket, below its prefix.
        clock: says what is closed.
        limits: of one object.
    """

    kind = "kubernetes"
    shapes = SHAPES

    def __init__(
        self,
        name: str,
        settings: KubernetesSource,
        store: ObjectStore,
        clock: Clock,
        *,
        limits: Limits = DEFAULT_LIMITS,
    ) -> None:
        super().__init__(name, clock, settings.hold_hours, limits)
        self._settings = settings
        self._store = store
        self._sequence = None if settings.sequence is None else _pattern(settings.sequence)

    def folders(self, interval: Interval) -> Sequence[Folder]:
        start = interval.start
        prefix = self._settings.layout.replace("{cluster}", self._settings.cluster)
        for name, code in (("{yyyy}", "%Y"), ("{mm}", "%m"), ("{dd}", "%d"), ("{hh}", "%H")):
            prefix = prefix.replace(name, start.strftime(code))
        return [Folder(self._settings.cluster, self._store, prefix)]

    def wanted(self, info: ObjectInfo) -> bool:
        return not info.key.endswith("/")

    def judge(self, tally: Tally) -> Coverage:
        findings: list[Finding] = []
        if self.is_open(tally, ""):
            closes = self.closes_at(tally.interval).isoformat()
            findings.append(Finding("hour-open", f"objects may arrive until {closes}", state=State.LATE))
        infos = tally.objects.get(self._settings.cluster)
        if self._sequence is None or infos is None:
            if self._sequence is None:
                what = "the export does not number its objects: nothing shows whether it is whole"
                findings.append(Finding("no-proof", what, state=State.UNKNOWN))
            return Coverage(tally.interval, "none", None, 0, tally.read, tally.records, tuple(findings))
        expected, observed = self._judge_sequence(tally.interval, infos, findings)
        return Coverage(tally.interval, "sequence", expected, observed, tally.read, tally.records, tuple(findings))

    def _judge_sequence(
        self, interval: Interval, infos: Sequence[ObjectInfo], findings: list[Finding]
    ) -> tuple[int, int]:
        """How many numbers there should be, and are: from the last one before the hour to the first one after it."""
        numbers = self._numbers(interval, infos)
        try:
            before = self._nearest(interval, -1)
            after = self._nearest(interval, +1)
        except ObjectStoreError as error:
            refusal = unreadable(error, self._settings.cluster)
            findings.append(Finding(refusal.code, str(refusal), state=State.UNKNOWN))
            before = after = {}
        expected = observed = 0
        if not (numbers.keys() | before.keys()) and not findings:  # else it is open still
            what = f"no numbered object in the hour, nor in the {LOOK_HOURS} before it"
            findings.append(Finding("hour-empty", what, state=State.UNKNOWN))
        for stream in sorted(numbers.keys() | before.keys()):
            found = numbers.get(stream, set())
            first = max(before[stream]) + 1 if stream in before else min(found)
            if stream in after:
                last = min(after[stream]) - 1
            else:
                last = max(found, default=first - 1)
                what = "no later object shows that its last one was the hour's last"
                state = State.LATE if self._is_recent(interval) else State.UNKNOWN
                findings.append(Finding("sequence-open", what, stream, state))
            due = last - first + 1
            have = len([number for number in found if first <= number <= last])
            expected, observed = expected + max(due, 0), observed + have
            if have < due:
                missing = _first_missing(found, first)
                what = f"expected numbers {first} to {last}, {due - have} are missing, the first of them {missing}"
                findings.append(Finding("sequence-hole", what, stream))
            if stream not in before:
                what = f"nothing in the {LOOK_HOURS} hours before: {first} is taken for its first number"
                findings.append(Finding("sequence-start", what, stream, State.COMPLETE))
        return expected, observed

    def _is_recent(self, interval: Interval) -> bool:
        return self.clock.now() < interval.end + timedelta(hours=LOOK_HOURS)

    def _nearest(self, interval: Interval, step: int) -> dict[str, set[int]]:
        """Each stream's numbers in the nearest hour, on one side, that has any of it."""
        found: dict[str, set[int]] = {}
        for distance in range(1, LOOK_HOURS + 1):
            shift = HOUR * (step * distance)
            hour = Interval(interval.start + shift, interval.end + shift)
            if hour.start > self.clock.now():
                break
            for folder in self.folders(hour):
                for stream, numbers in self._numbers(hour, list(self._listed(folder))).items():
                    found.setdefault(stream, numbers)
            if found and "{stream}" not in str(self._settings.sequence):
                break
        return found

    def _numbers(self, interval: Interval, infos: Sequence[ObjectInfo]) -> dict[str, set[int]]:
        assert self._sequence is not None
        prefix = self.folders(interval)[0].prefix
        numbers: defaultdict[str, set[int]] = defaultdict(set)
        for info in infos:
            if found := self._sequence.fullmatch(info.key.removeprefix(prefix)):
                numbers[found.groupdict().get("stream") or ""].add(int(found["index"]))
        return dict(numbers)

    def keys_and_times(self, block: Block) -> tuple[pa.Array, pa.Array]:
        import pyarrow.compute as pc

        columns = Columns(block.table)
        keys = pc.binary_join_element_wise(columns.text("auditID"), columns.text("stage"), "/")
        return keys, milliseconds(columns.text("stageTimestamp"))

    def as_ocsf(self, block: Block) -> pa.Table:
        return normalised(block, self._settings.cluster)


def open_kubernetes(runtime: Runtime, name: str, settings: KubernetesSource) -> Kubernetes:
    """The source as the topology has it. Raises UnknownName, ConfigError."""
    store = runtime.bucket(settings.site, settings.bucket, settings.prefix)
    return Kubernetes(name, settings, store, runtime.clock)


def _pattern(sequence: str) -> re.Pattern[str]:
    parts = re.split(r"(\{index\}|\{stream\})", sequence)
    groups = {"{index}": r"(?P<index>[0-9]{1,18})", "{stream}": r"(?P<stream>.+?)"}
    return re.compile("".join(groups.get(part, re.escape(part)) for part in parts))


def _first_missing(found: set[int], first: int) -> int:
    while first in found:
        first += 1
    return first
