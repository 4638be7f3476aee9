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
from holdfast.engine.config import Connection
from holdfast.engine.objectstore.errors import PermissionRefused
from holdfast.engine.vault.errors import KeyServiceRefused
from holdfast.engine.vault.kms_aws import AwsKmsRecipient
from holdfast.errors import HoldfastError
from lock_world import LockingBucket, moto_server, s3_bucket
from policy_world import ROLES, RoleWorld

#: What a role's work on a bucket does not ask for, and where else it is shown or why it is not.
ELSEWHERE = {
    "cloudtrail:ListPublicKeys": "moto does not implement it",
    "kms:Decrypt": "test_a_keys_use_is_refused_without_its_action",
    "kms:Encrypt": "test_a_keys_use_is_refused_without_its_action",
    "kms:GetPublicKey": "the ledger's own tests of co-signing",
    "kms:Sign": "the ledger's own tests of co-signing",
}
#: Cheap, and one of each kind: read, write, lock, delete.
FEW = [
    ("collector", "s3:GetObject"),
    ("exporter", "s3:PutObject"),
    ("exporter", "s3:PutObjectRetention"),
    ("vault-admin", "s3:DeleteObjectVersion"),
    ("vault-writer", "s3:PutObjectRetention"),
]
ALL = [
    (role, action)
    for role in ROLES
    for action in allowed_actions(published("aws", role))
    if action not in ELSEWHERE and (role, action) not in FEW
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
        text = json.dumps(published("aws", self.role)).replace("BUCKET", site.bucket).replace("PREFIX", site.prefix)
        return dict(json.loads(text))


@pytest.fixture
def trial(moto: str, gate: Gate, tmp_path: Path) -> Any:
    def made(role: str) -> Trial:
        direct = s3_bucket(moto)
        extra = {**direct.connection.extra, "endpoint_url": gate.url}
        gated = replace(direct, connection=direct.connection.model_copy(update={"extra": extra}))
        return Trial(gate, role, RoleWorld(direct, gated, tmp_path))

    return made


@pytest.mark.parametrize("role", ROLES)
def test_the_published_policy_is_enough_and_nothing_in_it_is_idle(trial: Any, role: str) -> None:
    it = trial(role)
    act = ROLES[role](it.world)
    it.may()
    act()
    assert not it.gate.refused
    assert not it.gate.unknown
    assert it.gate.used == set(allowed_actions(published("aws", role))) - set(ELSEWHERE)


def without_one_action(trial: Any, role: str, action: str) -> None:
    it = trial(role)
    act = ROLES[role](it.world)
    it.may(without=action)
    with pytest.raises(HoldfastError) as raised:
        act()
    assert {need.action for need in it.gate.refused} == {action}
    assert isinstance(raised.value, PermissionRefused), repr(raised.value)
    assert action in str(raised.value)
    it.may()
    act()
    assert not it.gate.refused, "what was begun is finished once the right is there"


@pytest.mark.parametrize(("role", "action"), FEW)
def test_without_one_action_the_work_is_refused_and_can_be_finished_later(trial: Any, role: str, action: str) -> None:
    without_one_action(trial, role, action)


@pytest.mark.slow
@pytest.mark.parametrize(("role", "action"), ALL)
def test_without_any_action_the_work_is_refused_and_can_be_finished_later(trial: Any, role: str, action: str) -> None:
    without_one_action(trial, role, action)
