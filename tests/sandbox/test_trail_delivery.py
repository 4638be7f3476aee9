"""What was recorded is delivered once, whoever is killed when, and CloudTrail's digests form one signed chain."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
from collections import Counter
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.clock import FakeClock
from holdfast.sandbox.errors import PartFailed
from holdfast.sandbox.files import write_text
from holdfast.sandbox.layout import SandboxSite
from holdfast.sandbox.trails import delivery
from holdfast.sandbox.trails.azure_monitor import AzureMonitor
from holdfast.sandbox.trails.cloud_logging import CloudLogging
from holdfast.sandbox.trails.cloudtrail import CloudTrail
from holdfast.sandbox.trails.exchanges import Exchange
from holdfast.sandbox.trails.names import public_keys_file, trails_folder
from holdfast.sandbox.trails.recording import Recorder, recorded_folder
from holdfast.sandbox.trails.signing import KEY_FILE, load_or_make_key

SITES = {
    "aws": SandboxSite("a", "aws", "eu-west-1", "bucket", "c"),
    "gcp": SandboxSite("g", "gcp", "europe-west1", "bucket", "c"),
    "azure": SandboxSite("z", "azure", "westeurope", "bucket", "c"),
}
START = datetime(2026, 11, 29, 21, 58, tzinfo=UTC)


@cache
def pem() -> str:
    """One key for all tests: making one takes longer than they do."""
    with TemporaryDirectory() as folder:
        load_or_make_key(Path(folder))
        return (trails_folder(Path(folder)) / KEY_FILE).read_text()


class _Signs:
    """A key that takes no time."""

    fingerprint = "0" * 32

    def sign(self, text: bytes) -> bytes:
        return hashlib.sha256(text).digest()


KEY: Any = _Signs()


class Killed(BaseException):
    """The process ends here, as by SIGKILL."""


class Clouds:
    """The stores in memory; ``dies_at`` kills before or after that many writes."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.metadata: dict[str, Mapping[str, str]] = {}
        self.writes = 0
        self.dies_at: float | None = None
        self.refuses = False
        self.on_write: Callable[[], object] = lambda: None

    def _write(self, key: str, data: bytes) -> None:
        if self.refuses:
            raise PartFailed("the trail could not be written", found="refused")
        if self.dies_at == self.writes:
            raise Killed
        self.objects[key] = data
        self.writes += 1
        self.on_write()
        if self.dies_at == self.writes - 0.5:
            raise Killed

    def put_s3(self, _region: str, bucket: str, key: str, data: bytes, _type: str, metadata: Mapping[str, str]) -> None:
        self.metadata[f"{bucket}/{key}"] = metadata
        self._write(f"{bucket}/{key}", data)

    def put_gcs(self, bucket: str, name: str, data: bytes) -> None:
        assert f"{bucket}/{name}" not in self.objects or self.objects[f"{bucket}/{name}"] == data
        self._write(f"{bucket}/{name}", data)

    def azure_length(self, container: str, blob: str) -> int | None:
        found = self.objects.get(f"{container}/{blob}")
        return None if found is None else len(found)

    def azure_append(self, container: str, blob: str, data: bytes, at: int) -> None:
        key = f"{container}/{blob}"
        assert len(self.objects.get(key, b"")) == at
        half = len(data) // 2  # a block that is appended, and the next that is not
        for block in (data[:half], data[half:]):
            self._write(key, self.objects.get(key, b"") + block)


class Box:
    """A state folder with what a proxy recorded, and somebody who delivers it."""

    def __init__(self, folder: Path, cloud: str, monkeypatch: pytest.MonkeyPatch) -> None:
        self.state, self.site, self.clouds, self.clock = folder, SITES[cloud], Clouds(), FakeClock(START)
        monkeypatch.setattr(delivery, "Emulator", lambda _port: self.clouds)
        self.recorder = Recorder(recorded_folder(folder, self.site.name), "store")
        self.recorded = 0
        if cloud == "aws":
            write_text(trails_folder(folder) / KEY_FILE, pem())

    def record(self, count: int = 1, **more: Any) -> None:
        for _ in range(count):
            prefix = "/devstoreaccount1" if self.site.cloud == "azure" else ""
            self.recorder.record(
                {
                    "at_ns": int(self.clock.now().timestamp() * 1e9),
                    "took_us": 5,
                    "end": "whole",
                    "method": ("PUT", "GET", "DELETE")[self.recorded % 3],
                    "target": f"{prefix}/bucket/key-{self.recorded}",
                    "status": 200,
                    "peer": "127.0.0.1:1",
                    "sent_bytes": 1,
                    "received_bytes": 2,
                    "caller": {"kind": "signed", "id": "AKIA1", "service": "s3"},
                    "headers": {},
                    "answer": {},
                    **more,
                }
            )
            self.recorded += 1

    def deliver(self, *, closing: bool = True) -> delivery.Delivered:
        deliverer = delivery.Deliverer(self.state, [self.site], {self.site.name: 1}, clock=self.clock)
        (found,) = deliverer.deliver(closing=closing)
        return found

    def keys(self) -> Counter[str]:
        """Which objects' events the trail holds, and how often."""
        return Counter(name.rpartition("key-")[2] for name in (_about(event) for event in self.events()))

    def events(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        for key, data in sorted(self.clouds.objects.items()):
            if key.endswith(".gz"):
                found += [] if "Digest" in key else json.loads(gzip.decompress(data))["Records"]
            else:
                assert data.endswith(b"\n")
                found += [json.loads(line) for line in data.splitlines()]
        return found


def _about(event: dict[str, Any]) -> str:
    if "eventName" in event:
        return str(event["requestParameters"]["key"])
    return str(event["protoPayload"]["resourceName"] if "protoPayload" in event else event["properties"]["objectKey"])


@pytest.fixture(params=list(SITES))
def box(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Box:
    return Box(tmp_path, request.param, monkeypatch)


@pytest.fixture
def aws(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Box:
    return Box(tmp_path, "aws", monkeypatch)


def test_each_record_is_delivered_once_wherever_the_deliverer_is_killed(box: Box) -> None:
    died = 0
    for at in range(25):
        box.record(4)
        box.clock.advance(1200)  # some deliveries lie in the next hour
        box.clouds.dies_at = box.clouds.writes + at % 5 / 2
        try:
            box.deliver()
        except Killed:
            died += 1
        box.clouds.dies_at = None
        if at % 3:
            assert box.deliver().error is None
        if at % 3 == 1:
            assert box.keys() == {str(number): 1 for number in range(box.recorded)}
    box.deliver()
    assert died > 8
    assert box.keys() == {str(number): 1 for number in range(box.recorded)}


def test_a_delivery_ends_though_more_is_recorded_all_the_time(box: Box) -> None:
    box.clouds.on_write = box.record
    box.record()
    assert 0 < box.deliver().events < 5
    box.clouds.on_write = lambda: None
    box.deliver()
    assert box.keys() == {str(number): 1 for number in range(box.recorded)}


def test_a_cloud_that_cannot_be_written_loses_nothing(box: Box) -> None:
    box.record(3)
    box.clouds.refuses = True
    failed = box.deliver()
    assert failed.error is not None
    assert failed.events == 0
    box.record(2)
    box.clouds.refuses = False
    assert box.deliver().events == 5
    assert box.keys() == {str(number): 1 for number in range(5)}


def test_a_line_that_a_crash_cut_off_is_no_event_and_spoils_no_other(box: Box) -> None:
    box.record()
    box.recorder.close()
    (file,) = recorded_folder(box.state, box.site.name).iterdir()
    whole = file.read_bytes()
    file.write_bytes(whole + b'{"end": "who\n' + whole[:40])
    box.record()  # the next process writes a file of its own
    found = box.deliver()
    assert (found.events, found.torn) == (2, 2)
    assert box.deliver().events == 0
    assert not file.exists()


_WORDS = st.sampled_from(
    [
        "/",
        "b",
        "o",
        "upload",
        "storage",
        "v1",
        "%ff",
        "%2F",
        "ü",
        "batch",
        "rewriteTo",
        "dns",
        "managedZones",
        "changes",
    ]
)
_QUERY = st.sampled_from(
    ["", "?uploads", "?uploadId=1", "?comp=list", "?comp=lease", "?restype=container", "?upload_id&a=%ff"]
)


@given(
    st.lists(_WORDS, max_size=9),
    _QUERY,
    st.sampled_from(["GET", "HEAD", "PUT", "POST", "PATCH", "DELETE", "BREW", ""]),
    st.sampled_from([0, 100, 200, 308, 404, 503, 999]),
    st.sampled_from(["store", "dns", "trail"]),
    st.booleans(),
)
@settings(max_examples=150)
def test_no_request_whatever_stops_a_delivery(
    words: list[str], query: str, method: str, status: int, listener: str, copies: bool
) -> None:
    copied = {f"x-{name}-copy-source": "/b/%ff" for name in ("amz", "goog", "ms")} if copies else {}
    exchange = Exchange(
        "id",
        listener,
        START,
        1,
        "whole",
        method,
        "/" + "/".join(words) + query,
        status,
        "",
        0,
        0,
        {"kind": "other"},
        copied,
        {},
    )
    trails = {
        "trail": [CloudTrail(SITES["aws"], Clouds(), KEY)],
        "dns": [CloudLogging(SITES["gcp"], Clouds())],
        "store": [
            CloudTrail(SITES["aws"], Clouds(), KEY),
            CloudLogging(SITES["gcp"], Clouds()),
            AzureMonitor(SITES["azure"], Clouds()),
        ],
    }
    for trail in trails[listener]:
        state = {"began": "2026-11-29T21:00:00Z"}
        trail.deliver([exchange], trail.plan([exchange], state, START), state)


def test_streams_that_were_no_http_are_told_of_and_are_no_events(box: Box) -> None:
    box.recorder.not_understood("127.0.0.1:1")
    box.record()
    found = box.deliver()
    assert (found.events, found.unparsed) == (1, 1)


def test_every_event_says_that_it_is_the_sandboxs(box: Box) -> None:
    box.record(3)
    box.deliver()
    assert len(box.events()) == 3
    assert all("holdfastSandbox" in json.dumps(event) for event in box.events())


def test_records_that_were_delivered_are_removed_once_a_newer_file_is_there(box: Box) -> None:
    box.record()
    box.deliver()
    box.recorder.close()
    box.record()
    folder = recorded_folder(box.state, box.site.name)
    assert len(list(folder.iterdir())) == 2
    box.deliver()
    assert len(list(folder.iterdir())) == 1
    assert box.deliver().events == 0
    assert box.keys() == {"0": 1, "1": 1}


def test_a_store_that_lost_its_data_gets_the_rest_of_the_trail(box: Box) -> None:
    box.record(3)
    box.deliver()
    box.clouds.objects.clear()
    box.record(2)
    assert box.deliver().error is None
    assert box.keys() == {"3": 1, "4": 1}


# -- shards ----------------------------------------------------------------------------------------------------------


def test_shards_count_up_and_what_comes_after_an_hour_was_closed_is_a_late_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    box = Box(tmp_path, "gcp", monkeypatch)
    at = int(START.timestamp() * 1e9)
    for advance in (0, 60, 120, 60):  # 21:58, 21:59, 22:01, 22:02
        box.clock.advance(advance)
        box.record(at_ns=at)
        box.deliver()
    names = sorted(key.rpartition("/")[2] for key in box.clouds.objects)
    hour = "21:00:00_21:59:59"
    assert names == [f"{hour}_A0.json", f"{hour}_S0.json", f"{hour}_S1.json", f"{hour}_S2.json"]
    assert {key.rpartition("/")[0] for key in box.clouds.objects} == {
        "bucket-logs/cloudaudit.googleapis.com/data_access/2026/11/29"
    }


# -- digests ---------------------------------------------------------------------------------------------------------


def digests(box: Box) -> list[tuple[str, bytes, dict[str, Any], Mapping[str, str]]]:
    """Key, inflated bytes, document and metadata, in order of their end."""
    found = []
    for key, data in sorted(box.clouds.objects.items(), key=lambda item: item[0].rpartition("_")[2]):
        if "CloudTrail-Digest" in key:
            text = gzip.decompress(data)
            found.append((key, text, json.loads(text), box.clouds.metadata[key]))
    return found


def verify_chain(box: Box) -> int:
    """As AWS documents it, from ListPublicKeys' answer alone; how many log files the digests vouch for."""
    listed = json.loads(public_keys_file(box.state).read_text())["PublicKeyList"]
    keys = {one["Fingerprint"]: serialization.load_der_public_key(_spki(one["Value"])) for one in listed}
    previous: tuple[str, bytes, dict[str, Any], Mapping[str, str]] | None = None
    logs = 0
    for key, text, document, metadata in digests(box):
        assert f"{document['digestS3Bucket']}/{document['digestS3Object']}" == key
        before = "null" if previous is None else previous[3]["signature"]
        to_sign = f"{document['digestEndTime']}\n{key}\n{hashlib.sha256(text).hexdigest()}\n{before}"
        signature = bytes.fromhex(metadata["signature"])
        keys[document["digestPublicKeyFingerprint"]].verify(
            signature, to_sign.encode(), padding.PKCS1v15(), hashes.SHA256()
        )
        assert metadata["signature-algorithm"] == document["digestSignatureAlgorithm"] == "SHA256withRSA"
        assert document["digestStartTime"] < document["digestEndTime"]
        if previous is not None:
            assert document["digestStartTime"] == previous[2]["digestEndTime"]
            assert document["previousDigestS3Object"] == previous[2]["digestS3Object"]
            assert document["previousDigestHashValue"] == hashlib.sha256(previous[1]).hexdigest()
            assert document["previousDigestSignature"] == previous[3]["signature"]
        for log in document["logFiles"]:
            inflated = gzip.decompress(box.clouds.objects[f"{log['s3Bucket']}/{log['s3Object']}"])
            assert hashlib.sha256(inflated).hexdigest() == log["hashValue"]
            logs += 1
        previous = (key, text, document, metadata)
    return logs


def _spki(value: str) -> bytes:
    """`cryptography` reads PKCS #1 too, only its name in PEM differs."""
    text = f"-----BEGIN RSA PUBLIC KEY-----\n{value}\n-----END RSA PUBLIC KEY-----\n"
    key = serialization.load_pem_public_key(text.encode())
    assert base64.b64decode(value)[:1] == b"\x30"
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def test_the_digests_form_one_signed_chain_over_every_log_file(aws: Box) -> None:
    for at in range(6):
        aws.record(at)
        aws.clouds.dies_at = aws.clouds.writes + at / 2
        try:
            aws.deliver()
        except Killed:
            aws.clouds.dies_at = None
            aws.deliver()
        aws.clouds.dies_at = None
    assert len(digests(aws)) >= 6
    logs = [key for key in aws.clouds.objects if "/CloudTrail/" in key]
    assert verify_chain(aws) == len(logs) == 5
    assert {key.partition("AWSLogs")[2].split("_")[0] for key in logs} == {
        "/123456789012/CloudTrail/eu-west-1/2026/11/29/123456789012"
    }


def test_a_log_files_name_lies_in_the_period_whose_digest_names_it(aws: Box) -> None:
    for seconds in (-30, 30, 30, 30, 1, 59):  # from 21:57:30 on, some at the very turn of a minute
        aws.clock.advance(seconds)
        aws.record()
        aws.deliver()
    for _, _, document, _ in digests(aws):
        (log,) = document["logFiles"]
        minute = datetime.strptime(log["s3Object"].split("_")[3], "%Y%m%dT%H%MZ").isoformat() + "Z"
        assert document["digestStartTime"][:16] + ":00Z" <= minute < document["digestEndTime"]


def test_a_changed_digest_or_log_file_breaks_the_chain(aws: Box) -> None:
    for _ in range(3):
        aws.record(2)
        aws.deliver()
    before = dict(aws.clouds.objects)
    for key, data in before.items():
        text = gzip.decompress(data)
        aws.clouds.objects = {**before, key: gzip.compress(text.replace(b"2026-11-29T21:5", b"2026-11-29T21:4"))}
        with pytest.raises((AssertionError, InvalidSignature)):
            verify_chain(aws)
        aws.clouds.objects = before
        verify_chain(aws)


def test_an_hour_without_events_has_its_digest_and_a_quiet_tick_none(aws: Box) -> None:
    aws.record()
    aws.deliver(closing=False)
    aws.clock.advance(600)
    aws.deliver(closing=False)
    assert len(digests(aws)) == 1
    aws.clock.advance(3 * 3600)
    aws.deliver(closing=False)
    assert [len(document["logFiles"]) for _, _, document, _ in digests(aws)] == [1, 0, 0, 0, 0]
    verify_chain(aws)
