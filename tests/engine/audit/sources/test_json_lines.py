"""What sources of JSON lines share: any bytes, large and compressed objects, stores that refuse and forget."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.cloud_events import gcp, kubernetes
from holdfast.clock import FakeClock
from holdfast.engine.audit.interface import Batch, Coverage, Interval, SourceUnreadable, State
from holdfast.engine.audit.sources.json_blocks import parse
from holdfast.engine.audit.sources.kubernetes import Kubernetes
from holdfast.engine.audit.sources.kubernetes_ocsf import SHAPES
from holdfast.engine.audit.sources.line_objects import Limits
from holdfast.engine.config.audit import CloudLoggingSource, KubernetesSource
from holdfast.engine.objectstore import RetryingStore, memory_store
from holdfast.engine.objectstore._decorator import StoreDecorator
from holdfast.engine.objectstore.errors import (
    BucketNotFound,
    BytesCorrupted,
    ObjectArchived,
    ObjectNotFound,
    ObjectStoreError,
    PermissionRefused,
    PreconditionFailed,
    StoreUnavailable,
)
from holdfast.engine.objectstore.interface import ObjectReader, ObjectStore

HOUR = Interval(datetime(2026, 11, 29, 8, tzinfo=UTC), datetime(2026, 11, 29, 9, tzinfo=UTC))
FOLDER = "2026/11/29/08/"
SMALL = Limits(part_bytes=4096, gzip_bytes=200_000, inflated_bytes=1_000_000, ratio=100)


class World:
    """A cluster's bucket, which may be wrapped, and a clock a day later."""

    def __init__(self, limits: Limits = SMALL) -> None:
        self.memory = memory_store()
        self.store: ObjectStore = self.memory
        self.clock = FakeClock(HOUR.end + timedelta(days=1))
        self.limits = limits
        self.settings = KubernetesSource(kind="kubernetes", site="aws", bucket="audit", cluster="prod")

    def source(self) -> Kubernetes:
        return Kubernetes("k8s", self.settings, self.store, self.clock, limits=self.limits)

    def put(self, data: bytes, name: str = "a.json") -> None:
        self.memory.put(FOLDER + name, data)

    def read(self) -> tuple[list[Batch], Coverage]:
        source = self.source()
        batches = list(source.read(HOUR))
        return batches, source.completeness(HOUR)


def records(batches: list[Batch]) -> list[bytes]:
    return [record for batch in batches for record in batch.raw.to_pylist()]


def remade(batches: list[Batch]) -> Iterator[tuple[str, bytes]]:
    """Each object's id, and its content made again from its records."""
    for batch in batches:
        found = batch.raw.to_pylist()
        for source, count in zip(batch.objects, batch.counts, strict=True):
            yield source.object_id, source.content(found[:count])
            found = found[count:]


def codes(coverage: Coverage) -> set[str]:
    return {finding.code for finding in coverage.findings} - {"no-proof"}


# -- any bytes ---------------------------------------------------------------------------------------------------------

GOOD = next(kubernetes(1))
ODD = [
    b"",
    b"   ",
    b"not json",
    b"[1,2]",
    b"null",
    b'"text"',
    b"{}",
    b"{}{}",
    b'{"a":1}{"b":2}',
    b'{"apiVersion":{"a":',
    b'{"apiVersion":[{}',
    b'{"apiVersion":"x\x00y"}',
    b"\x00",
    b"{}\x00}",
    b'{"apiVersion":"\xff\xfe"}',
    b'{"requestObject":"\xff"}',
    b'{"apiVersion":"\\ud800"}',
    b'{"apiVersion":"a","apiVersion":"b"}',
    b'{"apiVersion":5,"user":"root"}',
    b'{"responseStatus":{"code":"403"}}',
    b'{"responseStatus":{"code":123456789012345678901234567890}}',
    b'{"sourceIPs":"1.2.3.4"}',
    b'{"sourceIPs":[1,null,{}]}',
    b'{"stageTimestamp":"yesterday"}',
    b'{"stageTimestamp":"0001-01-01T00:00:00Z","apiVersion":"audit.k8s.io/v1","verb":"get"}',
    b'{"verb":NaN}',
    b'{"apiVersion":"a","requestObject":NaN}',
    b'{"apiVersion":"a","requestObject":Infinity}',
    b'{"apiVersion":"a","requestObject":Inf}',
    b'{"apiVersion":"a","requestObject":' + b"7" * 5000 + b"}",
    b'{"apiVersion":"a","requestObject":"\\ud800"}',
    b'{"apiVersion":"a","requestObject":{"b":1,"b":2}}',
    b'{"apiVersion":"a","requestObject":01}',
    b"\xef\xbb\xbf{}",
    b"{}\r",
    b'{"a":' + b"[" * 20_000 + b"]" * 20_000 + b"}",
    b"[" * 20_000,
]


@pytest.mark.parametrize("odd", ODD, ids=range(len(ODD)))
def test_a_line_of_any_bytes_is_kept_and_leaves_its_neighbours_rows_alone(odd: bytes) -> None:
    lines = [GOOD, odd, GOOD, odd, GOOD]
    table = World().source().normalise(pa.array(lines, pa.large_binary()))
    assert table.num_rows == len(lines)
    table.validate(full=True)
    kinds = table.column("class_uid").to_pylist()
    assert [kinds[row] for row in (0, 2, 4)] == [6003] * 3


@given(st.lists(st.one_of(st.sampled_from([GOOD, *ODD]), st.binary(max_size=40)), max_size=40))
def test_rows_and_records_are_never_mistaken_for_each_other(lines: list[bytes]) -> None:
    lines = [line.replace(b"\n", b"") for line in lines]
    together = read(lines)
    assert together == [row for line in lines for row in read([line])]


def read(lines: list[bytes]) -> list[tuple[dict[str, Any], bool]]:
    """Each record's fields, and whether it was understood."""
    found = []
    for block in parse(pa.array(lines, pa.large_binary()), SHAPES):
        rows = block.table.to_pylist()
        found += zip(rows, block.understood.to_pylist() if block.understood else [True] * len(rows), strict=True)
    return found


class Trickling(StoreDecorator):
    """A store whose reads come in small pieces."""

    def __init__(self, inner: ObjectStore, chunk_bytes: int) -> None:
        super().__init__(inner)
        self.chunk_bytes = chunk_bytes

    def open(self, key: str, **arguments: Any) -> ObjectReader:
        reader = self.inner.open(key, **arguments)
        data = b"".join(reader)
        step = self.chunk_bytes
        return replace(reader, chunks=iter([data[at : at + step] for at in range(0, len(data), step)]))


TEXT = st.lists(st.sampled_from([b"\n", b"\r\n", b"{}", b"abcdefg", b"\xef\xbb\xbf", b"\x1f"]), max_size=90).map(
    b"".join
)


@given(st.one_of(st.binary(max_size=300), TEXT), st.integers(1, 100))
def test_any_object_is_made_again_from_its_records(data: bytes, chunk_bytes: int) -> None:
    world = World(Limits(part_bytes=64))
    world.put(data)
    world.store = Trickling(world.memory, chunk_bytes)
    batches, coverage = world.read()
    found = list(remade(batches))
    content = b"".join(content for _, content in found)
    assert all(len(part) <= 64 for _, part in found)
    assert all(part.endswith(b"\n") for _, part in found[:-1])
    if data[:2] == b"\x1f\x8b":
        assert data.startswith(content)
    elif "line-too-long" in codes(coverage):
        assert max(map(len, data.split(b"\n"))) >= 64
        assert data.startswith(content)
    else:
        assert content == data


def test_lines_that_are_no_json_are_told_with_the_place_of_the_first() -> None:
    world = World()
    world.put(GOOD + b"\noops\n" + GOOD + b"\n[]\n")
    _, coverage = world.read()
    (finding,) = (f for f in coverage.findings if f.code == "line-not-json")
    assert finding.detail.startswith("2 lines")
    assert finding.where == f"{FOLDER}a.json line 2"


def test_a_last_line_that_is_cut_short_is_a_gap() -> None:
    world = World()
    world.put(GOOD + b"\n" + GOOD[:70])
    batches, coverage = world.read()
    assert len(records(batches)) == 2
    assert (codes(coverage), coverage.state) == ({"line-not-json", "line-cut-short"}, State.GAP)


def test_what_arrives_while_an_hour_is_read_does_not_make_it_complete() -> None:
    world = World()
    world.clock = FakeClock(HOUR.end + timedelta(minutes=59))
    world.put(GOOD)
    source = world.source()
    for _ in source.read(HOUR):
        world.clock.advance(120)  # it closes, after it was listed
    assert "hour-open" in codes(source.completeness(HOUR))


def test_a_record_that_is_not_understood_is_a_base_event() -> None:
    (row,) = World().source().normalise(pa.array([b"oops"], pa.large_binary())).to_pylist()
    assert (row["class_uid"], row["type_uid"], row["metadata"]["version"], row["actor"]) == (0, 0, "1.8.0", None)


# -- large and compressed ----------------------------------------------------------------------------------------------


def test_a_large_object_is_read_in_parts_that_are_ranges_of_it() -> None:
    data = b"\n".join(kubernetes(100)) + b"\n"
    world = World()
    world.put(data)
    batches, coverage = world.read()
    assert (coverage.objects, coverage.records) == (1, 100)
    found = list(remade(batches))
    assert len(found) > 10
    assert b"".join(content for _, content in found) == data
    for object_id, content in found:
        start, _, end = object_id.partition("#bytes=")[2].partition("-")
        assert data[int(start) : int(end) + 1] == content


def test_a_line_longer_than_a_part_ends_what_is_taken() -> None:
    world = World()
    world.put(GOOD + b"\n" + b"x" * 5000 + b"\n" + GOOD)
    batches, coverage = world.read()
    assert records(batches) == [GOOD]
    assert (codes(coverage), coverage.state) == ({"line-too-long"}, State.UNKNOWN)


def test_lines_too_many_and_too_short_to_be_events_end_what_is_taken() -> None:
    world = World(Limits(part_lines=5))
    world.put(b"{}\n" * 6)
    world.put(GOOD, "b.json")
    batches, coverage = world.read()
    assert records(batches) == [GOOD]
    assert (codes(coverage), coverage.state) == ({"too-many-lines"}, State.UNKNOWN)


def test_a_compressed_object_is_read_by_what_it_holds() -> None:
    data = b"\n".join(kubernetes(300))
    world = World()
    half = len(data) // 2
    packed = gzip.compress(data[:half]) + gzip.compress(data[half:])  # two members, as an appending writer makes
    world.put(packed, "a.json.gz")
    world.store = Trickling(world.memory, 1)
    batches, _ = world.read()
    assert records(batches) == list(kubernetes(300))
    assert b"".join(content for _, content in remade(batches)) == data
    world.put(gzip.compress(b"\n".join(kubernetes(3))), "a.json.gz")
    (batch,) = world.read()[0]
    (source,) = batch.objects
    assert (source.object_id, source.size_bytes) == (
        f"{FOLDER}a.json.gz",
        world.memory.head(source.object_id).size_bytes,
    )


@pytest.mark.parametrize(
    "packed",
    [
        gzip.compress(b"{}\n" * 700_000),  # inflates to 2.1 MB, 1,000 times its size
        gzip.compress(bytes(50_000_000)),
        gzip.compress(bytes(1_000_000)) * 3,
    ],
)
def test_a_bomb_is_not_taken(packed: bytes) -> None:
    world = World()
    world.put(packed, "bomb.gz")
    world.put(GOOD, "z.json")
    batches, coverage = world.read()
    assert records(batches) == [GOOD]
    assert (codes(coverage), coverage.state) == ({"object-too-large"}, State.UNKNOWN)


def test_a_compressed_object_that_is_too_large_is_not_held() -> None:
    import random

    world = World()
    world.put(gzip.compress(random.Random(1).randbytes(300_000)), "a.gz")
    assert codes(world.read()[1]) == {"object-too-large"}


@pytest.mark.parametrize("damage", [lambda data: data[:-9], lambda data: data[:60] + b"\x00" * 40 + data[100:]])
def test_a_compressed_object_that_is_damaged_is_a_gap(damage: Any) -> None:
    world = World()
    world.put(damage(gzip.compress(b"\n".join(kubernetes(20)))), "a.gz")
    _, coverage = world.read()
    assert (codes(coverage), coverage.state) == ({"not-gzip"}, State.GAP)


# -- stores that do not answer well ------------------------------------------------------------------------------------


class Failing(StoreDecorator):
    """A store that raises at some keys, and at some listings."""

    def __init__(self, inner: ObjectStore, error: ObjectStoreError, *, key: str = "", listing: bool = False) -> None:
        super().__init__(inner)
        self.error, self.key, self.listing = error, key, listing
        self.asked = 0

    def list(self, prefix: str = "", *, start_after: str | None = None) -> Any:
        self.asked += 1
        if self.listing:
            raise self.error
        return self.inner.list(prefix, start_after=start_after)

    def open(self, key: str, **arguments: Any) -> ObjectReader:
        if self.key and key.endswith(self.key):
            raise self.error
        return self.inner.open(key, **arguments)


REFUSED = PermissionRefused("403", where="bucket")
THROTTLED = StoreUnavailable("429", where="bucket", throttled=True)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (REFUSED, "permission-refused"),
        (BucketNotFound("404"), "bucket-missing"),
        (THROTTLED, "throttled"),
        (StoreUnavailable("503"), "store-unavailable"),
    ],
)
def test_an_hour_that_cannot_be_listed_is_unreadable_and_not_empty(error: ObjectStoreError, code: str) -> None:
    world = World()
    world.put(GOOD)
    world.store = Failing(world.memory, error, listing=True)
    source = world.source()
    with pytest.raises(SourceUnreadable) as caught:
        list(source.read(HOUR))
    assert caught.value.code == code
    coverage = source.completeness(HOUR)
    assert coverage.state is State.UNKNOWN
    assert code in codes(coverage)


def test_a_permission_that_is_narrowed_in_the_middle_keeps_what_was_read_and_is_unknown() -> None:
    world = World()
    for name in ("a.json", "b.json", "c.json"):
        world.put(GOOD, name)
    world.store = Failing(world.memory, REFUSED, key="b.json")
    batches, coverage = world.read()
    assert len(records(batches)) == 1
    assert (codes(coverage), coverage.state) == ({"permission-refused"}, State.UNKNOWN)


def test_one_log_that_is_refused_holds_no_other_one_up() -> None:
    from holdfast.engine.audit.sources.cloud_logging import CloudLogging

    class OneLog(StoreDecorator):
        def list(self, prefix: str = "", *, start_after: str | None = None) -> Any:
            if prefix.startswith("denied"):
                raise REFUSED
            return self.inner.list(prefix, start_after=start_after)

    memory = memory_store()
    memory.put("open/2026/11/29/08:00:00_08:59:59_S0.json", b"\n".join(gcp(4)))
    settings = CloudLoggingSource(kind="cloud-logging", site="gcp", bucket="b", logs=("denied", "open"))
    source = CloudLogging("gcp", settings, OneLog(memory), FakeClock(HOUR.end + timedelta(days=1)))
    assert len(records(list(source.read(HOUR)))) == 4
    coverage = source.completeness(HOUR)
    assert (codes(coverage), coverage.state) == ({"permission-refused"}, State.UNKNOWN)


def test_a_page_that_stays_throttled_ends_within_the_retry_budget() -> None:
    world = World()
    failing = Failing(world.memory, THROTTLED, listing=True)
    world.store = RetryingStore(failing, clock=world.clock)
    with pytest.raises(SourceUnreadable) as caught:
        list(world.source().read(HOUR))
    assert caught.value.code == "throttled"
    assert failing.asked == 4


def test_a_listing_that_never_ends_is_unreadable() -> None:
    class Endless(StoreDecorator):
        def list(self, prefix: str = "", *, start_after: str | None = None) -> Any:
            (info,) = self.inner.list(prefix)
            while True:
                yield info

    world = World(Limits(objects=50))
    world.put(GOOD)
    world.store = Endless(world.memory)
    with pytest.raises(SourceUnreadable) as caught:
        list(world.source().read(HOUR))
    assert caught.value.code == "listing-endless"


@pytest.mark.parametrize(
    ("error", "code", "state"),
    [
        (ObjectNotFound("gone"), "object-gone", State.GAP),
        (ObjectArchived("cold"), "object-archived", State.UNKNOWN),
        (PreconditionFailed("changed"), "changed-while-read", State.LATE),
        (BytesCorrupted("flipped"), "object-corrupted", State.GAP),
    ],
)
def test_what_is_wrong_with_one_object_is_told_of_it(error: ObjectStoreError, code: str, state: State) -> None:
    world = World()
    world.put(GOOD, "a.json")
    world.put(GOOD, "b.json")
    world.store = Failing(world.memory, error, key="a.json")
    batches, coverage = world.read()
    assert len(records(batches)) == 1
    (finding,) = (f for f in coverage.findings if f.code == code)
    assert (finding.state, finding.where) == (state, f"{FOLDER}a.json")


def test_findings_of_one_code_are_bounded() -> None:
    world = World()
    for number in range(50):
        world.put(b"{", f"{number:03}.json")
    _, coverage = world.read()
    cut = [finding for finding in coverage.findings if finding.code == "line-cut-short"]
    assert len(cut) == 21
    assert cut[-1].detail.endswith("so 30 more")


def test_an_interval_that_was_not_read_to_its_end_is_unknown() -> None:
    world = World()
    world.put(GOOD)
    source = world.source()
    assert source.completeness(HOUR).state is State.UNKNOWN
    next(iter(source.read(HOUR)))
    assert codes(source.completeness(HOUR)) == {"not-read"}


def test_the_hours_of_a_window_are_those_that_begin_in_it() -> None:
    source = World().source()
    minutes = timedelta(minutes=30)
    starts = [hour.start.hour for hour in source.intervals(Interval(HOUR.start + minutes, HOUR.end + 3 * minutes))]
    assert starts == [9, 10]
    assert source.intervals(HOUR) == [HOUR]


def test_a_batch_that_was_just_read_reads_the_same_as_its_bytes_alone() -> None:
    world = World()
    world.put(b"\n".join(kubernetes(50)))
    source = world.source()
    for batch in source.read(HOUR):
        again = pa.array(batch.raw.to_pylist(), pa.large_binary())
        assert source.normalise(batch.raw).equals(world.source().normalise(again))


def test_one_odd_record_does_not_slow_its_whole_block_down(monkeypatch: pytest.MonkeyPatch) -> None:
    from holdfast.engine.audit.sources import json_blocks

    alone: list[bytes] = []
    slow = json_blocks._load
    monkeypatch.setattr(json_blocks, "_load", lambda record, shapes: alone.append(record) or slow(record, shapes))
    lines = list(kubernetes(5000))
    lines[1234] = json.dumps({"apiVersion": 7}).encode()
    parse(pa.array(lines, pa.large_binary()), SHAPES)
    assert len(alone) <= json_blocks.SMALL_BLOCK
