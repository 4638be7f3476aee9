"""What a fault proxy records of the traffic that passes it: each exchange once, and nothing secret."""

from __future__ import annotations

import json
from collections import deque
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.sandbox.http_framing import Framer
from holdfast.sandbox.trails.recording import Recorder
from holdfast.sandbox.trails.watching import Watch

CANARY = "c4n4ry-7f3a"
PEER = "127.0.0.1:4711"


class Kept:
    """A sink in memory."""

    def __init__(self) -> None:
        self.exchanges: list[dict[str, Any]] = []
        self.unparsed = 0

    def record(self, exchange: dict[str, Any]) -> None:
        self.exchanges.append(json.loads(json.dumps(exchange)))

    def not_understood(self, peer: str) -> None:
        assert peer == PEER
        self.unparsed += 1


class Wire:
    """One connection, without a network."""

    def __init__(self) -> None:
        self.kept = Kept()
        self.watch = Watch(self.kept, PEER)
        methods: deque[bytes] = deque()
        self._sent, self._answered = Framer(methods, is_response=False), Framer(methods, is_response=True)

    def send(self, data: bytes) -> None:
        for piece in self._sent.feed(data):
            self.watch.request(piece)

    def answer(self, data: bytes) -> None:
        for piece in self._answered.feed(data):
            self.watch.response(piece)


def ok(body: bytes = b"", status: str = "200 OK") -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


def request(line: str, *headers: str, body: bytes = b"") -> bytes:
    length = (f"Content-Length: {len(body)}",) if body else ()
    return "\r\n".join((f"{line} HTTP/1.1", *headers, *length, "", "")).encode() + body


def one(sent: bytes, answered: bytes = b"HTTP/1.1 204 No Content\r\n\r\n") -> dict[str, Any]:
    wire = Wire()
    wire.send(sent)
    wire.answer(answered)
    (found,) = wire.kept.exchanges
    return found


PIPELINED = (
    request("PUT /b/a", body=b"hello")
    + request("HEAD /b/a")
    + b"POST /b/c?uploads HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
    + request("DELETE /b/a")
)
ANSWERS = (
    b"HTTP/1.1 100 Continue\r\n\r\n"
    + ok()
    + b"HTTP/1.1 404 Not Found\r\nContent-Length: 99\r\n\r\n"
    + b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"
    + b"HTTP/1.1 204 No Content\r\n\r\n"
)
cuts = st.lists(st.integers(0, max(len(PIPELINED), len(ANSWERS))), max_size=12)


@given(cuts, cuts)
def test_pipelined_requests_find_their_answers_however_the_bytes_are_cut(at: list[int], back: list[int]) -> None:
    wire = Wire()
    for cut, data, feed in ((at, PIPELINED, wire.send), (back, ANSWERS, wire.answer)):
        edges = [0, *sorted(min(edge, len(data)) for edge in cut), len(data)]
        for start, end in pairwise(edges):
            feed(data[start:end])
    wire.watch.ended(by_cloud=False)
    found = [(e["method"], e["target"], e["status"], e["sent_bytes"], e["received_bytes"]) for e in wire.kept.exchanges]
    assert found == [
        ("PUT", "/b/a", 200, 5, 0),
        ("HEAD", "/b/a", 404, 0, 0),
        ("POST", "/b/c?uploads", 200, 3, 2),
        ("DELETE", "/b/a", 204, 0, 0),
    ]
    assert {e["end"] for e in wire.kept.exchanges} == {"whole"}


@given(st.binary(max_size=300), st.binary(max_size=300))
def test_no_bytes_whatever_harm_the_one_who_watches(sent: bytes, answered: bytes) -> None:
    wire = Wire()
    wire.send(request("GET /b/a") + sent)
    wire.answer(answered)
    wire.watch.refused(503)
    wire.watch.ended(by_cloud=True)
    assert len(wire.kept.exchanges) >= 1


def test_a_body_nested_without_end_costs_its_sender_nothing() -> None:
    body = b'{"a":' + b"[" * 4000
    found = one(request("POST /upload/storage/v1/b/b/o?uploadType=multipart", body=body), ok())
    assert (found["status"], found["object"]) == (200, None)


def test_a_cut_answer_is_recorded_as_far_as_it_was_seen() -> None:
    wire = Wire()
    wire.send(request("GET /b/a") + request("GET /b/next"))
    wire.answer(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n" + b"x" * 40)
    wire.watch.ended(by_cloud=True)
    first, second = wire.kept.exchanges
    assert (first["end"], first["status"], first["received_bytes"]) == ("cut", 200, 40)
    assert (second["end"], second["status"], second["target"]) == ("unanswered", 0, "/b/next")


@pytest.mark.parametrize(("by_cloud", "end"), [(True, "whole"), (False, "cut")])
def test_an_answer_without_a_length_ends_with_the_clouds_connection(by_cloud: bool, end: str) -> None:
    wire = Wire()
    wire.send(request("GET /b/a"))
    wire.answer(b"HTTP/1.0 200 OK\r\n\r\nuntil the end")
    wire.watch.ended(by_cloud=by_cloud)
    assert [(e["end"], e["received_bytes"]) for e in wire.kept.exchanges] == [(end, 13)]


def test_what_is_no_http_is_counted_once() -> None:
    wire = Wire()
    wire.send(b"\x16\x03\x01" + b"\0" * 100)
    wire.send(b"\0" * 100)
    wire.watch.ended(by_cloud=False)
    assert (wire.kept.unparsed, wire.kept.exchanges) == (1, [])


def test_large_bodies_are_counted_and_never_kept() -> None:
    wire = Wire()
    wire.send(b"POST /upload/storage/v1/b/x/o?uploadType=multipart HTTP/1.1\r\nContent-Length: 3000000\r\n\r\n")
    for _ in range(3):
        wire.send(b"z" * 1_000_000)
    waiting = wire.watch._waiting[0]
    assert len(waiting.seen) <= 4096
    wire.answer(ok())
    assert wire.kept.exchanges[0]["sent_bytes"] == 3_000_000


# -- what is read out of bodies --------------------------------------------------------------------------------------


def test_the_name_of_a_multipart_upload_is_in_its_first_part() -> None:
    part = (
        b'--x\r\nContent-Type: application/json\r\n\r\n{"metadata": {"name": "no"}, "name": "d/\\u00fc\\"x"}\r\n--x\r\n'
    )
    found = one(request("POST /upload/storage/v1/b/bucket/o?uploadType=multipart", body=part + b"data"), ok())
    assert found["object"] == {"name": 'd/ü"x'}
    assert "no" not in found["object"].values()


def test_the_name_of_a_resumed_upload_is_in_the_last_answer() -> None:
    answer = ok(b'{"kind": "storage#object", "name": "a", "bucket": "b", "size": "4"}')
    found = one(request(f"PUT /upload/storage/v1/b/b/o?uploadType=resumable&upload_id={CANARY}", body=b"data"), answer)
    assert found["object"] == {"name": "a", "bucket": "b"}
    assert found["target"].endswith("uploadType=resumable&upload_id")


def test_a_batch_is_recorded_call_by_call() -> None:
    calls = b"--x\r\n\r\nDELETE /storage/v1/b/b/o/one?key=%b HTTP/1.1\r\n\r\n--x\r\n\r\n"
    calls += b"DELETE /storage/v1/b/b/o/two HTTP/1.1\r\n"
    answers = ok(b"--y\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n--y\r\n\r\nHTTP/1.1 404 Not Found\r\n\r\n")
    found = one(request("POST /batch/storage/v1", body=calls % CANARY.encode()), answers)
    assert found["calls"] == [["DELETE", "/storage/v1/b/b/o/one", 204], ["DELETE", "/storage/v1/b/b/o/two", 404]]


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"<Error><Code>NoSuchKey</Code><Message>no</Message></Error>", "NoSuchKey"),
        (b'{"error": {"errors": [{"reason": "notFound"}]}}', "notFound"),
        (b"", None),
    ],
)
def test_an_errors_code_is_read_from_the_answer(body: bytes, code: str | None) -> None:
    assert one(request("GET /b/a"), ok(body, "404 Not Found"))["error"] == code


# -- secrets ---------------------------------------------------------------------------------------------------------

SECRET_REQUESTS = [
    request(
        "GET /b/k", f"Authorization: AWS4-HMAC-SHA256 Credential=AKIA1/20260101/eu/s3/aws4_request, Signature={CANARY}"
    ),
    request("GET /b/k", f"Authorization: AWS AKIA1:{CANARY}"),
    request("GET /b/k", f"x-amz-security-token: {CANARY}", f"x-amz-server-side-encryption-customer-key: {CANARY}"),
    request(f"GET /b/k?X-Amz-Credential=AKIA1%2F2026%2Feu%2Fs3&X-Amz-Signature={CANARY}&X-Amz-Security-Token={CANARY}"),
    request("GET /b/k", f"Authorization: Bearer {CANARY}"),
    request("GET /b/k", f"Authorization: {CANARY}"),
    request("GET /b/k", f"Authorization: Basic {CANARY}", f"Cookie: {CANARY}", f"Proxy-Authorization: {CANARY}"),
    request(f"GET /b/k?access_token={CANARY}&oauth_token={CANARY}&key={CANARY}"),
    request(f"PUT /upload/storage/v1/b/b/o?upload_id={CANARY}", body=b"x"),
    request("GET /dev/c/k", f"Authorization: SharedKey dev:{CANARY}"),
    request(f"GET /dev/c/k?sv=2026-01-01&se=2027&sp=r&sig={CANARY}&skoid={CANARY}"),
    request(f"GET http://user:{CANARY}@127.0.0.1/b/k"),
    request("PUT /dev/c/k", f"x-ms-copy-source: http://h/dev/c/from?sig={CANARY}", "x-ms-requires-sync: true"),
    request("PUT /dev/c/k", f"x-ms-copy-source-authorization: Bearer {CANARY}", f"x-ms-encryption-key: {CANARY}"),
    request("PUT /b/k", f"x-amz-copy-source: /b/from?versionId=v1&X-Amz-Signature={CANARY}"),
    request("PUT /b/k", f"x-goog-encryption-key: {CANARY}", f"x-amz-meta-password: {CANARY}"),
    request(
        "POST /", "Content-Type: application/x-www-form-urlencoded", body=f"Action=AssumeRole&Token={CANARY}".encode()
    ),
    request(
        "POST /upload/storage/v1/b/b/o?uploadType=multipart",
        body=f'{{"name": "n", "metadata": {{"p": "{CANARY}"}}}}'.encode(),
    ),
    request(
        "POST /batch/x",
        body=f"--x\r\nAuthorization: Bearer {CANARY}\r\n\r\nGET /b/k?sig={CANARY} HTTP/1.1\r\n".encode(),
    ),
    request("PUT /b/k", body=CANARY.encode()),
]


@pytest.mark.parametrize("sent", SECRET_REQUESTS, ids=range(len(SECRET_REQUESTS)))
def test_no_secret_of_a_request_is_written(sent: bytes, tmp_path: Path) -> None:
    wire = Wire()
    recorder = Recorder(tmp_path, "store")
    wire.watch._sink = recorder
    wire.send(sent)
    answer = f"<Error><Code>AccessDenied</Code><Token>{CANARY}</Token></Error>".encode()
    wire.answer(
        ok(answer, f"403 Forbidden\r\nSet-Cookie: {CANARY}\r\nX-GUploader-UploadID: {CANARY}\r\nLocation: {CANARY}")
    )
    recorder.close()
    (file,) = tmp_path.iterdir()
    text = file.read_text()
    assert json.loads(text)["status"] == 403
    assert CANARY not in text
    assert file.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(
    ("line", "header", "caller"),
    [
        ("GET /b/k", "Authorization: AWS4-HMAC-SHA256 Credential=AKIA1/20260101/eu/s3/aws4_request, Signature=x",
         {"kind": "signed", "id": "AKIA1", "service": "s3"}),
        ("GET /b/k?X-Amz-Credential=AKIA1%2F20260101", "X: y", {"kind": "presigned", "id": "AKIA1"}),
        ("GET /b/k", "Authorization: Bearer t", {"kind": "bearer"}),
        ("GET /b/k", "Authorization: SharedKey dev:x", {"kind": "shared-key", "id": "dev"}),
        ("GET /b/k?sig=x", "X: y", {"kind": "sas"}),
        ("GET /b/k", "X: y", {"kind": "anonymous"}),
    ],
)  # fmt: skip
def test_who_asked_is_kept(line: str, header: str, caller: dict[str, str]) -> None:
    assert one(request(line, header))["caller"] == caller


def test_a_record_that_cannot_be_written_is_counted_and_harms_nobody(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "file", "store")
    (tmp_path / "file").write_text("no folder")
    recorder.record({"end": "whole"})
    recorder.not_understood(PEER)
    assert recorder.as_dict() == {"recorded": 0, "unparsed": 1, "lost": 2}
