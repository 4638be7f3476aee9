"""``python -m holdfast.sandbox.gcs --host 127.0.0.1 --port PORT --data DIR``."""

from __future__ import annotations

import argparse
import socket
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import uvicorn
from starlette.types import ASGIApp

from holdfast.sandbox.gcs.app import make_app
from holdfast.sandbox.gcs.storage import FolderInUseError, Storage


class _AnnouncingServer(uvicorn.Server):
    """Says so once it listens."""

    announcement = ""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            sys.stdout.write(self.announcement + "\n")
            sys.stdout.flush()


def main(arguments: Sequence[str] | None = None, wrap: Callable[[ASGIApp], ASGIApp] = lambda app: app) -> int:
    """Serve until told to stop.

    Args:
        arguments: of the command line.
        wrap: put around the application, for observing what it is asked and what it answers.
    """
    parser = argparse.ArgumentParser("holdfast.sandbox.gcs", description="A Google Cloud Storage server on loopback.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--data", type=Path, required=True, help="folder everything is kept in")
    parser.add_argument("--project", help="project of requests that name none (Google insists on one)")
    parser.add_argument("--require-token", metavar="TOKEN", help="let in this bearer token only")
    parser.add_argument(
        "--no-sync",
        action="store_true",
        help="do not sync to disk: acknowledged writes survive the death of the process, not that of the machine",
    )
    options = parser.parse_args(arguments)
    try:
        storage = Storage(options.data, sync=not options.no_sync)
    except FolderInUseError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    app = wrap(make_app(storage, default_project=options.project, token=options.require_token))
    config = uvicorn.Config(
        app,
        host=options.host,
        port=options.port,
        log_level="warning",
        access_log=False,
        timeout_graceful_shutdown=5,
        # Longer than clients keep idle connections (90 s in Rust's reqwest), so that none is closed under a request.
        timeout_keep_alive=120,
    )
    server = _AnnouncingServer(config)
    server.announcement = f"storage server on http://{options.host}:{options.port}, data in {options.data}"
    server.run()
    return 0 if server.started else 1


if __name__ == "__main__":
    sys.exit(main())
