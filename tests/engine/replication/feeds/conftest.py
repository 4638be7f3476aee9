"""Emulators of the feeds' services, one per test process, on loopback."""

from __future__ import annotations

import subprocess
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from holdfast.engine.config import Cloud, Connection, Site
from holdfast.sandbox.azurite import ACCOUNT, KEY, find_azurite, find_node
from holdfast.sandbox.ports import HOST, free_port, is_free


@pytest.fixture(scope="session")
def moto_url() -> Iterator[str]:
    """moto's server with S3 and SQS in this process."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", 0)
    server.start()
    host, port = server.get_host_and_port()
    try:
        yield f"http://{host}:{port}"
    finally:
        server.stop()


@pytest.fixture
def aws(moto_url: str) -> Connection:
    return Connection(
        conn_id="aws",
        conn_type="aws",
        login="key",
        password="secret",
        extra={"endpoint_url": moto_url, "region_name": "eu-west-1"},
    )


@pytest.fixture
def aws_site() -> Site:
    """A site with a bucket of its own, which the test makes."""
    return Site(
        cloud=Cloud.AWS,
        region="eu-west-1",
        jurisdiction="EU",
        connection="aws",
        bucket=f"b-{uuid.uuid4().hex}",
        prefix="site/prefix",
    )


@dataclass(frozen=True)
class Azurite:
    """URLs of the account at the blob and the queue service."""

    blobs: str
    queues: str


@pytest.fixture(scope="session")
def azurite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Azurite]:
    """Azurite with blobs and queues."""
    ports, log = {part: free_port() for part in ("blob", "queue", "table")}, tmp_path_factory.mktemp("azurite") / "log"
    command = [find_node(), str(find_azurite().parents[1] / "azurite.js")]
    for part, port in ports.items():
        command += [f"--{part}Host", HOST, f"--{part}Port", str(port)]
    command += ["--inMemoryPersistence", "--disableTelemetry", "--skipApiVersionCheck", "--silent"]
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output)
    try:
        deadline = time.monotonic() + 60
        while any(is_free(port) for port in ports.values()):
            if process.poll() is not None or time.monotonic() > deadline:
                pytest.fail(f"Azurite did not come up; see {log}")
            time.sleep(0.05)
        yield Azurite(*(f"http://{HOST}:{ports[part]}/{ACCOUNT}" for part in ("blob", "queue")))
    finally:
        process.kill()  # it may ignore a SIGTERM
        process.wait(10)


@pytest.fixture
def azure_site() -> Site:
    return Site(
        cloud=Cloud.AZURE, region="westeurope", jurisdiction="EU", connection="azure", bucket="container", prefix="site"
    )


@pytest.fixture
def azure(azurite: Azurite) -> Connection:
    return Connection(
        conn_id="azure",
        conn_type="wasb",
        login=ACCOUNT,
        password=KEY,
        host=azurite.blobs,
        extra={"queue_endpoint": azurite.queues},
    )
