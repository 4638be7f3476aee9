"""CloudTrail on moto's S3, over HTTP with the metadata as S3 keeps it, and by awscli's own `validate-logs`.

moto delivers no trail and knows neither `ListPublicKeys` nor `GetTrailStatus`: the trail is the tests' own, and
`CloudTrailFront` answers for the API. Nothing of this ran on AWS.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from cloudtrail_world import (
    ACCOUNT,
    HOUR,
    REGION,
    START,
    TRAIL,
    CloudTrailFront,
    Trail,
    cloudtrail_front,
    deliver_to_s3,
    public_key,
)
from holdfast.clock import FakeClock, SystemClock
from holdfast.engine.audit.interface import Coverage, SourceUnreadable, State
from holdfast.engine.audit.sources.cloudtrail import CloudTrail, open_cloudtrail
from holdfast.engine.audit.sources.cloudtrail_chain import verify_digests
from holdfast.engine.config import Cloud, Connection, Site, load_topology
from holdfast.engine.objectstore import open_store
from holdfast.engine.runtime import Runtime
from lock_world import moto_server
from world import AWS, TOPOLOGY, topology_environ


class _OneConnection:
    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def get(self, conn_id: str) -> Connection:
        return self._connection


@pytest.fixture(scope="module")
def moto() -> Iterator[str]:
    with moto_server() as url:
        yield url


@pytest.fixture(scope="module")
def s3(moto: str) -> Any:
    import boto3

    return boto3.client("s3", endpoint_url=moto, aws_access_key_id="a", aws_secret_access_key="b", region_name=REGION)


def new_trail(**kwargs: Any) -> Trail:
    return Trail(bucket=f"trail-{uuid.uuid4().hex}", **kwargs)


def opened(moto: str, front: CloudTrailFront, trail: Trail) -> CloudTrail:
    extra = {
        "endpoint_url": moto,
        "region_name": REGION,
        "service_config": {"cloudtrail": {"endpoint_url": front.url}},
    }
    connection = Connection(conn_id="c", conn_type="aws", login="a", password="b", extra=extra)
    runtime = Runtime(load_topology(TOPOLOGY, topology_environ()), _OneConnection(connection), clock=SystemClock())
    return open_cloudtrail(runtime, "aws-trail", trail.settings().model_copy(update={"site": AWS}))


def coverages(source: CloudTrail, trail: Trail, hours: int) -> list[Coverage]:
    return [source.completeness(interval) for interval in source.intervals(trail.window(hours))]


def findings_of(covered: list[Coverage]) -> list[str]:
    return sorted({finding.code for one in covered for finding in one.findings if finding.state is not State.COMPLETE})


def test_a_chain_on_s3_is_verified_with_the_keys_of_the_api(moto: str, s3: Any) -> None:
    trail = new_trail(offset=timedelta(minutes=1, seconds=31), prefix="company/audit")
    trail.digest(START - HOUR + trail.offset, START + trail.offset, [])
    trail.deliver(2)
    deliver_to_s3(trail, s3)
    with cloudtrail_front(trail) as front:
        source = opened(moto, front, trail)
        covered = coverages(source, trail, 2)
        documents = [document for one in covered for document in source.documents(one.interval)]
        batches = [batch for one in covered for batch in source.read(one.interval)]
    assert [one.state for one in covered] == [State.COMPLETE] * 2
    assert sum(one.records for one in covered) == 12
    contents = {found.object_id: found.content_sha256 for batch in batches for found in batch.objects}
    assert {finding.code for finding in verify_digests(documents, contents)} == {"keys-trusted"}


def test_metadata_lost_by_a_copy_is_told(moto: str, s3: Any) -> None:
    trail = new_trail()
    trail.deliver(1)
    deliver_to_s3(trail, s3)
    s3.copy_object(
        Bucket=trail.bucket,
        Key=trail.digests[0],
        CopySource={"Bucket": trail.bucket, "Key": trail.digests[0]},
        MetadataDirective="REPLACE",
        Metadata={},
    )
    with cloudtrail_front(trail) as front:
        assert findings_of(coverages(opened(moto, front, trail), trail, 1)) == ["digest-signature-lost"]


@pytest.mark.slow
def test_pages_of_a_listing_are_followed(moto: str, s3: Any) -> None:
    trail = new_trail()
    minutes = [START + timedelta(minutes=number % 60) for number in range(1005)]
    trail.digest(START, START + HOUR, [trail.log(minute, records=1) for minute in minutes])
    deliver_to_s3(trail, s3)
    with cloudtrail_front(trail) as front:
        (covered,) = coverages(opened(moto, front, trail), trail, 1)
    assert (covered.state, covered.objects) == (State.COMPLETE, 1005)


@pytest.mark.parametrize(
    ("refused", "code"),
    [
        ("ExpiredTokenException", "token-expired"),
        ("AccessDeniedException", "permission-refused"),
    ],
)
def test_an_api_that_refuses_makes_it_unknown(moto: str, s3: Any, refused: str, code: str) -> None:
    trail = new_trail()
    trail.deliver(1)
    deliver_to_s3(trail, s3)
    with cloudtrail_front(trail) as front:
        front.refuses = refused
        (covered,) = coverages(opened(moto, front, trail), trail, 1)
    assert covered.state is State.UNKNOWN
    assert findings_of([covered]) == sorted([code, "key-unknown"])


def test_a_bucket_that_is_not_there_is_unknown(moto: str) -> None:
    trail = new_trail()
    with cloudtrail_front(trail) as front:
        (covered,) = coverages(opened(moto, front, trail), trail, 1)
    assert covered.state is State.UNKNOWN


class _Refusing(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        status, code = self.server.refusal  # type: ignore[attr-defined]
        body = f'<?xml version="1.0"?><Error><Code>{code}</Code><Message>no</Message></Error>'.encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_HEAD = do_GET

    def log_message(self, *_: Any) -> None: ...


@pytest.mark.parametrize(
    ("refusal", "code"),
    [
        ((400, "ExpiredToken"), "token-expired"),
        ((403, "AccessDenied"), "permission-refused"),
        ((503, "SlowDown"), "throttled"),
    ],
)
def test_what_s3_answers_is_told_by_its_code(refusal: tuple[int, str], code: str) -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Refusing)
    server.refusal = refusal  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        site = Site(cloud=Cloud.AWS, region=REGION, jurisdiction="EU", connection="c", bucket="b")
        extra = {"endpoint_url": f"http://127.0.0.1:{server.server_port}", "region_name": REGION}
        connection = Connection(conn_id="c", conn_type="aws", login="a", password="b", extra=extra)
        store = open_store("site-a", site, connection, retry=None)
        trail = Trail()
        source = CloudTrail("aws-trail", trail.settings(), store, FakeClock(START + 48 * HOUR))
        with pytest.raises(SourceUnreadable) as raised:
            list(source.read(trail.window(1)))
        covered = source.completeness(trail.window(1))
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
    assert raised.value.code == code
    assert covered.state is State.UNKNOWN
    assert findings_of([covered]) == [code]


def validated(moto: str, front: CloudTrailFront, hours: int) -> tuple[int, str]:
    """Exit code and words of awscli's own command."""
    environ = {
        name: value for name, value in os.environ.items() if not name.startswith("AWS_") and not name.endswith("_proxy")
    }
    environ |= {
        "AWS_ACCESS_KEY_ID": "a",
        "AWS_SECRET_ACCESS_KEY": "b",
        "AWS_ENDPOINT_URL": front.url,
        "AWS_ENDPOINT_URL_S3": moto,
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    arguments = [
        *("--trail-arn", f"arn:aws:cloudtrail:{REGION}:{ACCOUNT}:trail/{TRAIL}"),
        *("--start-time", f"{START:%Y-%m-%dT%H:%M:%SZ}"),
        *("--end-time", f"{START + hours * HOUR:%Y-%m-%dT%H:%M:%SZ}"),
        *("--region", REGION, "--verbose"),
    ]
    command = [sys.executable, "-m", "awscli", "cloudtrail", "validate-logs", *arguments]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=120, check=False)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("prefix", ["", "company/audit"])
def test_awscli_accepts_the_same_chain(moto: str, s3: Any, prefix: str) -> None:
    trail = new_trail(offset=timedelta(minutes=1, seconds=31), prefix=prefix)
    trail.deliver(2)
    trail.key = "second"
    trail.deliver(1)
    late = trail.log(START + timedelta(minutes=30))
    trail.digest(START + trail.offset, START + trail.offset + HOUR, [late], backfill=True)
    deliver_to_s3(trail, s3)
    with cloudtrail_front(trail, public_key(), public_key("second")) as front:
        code, words = validated(moto, front, 4)
    assert code == 0, words
    assert "3/3 digest files valid" in words
    assert "1/1 backfill digest files valid" in words
    assert "7/7 log files valid" in words


@pytest.mark.slow
def test_what_awscli_finds_is_found_here(moto: str, s3: Any) -> None:
    trail = new_trail()
    trail.deliver(3)
    trail.change(trail.logs[0], {b"event-1": b"event-X"})
    del trail.objects[trail.logs[2]]
    trail.change(trail.digests[2], {b'"SHA-256"': b'"SHA-255"'})
    deliver_to_s3(trail, s3)
    with cloudtrail_front(trail) as front:
        code, words = validated(moto, front, 3)
        covered = coverages(opened(moto, front, trail), trail, 3)
    assert code == 1
    assert "1/3 digest files INVALID" in words
    assert "2/4 log files INVALID" in words
    assert [findings_of([one]) for one in covered] == [["log-altered"], ["log-missing"], ["digest-altered"]]


def _stopped(trail: Trail) -> None:
    trail.stop(2)


def _nothing(trail: Trail) -> None:
    for digest in trail.digests:
        del trail.objects[digest]


def _added(trail: Trail) -> None:
    trail.log(START + timedelta(minutes=59))


def _tail_cut(trail: Trail) -> None:
    for gone in [trail.digests[1], *trail.logs[2:]]:
        del trail.objects[gone]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("damage", "words", "found"),
    [
        (_stopped, "No log files were delivered", ["chain-restarted"]),
        (_nothing, "No digests found", ["digest-missing", "log-unnamed"]),
        (_added, "2/2 digest files valid", ["log-unnamed"]),
        (_tail_cut, "1/1 digest files valid", ["digest-missing"]),
    ],
)
def test_what_awscli_lets_pass_is_a_gap_here(moto: str, s3: Any, damage: Any, words: str, found: list[str]) -> None:
    """Its exit code is 0 though events are missing or were added."""
    trail = new_trail()
    trail.deliver(2)
    damage(trail)
    hours = 2
    if damage is _stopped:
        trail.deliver(1)
        hours = 5
    deliver_to_s3(trail, s3)
    with cloudtrail_front(trail) as front:
        code, said = validated(moto, front, hours)
        covered = coverages(opened(moto, front, trail), trail, hours)
    assert (code, words in said) == (0, True), said
    assert State.GAP in {one.state for one in covered}
    assert findings_of(covered) == found


@pytest.mark.slow
def test_two_digests_deleted_in_a_row_are_one_to_awscli_and_two_here(moto: str, s3: Any) -> None:
    trail = new_trail()
    trail.deliver(4)
    for gone in [*trail.digests[1:3], *trail.logs[2:6]]:
        del trail.objects[gone]
    deliver_to_s3(trail, s3)
    with cloudtrail_front(trail) as front:
        _, said = validated(moto, front, 4)
        covered = coverages(opened(moto, front, trail), trail, 4)
    assert "1/3 digest files INVALID" in said
    assert [one.state for one in covered] == [State.COMPLETE, State.GAP, State.GAP, State.COMPLETE]
