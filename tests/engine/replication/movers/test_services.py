"""What each transfer service is asked and how its answers are read. No bytes move here: no emulator moves any.

DataSync is asked of moto, which takes the requests and counts through the states; the Storage Transfer Service of a
stand-in for its client with Google's own message types; AzCopy of a script in its place.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from holdfast.clock import FakeClock, SystemClock
from holdfast.engine.config import Cloud, Connection, Site
from holdfast.engine.replication.errors import Interrupted
from holdfast.engine.replication.movers import Hop, MoveFailed, await_end, open_mover
from holdfast.engine.replication.movers.azcopy import AzCopy
from holdfast.engine.replication.movers.datasync import DataSync
from holdfast.engine.replication.movers.storage_transfer import StorageTransfer
from holdfast.errors import ConfigError

EXTRAS = {
    Cloud.AWS: {"datasync_role_arn": "arn:aws:iam::123456789012:role/ds", "transfer_role_arn": "arn:role"},
    Cloud.GCP: {"project_id": "the-project"},
    Cloud.AZURE: {"sas_token": "?sv=1&sig=secret"},
    Cloud.LOCAL: {},
}


def hop(source: Cloud = Cloud.AWS, target: Cloud = Cloud.AWS, **extra: Any) -> Hop:
    def site(cloud: Cloud, bucket: str) -> Site:
        return Site(cloud=cloud, region="eu-west-1", jurisdiction="EU", connection="c", bucket=bucket, prefix="team")

    def connection(cloud: Cloud, name: str) -> Connection:
        return Connection(
            conn_id=name, conn_type=str(cloud), login="account", password="key", extra={**EXTRAS[cloud], **extra}
        )

    return Hop(
        "here",
        site(source, "from"),
        connection(source, "c-from"),
        "there",
        site(target, "to"),
        connection(target, "c-to"),
        "data/prices/",
        "data/prices/.versions/0123/",
    )


@pytest.mark.parametrize(
    ("engine", "source", "target", "why"),
    [
        ("datasync", Cloud.AWS, Cloud.GCP, "S3 buckets only"),
        ("storage-transfer", Cloud.AWS, Cloud.AZURE, "into Cloud Storage only"),
        ("storage-transfer", Cloud.LOCAL, Cloud.GCP, "does not read folders"),
        ("azcopy", Cloud.GCP, Cloud.AZURE, "S3 or Azure Blob into Azure Blob"),
        ("azcopy", Cloud.AWS, Cloud.AWS, "into Azure Blob"),
        ("teleport", Cloud.AWS, Cloud.AWS, "no engine"),
    ],
)
def test_a_pair_a_service_does_not_serve_is_told_why(engine: str, source: Cloud, target: Cloud, why: str) -> None:
    assert why in str(open_mover(engine, hop(source, target)))


def test_what_a_service_needs_in_its_connections_is_named() -> None:
    assert "datasync_role_arn" in str(open_mover("datasync", hop(datasync_role_arn="")))
    assert "project_id" in str(open_mover("storage-transfer", hop(Cloud.AWS, Cloud.GCP, project_id="")))
    assert "transfer_role_arn" in str(open_mover("storage-transfer", hop(Cloud.AWS, Cloud.GCP, transfer_role_arn="")))
    assert "sas_token" in str(open_mover("azcopy", hop(Cloud.AWS, Cloud.AZURE, sas_token="")))


@pytest.fixture
def datasync(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """moto's DataSync."""
    import boto3
    from moto import mock_aws

    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    with mock_aws():
        yield boto3.client("datasync", region_name="eu-west-1")


def test_datasync_is_asked_never_to_overwrite_or_delete_and_waited_for(datasync: Any) -> None:
    mover = DataSync(hop(), client=datasync)
    clock = FakeClock()
    handle = mover.begin(["a.bin", "b/c.bin"])
    assert await_end(mover, handle, clock=clock, deadline_seconds=100, poll_seconds=1).state == "done"
    assert clock.monotonic() >= 3  # moto counts through four states
    task = datasync.describe_task(TaskArn=handle.partition("/execution/")[0])
    assert (task["Options"]["OverwriteMode"], task["Options"]["PreserveDeletedFiles"]) == ("NEVER", "PRESERVE")
    places = {one["LocationUri"] for one in datasync.list_locations()["Locations"]}
    assert places == {"s3://from/team/data/prices/", "s3://to/team/data/prices/.versions/0123/"}


def test_datasync_that_takes_too_long_or_is_stopped_is_cancelled(datasync: Any) -> None:
    import threading

    mover, stop = DataSync(hop(), client=datasync), threading.Event()
    handle = mover.begin(["a.bin"])
    with pytest.raises(MoveFailed, match="in time"):
        await_end(mover, handle, clock=FakeClock(), deadline_seconds=0, poll_seconds=1)
    with pytest.raises(MoveFailed, match="failed"):
        await_end(mover, handle, clock=FakeClock(), deadline_seconds=9, poll_seconds=1)  # it was cancelled
    stop.set()
    with pytest.raises(Interrupted):
        await_end(mover, mover.begin(["a.bin"]), clock=FakeClock(), deadline_seconds=9, poll_seconds=1, stop=stop)


def test_datasync_that_refuses_is_a_configuration_error(datasync: Any) -> None:
    with pytest.raises(ConfigError, match="refuses"):
        DataSync(hop(), client=datasync).look("arn:aws:datasync:eu-west-1:123456789012:task/none/execution/exec-0")


class TransferClient:
    """Stands in for Google's client: checks requests against its message types, and ends after two looks."""

    def __init__(self, *, error: str | None = None) -> None:
        self.jobs: list[Any] = []
        self.looks = 0
        self.error = error
        self.cancelled: list[str] = []

    def create_transfer_job(self, request: Any, timeout: float) -> Any:
        from google.cloud import storage_transfer_v1

        self.jobs.append(storage_transfer_v1.CreateTransferJobRequest(request).transfer_job)
        return SimpleNamespace(name="transferJobs/1")

    def run_transfer_job(self, request: Any, timeout: float) -> Any:
        from google.cloud import storage_transfer_v1

        assert storage_transfer_v1.RunTransferJobRequest(request).job_name == "transferJobs/1"
        return SimpleNamespace(operation=SimpleNamespace(name="transferOperations/1"))

    def get_operation(self, request: Any, timeout: float) -> Any:
        from google.longrunning import operations_pb2
        from google.rpc import status_pb2

        self.looks += 1
        done = self.looks >= 2
        failed = {"error": status_pb2.Status(code=7, message=self.error)} if done and self.error else {}
        return operations_pb2.Operation(name=request["name"], done=done, **failed)

    def cancel_operation(self, request: Any, timeout: float) -> None:
        self.cancelled.append(request["name"])


@pytest.mark.parametrize("source", [Cloud.AWS, Cloud.AZURE, Cloud.GCP])
def test_storage_transfer_is_asked_in_googles_own_terms(source: Cloud) -> None:
    client = TransferClient()
    mover = StorageTransfer(hop(source, Cloud.GCP), client=client)
    handle = mover.begin(["a.bin"])
    assert await_end(mover, handle, clock=FakeClock(), deadline_seconds=9, poll_seconds=1).state == "done"
    spec = client.jobs[0].transfer_spec
    assert (spec.gcs_data_sink.bucket_name, spec.gcs_data_sink.path) == ("to", "team/data/prices/.versions/0123/")
    assert list(spec.object_conditions.include_prefixes) == ["a.bin"]
    assert spec.transfer_options.overwrite_objects_already_existing_in_sink is False
    place = {
        Cloud.AWS: spec.aws_s3_data_source,
        Cloud.AZURE: spec.azure_blob_storage_data_source,
        Cloud.GCP: spec.gcs_data_source,
    }[source]
    assert place.path == "team/data/prices/"


def test_storage_transfer_that_fails_says_why() -> None:
    mover = StorageTransfer(hop(Cloud.AWS, Cloud.GCP), client=TransferClient(error="no permission"))
    with pytest.raises(MoveFailed, match="no permission"):
        await_end(mover, mover.begin(["a"]), clock=FakeClock(), deadline_seconds=9, poll_seconds=1)


@pytest.fixture
def azcopy(tmp_path: Path) -> Path:
    """A script in AzCopy's place: writes down how it was called, and fails where it is told to."""
    script = tmp_path / "azcopy"
    script.write_text(
        f"#!{sys.executable}\n"
        "import os, sys\n"
        f"open({str(tmp_path / 'called')!r}, 'w').write('\\n'.join([*sys.argv[1:], os.environ['AWS_ACCESS_KEY_ID']]))\n"
        "print('Job failed: told to' if 'bad.bin' in ' '.join(sys.argv) else 'Completed')\n"
        "sys.exit('bad.bin' in ' '.join(sys.argv))\n"
    )
    script.chmod(0o755)
    return script


def test_azcopy_is_called_for_the_named_objects_and_its_failure_is_told(azcopy: Path) -> None:
    mover = AzCopy(hop(Cloud.AWS, Cloud.AZURE), find=lambda _name: str(azcopy))
    wait = {"clock": SystemClock(), "deadline_seconds": 30.0, "poll_seconds": 0.05}
    assert await_end(mover, mover.begin(["a.bin", "b.bin"]), **wait).state == "done"
    called = (azcopy.parent / "called").read_text().splitlines()
    assert called == [
        "copy",
        "https://s3.eu-west-1.amazonaws.com/from/team/data/prices/*",
        "https://account.blob.core.windows.net/to/team/data/prices/.versions/0123/?sv=1&sig=secret",
        "--recursive",
        "--overwrite=false",
        "--check-length=true",
        "--output-level=essential",
        "--include-path=a.bin;b.bin",
        "account",
    ]
    with pytest.raises(MoveFailed, match="told to"):
        await_end(mover, mover.begin(["bad.bin"]), **wait)


def test_azcopy_that_is_not_there_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(os.environ, "PATH", "")
    assert "not on the PATH" in str(open_mover("azcopy", hop(Cloud.AWS, Cloud.AZURE)))
