"""CloudTrail records as real accounts have them, about 1 KB each and no two alike, fast enough for millions.

What varies: who (people, roles, services), from where, service and call, request and response, resources, ids, times,
errors. Some records hold what makes parsing hard: policy documents as JSON in a string, non-ASCII names, DynamoDB's
``key`` objects, arrays of objects. The same seed gives the same bytes.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

ACCOUNT = "123456789012"
START = datetime(2026, 3, 1, tzinfo=UTC)
REGIONS = ("eu-west-1", "eu-central-1", "us-east-1")
_PER_SECOND = 40
_SHAPES = 4000
_TIME, _REQUEST, _EVENT, _ADDRESS, _OBJECT, _SESSION = (f"@{name}@" for name in "TREAOS")

_AGENTS = (
    "aws-cli/2.31.4 md/awscrt#0.27.6 ua/2.1 os/linux#6.8.0 md/arch#x86_64 lang/python#3.13.7",
    "Boto3/1.40.21 md/Botocore#1.40.21 ua/2.1 os/linux#5.10.0 lang/python#3.11.9",
    "APN/1.0 HashiCorp/1.0 Terraform/1.12.2 (+https://www.terraform.io) aws-sdk-go-v2/1.36.5",
    "[aws-sdk-java/2.31.60 Linux/5.15.0 OpenJDK_64-Bit_Server_VM/21.0.7+6-LTS Java/21.0.7]",
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 Chrome/142.0.0.0 Safari/537.36",
)
_PEOPLE = ("ana", "björn", "chen", "dmitri", "elif", "farid", "grace", "hiro", "ines", "jonas", "kavya", "łukasz")
_ROLES = ("training-runner", "data-engineer", "airflow-worker", "ci-deploy", "read-only-audit", "platform-admin")


def events(count: int, *, seed: int = 1) -> Iterator[bytes]:
    """So many records."""
    rng = random.Random(seed)
    shapes = [_shape(rng) for _ in range(min(_SHAPES, max(50, count // 20)))]
    pick, bits = rng.random, rng.getrandbits
    number = len(shapes)
    second, when = -1, b""
    for index in range(count):
        if index // _PER_SECOND != second:
            second = index // _PER_SECOND
            when = f"{START + timedelta(seconds=second):%Y-%m-%dT%H:%M:%SZ}".encode()
        form, wanted = shapes[int(pick() * number)]
        random_bits = bits(256)
        values = {
            b"T": when,
            b"R": b"%016X" % (random_bits & 0xFFFFFFFFFFFFFFFF),
            b"E": b"%08x-%04x-4%03x-a%03x-%012x"
            % (
                random_bits >> 224,
                (random_bits >> 208) & 0xFFFF,
                (random_bits >> 196) & 0xFFF,
                (random_bits >> 184) & 0xFFF,
                (random_bits >> 136) & 0xFFFFFFFFFFFF,
            ),
            b"A": b"%d.%d.%d.%d"
            % (198, 51 + (random_bits >> 100 & 3), random_bits >> 104 & 0xFF, random_bits >> 112 & 0x3F),
            b"O": b"dt=2026-03-01/part-%05d-%08x.parquet" % (index % 100000, random_bits >> 64 & 0xFFFFFFFF),
            b"S": b"%010x" % (random_bits >> 30 & 0xFFFFFFFFFF),
        }
        yield form % tuple([values[name] for name in wanted])


def files(count: int, *, per_file: int = 2000, seed: int = 1) -> Iterator[bytes]:
    """The contents of log files that hold so many records together."""
    batch: list[bytes] = []
    for record in events(count, seed=seed):
        batch.append(record)
        if len(batch) == per_file:
            yield b'{"Records":[' + b",".join(batch) + b"]}"
            batch = []
    if batch:
        yield b'{"Records":[' + b",".join(batch) + b"]}"


def _shape(rng: random.Random) -> tuple[bytes, list[bytes]]:
    """One record with holes for what differs each time, and what goes in them."""
    region = rng.choice(REGIONS)
    call = rng.choices([made for made, _ in _CALLS], [weight for _, weight in _CALLS])[0](rng, region)
    record: dict[str, Any] = {
        "eventVersion": "1.11",
        "userIdentity": _identity(rng),
        "eventTime": _TIME,
        "eventSource": "",
        "eventName": "",
        "awsRegion": region,
        "sourceIPAddress": _ADDRESS,
        "userAgent": rng.choice(_AGENTS),
        "requestParameters": None,
        "responseElements": None,
        "requestID": _REQUEST,
        "eventID": _EVENT,
        "readOnly": False,
        "eventType": "AwsApiCall",
        "managementEvent": True,
        "recipientAccountId": ACCOUNT,
        "eventCategory": "Management",
        **call,
    }
    if rng.random() < 0.04:
        record |= {
            "errorCode": rng.choice(("AccessDenied", "ThrottlingException", "NoSuchKey")),
            "errorMessage": f"User: {record['userIdentity'].get('arn')} is not authorized to perform this action",
        }
    text = json.dumps(record, separators=(",", ":"), ensure_ascii=False).replace("%", "%%")
    wanted = []
    while (at := text.find("@")) >= 0 and text[at + 2] == "@":
        wanted.append(text[at + 1].encode())
        text = f"{text[:at]}%b{text[at + 3 :]}"
    return text.encode(), wanted


def _identity(rng: random.Random) -> dict[str, Any]:
    if rng.random() < 0.05:
        return {"type": "AWSService", "invokedBy": rng.choice(("autoscaling", "config", "lambda")) + ".amazonaws.com"}
    if rng.random() < 0.45:
        person = f"{rng.choice(_PEOPLE)}{rng.randrange(40)}"
        return {
            "type": "IAMUser",
            "principalId": f"AIDA{rng.getrandbits(64):016X}",
            "arn": f"arn:aws:iam::{ACCOUNT}:user/{person}",
            "accountId": ACCOUNT,
            "accessKeyId": f"AKIA{rng.getrandbits(64):016X}",
            "userName": person,
        }
    role, principal = rng.choice(_ROLES), f"AROA{rng.getrandbits(64):016X}"
    return {
        "type": "AssumedRole",
        "principalId": f"{principal}:run-{_SESSION}",
        "arn": f"arn:aws:sts::{ACCOUNT}:assumed-role/{role}/run-{_SESSION}",
        "accountId": ACCOUNT,
        "accessKeyId": f"ASIA{rng.getrandbits(64):016X}",
        "sessionContext": {
            "sessionIssuer": {
                "type": "Role",
                "principalId": principal,
                "arn": f"arn:aws:iam::{ACCOUNT}:role/{role}",
                "accountId": ACCOUNT,
                "userName": role,
            },
            "attributes": {"creationDate": "2026-03-01T00:00:00Z", "mfaAuthenticated": rng.choice(("true", "false"))},
        },
    }


def _s3(rng: random.Random, region: str) -> dict[str, Any]:
    bucket, name = f"ml-{rng.choice(('features', 'models', 'raw'))}-{region}", rng.choice(("GetObject", "PutObject"))
    return {
        "eventSource": "s3.amazonaws.com",
        "eventName": name,
        "readOnly": name == "GetObject",
        "managementEvent": False,
        "eventCategory": "Data",
        "requestParameters": {"bucketName": bucket, "key": _OBJECT},
        "additionalEventData": {"SignatureVersion": "SigV4", "bytesTransferredOut": rng.randrange(10_000_000)},
        "resources": [
            {"type": "AWS::S3::Object", "ARN": f"arn:aws:s3:::{bucket}/{_OBJECT}"},
            {"accountId": ACCOUNT, "type": "AWS::S3::Bucket", "ARN": f"arn:aws:s3:::{bucket}"},
        ],
    }


def _ec2(rng: random.Random, _region: str) -> dict[str, Any]:
    name = rng.choice(("DescribeInstances", "RunInstances", "TerminateInstances", "CreateTags", "ModifyVolume"))
    items = [{"instanceId": f"i-{rng.getrandbits(68):017x}"} for _ in range(rng.randrange(1, 4))]
    return {
        "eventSource": "ec2.amazonaws.com",
        "eventName": name,
        "readOnly": name.startswith("Describe"),
        "requestParameters": {"instancesSet": {"items": items}, "filterSet": {}, "clientToken": _SESSION},
        "responseElements": None if name.startswith("Describe") else {"requestId": _REQUEST, "_return": True},
    }


def _sts(rng: random.Random, _region: str) -> dict[str, Any]:
    role = f"arn:aws:iam::{ACCOUNT}:role/{rng.choice(_ROLES)}"
    return {
        "eventSource": "sts.amazonaws.com",
        "eventName": "AssumeRole",
        "readOnly": True,
        "requestParameters": {"roleArn": role, "roleSessionName": f"run-{_SESSION}", "durationSeconds": 3600},
        "responseElements": {
            "credentials": {"accessKeyId": f"ASIA{rng.getrandbits(64):016X}", "expiration": "Mar 1, 2026, 2:00:00 AM"},
            "assumedRoleUser": {"assumedRoleId": f"AROA:run-{_SESSION}", "arn": role},
        },
        "resources": [{"accountId": ACCOUNT, "type": "AWS::IAM::Role", "ARN": role}],
    }


def _kms(rng: random.Random, region: str) -> dict[str, Any]:
    key = f"arn:aws:kms:{region}:{ACCOUNT}:key/{rng.getrandbits(128):032x}"
    return {
        "eventSource": "kms.amazonaws.com",
        "eventName": rng.choice(("Decrypt", "GenerateDataKey")),
        "readOnly": True,
        "requestParameters": {
            "encryptionContext": {"aws:s3:arn": f"arn:aws:s3:::ml-features/{_OBJECT}"},
            "encryptionAlgorithm": "SYMMETRIC_DEFAULT",
        },
        "resources": [{"accountId": ACCOUNT, "type": "AWS::KMS::Key", "ARN": key}],
    }


def _iam(rng: random.Random, _region: str) -> dict[str, Any]:
    policy = {
        "Version": "2012-10-17",
        "Statement": [
            {"Effect": "Allow", "Action": ["s3:GetObject"], "Resource": f"arn:aws:s3:::x{rng.randrange(99)}/*"}
        ],
    }
    name = rng.choice(("PutRolePolicy", "CreateUser", "AttachRolePolicy", "CreateAccessKey", "DeleteUser"))
    return {
        "eventSource": "iam.amazonaws.com",
        "eventName": name,
        "requestParameters": {
            ("Role" in name and "roleName") or "userName": f"{rng.choice(_PEOPLE)}-{_SESSION}",
            "policyDocument": json.dumps(policy, indent=2),
        },
    }


def _console(rng: random.Random, _region: str) -> dict[str, Any]:
    return {
        "eventSource": "signin.amazonaws.com",
        "eventName": "ConsoleLogin",
        "eventType": "AwsConsoleSignIn",
        "responseElements": {"ConsoleLogin": "Success"},
        "additionalEventData": {
            "LoginTo": "https://console.aws.amazon.com/console/home",
            "MobileVersion": "No",
            "MFAUsed": rng.choice(("Yes", "No")),
        },
    }


def _dynamodb(rng: random.Random, region: str) -> dict[str, Any]:
    table = f"arn:aws:dynamodb:{region}:{ACCOUNT}:table/registry"
    return {
        "eventSource": "dynamodb.amazonaws.com",
        "eventName": rng.choice(("GetItem", "UpdateItem", "Query")),
        "readOnly": True,
        "managementEvent": False,
        "eventCategory": "Data",
        "requestParameters": {"tableName": "registry", "key": {"pk": _SESSION, "sk": "v1"}, "consistentRead": True},
        "resources": [{"accountId": ACCOUNT, "type": "AWS::DynamoDB::Table", "ARN": table}],
    }


_CALLS: tuple[tuple[Callable[[random.Random, str], dict[str, Any]], int], ...] = (
    (_s3, 40),
    (_ec2, 20),
    (_sts, 12),
    (_kms, 14),
    (_iam, 4),
    (_console, 2),
    (_dynamodb, 8),
)
