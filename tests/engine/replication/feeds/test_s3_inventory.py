"""S3 Inventory: reports in every format as the listing they stand for, and none that is damaged."""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote_plus

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow import orc

from holdfast.engine.objectstore import ObjectInfo, ObjectStore, ObjectVersion, memory_store
from holdfast.engine.replication.feeds import FeedDamaged, Scope, apply_changes, listing_of
from holdfast.engine.replication.feeds.s3_inventory import S3InventoryFeed
from holdfast.errors import ConfigError

PREFIX = "reports/source/daily"
SCOPE = Scope("source", "site", "data/d/")
AT = datetime(2026, 1, 2, 3, 4, 5, 678000, tzinfo=UTC)
CREATED = datetime(2026, 1, 3, tzinfo=UTC)

#: bucket, key, version id, is latest, is delete marker, size, time, ETag, storage class
Row = tuple[Any, ...]
COLUMNS = ("bucket", "key", "version_id", "is_latest", "is_delete_marker", "size", "last_modified_date", "e_tag")
TITLES = "Bucket, Key, VersionId, IsLatest, IsDeleteMarker, Size, LastModifiedDate, ETag"


def row(
    key: str, size: int = 1, tag: str = "aa", *, version: str = "v", latest: bool = True, gone: bool = False
) -> Row:
    return ("source", key, version, latest, gone, None if gone else size, AT, None if gone else tag)


def as_parquet(rows: list[Row], columns: tuple[str, ...] = COLUMNS) -> tuple[str, str, bytes]:
    types = dict.fromkeys(COLUMNS, pa.string()) | {
        "is_latest": pa.bool_(),
        "is_delete_marker": pa.bool_(),
        "size": pa.int64(),
        "last_modified_date": pa.timestamp("ms", tz="UTC"),
    }
    table = pa.table({name: pa.array([r[COLUMNS.index(name)] for r in rows], types[name]) for name in columns})
    sink = io.BytesIO()
    pq.write_table(table, sink)
    return "Parquet", "message s3.inventory {}", sink.getvalue()


def as_orc(rows: list[Row], _: Any = None) -> tuple[str, str, bytes]:
    table = pq.read_table(io.BytesIO(as_parquet(rows)[2]))
    sink = io.BytesIO()
    orc.write_table(table, sink)
    return "ORC", "struct<>", sink.getvalue()


def as_csv(rows: list[Row], _: Any = None) -> tuple[str, str, bytes]:
    """As S3 writes it: no header, every field quoted, keys URL-encoded, no value as an empty string."""
    lines = io.StringIO()
    writer = csv.writer(lines, quoting=csv.QUOTE_ALL, lineterminator="\n")
    for bucket, key, version, latest, gone, size, at, tag in rows:
        stamp = at.isoformat(timespec="milliseconds").replace("+00:00", "Z")
        flags = [str(latest).lower(), str(gone).lower()]
        writer.writerow(
            [bucket, quote_plus(key, safe="/"), version, *flags, "" if size is None else size, stamp, tag or ""]
        )
    return "CSV", TITLES, gzip.compress(lines.getvalue().encode())


FORMS: dict[str, Callable[..., tuple[str, str, bytes]]] = {"parquet": as_parquet, "orc": as_orc, "csv": as_csv}


def deliver(
    store: ObjectStore,
    files: list[tuple[str, str, bytes]],
    *,
    folder: str = "2026-01-03T00-00Z",
    bucket: str = "source",
) -> None:
    """A report as S3 delivers it: data, the Hive file, the manifest, its checksum."""
    named = []
    for number, (_, _, data) in enumerate(files):
        key = f"{PREFIX}/data/{folder}-{number}.bin"
        store.put(key, data)
        named.append({"key": key, "size": len(data), "MD5checksum": hashlib.md5(data).hexdigest()})
    store.put(f"{PREFIX}/hive/dt={folder[:-1]}/symlink.txt", b"")
    manifest = json.dumps(
        {
            "sourceBucket": bucket,
            "destinationBucket": "arn:aws:s3:::reports",
            "version": "2016-11-30",
            "creationTimestamp": str(int(CREATED.timestamp() * 1000)),
            "fileFormat": files[0][0],
            "fileSchema": files[0][1],
            "files": named,
        }
    ).encode()
    store.put(f"{PREFIX}/{folder}/manifest.json", manifest)
    store.put(f"{PREFIX}/{folder}/manifest.checksum", hashlib.md5(manifest).hexdigest().encode() + b"\n")


@pytest.fixture
def store() -> ObjectStore:
    return memory_store()


@pytest.fixture
def feed(store: ObjectStore) -> S3InventoryFeed:
    return S3InventoryFeed(store, "reports", PREFIX + "/", SCOPE)


def listed(key: str, size: int = 1, tag: str = "aa") -> ObjectInfo:
    return ObjectInfo(key, size, AT, ObjectVersion(f'"{tag}"'))


@pytest.mark.parametrize("form", FORMS)
def test_a_report_is_the_listing_of_the_source(form: str, store: ObjectStore, feed: S3InventoryFeed) -> None:
    first = [row("site/data/d/z"), row("site/data/d/a b+c=100%", 5_000_000_000, "ab-3"), row("other/data/d/x")]
    second = [row('site/data/d/ü,"q"', 0), row("site/data/dx/k"), row("sitex/data/d/k")]
    deliver(store, [FORMS[form](first), FORMS[form](second)])
    changes = feed.poll(None, 10)
    assert changes.full
    assert changes.complete
    assert changes.listing is not None
    assert changes.listing.equals(
        listing_of([listed("data/d/a b+c=100%", 5_000_000_000, "ab-3"), listed("data/d/z"), listed('data/d/ü,"q"', 0)])
    )
    assert changes.as_of == CREATED


@pytest.mark.parametrize("form", FORMS)
def test_of_a_versioned_bucket_only_what_is_current_counts(
    form: str, store: ObjectStore, feed: S3InventoryFeed
) -> None:
    rows = [
        row("site/data/d/a", 1, "11", version="v1", latest=False),
        row("site/data/d/a", 2, "22", version="v2"),
        row("site/data/d/gone", 1, "33", version="v1", latest=False),
        row("site/data/d/gone", version="v2", gone=True),
    ]
    deliver(store, [FORMS[form](rows)])
    listing = feed.poll(None, 10).listing
    assert listing is not None
    assert listing.equals(listing_of([listed("data/d/a", 2, "22")]))


def test_a_report_is_read_once_and_the_newest_whole_one_counts(store: ObjectStore, feed: S3InventoryFeed) -> None:
    assert feed.poll(None, 1).listing is None  # none yet
    for day in (1, 2, 3):
        deliver(store, [as_parquet([row("site/data/d/k", day)])], folder=f"2026-01-{day:02d}T00-00Z")
    store.delete(f"{PREFIX}/2026-01-03T00-00Z/manifest.checksum")  # still being delivered
    changes = feed.poll(None, 1)
    assert changes.listing is not None
    assert changes.listing["size_bytes"].to_pylist() == [2]
    again = feed.poll(changes.cursor, 1)
    assert (again.listing, again.changes, again.cursor) == (None, (), changes.cursor)
    deliver(store, [as_parquet([row("site/data/d/k", 4)])], folder="2026-01-04T00-00Z")
    assert feed.poll(changes.cursor, 1).cursor == "2026-01-04T00-00Z"


@pytest.mark.parametrize("form", FORMS)
def test_an_empty_source_is_an_empty_listing(form: str, store: ObjectStore, feed: S3InventoryFeed) -> None:
    deliver(store, [FORMS[form]([])])
    listing = feed.poll(None, 1).listing
    assert listing is not None
    assert listing.equals(listing_of([]))


def test_only_what_differs_is_looked_at(store: ObjectStore, feed: S3InventoryFeed) -> None:
    rows = [row(f"site/data/d/{number:03d}") for number in range(100)]
    deliver(store, [as_parquet(rows)])
    known = [listed(f"data/d/{number:03d}") for number in range(1, 101)]
    # The listing's time has another precision than the report's; the ETag says that it is the same object.
    known[5] = ObjectInfo(known[5].key, 1, AT + timedelta(microseconds=7), known[5].version)
    asked: list[str] = []
    apply_changes(listing_of(known), feed.poll(None, 1), lambda key: asked.append(key))
    assert sorted(asked) == ["data/d/000", "data/d/100"]


DAMAGES: dict[str, Callable[[ObjectStore, str], Any]] = {
    "a bit of a data file": lambda store, data: store.put(data, flip(store.get(data))),
    "a data file cut short": lambda store, data: store.put(data, store.get(data)[:-1]),
    "a data file gone": lambda store, data: store.delete(data),
    "the manifest": lambda store, _: store.put(
        f"{PREFIX}/2026-01-03T00-00Z/manifest.json", store.get(f"{PREFIX}/2026-01-03T00-00Z/manifest.json") + b" "
    ),
    "the checksum": lambda store, _: store.put(f"{PREFIX}/2026-01-03T00-00Z/manifest.checksum", b"\xff"),
}


def flip(data: bytes) -> bytes:
    return data[:-9] + bytes([data[-9] ^ 1]) + data[-8:]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_report_is_refused(damage: str, store: ObjectStore, feed: S3InventoryFeed) -> None:
    deliver(store, [as_parquet([row("site/data/d/k")])])
    DAMAGES[damage](store, f"{PREFIX}/data/2026-01-03T00-00Z-0.bin")
    with pytest.raises(FeedDamaged):
        feed.poll(None, 1)


def test_a_key_that_stands_twice_is_refused(store: ObjectStore, feed: S3InventoryFeed) -> None:
    deliver(store, [as_parquet([row("site/data/d/k")]), as_parquet([row("site/data/d/k", 2)])])
    with pytest.raises(FeedDamaged, match="twice"):
        feed.poll(None, 1)


@pytest.mark.parametrize("form", ["Parquet", "CSV"])
def test_a_file_of_another_format_than_named_is_refused(form: str, store: ObjectStore, feed: S3InventoryFeed) -> None:
    deliver(store, [(form, TITLES, b"neither")])
    with pytest.raises(FeedDamaged, match="cannot be read"):
        feed.poll(None, 1)


def test_a_report_that_cannot_tell_changes_is_bad_input(store: ObjectStore, feed: S3InventoryFeed) -> None:
    deliver(store, [as_parquet([row("site/data/d/k")], ("bucket", "key", "size"))])
    with pytest.raises(ConfigError, match="LastModifiedDate, ETag"):
        feed.poll(None, 1)


def test_a_report_of_another_bucket_is_bad_input(store: ObjectStore, feed: S3InventoryFeed) -> None:
    deliver(store, [as_parquet([])], bucket="other")
    with pytest.raises(ConfigError, match="another bucket"):
        feed.poll(None, 1)
