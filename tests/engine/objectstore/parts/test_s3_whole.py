"""Small objects of S3 over our own connections: what is asked, and what the answers mean. On moto: tests/contract."""

from __future__ import annotations

import socket
import threading
from typing import Any

import pytest

from holdfast.engine.config import Site
from holdfast.engine.objectstore import (
    CREATE,
    ByteRange,
    IfMatch,
    ObjectStore,
    ObjectVersion,
    StoreAccess,
    fixed,
    open_store,
)
from holdfast.engine.objectstore.attributes import Attributes
from holdfast.engine.objectstore.checksums import crc64nvme, s3_text
from holdfast.engine.objectstore.errors import (
    BytesCorrupted,
    NotSupported,
    ObjectExists,
    ObjectNotFound,
    ObjectStoreError,
    PreconditionFailed,
    StoreUnavailable,
)

DATED = {"Last-Modified": "Sun, 01 Mar 2026 12:00:00 GMT"}
KEYS = fixed(access_key_id="AKIAEXAMPLE", secret_access_key="secret")


def opened(url: str, *, kms_key: str | None = None, prefix: str = "", **options: str) -> ObjectStore:
    site = Site(
        cloud="aws", region="eu-west-1", jurisdiction="EU", connection="c", bucket="bucket", kms_key=kms_key,
        prefix=prefix,
    )  # fmt: skip
    return open_store("site", site, StoreAccess(url, options=options, credentials=KEYS), retry=None)


def test_an_object_comes_with_what_it_says_of_itself(scripted: Any, reply: Any) -> None:
    said = {**DATED, "ETag": '"t"', "Content-Type": "text/csv", "x-amz-meta-colour": "blue", "x-amz-version-id": "v1"}
    scripted.answers(reply(200, said, b"bytes"))
    reader = opened(scripted.url, prefix="team").open("a b/é", size_bytes=5)
    assert b"".join(reader) == b"bytes"
    assert (reader.info.key, reader.info.size_bytes, reader.info.version) == ("a b/é", 5, ObjectVersion('"t"', "v1"))
    assert reader.info.modified_at.isoformat() == "2026-03-01T12:00:00+00:00"
    assert reader.attributes == Attributes(content_type="text/csv", metadata={"colour": "blue"})
    assert reader.is_whole
    (seen,) = scripted.seen
    assert (seen.method, seen.target) == ("GET", "/bucket/team/a%20b/%C3%A9")
    assert seen.headers["authorization"].startswith("AWS4-HMAC-SHA256 Credential=AKIAEXAMPLE/")


def test_a_server_that_does_not_know_if_match_gives_no_other_version(scripted: Any, reply: Any) -> None:
    scripted.answers(reply(200, {**DATED, "ETag": '"new"'}, b"bytes"))
    with pytest.raises(PreconditionFailed):
        opened(scripted.url).open("k", size_bytes=5, if_match=ObjectVersion('"old"'))
    assert scripted.seen[0].headers["if-match"] == '"old"'


def test_a_version_without_etag_is_named_in_the_query(scripted: Any, reply: Any) -> None:
    scripted.answers(reply(200, {**DATED, "ETag": '"t"'}, b"bytes"))
    assert opened(scripted.url).get("k", if_match=ObjectVersion(None, "v 7")) == b"bytes"
    assert scripted.seen[0].target == "/bucket/k?versionId=v%207"


def test_a_large_object_is_not_taken_in_one_piece(scripted: Any, reply: Any) -> None:
    large = bytes(9 << 20)

    def answer(seen: Any) -> Any:
        if "range" not in seen.headers:
            return reply(200, {**DATED, "ETag": '"t"'}, large)
        start, end = (int(text) for text in seen.headers["range"].removeprefix("bytes=").split("-"))
        part = large[start : end + 1]
        said = {**DATED, "ETag": '"t"', "Content-Range": f"bytes {start}-{start + len(part) - 1}/{len(large)}"}
        return reply(206, said, part)

    scripted.answers(answer)
    reader = opened(scripted.url).open("k", size_bytes=5)
    assert sum(map(len, reader)) == len(large)
    assert not reader.is_whole


def test_a_range_comes_in_one_request_with_the_size_of_the_whole(scripted: Any, reply: Any) -> None:
    scripted.answers(reply(206, {**DATED, "ETag": '"t"', "Content-Range": "bytes 2-4/9"}, b"cde"))
    reader = opened(scripted.url).open("k", byte_range=ByteRange(2, 5), if_match=ObjectVersion('"t"'))
    assert b"".join(reader) == b"cde"
    assert reader.info.size_bytes == 9
    (seen,) = scripted.seen
    assert (seen.headers["range"], seen.headers["if-match"]) == ("bytes=2-4", '"t"')
    assert "range" in seen.headers["authorization"]


def test_a_range_in_an_answer_that_is_cut_short_is_an_error(scripted: Any, reply: Any) -> None:
    scripted.answers(reply(206, {**DATED, "ETag": '"t"', "Content-Range": "bytes 2-4/9"}, b"cd"))
    with pytest.raises(StoreUnavailable):
        opened(scripted.url).get("k", byte_range=ByteRange(2, 5))


@pytest.mark.parametrize("said", ["bytes 0-2/9", "bytes 2-4/*", ""])
def test_another_range_than_was_asked_for_is_never_taken_for_it(scripted: Any, reply: Any, said: str) -> None:
    headers = {**DATED, "ETag": '"t"', **({"Content-Range": said} if said else {})}
    scripted.answers(*[reply(206, headers, b"abc")] * 2)
    with pytest.raises(ObjectStoreError):
        opened(scripted.url).get("k", byte_range=ByteRange(2, 5))


def test_a_server_without_ranges_is_told_from_one_that_has_them(scripted: Any, reply: Any) -> None:
    scripted.answers(*[reply(200, {**DATED, "ETag": '"t"'}, b"abcdefghi")] * 2)
    with pytest.raises(ObjectStoreError):
        opened(scripted.url).get("k", byte_range=ByteRange(2, 5))


@pytest.mark.parametrize(
    ("headers", "error"),
    [
        ({**DATED}, StoreUnavailable),  # the login page of a proxy
        ({"ETag": '"t"'}, StoreUnavailable),
        ({"ETag": '"t"', "Last-Modified": "yesterday"}, StoreUnavailable),
        ({**DATED, "ETag": '"t"', "x-amz-meta-name": "Zo\xeb"}, NotSupported),
    ],
)
def test_an_answer_that_is_none_of_an_object_is_an_error(
    scripted: Any, reply: Any, headers: dict[str, str], error: type[Exception]
) -> None:
    scripted.answers(reply(200, headers, b"bytes"))
    with pytest.raises(error):
        opened(scripted.url).get("k")


def test_a_body_is_vouched_for_by_the_signature_or_by_its_crc(scripted: Any, reply: Any) -> None:
    scripted.answers(reply(200, {"ETag": '"t"'}))
    opened(scripted.url).put("k", b"bytes")
    (seen,) = scripted.seen
    assert "x-amz-checksum-crc64nvme" not in seen.headers
    assert len(seen.headers["x-amz-content-sha256"]) == 64
    opened(scripted.url, unsigned_payload="true", checksum_algorithm="CRC64NVME").put("k", b"bytes")
    seen = scripted.seen[1]
    assert seen.headers["x-amz-checksum-crc64nvme"] == s3_text(crc64nvme(b"bytes"))
    assert seen.headers["x-amz-content-sha256"] == "UNSIGNED-PAYLOAD"
    assert "x-amz-checksum-crc64nvme" in seen.headers["authorization"]


def test_another_crc_in_the_answer_is_told(scripted: Any, reply: Any) -> None:
    scripted.answers(reply(200, {"ETag": '"t"', "x-amz-checksum-crc64nvme": s3_text(crc64nvme(b"other"))}))
    store = opened(scripted.url, unsigned_payload="true", checksum_algorithm="CRC64NVME")
    with pytest.raises(BytesCorrupted):
        store.put("k", b"bytes")


def test_what_an_object_says_of_itself_goes_with_it(scripted: Any, reply: Any) -> None:
    scripted.answers(reply(200, {"ETag": '"t"'}))
    said = Attributes(content_type="text/csv", storage_class="STANDARD_IA", tags={"a b": "c+d"})
    opened(scripted.url, kms_key="arn:key").put("k", b"1", mode=CREATE, metadata={"colour": "blue"}, attributes=said)
    headers = scripted.seen[0].headers
    assert {name: headers[name] for name in headers if name.startswith(("x-amz-s", "x-amz-t", "x-amz-m"))} == {
        "x-amz-server-side-encryption": "aws:kms",
        "x-amz-server-side-encryption-aws-kms-key-id": "arn:key",
        "x-amz-storage-class": "STANDARD_IA",
        "x-amz-tagging": "a%20b=c%2Bd",
        "x-amz-meta-colour": "blue",
    }
    assert (headers["content-type"], headers["if-none-match"]) == ("text/csv", "*")


GONE = b"<Error><Code>NoSuchKey</Code></Error>"


@pytest.mark.parametrize(
    ("mode", "status", "body", "error"),
    [
        (CREATE, 412, b"", ObjectExists),
        (IfMatch(ObjectVersion('"t"')), 412, b"", PreconditionFailed),
        (IfMatch(ObjectVersion('"t"')), 404, GONE, PreconditionFailed),
        (CREATE, 409, b"<Error><Code>ConditionalRequestConflict</Code></Error>", StoreUnavailable),
        (CREATE, 400, b"<Error><Code>BadDigest</Code></Error>", BytesCorrupted),
        (CREATE, 503, b"<Error><Code>SlowDown</Code></Error>", StoreUnavailable),
    ],
)
def test_what_a_refused_put_means(
    scripted: Any, reply: Any, mode: Any, status: int, body: bytes, error: type[Exception]
) -> None:
    scripted.answers(reply(status, {}, body))
    with pytest.raises(error):
        opened(scripted.url).put("k", b"bytes", mode=mode)


def test_a_missing_object_is_missing(scripted: Any, reply: Any) -> None:
    scripted.answers(reply(404, {}, GONE))
    with pytest.raises(ObjectNotFound):
        opened(scripted.url).get("k")


def test_an_option_only_obstore_knows_leaves_the_object_to_it(scripted: Any, reply: Any) -> None:
    scripted.answers(reply(200, {**DATED, "ETag": '"t"'}, b"bytes"))
    assert opened(scripted.url, request_payer="true").get("k") == b"bytes"
    assert scripted.seen[0].headers["x-amz-request-payer"] == "requester"


def test_an_etag_without_quotes_is_the_one_the_listing_has(scripted: Any, reply: Any) -> None:
    scripted.answers(reply(200, {**DATED, "ETag": "t"}, b"bytes"))
    reader = opened(scripted.url).open("k", size_bytes=5, if_match=ObjectVersion('"t"'))
    assert reader.info.version == ObjectVersion('"t"')


def test_a_body_of_unknown_length_is_no_object() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(b'HTTP/1.0 200 OK\r\nETag: "t"\r\nLast-Modified: x\r\n\r\nhalf of')

        thread = threading.Thread(target=serve)
        thread.start()
        with pytest.raises(StoreUnavailable, match="length"):
            opened(f"http://127.0.0.1:{server.getsockname()[1]}").get("k")
        thread.join()
