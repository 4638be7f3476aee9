"""Cloud Audit Logs as a sink lays them out: shards, addenda, what is proven, and how entries read as OCSF."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa
import pytest

from benchmarks.cloud_events import gcp
from holdfast.clock import FakeClock
from holdfast.engine.audit.interface import AuditSource, Coverage, Interval, SourceUnreadable, State
from holdfast.engine.audit.ocsf.schema import SCHEMA, as_event
from holdfast.engine.audit.sources.cloud_logging import CloudLogging
from holdfast.engine.config.audit import CloudLoggingSource
from holdfast.engine.objectstore import memory_store
from holdfast.engine.objectstore.errors import InvalidKey
from ocsf_world import assert_valid

HOUR = Interval(datetime(2026, 11, 29, 8, tzinfo=UTC), datetime(2026, 11, 29, 9, tzinfo=UTC))
LOG = "cloudaudit.googleapis.com/activity"
FOLDER = f"{LOG}/2026/11/29/08:00:00_08:59:59_"
SHIPPED = int(datetime(2026, 11, 29, 11, tzinfo=UTC).timestamp())


class World:
    """A sink's bucket in memory, and a clock a day later."""

    def __init__(self, **settings: Any) -> None:
        self.store = memory_store()
        self.clock = FakeClock(HOUR.end + timedelta(days=1))
        settings = {"logs": (LOG,), **settings}
        self.settings = CloudLoggingSource(kind="cloud-logging", site="gcp", bucket="sink", **settings)

    def source(self, **arguments: Any) -> CloudLogging:
        return CloudLogging("gcp-audit", self.settings, self.store, self.clock, **arguments)

    def put(self, name: str, *records: bytes) -> None:
        key = name if "/" in name else f"{FOLDER}{name}"
        self.store.put(key, b"".join(record + b"\n" for record in records))

    def records(self) -> list[bytes]:
        return [record for batch in self.source().read(HOUR) for record in batch.raw.to_pylist()]

    def coverage(self, **arguments: Any) -> Coverage:
        source = self.source(**arguments)
        for _ in source.read(HOUR):
            pass
        return source.completeness(HOUR)


def codes(coverage: Coverage) -> set[str]:
    return {finding.code for finding in coverage.findings}


def entry(**changes: Any) -> bytes:
    """An entry with some fields changed, by `a__b`."""
    found = json.loads(next(gcp(1)))
    for path, value in changes.items():
        place = found
        *way, last = path.split("__")
        for name in way:
            place = place.setdefault(name, {})
        place[last] = value
    return json.dumps(found).encode()


def event(record: bytes) -> dict[str, Any]:
    """How one record reads as OCSF."""
    (row,) = World().source().normalise(pa.array([record], pa.large_binary())).to_pylist()
    return as_event(row)


def test_an_hour_with_all_its_shards_is_complete_once_it_is_closed() -> None:
    world = World()
    world.put("S0.json", *gcp(40, seed=1))
    world.put("S1.json", *gcp(20, seed=2))
    world.put(f"A0:{SHIPPED}.json", *gcp(3, seed=3))
    coverage = world.coverage()
    assert isinstance(world.source(), AuditSource)
    assert (coverage.state, coverage.proof) == (State.COMPLETE, "hour-closed")
    assert (coverage.expected, coverage.observed, coverage.objects, coverage.records) == (3, 3, 3, 63)


def test_every_object_can_be_made_again_from_its_records() -> None:
    world = World()
    world.put("S0.json", *gcp(7))
    (batch,) = world.source().read(HOUR)
    (source,) = batch.objects
    assert source.content(batch.raw.to_pylist()) == world.store.get(source.object_id)


def test_a_hole_in_the_numbers_of_the_shards_is_a_gap() -> None:
    world = World()
    world.put("S0.json", *gcp(3))
    world.put("S3.json", *gcp(3, seed=2))
    coverage = world.coverage()
    assert coverage.state is State.GAP
    assert (coverage.expected, coverage.observed) == (4, 2)
    (finding,) = (f for f in coverage.findings if f.code == "shard-missing")
    assert "missing 1, 2" in finding.detail
    assert finding.where == f"{FOLDER}S<n>.json"


def test_a_hole_in_the_numbers_of_a_shipment_of_addenda_is_a_gap() -> None:
    world = World()
    world.put("S0.json", *gcp(3))
    world.put(f"A0:{SHIPPED}.json", *gcp(1, seed=2))
    world.put(f"A1:{SHIPPED + 3600}.json", *gcp(1, seed=3))
    assert "shard-missing" in codes(world.coverage())


@pytest.mark.parametrize(
    "name", ["S99999999999999.json", "S" + "9" * 900 + ".json", "A0:x.json", "S0.json.gz", "S٣.json"]
)
def test_a_name_that_is_no_shards_is_told_and_costs_nothing(name: str) -> None:
    world = World()
    world.put("S0.json", *gcp(3))
    try:
        world.put(name, *gcp(3))
    except InvalidKey:
        return
    coverage = world.coverage()
    assert (codes(coverage), coverage.state) == ({"object-unexpected"}, State.UNKNOWN)


def test_an_hour_is_late_while_it_is_held_open() -> None:
    world = World()
    world.clock = FakeClock(HOUR.end + timedelta(hours=3))
    assert world.coverage().state is State.LATE
    world.put("S0.json", *gcp(3))
    assert world.coverage().state is State.LATE
    world.clock.advance(3600)
    assert world.coverage().state is State.COMPLETE


def test_an_hour_without_an_object_is_unknown_and_not_complete() -> None:
    coverage = World().coverage()
    assert coverage.state is State.UNKNOWN
    assert codes(coverage) == {"hour-empty"}


def test_with_a_heartbeat_in_the_hour_a_log_without_objects_is_empty() -> None:
    world = World(heartbeat="holdfast-heartbeat")
    assert world.coverage().state is State.UNKNOWN
    world.put("holdfast-heartbeat/2026/11/29/08:00:00_08:59:59_S0.json", b'{"insertId":"1"}')
    assert world.coverage().state is State.COMPLETE


def test_an_addendum_that_was_shipped_after_the_hold_is_told() -> None:
    world = World()
    world.put("S0.json", *gcp(5))
    late = int((HOUR.end + timedelta(hours=9)).timestamp())
    world.put(f"A0:{late}.json", *gcp(1, seed=9))
    assert len(world.records()) == 6
    assert "addendum-after-hold" in codes(world.coverage())


def test_reading_again_gives_the_same_and_what_arrived() -> None:
    world = World()
    world.put("S0.json", *gcp(5))
    before = world.records()
    assert world.records() == before
    world.put("S1.json", *gcp(2, seed=2))
    assert world.records()[: len(before)] == before
    assert len(world.records()) == 7


def test_entries_that_are_delivered_twice_are_counted_and_kept() -> None:
    world = World()
    world.put("S0.json", *gcp(5))
    world.put("S1.json", *gcp(5))
    coverage = world.coverage()
    assert coverage.state is State.COMPLETE
    assert coverage.records == 10
    (finding,) = coverage.findings
    assert finding.code == "duplicates"
    assert finding.detail.startswith("5 records")


def test_an_entry_whose_clock_is_wrong_is_kept_and_told() -> None:
    world = World()
    world.put("S0.json", entry(), entry(timestamp="2026-11-29T13:00:00Z", insertId="b"))
    (finding,) = world.coverage().findings
    assert (finding.code, finding.state) == ("outside-hour", State.COMPLETE)
    assert "1 records" in finding.detail
    assert "13:00:00" in finding.detail


def test_an_entry_of_half_a_mebibyte_is_one_event() -> None:
    world = World()
    large = entry(protoPayload__request={"blob": "x" * (600 * 1024)})
    world.put("S0.json", entry(), large)
    assert world.records()[1] == large
    assert event(large)["class_uid"] == event(entry())["class_uid"]


SINK = {
    "name": "audit",
    "destination": "storage.googleapis.com/sink",
    "filter": "logName:cloudaudit.googleapis.com",
    "updateTime": "2026-01-01T00:00:00Z",
}


def test_the_sinks_settings_are_evidence() -> None:
    world = World()
    world.put("S0.json", *gcp(3))
    data = json.dumps(SINK).encode()
    source = world.source(sink_reader=lambda: data)
    list(source.read(HOUR))
    assert source.completeness(HOUR).state is State.COMPLETE
    (document,) = source.documents(HOUR)
    assert (document.name, document.data) == ("sink.json", data)


@pytest.mark.parametrize(
    ("change", "code", "state"),
    [
        ({"disabled": True}, "sink-disabled", State.UNKNOWN),
        ({"destination": "bigquery.googleapis.com/x"}, "sink-elsewhere", State.UNKNOWN),
        ({"exclusions": [{"name": "no-reads", "filter": "x"}]}, "sink-excludes", State.COMPLETE),
        ({"updateTime": "2026-11-29T08:30:00Z"}, "sink-changed", State.COMPLETE),
    ],
)
def test_what_a_sinks_settings_say_against_an_hour_is_told(change: dict[str, Any], code: str, state: State) -> None:
    world = World()
    world.put("S0.json", *gcp(3))
    coverage = world.coverage(sink_reader=lambda: json.dumps({**SINK, **change}).encode())
    assert (codes(coverage), coverage.state) == ({code}, state)


@pytest.mark.parametrize("data", [b"", b"[]", b'{"exclusions":5}', b'{"exclusions":["x"]}'])
def test_settings_that_are_none_make_the_hour_unknown(data: bytes) -> None:
    world = World()
    world.put("S0.json", *gcp(3))
    coverage = world.coverage(sink_reader=lambda: data)
    assert (codes(coverage), coverage.state) == ({"sink-unreadable"}, State.UNKNOWN)


def test_settings_that_are_refused_make_the_hour_unknown() -> None:
    def refused() -> bytes:
        raise SourceUnreadable("no", code="permission-refused")

    world = World()
    world.put("S0.json", *gcp(3))
    coverage = world.coverage(sink_reader=refused)
    assert (codes(coverage), coverage.state) == ({"sink-permission-refused"}, State.UNKNOWN)


def test_every_kind_of_entry_is_valid_ocsf() -> None:
    table = World().source().normalise(pa.array(gcp(120), pa.large_binary()))
    assert table.schema == SCHEMA
    events = [as_event(row) for row in table.to_pylist()]
    for found in events:
        assert_valid(found)
    assert {found["class_uid"] for found in events} == {3004, 6003, 6005}


@pytest.mark.parametrize(
    ("least", "kind"),
    [
        ({"protoPayload": {"methodName": "x"}}, 6003),
        ({"protoPayload": {"methodName": "SetIamPolicy"}}, 3004),
        (
            {
                "protoPayload": {"methodName": "get", "serviceName": "storage.googleapis.com"},
                "logName": "projects/p/logs/cloudaudit.googleapis.com%2Fdata_access",
            },
            6005,
        ),
        ({"protoPayload": {"methodName": "x", "status": None, "authenticationInfo": {"principalEmail": ""}}}, 6003),
        ({"logName": "x", "resource": {"labels": {}}}, 0),
        ({}, 0),
    ],
)
def test_the_least_that_an_entry_may_hold_is_valid(least: dict[str, Any], kind: int) -> None:
    found = event(json.dumps({"timestamp": "2026-11-29T08:00:00Z", **least}).encode())
    assert_valid(found)
    assert found["class_uid"] == kind


def test_a_policy_that_is_set_is_entity_management() -> None:
    found = event(
        entry(
            protoPayload__methodName="SetIamPolicy",
            protoPayload__serviceName="cloudresourcemanager.googleapis.com",
            protoPayload__resourceName="projects/p",
        )
    )
    assert (found["class_uid"], found["activity_id"], found["entity"]["uid"]) == (3004, 3, "projects/p")


def test_an_object_that_is_read_is_named_in_its_bucket() -> None:
    found = event(
        entry(
            protoPayload__methodName="storage.objects.get",
            protoPayload__serviceName="storage.googleapis.com",
            protoPayload__resourceName="projects/_/buckets/features/objects/day/part 0.parquet",
            resource__labels={"bucket_name": "features"},
            logName="projects/p/logs/cloudaudit.googleapis.com%2Fdata_access",
        )
    )
    assert_valid(found)
    assert (found["databucket"]["name"], found["databucket"]["file"]["name"]) == ("features", "day/part 0.parquet")


def test_a_refused_call_is_a_failure_with_its_code() -> None:
    found = event(entry(protoPayload__status={"code": 7, "message": "PERMISSION_DENIED"}))
    assert (found["status_id"], found["status_code"], found["status_detail"]) == (2, "7", "PERMISSION_DENIED")


@pytest.mark.parametrize(
    ("text", "milliseconds"),
    [
        ("2026-11-29T08:00:00.123456789Z", 1795939200123),
        ("2026-11-29T10:00:00+02:00", 1795939200000),
        ("2026-11-29T08:00:00.5", 1795939200500),
        ("1969-12-31T23:59:59Z", -1000),
        ("0001-01-01T00:00:00+23:59", None),
        ("9999-12-31T23:59:59Z", 253402300799000),
        ("soon", None),
        ("", None),
        ("2026-13-01T00:00:00Z", None),
    ],
)
def test_times_are_read_whatever_they_are(text: str, milliseconds: int | None) -> None:
    assert event(entry(timestamp=text)).get("time") == milliseconds
    world = World()
    world.put("S0.json", entry(timestamp=text), entry())
    assert world.coverage().records == 2


def test_what_is_no_audit_entry_is_a_base_event() -> None:
    found = event(b'{"textPayload":"hi","insertId":"7","timestamp":"2026-11-29T08:00:00Z"}')
    assert_valid(found)
    assert (found["class_uid"], found["metadata"]["uid"], found["time"]) == (0, "7", 1795939200000)


@pytest.mark.parametrize(
    ("method", "activity"),
    [
        ("v1.compute.instances.insert", 1),
        ("storage.buckets.get", 2),
        ("google.container.v1.ClusterManager.UpdateCluster", 3),
        ("storage.buckets.delete", 4),
        ("google.longrunning.Operations.WaitOperation", 99),
    ],
)
def test_an_operations_name_says_what_it_does(method: str, activity: int) -> None:
    found = event(
        entry(protoPayload__methodName=method, logName="projects/p/logs/cloudaudit.googleapis.com%2Factivity")
    )
    assert (found["class_uid"], found["activity_id"]) == (6003, activity)
