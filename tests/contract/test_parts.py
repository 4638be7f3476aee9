"""The contract of `PartStore`, on every backend: what is resumed, refused and never seen half done."""

from __future__ import annotations

import os
import random
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest

from holdfast.clock import FakeClock, SystemClock
from holdfast.engine.objectstore import CREATE, OVERWRITE, ObjectStore, PutMode, RetryingStore, RetryPolicy
from holdfast.engine.objectstore.attributes import Attributes
from holdfast.engine.objectstore.checksums import NO_BYTES, Checksums
from holdfast.engine.objectstore.errors import (
    BytesCorrupted,
    NotSupported,
    ObjectExists,
    ObjectNotFound,
    PreconditionFailed,
    StoreUnavailable,
    UploadGone,
)
from holdfast.engine.objectstore.faults import Fault, FaultyStore, Kind, Script
from holdfast.engine.objectstore.interface import IfMatch, ObjectVersion
from holdfast.engine.objectstore.parts import PartStore, Upload, UploadedPart, part_store, sweep_uploads

_CLOUDS = {"s3": "AWS", "gcs": "GCP", "azure": "AZURE"}
BACKENDS = (
    *("memory", "local", "s3-direct", "gcs-direct", "azure-direct", "memory-stacked", "s3-stacked"),
    *(f"{name}-real" for name, cloud in _CLOUDS.items() if os.environ.get(f"HOLDFAST_CONTRACT_{cloud}_BUCKET")),
)
KEY = "folder/large object.bin"
_QUICK = RetryPolicy(attempts=5, budget_seconds=60, first_delay_seconds=0.001, longest_delay_seconds=0.01)


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def parts(store: ObjectStore) -> PartStore:
    found = part_store(store)
    assert found is not None
    return found


def anew(store: ObjectStore, backend: str) -> PartStore:
    """The store's parts as another process has them; memory's live in one process only."""
    base: Any = store
    while hasattr(base, "inner"):
        base = base.inner
    if not backend.startswith("memory"):
        base._parts = None
    found = part_store(store)
    assert found is not None
    return found


def part_bytes(parts: PartStore) -> int:
    return max(parts.limits.smallest_bytes, 64 * 1024)


def content(parts: PartStore, *, number: int = 4, seed: int = 1, odd: int = 1001) -> bytes:
    """So many parts, the last one odd."""
    return random.Random(seed).randbytes((number - 1) * part_bytes(parts) + odd)


def begin(parts: PartStore, data: bytes, key: str = KEY, mode: PutMode = CREATE, **more: Any) -> Upload:
    return parts.begin(key, size_bytes=len(data), mode=mode, part_bytes=part_bytes(parts), **more)


def send(parts: PartStore, upload: Upload, data: bytes, *numbers: int) -> list[UploadedPart]:
    """Put these parts (all of them when none is named)."""
    size = part_bytes(parts)
    everything = range(1, -(-len(data) // size) + 1)
    sent = []
    buffer = bytearray(size)  # used again for each part: nothing may keep it
    for number in numbers or everything:
        piece = data[(number - 1) * size : number * size]
        buffer[: len(piece)] = piece
        view = memoryview(buffer)[: len(piece)]
        sent.append(parts.put_part(upload, number, view, checksums=Checksums.of(view)))
        buffer[:] = bytes(size)
    return sent


def complete(
    parts: PartStore, upload: Upload, sent: list[UploadedPart], data: bytes, mode: PutMode = CREATE
) -> ObjectVersion:
    return parts.complete(upload, sent, size_bytes=len(data), checksums=Checksums.of(data), mode=mode)


def written(parts: PartStore, data: bytes, key: str = KEY, mode: PutMode = CREATE) -> ObjectVersion:
    upload = begin(parts, data, key, mode)
    return complete(parts, upload, send(parts, upload, data), data, mode)


def test_parts_make_the_object_and_nothing_is_seen_before(store: ObjectStore, parts: PartStore) -> None:
    data = content(parts)
    upload = begin(parts, data)
    sent = send(parts, upload, data)
    assert list(store.list()) == []
    with pytest.raises(ObjectNotFound):
        store.head(KEY)
    version = complete(parts, upload, sent, data)
    assert store.get(KEY) == data
    assert store.head(KEY).version == version
    (listed,) = store.list()
    assert (listed.key, listed.size_bytes, listed.version.e_tag) == (KEY, len(data), version.e_tag)
    assert list(parts.uploads()) == []


def test_a_single_part_and_whole_parts_only(store: ObjectStore, parts: PartStore) -> None:
    for key, data in (("one", b"x"), ("exact", content(parts, number=3, odd=part_bytes(parts)))):
        version = written(parts, data, key)
        assert store.head(key).version == version
        assert store.get(key) == data


def test_what_an_object_says_of_itself_comes_with_it(store: ObjectStore, parts: PartStore) -> None:
    data = content(parts, number=2)
    if not store.capabilities().metadata:
        with pytest.raises(NotSupported):
            begin(parts, data, metadata={"epoch": "7"})
        return
    upload = begin(parts, data, content_type="application/x-parquet", metadata={"epoch": "7"})
    complete(parts, upload, send(parts, upload, data), data)
    reader = store.open(KEY)
    assert (reader.content_type, dict(reader.metadata)) == ("application/x-parquet", {"epoch": "7"})


def test_attributes_come_with_it(store: ObjectStore, parts: PartStore) -> None:
    if not store.capabilities().metadata:
        pytest.skip("this backend keeps no attributes")
    data = content(parts, number=2)
    asked = Attributes(
        content_type="text/csv",
        cache_control="no-cache",
        content_disposition="inline",
        content_language="en",
        metadata={"from": "elsewhere", "epoch": "1"},
    )
    upload = begin(parts, data, attributes=asked, metadata={"epoch": "7"})
    complete(parts, upload, send(parts, upload, data), data)
    expected = asked.adding(None, {"epoch": "7"})
    found = store.open(KEY).attributes
    assert (found.headers(), dict(found.metadata)) == (expected.headers(), dict(expected.metadata))


def test_parts_in_any_order_where_the_backend_takes_it(store: ObjectStore, parts: PartStore) -> None:
    data = content(parts)
    upload = begin(parts, data)
    if parts.limits.in_order:
        send(parts, upload, data, 1)
        with pytest.raises(Exception, match=r"in order|refused|HTTP 4"):
            send(parts, upload, data, 3)
        return
    sent = send(parts, upload, data, 4, 2, 3, 1)
    complete(parts, upload, sent, data)
    assert store.get(KEY) == data


def test_a_part_sent_again_replaces_itself(store: ObjectStore, parts: PartStore) -> None:
    data = content(parts, number=3)
    upload = begin(parts, data)
    send(parts, upload, data, 1)
    sent = send(parts, upload, data, 1) + send(parts, upload, data, 2) + send(parts, upload, data, 2, 3)[1:]
    complete(parts, upload, sent, data)
    assert store.get(KEY) == data


def test_another_process_goes_on_where_one_stopped(store: ObjectStore, parts: PartStore, backend: str) -> None:
    data = content(parts, number=5)
    upload = begin(parts, data)
    send(parts, upload, data, 1, 2)
    later = anew(store, backend)
    resumed = Upload(upload.key, upload.upload_id, upload.started_at)
    there = later.parts(resumed)
    assert [(part.number, part.size_bytes) for part in there] == [(1, part_bytes(parts)), (2, part_bytes(parts))]
    sent = there + send(later, resumed, data, 3, 4, 5)
    version = complete(later, resumed, sent, data)
    assert store.get(KEY) == data
    assert store.head(KEY).version == version


def test_what_survives_of_all_parts_is_at_most_one_short(store: ObjectStore, parts: PartStore, backend: str) -> None:
    data = content(parts)
    upload = begin(parts, data)
    send(parts, upload, data)
    later = anew(store, backend)
    there = later.parts(upload)
    assert [part.number for part in there] in ([1, 2, 3, 4], [1, 2, 3])
    missing = [number for number in range(1, 5) if number > len(there)]
    sent = there + (send(later, upload, data, *missing) if missing else [])
    complete(later, upload, sent, data)
    assert store.get(KEY) == data


def test_create_finds_an_object_and_leaves_it(store: ObjectStore, parts: PartStore) -> None:
    data = content(parts, number=2)
    upload = begin(parts, data)
    sent = send(parts, upload, data)
    store.put(KEY, b"somebody else's")
    with pytest.raises(ObjectExists):
        complete(parts, upload, sent, data)
    assert store.get(KEY) == b"somebody else's"
    parts.abort(upload)
    with pytest.raises(ObjectExists):
        begin(parts, data)
    assert store.get(KEY) == b"somebody else's"
    assert list(parts.uploads()) == []


def test_overwrite_replaces_what_is_there(store: ObjectStore, parts: PartStore) -> None:
    store.put(KEY, b"old")
    data = content(parts, number=3)
    upload = begin(parts, data, mode=OVERWRITE)
    sent = send(parts, upload, data)
    assert store.get(KEY) == b"old"
    version = complete(parts, upload, sent, data, OVERWRITE)
    assert store.get(KEY) == data
    assert store.head(KEY).version == version


def test_swapping_one_version_is_refused(store: ObjectStore, parts: PartStore) -> None:
    version = store.put(KEY, b"old")
    with pytest.raises(NotSupported):
        parts.begin(KEY, size_bytes=10, mode=IfMatch(version))


def test_wrong_bytes_are_refused_where_the_backend_looks(store: ObjectStore, parts: PartStore, backend: str) -> None:
    """moto and Azurite accept any checksum; S3 and Azure do not, by their documents."""
    data = content(parts, number=2)
    wrong = Checksums(1, 1, len(data))
    upload = begin(parts, data)
    if backend.startswith(("memory", "local")):
        piece = data[: part_bytes(parts)]
        with pytest.raises(BytesCorrupted):
            parts.put_part(upload, 1, piece, checksums=Checksums(1, None, len(piece)))
    elif not backend.startswith("gcs") and not backend.endswith("-real"):
        pytest.skip("this emulator accepts any checksum")
    sent = send(parts, upload, data)
    with pytest.raises(BytesCorrupted):
        parts.complete(upload, sent, size_bytes=len(data), checksums=wrong, mode=CREATE)
    with pytest.raises(ObjectNotFound):
        store.head(KEY)


def test_an_aborted_upload_leaves_nothing(store: ObjectStore, parts: PartStore, backend: str) -> None:
    data = content(parts, number=3)
    upload = begin(parts, data)
    sent = send(parts, upload, data)
    parts.abort(upload)
    parts.abort(upload)
    assert list(store.list()) == []
    assert list(parts.uploads()) == []
    if backend.startswith("azure"):
        assert parts.parts(upload) == []
    else:
        with pytest.raises(UploadGone):
            parts.parts(upload)
    with pytest.raises(UploadGone):
        complete(parts, upload, sent, data)
    written(parts, data)
    assert store.get(KEY) == data


def test_unfinished_uploads_are_found_by_prefix(parts: PartStore) -> None:
    data = content(parts, number=2)
    uploads = [begin(parts, data, key) for key in ("a/one", "a/two", "b/one")]
    for upload in uploads:
        send(parts, upload, data, 1)
    found = list(parts.uploads("a/"))
    if not parts.limits.in_order:  # Google lists none
        assert [upload.key for upload in found] == ["a/one", "a/two"]
        assert [upload.key for upload in parts.uploads("a/t")] == ["a/two"]
        assert [upload.key for upload in parts.uploads()] == ["a/one", "a/two", "b/one"]
    for upload in found:
        parts.abort(upload)
    assert list(parts.uploads("a/")) == []


def test_a_read_is_pinned_to_one_version(store: ObjectStore, parts: PartStore) -> None:
    data = content(parts)
    version = written(parts, data)
    start = part_bytes(parts) - 7
    buffer = memoryview(bytearray(1000))
    parts.read_into(KEY, start, buffer, if_match=version)
    assert buffer == data[start : start + 1000]
    parts.read_into(KEY, len(data) - 1000, buffer, if_match=version)
    assert buffer == data[-1000:]
    store.put(KEY, bytes(len(data)))
    with pytest.raises(PreconditionFailed):
        parts.read_into(KEY, start, buffer, if_match=version)
    store.delete(KEY)
    with pytest.raises((ObjectNotFound, PreconditionFailed)):  # Azurite compares before it looks
        parts.read_into(KEY, start, buffer, if_match=version)


def test_a_read_by_the_version_of_a_listing(store: ObjectStore, parts: PartStore) -> None:
    store.put(KEY, b"0123456789")
    (listed,) = store.list()
    buffer = memoryview(bytearray(4))
    parts.read_into(KEY, 3, buffer, if_match=listed.version)
    assert bytes(buffer) == b"3456"


def test_a_read_beyond_the_end_fails(store: ObjectStore, parts: PartStore) -> None:
    version = store.put(KEY, b"0123456789")
    for start in (5, 10, 100):
        with pytest.raises(StoreUnavailable):
            parts.read_into(KEY, start, memoryview(bytearray(6)), if_match=version)


def test_what_the_store_says_of_the_bytes_is_true(store: ObjectStore, parts: PartStore) -> None:
    data = content(parts)
    version = written(parts, data)
    stored = parts.stored_checksums(KEY, version)
    assert stored is None or stored.confirms(Checksums.of(data))
    store.put(KEY, b"other bytes")
    with pytest.raises(PreconditionFailed):
        parts.stored_checksums(KEY, version)
    store.delete(KEY)
    with pytest.raises((ObjectNotFound, PreconditionFailed)):
        parts.stored_checksums(KEY, version)


def test_of_four_creators_one_wins(store: ObjectStore, parts: PartStore, backend: str) -> None:
    contents = [content(parts, number=2, seed=seed) for seed in range(4)]
    uploads = [begin(parts, data) for data in contents]
    sent = [send(parts, upload, data) for upload, data in zip(uploads, contents, strict=True)]

    def finish(number: int) -> int | None:
        try:
            complete(parts, uploads[number], sent[number], contents[number])
        except (ObjectExists, UploadGone):  # Azure forgets the loser's blocks with the winner's list
            return None
        return number

    # moto looks, and then writes: its creators must take turns.
    with ThreadPoolExecutor(1 if backend in ("s3-direct", "s3-stacked") else 4) as pool:
        (winner,) = [number for number in pool.map(finish, range(4)) if number is not None]
    assert store.get(KEY) == contents[winner]


@pytest.mark.parametrize("mode", [CREATE, OVERWRITE])
def test_a_lost_answer_is_settled(store: ObjectStore, mode: PutMode) -> None:
    script = Script([Fault(Kind.FAIL_AFTER, "put_part"), Fault(Kind.FAIL_AFTER, "complete")])
    parts = part_store(RetryingStore(FaultyStore(store, script), _QUICK))
    assert parts is not None
    data = content(parts, number=3)
    version = written(parts, data, mode=mode)
    assert script.left == ()
    assert store.get(KEY) == data
    assert store.head(KEY).version == version


def test_completing_again_gives_the_same_version(store: ObjectStore, parts: PartStore, backend: str) -> None:
    data = content(parts, number=3)
    upload = begin(parts, data)
    sent = send(parts, upload, data)
    version = complete(parts, upload, sent, data)
    assert complete(parts, upload, sent, data) == version
    assert complete(anew(store, backend), upload, sent, data) == version


def test_completing_again_does_not_claim_another_object(store: ObjectStore, parts: PartStore) -> None:
    data = content(parts, number=3)
    upload = begin(parts, data)
    sent = send(parts, upload, data)
    complete(parts, upload, sent, data)
    store.put(KEY, content(parts, number=3, seed=2))
    with pytest.raises(ObjectExists):
        complete(parts, upload, sent, data)
    store.delete(KEY)
    with pytest.raises(UploadGone):
        complete(parts, upload, sent, data)


def test_an_old_upload_goes_and_a_live_one_stays(store: ObjectStore, parts: PartStore) -> None:
    data = content(parts, number=2)
    upload = begin(parts, data)
    live = begin(parts, data, "live")
    elsewhere = begin(parts, data, "elsewhere/x")
    for one in (upload, live, elsewhere):
        send(parts, one, data, 1)
    later = FakeClock(SystemClock().now() + timedelta(hours=2))
    gone = sweep_uploads(store, "folder/", older_than_seconds=3600, clock=later, keep=[live.upload_id])
    gone += sweep_uploads(store, "live", older_than_seconds=3600, clock=later, keep=[live.upload_id])
    assert [one.key for one in gone] == ([] if parts.limits.in_order else [KEY])
    assert [part.number for part in parts.parts(live)] == [1]
    assert [part.number for part in parts.parts(elsewhere)] == [1]
    sent = send(parts, live, data)
    complete(parts, live, sent, data)
    assert store.get("live") == data


def test_a_young_upload_is_not_swept(store: ObjectStore, parts: PartStore, backend: str) -> None:
    if backend.startswith("s3") and not backend.endswith("-real"):
        pytest.skip("moto says of every upload that it began in 2010")
    data = content(parts, number=2)
    upload = begin(parts, data)
    send(parts, upload, data, 1)
    assert sweep_uploads(store, older_than_seconds=3600, clock=SystemClock()) == []
    assert [part.number for part in parts.parts(upload)] == [1]


@pytest.mark.parametrize("key", ["a b+c%20é~(1)#?&=;,.bin", "dotted.../..x/%2F", "日本/語"])
def test_odd_keys_are_the_stores_own(store: ObjectStore, parts: PartStore, key: str) -> None:
    data = content(parts, number=2)
    version = written(parts, data, key)
    assert store.head(key).version == version
    assert [info.key for info in store.list()] == [key]
    buffer = memoryview(bytearray(len(data)))
    parts.read_into(key, 0, buffer, if_match=version)
    assert buffer == data


def test_checksums_of_the_parts_make_that_of_the_whole(parts: PartStore) -> None:
    data = content(parts)
    upload = begin(parts, data)
    sent = send(parts, upload, data)
    total = sum((Checksums(part.crc64nvme, part.crc32c, part.size_bytes) for part in sent), NO_BYTES)
    assert total == Checksums.of(data)
