"""Preconditions under concurrency, through both APIs at once."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

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
