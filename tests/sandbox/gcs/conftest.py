"""One storage server for the session, in its own process."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from sandbox.gcs.web import HTTP


@dataclass
class Server:
    """A running server; `start` and `kill` keep port and data."""

    port: int
    data: Path
    options: tuple[str, ...] = ()
    launcher: tuple[str, ...] = ("-m", "holdfast.sandbox.gcs")
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> Server:
        command = [sys.executable, *self.launcher, "--port", str(self.port), "--data", str(self.data), *self.options]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            assert self.process.poll() is None, f"the server ended with {self.process.returncode}"
            try:
                if HTTP.get(f"{self.url}/_holdfast/ready", timeout=1).status_code == 200:
                    return self
            except httpx.TransportError:
                time.sleep(0.02)
        raise AssertionError("the server was not ready within 30 s")

    def kill(self) -> None:
        """As a crash: SIGKILL."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(timeout=10)

    def stop(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                self.kill()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    launcher = (str(Path(__file__).with_name("recording_server.py")),)
    running = Server(free_port(), tmp_path_factory.mktemp("gcs"), launcher=launcher).start()
    yield running
    running.stop()


@pytest.fixture(autouse=True)
def traffic_is_as_google_describes_it(request: pytest.FixtureRequest) -> Iterator[None]:
    """After every test: each request accepted and each response sent is one the discovery document allows."""
    yield
    if "server" in request.fixturenames:
        recorder = f"{request.getfixturevalue('server').url}/_recorder"
        problems = HTTP.get(recorder).json()["problems"]
        HTTP.delete(recorder)
        assert problems == []


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[Server]:
    """A server for one test, to be killed and started again."""
    running = Server(free_port(), tmp_path / "data").start()
    yield running
    running.stop()


@pytest.fixture
def bucket(server: Server) -> str:
    """A fresh bucket on the session's server."""
    name = f"b-{os.urandom(6).hex()}"
    HTTP.post(f"{server.url}/storage/v1/b", params={"project": "p"}, json={"name": name}).raise_for_status()
    return name
