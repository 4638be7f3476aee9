"""What Rust's object_store, through obstore, gets from the XML API."""

from __future__ import annotations

import os
from typing import Any

import obstore
import pytest
from obstore.exceptions import AlreadyExistsError, PreconditionError
from obstore.store import GCSStore


@pytest.fixture
def store(server: Any, bucket: str) -> GCSStore:
    return GCSStore(
        bucket,
        config={"base_url": server.url, "bearer_token": "anything"},
        client_options={"allow_http": True},
        retry_config={"max_retries": 2},
    )


def test_what_was_put_is_got(store: GCSStore) -> None:
    written = obstore.put(store, "a/b c é%.bin", b"hello")
    got = obstore.get(store, "a/b c é%.bin")
    assert bytes(got.bytes()) == b"hello"
    assert got.meta["version"] == written["version"]
    assert got.meta["e_tag"] == written["e_tag"] == '"5d41402abc4b2a76b9719d911017c592"'


def test_create_only_refuses_what_exists(store: GCSStore) -> None:
    obstore.put(store, "k", b"1", mode="create")
    with pytest.raises(AlreadyExistsError):
        obstore.put(store, "k", b"2", mode="create")
    assert bytes(obstore.get(store, "k").bytes()) == b"1"


def test_compare_and_swap_by_version_refuses_a_stale_one(store: GCSStore) -> None:
    first = obstore.put(store, "k", b"1")
    obstore.put(store, "k", b"2", mode={"version": first["version"]})
    with pytest.raises(PreconditionError):
        obstore.put(store, "k", b"3", mode={"version": first["version"]})
    assert bytes(obstore.get(store, "k").bytes()) == b"2"


def test_ranges(store: GCSStore) -> None:
    obstore.put(store, "k", bytes(range(256)) * 1000)
    assert bytes(obstore.get_range(store, "k", start=100, end=300)) == (bytes(range(256)) * 2)[100:300]
    assert bytes(obstore.get(store, "k", options={"range": {"suffix": 3}}).bytes()) == b"\xfd\xfe\xff"
    assert bytes(obstore.get(store, "k", options={"range": {"offset": 255_999}}).bytes()) == b"\xff"


def test_multipart_upload_comes_back_whole(store: GCSStore) -> None:
    data = os.urandom(17 * 1024 * 1024 + 5)
    obstore.put(store, "k", data, use_multipart=True, chunk_size=5 * 1024 * 1024, max_concurrency=4)
    assert bytes(obstore.get(store, "k").bytes()) == data
    across = 5 * 1024 * 1024
    assert bytes(obstore.get_range(store, "k", start=across - 3, end=across + 3)) == data[across - 3 : across + 3]


def test_list_with_prefix_offset_and_delimiter(store: GCSStore) -> None:
    for name in ("a/1", "a/2", "a/b/3", "b", "é"):
        obstore.put(store, name, b"x")
    assert [item["path"] for item in obstore.list(store, "a").collect()] == ["a/1", "a/2", "a/b/3"]
    assert [item["path"] for item in obstore.list(store, offset="a/2").collect()] == ["a/b/3", "b", "é"]
    folded = obstore.list_with_delimiter(store, "a")
    assert list(folded["common_prefixes"]) == ["a/b"]
    assert [item["path"] for item in folded["objects"]] == ["a/1", "a/2"]


def test_copy_keeps_content_and_can_be_create_only(store: GCSStore) -> None:
    obstore.put(store, "a é", b"x", attributes={"Content-Type": "text/x", "owner": "me"})
    obstore.copy(store, "a é", "b")
    assert obstore.get(store, "b").attributes == {"Content-Type": "text/x", "owner": "me"}
    with pytest.raises(AlreadyExistsError):
        obstore.copy(store, "a é", "b", overwrite=False)


def test_deleted_is_gone_and_deleting_again_is_refused(store: GCSStore) -> None:
    obstore.put(store, "k", b"x")
    obstore.delete(store, "k")
    with pytest.raises(FileNotFoundError):
        obstore.head(store, "k")
    with pytest.raises(FileNotFoundError):
        obstore.delete(store, "k")


def test_reads_pinned_by_tag_or_version_refuse_what_changed(store: GCSStore) -> None:
    first = obstore.put(store, "k", b"1")
    assert bytes(obstore.get(store, "k", options={"if_match": first["e_tag"]}).bytes()) == b"1"
    obstore.put(store, "k", b"2")
    with pytest.raises(PreconditionError):
        obstore.get(store, "k", options={"if_match": first["e_tag"]})
    with pytest.raises(FileNotFoundError):
        obstore.get(store, "k", options={"version": first["version"]})
