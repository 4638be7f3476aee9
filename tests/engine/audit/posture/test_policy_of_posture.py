"""The published policy of the checks themselves: it is enough, and what one action is missing for is unknown."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from dataclasses import dataclass

import boto3
import pytest

from enforcing import Gate, Iam, allowed_actions, enforcing
from holdfast.clock import FakeClock
from holdfast.engine.audit.posture import Posture, Status, check_posture
from holdfast.engine.audit.posture.privileges import published
from holdfast.engine.config import Connection, Topology
from holdfast.engine.runtime import Runtime
from lock_world import moto_server

REGION = "eu-west-1"
POLICY = published("aws", "posture")
#: Asked where the bucket's own block is not whole; moto's S3 Control answers on a host name of its own.
NOT_SHOWN = {"s3:GetAccountPublicAccessBlock"}
#: These are asked of roles; the identity here is a user in a group.
OF_ROLES = {"iam:GetRolePolicy", "iam:ListAttachedRolePolicies", "iam:ListRolePolicies"}
SHOWN = [action for action in allowed_actions(POLICY) if action not in NOT_SHOWN | OF_ROLES]
FEW = ["s3:GetBucketAcl", "iam:GetCredentialReport", "kms:DescribeKey"]


@dataclass
class Looked:
    gate: Gate
    connection: Connection
    bucket: str

    def look(self, without: str | None = None) -> Posture:
        self.gate.rules = Iam(POLICY, without=without)
        self.gate.refused.clear()
        self.gate.used.clear()
        self.gate.unknown.clear()
        self.gate.writes.clear()
        site = {
            "cloud": "aws",
            "region": REGION,
            "jurisdiction": "EU",
            "connection": "c",
            "bucket": self.bucket,
        }
        given = self.connection

        class Connections:
            def get(self, conn_id: str) -> Connection:
                return given

        topology = Topology.model_validate({"version": 1, "sites": {"site-a": site}, "groups": {}})
        return check_posture(Runtime(topology, Connections(), clock=FakeClock(), environ={}))


@pytest.fixture(scope="module")
def looked() -> Iterator[Looked]:
    with moto_server() as url, enforcing(url, Iam(POLICY)) as gate:
        keys = {"aws_access_key_id": "a", "aws_secret_access_key": "b", "region_name": REGION, "endpoint_url": url}
        s3, iam, kms, trail = (boto3.client(name, **keys) for name in ("s3", "iam", "kms", "cloudtrail"))
        bucket = f"b-{uuid.uuid4().hex}"
        s3.create_bucket(Bucket=bucket, CreateBucketConfiguration={"LocationConstraint": REGION})
        names = ("BlockPublicAcls", "IgnorePublicAcls", "BlockPublicPolicy", "RestrictPublicBuckets")
        s3.put_public_access_block(Bucket=bucket, PublicAccessBlockConfiguration=dict.fromkeys(names, True))
        key = kms.create_key()["KeyMetadata"]["Arn"]
        default = {"SSEAlgorithm": "aws:kms", "KMSMasterKeyID": key}
        rules = {"Rules": [{"ApplyServerSideEncryptionByDefault": default}]}
        s3.put_bucket_encryption(Bucket=bucket, ServerSideEncryptionConfiguration=rules)
        trail.create_trail(Name="all", S3BucketName=bucket, IsMultiRegionTrail=True)
        trail.start_logging(Name="all")
        iam.create_group(GroupName="g")
        iam.create_user(UserName="looker")
        iam.add_user_to_group(GroupName="g", UserName="looker")
        document = json.dumps(POLICY)
        arn = iam.create_policy(PolicyName="posture", PolicyDocument=document)["Policy"]["Arn"]
        iam.attach_user_policy(UserName="looker", PolicyArn=arn)
        iam.put_user_policy(UserName="looker", PolicyName="inline", PolicyDocument=document)
        iam.put_group_policy(GroupName="g", PolicyName="inline", PolicyDocument=document)
        made = iam.create_access_key(UserName="looker")["AccessKey"]
        extra = {"endpoint_url": gate.url, "region_name": REGION}
        login, password = made["AccessKeyId"], made["SecretAccessKey"]
        connection = Connection(conn_id="c", conn_type="aws", login=login, password=password, extra=extra)
        yield Looked(gate, connection, bucket)


def test_the_checks_ask_for_nothing_beyond_their_published_policy_and_change_nothing(looked: Looked) -> None:
    found = looked.look()
    assert not looked.gate.refused
    assert not looked.gate.unknown
    assert looked.gate.used == set(SHOWN)
    queries = {write for write in looked.gate.writes if write != "POST /"}
    assert not queries, "S3 is only read; the other services take every question as POST"
    by_id = {result.check.check_id: result.status for result in found.results}
    assert by_id["least-privilege"] is Status.PASS


def without(looked: Looked, action: str) -> None:
    whole = {result.check.check_id: result.status for result in looked.look().results}
    narrowed = {result.check.check_id: result for result in looked.look(without=action).results}
    assert {need.action for _, need in looked.gate.refused} == {action}
    changed = {name for name, result in narrowed.items() if result.status is not whole[name]}
    assert all(narrowed[name].status is Status.UNKNOWN for name in changed)
    assert any(action in result.found for result in narrowed.values()), "it is said which right is missing"


@pytest.mark.parametrize("action", FEW)
def test_a_right_that_is_missing_makes_its_checks_unknown_and_no_other(looked: Looked, action: str) -> None:
    without(looked, action)


@pytest.mark.slow
@pytest.mark.parametrize("action", [action for action in SHOWN if action not in FEW])
def test_any_right_that_is_missing_makes_its_checks_unknown(looked: Looked, action: str) -> None:
    without(looked, action)
