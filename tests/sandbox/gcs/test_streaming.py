"""Large content passes through and is not held; what breaks off leaves nothing."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sandbox.gcs.conftest import Server, free_port
from sandbox.gcs.web import HTTP

MIB = 1024 * 1024
SIZE = 96 * MIB
MOST_GROWTH = 48 * MIB


def content() -> Iterator[bytes]:
    for number in range(SIZE // MIB):
        yield bytes([number % 251]) * MIB


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    running = Server(free_port(), tmp_path_factory.mktemp("shared") / "data").start()
    HTTP.post(f"{running.url}/storage/v1/b", params={"project": "p"}, json={"name": "home"}).raise_for_status()
    yield running
    running.stop()


def forget_peak(pid: int) -> None:
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def peak_bytes(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no peak memory in /proc")


def by_xml(url: str) -> None:
    HTTP.put(f"{url}/home/k", content=content(), timeout=120).raise_for_status()


def by_media(url: str) -> None:
    params = {"uploadType": "media", "name": "k"}
    target = f"{url}/upload/storage/v1/b/home/o"
    HTTP.post(target, params=params, content=content(), timeout=120).raise_for_status()


def by_multipart(url: str) -> None:
    def related() -> Iterator[bytes]:
        yield b'--b\r\nContent-Type: application/json\r\n\r\n{"name":"k"}\r\n--b\r\n\r\n'
        yield from content()
        yield b"\r\n--b--"

    target = f"{url}/upload/storage/v1/b/home/o"
    headers = {"content-type": "multipart/related; boundary=b"}
    HTTP.post(
        target, params={"uploadType": "multipart"}, content=related(), headers=headers, timeout=120
    ).raise_for_status()


def by_resumable(url: str) -> None:
    params = {"uploadType": "resumable", "name": "k"}
    session = HTTP.post(f"{url}/upload/storage/v1/b/home/o", params=params).headers["location"]
    HTTP.put(session, content=content(), timeout=120).raise_for_status()


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("upload", [by_xml, by_media, by_multipart, by_resumable])
def test_memory_does_not_grow_with_the_object(shared: Any, upload: Callable[[str], None]) -> None:
    HTTP.put(f"{shared.url}/home/warm", content=b"1" * 3 * MIB).raise_for_status()
    forget_peak(shared.process.pid)
    before = peak_bytes(shared.process.pid)
    upload(shared.url)
    with HTTP.stream("GET", f"{shared.url}/home/k", timeout=120) as answer:
        received = 0
        for data in answer.iter_bytes():
            received += len(data)
    assert received == SIZE
    assert peak_bytes(shared.process.pid) - before < MOST_GROWTH


def test_a_client_that_goes_away_leaves_nothing(own_server: Any) -> None:
    HTTP.post(f"{own_server.url}/storage/v1/b", params={"project": "p"}, json={"name": "home"}).raise_for_status()
    with socket.create_connection(("127.0.0.1", own_server.port)) as upload:
        upload.sendall(f"PUT /home/k HTTP/1.1\r\nHost: x\r\nContent-Length: {9 * MIB}\r\n\r\n".encode() + b"1" * MIB)
        wait_for(lambda: files(own_server) == 1)
    wait_for(lambda: files(own_server) == 0)
    assert HTTP.get(f"{own_server.url}/home/k").status_code == 404


def test_a_reader_keeps_what_is_deleted_under_it(own_server: Any) -> None:
    HTTP.post(f"{own_server.url}/storage/v1/b", params={"project": "p"}, json={"name": "home"}).raise_for_status()
    for name in "ab":
        HTTP.put(f"{own_server.url}/home/{name}", content=name.encode() * 24 * MIB, timeout=60).raise_for_status()
    sources = {"sourceObjects": [{"name": "a"}, {"name": "b"}], "deleteSourceObjects": True}
    HTTP.post(f"{own_server.url}/storage/v1/b/home/o/k/compose", json=sources).raise_for_status()
    assert files(own_server) == 2
    with HTTP.stream("GET", f"{own_server.url}/home/k", timeout=60) as answer:
        pieces = answer.iter_bytes()
        received = next(pieces)
        # The second file is not open yet.
        HTTP.delete(f"{own_server.url}/home/k").raise_for_status()
        received += b"".join(pieces)
    assert received == b"a" * 24 * MIB + b"b" * 24 * MIB
    wait_for(lambda: files(own_server) == 0)


def test_a_second_server_on_the_same_folder_refuses_to_start(own_server: Any) -> None:
    command = [sys.executable, "-m", "holdfast.sandbox.gcs", "--port", "1", "--data", str(own_server.data)]
    second = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert second.returncode == 2
    assert "another storage server has this data folder" in second.stderr


def files(server: Any) -> int:
    return len(list((server.data / "blobs").glob("*/*")))


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)
