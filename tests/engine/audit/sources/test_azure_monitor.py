"""Azure Monitor's hourly append blobs: when they are final, what is read of one that grows, and records as OCSF."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa
import pytest

from benchmarks.cloud_events import azure
from holdfast.clock import FakeClock
from holdfast.engine.audit.interface import AuditSource, Coverage, Interval, State
from holdfast.engine.audit.ocsf.schema import as_event
from holdfast.engine.audit.sources.azure_monitor import AzureMonitor
from holdfast.engine.config.audit import AzureMonitorSource
from holdfast.engine.objectstore import memory_store
from holdfast.engine.objectstore._decorator import StoreDecorator
from ocsf_world import assert_valid

HOUR = Interval(datetime(2026, 11, 29, 8, tzinfo=UTC), datetime(2026, 11, 29, 9, tzinfo=UTC))
CATEGORY = "insights-activity-logs"
FOLDER = "resourceId=/SUBSCRIPTIONS/0F4D/y=2026/m=11/d=29/h=08/m=00/"
NEXT = FOLDER.replace("h=08", "h=09")


class Dated(StoreDecorator):
    """A store whose objects carry the times that a test gives them."""

    def __init__(self) -> None:
        super().__init__(memory_store())
        self.times: dict[str, datetime] = {}

    def list(self, prefix: str = "", *, start_after: str | None = None) -> Any:
        for info in self.inner.list(prefix, start_after=start_after):
            yield replace(info, modified_at=self.times.get(info.key, HOUR.end))


class World:
    """A container in memory, and a clock a day later."""

    def __init__(self, **settings: Any) -> None:
        self.store = Dated()
        self.clock = FakeClock(HOUR.end + timedelta(days=1))
        settings = {"resource_id": "/SUBSCRIPTIONS/0F4D", **settings}
        self.settings = AzureMonitorSource(kind="azure-monitor", site="azure", **settings)

    def source(self) -> AzureMonitor:
        return AzureMonitor("azure-activity", self.settings, {CATEGORY: self.store}, self.clock)

    def put(self, data: bytes, key: str = f"{FOLDER}PT1H.json", at: datetime = HOUR.end) -> None:
        self.store.put(key, data)
        self.store.times[key] = at

    def read(self) -> tuple[list[bytes], Coverage]:
        source = self.source()
        records = [record for batch in source.read(HOUR) for record in batch.raw.to_pylist()]
        return records, source.completeness(HOUR)


def codes(coverage: Coverage) -> set[str]:
    return {finding.code for finding in coverage.findings}


def lines(count: int, seed: int = 1) -> bytes:
    return b"".join(record + b"\r\n" for record in azure(count, seed=seed))


def event(**changes: Any) -> dict[str, Any]:
    """How a record of the Activity Log, changed, reads as OCSF."""
    record = json.dumps({**json.loads(next(azure(1))), **changes}).encode()
    (row,) = World().source().normalise(pa.array([record], pa.large_binary())).to_pylist()
    found = as_event(row)
    assert_valid(found)
    return found


def test_a_closed_hours_blob_is_complete() -> None:
    world = World()
    world.put(lines(20))
    records, coverage = world.read()
    assert isinstance(world.source(), AuditSource)
    assert records == list(azure(20))
    assert (coverage.state, coverage.proof, coverage.expected, coverage.observed) == (
        State.COMPLETE,
        "hour-closed",
        1,
        1,
    )


@pytest.mark.parametrize(
    "data", [lines(3), b"\xef\xbb\xbf" + lines(3), lines(3).replace(b"\r\n", b"\n"), lines(3)[:-2]]
)
def test_a_blob_is_made_again_from_its_records_whatever_ends_its_lines(data: bytes) -> None:
    world = World()
    world.put(data)
    (batch,) = world.source().read(HOUR)
    (source,) = batch.objects
    assert batch.raw.to_pylist() == list(azure(3))
    assert source.content(batch.raw.to_pylist()) == data
    assert World().source().normalise(batch.raw).column("class_uid").to_pylist().count(0) == 0


def test_an_hour_whose_time_is_not_over_is_late() -> None:
    world = World()
    world.put(lines(2))
    world.clock = FakeClock(HOUR.end + timedelta(minutes=20))
    _, coverage = world.read()
    assert (coverage.state, codes(coverage)) == (State.LATE, {"hour-open"})


def test_an_hour_is_closed_early_by_the_next_ones_blob_when_nothing_was_appended_since() -> None:
    world = World()
    world.clock = FakeClock(HOUR.end + timedelta(minutes=20))
    world.put(lines(2), at=HOUR.end)
    world.put(lines(2), f"{NEXT}PT1H.json", at=HOUR.end + timedelta(minutes=5))
    assert world.read()[1].state is State.LATE  # both may still be written to
    world.put(lines(3), f"{NEXT}PT1H.json", at=HOUR.end + timedelta(minutes=16))
    assert world.read()[1].state is State.COMPLETE


def test_a_line_that_is_being_appended_is_left_for_later() -> None:
    world = World()
    world.clock = FakeClock(HOUR.start + timedelta(minutes=50))
    whole = lines(3)
    world.put(whole[:-40])
    records, coverage = world.read()
    assert records == list(azure(3))[:2]
    assert (coverage.state, codes(coverage)) == (State.LATE, {"hour-open", "line-in-flight"})
    (batch,) = world.source().read(HOUR)
    (source,) = batch.objects
    taken = source.content(batch.raw.to_pylist())
    assert whole.startswith(taken)
    assert len(taken) == source.size_bytes
    world.put(whole)
    assert world.read()[0] == list(azure(3))


def test_a_line_that_was_never_finished_is_kept_as_it_is_once_the_hour_is_closed() -> None:
    world = World()
    world.put(lines(3)[:-40])
    records, coverage = world.read()
    assert len(records) == 3
    assert (coverage.state, codes(coverage)) == (State.GAP, {"line-not-json", "line-cut-short"})


def test_an_hour_without_a_blob_is_unknown() -> None:
    _, coverage = World().read()
    assert (coverage.state, codes(coverage)) == (State.UNKNOWN, {"hour-empty"})


def test_a_hole_in_the_numbers_of_an_hours_blobs_is_a_gap() -> None:
    world = World()
    world.put(lines(2))
    world.put(lines(2, seed=2), f"{FOLDER}PT1H_2.json")
    _, coverage = world.read()
    assert (coverage.state, codes(coverage)) == (State.GAP, {"blob-missing"})
    world.put(lines(2, seed=3), f"{FOLDER}PT1H_1.json")
    assert world.read()[1].state is State.COMPLETE


def test_records_that_are_the_same_are_counted_and_kept() -> None:
    world = World()
    world.put(lines(3) + b"".join(record + b"\r\n" for record in list(azure(3))[:2]))
    records, coverage = world.read()
    assert len(records) == 5
    (finding,) = coverage.findings
    assert finding.code == "duplicates"
    assert finding.detail.startswith("2 records")


def test_one_container_may_hold_every_category_as_a_folder() -> None:
    world = World(bucket="copied")
    world.put(lines(3), f"{CATEGORY}/{FOLDER}PT1H.json")
    source = AzureMonitor("azure-activity", world.settings, world.store, world.clock)
    assert sum(len(batch.raw) for batch in source.read(HOUR)) == 3


def test_the_same_key_in_two_containers_is_two_objects() -> None:
    world = World(categories=(CATEGORY, "insights-logs-auditevent"))
    world.put(lines(3))
    stores = {CATEGORY: world.store, "insights-logs-auditevent": world.store}
    source = AzureMonitor("azure-activity", world.settings, stores, world.clock)
    ids = [it.object_id for batch in source.read(HOUR) for it in batch.objects]
    assert len(set(ids)) == 2


def test_a_blob_of_another_name_is_told_and_not_passed_over() -> None:
    world = World()
    world.put(lines(3))
    world.put(lines(3), f"{FOLDER}PT5M.json")
    _, coverage = world.read()
    assert (coverage.state, codes(coverage)) == (State.UNKNOWN, {"object-unexpected"})


def test_entras_logs_lie_below_the_tenant() -> None:
    world = World(resource_id="tenantId=72f9")
    world.put(lines(3), FOLDER.replace("resourceId=/SUBSCRIPTIONS/0F4D", "tenantId=72f9") + "PT1H.json")
    assert len(world.read()[0]) == 3


def test_every_kind_of_record_is_valid_ocsf() -> None:
    table = World().source().normalise(pa.array(azure(120), pa.large_binary()))
    events = [as_event(row) for row in table.to_pylist()]
    for found in events:
        assert_valid(found)
    assert {found["class_uid"] for found in events} == {3004, 6003}


@pytest.mark.parametrize(
    ("operation", "found_class", "activity"),
    [
        ("MICROSOFT.COMPUTE/VIRTUALMACHINES/WRITE", 6003, 3),
        ("MICROSOFT.COMPUTE/VIRTUALMACHINES/DELETE", 6003, 4),
        ("MICROSOFT.STORAGE/STORAGEACCOUNTS/LISTKEYS/ACTION", 6003, 2),
        ("MICROSOFT.COMPUTE/VIRTUALMACHINES/START/ACTION", 6003, 99),
        ("SecretGet", 6003, 2),
        ("MICROSOFT.AUTHORIZATION/ROLEASSIGNMENTS/DELETE", 3004, 4),
        ("Microsoft.Authorization/roleDefinitions/write", 3004, 3),
    ],
)
def test_an_operations_name_says_what_it_does(operation: str, found_class: int, activity: int) -> None:
    found = event(operationName=operation)
    assert (found["class_uid"], found["activity_id"]) == (found_class, activity)


def test_a_write_that_answers_created_is_a_creation() -> None:
    found = event(operationName="MICROSOFT.COMPUTE/VIRTUALMACHINES/WRITE", resultSignature="Succeeded.Created")
    assert found["activity_id"] == 1


def test_a_refused_call_is_a_failure() -> None:
    found = event(resultType="Failure", resultSignature="Failed.Forbidden")
    assert (found["status_id"], found["status_code"]) == (2, "Failed.Forbidden")


def test_access_to_blobs_is_access_to_a_store() -> None:
    found = event(
        category="StorageRead",
        operationName="GetBlob",
        resourceId="/subscriptions/0f4d/resourceGroups/ml/providers/Microsoft.Storage/storageAccounts/features/blobServices/default",
        uri="https://features.blob.core.windows.net/day/part-0.parquet",
        identity={"type": "OAuth", "requester": {"objectId": "9", "upn": "ada@example.com"}},
        callerIpAddress="203.0.113.9:51234",
        statusCode=200,
    )
    assert (found["class_uid"], found["activity_id"], found["databucket"]["name"]) == (6005, 1, "features")
    assert (found["actor"]["user"]["name"], found["src_endpoint"]["ip"]) == ("ada@example.com", "203.0.113.9")


SIGN_IN = {
    "time": "2026-11-29T08:00:07.1234567Z",
    "resourceId": "/tenants/72f9/providers/Microsoft.aadiam",
    "operationName": "Sign-in activity",
    "category": "SignInLogs",
    "resultType": "50126",
    "resultDescription": "Invalid username or password",
    "callerIpAddress": "2001:db8::7",
    "identity": "Ada Lovelace",
    "level": 4,
    "location": "NL",
    "properties": {
        "id": "66ea54eb",
        "userId": "11",
        "userPrincipalName": "ada@example.com",
        "appDisplayName": "Azure Portal",
        "resourceDisplayName": "Windows Azure Service Management API",
        "authenticationRequirement": "multiFactorAuthentication",
        "status": {"errorCode": 50126, "failureReason": "Invalid username or password"},
        "deviceDetail": {"browser": "Chrome"},
    },
}


def test_a_sign_in_is_an_authentication() -> None:
    record = json.dumps(SIGN_IN).encode()
    (row,) = World().source().normalise(pa.array([record], pa.large_binary())).to_pylist()
    found = as_event(row)
    assert_valid(found)
    assert (found["class_uid"], found["activity_id"], found["status_id"], found["is_mfa"]) == (3002, 1, 2, True)
    assert (found["user"]["name"], found["src_endpoint"]["ip"], found["time"]) == (
        "ada@example.com",
        "2001:db8::7",
        1795939207123,
    )


def test_how_a_record_reads_does_not_depend_on_its_neighbours() -> None:
    bare = {"time": "2026-11-29T08:00:00Z", "operationName": "x"}
    records = [
        json.dumps(
            {**bare, "category": "ServicePrincipalSignInLogs", "properties": {"servicePrincipalId": "9"}}
        ).encode(),
        json.dumps({**bare, "category": "Administrative", "properties": {"message": "SignInLogs"}}).encode(),
        json.dumps({**bare, "category": "Administrative", "identity": {"claims": {"appid": "7"}}}).encode(),
        json.dumps({**bare, "category": 5}).encode(),
        json.dumps(SIGN_IN).encode(),
    ]
    source = World().source()
    alone = [source.normalise(pa.array([record], pa.large_binary())).to_pylist()[0] for record in records]
    assert [row["class_uid"] for row in alone] == [3002, 6003, 6003, 6003, 3002]
    for shift in range(len(records)):
        order = [*records[shift:], *records[:shift]] * 9
        together = source.normalise(pa.array(order, pa.large_binary())).to_pylist()
        assert together == [*alone[shift:], *alone[:shift]] * 9


@pytest.mark.parametrize(
    ("least", "kind"),
    [
        ({"operationName": "x"}, 6003),
        ({"operationName": "Microsoft.Authorization/roleAssignments/write"}, 3004),
        ({"operationName": "Add member to role", "category": "RoleManagement"}, 3004),
        ({"operationName": "PutBlob", "category": "StorageWrite"}, 6005),
        ({"operationName": "Sign-in activity", "category": "NonInteractiveUserSignInLogs"}, 3002),
        ({"operationName": "x", "category": "SignInLogsOfAnotherKind", "callerIpAddress": ""}, 6003),
        ({"category": "Administrative"}, 0),
        ({}, 0),
    ],
)
def test_the_least_that_a_record_may_hold_is_valid(least: dict[str, Any], kind: int) -> None:
    record = json.dumps({"time": "2026-11-29T08:00:00Z", **least}).encode()
    (row,) = World().source().normalise(pa.array([record], pa.large_binary())).to_pylist()
    found = as_event(row)
    assert_valid(found)
    assert found["class_uid"] == kind


def test_records_of_several_shapes_side_by_side_keep_their_order() -> None:
    records = [
        json.dumps({**SIGN_IN, "level": "4"}).encode() if row % 50 == 9 else one for row, one in enumerate(azure(300))
    ]
    table = World().source().normalise(pa.array(records, pa.large_binary()))
    found = table.column("class_uid").to_pylist()
    assert [row for row, kind in enumerate(found) if kind == 3002] == list(range(9, 300, 50))
    assert table.column("time").to_pylist()[10] == 1795939200000 + 119_966
