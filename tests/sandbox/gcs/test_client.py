"""What Google's own client library gets from the JSON API."""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import os
import socket
import time
from typing import Any

import google_crc32c
import httpx
import pytest
from google.api_core.exceptions import BadRequest, Conflict, Forbidden, NotFound, PreconditionFailed
from google.auth.credentials import AnonymousCredentials
from google.cloud import storage
from google.cloud.storage import transfer_manager
from google.cloud.storage.exceptions import DataCorruption

from sandbox.gcs.web import HTTP

MIB = 1024 * 1024


@pytest.fixture
def client(server: Any) -> storage.Client:
    return storage.Client(project="p", credentials=AnonymousCredentials(), client_options={"api_endpoint": server.url})


@pytest.fixture
def home(client: storage.Client, bucket: str) -> storage.Bucket:
    return client.bucket(bucket)


# Content


@pytest.mark.parametrize("size", [0, 1, 40_000, 3 * MIB + 7])
@pytest.mark.parametrize("chunk", [None, 256 * 1024], ids=["multipart", "resumable"])
def test_an_upload_comes_back_whole_with_its_checksums(home: storage.Bucket, size: int, chunk: int | None) -> None:
    data = os.urandom(size)
    blob = home.blob("dir/a b é?#.bin", chunk_size=chunk)
    blob.upload_from_file(io.BytesIO(data), size=None if chunk else size)
    assert blob.download_as_bytes() == data
    assert blob.md5_hash == base64.b64encode(hashlib.md5(data).digest()).decode()
    assert blob.crc32c == base64.b64encode(google_crc32c.Checksum(data).digest()).decode()
    assert blob.size == size


def test_a_content_that_looks_like_its_own_boundary_is_kept(server: Any, bucket: str) -> None:
    data = b"--b\r\n\r\n--b-\r\n--bx\r\n--\r\n--b -- "
    body = b'--b\r\nContent-Type: application/json\r\n\r\n{"name":"k"}\r\n--b\r\n\r\n' + data + b"\r\n--b--"
    target = f"{server.url}/upload/storage/v1/b/{bucket}/o"
    headers = {"content-type": 'multipart/related; boundary="b"'}
    HTTP.post(target, params={"uploadType": "multipart"}, content=body, headers=headers).raise_for_status()
    assert HTTP.get(f"{server.url}/{bucket}/k").content == data


def test_a_multipart_upload_cut_short_leaves_nothing(server: Any, bucket: str) -> None:
    body = b'--b\r\nContent-Type: application/json\r\n\r\n{"name":"k"}\r\n--b\r\n\r\ndata'
    target = f"{server.url}/upload/storage/v1/b/{bucket}/o"
    headers = {"content-type": "multipart/related; boundary=b"}
    answer = HTTP.post(target, params={"uploadType": "multipart"}, content=body, headers=headers)
    assert answer.status_code == 400
    assert HTTP.get(f"{server.url}/{bucket}/k").status_code == 404


def test_ranges_and_their_limits(home: storage.Bucket) -> None:
    blob = home.blob("k")
    blob.upload_from_string(b"0123456789")
    assert blob.download_as_bytes(start=2, end=4, checksum=None) == b"234"
    assert blob.download_as_bytes(start=7, checksum=None) == b"789"
    assert blob.download_as_bytes(start=7, end=99, checksum=None) == b"789"
    target = f"{home.client._connection.API_BASE_URL}/storage/v1/b/{home.name}/o/k"
    answer = HTTP.get(target, params={"alt": "media"}, headers={"range": "bytes=10-"})
    assert (answer.status_code, answer.headers["content-range"]) == (416, "bytes */10")


@pytest.mark.parametrize("field", ["crc32c", "md5_hash"])
def test_a_wrong_checksum_is_refused_and_nothing_is_written(home: storage.Bucket, field: str) -> None:
    blob = home.blob("k")
    setattr(blob, field, base64.b64encode(b"\0" * (4 if field == "crc32c" else 16)).decode())
    with pytest.raises(BadRequest, match="doesn't match"):
        blob.upload_from_string(b"data", checksum=None)
    assert not home.blob("k").exists()


def test_a_wrong_checksum_ends_a_resumable_upload_without_an_object(server: Any, bucket: str) -> None:
    session = start_resumable(server, bucket, "k", {"crc32c": "AAAAAA=="})
    assert HTTP.put(session, content=b"data").status_code == 400
    assert HTTP.put(session, headers={"content-range": "bytes */*"}).status_code == 499
    assert HTTP.get(f"{server.url}/{bucket}/k").status_code == 404


def test_the_client_notices_corruption_by_the_hash_header(home: storage.Bucket, monkeypatch: Any) -> None:
    home.blob("k").upload_from_string(b"data")
    monkeypatch.setattr(google_crc32c.Checksum, "digest", lambda _: b"\0\0\0\0")
    with pytest.raises(DataCorruption):
        home.blob("k").download_as_bytes(checksum="crc32c")


def test_gzip_is_taken_off_for_a_client_that_does_not_take_it(server: Any, home: storage.Bucket) -> None:
    plain = b"holdfast " * 300_000
    packed = gzip.compress(plain)
    blob = home.blob("k")
    blob.content_encoding = "gzip"
    blob.upload_from_string(packed, content_type="text/plain")
    assert blob.download_as_bytes(raw_download=True) == packed
    assert blob.download_as_bytes() == plain
    target = f"{server.url}/{home.name}/k"
    answer = HTTP.get(target, headers={"accept-encoding": "identity"})
    assert (answer.content, answer.headers.get("content-encoding")) == (plain, None)
    blob.cache_control = "no-transform"
    blob.patch()
    with HTTP.stream("GET", target, headers={"accept-encoding": "identity"}) as kept:
        assert b"".join(kept.iter_raw()) == packed


# Resumable uploads


def start_resumable(server: Any, bucket: str, name: str, resource: dict[str, Any] | None = None, **params: Any) -> str:
    target = f"{server.url}/upload/storage/v1/b/{bucket}/o"
    query = {"uploadType": "resumable", "name": name, **params}
    answer = HTTP.post(target, params=query, json=resource or {})
    answer.raise_for_status()
    return str(answer.headers["location"])


def status(session: str) -> httpx.Response:
    return HTTP.put(session, headers={"content-range": "bytes */*"})


def test_a_chunked_upload_reports_what_it_has(server: Any, bucket: str) -> None:
    data = os.urandom(MIB + 5)
    session = start_resumable(server, bucket, "k")
    assert (status(session).status_code, status(session).headers.get("range")) == (308, None)
    half = MIB // 2
    answer = HTTP.put(session, content=data[:half], headers={"content-range": f"bytes 0-{half - 1}/*"})
    assert (answer.status_code, answer.headers["range"]) == (308, f"bytes=0-{half - 1}")
    rest = {"content-range": f"bytes {half}-{MIB + 4}/{MIB + 5}"}
    assert HTTP.put(session, content=data[half:], headers=rest).status_code == 200
    assert HTTP.get(f"{server.url}/{bucket}/k").content == data


def test_a_chunk_that_is_no_multiple_is_kept_down_to_one(server: Any, bucket: str) -> None:
    session = start_resumable(server, bucket, "k")
    answer = HTTP.put(session, content=b"x" * 300_000, headers={"content-range": "bytes 0-299999/*"})
    assert (answer.status_code, answer.headers["range"]) == (308, "bytes=0-262143")


def test_a_gap_is_refused_and_what_is_sent_twice_is_ignored(server: Any, bucket: str) -> None:
    data = os.urandom(MIB)
    session = start_resumable(server, bucket, "k")
    gap = HTTP.put(
        session, content=data[512 * 1024 :], headers={"content-range": f"bytes {512 * 1024}-{MIB - 1}/{MIB}"}
    )
    assert gap.status_code == 400
    HTTP.put(session, content=data[: 512 * 1024], headers={"content-range": f"bytes 0-{512 * 1024 - 1}/*"})
    # Overlaps by 256 KiB with what is there.
    start = 256 * 1024
    again = HTTP.put(session, content=data[start:], headers={"content-range": f"bytes {start}-{MIB - 1}/{MIB}"})
    assert again.status_code == 200
    assert HTTP.get(f"{server.url}/{bucket}/k").content == data


def test_a_status_query_never_finishes_an_upload_that_is_short(server: Any, bucket: str) -> None:
    session = start_resumable(server, bucket, "k")
    HTTP.put(session, content=b"x" * 256 * 1024, headers={"content-range": "bytes 0-262143/*"})
    assert HTTP.put(session, headers={"content-range": "bytes */999999"}).status_code == 308
    assert HTTP.get(f"{server.url}/{bucket}/k").status_code == 404
    assert HTTP.put(session, headers={"content-range": "bytes */262144"}).status_code == 200


def test_a_finished_upload_answers_again_but_makes_no_second_object(server: Any, bucket: str) -> None:
    session = start_resumable(server, bucket, "k")
    first = HTTP.put(session, content=b"data").json()
    assert status(session).json() == first
    assert HTTP.put(session, content=b"data").json()["generation"] == first["generation"]
    assert HTTP.put(session, content=b"other data").status_code == 400


def test_a_client_that_knows_no_308_is_told_in_a_header_that_the_upload_is_not_complete(
    server: Any, bucket: str
) -> None:
    session = start_resumable(server, bucket, "k")
    asked = {"content-range": f"bytes 0-{MIB - 1}/{2 * MIB}", "x-guploader-no-308": "yes"}
    answer = HTTP.put(session, content=bytes(MIB), headers=asked)
    assert (answer.status_code, answer.headers["x-http-status-code-override"]) == (200, "308")
    assert answer.headers["range"] == f"bytes=0-{MIB - 1}"


def test_a_cancelled_upload_is_over(server: Any, bucket: str) -> None:
    session = start_resumable(server, bucket, "k")
    assert HTTP.delete(session).status_code == 499
    assert status(session).status_code == 499
    assert status(session.replace("upload_id=", "upload_id=0")).status_code == 404


def test_a_resumable_upload_checks_its_precondition_at_its_end(server: Any, bucket: str) -> None:
    session = start_resumable(server, bucket, "k", ifGenerationMatch="0")
    HTTP.put(f"{server.url}/{bucket}/k", content=b"faster").raise_for_status()
    assert HTTP.put(session, content=b"slower").status_code == 412
    assert HTTP.get(f"{server.url}/{bucket}/k").content == b"faster"


def test_a_connection_that_breaks_keeps_what_arrived(server: Any, bucket: str) -> None:
    data = os.urandom(3 * MIB)
    session = start_resumable(server, bucket, "k")

    def breaking() -> Any:
        yield data[: 2 * MIB]
        raise ConnectionAbortedError

    with pytest.raises(ConnectionAbortedError):
        HTTP.put(session, content=breaking(), headers={"content-range": f"bytes 0-{3 * MIB - 1}/{3 * MIB}"})
    # Whether the server has noticed yet or not: what it says it has, it keeps.
    answer = status(session)
    received = int(answer.headers["range"].rpartition("-")[2]) + 1 if "range" in answer.headers else 0
    assert received in range(0, 2 * MIB + 1, 256 * 1024)
    rest = {"content-range": f"bytes {received}-{3 * MIB - 1}/{3 * MIB}"}
    assert HTTP.put(session, content=data[received:], headers=rest).status_code == 200
    assert HTTP.get(f"{server.url}/{bucket}/k").content == data


def test_a_request_that_hangs_loses_the_upload_to_the_next_one(server: Any, bucket: str) -> None:
    data = os.urandom(MIB)
    session = start_resumable(server, bucket, "k")
    target = httpx.URL(session)
    with socket.create_connection(("127.0.0.1", server.port)) as hanging:
        head = f"PUT {target.raw_path.decode()} HTTP/1.1\r\nHost: x\r\nContent-Length: {MIB}\r\n"
        hanging.sendall(head.encode() + f"Content-Range: bytes 0-{MIB - 1}/{MIB}\r\n\r\n".encode() + data[:1000])
        deadline = time.monotonic() + 10
        while not list((server.data / "blobs").glob(f"*/{target.params['upload_id']}")):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert status(session).status_code == 308
        assert HTTP.put(session, content=data).status_code == 200
        hanging.sendall(b"z" * (MIB - 1000))
        assert b" 503 " in hanging.recv(65536).split(b"\r\n")[0]
    assert HTTP.get(f"{server.url}/{bucket}/k").content == data


# Preconditions


def test_create_only_and_compare_and_swap(home: storage.Bucket) -> None:
    blob = home.blob("k")
    blob.upload_from_string(b"1", if_generation_match=0)
    with pytest.raises(PreconditionFailed):
        home.blob("k").upload_from_string(b"2", if_generation_match=0)
    old = blob.generation
    blob.upload_from_string(b"2", if_generation_match=old)
    assert blob.generation > old
    with pytest.raises(PreconditionFailed):
        home.blob("k").upload_from_string(b"3", if_generation_match=old)
    assert blob.download_as_bytes() == b"2"


def test_preconditions_on_reading(home: storage.Bucket) -> None:
    blob = home.blob("k")
    blob.upload_from_string(b"1")
    other = blob.generation + 1
    with pytest.raises(PreconditionFailed):
        home.blob("k").reload(if_generation_match=other)
    with pytest.raises(PreconditionFailed):
        home.blob("k").download_as_bytes(if_generation_match=other)
    with pytest.raises(PreconditionFailed):
        home.blob("k").reload(if_metageneration_match=2)
    with pytest.raises(PreconditionFailed):
        home.blob("k").reload(if_etag_match="wrong")
    home.blob("k").reload(if_generation_not_match=other, if_etag_match=blob.etag)
    target = f"{home.client._connection.API_BASE_URL}/storage/v1/b/{home.name}/o/k"
    assert HTTP.get(target, params={"ifGenerationNotMatch": blob.generation}).status_code == 304
    assert HTTP.get(target, params={"ifMetagenerationNotMatch": 1}).status_code == 304
    assert HTTP.get(target, headers={"if-none-match": blob.etag}).status_code == 304


def test_preconditions_on_delete(home: storage.Bucket) -> None:
    blob = home.blob("k")
    blob.upload_from_string(b"1")
    for wrong in ({"if_generation_match": blob.generation + 1}, {"if_metageneration_match": 2}):
        with pytest.raises(PreconditionFailed):
            home.blob("k").delete(**wrong)
    with pytest.raises(PreconditionFailed):
        home.blob("k").delete(if_generation_not_match=blob.generation)
    blob.delete(if_generation_match=blob.generation, if_metageneration_match=1)
    with pytest.raises(NotFound):
        blob.delete()


def test_preconditions_on_patch(home: storage.Bucket) -> None:
    blob = home.blob("k")
    blob.upload_from_string(b"1")
    blob.metadata = {"a": "1", "b": "2"}
    blob.patch(if_metageneration_match=1)
    assert blob.metageneration == 2
    blob.metadata = {"a": "3"}
    with pytest.raises(PreconditionFailed):
        blob.patch(if_metageneration_match=1)
    with pytest.raises(PreconditionFailed):
        blob.patch(if_generation_match=1)
    blob.reload()
    assert blob.metadata == {"a": "1", "b": "2"}


def test_preconditions_on_compose_and_rewrite(home: storage.Bucket) -> None:
    one, two = home.blob("1"), home.blob("2")
    one.upload_from_string(b"1")
    two.upload_from_string(b"2")
    with pytest.raises(PreconditionFailed):
        home.blob("k").compose([one, two], if_generation_match=5)
    with pytest.raises(PreconditionFailed):
        home.blob("k").compose([one, two], if_source_generation_match=[one.generation, one.generation])
    home.blob("k").compose([one, two], if_generation_match=0)
    with pytest.raises(PreconditionFailed):
        home.blob("k").rewrite(one, if_generation_match=0)
    with pytest.raises(PreconditionFailed):
        home.blob("k").rewrite(one, if_source_generation_match=1)
    with pytest.raises(PreconditionFailed):
        home.copy_blob(one, home, "k", if_generation_match=0)
    assert home.blob("k").download_as_bytes() == b"12"


# Metadata, copies, compositions


def test_patch_merges_and_update_replaces(home: storage.Bucket) -> None:
    blob = home.blob("k")
    blob.cache_control = "no-store"
    blob.metadata = {"a": "1", "ü": "é"}
    blob.upload_from_string(b"1", content_type="text/x")
    blob.metadata = {"a": None, "c": "3"}
    blob.patch()
    assert (blob.metadata, blob.cache_control, blob.content_type) == ({"ü": "é", "c": "3"}, "no-store", "text/x")
    blob.metadata = {"d": "4"}
    blob.cache_control = None
    blob.update()
    blob.reload()
    assert (blob.metadata, blob.cache_control, blob.content_type) == ({"d": "4"}, None, "text/x")


def test_compose_joins_also_into_one_of_its_sources(home: storage.Bucket) -> None:
    parts = [os.urandom(size) for size in (0, 10, 70_000, 2 * MIB)]
    blobs = [home.blob(str(index)) for index in range(len(parts))]
    for blob, data in zip(blobs, parts, strict=True):
        blob.upload_from_string(data, content_type="text/x")
    target = home.blob("3")
    target.compose([blobs[3], *blobs[:3]])
    data = parts[3] + b"".join(parts[:3])
    assert target.download_as_bytes() == data
    assert target.crc32c == base64.b64encode(google_crc32c.Checksum(data).digest()).decode()
    assert (target.md5_hash, target.component_count) == (None, 4)
    for blob in blobs[:3]:
        blob.delete()
    assert home.blob("3").download_as_bytes() == data


def test_a_rewrite_shares_content_that_outlives_its_source(client: storage.Client, home: storage.Bucket) -> None:
    data = os.urandom(MIB)
    source = home.blob("a")
    source.metadata = {"k": "v"}
    source.upload_from_string(data)
    target = home.blob("b")
    assert target.rewrite(source) == (None, MIB, MIB)
    source.delete()
    assert target.download_as_bytes() == data
    target.reload()
    assert target.metadata == {"k": "v"}
    target.update_storage_class("NEARLINE")
    target.reload()
    assert target.storage_class == "NEARLINE"
    assert target.download_as_bytes() == data


def test_a_move_is_one_step(home: storage.Bucket) -> None:
    blob = home.blob("a")
    blob.upload_from_string(b"1")
    home.move_blob(blob, "b", if_generation_match=0)
    assert home.blob("b").download_as_bytes() == b"1"
    assert not home.blob("a").exists()


def test_the_transfer_manager_uploads_parts_through_the_xml_api(home: storage.Bucket, tmp_path: Any) -> None:
    data = os.urandom(12 * MIB)
    (tmp_path / "f").write_bytes(data)
    transfer_manager.upload_chunks_concurrently(
        str(tmp_path / "f"), home.blob("k"), chunk_size=5 * MIB, worker_type=transfer_manager.THREAD
    )
    assert home.blob("k").download_as_bytes() == data


def test_a_batch_carries_out_every_call_on_its_own(client: storage.Client, home: storage.Bucket) -> None:
    for name in "abc":
        home.blob(name).upload_from_string(b"1")
    with client.batch(raise_exception=False) as batch:
        home.blob("a").delete()
        home.blob("x").delete()
        home.blob("c é").delete()
        home.blob("b").delete()
    assert [response.status_code for response in batch._responses] == [204, 404, 404, 204]
    assert [blob.name for blob in client.list_blobs(home)] == ["c"]


# Listing


def test_list_in_pages_with_prefixes(client: storage.Client, home: storage.Bucket) -> None:
    names = ["a", "a/", "a/1", "a/2", "a/b/1", "a/b/2", "b/1", "c", "é", "\U0001f600"]
    for name in reversed(names):
        home.blob(name).upload_from_string(b"1")
    for size in (1, 2, 3, 100):
        assert [blob.name for blob in client.list_blobs(home, page_size=size)] == names
        folded = client.list_blobs(home, delimiter="/", page_size=size)
        assert [blob.name for blob in folded] == ["a", "c", "é", "\U0001f600"]
        assert folded.prefixes == {"a/", "b/"}
        below = client.list_blobs(home, prefix="a/", delimiter="/", page_size=size)
        assert [blob.name for blob in below] == ["a/", "a/1", "a/2"]
        assert below.prefixes == {"a/b/"}
    trailing = client.list_blobs(home, delimiter="/", include_trailing_delimiter=True)
    assert [blob.name for blob in trailing] == ["a", "a/", "c", "é", "\U0001f600"]
    between = client.list_blobs(home, start_offset="a/2", end_offset="c")
    assert [blob.name for blob in between] == ["a/2", "a/b/1", "a/b/2", "b/1"]
    assert [blob.name for blob in client.list_blobs(home, match_glob="a/*")] == ["a/", "a/1", "a/2"]
    assert [blob.name for blob in client.list_blobs(home, match_glob="**/{1,c}")] == ["a/1", "a/b/1", "b/1", "c"]


# Versions, holds, retention


def test_versions_stay_readable_and_are_deleted_one_by_one(client: storage.Client, home: storage.Bucket) -> None:
    home.versioning_enabled = True
    home.patch()
    blob = home.blob("k")
    generations = []
    for data in (b"1", b"2", b"3"):
        blob.upload_from_string(data)
        generations.append(blob.generation)
    home.blob("k").delete()
    assert not home.blob("k").exists()
    found = list(client.list_blobs(home, versions=True))
    assert [item.generation for item in found] == generations
    assert all(item.time_deleted for item in found)
    assert home.blob("k", generation=generations[1]).download_as_bytes() == b"2"
    home.copy_blob(blob, home, "k", source_generation=generations[0])
    assert home.blob("k").download_as_bytes() == b"1"
    home.blob("k", generation=generations[1]).delete()
    with pytest.raises(NotFound):
        home.blob("k", generation=generations[1]).reload()
    with pytest.raises(Conflict):
        home.delete()


@pytest.mark.parametrize("hold", ["temporary_hold", "event_based_hold"])
@pytest.mark.parametrize("versioned", [False, True])
def test_a_hold_forbids_delete_and_overwrite_until_it_is_released(
    home: storage.Bucket, hold: str, versioned: bool
) -> None:
    home.versioning_enabled = versioned
    home.patch()
    blob = home.blob("k")
    blob.upload_from_string(b"1")
    setattr(blob, hold, True)
    blob.patch()
    with pytest.raises(Forbidden):
        home.blob("k").delete()
    with pytest.raises(Forbidden):
        home.blob("k").upload_from_string(b"2")
    with pytest.raises(Forbidden):
        home.blob("k", generation=blob.generation).delete()
    assert home.blob("k").download_as_bytes() == b"1"
    setattr(blob, hold, False)
    blob.patch()
    home.blob("k").delete()


def test_a_retention_policy_forbids_delete_and_overwrite(home: storage.Bucket) -> None:
    home.retention_period = 3600
    home.patch()
    blob = home.blob("k")
    blob.upload_from_string(b"1")
    blob.reload()
    assert blob.retention_expiration_time is not None
    for forbidden in (
        blob.delete,
        lambda: home.blob("k").upload_from_string(b"2"),
        lambda: home.blob("k").rewrite(blob),
    ):
        with pytest.raises(Forbidden):
            forbidden()
    home.retention_period = None
    home.patch()
    blob.delete()


def test_a_locked_retention_policy_only_grows(home: storage.Bucket) -> None:
    home.retention_period = 100
    home.patch()
    home.lock_retention_policy()
    assert home.retention_policy_locked
    for shorter in (50, None):
        home.retention_period = shorter
        with pytest.raises(Forbidden):
            home.patch()
        home.reload()
    home.retention_period = 200
    home.patch()
    home.reload()
    assert (home.retention_period, home.retention_policy_locked) == (200, True)


def test_an_object_retention_holds_and_a_locked_one_only_grows(client: storage.Client, bucket: str) -> None:
    from datetime import UTC, datetime, timedelta

    home = client.bucket(f"{bucket}-r")
    home.create(enable_object_retention=True)
    blob = home.blob("k")
    blob.upload_from_string(b"1")
    until = datetime.now(UTC) + timedelta(hours=1)
    blob.retention.mode, blob.retention.retain_until_time = "Unlocked", until
    blob.patch()
    with pytest.raises(Forbidden):
        home.blob("k").delete()
    blob.retention.retain_until_time = until - timedelta(minutes=5)
    with pytest.raises(Forbidden):
        blob.patch()
    blob.patch(override_unlocked_retention=True)
    blob.retention.mode = "Locked"
    blob.patch()
    blob.retention.retain_until_time = until - timedelta(minutes=6)
    with pytest.raises(Forbidden):
        blob.patch(override_unlocked_retention=True)


# Buckets


def test_buckets_are_made_listed_changed_and_deleted(client: storage.Client, bucket: str) -> None:
    made = client.create_bucket(f"{bucket}-x", location="europe-west4")
    assert (made.location, made.location_type) == ("EUROPE-WEST4", "region")
    with pytest.raises(Conflict):
        client.create_bucket(f"{bucket}-x")
    made.labels = {"a": "b"}
    made.patch(if_metageneration_match=1)
    assert (made.metageneration, made.labels) == (2, {"a": "b"})
    with pytest.raises(PreconditionFailed):
        made.patch(if_metageneration_match=1)
    assert [found.name for found in client.list_buckets(prefix=bucket, page_size=1)] == [bucket, f"{bucket}-x"]
    made.blob("k").upload_from_string(b"1")
    with pytest.raises(Conflict):
        made.delete()
    made.delete(force=True)
    assert client.lookup_bucket(f"{bucket}-x") is None
    with pytest.raises(NotFound):
        client.bucket(f"{bucket}-x").blob("k").upload_from_string(b"1")
