"""The part of the sandbox that delivers its trails, every so often until it is told to stop.

    python -m holdfast.sandbox.trails STATE

It answers ``GET /trails`` with what it delivered last, so that the keeper sees that it lives.
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
from holdfast.sandbox.layout import Paths
from holdfast.sandbox.ports import HOST
from holdfast.sandbox.trails.delivery import deliverer_of

PERIOD_SECONDS = 30.0


class _Handler(BaseHTTPRequestHandler):
    server: _Server

    def do_GET(self) -> None:
        body = json.dumps({"delivered": self.server.delivered}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        pass


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, port: int) -> None:
        super().__init__((HOST, port), _Handler)
        self.delivered: list[dict[str, Any]] = []


def main() -> None:
    paths = Paths(Path(sys.argv[1]))
    saved = read_json(paths.sandbox)
    if not isinstance(saved, dict):
        sys.exit(f"{paths.sandbox}: expected a sandbox's settings as JSON")
    stopping = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopping.set())
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    server = _Server(saved["ports"]["trails"])
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
