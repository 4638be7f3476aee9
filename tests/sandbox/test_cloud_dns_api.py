"""The emulated Cloud DNS: what it does, and that Google's description of the API agrees."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from holdfast.sandbox.cloud_dns_api import application
from holdfast.sandbox.discovery import Discovery

ZONES = "/dns/v1/projects/p/managedZones"
ZONE = f"{ZONES}/z"
A = {"name": "a.x.test.", "type": "A", "ttl": 5, "rrdatas": ["127.0.0.1"]}
TXT = {"name": "a.x.test.", "type": "TXT", "ttl": 5, "rrdatas": ['"epoch=1 site=a"']}


@pytest.fixture(scope="module")
def discovery() -> Discovery:
    return Discovery("dns.v1")


@pytest.fixture
def api(tmp_path: Path) -> TestClient:
    client = TestClient(application(tmp_path / "zones.json"))
    answer = client.post(ZONES, json={"name": "z", "dnsName": "x.test.", "description": ""})
    assert answer.status_code == 200
    return client


def change(api: TestClient, additions: list[Any] = (), deletions: list[Any] = ()) -> Any:
    return api.post(f"{ZONE}/changes", json={"additions": list(additions), "deletions": list(deletions)})


def test_its_answers_are_what_the_api_describes(api: TestClient, discovery: Discovery) -> None:
    made = change(api, [A, TXT]).json()
    number = made["id"]
    assert made["status"] == "pending"
    for path, schema in {
        ZONES: "ManagedZonesListResponse",
        ZONE: "ManagedZone",
        f"{ZONE}/rrsets": "ResourceRecordSetsListResponse",
        f"{ZONE}/rrsets/a.x.test./A": "ResourceRecordSet",
        f"{ZONE}/changes": "ChangesListResponse",
        f"{ZONE}/changes/{number}": "Change",
    }.items():
        answer = api.get(path)
        assert answer.status_code == 200
        assert discovery.body_problems(schema, answer.json()) == []
    assert api.get(f"{ZONE}/changes/{number}").json()["status"] == "done"


def test_records_survive_its_process(tmp_path: Path, api: TestClient) -> None:
    change(api, [A])
    again = TestClient(application(tmp_path / "zones.json"))
    assert again.get(f"{ZONE}/rrsets/a.x.test./A").json()["rrdatas"] == ["127.0.0.1"]


def test_a_change_is_all_or_nothing(api: TestClient) -> None:
    change(api, [A])
    stale = {**A, "rrdatas": ["127.0.0.2"]}
    assert change(api, [TXT], [stale]).status_code == 412
    assert api.get(f"{ZONE}/rrsets/a.x.test./TXT").status_code == 404


def test_a_deletion_must_be_exactly_what_is_held(api: TestClient) -> None:
    change(api, [A])
    assert change(api, [], [{**A, "ttl": 6}]).json()["error"]["errors"][0]["reason"] == "conditionNotMet"
    assert change(api, [], [TXT]).status_code == 404
    assert change(api, [{**A, "ttl": 6}], [A]).status_code == 200


def test_an_addition_must_not_be_there(api: TestClient) -> None:
    change(api, [A])
    assert change(api, [A]).json()["error"]["errors"][0]["reason"] == "alreadyExists"
    assert change(api, [TXT, TXT]).status_code == 409


def test_lists_are_filtered_and_paged(api: TestClient) -> None:
    change(api, [A, TXT])
    assert len(api.get(f"{ZONE}/rrsets", params={"name": "a.x.test."}).json()["rrsets"]) == 2
    assert len(api.get(f"{ZONE}/rrsets", params={"name": "a.x.test.", "type": "A"}).json()["rrsets"]) == 1
    found, token = [], "0"
    while token is not None:
        page = api.get(f"{ZONE}/rrsets", params={"maxResults": 3, "pageToken": token}).json()
        found += page["rrsets"]
        token = page.get("nextPageToken")
    assert len(found) == 4  # SOA and NS of the zone itself


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"additions": [{**A, "weight": 3}]}, 400),
        ({"additionz": [A]}, 400),
        ({"additions": [{**A, "ttl": "five"}]}, 400),
        ({"additions": [{**A, "rrdatas": ["not an address"]}]}, 400),
        ({"additions": [{**A, "name": "a.elsewhere.test."}]}, 400),
        ({"additions": [{**A, "type": "NOSUCH"}]}, 400),
        ({"additions": [{"name": "a.x.test.", "type": "A"}]}, 400),
        ({"additions": [{**A, "routingPolicy": {}}]}, 501),
        ({}, 400),
        ({"additions": [A, {"name": "a.x.test.", "type": "CNAME", "ttl": 1, "rrdatas": ["b.x.test."]}]}, 400),
    ],
)
def test_a_change_that_makes_no_sense_is_refused(api: TestClient, body: dict[str, Any], status: int) -> None:
    answer = api.post(f"{ZONE}/changes", json=body)
    assert answer.status_code == status
    assert answer.json()["error"]["message"]
    assert len(api.get(f"{ZONE}/rrsets").json()["rrsets"]) == 2


def test_what_it_does_not_have_says_so(api: TestClient) -> None:
    assert api.get("/dns/v1/projects/p/policies").status_code == 501
    assert api.patch(ZONE, json={}).status_code == 501
    assert api.get("/dns/v1/nonsense").status_code == 404
    assert api.get(f"{ZONES}/other").status_code == 404
    assert api.get(ZONES, params={"colour": "red"}).status_code == 400
    assert api.post(ZONES, content=b"{").status_code == 400
    assert api.post(ZONES, json={"name": "z", "dnsName": "x.test.", "description": ""}).status_code == 409
    assert (
        api.post(
            ZONES, json={"name": "p", "dnsName": "p.test.", "description": "", "visibility": "private"}
        ).status_code
        == 501
    )


def test_a_zone_with_records_is_not_deleted(api: TestClient) -> None:
    change(api, [A])
    assert api.delete(ZONE).status_code == 400
    change(api, [], [A])
    assert api.delete(ZONE).status_code == 204
    assert api.get(ZONE).status_code == 404
