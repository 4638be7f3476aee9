"""What the tests of the fault proxy share: a small HTTP server and a proxy in front of it."""

from __future__ import annotations

import http.client
import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

HOST = "127.0.0.1"


def body_of(size: int) -> bytes:
    """Bytes in which a flipped or missing one shows."""
    return bytes(index % 251 for index in range(size))


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Upstream

    def do_GET(self) -> None:
        _, what, size = self.path.split("/")
        body = body_of(int(size))
        self.send_response(200)
        if what == "chunked":
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            for start in range(0, len(body), 1000):
                piece = body[start : start + 1000]
                self.wfile.write(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
            self.wfile.write(b"0\r\n\r\n")
            return
        self.send_header("Content-Length", str(len(body)))
        self.send_header("X-Check", "header-untouched")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_HEAD = do_GET

    def do_PUT(self) -> None:
        self.server.received.append(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"ok")

    def log_message(self, *args: Any) -> None:
        pass


class Upstream(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256

    def __init__(self) -> None:
        super().__init__((HOST, 0), Handler)
        self.received: list[bytes] = []

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass  # connections are reset on purpose


@dataclass
class Proxy:
    """A running proxy process with its listeners' ports."""

    upstream: Upstream
    ports: dict[str, int]
    control: int
    config: Path
    process: subprocess.Popen[bytes] = field(init=False)

    @property
    def log(self) -> Path:
        return self.config.with_suffix(".log")

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "holdfast.sandbox.proxy", str(self.config)], stderr=log
            )
        wait_until(lambda: self.modes() is not None)

    def set(self, mode: str, **parameters: Any) -> None:
        status, answer = self.ask("PUT", {"mode": mode, **parameters})
        assert status == 200, answer

    def modes(self) -> dict[str, Any] | None:
        try:
            return self.ask("GET", None)[1]["listeners"]
        except OSError:
            return None

    def ask(self, method: str, body: Any) -> tuple[int, dict[str, Any]]:
        connection = http.client.HTTPConnection(HOST, self.control, timeout=5)
        try:
            connection.request(method, "/mode", body=None if body is None else json.dumps(body))
            response = connection.getresponse()
            return response.status, json.loads(response.read())
        finally:
            connection.close()

    def connect(self, listener: str = "store", timeout: float = 5.0) -> http.client.HTTPConnection:
        return http.client.HTTPConnection(HOST, self.ports[listener], timeout=timeout)

    def get(self, path: str = "/bytes/10000", listener: str = "store", timeout: float = 5.0) -> bytes:
        connection = self.connect(listener, timeout)
        try:
            connection.request("GET", path)
            return connection.getresponse().read()
        finally:
            connection.close()


def wait_until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come true in time"
        time.sleep(0.01)
