"""A sink's settings over HTTP: what comes, and what every refusal becomes."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from holdfast.engine.audit.interface import SourceUnreadable
from holdfast.engine.audit.sources.cloud_logging_sink import sink_reader
from holdfast.engine.config import Connection

SINK = "projects/ml-prod-eu/sinks/audit"
TOKEN = "ya29.s3cr3t"


class Service:
    """The Logging API as a test tells it to answer."""

    def __init__(self) -> None:
        self.status, self.body = 200, b'{"name":"audit"}'
        self.headers: dict[str, str] = {}
        self.asked: list[tuple[str, str | None]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.asked.append((self.path, self.headers.get("Authorization")))
                self.send_response(outer.status)
                for name, value in outer.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(outer.body)))
                self.end_headers()
                self.wfile.write(outer.body)

            def log_message(self, *_: object) -> None: ...

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def read(self, **extra: Any) -> bytes:
        connection = Connection(conn_id="gcp", conn_type="google_cloud_platform", extra={"token": TOKEN, **extra})
        return sink_reader(SINK, connection, endpoint=self.url, timeout_seconds=5)()


@pytest.fixture
def service() -> Iterator[Service]:
    made = Service()
    thread = threading.Thread(target=made.server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield made
    finally:
        made.server.shutdown()
        thread.join()
        made.server.server_close()


def test_the_settings_come_as_the_service_gave_them(service: Service) -> None:
    assert service.read() == service.body
    assert service.asked == [(f"/v2/{SINK}", f"Bearer {TOKEN}")]


@pytest.mark.parametrize(
    ("status", "body", "code"),
    [
        (401, b"{}", "permission-refused"),
        (403, b"{}", "permission-refused"),
        (404, b"{}", "unreadable"),
        (200, b"<html>", "unreadable"),
        (200, b"[]", "unreadable"),
        (200, json.dumps({"filter": "x" * (1024 * 1024)}).encode(), "unreadable"),
    ],
)
def test_what_is_no_answer_is_unreadable(service: Service, status: int, body: bytes, code: str) -> None:
    service.status, service.body = status, body
    with pytest.raises(SourceUnreadable) as caught:
        service.read()
    assert caught.value.code == code
    assert TOKEN not in str(caught.value)


def test_a_service_that_stays_throttled_is_asked_three_times(service: Service) -> None:
    service.status, service.headers = 429, {"Retry-After": "0"}
    with pytest.raises(SourceUnreadable) as caught:
        service.read()
    assert caught.value.code == "throttled"
    assert len(service.asked) == 3


def test_a_redirect_is_not_followed(service: Service) -> None:
    service.status, service.headers = 302, {"Location": f"{service.url}/elsewhere"}
    with pytest.raises(SourceUnreadable):
        service.read()
    assert len(service.asked) == 1


def test_a_service_that_is_gone_is_unavailable(service: Service) -> None:
    connection = Connection(conn_id="gcp", conn_type="google_cloud_platform", extra={"is_anonymous": True})
    with pytest.raises(SourceUnreadable) as caught:
        sink_reader(SINK, connection, endpoint="http://127.0.0.1:9", timeout_seconds=1)()
    assert caught.value.code == "store-unavailable"


def test_a_key_that_cannot_be_read_is_a_refusal(service: Service) -> None:
    with pytest.raises(SourceUnreadable) as caught:
        service.read(token="", keyfile_dict='{"private_key": "s3cr3t"}')
    assert caught.value.code == "permission-refused"
    assert "s3cr3t" not in str(caught.value)
