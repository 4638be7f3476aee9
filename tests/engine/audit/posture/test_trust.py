"""The published trust policy on moto, which evaluates trust policies: who is not the caller, or guesses the id, is out.

moto lets a request in that names no external id at all, where AWS does not (a condition on a key that is missing does
not hold); so that case is not shown here.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import boto3
import httpx
import pytest

from holdfast.clock import SystemClock
from holdfast.engine.audit.posture.aws_api import AwsApi
from holdfast.engine.audit.posture.interface import CannotTell
from holdfast.engine.audit.posture.privileges import published
from holdfast.engine.config import Connection

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def moto() -> Iterator[str]:
    """In a process of its own: that it checks permissions is a setting of the whole process."""
    from holdfast.sandbox.ports import free_port

    port = free_port()
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    url, clock = f"http://127.0.0.1:{port}", SystemClock()
    deadline = clock.monotonic() + 60
    try:
        while True:
            try:
                httpx.get(f"{url}/moto-api/data.json", trust_env=False)
                break
            except httpx.HTTPError:
                assert process.poll() is None
                assert clock.monotonic() < deadline
                clock.sleep(0.05)
        yield url
    finally:
        process.terminate()
        process.wait(10)


@pytest.fixture(scope="module")
def assume(moto: str) -> Callable[..., Any]:
    """Assumes the role as a user, with an external id, by Holdfast's own client."""
    keys = {"aws_access_key_id": "a", "aws_secret_access_key": "b"}
    iam = boto3.client("iam", endpoint_url=moto, region_name="eu-west-1", **keys)
    text = json.dumps(published("aws", "trust")).replace("EXTERNAL_ID", "agreed")
    text = text.replace("CALLER_ACCOUNT:role/CALLER_ROLE", "123456789012:user/caller")
    role = iam.create_role(RoleName="holdfast", AssumeRolePolicyDocument=text)["Role"]["Arn"]
    may = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "sts:AssumeRole", "Resource": "*"}]}
    made = {}
    for user in ("caller", "other"):
        iam.create_user(UserName=user)
        iam.put_user_policy(UserName=user, PolicyName="may", PolicyDocument=json.dumps(may))
        made[user] = iam.create_access_key(UserName=user)["AccessKey"]
    httpx.post(f"{moto}/moto-api/reset-auth", content="0", trust_env=False).raise_for_status()

    def assume(user: str, external_id: str) -> Any:
        extra = {"endpoint_url": moto, "role_arn": role, "assume_role_kwargs": {"ExternalId": external_id}}
        login, password = made[user]["AccessKeyId"], made[user]["SecretAccessKey"]
        connection = Connection(conn_id="c", conn_type="aws", login=login, password=password, extra=extra)
        return AwsApi(connection, "eu-west-1").call("sts", "get_caller_identity")

    return assume


def test_the_caller_gets_in_with_the_agreed_id(assume: Callable[..., Any]) -> None:
    assert ":assumed-role/holdfast/" in assume("caller", "agreed")["Arn"]


@pytest.mark.parametrize(("user", "external_id"), [("caller", "guessed"), ("other", "agreed")])
def test_another_id_or_another_user_does_not(assume: Callable[..., Any], user: str, external_id: str) -> None:
    with pytest.raises(CannotTell, match="AccessDenied"):
        assume(user, external_id)
