"""Emulators of the feeds' services, one per test process, on loopback."""

from __future__ import annotations

import subprocess
import time
import uuid
from collections.abc import Iterator

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


@pytest.fixture(scope="session")
def azurite_queues(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Azurite's queue service: the URL of its account."""
    port, log = free_port(), tmp_path_factory.mktemp("azurite") / "log"
    command = [find_node(), str(find_azurite().parents[1] / "queue" / "main.js"), "--queuePort", str(port)]
    command += ["--queueHost", HOST, "--inMemoryPersistence", "--disableTelemetry", "--skipApiVersionCheck"]
    with log.open("wb") as output:
        process = subprocess.Popen([*command, "--silent"], stdout=output, stderr=output)
    try:
        deadline = time.monotonic() + 60
        while is_free(port):
            if process.poll() is not None or time.monotonic() > deadline:
                pytest.fail(f"Azurite did not come up; see {log}")
            time.sleep(0.05)
        yield f"http://{HOST}:{port}/{ACCOUNT}"
    finally:
        process.kill()  # it may ignore a SIGTERM
        process.wait(10)


@pytest.fixture
def azure_site() -> Site:
    return Site(
        cloud=Cloud.AZURE, region="westeurope", jurisdiction="EU", connection="azure", bucket="container", prefix="site"
    )


@pytest.fixture
def azure(azurite_queues: str) -> Connection:
    return Connection(
        conn_id="azure", conn_type="wasb", login=ACCOUNT, password=KEY, extra={"queue_endpoint": azurite_queues}
    )
