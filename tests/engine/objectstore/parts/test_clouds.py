"""What the emulators do not do, against a server that says what the clouds' documents say."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from holdfast.engine.config import Cloud, Site
from holdfast.engine.objectstore import CREATE, StoreAccess, fixed, open_store
from holdfast.engine.objectstore.access import Credentials
from holdfast.engine.objectstore.checksums import Checksums, azure_text, s3_text
from holdfast.engine.objectstore.errors import (
    BucketNotFound,
    BytesCorrupted,
    ObjectStoreError,
    PermissionRefused,
    PreconditionFailed,
    StoreUnavailable,
    UploadGone,
)
from holdfast.engine.objectstore.interface import ObjectVersion
from holdfast.engine.objectstore.parts import PartStore, Upload, UploadedPart, part_store
from holdfast.engine.objectstore.parts._credentials import KeptCredentials
from holdfast.engine.objectstore.parts.azure_login import account_sas

NOW = datetime(2026, 11, 22, 3, 0, tzinfo=UTC)
DATA = b"0123456789"
SUMS = Checksums.of(DATA)
AZURE_KEY = "c2VjcmV0IGtleSBvZiBhbiBhY2NvdW50"


def parts_of(cloud: Cloud, access: StoreAccess) -> PartStore:
    site = Site(cloud=cloud, region="eu-west-1", jurisdiction="EU", connection="c", bucket="bkt", prefix="pre")
    found = part_store(open_store("site", site, access, retry=None))
    assert found is not None
    return found


@pytest.fixture
def s3(scripted: Any) -> PartStore:
    login = fixed(access_key_id="AKIAEXAMPLE", secret_access_key="secret", token="session")
    return parts_of(Cloud.AWS, StoreAccess(endpoint=scripted.url, credentials=login))


@pytest.fixture
def azure(scripted: Any) -> PartStore:
    options = {"account_name": "account"}
    return parts_of(Cloud.AZURE, StoreAccess(scripted.url, options, fixed(access_key=AZURE_KEY)))


@pytest.fixture
def gcs(scripted: Any) -> PartStore:
    return parts_of(Cloud.GCP, StoreAccess(scripted.url, credentials=fixed(token="secret-token")))


def error(code: str) -> bytes:
    return f"<?xml version='1.0'?><Error><Code>{code}</Code></Error>".encode()


# -- S3 ----------------------------------------------------------------------------------------------------------------


def test_s3_is_told_the_checksum_and_signs_it(s3: PartStore, scripted: Any, reply: Any) -> None:
    scripted.answers(reply(200, {"ETag": '"tag"'}))
    part = s3.put_part(Upload("key", "id/+", NOW), 2, DATA, checksums=SUMS)
    assert part == UploadedPart(2, 10, '"tag"', SUMS.crc64nvme, SUMS.crc32c)
    (seen,) = scripted.seen
    assert seen.target == "/bkt/pre/key?partNumber=2&uploadId=id%2F%2B"
    assert seen.headers["x-amz-checksum-crc64nvme"] == s3_text(SUMS.crc64nvme or 0)
    assert seen.headers["x-amz-content-sha256"] == "UNSIGNED-PAYLOAD"
    assert seen.headers["x-amz-security-token"] == "session"
    assert "x-amz-checksum-crc64nvme" in seen.headers["authorization"]


@pytest.mark.parametrize("code", ["BadDigest", "InvalidDigest"])
def test_s3_refusing_a_checksum_is_corruption(s3: PartStore, scripted: Any, reply: Any, code: str) -> None:
    scripted.answers(reply(400, {}, error(code)))
    with pytest.raises(BytesCorrupted):
        s3.put_part(Upload("key", "id", NOW), 1, DATA, checksums=SUMS)
    with pytest.raises(BytesCorrupted):
        s3.complete(Upload("key", "id", NOW), [UploadedPart(1, 10, "t")], size_bytes=10, checksums=SUMS)


def test_s3_answering_another_checksum_is_corruption(s3: PartStore, scripted: Any, reply: Any) -> None:
    scripted.answers(reply(200, {"ETag": '"t"', "x-amz-checksum-crc64nvme": s3_text(1)}))
    with pytest.raises(BytesCorrupted):
        s3.put_part(Upload("key", "id", NOW), 1, DATA, checksums=SUMS)


def test_s3_failing_in_the_body_of_a_success_is_no_success(s3: PartStore, scripted: Any, reply: Any) -> None:
    scripted.answers(reply(200, {}, b"   " + error("InternalError")))
    with pytest.raises(StoreUnavailable) as raised:
        s3.complete(Upload("key", "id", NOW), [UploadedPart(1, 10, "t")], size_bytes=10, checksums=SUMS, mode=CREATE)
    assert raised.value.outcome_unknown
    sent = scripted.seen[0]
    assert sent.headers["if-none-match"] == "*"
    assert sent.headers["x-amz-checksum-type"] == "FULL_OBJECT"
    assert sent.headers["x-amz-mp-object-size"] == "10"


def test_s3_asks_for_the_checksum_and_the_key_of_the_site(scripted: Any, reply: Any) -> None:
    site = Site(
        cloud=Cloud.AWS, region="eu-west-1", jurisdiction="EU", connection="c", bucket="bkt", kms_key="alias/key"
    )
    parts = part_store(open_store("s", site, StoreAccess(scripted.url, anonymous=True), retry=None))
    assert parts is not None
    made = b"<InitiateMultipartUploadResult><UploadId>abc</UploadId></InitiateMultipartUploadResult>"
    scripted.answers(reply(200, {}, made))
    upload = parts.begin("key", size_bytes=10, content_type="text/plain", metadata={"a": "b"})
    assert upload.upload_id == "abc"
    (seen,) = scripted.seen
    wanted = {
        "x-amz-checksum-algorithm": "CRC64NVME",
        "x-amz-checksum-type": "FULL_OBJECT",
        "x-amz-server-side-encryption": "aws:kms",
        "x-amz-server-side-encryption-aws-kms-key-id": "alias/key",
        "content-type": "text/plain",
        "x-amz-meta-a": "b",
    }
    assert wanted.items() <= seen.headers.items()
    assert "authorization" not in seen.headers


def test_s3_pages_are_read_to_their_end(s3: PartStore, scripted: Any, reply: Any) -> None:
    def page(number: int, more: str) -> bytes:
        part = f"<Part><PartNumber>{number}</PartNumber><ETag>t{number}</ETag><Size>5</Size></Part>"
        marker = f"<IsTruncated>{more}</IsTruncated><NextPartNumberMarker>{number}</NextPartNumberMarker>"
        return f'<ListPartsResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">{part}{marker}</ListPartsResult>'.encode()

    scripted.answers(reply(200, {}, page(1, "true")), reply(200, {}, page(2, "true")), reply(200, {}, page(3, "false")))
    assert [part.number for part in s3.parts(Upload("key", "id", NOW))] == [1, 2, 3]
    markers = [parse_qs(urlsplit(seen.target).query)["part-number-marker"] for seen in scripted.seen]
    assert markers == [["0"], ["1"], ["2"]]


def test_s3_unfinished_uploads_come_with_their_own_keys(s3: PartStore, scripted: Any, reply: Any) -> None:
    def page(key: str, more: str) -> bytes:
        return (
            f"<ListMultipartUploadsResult><EncodingType>url</EncodingType><IsTruncated>{more}</IsTruncated>"
            f"<NextKeyMarker>{key}</NextKeyMarker><NextUploadIdMarker>id</NextUploadIdMarker>"
            f"<Upload><Key>{key}</Key><UploadId>id</UploadId><Initiated>2026-11-22T03:00:00.000Z</Initiated></Upload>"
            "</ListMultipartUploadsResult>"
        ).encode()

    scripted.answers(reply(200, {}, page("pre/a%20b", "true")), reply(200, {}, page("pre/c", "false")))
    assert list(s3.uploads()) == [Upload("a b", "id", NOW), Upload("c", "id", NOW)]
    assert parse_qs(urlsplit(scripted.seen[1].target).query)["key-marker"] == ["pre/a b"]


def test_s3_of_a_server_without_if_match_is_still_pinned(s3: PartStore, scripted: Any, reply: Any) -> None:
    scripted.answers(reply(206, {"ETag": '"new"'}, DATA))
    with pytest.raises(PreconditionFailed):
        s3.read_into("key", 0, memoryview(bytearray(10)), if_match=ObjectVersion('"old"'))


def test_s3_composite_checksums_say_nothing_of_the_whole(s3: PartStore, scripted: Any, reply: Any) -> None:
    composite = {"ETag": '"e"', "Content-Length": "10", "x-amz-checksum-crc32c": "4waSgw==-3"}
    scripted.answers(reply(200, composite))
    assert s3.stored_checksums("key", ObjectVersion('"e"')) is None
    whole = {"ETag": '"e"', "Content-Length": "10", "x-amz-checksum-crc64nvme": s3_text(5)}
    scripted.answers(reply(200, whole))
    assert s3.stored_checksums("key", ObjectVersion('"e"')) == Checksums(5, None, 10)


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (403, "AccessDenied", PermissionRefused),
        (400, "ExpiredToken", PermissionRefused),
        (404, "NoSuchBucket", BucketNotFound),
        (404, "NoSuchUpload", UploadGone),
        (503, "SlowDown", StoreUnavailable),
        (301, "PermanentRedirect", ObjectStoreError),
    ],
)
def test_s3_refusals_have_their_kind(
    s3: PartStore, scripted: Any, reply: Any, status: int, code: str, kind: type[Exception]
) -> None:
    scripted.answers(reply(status, {}, error(code)))
    with pytest.raises(kind):
        s3.put_part(Upload("key", "id", NOW), 1, DATA, checksums=SUMS)


# -- Azure -------------------------------------------------------------------------------------------------------------


def test_azure_is_told_the_checksum(azure: PartStore, scripted: Any, reply: Any) -> None:
    upload = azure.begin("key", size_bytes=10, content_type="text/plain", metadata={"a": "b"})
    scripted.answers(reply(201))
    part = azure.put_part(upload, 1, DATA, checksums=SUMS)
    (seen,) = scripted.seen
    assert seen.headers["x-ms-content-crc64"] == azure_text(SUMS.crc64nvme or 0)
    scripted.answers(reply(201, {"ETag": '"e"'}))
    azure.complete(upload, [part], size_bytes=10, checksums=SUMS, mode=CREATE)
    (seen,) = scripted.seen
    assert part.tag.encode() in seen.body
    wanted = {"if-none-match": "*", "x-ms-blob-content-type": "text/plain", "x-ms-meta-a": "b"}
    assert wanted.items() <= seen.headers.items()


def test_azure_refusing_a_checksum_is_corruption(azure: PartStore, scripted: Any, reply: Any) -> None:
    upload = azure.begin("key", size_bytes=10)
    scripted.answers(reply(400, {"x-ms-error-code": "Crc64Mismatch"}))
    with pytest.raises(BytesCorrupted):
        azure.put_part(upload, 1, DATA, checksums=SUMS)
    scripted.answers(reply(201, {"x-ms-content-crc64": azure_text(1)}))
    with pytest.raises(BytesCorrupted):
        azure.put_part(upload, 1, DATA, checksums=SUMS)


@pytest.mark.parametrize("about", ["x-ms-has-legal-hold", "x-ms-has-immutability-policy"])
def test_azure_makes_nothing_in_a_container_that_keeps_everything(
    azure: PartStore, scripted: Any, reply: Any, about: str
) -> None:
    upload = azure.begin("key", size_bytes=10)
    scripted.answers(reply(201))
    block = azure.put_part(upload, 1, DATA, checksums=SUMS).tag
    blocks = f"<Block><Name>{block}</Name><Size>10</Size></Block>"
    staged = f"<BlockList><UncommittedBlocks>{blocks}</UncommittedBlocks></BlockList>"

    def answer(seen: Any) -> Any:
        if "blocklist" in seen.target:
            return reply(200, {}, staged.encode())
        if "restype=container" in seen.target and seen.method == "HEAD":
            return reply(200, {about: "true"})
        return (
            reply(404, {"x-ms-error-code": "BlobNotFound"})
            if "comp=list" not in seen.target
            else reply(200, {}, b"<EnumerationResults><Blobs/></EnumerationResults>")
        )

    scripted.answers(answer)
    azure.abort(upload)
    assert all(seen.method in ("GET", "HEAD") for seen in scripted.seen)


def test_azure_signs_as_its_own_library_does() -> None:
    from azure.storage.blob import AccountSasPermissions, ResourceTypes, generate_account_sas

    until = datetime(2026, 11, 22, 15, 0, tzinfo=UTC)
    theirs = parse_qs(
        generate_account_sas(
            "account",
            AZURE_KEY,
            resource_types=ResourceTypes(container=True, object=True),
            permission=AccountSasPermissions(
                read=True, write=True, delete=True, list=True, add=True, create=True, tag=True
            ),
            expiry=until,
        )
    )
    assert parse_qs(account_sas("account", AZURE_KEY, until, theirs["sv"][0])) == theirs


@pytest.mark.parametrize(("values", "name"), [({"token": "t"}, "authorization"), ({"sas_token": "?sv=1&sig=s"}, None)])
def test_azure_takes_a_token_or_a_signature(scripted: Any, reply: Any, values: Any, name: str | None) -> None:
    parts = parts_of(Cloud.AZURE, StoreAccess(scripted.url, {"account_name": "a"}, fixed(**values)))
    upload = parts.begin("key", size_bytes=10)
    scripted.answers(reply(201))
    parts.put_part(upload, 1, DATA, checksums=SUMS)
    (seen,) = scripted.seen
    assert seen.headers.get("authorization") == ("Bearer t" if name else None)
    assert ("sig=s" in seen.target) == (name is None)


# -- Google Cloud ------------------------------------------------------------------------------------------------------


def begun(gcs: PartStore, scripted: Any, reply: Any, size_bytes: int, part_bytes: int = 256 * 1024) -> Upload:
    target = "/upload/storage/v1/b/bkt/o?uploadType=resumable&upload_id=secret"
    scripted.answers(reply(200, {"Location": f"https://elsewhere.example{target}"}))
    upload = gcs.begin("key", size_bytes=size_bytes, mode=CREATE, part_bytes=part_bytes, metadata={"a": "b"})
    assert (
        scripted.seen[0].target == "/upload/storage/v1/b/bkt/o?uploadType=resumable&name=pre%2Fkey&ifGenerationMatch=0"
    )
    assert json.loads(scripted.seen[0].body) == {"metadata": {"a": "b"}}
    return upload


def test_google_taking_part_of_a_part_gets_the_rest(gcs: PartStore, scripted: Any, reply: Any) -> None:
    part = 256 * 1024
    data = bytes(range(256)) * (2 * part // 256)
    upload = begun(gcs, scripted, reply, len(data) + part)
    scripted.answers(reply(308, {"Range": f"bytes=0-{part // 2 - 1}"}), reply(308, {"Range": f"bytes=0-{part - 1}"}))
    gcs.put_part(upload, 1, data[:part], checksums=Checksums.of(data[:part]))
    first, second = scripted.seen
    assert first.headers["content-range"] == f"bytes 0-{part - 1}/*"
    assert second.headers["content-range"] == f"bytes {part // 2}-{part - 1}/*"
    assert second.body == data[part // 2 : part]


@pytest.mark.parametrize(("size_bytes", "kept"), [(1, 1), (512 * 1024, 256 * 1024), (512 * 1024 + 1, 1)])
def test_of_the_last_part_google_gets_all_but_a_granule_at_once(
    gcs: PartStore, scripted: Any, reply: Any, size_bytes: int, kept: int
) -> None:
    """What is kept until the end is memory the caller's buffers do not account for."""
    data = bytes(range(251)) * (size_bytes // 251 + 1)
    data, sums = data[:size_bytes], Checksums.of(data[:size_bytes])
    upload = begun(gcs, scripted, reply, size_bytes, 1 << 20)
    if size_bytes > kept:
        scripted.answers(reply(308, {"Range": f"bytes=0-{size_bytes - kept - 1}"}))
    part = gcs.put_part(upload, 1, data, checksums=sums)
    if size_bytes > kept:
        [sent] = scripted.seen
        assert (sent.headers["content-range"], sent.body) == (f"bytes 0-{size_bytes - kept - 1}/*", data[:-kept])
    scripted.answers(reply(400, {}, b"crc32c"))
    with pytest.raises(BytesCorrupted):
        gcs.complete(upload, [part], size_bytes=size_bytes, checksums=sums, mode=CREATE)
    [sent] = scripted.seen
    assert sent.headers["content-range"] == f"bytes {size_bytes - kept}-{size_bytes - 1}/{size_bytes}"
    assert sent.body == data[-kept:]


def test_google_gets_the_size_and_the_checksum_with_the_last_part(gcs: PartStore, scripted: Any, reply: Any) -> None:
    upload = begun(gcs, scripted, reply, 10)
    part = gcs.put_part(upload, 1, DATA, checksums=SUMS)
    resource = json.dumps({"generation": "7", "crc32c": "AAAAAA=="}).encode()
    scripted.answers(reply(200, {}, resource))
    with pytest.raises(BytesCorrupted):  # another checksum: the object is removed again
        gcs.complete(upload, [part], size_bytes=10, checksums=SUMS, mode=CREATE)
    sent, removed = scripted.seen
    assert (sent.headers["content-range"], sent.body) == ("bytes 0-9/10", DATA)
    assert sent.headers["x-goog-hash"].startswith("crc32c=")
    assert (removed.method, removed.target) == ("DELETE", "/storage/v1/b/bkt/o/pre%2Fkey?ifGenerationMatch=7")


@pytest.mark.parametrize("target", ["/upload/storage/v1/b/other/o?upload_id=x", "http://evil.example/", "/"])
def test_a_token_is_sent_to_no_other_address(gcs: PartStore, scripted: Any, reply: Any, target: str) -> None:
    upload = begun(gcs, scripted, reply, 10)
    scripted.seen.clear()
    head = upload.upload_id.split(":", 4)[:4]
    with pytest.raises(UploadGone):
        gcs.parts(Upload("key", ":".join([*head, target]), NOW))
    assert scripted.seen == []


@pytest.mark.parametrize("status", [404, 410, 499])
def test_google_forgetting_an_upload_is_told(gcs: PartStore, scripted: Any, reply: Any, status: int) -> None:
    upload = begun(gcs, scripted, reply, 10)
    scripted.answers(reply(status))
    with pytest.raises(UploadGone):
        gcs.parts(upload)


def test_an_upload_id_is_not_printed() -> None:
    assert "secret" not in repr(Upload("key", "secret", NOW))


# -- credentials -------------------------------------------------------------------------------------------------------


def test_credentials_are_kept_until_shortly_before_their_end() -> None:
    now = [NOW]
    asked: list[datetime] = []

    def provider() -> Credentials:
        asked.append(now[0])
        return Credentials({"token": str(len(asked))}, NOW + timedelta(minutes=10 * len(asked)))

    kept = KeptCredentials(provider, "store", lambda: now[0])
    assert kept.values()["token"] == kept.values()["token"] == "1"
    now[0] = NOW + timedelta(minutes=8, seconds=59)
    assert kept.values()["token"] == "1"
    now[0] = NOW + timedelta(minutes=9, seconds=1)
    assert kept.values()["token"] == "2"


def test_a_login_that_fails_says_so_without_its_secret(scripted: Any) -> None:
    def provider() -> Credentials:
        raise OSError("no answer from the login")

    parts = parts_of(Cloud.GCP, StoreAccess(scripted.url, credentials=provider))
    with pytest.raises(PermissionRefused, match="no answer from the login"):
        parts.begin("key", size_bytes=10)


def test_the_environments_credentials_of_aws_are_found(
    scripted: Any, reply: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAFROMENV")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.delenv("AWS_SESSION_TOKEN", raising=False)
    parts = parts_of(Cloud.AWS, StoreAccess(endpoint=scripted.url))
    scripted.answers(reply(200, {"ETag": '"t"'}))
    parts.put_part(Upload("key", "id", NOW), 1, DATA, checksums=SUMS)
    assert "Credential=AKIAFROMENV/" in scripted.seen[0].headers["authorization"]


def test_a_service_accounts_key_logs_in(scripted: Any, reply: Any) -> None:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import rsa

    private = rsa.generate_private_key(65537, 2048).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    account = {
        "type": "service_account",
        "client_email": "robot@example",
        "private_key": private.decode(),
        "token_uri": f"{scripted.url}/token",
    }
    access = StoreAccess(scripted.url, {"service_account_key": json.dumps(account)})
    token = json.dumps({"access_token": "made", "expires_in": 3600, "token_type": "Bearer"}).encode()
    location = "/upload/storage/v1/b/bkt/o?upload_id=x"
    scripted.answers(
        reply(200, {"Content-Type": "application/json"}, token), reply(200, {"Location": scripted.url + location})
    )
    parts_of(Cloud.GCP, access).begin("key", size_bytes=10)
    asked, begun_with = scripted.seen
    assert asked.target == "/token"
    assert begun_with.headers["authorization"] == "Bearer made"
