"""A trail as AWS delivers it, signed with a key made for the test, and what can go wrong with one.

Layout, names, metadata and the text that is signed are as AWS documents them; `test_validate_logs.py` has awscli's own
`validate-logs` accept it.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import threading
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, cast

from holdfast.engine.audit.interface import Interval, SourceUnreadable
from holdfast.engine.audit.sources.cloudtrail_chain import TrailStatus
from holdfast.engine.audit.sources.cloudtrail_digests import PublicKey
from holdfast.engine.audit.sources.cloudtrail_layout import TrailLayout, delivered_at, digest_end
from holdfast.engine.config.audit import CloudTrailSource
from holdfast.engine.objectstore import memory_store
from holdfast.engine.objectstore._decorator import StoreDecorator
from holdfast.engine.objectstore.interface import ObjectInfo, ObjectReader

ACCOUNT, TRAIL, REGION, BUCKET = "123456789012", "main-trail", "eu-west-1", "trail-bucket"
START = datetime(2026, 3, 1, 10, tzinfo=UTC)
HOUR = timedelta(hours=1)


@cache
def signing_key(name: str = "first") -> Any:
    from cryptography.hazmat.primitives.asymmetric import rsa

    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


def public_key(name: str = "first", region: str = REGION) -> PublicKey:
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    der = signing_key(name).public_key().public_bytes(Encoding.DER, PublicFormat.PKCS1)
    return PublicKey(region, fingerprint(der), der, datetime(2026, 1, 1, tzinfo=UTC), datetime(2027, 1, 1, tzinfo=UTC))


def fingerprint(der: bytes) -> str:
    return hashlib.md5(der, usedforsecurity=False).hexdigest()


def sign(key: str, text: bytes) -> str:
    from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
    from cryptography.hazmat.primitives.hashes import SHA256

    signature: bytes = signing_key(key).sign(text, PKCS1v15(), SHA256())
    return signature.hex()


def event(number: int, when: datetime, **changes: Any) -> dict[str, Any]:
    return {
        "eventVersion": "1.09",
        "userIdentity": {
            "type": "IAMUser",
            "principalId": "AIDAEXAMPLE",
            "arn": f"arn:aws:iam::{ACCOUNT}:user/ana",
            "accountId": ACCOUNT,
            "accessKeyId": "AKIAEXAMPLE",
            "userName": "ana",
        },
        "eventTime": f"{when:%Y-%m-%dT%H:%M:%SZ}",
        "eventSource": "ec2.amazonaws.com",
        "eventName": "DescribeInstances",
        "awsRegion": REGION,
        "sourceIPAddress": "198.51.100.7",
        "userAgent": "aws-cli/2.1",
        "requestParameters": {"filterSet": {"items": [{"name": "x"}]}},
        "responseElements": None,
        "requestID": f"request-{number}",
        "eventID": f"event-{number}",
        "readOnly": True,
        "eventType": "AwsApiCall",
        "managementEvent": True,
        "recipientAccountId": ACCOUNT,
        "eventCategory": "Management",
        **changes,
    }


@dataclass
class Stored:
    """An object of the bucket before it is put there."""

    data: bytes
    metadata: dict[str, str] = field(default_factory=dict)


@dataclass
class Trail:
    """What a trail has delivered so far; `deliver` adds an hour and its digest.

    Args:
        offset: how long after the full hour digests begin and end, as in real chains.
    """

    region: str = REGION
    prefix: str = ""
    organization: str | None = None
    offset: timedelta = timedelta()
    key: str = "first"
    bucket: str = BUCKET
    objects: dict[str, Stored] = field(default_factory=dict)
    digests: list[str] = field(default_factory=list)
    logs: list[str] = field(default_factory=list)
    clock: datetime = START
    numbers: int = 0
    _previous: dict[str, Any] | None = None

    @property
    def layout(self) -> TrailLayout:
        return TrailLayout(ACCOUNT, TRAIL, REGION, self.organization, self.prefix)

    def settings(self, regions: Sequence[str] = ()) -> CloudTrailSource:
        return CloudTrailSource(
            kind="cloudtrail",
            site="site-a",
            bucket=self.bucket,
            prefix=self.prefix,
            account=ACCOUNT,
            trail=TRAIL,
            regions=tuple(regions) or (self.region,),
            home_region=REGION,
            organization=self.organization,
        )

    def window(self, hours: int) -> Interval:
        return Interval(START, START + hours * HOUR)

    def log(self, when: datetime, records: int = 3, *, content: bytes | None = None) -> str:
        """Puts a log file delivered then; its key below the prefix."""
        if content is None:
            events = [event(self.numbers + number, when) for number in range(records)]
            content = json.dumps({"Records": events}, separators=(",", ":")).encode()
        self.numbers += records
        key = f"{self.layout.logs_of('CloudTrail', self.region, when)}{when:%MZ}_{self.numbers:016d}.json.gz"
        self.objects[key] = Stored(gzip.compress(content, mtime=0))
        self.logs.append(key)
        return key

    def deliver(self, hours: int = 1, files: int = 2) -> None:
        """So many hours, each with its files and the digest that names them."""
        for _ in range(hours):
            start = self.clock
            minutes = [start + timedelta(minutes=5 + 10 * number) for number in range(files)]
            keys = [self.log(minute) for minute in minutes]
            self.digest(start + self.offset, start + self.offset + HOUR, keys)
            self.clock += HOUR

    def digest(self, start: datetime, end: datetime, keys: Sequence[str], *, backfill: bool = False) -> str:
        """Puts a digest; its key below the prefix."""
        previous = None if backfill else self._previous
        name = self.layout.digest(self.region, end)
        name = name.replace(".json.gz", "_backfill.json.gz") if backfill else name
        said: dict[str, Any] = {
            "awsAccountId": ACCOUNT,
            "digestStartTime": f"{start:%Y-%m-%dT%H:%M:%SZ}",
            "digestEndTime": f"{end:%Y-%m-%dT%H:%M:%SZ}",
            "digestS3Bucket": self.bucket,
            "digestS3Object": self.layout.full(name),
            "digestPublicKeyFingerprint": public_key(self.key).fingerprint,
            "digestSignatureAlgorithm": "SHA256withRSA",
            "newestEventTime": f"{end - timedelta(minutes=10):%Y-%m-%dT%H:%M:%SZ}" if keys else None,
            "oldestEventTime": f"{start:%Y-%m-%dT%H:%M:%SZ}" if keys else None,
            "previousDigestS3Bucket": self.bucket if previous else None,
            "previousDigestS3Object": previous["key"] if previous else None,
            "previousDigestHashValue": previous["sha256"] if previous else None,
            "previousDigestHashAlgorithm": "SHA-256" if previous else None,
            "previousDigestSignature": previous["signature"] if previous else None,
            "logFiles": [
                {
                    "s3Bucket": self.bucket,
                    "s3Object": self.layout.full(key),
                    "hashValue": hashlib.sha256(inflated(self.objects[key].data)).hexdigest(),
                    "hashAlgorithm": "SHA-256",
                    "newestEventTime": f"{end:%Y-%m-%dT%H:%M:%SZ}",
                    "oldestEventTime": f"{start:%Y-%m-%dT%H:%M:%SZ}",
                }
                for key in keys
            ],
        }
        content = json.dumps(said).encode()
        sha256 = hashlib.sha256(content).hexdigest()
        before = said["previousDigestSignature"] or "null"
        signed = f"{said['digestEndTime']}\n{self.bucket}/{said['digestS3Object']}\n{sha256}\n{before}"
        metadata = {"signature": sign(self.key, signed.encode()), "signature-algorithm": "SHA256withRSA"}
        if backfill:
            metadata["backfill-generation-timestamp"] = f"{end + 5 * HOUR:%Y-%m-%dT%H:%M:%SZ}"
        else:
            self._previous = {"key": self.layout.full(name), "sha256": sha256, "signature": metadata["signature"]}
            self.digests.append(name)
        self.objects[name] = Stored(gzip.compress(content, mtime=0), metadata)
        return name

    def stop(self, hours: int) -> None:
        """Logging is off for so long; the next digest begins a chain."""
        self.clock += hours * HOUR
        self._previous = None

    def change(self, key: str, edit: Mapping[bytes, bytes]) -> None:
        """Edits an object's content past AWS, so that it stays readable."""
        content = inflated(self.objects[key].data)
        for old, new in edit.items():
            assert old in content
            content = content.replace(old, new)
        self.objects[key].data = gzip.compress(content, mtime=0)


def inflated(data: bytes) -> bytes:
    return zlib.decompress(data, zlib.MAX_WBITS | 16)


class FakeTrailApi:
    """CloudTrail's API with the keys of tests."""

    def __init__(self, *keys: PublicKey, status: TrailStatus = TrailStatus()) -> None:  # noqa: B008
        self.keys = keys or (public_key(),)
        self.trail_status = status
        self.broken: str | None = None
        self.asked = 0

    def public_keys(self, region: str, start: datetime, end: datetime) -> Sequence[PublicKey]:
        self.asked += 1
        if self.broken:
            raise SourceUnreadable("no answer", code=self.broken, where=region)
        return [replace(key, region=region) for key in self.keys if key.valid_from <= end and key.valid_until >= start]

    def status(self, region: str) -> TrailStatus:
        if self.broken:
            raise SourceUnreadable("no answer", code=self.broken, where=region)
        return self.trail_status


class TrailBucket(StoreDecorator):
    """The bucket of a trail in memory: objects are as old as their names say, and some may not be read.

    Args:
        refused: part of a key → what listing or reading such keys raises.
    """

    def __init__(self, trail: Trail, refused: Mapping[str, Exception] | None = None) -> None:
        super().__init__(memory_store())
        self.refused = dict(refused or {})
        self.reads: list[str] = []
        for key, stored in trail.objects.items():
            # Names of metadata have no hyphen in what all stores keep; S3 itself takes part in test_cloudtrail_s3.py.
            metadata = {name.replace("-", "_"): value for name, value in stored.metadata.items()}
            self.inner.put(key, stored.data, metadata=metadata)

    def list(self, prefix: str = "", *, start_after: str | None = None) -> Iterator[ObjectInfo]:
        self._refuse(f"list {prefix}")
        return (self._aged(info) for info in self.inner.list(prefix, start_after=start_after))

    def open(self, key: str, **how: Any) -> ObjectReader:
        self.reads.append(key)
        self._refuse(f"open {key}")
        reader = self.inner.open(key, **how)
        return replace(reader, info=self._aged(reader.info))

    def _refuse(self, what: str) -> None:
        for part, error in self.refused.items():
            if part in what:
                raise error

    def _aged(self, info: ObjectInfo) -> ObjectInfo:
        named = digest_end(info.key) or delivered_at(info.key) or info.modified_at
        return replace(info, modified_at=named + timedelta(minutes=4))


class _Answers(BaseHTTPRequestHandler):
    """CloudTrail's JSON protocol, as far as moto has none of it."""

    def do_POST(self) -> None:
        front = cast("CloudTrailFront", self.server)
        self.rfile.read(int(self.headers.get("Content-Length", "0")))
        operation = self.headers["X-Amz-Target"].rsplit(".", 1)[1]
        front.asked.append(operation)
        status, answer = front.answer(operation)
        body = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/x-amz-json-1.1")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None: ...


class CloudTrailFront(ThreadingHTTPServer):
    """A loopback server with the operations of CloudTrail that moto lacks, for awscli and boto3.

    Args:
        trail: whose trail `DescribeTrails` and `GetTrailStatus` tell of.
        keys: what `ListPublicKeys` gives.
    """

    daemon_threads = True

    def __init__(self, trail: Trail, *keys: PublicKey) -> None:
        super().__init__(("127.0.0.1", 0), _Answers)
        self.trail, self.keys = trail, keys or (public_key(),)
        self.refuses: str | None = None
        self.newest_digest_at: datetime | None = None
        self.asked: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def answer(self, operation: str) -> tuple[int, dict[str, Any]]:
        if self.refuses:
            return 400, {"__type": self.refuses, "Message": "no"}
        if operation == "ListPublicKeys":
            return 200, {"PublicKeyList": [_key_answer(key) for key in self.keys]}
        if operation == "DescribeTrails":
            return 200, {
                "trailList": [
                    {
                        "Name": TRAIL,
                        "TrailARN": f"arn:aws:cloudtrail:{REGION}:{ACCOUNT}:trail/{TRAIL}",
                        "S3BucketName": self.trail.bucket,
                        **({"S3KeyPrefix": self.trail.prefix} if self.trail.prefix else {}),
                        "IsOrganizationTrail": False,
                        "HomeRegion": REGION,
                    }
                ]
            }
        if operation == "GetTrailStatus":
            newest = self.newest_digest_at
            return 200, {"IsLogging": True} | ({"LatestDigestDeliveryTime": newest.timestamp()} if newest else {})
        return 400, {"__type": "UnsupportedOperationException", "Message": operation}


def _key_answer(key: PublicKey) -> dict[str, Any]:
    return {
        "Value": base64.b64encode(key.der).decode(),
        "ValidityStartTime": key.valid_from.timestamp(),
        "ValidityEndTime": key.valid_until.timestamp(),
        "Fingerprint": key.fingerprint,
    }


@contextmanager
def cloudtrail_front(trail: Trail, *keys: PublicKey) -> Iterator[CloudTrailFront]:
    """The server, running."""
    front = CloudTrailFront(trail, *keys)
    thread = threading.Thread(target=front.serve_forever, daemon=True)
    thread.start()
    try:
        yield front
    finally:
        front.shutdown()
        front.server_close()
        thread.join()


def deliver_to_s3(trail: Trail, client: Any) -> None:
    """Puts all a trail has delivered into its bucket, which is made, with the metadata AWS gives it."""
    client.create_bucket(Bucket=trail.bucket, CreateBucketConfiguration={"LocationConstraint": REGION})
    for key, stored in trail.objects.items():
        client.put_object(Bucket=trail.bucket, Key=trail.layout.full(key), Body=stored.data, Metadata=stored.metadata)
