"""What every object store must do, whatever is behind it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from holdfast.engine.objectstore import CREATE, ByteRange, IfMatch, ObjectStore, ObjectVersion
from holdfast.engine.objectstore.errors import (
    InvalidKey,
    NotSupported,
    ObjectExists,
    ObjectNotFound,
    PreconditionFailed,
)

MEBIBYTE = 1024 * 1024
LARGE = bytes(range(256)) * (4 * 9 * 1024)  # 9 MiB: two windows, two parts


def keys(store: ObjectStore, prefix: str = "", **options: Any) -> list[str]:
    return [info.key for info in store.list(prefix, **options)]


def needs_swap(store: ObjectStore) -> None:
    if not store.capabilities().compare_and_swap:
        pytest.skip("no compare-and-swap, as its capabilities say")


def test_an_acknowledged_put_is_read_back_in_one_version(store: ObjectStore) -> None:
    version = store.put("a/b", b"hello")
    assert store.get("a/b") == b"hello"
    info = store.head("a/b")
    assert (info.key, info.size_bytes, info.version) == ("a/b", 5, version)
    assert info.modified_at.tzinfo is not None
    [listed] = store.list()
    assert (listed.key, listed.size_bytes, listed.version.e_tag) == ("a/b", 5, version.e_tag)


def test_a_put_replaces_and_changes_the_version(store: ObjectStore) -> None:
    first = store.put("x", b"one")
    second = store.put("x", b"two")
    assert first != second
    assert store.get("x") == b"two"


def test_an_empty_object_is_an_object(store: ObjectStore) -> None:
    store.put("empty", b"")
    assert store.get("empty") == b""
    assert list(store.open("empty")) == []
    assert store.head("empty").size_bytes == 0


def test_a_second_create_is_refused_and_changes_nothing(store: ObjectStore) -> None:
    store.put("x", b"first", mode=CREATE)
    with pytest.raises(ObjectExists, match="x"):
        store.put("x", b"second", mode=CREATE)
    assert store.get("x") == b"first"


def test_a_key_can_be_created_again_after_its_delete(store: ObjectStore) -> None:
    store.put("x", b"first", mode=CREATE)
    store.delete("x")
    store.put("x", b"second", mode=CREATE)
    assert store.get("x") == b"second"


def race(store: ObjectStore, mode: Any, loses: type[Exception]) -> list[bytes]:
    ready = threading.Barrier(8, timeout=30)

    def run(number: int) -> bytes | None:
        body = b"racer %d" % number
        ready.wait()
        try:
            store.put("x", body, mode=mode)
        except loses:
            return None
        return body

    with ThreadPoolExecutor(8) as pool:
        return [body for body in pool.map(run, range(8)) if body is not None]


def test_of_eight_creates_at_once_exactly_one_wins(store: ObjectStore) -> None:
    [winner] = race(store, CREATE, ObjectExists)
    assert store.get("x") == winner


def test_of_eight_swaps_at_once_exactly_one_wins(store: ObjectStore) -> None:
    needs_swap(store)
    [winner] = race(store, IfMatch(store.put("x", b"start")), PreconditionFailed)
    assert store.get("x") == winner


def test_a_swap_over_the_current_version_is_done(store: ObjectStore) -> None:
    needs_swap(store)
    second = store.put("x", b"two", mode=IfMatch(store.put("x", b"one")))
    store.put("x", b"three", mode=IfMatch(second))
    assert store.get("x") == b"three"


def test_a_swap_over_a_stale_version_is_refused(store: ObjectStore) -> None:
    needs_swap(store)
    first = store.put("x", b"one")
    store.put("x", b"two")
    with pytest.raises(PreconditionFailed, match="x"):
        store.put("x", b"three", mode=IfMatch(first))
    assert store.get("x") == b"two"


def test_a_swap_over_a_missing_object_is_refused(store: ObjectStore) -> None:
    needs_swap(store)
    version = store.put("x", b"one")
    store.delete("x")
    with pytest.raises(PreconditionFailed):
        store.put("x", b"two", mode=IfMatch(version))
    assert keys(store) == []


@pytest.mark.parametrize("source", ["head", "list", "open"])
def test_a_swap_takes_the_version_of_any_answer(store: ObjectStore, source: str) -> None:
    needs_swap(store)
    store.put("x", b"one")
    version = {
        "head": lambda: store.head("x"),
        "list": lambda: next(store.list("x")),
        "open": lambda: store.open("x").info,
    }[source]().version
    store.put("x", b"two", mode=IfMatch(version))
    with pytest.raises(PreconditionFailed):
        store.put("x", b"three", mode=IfMatch(version))
    assert store.get("x") == b"two"


def test_a_store_without_swaps_says_so(store: ObjectStore) -> None:
    if store.capabilities().compare_and_swap:
        pytest.skip("it has them")
    version = store.put("x", b"one")
    with pytest.raises(NotSupported, match="compare-and-swap"):
        store.put("x", b"two", mode=IfMatch(version))
    assert store.get("x") == b"one"


def test_what_is_not_there_is_not_found(store: ObjectStore) -> None:
    store.put("other", b"x")
    for ask in (store.get, store.head, store.open, lambda key: store.copy(key, "target")):
        with pytest.raises(ObjectNotFound, match="missing"):
            ask("missing")
    assert keys(store) == ["other"]


def test_deleting_what_is_not_there_is_no_error(store: ObjectStore) -> None:
    store.delete("missing")
    store.put("x", b"1")
    store.delete("x")
    store.delete("x")
    assert keys(store) == []


@pytest.mark.parametrize(("start", "end"), [(0, 1), (10, 20), (90, 200), (100, 200), (5, 5), (0, 100), (200, 300)])
def test_a_range_is_a_slice(store: ObjectStore, start: int, end: int) -> None:
    data = bytes(range(100))
    store.put("x", data)
    assert store.get("x", byte_range=ByteRange(start, end)) == data[start:end]
    assert b"".join(store.open("x", byte_range=ByteRange(start, end), chunk_bytes=3)) == data[start:end]


def test_a_range_of_what_is_not_there_is_not_found(store: ObjectStore) -> None:
    for wanted in (ByteRange(0, 0), ByteRange(0, 5), ByteRange(7, 9)):
        with pytest.raises(ObjectNotFound):
            store.get("missing", byte_range=wanted)


def test_a_read_of_a_version_is_refused_when_it_is_another(store: ObjectStore) -> None:
    old = store.put("x", b"one")
    assert store.get("x", if_match=old) == b"one"
    new = store.put("x", b"two")
    for wanted in (None, ByteRange(0, 1), ByteRange(9, 10), ByteRange(1, 1)):
        with pytest.raises(PreconditionFailed):
            store.get("x", byte_range=wanted, if_match=old)
    assert store.get("x", if_match=new) == b"two"


def test_a_stream_comes_back_whole_and_in_chunks(store: ObjectStore) -> None:
    store.put("large", (LARGE[i : i + 700_000] for i in range(0, len(LARGE), 700_000)))
    reader = store.open("large", chunk_bytes=MEBIBYTE)
    assert reader.info.size_bytes == len(LARGE)
    chunks = list(reader)
    assert max(map(len, chunks)) <= MEBIBYTE
    assert b"".join(chunks) == LARGE
    assert (
        store.get("large", byte_range=ByteRange(8 * MEBIBYTE - 3, 8 * MEBIBYTE + 3))
        == (LARGE[8 * MEBIBYTE - 3 : 8 * MEBIBYTE + 3])
    )


def test_a_read_may_feed_a_put(store: ObjectStore) -> None:
    store.put("large", LARGE)
    store.put("copy", iter(store.open("large", chunk_bytes=MEBIBYTE)))
    assert store.get("copy") == LARGE


def test_a_small_stream_and_an_empty_one_are_objects(store: ObjectStore) -> None:
    store.put("small", iter([b"a", b"", b"bc"]))
    store.put("empty", iter([]))
    assert (store.get("small"), store.get("empty")) == (b"abc", b"")


def test_a_stream_that_fails_leaves_nothing_and_raises_its_own_error(store: ObjectStore) -> None:
    def source() -> Iterator[bytes]:
        yield LARGE
        raise RuntimeError("the disk is gone")

    with pytest.raises(RuntimeError, match="the disk is gone"):
        store.put("large", source())
    assert keys(store) == []


def test_a_streamed_put_cannot_be_conditional_and_says_so(store: ObjectStore) -> None:
    if store.capabilities().create_only_streamed:
        pytest.skip("it can")
    with pytest.raises(NotSupported):
        store.put("x", iter([b"1"]), mode=CREATE)
    assert keys(store) == []


def test_a_read_that_is_overtaken_by_a_write_never_mixes_them(store: ObjectStore) -> None:
    store.put("large", LARGE)
    chunks = store.open("large", chunk_bytes=MEBIBYTE).chunks
    begin = next(chunks)
    store.put("large", b"\0" * len(LARGE))
    try:
        read = begin + b"".join(chunks)
    except PreconditionFailed:
        return
    assert read == LARGE


def test_a_listing_is_in_key_order_and_its_prefix_is_a_plain_string(store: ObjectStore) -> None:
    names = ["a/1", "a/10", "a/2", "a/20/x", "a-", "a0", "b/1", "ä/1"]
    for name in names:
        store.put(name, name.encode())
    assert keys(store) == sorted(names)
    assert keys(store, "a/2") == ["a/2", "a/20/x"]
    assert keys(store, "a") == ["a-", "a/1", "a/10", "a/2", "a/20/x", "a0"]
    assert keys(store, "a/") == ["a/1", "a/10", "a/2", "a/20/x"]
    assert keys(store, "ä") == ["ä/1"]
    assert keys(store, "none/here") == []


def test_a_listing_goes_on_after_a_key(store: ObjectStore) -> None:
    for name in ("a/1", "a/2", "a/3", "b"):
        store.put(name, b"x")
    assert keys(store, start_after="a/2") == ["a/3", "b"]
    assert keys(store, "a/", start_after="a/1") == ["a/2", "a/3"]
    assert keys(store, "a/", start_after="a/1x") == ["a/2", "a/3"]
    assert keys(store, "a/", start_after="0") == ["a/1", "a/2", "a/3"]
    assert keys(store, "a/", start_after="z") == []


def test_a_listing_shows_a_key_and_what_is_below_it(store: ObjectStore) -> None:
    if store.capabilities().backend == "local":
        pytest.skip("a folder cannot be a file, as its capabilities say")
    for name in ("a", "a/b", "a.b"):
        store.put(name, b"x")
    assert keys(store) == ["a", "a.b", "a/b"]
    assert keys(store, "a") == ["a", "a.b", "a/b"]
    store.delete("a")
    assert keys(store) == ["a.b", "a/b"]


ODD = [
    "a b",
    "a%20b",
    "a%b",
    "~",
    "a#b",
    "a?b",
    "*",
    "[x]",
    "ü/é",
    "emoji\U0001f600",
    "a:b",
    "a+b",
    "a=b&c",
    'a"b',
    "<a>",
    "{x}",
    "^",
    "`",
    "|",
    "a'b",
    "a,b;c!d(e)@f$",
    ".hidden/..x",
    "a." + "n" * 200,
]


def test_odd_keys_come_back_as_they_are(store: ObjectStore) -> None:
    for key in ODD:
        store.put(key, key.encode())
    assert keys(store) == sorted(ODD)
    for key in ODD:
        assert store.get(key) == key.encode()
        assert store.head(key).key == key
    store.copy("a%20b", "copied")
    assert store.get("copied") == b"a%20b"
    for key in ODD:
        store.delete(key)
    assert keys(store) == ["copied"]


@pytest.mark.parametrize(
    "key",
    ["", "/a", "a/", "a//b", ".", "..", "a/../b", "./a", "nul\0", "new\nline", "a\\b", "\x7f", "x" * 1025, "\ud800"],
)
def test_a_key_that_some_backend_would_change_is_refused(store: ObjectStore, key: str) -> None:
    for ask in (
        store.get,
        store.head,
        store.delete,
        lambda bad: store.put(bad, b"x"),
        lambda bad: store.copy(bad, "x"),
        lambda bad: store.copy("x", bad),
    ):
        with pytest.raises(InvalidKey):
            ask(key)


def test_a_copy_is_the_same_bytes_and_replaces(store: ObjectStore) -> None:
    store.put("x", b"copied")
    store.put("y", b"old")
    store.copy("x", "y")
    assert (store.get("y"), store.get("x")) == (b"copied", b"copied")


def test_content_type_and_metadata_are_kept(store: ObjectStore) -> None:
    if not store.capabilities().metadata:
        with pytest.raises(NotSupported, match="metadata"):
            store.put("x", b"x", metadata={"write_id": "1"})
        store.put("x", b"x", content_type="text/plain")  # a hint that may be lost
        return
    for key, data in (("small", b"x"), ("large", iter([LARGE]))):
        store.put(key, data, content_type="text/plain", metadata={"write_id": "1", "epoch": "7"})
        reader = store.open(key)
        assert (reader.content_type, dict(reader.metadata)) == ("text/plain", {"write_id": "1", "epoch": "7"})
    for name, value in (("Upper", "x"), ("a-b", "x"), ("a", "new\nline"), ("a", "ä"), ("a", " x")):
        with pytest.raises(InvalidKey):
            store.put("x", b"x", metadata={name: value})


def test_a_version_without_any_name_matches_nothing(store: ObjectStore) -> None:
    needs_swap(store)
    store.put("x", b"1")
    with pytest.raises((NotSupported, PreconditionFailed)):
        store.put("x", b"2", mode=IfMatch(ObjectVersion(None)))
    assert store.get("x") == b"1"


def test_two_prefixes_of_a_bucket_do_not_see_each_other(backend: str, open_backend: Any) -> None:
    if backend.startswith(("memory", "local")):
        pytest.skip("each has a bucket of its own")
    one, other = open_backend(backend), open_backend(backend)
    one.put("x", b"1")
    assert keys(other) == []


def test_many_keys_are_listed_over_many_pages(backend: str, open_backend: Any) -> None:
    if backend not in ("memory", "local", "s3-direct", "gcs-direct", "azure-direct"):
        pytest.skip("the pages are the server's, whatever lies before it")
    store = open_backend(backend)
    names = [
        f"{number % 7}/{number:04}" for number in range(2100 if backend in ("memory", "local", "gcs-direct") else 1010)
    ]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda name: store.put(name, b"x"), names))
    assert keys(store) == sorted(names)
    middle = sorted(names)[len(names) // 2]
    assert keys(store, start_after=middle) == [name for name in sorted(names) if name > middle]
