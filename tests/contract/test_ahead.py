"""Requests sent ahead, at every backend that takes them, end as the ordinary calls do."""

from __future__ import annotations

import pytest

from holdfast.engine.objectstore import CREATE, OVERWRITE, IfMatch, ObjectStore, ObjectVersion
from holdfast.engine.objectstore.ahead import AHEAD_BYTES, AheadStore, ahead_store
from holdfast.engine.objectstore.errors import ObjectExists, ObjectNotFound, PreconditionFailed


@pytest.fixture
def ahead(store: ObjectStore, backend: str) -> AheadStore:
    found = ahead_store(store)
    if backend in ("s3-direct", "s3-proxied"):
        assert found is not None
    if found is None:
        pytest.skip("it takes none ahead")
    return found


def put(ahead: AheadStore, key: str, data: bytes, **metadata: str) -> ObjectVersion:
    pending = ahead.begin_put(key, data, mode=CREATE, metadata=metadata)
    assert pending is not None
    return pending.result()


def test_many_are_on_their_way_and_each_gets_its_own_answer(ahead: AheadStore, store: ObjectStore) -> None:
    writes = [ahead.begin_put(f"k{n}", f"{n}".encode() * n, mode=CREATE) for n in range(20)]
    versions = [write.result() for write in writes if write is not None]
    reads = [ahead.begin_open(f"k{n}", if_match=versions[n], size_bytes=n) for n in range(20)]
    found = [read.result() for read in reads if read is not None]
    assert [b"".join(reader) for reader in found] == [f"{n}".encode() * n for n in range(20)]
    assert [(reader.info.key, reader.info.version) for reader in found] == [(f"k{n}", versions[n]) for n in range(20)]
    assert [info.size_bytes for info in store.list("k1")] == [len(f"{n}") * n for n in (1, *range(10, 20))]


def test_conditions_hold(ahead: AheadStore, store: ObjectStore) -> None:
    first = put(ahead, "a b/é~(1)+%", b"one", colour="blue")
    assert dict(store.open("a b/é~(1)+%").metadata) == {"colour": "blue"}
    again = ahead.begin_put("a b/é~(1)+%", b"two", mode=CREATE)
    store.put("a b/é~(1)+%", b"three")
    pinned = ahead.begin_open("a b/é~(1)+%", if_match=first, size_bytes=3)
    missing = ahead.begin_open("nothing", if_match=None, size_bytes=3)
    with pytest.raises(ObjectExists):
        again.result()  # type: ignore[union-attr]
    with pytest.raises(PreconditionFailed):
        pinned.result()  # type: ignore[union-attr]
    with pytest.raises(ObjectNotFound):
        missing.result()  # type: ignore[union-attr]
    assert store.get("a b/é~(1)+%") == b"three"


def test_what_is_abandoned_disturbs_nothing(ahead: AheadStore, store: ObjectStore) -> None:
    put(ahead, "a", b"one")
    for _ in range(3):
        read = ahead.begin_open("a", if_match=None, size_bytes=3)
        write = ahead.begin_put("b", b"two", mode=OVERWRITE)
        read.abandon()  # type: ignore[union-attr]
        write.abandon()  # type: ignore[union-attr]
    assert store.get("a") == b"one"


def test_an_object_that_grew_is_read_all_the_same(ahead: AheadStore, store: ObjectStore) -> None:
    store.put("a", bytes(AHEAD_BYTES + 1))
    read = ahead.begin_open("a", if_match=None, size_bytes=3)
    assert read is not None
    assert sum(map(len, read.result())) == AHEAD_BYTES + 1


def test_what_is_large_or_swaps_is_left_to_the_ordinary_calls(ahead: AheadStore) -> None:
    assert ahead.begin_put("a", bytes(AHEAD_BYTES + 1), mode=CREATE) is None
    assert ahead.begin_put("a", b"1", mode=IfMatch(ObjectVersion('"x"'))) is None
    assert ahead.begin_open("a", if_match=None, size_bytes=AHEAD_BYTES + 1) is None
