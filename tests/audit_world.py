"""A world for audit exports: sites in memory, and a source whose events the test decides."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import yaml

from folders import make_folders
from holdfast.clock import FakeClock
from holdfast.engine.audit.export import Exported, export_audit
from holdfast.engine.audit.interface import Batch, Coverage, Document, Finding, Interval, SourceObject
from holdfast.engine.audit.ocsf import schema as ocsf
from holdfast.engine.audit.problems import Answer
from holdfast.engine.audit.signing import cosigners
from holdfast.engine.audit.tlog.keys import VerifierKey
from holdfast.engine.audit.verify import verify_export
from holdfast.engine.config import EnvironmentConnections, load_topology
from holdfast.engine.objectstore.access import StoreAccess
from holdfast.engine.runtime import Runtime

START = datetime(2026, 11, 29, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)


def event(number: int, **more: Any) -> bytes:
    """An event as a cloud might have sent it."""
    return json.dumps({"id": f"event-{number}", "actor": f"user-{number % 7}", "n": number, **more}).encode()


def batch_of(object_id: str, records: Sequence[bytes], *, prefix: bytes = b"[", suffix: bytes = b"]") -> Batch:
    """One object that holds these records."""
    content = prefix + b",".join(records) + suffix
    digest = hashlib.sha256(content).hexdigest()
    one = SourceObject(object_id, len(content), digest, digest, prefix, b",", suffix)
    return Batch((one,), (len(records),), pa.array(records, pa.large_binary()))


@dataclass
class FakeSource:
    """Hours of events; what is wrong with an hour is told as a finding, or raised.

    Args:
        hours: per hour from `START` its objects, each a list of records.
        fails: per hour an error to raise while it is read.
        findings: per hour what its coverage says.
    """

    hours: list[list[list[bytes]]]
    name: str = "fake"
    kind: str = "fake"
    fails: dict[int, Exception] = field(default_factory=dict)
    findings: dict[int, tuple[Finding, ...]] = field(default_factory=dict)
    extra: dict[int, tuple[Document, ...]] = field(default_factory=dict)
    reads: list[int] = field(default_factory=list)

    def _number(self, interval: Interval) -> int:
        return round((interval.start - START) / HOUR)

    def intervals(self, window: Interval) -> Sequence[Interval]:
        first = round((window.start - START) / HOUR)
        last = round((window.end - START) / HOUR)
        return [Interval(START + n * HOUR, START + (n + 1) * HOUR) for n in range(first, last)]

    def read(self, interval: Interval) -> Iterator[Batch]:
        hour = self._number(interval)
        self.reads.append(hour)
        for number, records in enumerate(self.hours[hour] if hour < len(self.hours) else []):
            yield batch_of(f"{hour:02d}/{number}", records)
        if hour in self.fails:
            raise self.fails[hour]

    def completeness(self, interval: Interval) -> Coverage:
        hour = self._number(interval)
        objects = self.hours[hour] if hour < len(self.hours) else []
        records = sum(map(len, objects))
        return Coverage(interval, "hours", 1, 1, len(objects), records, self.findings.get(hour, ()))

    def documents(self, interval: Interval) -> Iterator[Document]:
        yield from self.extra.get(self._number(interval), ())

    def normalise(self, raw: pa.LargeBinaryArray) -> pa.Table:
        rows = [json.loads(one) for one in raw.to_pylist()]
        return ocsf.build(
            len(rows),
            {
                "class_uid": ocsf.API_ACTIVITY,
                "activity_id": 1,
                "time": 1764417600000,
                "metadata.uid": pa.array([row["id"] for row in rows], pa.string()),
                "metadata.product.name": "Fake",
                "actor.user.name": pa.array([row["actor"] for row in rows], pa.string()),
                "api.operation": "Create",
            },
        )


def add_audit(topology: Path, **settings: Any) -> Path:
    """Give the topology of `folders.make_folders` a ledger at ``site-b`` and ``site-c``, with one source ``fake``."""
    document = yaml.safe_load(topology.read_text())
    document["audit"] = {
        "origin": "example.com/desk",
        "sites": ["site-b", "site-c"],
        "lock_mode": "none",
        "sources": {"fake": {"kind": "holdfast"}},
        **settings,
    }
    topology.write_text(yaml.safe_dump(document))
    return topology


@dataclass
class AuditWorld:
    """A topology in folders, and what exports of it come to."""

    folder: Path
    source: FakeSource

    def __post_init__(self) -> None:
        self.topology = add_audit(make_folders(self.folder))
        self.environ = {**os.environ, "HOLDFAST_STATE": str(self.folder / "state")}
        self.environ.pop("HOLDFAST_SIGNING_KEY", None)
        self.clock = FakeClock(START + 3 * HOUR)
        self.exports = 0

    def runtime(self) -> Runtime:
        """A fresh one, as a new process has."""
        return Runtime(
            load_topology(self.topology, self.environ),
            EnvironmentConnections({}),
            access=lambda _name, _site: StoreAccess(),
            clock=self.clock,
            environ=self.environ,
        )

    def export(self, until: datetime | None = None, **more: Any) -> Exported:
        """Export what is new, into a folder of its own."""
        self.exports += 1
        return export_audit(
            self.runtime(),
            output=self.folder / f"export-{self.exports}",
            until=until,
            opener=lambda *_: self.source,
            **{"since": START, **more},
        )

    @property
    def key(self) -> VerifierKey:
        """Of this machine."""
        return cosigners(self.runtime())[0].key

    def verify(self, folder: Path) -> Answer:
        """With the key pinned."""
        return verify_export(folder, trusted=[self.key]).answer
