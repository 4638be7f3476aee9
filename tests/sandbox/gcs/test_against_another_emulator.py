"""The same calls to this server and to the PyPI `gcp-storage-emulator`, for what that one is known to get right.

It ignores preconditions and has no versions, holds or XML multipart uploads, so those are not compared. It
serves one connection at a time; every call here closes its own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from sandbox.gcs.conftest import free_port
from sandbox.gcs.web import HTTP

# It keeps objects as files, so no name may be a folder of another.
NAMES = ("a/1.txt", "a/2 b.bin", "a/b/c", "ab", "b", "é/ü")
SAME_FIELDS = ("kind", "name", "bucket", "size", "md5Hash", "crc32c", "contentType", "storageClass", "metadata")


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    port = free_port()
    folder = tmp_path_factory.mktemp("other")
    command = [sys.executable, "-m", "gcp_storage_emulator", "-d", str(folder), "start", "--port", str(port)]
    process = subprocess.Popen([*command, "-H", "127.0.0.1", "-q"])
    url = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 30
        while True:
            try:
                HTTP.get(f"{url}/storage/v1/b", headers={"connection": "close"}, timeout=5)
                break
            except httpx.TransportError:
                assert time.monotonic() < deadline
                time.sleep(0.05)
        yield url
    finally:
        process.terminate()
        process.wait(timeout=10)


class Both:
    """Calls both servers and compares what comes back."""

    def __init__(self, urls: tuple[str, str], bucket: str) -> None:
        self.urls = urls
        self.bucket = bucket

    def call(self, verb: str, path: str, **options: Any) -> list[httpx.Response]:
        headers = {"connection": "close", **options.pop("headers", {})}
        path = path.replace("{b}", self.bucket)
        return [HTTP.request(verb, url + path, headers=headers, timeout=30, **options) for url in self.urls]

    def same(self, verb: str, path: str, *, fields: tuple[str, ...] = (), **options: Any) -> httpx.Response:
        ours, theirs = self.call(verb, path, **options)
        assert ours.status_code == theirs.status_code, (ours.text, theirs.text)
        if fields:
            pick = [{name: answer.json().get(name) for name in fields} for answer in (ours, theirs)]
            assert pick[0] == pick[1]
        return ours


@pytest.fixture
def both(server: Any, bucket: str, other: str) -> Both:
    created = HTTP.post(
        f"{other}/storage/v1/b", params={"project": "p"}, json={"name": bucket}, headers={"connection": "close"}
    )
    assert created.status_code == 200
    return Both((server.url, other), bucket)


def upload(both: Both, name: str, data: bytes, content_type: str = "application/octet-stream") -> None:
    resource = json.dumps({"name": name, "metadata": {"k": "v"}}).encode()
    body = b"--b\r\nContent-Type: application/json\r\n\r\n" + resource
    body += b"\r\n--b\r\nContent-Type: " + content_type.encode() + b"\r\n\r\n" + data + b"\r\n--b--"
    both.same(
        "POST",
        "/upload/storage/v1/b/{b}/o",
        params={"uploadType": "multipart"},
        content=body,
        headers={"content-type": 'multipart/related; boundary="b"'},
        fields=SAME_FIELDS,
    )


@pytest.mark.parametrize("size", [1, 255, 70_000, 1_000_003])
def test_checksums_and_fields_of_uploads(both: Both, size: int) -> None:
    data = os.urandom(size)
    upload(both, "k", data, "text/plain")
    both.same("GET", "/storage/v1/b/{b}/o/k", fields=SAME_FIELDS)
    params = {"uploadType": "media", "name": "m"}
    both.same(
        "POST",
        "/upload/storage/v1/b/{b}/o",
        params=params,
        content=data,
        headers={"content-type": "text/x"},
        fields=("name", "size", "md5Hash", "crc32c", "contentType"),
    )
    for answer in both.call("GET", "/download/storage/v1/b/{b}/o/k", params={"alt": "media"}):
        assert (answer.status_code, answer.content, answer.headers["content-type"]) == (200, data, "text/plain")


@pytest.mark.parametrize("asked", ["bytes=0-0", "bytes=2-5", "bytes=7-", "bytes=5-1000"])
def test_ranges(both: Both, asked: str) -> None:
    upload(both, "k", b"0123456789")
    answers = both.call("GET", "/download/storage/v1/b/{b}/o/k", params={"alt": "media"}, headers={"range": asked})
    assert len({(answer.status_code, answer.content, answer.headers.get("content-range")) for answer in answers}) == 1


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"prefix": "a"},
        {"prefix": "a/"},
        {"delimiter": "/"},
        {"prefix": "a/", "delimiter": "/"},
        {"prefix": "none"},
    ],
    ids=str,
)
def test_lists(both: Both, params: dict[str, str]) -> None:
    for name in NAMES:
        upload(both, name, b"1")
    ours, theirs = (answer.json() for answer in both.call("GET", "/storage/v1/b/{b}/o", params=params))
    assert ours.get("prefixes", []) == sorted(theirs.get("prefixes", []))
    assert [item["name"] for item in ours.get("items", [])] == [item["name"] for item in theirs.get("items", [])]


def test_a_resumable_upload_with_status_queries(both: Both) -> None:
    data = os.urandom(600_000)
    start = both.call(
        "POST",
        "/upload/storage/v1/b/{b}/o",
        params={"uploadType": "resumable", "name": "k"},
        json={"contentType": "text/x"},
        headers={"x-upload-content-type": "text/x"},
    )
    half = 256 * 1024
    seen = []
    for session in (answer.headers["location"] for answer in start):
        answers = [
            HTTP.put(session, content=content, headers={"connection": "close", "content-range": content_range})
            for content, content_range in (
                (data[:half], f"bytes 0-{half - 1}/600000"),
                (b"", "bytes */600000"),
                (data[half:], f"bytes {half}-599999/600000"),
            )
        ]
        last = {name: answers[-1].json().get(name) for name in ("name", "size", "md5Hash", "crc32c", "contentType")}
        seen.append(([(answer.status_code, answer.headers.get("range")) for answer in answers], last))
    assert seen[0] == seen[1]


def test_copy_rewrite_patch_and_delete(both: Both) -> None:
    upload(both, "a/b", b"data")
    path = "/storage/v1/b/{b}/o/" + quote("a/b", safe="")
    both.same("PATCH", path, json={"metadata": {"k": "w"}}, fields=("metadata", "name"))
    both.same("POST", f"{path}/copyTo/b/{{b}}/o/c", fields=("name", "size", "md5Hash"))
    both.same("POST", f"{path}/rewriteTo/b/{{b}}/o/r", fields=("done", "totalBytesRewritten", "objectSize"))
    # Google says 204, the other one 200.
    assert all(answer.is_success for answer in both.call("DELETE", path))
    both.same("GET", path)
    both.same("DELETE", path)
    both.same("GET", "/storage/v1/b/none-such-bucket")


def test_a_wrong_crc32c_is_refused_by_both(both: Both) -> None:
    body = b'--b\r\nContent-Type: application/json\r\n\r\n{"name":"k","crc32c":"AAAAAA=="}\r\n--b\r\n\r\ndata\r\n--b--'
    answers = both.call(
        "POST",
        "/upload/storage/v1/b/{b}/o",
        params={"uploadType": "multipart"},
        content=body,
        headers={"content-type": 'multipart/related; boundary="b"'},
    )
    assert [answer.status_code for answer in answers] == [400, 400]
