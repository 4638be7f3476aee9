"""CloudTrail's API against botocore's own model of it: what is asked, how pages and refusals are taken.

`Stubber` checks parameters and answers by that model; moto knows none of these operations.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from cloudtrail_world import ACCOUNT, HOUR, REGION, START, TRAIL, Trail, public_key
from holdfast.engine.audit.interface import SourceUnreadable
from holdfast.engine.audit.sources.cloudtrail_api import AwsTrailApi, open_api
from holdfast.engine.audit.sources.cloudtrail_chain import TrailStatus
from holdfast.engine.config import Connection, load_topology
from holdfast.engine.runtime import Runtime
from world import AWS, AZURE, TOPOLOGY, topology_environ

ARN = f"arn:aws:cloudtrail:{REGION}:{ACCOUNT}:trail/{TRAIL}"


@pytest.fixture(scope="module")
def client() -> Any:
    import boto3

    return boto3.client("cloudtrail", region_name=REGION, aws_access_key_id="a", aws_secret_access_key="b")


@pytest.fixture
def stub(client: Any) -> Iterator[Any]:
    from botocore.stub import Stubber

    with Stubber(client) as stubber:
        yield stubber
        stubber.assert_no_pending_responses()


def _key(name: str) -> dict[str, Any]:
    key = public_key(name)
    return {
        "Value": key.der,
        "Fingerprint": key.fingerprint,
        "ValidityStartTime": key.valid_from,
        "ValidityEndTime": key.valid_until,
    }


def test_the_public_keys_of_all_pages_are_taken(stub: Any, client: Any) -> None:
    asked = {"StartTime": START, "EndTime": START + HOUR}
    stub.add_response("list_public_keys", {"PublicKeyList": [_key("first")], "NextToken": "more"}, asked)
    stub.add_response("list_public_keys", {"PublicKeyList": [_key("second")]}, {**asked, "NextToken": "more"})
    found = AwsTrailApi(lambda _: client, ARN).public_keys(REGION, START, START + HOUR)
    assert found == [public_key("first"), public_key("second")]


def test_the_status_is_asked_for_by_arn(stub: Any, client: Any) -> None:
    answer = {"IsLogging": False, "StopLoggingTime": START, "LatestDigestDeliveryTime": START + HOUR}
    stub.add_response("get_trail_status", answer, {"Name": ARN})
    assert AwsTrailApi(lambda _: client, ARN).status(REGION) == TrailStatus(False, START, START + HOUR)
    assert AwsTrailApi(lambda _: client, None).status(REGION) == TrailStatus()


@pytest.mark.parametrize(
    ("refused", "code"),
    [
        ("ExpiredTokenException", "token-expired"),
        ("AccessDeniedException", "permission-refused"),
        ("ThrottlingException", "throttled"),
        ("OperationNotPermittedException", "api-refused"),
    ],
)
def test_a_refusal_is_told_by_its_code(stub: Any, client: Any, refused: str, code: str) -> None:
    stub.add_client_error("list_public_keys", refused)
    with pytest.raises(SourceUnreadable) as raised:
        AwsTrailApi(lambda _: client, ARN).public_keys(REGION, START, START + HOUR)
    assert raised.value.code == code


class _OneConnection:
    def get(self, conn_id: str) -> Connection:
        return Connection(conn_id=conn_id, conn_type="aws", login="a", password="b")


def test_a_copy_in_another_cloud_has_no_api() -> None:
    runtime = Runtime(load_topology(TOPOLOGY, topology_environ()), _OneConnection())
    settings = Trail().settings()
    assert open_api(runtime, settings.model_copy(update={"site": AZURE})) is None
    assert open_api(runtime, settings.model_copy(update={"site": AWS})) is not None


@pytest.mark.parametrize(
    ("home", "organization", "arn"),
    [
        ("eu-west-1", None, f"arn:aws:cloudtrail:eu-west-1:{ACCOUNT}:trail/{TRAIL}"),
        ("cn-north-1", None, f"arn:aws-cn:cloudtrail:cn-north-1:{ACCOUNT}:trail/{TRAIL}"),
        ("us-gov-west-1", None, f"arn:aws-us-gov:cloudtrail:us-gov-west-1:{ACCOUNT}:trail/{TRAIL}"),
        ("eu-west-1", "o-example", None),
    ],
)
def test_the_arn_of_a_trail(home: str, organization: str | None, arn: str | None) -> None:
    from holdfast.engine.audit.sources.cloudtrail_api import _arn

    settings = Trail().settings().model_copy(update={"home_region": home, "organization": organization})
    assert _arn(settings) == arn
