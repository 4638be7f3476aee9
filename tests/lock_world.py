"""Buckets that keep locks, for tests: moto, the project's own GCS server, and a Blob service of the tests."""

from __future__ import annotations

import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import blob_service
from holdfast.engine.config import Cloud, Connection, Site
from holdfast.engine.objectstore import ObjectStore, open_store
from holdfast.engine.vault.locks import ObjectLocks, open_locks
from holdfast.sandbox.ports import free_port


@dataclass
class LockingBucket:
    """A bucket whose objects can be locked.

    Args:
        put: writes an object past Holdfast.
        hide: deletes one as somebody would who has the right to delete but not to lift locks; what the cloud says of
            it is the test's affair.
    """

    kind: str
    site: Site
    connection: Connection
    hides: bool
    client: Any = field(repr=False, default=None)

    @property
    def locks(self) -> ObjectLocks:
        return open_locks("site-a", self.site, self.connection, self.store)

    @property
    def store(self) -> ObjectStore:
        return open_store("site-a", self.site, self.connection, retry=None)

    def at(self, prefix: str) -> LockingBucket:
        """The same bucket under another prefix."""
        return LockingBucket(
            self.kind, self.site.model_copy(update={"prefix": prefix}), self.connection, self.hides, self.client
        )


def _site(cloud: Cloud, bucket: str) -> Site:
    return Site(
        cloud=cloud, region="eu-west-1", jurisdiction="EU", connection="c", bucket=bucket, prefix=uuid.uuid4().hex
    )


@contextmanager
def moto_server() -> Iterator[str]:
    """moto in this process; its URL."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    try:
        yield f"http://{host}:{port}"
    finally:
        server.stop()


def s3_bucket(url: str, *, lock: bool = True, default_days: int = 0) -> LockingBucket:
    """A new bucket with Object Lock, and with a default retention where days are given."""
    import boto3

    client = boto3.client(
        "s3", endpoint_url=url, aws_access_key_id="a", aws_secret_access_key="b", region_name="eu-west-1"
    )
    name = f"vault-{uuid.uuid4().hex}"
    region = {"LocationConstraint": "eu-west-1"}
    client.create_bucket(Bucket=name, ObjectLockEnabledForBucket=lock, CreateBucketConfiguration=region)
    if default_days:
        rule = {"DefaultRetention": {"Mode": "COMPLIANCE", "Days": default_days}}
        client.put_object_lock_configuration(
            Bucket=name, ObjectLockConfiguration={"ObjectLockEnabled": "Enabled", "Rule": rule}
        )
    extra = {"endpoint_url": url, "region_name": "eu-west-1", "object_lock": bool(default_days)}
    connection = Connection(conn_id="c", conn_type="aws", login="a", password="b", extra=extra)
    return LockingBucket("s3", _site(Cloud.AWS, name), connection, hides=True, client=client)


@contextmanager
def gcs_server(folder: Path) -> Iterator[str]:
    """The project's own server in a process of its own; its URL."""
    from urllib.error import URLError
    from urllib.request import urlopen

    port = free_port()
    command = [sys.executable, "-m", "holdfast.sandbox.gcs", "--port", str(port), "--data", str(folder), "--no-sync"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                urlopen(f"http://127.0.0.1:{port}/_holdfast/ready", timeout=1).close()
                break
            except (URLError, OSError):
                assert process.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.02)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(10)


def gcs_bucket(url: str, *, lock: bool = True) -> LockingBucket:
    """A new bucket with object retention, without versions."""
    import httpx

    name = f"vault-{uuid.uuid4().hex}"
    query = f"project=p&enableObjectRetention={str(lock).lower()}"
    httpx.post(f"{url}/storage/v1/b?{query}", json={"name": name}, trust_env=False).raise_for_status()
    extra = {"endpoint_url": url, "is_anonymous": True, "project": "p"}
    connection = Connection(conn_id="c", conn_type="google_cloud_platform", extra=extra)
    return LockingBucket("gcs", _site(Cloud.GCP, name), connection, hides=False)


def azure_container(url: str) -> LockingBucket:
    """The container of a `blob_service.BlobService`."""
    connection = Connection(
        conn_id="c", conn_type="wasb", login=blob_service.ACCOUNT, password=blob_service.KEY, host=url
    )
    return LockingBucket("azure", _site(Cloud.AZURE, blob_service.CONTAINER), connection, hides=True)


def put_past(bucket: LockingBucket, key: str, data: bytes) -> None:
    """Write an object; obstore does not speak to the Blob service of the tests, its own SDK does."""
    if bucket.kind == "azure":
        bucket.locks._client().upload_blob(f"{bucket.site.prefix}/{key}", data, overwrite=True)  # type: ignore[attr-defined]
    else:
        bucket.store.put(key, data)


def delete_past(bucket: LockingBucket, key: str) -> None:
    """Delete it as anybody would."""
    if bucket.kind == "azure":
        bucket.locks._client().delete_blob(f"{bucket.site.prefix}/{key}")  # type: ignore[attr-defined]
    else:
        bucket.store.delete(key)


def whole_second(moment: datetime) -> datetime:
    return moment.astimezone(UTC).replace(microsecond=0)
