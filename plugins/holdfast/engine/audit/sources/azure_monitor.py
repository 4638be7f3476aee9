"""Azure's Activity Log and resource logs, as a diagnostic setting writes them to Blob Storage.

Each category has a container. An hour is one append blob, ``resourceId=<id>/y=…/m=…/d=…/h=…/m=00/PT1H.json``, and
``PT1H_<n>.json`` beside it when it had too many appends (a blob takes 50,000). The hour is that in which the record was
received, and shortly after it both blobs may still be written to
(https://learn.microsoft.com/azure/azure-monitor/platform/resource-logs). What is proven, and what is not, is in
docs/reference/audit-azure-monitor.md.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, ClassVar

import pyarrow as pa

from holdfast.clock import Clock
from holdfast.engine.audit.interface import Coverage, Finding, Interval, State
from holdfast.engine.audit.sources.azure_monitor_ocsf import SHAPES, normalised
from holdfast.engine.audit.sources.json_blocks import Block
from holdfast.engine.audit.sources.json_lines import HOUR, Folder, JsonLinesSource, Tally
from holdfast.engine.audit.sources.line_objects import DEFAULT_LIMITS, Limits
from holdfast.engine.audit.sources.mapping import Columns, milliseconds
from holdfast.engine.config.audit import AzureMonitorSource
from holdfast.engine.objectstore.errors import ObjectStoreError
from holdfast.engine.objectstore.interface import ObjectInfo, ObjectStore
from holdfast.engine.objectstore.prefixed import PrefixedStore

if TYPE_CHECKING:
    from holdfast.engine.runtime import Runtime

_BLOB = re.compile(r"/PT1H(?:_(?P<number>[0-9]{1,6}))?\.json\Z")
#: How long nothing was appended to an hour's blob when the next one had begun, for it to be closed before its time.
QUIET = timedelta(minutes=15)


class AzureMonitor(JsonLinesSource):
    """An `AuditSource`.

    Args:
        name: of the topology.
        settings: which categories, of what, and how long an hour is held open.
        store: each category's container; or one container, in which each category is a folder.
        clock: says what is closed.
        limits: of one blob.
    """

    kind = "azure-monitor"
    shapes = SHAPES
    may_grow = True
    proof: ClassVar[str] = "hour-closed"

    def __init__(
        self,
        name: str,
        settings: AzureMonitorSource,
        store: ObjectStore | Mapping[str, ObjectStore],
        clock: Clock,
        *,
        limits: Limits = DEFAULT_LIMITS,
    ) -> None:
        super().__init__(name, clock, settings.hold_hours, limits)
        self._settings = settings
        self._stores = (
            dict(store)
            if isinstance(store, Mapping)
            else {category: PrefixedStore(store, category) for category in settings.categories}
        )
        whose = settings.resource_id
        self._whose = f"resourceId={whose}" if whose.startswith("/") else whose

    def folders(self, interval: Interval) -> Sequence[Folder]:
        prefix = f"{self._whose}/{interval.start:y=%Y/m=%m/d=%d/h=%H/m=00}/"
        # The same keys are in every category's container.
        return [Folder(name, self._stores[name], prefix, named=f"{name}/") for name in self._settings.categories]

    def wanted(self, info: ObjectInfo) -> bool:
        return _BLOB.search(info.key) is not None

    def is_open(self, tally: Tally, log: str) -> bool:
        if not super().is_open(tally, log):
            return False
        last = max((info.modified_at for info in tally.objects.get(log, ())), default=None)
        return last is None or not self._next_began(tally.interval, log, last + QUIET)

    def _next_began(self, interval: Interval, log: str, after: datetime) -> bool:
        """Whether the next hour's blob was written to after this moment, both by the store's clock."""
        following = Interval(interval.end, interval.end + HOUR)
        folder = next(folder for folder in self.folders(following) if folder.log == log)
        try:
            return any(info.modified_at >= after for info in filter(self.wanted, self._listed(folder)))
        except ObjectStoreError:
            return False

    def judge(self, tally: Tally) -> Coverage:
        findings: list[Finding] = []
        expected = observed = 0
        for category in self._settings.categories:
            infos = tally.objects.get(category)
            if infos is None:
                continue  # it could not be listed, which is a finding already
            if tally.was_open[category]:
                closes = self.closes_at(tally.interval).isoformat()
                what = f"its blob may be appended to until {closes}, or until the next hour's is written to"
                findings.append(Finding("hour-open", what, category, State.LATE))
                if not infos:
                    continue
            if not infos:
                what = "the hour has no blob: nothing happened, or nothing was delivered"
                findings.append(Finding("hour-empty", what, category, State.UNKNOWN))
                continue
            numbers = {int(found["number"] or 0) for info in infos if (found := _BLOB.search(info.key))}
            expected += max(numbers) + 1
            observed += len(numbers)
            if missing := sorted(set(range(max(numbers) + 1)) - numbers):
                what = f"blobs of an hour are numbered; expected up to {max(numbers)}, missing {missing[:10]}"
                findings.append(Finding("blob-missing", what, f"{category}/{infos[0].key}"))
        return Coverage(tally.interval, self.proof, expected, observed, tally.read, tally.records, tuple(findings))

    def keys_and_times(self, block: Block) -> tuple[pa.Array, pa.Array]:
        columns = Columns(block.table)
        return _fingerprints(columns), milliseconds(columns.text("time"))

    def as_ocsf(self, block: Block) -> pa.Table:
        return normalised(block)


def _fingerprints(columns: Columns) -> pa.Array:
    """What tells two records apart: an exported record has no id of its own."""
    import pyarrow.compute as pc

    parts = ("time", "correlationId", "operationName", "resultType", "resultSignature", "resourceId", "callerIpAddress")
    texts = [pc.fill_null(columns.text(part), "") for part in parts]
    return pc.if_else(
        pc.is_valid(columns.text("time")),
        pc.binary_join_element_wise(*texts, "\n"),
        pa.scalar(None, pa.string()),
    )


def open_azure_monitor(runtime: Runtime, name: str, settings: AzureMonitorSource) -> AzureMonitor:
    """The source as the topology has it. Raises UnknownName, ConfigError."""
    if settings.bucket:
        store: ObjectStore | Mapping[str, ObjectStore] = runtime.bucket(settings.site, settings.bucket, settings.prefix)
    else:
        store = {category: runtime.bucket(settings.site, category, settings.prefix) for category in settings.categories}
    return AzureMonitor(name, settings, store, runtime.clock)
