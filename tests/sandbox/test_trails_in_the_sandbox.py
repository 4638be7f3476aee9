"""Real clients ask the emulated clouds through their fault proxies, and each cloud's trail tells of it."""

from __future__ import annotations

import gzip
import http.client
import io
import json
import os
import signal
import subprocess
import sys
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import pytest

from holdfast.engine.objectstore.errors import ObjectNotFound
from holdfast.engine.runtime import Runtime
from holdfast.sandbox import Sandbox
from holdfast.sandbox.azurite import ACCOUNT, KEY
from holdfast.sandbox.layout import GCP_PROJECT
from holdfast.sandbox.trails.names import AWS_ACCOUNT, AWS_TRAIL, trail_buckets
from proxied import wait_until

AWS, GCP, AZURE = "aws-eu-west-1", "gcp-europe-west1", "azure-westeurope"


class Trails:
    """What the trails of a sandbox say of keys that begin with a prefix of this test's own."""

    def __init__(self, sandbox: Sandbox, prefix: str) -> None:
        self.sandbox, self.prefix = sandbox, prefix
        self.environ = {**os.environ, **sandbox.environment()}
        self.runtime = Runtime.from_environment(environ=self.environ)

    def deliver(self) -> None:
        for one in self.sandbox.deliver_trails():
            assert one.error is None, one

    def events(self, site: str) -> list[dict[str, Any]]:
        """All events that name the prefix, in order of time."""
        settings = self.runtime.topology.site(site)
        found: list[dict[str, Any]] = []
        for bucket in trail_buckets(settings.cloud, settings.bucket):
            store = self.runtime.bucket(site, bucket)
            # In the order of delivery: CloudTrail's times are whole seconds.
            for info in sorted(store.list(), key=lambda info: info.modified_at):
                data = store.get(info.key)
                if info.key.endswith(".gz"):
                    found += json.loads(gzip.decompress(data)).get("Records", [])
                else:
                    found += [json.loads(line) for line in data.splitlines()]
        mine = [event for event in found if self.prefix in unquote(json.dumps(event, ensure_ascii=False))]
        return sorted(mine, key=_when)

    def connection(self, name: str) -> dict[str, Any]:
        return json.loads(self.environ[f"AIRFLOW_CONN_{name}"])


def _when(event: dict[str, Any]) -> str:
    return str(event.get("eventTime") or event.get("timestamp") or event.get("time"))


@pytest.fixture
def trails(sandbox: Sandbox, request: pytest.FixtureRequest) -> Trails:
    return Trails(sandbox, f"trail-{request.node.name.partition('[')[0]}/")


def test_boto3_is_told_of_operation_by_operation(trails: Trails) -> None:
    import boto3
    from botocore.config import Config
    from botocore.exceptions import ClientError

    found = trails.connection("HOLDFAST_AWS")
    client = boto3.client(
        "s3",
        endpoint_url=found["extra"]["endpoint_url"],
        aws_access_key_id="AKIATRAILTEST",
        aws_secret_access_key="c4n4ry-secret",
        region_name="eu-west-1",
        config=Config(s3={"addressing_style": "path"}, retries={"total_max_attempts": 1}),
    )
    bucket = "holdfast-eu-west-1"
    key = f"{trails.prefix}a b+ü.txt"
    client.put_object(Bucket=bucket, Key=key, Body=io.BytesIO(b"x" * 1000))  # streamed, in signed chunks
    client.get_object(Bucket=bucket, Key=key, Range="bytes=0-9")["Body"].read()
    client.head_object(Bucket=bucket, Key=key)
    client.copy_object(Bucket=bucket, Key=f"{key}2", CopySource={"Bucket": bucket, "Key": key})
    client.put_object_tagging(Bucket=bucket, Key=key, Tagging={"TagSet": [{"Key": "a", "Value": "b"}]})
    upload = client.create_multipart_upload(Bucket=bucket, Key=f"{key}3")["UploadId"]
    part = client.upload_part(Bucket=bucket, Key=f"{key}3", UploadId=upload, PartNumber=1, Body=b"part")
    client.complete_multipart_upload(
        Bucket=bucket,
        Key=f"{key}3",
        UploadId=upload,
        MultipartUpload={"Parts": [{"ETag": part["ETag"], "PartNumber": 1}]},
    )
    client.list_objects_v2(Bucket=bucket, Prefix=trails.prefix)
    client.delete_object(Bucket=bucket, Key=key)
    with pytest.raises(ClientError):
        client.get_object(Bucket=bucket, Key=key)
    with pytest.raises(ClientError):
        client.head_object(Bucket=bucket, Key=key)
    trails.deliver()
    events = trails.events(AWS)
    names = [
        *("PutObject", "GetObject", "HeadObject", "CopyObject", "PutObjectTagging", "CreateMultipartUpload"),
        *("UploadPart", "CompleteMultipartUpload", "ListObjects", "DeleteObject", "GetObject", "HeadObject"),
    ]
    assert [event["eventName"] for event in events] == names
    assert [event.get("errorCode") for event in events] == [None] * 10 + ["NoSuchKey", "NoSuchKey"]
    assert {event["userIdentity"]["accessKeyId"] for event in events} == {"AKIATRAILTEST"}
    assert {event["eventSource"] for event in events} == {"s3.amazonaws.com"}
    assert events[0]["requestParameters"]["key"] == key
    assert events[0]["resources"][0]["ARN"] == f"arn:aws:s3:::{bucket}/{key}"
    assert events[1]["additionalEventData"]["bytesTransferredOut"] == 10
    assert events[1]["requestParameters"]["range"] == "bytes=0-9"
    assert [event["readOnly"] for event in events[:3]] == [False, True, True]
    assert len({event["eventID"] for event in events}) == len(events)
    assert "c4n4ry" not in json.dumps(events)


def test_googles_client_is_told_of_operation_by_operation(trails: Trails) -> None:
    from google.api_core.client_options import ClientOptions
    from google.api_core.exceptions import NotFound
    from google.auth.credentials import AnonymousCredentials
    from google.cloud import storage

    url = trails.connection("HOLDFAST_GCP")["extra"]["endpoint_url"]
    client = storage.Client(GCP_PROJECT, AnonymousCredentials(), client_options=ClientOptions(api_endpoint=url))
    bucket = client.bucket("holdfast-europe-west1")
    blob = bucket.blob(f"{trails.prefix}a b/ü.txt")
    blob.metadata = {"password": "c4n4ry"}
    blob.upload_from_string(b"x" * 100)  # multipart: the name is in the body
    blob.download_as_bytes()
    large = bucket.blob(f"{trails.prefix}large", chunk_size=256 * 1024)
    large.upload_from_file(io.BytesIO(b"y" * 600_000), size=600_000)  # resumable, three parts
    bucket.copy_blob(blob, bucket, f"{trails.prefix}copy")
    with client.batch():
        large.delete()
        bucket.blob(f"{trails.prefix}copy").delete()
    with pytest.raises(NotFound):
        bucket.blob(f"{trails.prefix}none").download_as_bytes()
    trails.deliver()
    events = [event["protoPayload"] for event in trails.events(GCP)]
    methods = [event["methodName"].removeprefix("storage.objects.") for event in events]
    assert methods == ["create", "get", "create", "get", "create", "delete", "delete", "get"]
    names = [event["resourceName"].rpartition("/objects/")[2].removeprefix(trails.prefix) for event in events]
    assert names[:5] == ["a b/ü.txt", "a b/ü.txt", "large", "a b/ü.txt", "copy"]
    assert names[5:] == ["large", "copy", "none"]
    assert events[-1]["status"]["code"] == 5
    assert all(event["status"] == {} for event in events[:-1])
    assert "c4n4ry" not in json.dumps(events)


def test_azures_client_is_told_of_operation_by_operation(trails: Trails) -> None:
    from azure.core.exceptions import ResourceNotFoundError
    from azure.storage.blob import BlobServiceClient, generate_blob_sas

    url = trails.connection("HOLDFAST_AZURE")["host"]
    container = BlobServiceClient(url, credential={"account_name": ACCOUNT, "account_key": KEY}).get_container_client(
        "holdfast-westeurope"
    )
    name = f"{trails.prefix}a b/ü.txt"
    blob = container.get_blob_client(name)
    blob.upload_blob(b"x" * 100)
    blob.download_blob().readall()
    blob.set_blob_metadata({"a": "b"})
    blob.stage_block("YQ==", b"block")
    blob.commit_block_list(["YQ=="])
    lease = blob.acquire_lease()
    lease.release()
    list(container.list_blobs(name_starts_with=trails.prefix))
    token = generate_blob_sas(
        ACCOUNT, "holdfast-westeurope", name, account_key=KEY, permission="r", expiry=datetime.now(UTC) + timedelta(1)
    )
    type(blob).from_blob_url(f"{blob.url}?{token}").download_blob().readall()
    blob.delete_blob()
    with pytest.raises(ResourceNotFoundError):
        blob.get_blob_properties()
    trails.deliver()
    events = trails.events(AZURE)
    assert [event["operationName"] for event in events] == [
        *("PutBlob", "GetBlob", "SetBlobMetadata", "PutBlock", "PutBlockList", "AcquireBlobLease"),
        *("ReleaseBlobLease", "ListBlobs", "GetBlob", "DeleteBlob", "GetBlobProperties"),
    ]
    categories = {event["operationName"]: event["category"] for event in events}
    assert categories["PutBlob"] == "StorageWrite"
    assert categories["GetBlob"] == "StorageRead"
    assert categories["DeleteBlob"] == "StorageDelete"
    assert [event["identity"]["type"] for event in events[7:9]] == ["AccountKey", "SAS"]
    assert events[0]["properties"]["objectKey"] == f"/{ACCOUNT}/holdfast-westeurope/{name}"
    assert (events[-1]["statusCode"], events[-1]["statusText"]) == (404, "BlobNotFound")
    signature = token.partition("sig=")[2].partition("&")[0]
    assert signature not in json.dumps(events)


@pytest.mark.parametrize("site", [AWS, GCP, AZURE])
def test_the_engines_own_stores_are_told_of(trails: Trails, site: str) -> None:
    prefix = trails.prefix = f"{trails.prefix}{site}/"
    store = trails.runtime.store(site)
    store.put(f"{prefix}one", b"1")
    assert store.get(f"{prefix}one") == b"1"
    with pytest.raises(ObjectNotFound):
        store.get(f"{prefix}none")
    store.delete(f"{prefix}one")
    trails.deliver()
    told = [_told(event) for event in trails.events(site)]
    assert told == [("put", "one", True), ("get", "one", True), ("get", "none", False), ("delete", "one", True)]


_KINDS = {
    **dict.fromkeys(("PutObject", "storage.objects.create", "PutBlob"), "put"),
    **dict.fromkeys(("GetObject", "storage.objects.get", "GetBlob"), "get"),
    **dict.fromkeys(("DeleteObject", "storage.objects.delete", "DeleteBlob"), "delete"),
}


def _told(event: dict[str, Any]) -> tuple[str, str, bool]:
    """What was done, to which object, and whether it succeeded; in any cloud's form."""
    payload = event.get("protoPayload")
    if payload is not None:
        return _KINDS[payload["methodName"]], payload["resourceName"].rpartition("/")[2], payload["status"] == {}
    if "eventName" in event:
        key = event["requestParameters"]["key"].rpartition("/")[2]
        return _KINDS[event["eventName"]], key, "errorCode" not in event
    return (
        _KINDS[event["operationName"]],
        event["properties"]["objectKey"].rpartition("/")[2],
        event["statusCode"] < 400,
    )


def test_what_many_clients_do_at_once_is_told_of_once_each(trails: Trails) -> None:
    def work(site: str, number: int) -> None:
        store = trails.runtime.store(site)
        for step in range(5):
            store.put(f"{trails.prefix}{number}-{step}", b"x" * 2000)

    with ThreadPoolExecutor(6) as pool:
        for done in [pool.submit(work, site, number) for site in (AWS, GCP, AZURE) for number in range(4)]:
            done.result()
        trails.deliver()
    for site in (AWS, GCP, AZURE):
        told = sorted(_told(event) for event in trails.events(site))
        assert told == sorted(("put", f"{number}-{step}", True) for number in range(4) for step in range(5))


def test_a_cut_is_told_of_as_far_as_the_cloud_saw_it(trails: Trails) -> None:
    url = trails.connection("HOLDFAST_GCP")["extra"]["endpoint_url"]

    def ask(method: str, name: str, body: bytes | None = None, timeout: float = 30.0) -> int:
        connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=timeout)
        try:
            connection.request(method, f"/holdfast-europe-west1/{trails.prefix}{name}", body)
            response = connection.getresponse()
            response.read()
            return response.status
        finally:
            connection.close()

    assert ask("PUT", "large", b"x" * 3_000_000) == 200
    trails.sandbox.fault(GCP, "truncate")
    with pytest.raises(http.client.IncompleteRead):
        ask("GET", "large")
    trails.sandbox.fault(GCP, "http503")
    assert ask("GET", "refused") == 503
    trails.sandbox.fault(GCP, "half-open")
    with pytest.raises(TimeoutError):
        ask("PUT", "swallowed", b"x", timeout=2.0)
    trails.sandbox.clear(GCP, drop=True)
    trails.deliver()
    events = [(event["labels"]["end"], *_told(event)) for event in trails.events(GCP)]
    assert events == [
        ("whole", "put", "large", True),
        ("cut", "get", "large", True),
        ("refused", "get", "refused", False),
        # The cloud did it, though its client never heard.
        ("whole", "put", "swallowed", True),
    ]


def test_awscli_accepts_the_chain_of_digests(trails: Trails) -> None:
    store = trails.runtime.store(AWS)
    began = datetime.now(UTC) - timedelta(hours=1)
    for number in range(3):
        store.put(f"{trails.prefix}{number}", b"x")
        trails.deliver()
    found = _validate_logs(trails, began)
    assert found.returncode == 0, found.stderr
    assert "digest files valid" in found.stdout
    assert "log files valid" in found.stdout
    assert "INVALID" not in found.stdout + found.stderr


def _validate_logs(trails: Trails, began: datetime) -> subprocess.CompletedProcess[str]:
    """`aws cloudtrail validate-logs`, which asks S3 for digests and CloudTrail for the keys."""
    extra = trails.connection("HOLDFAST_AWS")["extra"]["service_config"]
    environ = {
        **{name: value for name, value in os.environ.items() if not name.startswith("AWS_")},
        "AWS_ENDPOINT_URL_S3": extra["s3"]["endpoint_url"],
        "AWS_ENDPOINT_URL_CLOUDTRAIL": extra["cloudtrail"]["endpoint_url"],
        "AWS_ACCESS_KEY_ID": "sandbox",
        "AWS_SECRET_ACCESS_KEY": "sandbox",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    }
    arn = f"arn:aws:cloudtrail:eu-west-1:{AWS_ACCOUNT}:trail/{AWS_TRAIL}"
    words = ["cloudtrail", "validate-logs", "--trail-arn", arn, "--region", "eu-west-1", "--verbose"]
    return subprocess.run(
        [sys.executable, "-m", "awscli", *words, "--start-time", f"{began:%Y-%m-%dT%H:%M:%SZ}"],
        env=environ,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


ONE_SITE = """
version: 1
sites:
  gcp-here: {cloud: gcp, region: europe-west1, jurisdiction: EU, connection: here, bucket: the-bucket}
groups: {}
"""


def test_what_a_killed_proxy_had_answered_is_delivered_once(tmp_path: Path) -> None:
    (tmp_path / "topology.yaml").write_text(ONE_SITE)
    with Sandbox(tmp_path / "state", topology=tmp_path / "topology.yaml", owner_pid=os.getpid()) as box:
        url = json.loads(box.environment()["AIRFLOW_CONN_HERE"])["extra"]["endpoint_url"].removeprefix("http://")
        answered = set()
        for number in range(60):
            if number in (20, 40):
                # The one that records, then the one that delivers.
                os.kill(box.status().part("proxy.gcp-here" if number == 20 else "trails").pid, signal.SIGKILL)
            connection = http.client.HTTPConnection(url, timeout=5)
            try:
                connection.request("PUT", f"/the-bucket/key-{number}", b"x")
                if connection.getresponse().status == 200:
                    answered.add(f"key-{number}")
            except OSError:
                wait_until(lambda: box.status().part("proxy.gcp-here").healthy)
            finally:
                connection.close()
            if number % 25 == 0:
                assert box.deliver_trails()[0].error is None
        box.deliver_trails()
        stored = [entry["protoPayload"]["resourceName"] for entry in _entries(url)]
    names = [name.rpartition("/")[2] for name in stored if "/objects/key-" in name]
    assert len(names) == len(set(names))
    assert set(names) >= answered
    assert len(answered) >= 50


def _entries(address: str) -> list[dict[str, Any]]:
    def get(path: str) -> bytes:
        with urllib.request.urlopen(f"http://{address}{path}", timeout=5) as answer:
            return bytes(answer.read())

    found = json.loads(get("/storage/v1/b/the-bucket-logs/o"))["items"]
    return [
        json.loads(line)
        for one in found
        for line in get(f"/storage/v1/b/the-bucket-logs/o/{quote(one['name'], safe='')}?alt=media").splitlines()
    ]
