"""CloudTrail's API of the sandbox, as boto3's client is answered."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from holdfast.sandbox.files import write_json
from holdfast.sandbox.layout import SandboxSite
from holdfast.sandbox.trails.cloudtrail_api import CloudTrailApi
from holdfast.sandbox.trails.names import public_keys_file, trails_folder

TARGET = "com.amazonaws.cloudtrail.v20131101.CloudTrail_20131101"
ARN = "arn:aws:cloudtrail:eu-west-1:123456789012:trail/holdfast-sandbox"


@pytest.fixture
def api(tmp_path: Path) -> CloudTrailApi:
    key = {
        "Value": "MA==",
        "ValidityStartTime": "2026-11-29T21:00:00+00:00",
        "ValidityEndTime": "2036-11-29T21:00:00+00:00",
        "Fingerprint": "f",
    }
    write_json(public_keys_file(tmp_path), {"PublicKeyList": [key]})
    write_json(
        trails_folder(tmp_path) / "aws.json",
        {"cloud": {"began": "2026-11-29T21:00:00Z", "end": "2026-11-29T21:30:00Z"}},
    )
    return CloudTrailApi(tmp_path, [SandboxSite("aws", "aws", "eu-west-1", "bucket", "c")])


def seconds(hour: int, minute: int = 0) -> float:
    return datetime(2026, 11, 29, hour, minute, tzinfo=UTC).timestamp()


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ({}, ["f"]),
        ({"StartTime": seconds(21, 30), "EndTime": seconds(22)}, ["f"]),
        ({"StartTime": seconds(19), "EndTime": seconds(20)}, []),
    ],
)
def test_keys_are_those_that_were_valid_in_between(
    api: CloudTrailApi, asked: dict[str, float], found: list[str]
) -> None:
    status, answer = api.answer(f"{TARGET}.ListPublicKeys", json.dumps(asked).encode())
    assert (status, [key["Fingerprint"] for key in answer["PublicKeyList"]]) == (200, found)


@pytest.mark.parametrize("name", [ARN, "holdfast-sandbox"])
def test_the_status_tells_of_the_newest_digest(api: CloudTrailApi, name: str) -> None:
    status, answer = api.answer(f"{TARGET}.GetTrailStatus", json.dumps({"Name": name}).encode())
    assert (status, answer["IsLogging"], answer["LatestDigestDeliveryTime"]) == (200, True, seconds(21, 30))


def test_a_trail_is_described_with_its_bucket(api: CloudTrailApi) -> None:
    _, answer = api.answer(f"{TARGET}.DescribeTrails", b"{}")
    assert [(one["TrailARN"], one["S3BucketName"]) for one in answer["trailList"]] == [(ARN, "bucket-trail")]


@pytest.mark.parametrize(
    ("operation", "body", "code"),
    [
        ("GetTrailStatus", b'{"Name": "another"}', "TrailNotFoundException"),
        ("LookupEvents", b"{}", "UnsupportedOperationException"),
        ("GetTrailStatus", b"[", "SerializationException"),
        ("GetTrailStatus", b"[]", "SerializationException"),
    ],
)
def test_what_it_does_not_have_is_refused(api: CloudTrailApi, operation: str, body: bytes, code: str) -> None:
    status, answer = api.answer(f"{TARGET}.{operation}", body)
    assert (status, answer["__type"]) == (400, code)
