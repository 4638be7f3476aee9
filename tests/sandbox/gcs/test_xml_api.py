"""The XML API's own answers, where a client library would hide them."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator
from typing import Any
from xml.etree import ElementTree

import httpx
import pytest

from sandbox.gcs.web import HTTP

PART_BYTES = 5 * 1024 * 1024


@pytest.fixture
def http(server: Any, bucket: str) -> Iterator[httpx.Client]:
    with httpx.Client(verify=False, base_url=f"{server.url}/{bucket}") as client:
        yield client


def texts(answer: httpx.Response, name: str) -> list[str]:
    return [element.text or "" for element in ElementTree.fromstring(answer.content).iter() if _is(element, name)]


def _is(element: ElementTree.Element, name: str) -> bool:
    return element.tag.rpartition("}")[2] == name


def test_an_objects_headers(http: httpx.Client) -> None:
    headers = {"content-type": "text/x", "cache-control": "no-store", "x-goog-meta-owner": "me"}
    put = http.put("/k", content=b"hello", headers=headers)
    assert put.headers["etag"] == f'"{hashlib.md5(b"hello").hexdigest()}"'
    for answer in (http.head("/k"), http.get("/k")):
        assert answer.headers["content-length"] == "5"
        assert answer.headers["x-goog-generation"] == put.headers["x-goog-generation"]
        assert answer.headers["x-goog-metageneration"] == "1"
        assert answer.headers["x-goog-hash"] == "crc32c=mnG7TA==,md5=XUFAKrxLKna5cZ2REBfFkg=="
        assert answer.headers["x-goog-stored-content-length"] == "5"
        assert {name: answer.headers[name] for name in headers} == headers
        assert answer.headers["etag"] == put.headers["etag"]
    assert http.head("/k").content == b""


@pytest.mark.parametrize(
    ("condition", "status"),
    [
        ({"if-match": '"5d41402abc4b2a76b9719d911017c592"'}, 200),
        ({"if-match": "*"}, 200),
        ({"if-match": '"other"'}, 412),
        ({"if-none-match": '"5d41402abc4b2a76b9719d911017c592"'}, 304),
        ({"if-none-match": '"other", "more"'}, 200),
        ({"if-modified-since": "Mon, 01 Jan 2024 00:00:00 GMT"}, 200),
        ({"if-modified-since": "Fri, 01 Jan 2100 00:00:00 GMT"}, 304),
        ({"if-unmodified-since": "Mon, 01 Jan 2024 00:00:00 GMT"}, 412),
        ({"if-unmodified-since": "Fri, 01 Jan 2100 00:00:00 GMT"}, 200),
        ({"x-goog-if-generation-match": "1"}, 412),
        ({"x-goog-if-generation-not-match": "1"}, 200),
        ({"x-goog-if-metageneration-match": "1"}, 200),
        ({"x-goog-if-metageneration-not-match": "1"}, 304),
    ],
)
@pytest.mark.parametrize("verb", ["GET", "HEAD"])
def test_conditions_on_reading(http: httpx.Client, verb: str, condition: dict[str, str], status: int) -> None:
    http.put("/k", content=b"hello")
    assert http.request(verb, "/k", headers=condition).status_code == status


@pytest.mark.parametrize(
    ("asked", "status", "got", "content_range"),
    [
        ("bytes=0-0", 206, b"0", "bytes 0-0/10"),
        ("bytes=8-", 206, b"89", "bytes 8-9/10"),
        ("bytes=-3", 206, b"789", "bytes 7-9/10"),
        ("bytes=-30", 206, b"0123456789", "bytes 0-9/10"),
        ("bytes=5-100", 206, b"56789", "bytes 5-9/10"),
        ("bytes=10-", 416, None, "bytes */10"),
        ("bytes=-0", 416, None, "bytes */10"),
        ("bytes=4-2", 200, b"0123456789", None),
        ("lines=1-2", 200, b"0123456789", None),
    ],
)
def test_ranges(http: httpx.Client, asked: str, status: int, got: bytes | None, content_range: str | None) -> None:
    http.put("/k", content=b"0123456789")
    answer = http.get("/k", headers={"range": asked})
    assert (answer.status_code, answer.headers.get("content-range")) == (status, content_range)
    assert got is None or answer.content == got


def test_writes_are_guarded_by_generation_on_put_copy_and_delete(http: httpx.Client, bucket: str) -> None:
    first = http.put("/k", content=b"1", headers={"x-goog-if-generation-match": "0"})
    generation = first.headers["x-goog-generation"]
    stale = {"x-goog-if-generation-match": "1"}
    assert http.put("/k", content=b"2", headers=stale).status_code == 412
    assert http.delete("/k", headers=stale).status_code == 412
    copy = {"x-goog-copy-source": f"{bucket}/k"}
    assert http.put("/c", headers={**copy, "x-goog-copy-source-if-generation-match": "1"}).status_code == 412
    assert http.put("/c", headers={**copy, "x-goog-copy-source-if-generation-match": generation}).status_code == 200
    assert http.put("/c", headers={**copy, "x-goog-if-generation-match": "0"}).status_code == 412
    refused = http.put("/k", content=b"2", headers=stale)
    assert texts(refused, "Code") == ["PreconditionFailed"]
    assert http.delete("/k", headers={"x-goog-if-generation-match": generation}).status_code == 204


@pytest.mark.parametrize("header", ["if-match", "if-none-match", "if-unmodified-since"])
def test_an_http_condition_on_a_write_is_refused_not_ignored(http: httpx.Client, header: str) -> None:
    assert http.put("/k", content=b"1", headers={header: "*"}).status_code == 501
    assert http.get("/k").status_code == 404


@pytest.mark.parametrize(
    "headers",
    [
        {"x-goog-hash": "crc32c=AAAAAA=="},
        {"x-goog-hash": f"md5={base64.b64encode(bytes(16)).decode()}"},
        {"content-md5": base64.b64encode(bytes(16)).decode()},
    ],
)
def test_a_wrong_hash_is_refused(http: httpx.Client, headers: dict[str, str]) -> None:
    refused = http.put("/k", content=b"1", headers=headers)
    assert (refused.status_code, texts(refused, "Code")) == (400, ["BadDigest"])
    assert http.get("/k").status_code == 404


def test_lists_in_pages_in_both_versions(http: httpx.Client) -> None:
    for name in ("a&b", "a/1", "a/2", "b", "é"):
        http.put(f"/{name}", content=b"1")
    for params, token, marker in (
        ({"list-type": "2"}, "continuation-token", "NextContinuationToken"),
        ({}, "marker", "NextMarker"),
    ):
        found, position = [], {}
        while True:
            page = http.get("", params={**params, "delimiter": "/", "max-keys": "1", **position})
            found += texts(page, "Key") + [text for text in texts(page, "Prefix") if text]
            if texts(page, "IsTruncated") == ["false"]:
                break
            position = {token: texts(page, marker)[0]}
        assert found == ["a&b", "a/", "b", "é"]
    written = http.get("", params={"list-type": "2", "encoding-type": "url"})
    assert texts(written, "Key") == ["a%26b", "a/1", "a/2", "b", "%C3%A9"]
    assert texts(http.get("", params={"list-type": "2", "encoding-type": "x"}), "Code") == ["InvalidArgument"]
    after = http.get("", params={"list-type": "2", "start-after": "a/1"})
    assert texts(after, "Key") == ["a/2", "b", "é"]
    assert texts(http.get("", params={"list-type": "2", "max-keys": "0"}), "Key") == []
    assert texts(http.get("/k", params={"x": "y"}), "Code") == ["NotImplemented"]


def test_a_multipart_upload_takes_parts_in_any_order_once(http: httpx.Client) -> None:
    upload = texts(http.post("/k", params={"uploads": ""}, headers={"x-goog-meta-a": "b"}), "UploadId")[0]
    parts = {1: b"1" * PART_BYTES, 2: b"2" * PART_BYTES, 3: b"3"}
    tags = {}
    for number in (3, 1, 2, 2):
        answer = http.put("/k", params={"partNumber": number, "uploadId": upload}, content=parts[number])
        tags[number] = answer.headers["etag"]
    assert http.get("/k").status_code == 404

    def complete(*numbers: int, tags: dict[int, str] = tags) -> httpx.Response:
        inside = "".join(f"<Part><PartNumber>{n}</PartNumber><ETag>{tags[n]}</ETag></Part>" for n in numbers)
        body = f"<CompleteMultipartUpload>{inside}</CompleteMultipartUpload>"
        return http.post("/k", params={"uploadId": upload}, content=body)

    assert texts(complete(2, 1), "Code") == ["InvalidPartOrder"]
    assert texts(complete(3, tags={3: tags[1]}), "Code") == ["InvalidPart"]
    assert texts(complete(), "Code") == ["MalformedCompleteMultipartUploadRequest"]
    done = complete(1, 2, 3)
    assert done.status_code == 200
    answer = http.get("/k")
    assert answer.content == b"".join(parts.values())
    assert answer.headers["x-goog-generation"] == done.headers["x-goog-generation"]
    assert answer.headers["x-goog-meta-a"] == "b"
    assert answer.headers["etag"] == texts(done, "ETag")[0]
    assert texts(complete(1, 2, 3), "Code") == ["NoSuchUpload"]


def test_a_part_that_is_too_small_is_refused_and_an_aborted_upload_is_gone(http: httpx.Client) -> None:
    upload = texts(http.post("/k", params={"uploads": ""}), "UploadId")[0]
    tags = [http.put("/k", params={"partNumber": n, "uploadId": upload}, content=b"x").headers["etag"] for n in (1, 2)]
    inside = "".join(f"<Part><PartNumber>{n}</PartNumber><ETag>{tag}</ETag></Part>" for n, tag in enumerate(tags, 1))
    body = f"<CompleteMultipartUpload>{inside}</CompleteMultipartUpload>"
    assert texts(http.post("/k", params={"uploadId": upload}, content=body), "Code") == ["EntityTooSmall"]
    assert http.delete("/k", params={"uploadId": upload}).status_code == 204
    assert texts(http.delete("/k", params={"uploadId": upload}), "Code") == ["NoSuchUpload"]


@pytest.mark.parametrize(
    ("verb", "path", "headers"),
    [
        ("PUT", "", {}),
        ("GET", "?versioning", {}),
        ("PUT", "/k", {"x-goog-acl": "private"}),
        ("PUT", "/k", {"x-goog-encryption-algorithm": "AES256"}),
        ("GET", "/k?X-Goog-Signature=1", {}),
        ("POST", "/k", {"x-goog-resumable": "start"}),
    ],
)
def test_what_is_not_implemented_says_so(http: httpx.Client, verb: str, path: str, headers: dict[str, str]) -> None:
    answer = http.request(verb, path, headers=headers)
    assert (answer.status_code, texts(answer, "Code")) == (501, ["NotImplemented"])


def test_missing_things_have_their_own_codes(server: Any, http: httpx.Client) -> None:
    assert texts(http.get("/k"), "Code") == ["NoSuchKey"]
    assert texts(HTTP.get(f"{server.url}/no-such-bucket/k"), "Code") == ["NoSuchBucket"]
    assert texts(HTTP.get(f"{server.url}/no-such-bucket"), "Code") == ["NoSuchBucket"]
    assert texts(HTTP.put(f"{server.url}/no-such-bucket/k", content=b"1"), "Code") == ["NoSuchBucket"]
