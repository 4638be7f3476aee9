"""The three sources on the sandbox's emulated clouds, through the runtime and the real stores."""

from __future__ import annotations

import gzip
import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import urlopen

import pytest

from benchmarks.cloud_events import azure, gcp, kubernetes
from holdfast.clock import FakeClock, SystemClock
from holdfast.engine.audit.interface import Interval, SourceUnreadable, State
from holdfast.engine.audit.sources.azure_monitor import open_azure_monitor
from holdfast.engine.audit.sources.cloud_logging import open_cloud_logging
from holdfast.engine.audit.sources.kubernetes import open_kubernetes
from holdfast.engine.config import Connection, EnvironmentConnections, load_topology
from holdfast.engine.config.audit import AzureMonitorSource, CloudLoggingSource, KubernetesSource
from holdfast.engine.runtime import Runtime
from holdfast.sandbox import Sandbox
from holdfast.sandbox.ports import free_port

TOPOLOGY = Path(__file__).resolve().parents[4] / "include" / "holdfast.yaml"
AWS, GCP, AZURE = "aws-eu-west-1", "gcp-europe-west1", "azure-westeurope"
LOG = "cloudaudit.googleapis.com/activity"


class Changed:
    """The sandbox's connections, one of them changed."""

    def __init__(self, inner: EnvironmentConnections, conn_id: str, **changes: Any) -> None:
        self.inner, self.conn_id, self.changes = inner, conn_id, changes

    def get(self, conn_id: str) -> Connection:
        found = self.inner.get(conn_id)
        return found.model_copy(update=self.changes) if conn_id == self.conn_id else found


def runtime(sandbox: Sandbox, conn_id: str = "", **changes: Any) -> Runtime:
    environ = sandbox.environment()
    connections = Changed(EnvironmentConnections(environ), conn_id, **changes)
    return Runtime(load_topology(TOPOLOGY, environ), connections, clock=FakeClock(datetime.now(UTC)), environ=environ)


@pytest.fixture
def hour() -> Interval:
    """A day ago, so that it is closed."""
    start = (datetime.now(UTC) - timedelta(days=1)).replace(minute=0, second=0, microsecond=0)
    return Interval(start, start + timedelta(hours=1))


@pytest.fixture
def prefix() -> str:
    return f"audit/{uuid.uuid4().hex}"


def bucket(site: str, of: Runtime) -> str:
    return of.topology.site(site).bucket


def test_cloud_logging_on_the_emulated_storage_of_google(sandbox: Sandbox, hour: Interval, prefix: str) -> None:
    rooms = runtime(sandbox)
    folder = f"{prefix}/{LOG}/{hour.start:%Y/%m/%d/%H}:00:00_{hour.start:%H}:59:59_"
    rooms.store(GCP).put(f"{folder}S0.json", b"\n".join(gcp(50)) + b"\n")
    rooms.store(GCP).put(f"{folder}A0:1764410000.json", b"\n".join(gcp(5, seed=2)) + b"\n")
    settings = CloudLoggingSource(kind="cloud-logging", site=GCP, bucket=bucket(GCP, rooms), prefix=prefix, logs=(LOG,))
    source = open_cloud_logging(rooms, "gcp-audit", settings)
    batches = list(source.read(hour))
    assert sum(len(batch.raw) for batch in batches) == 55
    assert source.completeness(hour).state is State.COMPLETE
    assert all(it.version for batch in batches for it in batch.objects)


def test_kubernetes_on_the_emulated_s3(sandbox: Sandbox, hour: Interval, prefix: str) -> None:
    rooms = runtime(sandbox)
    for shift, number in ((-1, 3), (0, 4), (1, 5)):
        when = hour.start + timedelta(hours=shift)
        data = gzip.compress(b"\n".join(kubernetes(20, seed=number)))
        rooms.store(AWS).put(f"{prefix}/{when:%Y/%m/%d/%H}/{number}.gz", data)
    settings = KubernetesSource(
        kind="kubernetes", site=AWS, bucket=bucket(AWS, rooms), prefix=prefix, cluster="prod", sequence="{index}.gz"
    )
    source = open_kubernetes(rooms, "k8s", settings)
    assert [len(batch.raw) for batch in source.read(hour)] == [20]
    coverage = source.completeness(hour)
    assert (coverage.state, coverage.expected) == (State.COMPLETE, 1)


def test_a_cloud_that_only_answers_503_is_unknown_and_not_empty(sandbox: Sandbox, hour: Interval, prefix: str) -> None:
    rooms = runtime(sandbox)
    settings = KubernetesSource(kind="kubernetes", site=AWS, bucket=bucket(AWS, rooms), prefix=prefix, cluster="prod")
    source = open_kubernetes(rooms, "k8s", settings)
    list(source.read(hour))
    sandbox.fault(AWS, "http503")
    with pytest.raises(SourceUnreadable) as caught:
        list(source.read(hour))
    assert caught.value.code in ("store-unavailable", "throttled")
    assert source.completeness(hour).state is State.UNKNOWN


def test_azure_monitors_append_blobs_on_azurite(sandbox: Sandbox, hour: Interval) -> None:
    from azure.storage.blob import BlobServiceClient

    rooms = runtime(sandbox)
    connection = rooms.connections.get(rooms.topology.site(AZURE).connection)
    service = BlobServiceClient(
        str(connection.host), credential={"account_name": connection.login, "account_key": connection.password}
    )
    category = f"insights-logs-{uuid.uuid4().hex[:8]}"
    settings = AzureMonitorSource(
        kind="azure-monitor", site=AZURE, categories=(category,), resource_id="/SUBSCRIPTIONS/0F4D"
    )
    source = open_azure_monitor(rooms, "azure-activity", settings)
    with pytest.raises(SourceUnreadable) as caught:
        list(source.read(hour))
    assert caught.value.code == "bucket-missing"

    service.create_container(category)
    list(source.read(hour))
    assert [finding.code for finding in source.completeness(hour).findings] == ["hour-empty"]

    blob = service.get_blob_client(
        category, f"resourceId=/SUBSCRIPTIONS/0F4D/{hour.start:y=%Y/m=%m/d=%d/h=%H/m=00}/PT1H.json"
    )
    blob.create_append_blob()
    first, second, third = azure(3)
    blob.append_block(first + b"\r\n")
    blob.append_block(second[:50])
    rooms.clock.advance(-86400 + 1800)  # type: ignore[attr-defined] # back into the hour that is held open
    (batch,) = source.read(hour)
    assert batch.raw.to_pylist() == [first]
    assert source.completeness(hour).state is State.LATE

    blob.append_block(second[50:] + b"\r\n" + third + b"\r\n")
    rooms.clock.advance(86400)  # type: ignore[attr-defined]
    (batch,) = source.read(hour)
    assert batch.raw.to_pylist() == [first, second, third]
    assert source.completeness(hour).state is State.COMPLETE
    service.delete_container(category)


def test_a_wrong_key_of_azure_is_unknown_and_not_empty(sandbox: Sandbox, hour: Interval) -> None:
    import base64

    rooms = runtime(sandbox, "holdfast_azure", password=base64.b64encode(b"another key" * 6).decode())
    settings = AzureMonitorSource(
        kind="azure-monitor", site=AZURE, bucket=bucket(AZURE, rooms), resource_id="/SUBSCRIPTIONS/0F4D"
    )
    with pytest.raises(SourceUnreadable) as caught:
        list(open_azure_monitor(rooms, "azure-activity", settings).read(hour))
    assert caught.value.code == "permission-refused"


@pytest.fixture(scope="module")
def strict_gcs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The project's GCS server, letting in one token that nobody has."""
    port, folder = free_port(), tmp_path_factory.mktemp("gcs")
    command = [sys.executable, "-m", "holdfast.sandbox.gcs", "--port", str(port), "--data", str(folder)]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [*command, "--require-token", uuid.uuid4().hex], stdout=log, stderr=log, env=dict(os.environ)
        )
    url, clock = f"http://127.0.0.1:{port}", SystemClock()
    deadline = clock.monotonic() + 60
    try:
        while True:
            try:
                urlopen(url, timeout=1).close()
                break
            except HTTPError:
                break
            except (URLError, OSError):
                if process.poll() is not None or clock.monotonic() > deadline:
                    pytest.fail(f"the server did not come up; see {folder / 'log'}")
                clock.sleep(0.05)
        yield url
    finally:
        process.terminate()
        process.wait(10)


def test_a_token_of_google_that_has_expired_is_unknown_and_not_empty(
    sandbox: Sandbox, strict_gcs: str, hour: Interval
) -> None:
    rooms = runtime(sandbox, "holdfast_gcp", extra={"endpoint_url": strict_gcs, "token": "ya29.s3cr3t"})
    settings = CloudLoggingSource(kind="cloud-logging", site=GCP, bucket="sink", logs=(LOG,))
    source = open_cloud_logging(rooms, "gcp-audit", settings)
    with pytest.raises(SourceUnreadable) as caught:
        list(source.read(hour))
    assert caught.value.code == "permission-refused"
    assert "s3cr3t" not in str(caught.value)
    assert source.completeness(hour).state is State.UNKNOWN
