"""What arrives at a source after its interval was sealed as settled is sealed by a later export, which tells of it."""

from __future__ import annotations

import gzip
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

import audit_second_verifier as second
import cloudtrail_world
from audit_world import AuditWorld, FakeSource, add_audit
from benchmarks.cloud_events import azure, gcp
from cloudtrail_world import FakeTrailApi, Trail, TrailBucket
from holdfast.clock import FakeClock
from holdfast.engine.audit.chain import verify_exports
from holdfast.engine.audit.coverage import parse_coverage
from holdfast.engine.audit.export import Exported, export_audit
from holdfast.engine.audit.interface import AuditSource, Coverage, Finding, State
from holdfast.engine.audit.sources.azure_monitor import AzureMonitor
from holdfast.engine.audit.sources.cloud_logging import CloudLogging
from holdfast.engine.audit.sources.cloudtrail import CloudTrail
from holdfast.engine.audit.sources.line_objects import Limits
from holdfast.engine.config.audit import AzureMonitorSource, CloudLoggingSource
from holdfast.engine.objectstore import memory_store
from holdfast.engine.objectstore._decorator import StoreDecorator
from holdfast.engine.objectstore.errors import BucketNotFound, PermissionRefused
from holdfast.engine.objectstore.interface import ObjectStore

HOUR = timedelta(hours=1)
START = datetime(2026, 11, 29, 8, tzinfo=UTC)
LOG = "cloudaudit.googleapis.com/activity"
BLOB = "resourceId=/SUBSCRIPTIONS/0F4D/y=2026/m=11/d=29/h={hour:02d}/m=00/PT1H.json"


class World:
    """A source whose hours are closed ten minutes after their end, exported at moments of the test's choice.

    Args:
        opener: gives the source as it is now.
        settings: of the topology's ``audit``.
    """

    def __init__(self, folder: Path, opener: Callable[[FakeClock], AuditSource], **settings: Any) -> None:
        self.world = AuditWorld(folder, FakeSource([]))
        add_audit(self.world.topology, **settings)
        self.opener = opener
        self.folders: list[Path] = []

    def export(self, at: datetime, start: datetime = START) -> tuple[Exported, dict[int, Coverage]]:
        """The export, and what its coverage says, by the hour."""
        self.world.clock = FakeClock(at)
        folder = self.world.folder / f"export-{len(self.folders)}"
        done = export_audit(
            self.world.runtime(),
            output=folder,
            since=start,
            until=at.replace(minute=0),
            opener=lambda *_: self.opener(self.world.clock),
        )
        self.folders.append(folder)
        told = parse_coverage((folder / "coverage/fake.json").read_bytes(), "coverage")
        return done, {round((one.interval.start - start) / HOUR): one for one in told.intervals}

    def verdict(self) -> str:
        """Of all exports; both verifiers come to it."""
        answer, _ = verify_exports(self.folders, trusted=[self.world.key])
        assert second.verify(self.folders, [str(self.world.key)], None)[0] == answer.verdict
        return answer.verdict


def logging_world(folder: Path, store: ObjectStore | None = None, **settings: Any) -> tuple[World, ObjectStore]:
    """A Cloud Logging bucket."""
    store = memory_store() if store is None else store
    limits = settings.pop("limits", Limits())
    source = CloudLoggingSource(kind="cloud-logging", site="gcp", bucket="sink", logs=(LOG,), hold_hours=0)
    return World(folder, lambda clock: CloudLogging("fake", source, store, clock, limits=limits), **settings), store


def shard(hour: int, name: str) -> str:
    return f"{LOG}/2026/11/29/{hour:02d}:00:00_{hour:02d}:59:59_{name}.json"


def lines(records: Iterator[bytes]) -> bytes:
    return b"".join(record + b"\n" for record in records)


def late_of(coverage: Coverage) -> list[Finding]:
    return [finding for finding in coverage.findings if finding.code == "arrived-late"]


def at(hours: int, minutes: int = 10) -> datetime:
    return START + hours * HOUR + timedelta(minutes=minutes)


def test_a_late_addendum_and_the_first_shard_of_an_empty_hour_are_sealed(tmp_path: Path) -> None:
    world, store = logging_world(tmp_path)
    store.put(shard(8, "S0"), lines(gcp(5, seed=1)))
    _, first = world.export(at(2))
    assert [first[hour].state for hour in (0, 1)] == [State.COMPLETE, State.UNKNOWN]
    assert world.verdict() == "unknown"

    addendum = shard(8, f"A0:{int(at(3).timestamp())}")
    store.put(addendum, lines(gcp(2, seed=2)))
    store.put(shard(9, "S0"), lines(gcp(3, seed=3)))
    store.put(shard(10, "S0"), lines(gcp(1, seed=4)))
    done, told = world.export(at(3))
    assert sum(segment.rows for segment in done.manifest.segments) == 2 + 3 + 1
    assert [told[hour].state for hour in (0, 1, 2)] == [State.COMPLETE] * 3
    (found,) = late_of(told[0])
    assert (found.where, found.state) == (addendum, State.COMPLETE)
    assert "1 objects came, or grew, after the interval was sealed as complete" in found.detail
    assert "sealed as unknown" in late_of(told[1])[0].detail
    assert not late_of(told[2])
    assert (told[0].objects, told[0].records) == (2, 7)  # the interval as it is now, whole
    assert world.verdict() == "fine"

    _, third = world.export(at(3, minutes=40))
    assert third == {}


def test_an_azure_blob_that_grew_after_its_hour_is_sealed_again(tmp_path: Path) -> None:
    store = memory_store()
    settings = AzureMonitorSource(kind="azure-monitor", site="azure", resource_id="/SUBSCRIPTIONS/0F4D", hold_hours=0)
    stores = {"insights-activity-logs": store}
    world = World(tmp_path, lambda clock: AzureMonitor("fake", settings, stores, clock))
    store.put(BLOB.format(hour=8), lines(azure(4)))
    world.export(at(1))
    for count, hours in ((6, 2), (9, 3)):
        store.put(BLOB.format(hour=8), lines(azure(count)))
        store.put(BLOB.format(hour=7 + hours), lines(azure(1, seed=9)))
        done, told = world.export(at(hours))
        assert (told[0].records, len(late_of(told[0]))) == (count, 1)
        assert sum(segment.rows for segment in done.manifest.segments) == count + 1
    assert world.verdict() == "fine"


class NotMade(StoreDecorator):
    """A container that Azure has not made yet: no record of its category came."""

    def list(self, prefix: str = "", *, start_after: str | None = None) -> Any:
        raise BucketNotFound("there is no such container", where="insights-logs-audit")


def test_a_category_whose_container_is_not_there_keeps_no_other_from_being_looked_at(tmp_path: Path) -> None:
    names = ("insights-activity-logs", "insights-logs-audit")
    settings = AzureMonitorSource(
        kind="azure-monitor", site="azure", resource_id="/SUBSCRIPTIONS/0F4D", hold_hours=0, categories=names
    )
    stores = dict(zip(names, (memory_store(), NotMade(memory_store())), strict=True))
    world = World(tmp_path, lambda clock: AzureMonitor("fake", settings, stores, clock), look_back_hours=400)
    stores[names[0]].put(BLOB.format(hour=8), lines(azure(4)))
    world.export(at(1))
    world.export(at(200))  # what is unknown is asked again for a week
    stores[names[0]].put(BLOB.format(hour=8), lines(azure(6)))
    _, told = world.export(at(201))
    assert (told[0].records, len(late_of(told[0]))) == (6, 1)
    assert "not-looked-back" not in {finding.code for one in told.values() for finding in one.findings}


def test_a_log_file_that_cloudtrail_delivers_hours_later_is_sealed_with_its_digest(tmp_path: Path) -> None:
    trail, start = Trail(), cloudtrail_world.START
    world = World(
        tmp_path, lambda clock: CloudTrail("fake", trail.settings(), TrailBucket(trail), clock, api=FakeTrailApi())
    )
    trail.deliver(2)
    _, first = world.export(start + 2 * HOUR + timedelta(minutes=10), start)
    assert first[0].state is State.COMPLETE
    late = trail.log(start + timedelta(minutes=25))
    trail.digest(start, start + HOUR, [late], backfill=True)
    trail.deliver(3)
    done, told = world.export(start + 5 * HOUR + timedelta(minutes=10), start)
    assert told[0].state is State.COMPLETE
    assert [finding.where for finding in late_of(told[0])] == [late]
    assert 1 not in told
    assert sum(segment.object_count for segment in done.manifest.segments) == 1 + 3 * 2
    assert world.verdict() == "fine"


@pytest.mark.parametrize(("look_back_hours", "is_found"), [(0, False), (1, False), (3, True)])
def test_hours_are_looked_at_for_as_long_as_the_topology_says(
    tmp_path: Path, look_back_hours: float, is_found: bool
) -> None:
    world, store = logging_world(tmp_path, look_back_hours=look_back_hours)
    store.put(shard(8, "S0"), lines(gcp(5)))
    world.export(at(1))
    store.put(shard(8, "S1"), lines(gcp(2, seed=2)))
    _, told = world.export(at(3))
    assert (0 in told) is is_found


def test_what_could_not_be_taken_is_not_asked_for_in_every_export(tmp_path: Path) -> None:
    world, store = logging_world(tmp_path, limits=Limits(part_bytes=4096), look_back_hours=200)
    store.put(shard(8, "S0"), lines(gcp(30)))  # larger than a part
    store.put(shard(8, "S1"), gzip.compress(lines(gcp(3)))[:-9])
    _, first = world.export(at(1))
    assert {finding.code for finding in first[0].findings} >= {"not-gzip"}
    world.export(at(30))  # it is a gap that another try might mend, for a day
    _, told = world.export(at(31))
    assert 0 not in told
    store.put(shard(8, "S2"), lines(gcp(2, seed=2)))
    done, told = world.export(at(32))
    assert [finding.where for finding in late_of(told[0])] == [shard(8, "S2")]
    assert [segment.object_count for segment in done.manifest.segments] == [1]


def _refused(*_: Any) -> Iterator[tuple[str, int]]:
    raise PermissionRefused("may not list", where="sink")


def test_that_nobody_could_look_is_unknown_and_the_next_export_looks_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world, store = logging_world(tmp_path)
    store.put(shard(8, "S0"), lines(gcp(5)))
    world.export(at(1))
    for hour in (9, 10):
        store.put(shard(hour, "S0"), lines(gcp(1, seed=hour)))
    store.put(shard(8, "S1"), lines(gcp(2, seed=2)))
    with monkeypatch.context() as patched:
        patched.setattr(CloudLogging, "listed", _refused)
        _, told = world.export(at(3))
    assert [told[hour].state for hour in (1, 2)] == [State.COMPLETE, State.UNKNOWN]
    finding = told[2].findings[-1]
    assert (finding.code, "may not list" in finding.detail) == ("not-looked-back", True)
    assert world.verdict() == "unknown"
    store.put(shard(11, "S0"), lines(gcp(1, seed=11)))
    _, told = world.export(at(4))
    assert sorted(told) == [0, 2, 3]
    assert world.verdict() == "fine"


def test_that_what_is_sealed_cannot_be_read_keeps_nothing_from_being_sealed(tmp_path: Path) -> None:
    world, store = logging_world(tmp_path)
    store.put(shard(8, "S0"), lines(gcp(5)))
    done, _ = world.export(at(1))
    ledger = world.world.runtime().store("site-b", flow="audit")
    (segment,) = done.manifest.segments
    ledger.put(f"ledger/exports/{done.record.folder}/{segment.objects.path}", b"other bytes")
    store.put(shard(9, "S0"), lines(gcp(1, seed=2)))
    done, told = world.export(at(2))
    assert (told[1].findings[-1].code, told[1].state) == ("not-looked-back", State.UNKNOWN)
    assert sum(segment.rows for segment in done.manifest.segments) == 1


def test_an_hour_that_is_asked_again_anyway_is_not_called_late(tmp_path: Path) -> None:
    world, store = logging_world(tmp_path)
    opener = world.opener
    world.opener = lambda clock: _holding(opener(clock))
    store.put(shard(8, "S0"), lines(gcp(5)))
    _, first = world.export(at(1))
    assert first[0].state is State.LATE
    store.put(shard(8, "S1"), lines(gcp(2, seed=2)))
    _, told = world.export(at(4))
    assert (told[0].records, told[0].state, late_of(told[0])) == (7, State.COMPLETE, [])


def _holding(source: AuditSource) -> AuditSource:
    assert isinstance(source, CloudLogging)
    settings = CloudLoggingSource(kind="cloud-logging", site="gcp", bucket="sink", logs=(LOG,), hold_hours=1)
    return CloudLogging("fake", settings, source._store, source.clock)
