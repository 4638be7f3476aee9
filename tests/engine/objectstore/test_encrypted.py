"""A store whose data is encrypted: nobody above notices, nobody below can read."""

from __future__ import annotations

import random

import pytest

from holdfast.clock import FakeClock
from holdfast.engine.objectstore import CREATE, ByteRange, IfMatch, ObjectStore, RetryingStore, memory_store
from holdfast.engine.objectstore.encrypted import EncryptedStore, Scope
from holdfast.engine.objectstore.envelope import FRAME_BYTES, KeyRing, stored_size
from holdfast.engine.objectstore.errors import BytesCorrupted, ObjectExists, PermissionRefused, PreconditionFailed
from holdfast.engine.objectstore.faults import Fault, FaultyStore, Kind, Script
from holdfast.engine.objectstore.parts import part_store
from holdfast.errors import ConfigError

KEK, NEW = bytes(32), bytes([1]) * 32
LONG = random.Random(1).randbytes(2 * FRAME_BYTES + 1000)


def encrypted(base: ObjectStore, *keys: bytes) -> EncryptedStore:
    return EncryptedStore(base, [Scope("data/sales/", "sales", lambda: KeyRing(keys or (KEK,)))])


def test_only_the_datasets_own_objects_are_encrypted() -> None:
    base = memory_store()
    store = encrypted(base)
    for key in ("data/sales/a", "data/other/a", "snapshots/sales/1"):
        store.put(key, b"plain text")
    assert b"plain" not in base.get("data/sales/a")
    assert base.get("data/other/a") == base.get("snapshots/sales/1") == b"plain text"
    assert store.get("data/sales/a") == b"plain text"


@pytest.mark.parametrize("size_bytes", [0, 1, FRAME_BYTES, FRAME_BYTES + 1, len(LONG)])
def test_sizes_are_those_of_the_content(size_bytes: int) -> None:
    base = memory_store()
    store = encrypted(base)
    store.put("data/sales/a", LONG[:size_bytes])
    store.put("data/sales/b", iter([LONG[:size_bytes]]))
    assert base.head("data/sales/a").size_bytes == base.head("data/sales/b").size_bytes == stored_size(size_bytes)
    assert store.head("data/sales/a").size_bytes == size_bytes
    assert [info.size_bytes for info in store.list("data/")] == [size_bytes] * 2
    [page] = store.list_pages("data/")
    assert page.objects["size_bytes"].to_pylist() == [size_bytes] * 2
    assert store.open("data/sales/a").info.size_bytes == size_bytes


def test_every_range_is_the_slice() -> None:
    store = encrypted(memory_store())
    store.put("data/sales/a", LONG)
    rng = random.Random(5)
    edges = [0, 1, FRAME_BYTES - 1, FRAME_BYTES, FRAME_BYTES + 1, 2 * FRAME_BYTES, len(LONG), len(LONG) + 5]
    ranges = [(start, end) for start in edges for end in edges if start <= end]
    ranges += [tuple(sorted(rng.choices(range(len(LONG)), k=2))) for _ in range(50)]
    for start, end in ranges:
        assert store.get("data/sales/a", byte_range=ByteRange(start, end)) == LONG[start:end]


def test_modes_and_pins_work_as_without() -> None:
    store = encrypted(memory_store())
    version = store.put("data/sales/a", b"one", mode=CREATE)
    with pytest.raises(ObjectExists):
        store.put("data/sales/a", b"two", mode=CREATE)
    store.put("data/sales/a", b"two", mode=IfMatch(version))
    for byte_range in (None, ByteRange(0, 1)):
        with pytest.raises(PreconditionFailed):
            store.get("data/sales/a", if_match=version, byte_range=byte_range)


def test_a_lost_answer_is_settled_by_the_same_stored_bytes() -> None:
    faulty = FaultyStore(memory_store(), Script([Fault(Kind.FAIL_AFTER, "put")]))
    store = encrypted(RetryingStore(faulty, clock=FakeClock()))
    store.put("data/sales/a", b"one", mode=CREATE)
    assert store.get("data/sales/a") == b"one"


def test_a_broken_stream_is_read_on() -> None:
    base = memory_store()
    long = LONG * 40
    encrypted(base).put("data/sales/a", long)
    faulty = FaultyStore(base, Script([Fault(Kind.BREAK, "open")] * 2))
    assert encrypted(RetryingStore(faulty, clock=FakeClock())).get("data/sales/a") == long


@pytest.mark.parametrize("kind", [Kind.CORRUPT, Kind.TRUNCATE])
def test_damage_on_the_way_never_looks_like_content(kind: Kind) -> None:
    base = memory_store()
    long = LONG * 40
    encrypted(base).put("data/sales/a", long)
    faulty = encrypted(FaultyStore(base, Script([Fault(kind, "open")])))
    with pytest.raises(BytesCorrupted):
        faulty.get("data/sales/a")


def test_a_copy_can_be_opened_at_its_new_key() -> None:
    base = memory_store()
    store = encrypted(base)
    store.put("data/sales/a", LONG)
    store.copy("data/sales/a", "data/sales/b")
    assert store.get("data/sales/b") == LONG
    base.copy("data/sales/a", "data/sales/c")
    with pytest.raises(BytesCorrupted):
        store.get("data/sales/c")


def test_plain_objects_under_the_prefix_are_refused() -> None:
    base = memory_store()
    base.put("data/sales/a", b"written past the envelope, and long enough to hold a whole header" * 3)
    store = encrypted(base)
    with pytest.raises(BytesCorrupted, match="not encrypted"):
        store.get("data/sales/a")


def test_keys_are_rotated_without_decrypting() -> None:
    base = memory_store()
    encrypted(base).put("data/sales/a", LONG, metadata={"write_id": "1"})
    both = encrypted(base, NEW, KEK)
    assert both.rewrap("data/sales/a")
    assert not both.rewrap("data/sales/a"), "it is done already"
    assert encrypted(base, NEW).get("data/sales/a") == LONG
    assert base.open("data/sales/a").metadata == {"write_id": "1"}
    with pytest.raises(PermissionRefused, match="older key"):
        encrypted(base).get("data/sales/a")


def test_parts_never_go_past_the_envelope() -> None:
    assert part_store(encrypted(memory_store())) is None


def test_who_never_touches_the_data_needs_no_key() -> None:
    def missing() -> KeyRing:
        raise ConfigError("the key is not here")

    base = memory_store()
    store = EncryptedStore(base, [Scope("data/sales/", "sales", missing)])
    store.put("heartbeats/a", b"1")
    assert [info.key for info in store.list()] == ["heartbeats/a"]
    with pytest.raises(ConfigError):
        store.put("data/sales/a", b"1")


def test_each_dataset_has_its_own_key() -> None:
    base = memory_store()
    scopes = [Scope(f"data/{name}/", name, lambda key=key: KeyRing((key,))) for name, key in (("a", KEK), ("b", NEW))]
    store = EncryptedStore(base, scopes)
    for key in ("data/a/x", "data/b/x"):
        store.put(key, b"text")
        assert store.get(key) == b"text"
    with pytest.raises(PermissionRefused):
        EncryptedStore(base, [Scope("data/a/", "a", lambda: KeyRing((NEW,)))]).get("data/a/x")
