"""Emulators of the feeds' services, one per test process, on loopback."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import pytest

from holdfast.engine.config import Cloud, Connection, Site


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
