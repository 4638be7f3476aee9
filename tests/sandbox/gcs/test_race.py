"""Preconditions under concurrency, through both APIs at once."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from holdfast.sandbox.gcs.app import make_app
from holdfast.sandbox.gcs.records import ObjectRecord
from holdfast.sandbox.gcs.storage import Storage
from sandbox.gcs.web import HTTP

RACERS = 8


def by_xml(server: Any, bucket: str, name: str, data: bytes, match: str) -> int:
    headers = {"x-goog-if-generation-match": match}
    return HTTP.put(f"{server.url}/{bucket}/{name}", content=data, headers=headers, timeout=30).status_code


def by_json(server: Any, bucket: str, name: str, data: bytes, match: str) -> int:
    params = {"uploadType": "media", "name": name, "ifGenerationMatch": match}
    target = f"{server.url}/upload/storage/v1/b/{bucket}/o"
    return HTTP.post(target, params=params, content=data, timeout=30).status_code


def race(server: Any, bucket: str, name: str, match: str, size: int) -> tuple[list[int], list[bytes]]:
    start = threading.Barrier(RACERS)
    contents = [os.urandom(size) for _ in range(RACERS)]

    def run(racer: int) -> int:
        start.wait()
        put = by_xml if racer % 2 else by_json
        return put(server, bucket, name, contents[racer], match)

    with ThreadPoolExecutor(RACERS) as pool:
        return list(pool.map(run, range(RACERS))), contents


@pytest.mark.parametrize("size", [1, 200_000])
def test_of_eight_creators_exactly_one_wins_and_its_content_stays(server: Any, bucket: str, size: int) -> None:
    for round_number in range(5):
        name = f"k{round_number}"
        answers, contents = race(server, bucket, name, "0", size)
        assert sorted(answers) == [200] + [412] * (RACERS - 1)
        assert HTTP.get(f"{server.url}/{bucket}/{name}").content == contents[answers.index(200)]


def test_of_eight_swaps_from_one_generation_exactly_one_wins(server: Any, bucket: str) -> None:
    generation = HTTP.put(f"{server.url}/{bucket}/k", content=b"0").headers["x-goog-generation"]
    answers, contents = race(server, bucket, "k", generation, 10)
    assert sorted(answers) == [200] + [412] * (RACERS - 1)
    assert HTTP.get(f"{server.url}/{bucket}/k").content == contents[answers.index(200)]


def test_a_slow_upload_does_not_hold_up_others(server: Any, bucket: str) -> None:
    import socket

    with socket.create_connection(("127.0.0.1", server.port)) as slow:
        slow.sendall(f"PUT /{bucket}/slow HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\nabc".encode())
        for number in range(20):
            assert by_xml(server, bucket, f"k{number}", b"1", "0") == 200
        assert HTTP.get(f"{server.url}/{bucket}/slow").status_code == 404


def test_readers_of_what_is_overwritten_see_one_version_whole(server: Any, bucket: str) -> None:
    target = f"{server.url}/{bucket}/k"
    HTTP.put(target, content=bytes([0]) * 3_000_000)
    done = threading.Event()

    def write() -> None:
        for value in range(1, 30):
            HTTP.put(target, content=bytes([value]) * 3_000_000, timeout=30).raise_for_status()
        done.set()

    with ThreadPoolExecutor(1) as pool:
        writing = pool.submit(write)
        while not done.is_set() and not writing.done():
            content = HTTP.get(target, timeout=30).content
            assert len(content) == 3_000_000
            assert content.count(content[:1]) == 3_000_000
        writing.result()


@pytest.mark.parametrize("target", ["/bucket/k", "/storage/v1/b/bucket/o/k?alt=media"])
@pytest.mark.parametrize("size_bytes", [10, 100_000])
def test_an_overwrite_between_look_up_and_pin_answers_with_the_new_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str, size_bytes: int
) -> None:
    storage = Storage(tmp_path, sync=False)
    find = storage.find
    pending = [b"2" * size_bytes]
    client = TestClient(make_app(storage, default_project="p"))
    client.post("/storage/v1/b", json={"name": "bucket"}).raise_for_status()
    client.put("/bucket/k", content=b"1" * size_bytes).raise_for_status()

    def find_and_overwrite(bucket: str, name: str, generation: int | None = None) -> ObjectRecord:
        record = find(bucket, name, generation)
        if pending:
            client.put("/bucket/k", content=pending.pop()).raise_for_status()
        return record

    monkeypatch.setattr(storage, "find", find_and_overwrite)
    answer = client.get(target)
    assert (answer.status_code, answer.content) == (200, b"2" * size_bytes)
