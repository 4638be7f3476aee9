"""AWS on moto: every check finds what is wrong, and passes only what is set; what cannot be seen is unknown."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import Any

import boto3
import pytest

from holdfast.clock import FakeClock
from holdfast.engine.audit.posture import CHECKS, Result, Status, as_ocsf, check_posture
from holdfast.engine.audit.posture.privileges import published
from holdfast.engine.config import Connection, Topology
from holdfast.engine.runtime import Runtime
from holdfast.errors import ConfigError
from lock_world import moto_server
from ocsf_world import assert_valid

REGION = "eu-west-1"


@pytest.fixture(scope="module")
def moto() -> Iterator[str]:
    with moto_server() as url:
        yield url


@dataclass
class Account:
    """An account of its own on moto, which a role assumed in it leads to."""

    url: str
    number: str = field(default_factory=lambda: str(uuid.uuid4().int)[:12])
    bucket: str = field(default_factory=lambda: f"site-{uuid.uuid4().hex}")

    @cached_property
    def _keys(self) -> dict[str, str]:
        keys = {"aws_access_key_id": "a", "aws_secret_access_key": "b"}
        sts = boto3.client("sts", endpoint_url=self.url, region_name=REGION, **keys)
        arn = f"arn:aws:iam::{self.number}:role/administrator"
        found = sts.assume_role(RoleArn=arn, RoleSessionName="tests")["Credentials"]
        return {
            "aws_access_key_id": found["AccessKeyId"],
            "aws_secret_access_key": found["SecretAccessKey"],
            "aws_session_token": found["SessionToken"],
        }

    def client(self, service: str) -> Any:
        return boto3.client(service, endpoint_url=self.url, region_name=REGION, **self._keys)

    def connection(self, **extra: Any) -> Connection:
        return Connection(
            conn_id="aws",
            conn_type="aws",
            extra={"endpoint_url": self.url, "region_name": REGION, **self._keys, **extra},
        )

    def runtime(self, *, connection: Connection | None = None, now: datetime | None = None, **topology: Any) -> Runtime:
        site = {
            "cloud": "aws",
            "region": REGION,
            "jurisdiction": "EU",
            "connection": "aws",
            "bucket": self.bucket,
            **topology.pop("site", {}),
        }
        document = {"version": 1, "sites": {"site-a": site}, "groups": {}, **topology}
        given = connection or self.connection()

        class Connections:
            def get(self, conn_id: str) -> Connection:
                return given

        return Runtime(
            Topology.model_validate(document), Connections(), clock=FakeClock(now or datetime.now(UTC)), environ={}
        )

    def result(self, check_id: str, **options: Any) -> Result:
        role = options.pop("role", None)
        (found,) = check_posture(self.runtime(**options), check_ids=[check_id], role=role).results
        assert_valid(as_ocsf(found, datetime.now(UTC)))
        return found


@pytest.fixture
def bare(moto: str) -> Account:
    """An account as it is made: a bucket, and nothing set."""
    account = Account(moto)
    account.client("s3").create_bucket(Bucket=account.bucket, CreateBucketConfiguration={"LocationConstraint": REGION})
    return account


@pytest.fixture
def sound(moto: str) -> Account:
    """An account in which everything of the bucket and of the trail is set."""
    account = Account(moto)
    s3 = account.client("s3")
    region = {"LocationConstraint": REGION}
    s3.create_bucket(Bucket=account.bucket, CreateBucketConfiguration=region, ObjectLockEnabledForBucket=True)
    key = account.client("kms").create_key()["KeyMetadata"]["Arn"]
    account.client("kms").enable_key_rotation(KeyId=key)
    default = {"SSEAlgorithm": "aws:kms", "KMSMasterKeyID": key}
    s3.put_bucket_encryption(
        Bucket=account.bucket,
        ServerSideEncryptionConfiguration={"Rules": [{"ApplyServerSideEncryptionByDefault": default}]},
    )
    block_all(s3, account.bucket)
    policy = json.dumps(published("aws", "bucket-tls-only")).replace("BUCKET", account.bucket)
    s3.put_bucket_policy(Bucket=account.bucket, Policy=policy)
    trail = account.client("cloudtrail")
    trail.create_trail(Name="all", S3BucketName=account.bucket, IsMultiRegionTrail=True, EnableLogFileValidation=True)
    trail.start_logging(Name="all")
    values = {"Type": "AWS::S3::Object", "Values": [f"arn:aws:s3:::{account.bucket}/"]}
    trail.put_event_selectors(TrailName="all", EventSelectors=[{"ReadWriteType": "All", "DataResources": [values]}])
    return account


def block_all(s3: Any, bucket: str) -> None:
    names = ("BlockPublicAcls", "IgnorePublicAcls", "BlockPublicPolicy", "RestrictPublicBuckets")
    s3.put_public_access_block(Bucket=bucket, PublicAccessBlockConfiguration=dict.fromkeys(names, True))


BUCKET_CHECKS = [check.check_id for check in CHECKS if check.of_site]


@pytest.mark.parametrize("check_id", [*BUCKET_CHECKS, "audit-trail", "audit-trail-protected"])
def test_what_is_set_passes(sound: Account, check_id: str) -> None:
    found = sound.result(check_id)
    assert found.status is Status.PASS, found.found
    assert found.asked_at == sound.url, "an emulator's word is marked as such"
    assert found.resource.account == sound.number


@pytest.mark.parametrize(
    "check_id", ["versioning", "public-access", "tls-only", "data-access-logs", "audit-trail", "audit-trail-protected"]
)
def test_what_is_not_set_fails_and_says_what_to_do(bare: Account, check_id: str) -> None:
    found = bare.result(check_id)
    # moto's S3 Control answers on a host name of its own alone, so the account's block cannot be read here.
    assert found.status is (Status.UNKNOWN if check_id == "public-access" else Status.FAIL), found.found
    assert found.remediation


def test_a_lock_is_asked_for_only_where_the_topology_locks(bare: Account) -> None:
    assert bare.result("object-lock").status is Status.NOT_APPLICABLE
    key = {"writer": ["env:A"], "reader": ["env:A"], "admin": ["env:A"]}
    vault = {"backups": {"site": "site-a", "keys": key, "lock_days": {"daily": 1}}}
    runtime = bare.runtime(vaults=vault)
    (found,) = check_posture(runtime, check_ids=["object-lock"]).results
    assert found.status is Status.FAIL


def test_the_key_of_the_topology_is_the_one_that_counts(sound: Account) -> None:
    other = f"arn:aws:kms:{REGION}:{sound.number}:key/{uuid.uuid4()}"
    assert sound.result("encryption-at-rest", site={"kms_key": other}).status is Status.FAIL


def test_a_key_that_is_off_or_not_rotated_fails(sound: Account) -> None:
    kms = sound.client("kms")
    key = sound.client("s3").get_bucket_encryption(Bucket=sound.bucket)["ServerSideEncryptionConfiguration"]
    key_id = key["Rules"][0]["ApplyServerSideEncryptionByDefault"]["KMSMasterKeyID"]
    kms.disable_key_rotation(KeyId=key_id)
    assert "rotation is off" in sound.result("key-rotation").found
    kms.disable_key(KeyId=key_id.rpartition("/")[2])
    assert "Disabled" in sound.result("key-rotation").found


@pytest.mark.parametrize("opened", ["policy", "acl"])
def test_a_bucket_open_to_everybody_fails_even_behind_a_block(sound: Account, opened: str) -> None:
    s3 = sound.client("s3")
    s3.delete_public_access_block(Bucket=sound.bucket)
    if opened == "policy":
        statement = {
            "Effect": "Allow",
            "Principal": "*",
            "Action": "s3:GetObject",
            "Resource": f"arn:aws:s3:::{sound.bucket}/*",
        }
        s3.put_bucket_policy(
            Bucket=sound.bucket, Policy=json.dumps({"Version": "2012-10-17", "Statement": [statement]})
        )
    else:
        s3.put_bucket_acl(Bucket=sound.bucket, ACL="public-read")
    block_all(s3, sound.bucket)
    assert sound.result("public-access").status is Status.FAIL


@pytest.mark.parametrize(
    "change",
    [
        {"Effect": "Allow"},
        {"Action": "s3:GetObject"},
        {"Resource": "arn:aws:s3:::another/*"},
        {"Principal": {"AWS": "arn:aws:iam::123456789012:root"}},
        {"Condition": {"Bool": {"aws:SecureTransport": "true"}}},
        {"Condition": {"Bool": {"aws:SecureTransport": "false"}, "IpAddress": {"aws:SourceIp": "10.0.0.0/8"}}},
    ],
)
def test_a_policy_that_only_looks_like_tls_only_fails(sound: Account, change: dict[str, Any]) -> None:
    policy = json.loads(json.dumps(published("aws", "bucket-tls-only")).replace("BUCKET", sound.bucket))
    policy["Statement"][0] |= change
    sound.client("s3").put_bucket_policy(Bucket=sound.bucket, Policy=json.dumps(policy))
    assert sound.result("tls-only").status is Status.FAIL


def test_a_trail_that_stopped_or_sees_one_region_fails(sound: Account) -> None:
    sound.client("cloudtrail").stop_logging(Name="all")
    assert "lacks logs" in sound.result("audit-trail").found
    sound.client("cloudtrail").start_logging(Name="all")
    sound.client("cloudtrail").update_trail(Name="all", IsMultiRegionTrail=False, EnableLogFileValidation=False)
    assert "lacks all_regions, validation" in sound.result("audit-trail").found


def test_users_without_a_second_factor_are_named(bare: Account) -> None:
    iam = bare.client("iam")
    for name in ("ann", "bob", "robot"):
        iam.create_user(UserName=name)
    for name in ("ann", "bob"):
        iam.create_login_profile(UserName=name, Password="long-and-made-up-1!")
    device = iam.create_virtual_mfa_device(VirtualMFADeviceName="d")["VirtualMFADevice"]["SerialNumber"]
    iam.enable_mfa_device(
        UserName="ann", SerialNumber=device, AuthenticationCode1="123456", AuthenticationCode2="123457"
    )
    found = bare.result("mfa")
    assert (found.status, found.evidence["without"]) == (Status.FAIL, ["bob"])


def test_a_report_without_the_root_user_is_not_enough(bare: Account) -> None:
    """moto's names none; AWS's always does."""
    bare.client("iam").create_user(UserName="robot")
    for check_id in ("mfa", "stale-credentials"):
        assert bare.result(check_id).status is Status.UNKNOWN


def test_old_and_unused_keys_are_named(bare: Account) -> None:
    iam = bare.client("iam")
    iam.create_user(UserName="robot")
    iam.create_access_key(UserName="robot")
    later = datetime.now(UTC) + timedelta(days=91)
    found = bare.result("stale-credentials", now=later)
    assert found.status is Status.FAIL
    assert "key 1 of robot" in found.found


def test_what_the_identity_may_beyond_the_published_policies_is_found(moto: str) -> None:
    account = Account(moto)
    iam = account.client("iam")
    iam.create_role(RoleName="holdfast", AssumeRolePolicyDocument="{}")
    arn = f"arn:aws:iam::{account.number}:role/holdfast"
    connection = account.connection(role_arn=arn, assume_role_kwargs={"ExternalId": "agreed"})
    exporter = json.dumps(published("aws", "exporter"))
    for name in ("MASTER_KEY_ARN", "KEY_ARN"):
        exporter = exporter.replace(name, "arn:aws:kms:eu-west-1:123456789012:key/k")
    iam.put_role_policy(RoleName="holdfast", PolicyName="exporter", PolicyDocument=exporter)
    assert account.result("least-privilege", connection=connection).status is Status.PASS
    assert account.result("least-privilege", connection=connection, role="exporter").status is Status.PASS
    as_collector = account.result("least-privilege", connection=connection, role="collector")
    assert as_collector.status is Status.FAIL
    (beyond,) = as_collector.evidence["beyond"].values()
    assert {"kms:Sign", "s3:PutObject"} <= set(beyond)
    for action in ("s3:*", "ec2:RunInstances", "s3:Get*"):
        wide = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": action, "Resource": "*"}]}
        policy = iam.create_policy(PolicyName=uuid.uuid4().hex, PolicyDocument=json.dumps(wide))["Policy"]["Arn"]
        iam.attach_role_policy(RoleName="holdfast", PolicyArn=policy)
        found = account.result("least-privilege", connection=connection)
        assert found.status is Status.FAIL
        assert found.evidence["beyond"] == {policy: [action]}
        iam.detach_role_policy(RoleName="holdfast", PolicyArn=policy)


def test_a_bucket_that_is_not_there_is_unknown_everywhere(moto: str) -> None:
    account = Account(moto)
    found = check_posture(account.runtime(), check_ids=[one for one in BUCKET_CHECKS if one != "data-access-logs"])
    assert {result.status for result in found.results} == {Status.UNKNOWN}


def test_an_account_that_does_not_answer_is_unknown_and_never_passes(free_port: Any) -> None:
    account = Account(f"http://127.0.0.1:{free_port()}")
    account.__dict__["_keys"] = {"aws_access_key_id": "a", "aws_secret_access_key": "b"}
    found = check_posture(account.runtime(), check_ids=["versioning", "mfa"])
    assert {result.status for result in found.results} == {Status.UNKNOWN}
    assert found.status is Status.UNKNOWN


def test_keys_of_an_emulator_are_not_shown_to_aws(moto: str) -> None:
    account = Account(moto)
    given = account.connection()
    extra = {"service_config": {"s3": {"endpoint_url": moto}}}
    connection = given.model_copy(update={"extra": extra})
    found = account.result("mfa", connection=connection)
    assert found.status is Status.UNKNOWN
    assert "names an endpoint for S3 alone" in found.found


def test_two_sites_in_one_bucket_are_two_and_their_account_is_one(bare: Account) -> None:
    site = {"cloud": "aws", "region": REGION, "jurisdiction": "EU", "connection": "aws", "bucket": bare.bucket}
    sites = {"site-a": {**site, "prefix": "a"}, "site-b": {**site, "prefix": "b"}}
    key = {"writer": ["env:A"], "reader": ["env:A"], "admin": ["env:A"]}
    vaults = {"backups": {"site": "site-b", "keys": key, "lock_days": {"daily": 1}}}
    given = bare.connection()

    class Connections:
        def get(self, conn_id: str) -> Connection:
            return given

    topology = Topology.model_validate({"version": 1, "sites": sites, "groups": {}, "vaults": vaults})
    runtime = Runtime(topology, Connections(), clock=FakeClock(), environ={})
    found = check_posture(runtime, check_ids=["object-lock", "audit-trail"]).results
    assert {(result.check.check_id, result.site, result.status) for result in found} == {
        ("object-lock", "site-a", Status.NOT_APPLICABLE),
        ("object-lock", "site-b", Status.FAIL),
        ("audit-trail", None, Status.FAIL),
    }


def test_a_connection_that_is_not_there_makes_its_site_unknown(bare: Account) -> None:
    runtime = bare.runtime()

    class Connections:
        def get(self, conn_id: str) -> Connection:
            raise ConfigError("the connection is not defined", where=conn_id)

    runtime.connections = Connections()
    found = check_posture(runtime)
    assert {result.status for result in found.results} == {Status.UNKNOWN}
    assert len(found.results) == len(CHECKS)
