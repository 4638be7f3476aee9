"""The published IAM policies: each role's real work passes with the whole policy, and fails cleanly without one action.

The answer to "may it" is `enforcing`'s, from the requests Holdfast sends to moto; AWS itself was never asked.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError

from enforcing import Gate, Iam, allowed_actions, enforcing
from holdfast.engine.audit.posture.aws_bucket import denies_plain_http
from holdfast.engine.audit.posture.privileges import ROLES as PUBLISHED
from holdfast.engine.audit.posture.privileges import published
from holdfast.engine.audit.tlog.cosigners_aws import AwsKmsCosigner
from holdfast.engine.config import Connection
from holdfast.engine.keyservice.errors import KeyServiceRefused
from holdfast.engine.objectstore.errors import PermissionRefused
from holdfast.engine.vault.kms_aws import AwsKmsRecipient
from holdfast.engine.vault.locks import LockMode
from holdfast.errors import HoldfastError
from lock_world import moto_server, s3_bucket
from policy_world import ROLES, RoleWorld

KEYS = {"aws_access_key_id": "a", "aws_secret_access_key": "b"}
#: What a role's work on a bucket does not ask for, and where else it is shown or why it is not.
ELSEWHERE = {
    "cloudtrail:ListPublicKeys": "moto does not implement it",
    "kms:Decrypt": "test_a_keys_use_is_refused_without_its_action",
    "kms:Encrypt": "test_a_keys_use_is_refused_without_its_action",
    "kms:GetPublicKey": "test_a_keys_use_is_refused_without_its_action",
    "s3:GetObjectRetention": "test_a_role_that_locks_sees_what_is_locked_already",
    "kms:Sign": "test_a_keys_use_is_refused_without_its_action",
}
#: Cheap, and one of each kind: read, write, lock. The others are slow ones.
FEW = [
    ("collector", "s3:GetObject"),
    ("exporter", "s3:PutObject"),
    ("exporter", "s3:PutObjectRetention"),
    ("shredder", "s3:DeleteObjectVersion"),
]
#: Without it the work ends: an object that asked the store for its time stays until a collection removes it, and a
#: certificate is brought by the next export.
TOLERATED = [("vault-admin", "s3:DeleteObject"), ("shredder", "s3:PutObject")]
ALL = [
    (role, action)
    for role in ROLES
    for action in allowed_actions(published("aws", role))
    if action not in ELSEWHERE and (role, action) not in FEW + TOLERATED
]


@pytest.fixture(scope="module")
def moto() -> Iterator[str]:
    with moto_server() as url:
        yield url


@pytest.fixture(scope="module")
def gate(moto: str) -> Iterator[Gate]:
    with enforcing(moto, Iam({"Statement": []})) as gate:
        yield gate


@dataclass
class Trial:
    """One role at its work behind the gate."""

    gate: Gate
    role: str
    world: RoleWorld

    def may(self, without: str | None = None) -> None:
        self.gate.rules = Iam(self._document(), without=without)
        self.gate.used.clear()
        self.gate.refused.clear()
        self.gate.unknown.clear()
        self.gate.writes.clear()

    def _document(self) -> dict[str, Any]:
        site = self.world.direct.site
        text = json.dumps(published("aws", self.role))
        for name, value in (("BUCKET", site.bucket), ("PREFIX", site.prefix), ("LEDGER", "ledger")):
            text = text.replace(name, value)
        return dict(json.loads(text))


@pytest.fixture
def trial(moto: str, gate: Gate, tmp_path: Path) -> Any:
    def made(role: str) -> Trial:
        direct = s3_bucket(moto)
        extra = {**direct.connection.extra, "endpoint_url": gate.url}
        gated = replace(direct, connection=direct.connection.model_copy(update={"extra": extra}))
        return Trial(gate, role, RoleWorld(direct, gated, tmp_path))

    return made


QUICK = {"collector", "exporter", "vault-reader", "drill", "shredder"}


@pytest.mark.parametrize(
    "role", [role if role in QUICK else pytest.param(role, marks=pytest.mark.slow) for role in ROLES]
)
def test_the_published_policy_is_enough_and_nothing_in_it_is_idle(trial: Any, role: str) -> None:
    it = trial(role)
    act = ROLES[role](it.world)
    it.may()
    act()
    assert not it.gate.refused
    assert not it.gate.unknown
    assert it.gate.used - set(ELSEWHERE) == set(allowed_actions(published("aws", role))) - set(ELSEWHERE)


def without_one_action(trial: Any, role: str, action: str) -> None:
    it = trial(role)
    act = ROLES[role](it.world)
    it.may(without=action)
    with pytest.raises(HoldfastError) as raised:
        act()
    assert {need.action for _, need in it.gate.refused} == {action}
    assert isinstance(raised.value, PermissionRefused), repr(raised.value)
    if it.gate.refused[-1][0] != "HEAD":  # its answer has no body to name it
        assert action in str(raised.value)
    it.may()
    act()
    assert not it.gate.refused, "what was begun is finished once the right is there"


@pytest.mark.parametrize(("role", "action"), FEW)
def test_without_one_action_the_work_is_refused_and_can_be_finished_later(trial: Any, role: str, action: str) -> None:
    without_one_action(trial, role, action)


@pytest.mark.slow
@pytest.mark.parametrize(("role", "action"), TOLERATED)
def test_without_what_only_tidies_up_the_work_ends_all_the_same(trial: Any, role: str, action: str) -> None:
    it = trial(role)
    act = ROLES[role](it.world)
    it.may(without=action)
    act()
    assert {need.action for _, need in it.gate.refused} == {action}


@pytest.mark.slow
@pytest.mark.parametrize(("role", "action"), ALL)
def test_without_any_action_the_work_is_refused_and_can_be_finished_later(trial: Any, role: str, action: str) -> None:
    without_one_action(trial, role, action)


def client_of(it: Trial, service: str) -> Any:
    return boto3.client(service, endpoint_url=it.gate.url, region_name="eu-west-1", **KEYS)


def refused(call: Any, **arguments: Any) -> bool:
    try:
        call(**arguments)
    except ClientError as error:
        return error.response["ResponseMetadata"]["HTTPStatusCode"] in (400, 403) and "Denied" in str(error)
    return False


@pytest.mark.parametrize("role", ["collector", "vault-reader", "posture"])
def test_a_reading_role_writes_and_deletes_nothing(trial: Any, role: str) -> None:
    it = trial(role)
    it.world.direct.store.put("k", b"x")
    it.may()
    where = {"Bucket": it.world.direct.site.bucket, "Key": f"{it.world.direct.site.prefix}/k"}
    s3 = client_of(it, "s3")
    until = {"Retention": {"Mode": "GOVERNANCE", "RetainUntilDate": datetime.now(UTC) + timedelta(days=1)}}
    assert refused(s3.put_object, **where, Body=b"y")
    assert refused(s3.delete_object, **where)
    assert refused(s3.put_object_retention, **where, **until)
    assert not it.gate.writes
    assert it.world.direct.store.get("k") == b"x"


@pytest.mark.parametrize("role", ["exporter", "vault-writer"])
def test_who_writes_and_locks_neither_deletes_nor_lifts_a_lock(trial: Any, role: str) -> None:
    """With a lock of governance, which only this policy protects. That compliance locks hold against everybody is
    S3's part: moto lets them be shortened, so nothing is shown of it here."""
    it = trial(role)
    it.world.direct.store.put("k", b"x")
    it.may()
    where = {"Bucket": it.world.direct.site.bucket, "Key": f"{it.world.direct.site.prefix}/k"}
    bucket = {"Bucket": where["Bucket"]}
    s3 = client_of(it, "s3")
    long, short = (datetime.now(UTC) + timedelta(days=days) for days in (30, 1))
    s3.put_object_retention(**where, Retention={"Mode": "GOVERNANCE", "RetainUntilDate": long})
    it.gate.writes.clear()
    shorter = {"Retention": {"Mode": "GOVERNANCE", "RetainUntilDate": short}}
    assert refused(s3.put_object_retention, **where, **shorter, BypassGovernanceRetention=True)
    assert refused(s3.delete_object, **where)
    version = s3.list_objects_v2(**bucket) and it.world.direct.locks.state("k").version
    assert refused(s3.delete_object, **where, VersionId=version, BypassGovernanceRetention=True)
    assert refused(s3.delete_objects, **bucket, Delete={"Objects": [{"Key": where["Key"]}]})
    assert refused(s3.put_bucket_versioning, **bucket, VersioningConfiguration={"Status": "Suspended"})
    assert refused(s3.put_object_lock_configuration, **bucket, ObjectLockConfiguration={"ObjectLockEnabled": "Enabled"})
    rule = {"Status": "Enabled", "ID": "r", "Filter": {"Prefix": ""}, "Expiration": {"Days": 1}}
    assert refused(s3.put_bucket_lifecycle_configuration, **bucket, LifecycleConfiguration={"Rules": [rule]})
    assert not it.gate.writes
    found = it.world.direct.locks.state("k").until
    assert found is not None
    assert abs(found - long) < timedelta(seconds=2)


@pytest.mark.parametrize("role", ["vault-writer", "vault-admin", "exporter"])
def test_a_role_that_locks_sees_what_is_locked_already(trial: Any, role: str) -> None:
    """Without the right to read a lock S3 leaves it out of its answers, and a longer one would be shortened."""
    it = trial(role)
    it.world.direct.store.put("k", b"x")
    long, short = (datetime.now(UTC) + timedelta(days=days) for days in (30, 1))
    it.world.direct.locks.extend("k", long, LockMode.GOVERNANCE)
    locks = it.world.gated.locks
    it.may()
    locks.extend("k", short, LockMode.GOVERNANCE)
    assert not it.gate.writes
    assert locks.state("k").until is not None
    it.may(without="s3:GetObjectRetention")
    assert locks.state("k").until is None
    locks.extend("k", short, LockMode.GOVERNANCE)
    assert [write.partition("?")[2].partition("&")[0] for write in it.gate.writes] == ["retention"]


def test_an_explicit_deny_counts_before_a_wide_grant_beside_it(trial: Any) -> None:
    it = trial("exporter")
    it.world.direct.store.put("k", b"x")
    it.may()
    document = it._document()
    document["Statement"].insert(0, {"Effect": "Allow", "Action": "s3:*", "Resource": "*"})
    it.gate.rules = Iam(document)
    where = {"Bucket": it.world.direct.site.bucket, "Key": f"{it.world.direct.site.prefix}/k"}
    assert refused(client_of(it, "s3").delete_object, **where)


def test_no_role_reaches_another_prefix_or_bucket(trial: Any, moto: str) -> None:
    it = trial("vault-admin")
    other = s3_bucket(moto)
    other.client.put_object(Bucket=other.site.bucket, Key="k", Body=b"x")
    it.may()
    s3 = client_of(it, "s3")
    assert refused(s3.get_object, Bucket=other.site.bucket, Key="k")
    assert refused(s3.get_object, Bucket=it.world.direct.site.bucket, Key="elsewhere/k")


#: What each role does with a key, and with which of its actions. What asks for the public key signs, too.
KEY_USES = [
    ("vault-admin", "kms:Encrypt"),
    ("vault-reader", "kms:Decrypt"),
    ("exporter", "kms:Encrypt"),
    ("exporter", "kms:Decrypt"),
    ("exporter", "kms:GetPublicKey"),
    ("exporter", "kms:Sign"),
    ("shredder", "kms:Decrypt"),
    ("shredder", "kms:GetPublicKey"),
    ("shredder", "kms:Sign"),
]


@pytest.mark.parametrize(("role", "action"), KEY_USES)
def test_a_keys_use_is_refused_without_its_action(trial: Any, moto: str, role: str, action: str) -> None:
    it = trial(role)
    signs = action in ("kms:GetPublicKey", "kms:Sign")
    kms = boto3.client("kms", endpoint_url=moto, region_name="eu-west-1", **KEYS)
    kind = {"KeySpec": "ECC_NIST_P256", "KeyUsage": "SIGN_VERIFY"} if signs else {}
    arn = kms.create_key(**kind)["KeyMetadata"]["Arn"]
    past, gated = (
        Connection(conn_id="c", conn_type="aws", login="a", password="b", extra={"endpoint_url": url})
        for url in (moto, it.gate.url)
    )
    bound = {"a": "b"}

    def use() -> None:
        if signs:
            cosigner = AwsKmsCosigner(arn, gated)
            assert cosigner.key.verifies(b"note", cosigner.sign(b"note"))
        elif action == "kms:Encrypt":
            AwsKmsRecipient(arn, gated).wrap(b"k" * 32, bound)
        else:
            wrapped = AwsKmsRecipient(arn, past).wrap(b"k" * 32, bound)
            assert AwsKmsRecipient(arn, gated).unwrap(wrapped, bound) == b"k" * 32

    def rules(key: str, without: str | None = None) -> Iam:
        text = json.dumps(published("aws", role)).replace("MASTER_KEY_ARN", key).replace("KEY_ARN", key)
        return Iam(json.loads(text), without=without)

    it.gate.rules = rules(arn)
    it.gate.used.clear()
    use()
    assert action in it.gate.used
    for refused_by in (rules(arn, without=action), rules(f"{arn}0")):
        it.gate.rules = refused_by
        with pytest.raises(KeyServiceRefused):
            use()


def test_another_account_assumes_the_role_with_the_agreed_id_alone() -> None:
    """The confused deputy: without the condition, whoever is served by the same caller could name this role."""
    (statement,) = published("aws", "trust")["Statement"]
    assert statement["Condition"] == {"StringEquals": {"sts:ExternalId": "EXTERNAL_ID"}}
    assert statement["Principal"] == {"AWS": "arn:aws:iam::CALLER_ACCOUNT:role/CALLER_ROLE"}


def test_the_published_bucket_policy_is_one_that_the_check_takes() -> None:
    (statement,) = published("aws", "bucket-tls-only")["Statement"]
    assert denies_plain_http(statement)


@pytest.mark.parametrize("role", PUBLISHED)
def test_no_policy_has_a_wildcard_in_what_it_allows(role: str) -> None:
    assert not [action for action in allowed_actions(published("aws", role)) if "*" in action]
