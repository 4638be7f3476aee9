"""The part of the sandbox that delivers its trails, every so often until it is told to stop.

    python -m holdfast.sandbox.trails STATE

It answers ``GET /trails`` with what it delivered last, so that the keeper sees that it lives, and is the CloudTrail API
of the emulated AWS.
"""

from __future__ import annotations

import json
import signal
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from holdfast.errors import HoldfastError
from holdfast.sandbox.files import read_json
from holdfast.sandbox.layout import Paths, read_world
from holdfast.sandbox.ports import HOST
from holdfast.sandbox.trails.cloudtrail_api import CloudTrailApi
from holdfast.sandbox.trails.delivery import deliverer_of

PERIOD_SECONDS = 30.0
_LARGEST = 64 * 1024


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 60
    server: _Server

    def do_GET(self) -> None:
        self._answer(200, {"delivered": self.server.delivered}, "application/json")

    def do_POST(self) -> None:
        length = self.headers.get("Content-Length", "0")
        body = self.rfile.read(min(int(length), _LARGEST) if length.isdigit() else 0)
        status, answer = self.server.api.answer(self.headers.get("X-Amz-Target", ""), body)
        self._answer(status, answer, "application/x-amz-json-1.1")

    def _answer(self, status: int, document: dict[str, Any], content_type: str) -> None:
        body = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        pass


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, port: int, api: CloudTrailApi) -> None:
        super().__init__((HOST, port), _Handler)
        self.api = api
        self.delivered: list[dict[str, Any]] = []


def main() -> None:
    paths = Paths(Path(sys.argv[1]))
    saved = read_json(paths.sandbox)
    if not isinstance(saved, dict):
        sys.exit(f"{paths.sandbox}: expected a sandbox's settings as JSON")
    stopping = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopping.set())
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    api = CloudTrailApi(paths.state, read_world(Path(saved["topology"])).sites)
    server = _Server(saved["ports"]["trails"], api)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    deliverer = deliverer_of(paths, saved)
    while not stopping.wait(PERIOD_SECONDS):
        try:
            server.delivered = [one.as_dict() for one in deliverer.deliver(closing=False)]
        except (HoldfastError, OSError) as error:
            sys.stderr.write(f"trails: {error}\n")
    server.shutdown()


if __name__ == "__main__":
    main()
