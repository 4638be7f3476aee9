"""CloudTrail's records as OCSF: every class by the official schema, no record dropped, whatever it is."""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloudtrail_world import ACCOUNT, START, event
from holdfast.engine.audit.ocsf.schema import SCHEMA, as_event
from holdfast.engine.audit.sources.cloudtrail_events import normalise
from ocsf_world import assert_valid


def events_of(*records: dict[str, Any] | bytes) -> list[dict[str, Any]]:
    raw = [record if isinstance(record, bytes) else json.dumps(record).encode() for record in records]
    table = normalise(pa.array(raw, pa.large_binary()))
    assert table.schema == SCHEMA
    assert table.num_rows == len(records)
    found = [as_event(row) for row in table.to_pylist()]
    for one in found:
        assert_valid(one)
    return found


def _data(name: str) -> dict[str, Any]:
    return {
        "eventSource": "s3.amazonaws.com",
        "eventName": name,
        "eventCategory": "Data",
        "requestParameters": {"bucketName": "models", "key": "a/b"},
        "resources": [
            {"type": "AWS::S3::Object", "ARN": "arn:aws:s3:::models/a/b"},
            {"type": "AWS::S3::Bucket", "ARN": "arn:aws:s3:::models", "accountId": ACCOUNT},
        ],
    }


@pytest.mark.parametrize(
    ("changes", "class_uid", "activity_id"),
    [
        ({"eventName": "RunInstances", "readOnly": False}, 6003, 1),
        ({"eventName": "DescribeInstances"}, 6003, 2),
        ({"eventName": "ModifyVolume", "readOnly": False}, 6003, 3),
        ({"eventName": "TerminateInstances", "readOnly": False}, 6003, 4),
        ({"eventName": "BatchGetTraces"}, 6003, 2),
        ({"eventName": "BatchDeleteImage", "readOnly": False}, 6003, 4),
        ({"eventName": "FrobnicateThing", "readOnly": False}, 6003, 99),
        ({"eventName": "FrobnicateThing", "readOnly": True}, 6003, 2),
        ({"eventSource": "iam.amazonaws.com", "eventName": "ListUsers"}, 6003, 2),
        ({"eventSource": "iam.amazonaws.com", "eventName": "CreateUser", "readOnly": False}, 3004, 1),
        ({"eventSource": "iam.amazonaws.com", "eventName": "AttachRolePolicy", "readOnly": False}, 3004, 3),
        ({"eventSource": "iam.amazonaws.com", "eventName": "DeleteAccessKey", "readOnly": False}, 3004, 4),
        ({"eventSource": "iam.amazonaws.com", "eventName": "EnableMFADevice", "readOnly": False}, 3004, 8),
        ({"eventSource": "iam.amazonaws.com", "eventName": "DeactivateMFADevice", "readOnly": False}, 3004, 11),
        ({"eventSource": "sts.amazonaws.com", "eventName": "AssumeRole"}, 3002, 3),
        ({"eventSource": "sts.amazonaws.com", "eventName": "AssumeRoleWithWebIdentity"}, 3002, 3),
        ({"eventSource": "sts.amazonaws.com", "eventName": "GetSessionToken"}, 3002, 3),
        ({"eventSource": "sts.amazonaws.com", "eventName": "GetCallerIdentity"}, 6003, 2),
        ({"eventSource": "signin.amazonaws.com", "eventName": "ConsoleLogin", "readOnly": False}, 3002, 1),
        (_data("GetObject"), 6005, 1),
        (_data("PutObject"), 6005, 5),
        (_data("DeleteObjects"), 6005, 7),
        (_data("ListObjects"), 6005, 8),
        ({**_data("GetObject"), "requestParameters": None}, 6003, 2),
        ({"sourceIPAddress": None}, 0, 0),
        ({"userIdentity": None}, 0, 0),
        ({"eventType": "AwsCloudTrailInsight", "eventName": None, "userIdentity": None}, 0, 0),
    ],
)
def test_the_class_follows_service_and_verb(changes: dict[str, Any], class_uid: int, activity_id: int) -> None:
    (found,) = events_of(event(1, START, **changes))
    assert (found["class_uid"], found["activity_id"]) == (class_uid, activity_id)
    assert found["metadata"]["uid"] == "event-1"
    assert found["time"] == int(START.timestamp() * 1000)


def test_who_what_where_of_a_call() -> None:
    (found,) = events_of(
        event(7, START, resources=[{"ARN": "arn:aws:ec2:x", "type": "AWS::EC2::Instance"}, {"type": "t"}])
    )
    assert found["actor"]["user"] == {
        "uid": "AIDAEXAMPLE",
        "name": "ana",
        "type_id": 1,
        "type": "IAMUser",
        "credential_uid": "AKIAEXAMPLE",
        "account": {"uid": ACCOUNT, "type_id": 10},
    }
    assert found["api"] == {
        "operation": "DescribeInstances",
        "service": {"name": "ec2.amazonaws.com"},
        "request": {"uid": "request-7"},
    }
    assert found["src_endpoint"] == {"ip": "198.51.100.7"}
    assert found["resources"] == [{"uid": "arn:aws:ec2:x", "type": "AWS::EC2::Instance"}]
    assert found["status_id"] == 1


def test_an_object_of_a_bucket_is_named() -> None:
    others = [event(number, START) for number in range(3)]
    found = events_of(*others, event(4, START, **_data("GetObject")), event(5, START))
    assert found[3]["databucket"] == {
        "name": "models",
        "type_id": 1,
        "file": {"name": "arn:aws:s3:::models/a/b", "type_id": 1},
    }
    assert "databucket" not in found[4]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"errorCode": "AccessDenied", "errorMessage": "no"}, 2),
        ({"errorMessage": "Failed authentication"}, 2),
        ({}, 1),
    ],
)
def test_a_refused_call_failed(changes: dict[str, Any], expected: int) -> None:
    (found,) = events_of(event(1, START, **changes))
    assert found["status_id"] == expected
    assert found.get("status_code") == changes.get("errorCode")


def test_mfa_of_a_login_and_of_a_session() -> None:
    login = {"eventSource": "signin.amazonaws.com", "eventName": "ConsoleLogin"}
    session = {
        "userIdentity": {
            "type": "AssumedRole",
            "principalId": "p",
            "sessionContext": {"attributes": {"mfaAuthenticated": "true"}},
        }
    }
    first, second, third = events_of(
        event(1, START, **login, additionalEventData={"MFAUsed": "No"}),
        event(2, START, **login, additionalEventData={"MFAUsed": "Yes", "LoginTo": {"x": [1]}}),
        event(3, START, eventSource="sts.amazonaws.com", eventName="AssumeRole", **session),
    )
    assert (first["is_mfa"], second["is_mfa"], third["is_mfa"]) == (False, True, True)
    assert third["actor"]["session"]["is_mfa"] is True


def test_a_service_that_acts_by_itself() -> None:
    service = {
        "userIdentity": {"type": "AWSService", "invokedBy": "config.amazonaws.com"},
        "sourceIPAddress": "config.amazonaws.com",
    }
    call, ticket = events_of(
        event(1, START, **service), event(2, START, **service, eventSource="sts.amazonaws.com", eventName="AssumeRole")
    )
    assert call["actor"] == {"invoked_by": "config.amazonaws.com"}
    assert call["src_endpoint"] == {"svc_name": "config.amazonaws.com"}
    assert ticket["user"] == {"name": "config.amazonaws.com"}


@pytest.mark.parametrize(
    "odd",
    [
        b"",
        b"   ",
        b"nonsense",
        b"[1,2]",
        b"{",
        b'{"eventID":"a"}{"eventID":"b"}',
        b'{"eventName":"A","eventName":"B"}',
        b'{"eventName":{"x":1}}',
        b'{"userIdentity":"me"}',
        b'{"resources":{"ARN":1}}',
        b'{"eventTime":"yesterday"}',
        b'{"eventName":"\xff\xfe"}',
        b'{"eventName":"\\ud800"}',
        b'{"readOnly":"yes"}',
        b'{"requestParameters":[1]}',
        b'{"a":' * 3000,
    ],
)
def test_a_record_that_is_odd_is_a_row_and_leaves_the_others_alone(odd: bytes) -> None:
    found = events_of(event(1, START), odd, event(2, START, requestParameters={"key": {"pk": 1}}))
    assert [one["class_uid"] for one in found] == [6003, 0, 6003]
    assert [one["metadata"].get("uid") for one in (found[0], found[2])] == ["event-1", "event-2"]


def test_what_is_known_of_an_odd_record_is_kept() -> None:
    found = events_of({**event(1, START), "errorCode": {"x": 1}}, {**event(2, START), "eventName": "A"})
    assert [one["class_uid"] for one in found] == [6003, 6003]
    assert found[0]["actor"]["user"]["name"] == "ana"


def test_pretty_printed_records_are_read_as_others_are() -> None:
    events = [event(number, START) for number in range(5)]
    pretty, compact = ([json.dumps(one, indent=indent).encode() for one in events] for indent in (2, None))
    assert normalise(pa.array(pretty, pa.large_binary())).equals(normalise(pa.array(compact, pa.large_binary())))


def test_no_records_are_no_rows() -> None:
    assert normalise(pa.array([], pa.large_binary())).equals(SCHEMA.empty_table())


def test_both_ways_of_parsing_agree() -> None:
    records = [
        event(1, START),
        event(2, START, **_data("GetObject")),
        event(3, START, userIdentity={"type": "Root", "accountId": "1"}),
    ]
    raw = [json.dumps(record).encode() for record in records]
    beside_a_broken_one = normalise(pa.array([*raw, b"{"], pa.large_binary()))
    assert normalise(pa.array(raw, pa.large_binary())).equals(beside_a_broken_one.slice(0, 3))


_ANY = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["type", "ARN", "x"]), inner, max_size=2)
    ),
    max_leaves=4,
)
_FIELD = st.sampled_from([*event(1, START), "resources", "errorCode", "additionalEventData"])


@settings(max_examples=60, deadline=None)
@given(st.lists(st.dictionaries(_FIELD, _ANY, max_size=3), min_size=1, max_size=4))
def test_any_value_in_any_field_gives_a_valid_event(changes: list[dict[str, Any]]) -> None:
    events_of(*[event(number, START, **change) for number, change in enumerate(changes)])


@pytest.mark.parametrize(
    "odd",
    [
        [b'{"eventID":"x}', b'{y"}', b"{}{}"],
        [b'{"eventID":', b'{"eventID":"y"}}', b"{}{}"],
        [b'{"eventID":"x"', b'}{"eventID":"y"}', b'{"eventID":"z"}'],
        [b"{}", b'{"eventID":"x"}{"eventID":"y"}', b"{"],
    ],
)
def test_rows_do_not_move_between_broken_records(odd: list[bytes]) -> None:
    found = events_of(*odd, event(9, START))
    assert found[3]["metadata"]["uid"] == "event-9"
    for record, row in zip(odd, found[:3], strict=True):
        try:
            expected = json.loads(record).get("eventID")
        except ValueError:
            expected = None
        assert row["metadata"].get("uid") == expected
