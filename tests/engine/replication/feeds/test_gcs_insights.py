"""Storage Insights reports as the listing they stand for, and none that is not whole."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import json
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from holdfast.engine.objectstore import ObjectInfo, ObjectStore, ObjectVersion, memory_store
from holdfast.engine.replication.feeds import FeedDamaged, Scope, listing_of
from holdfast.engine.replication.feeds.gcs_insights import GcsInsightsFeed
from holdfast.errors import ConfigError

SCOPE = Scope("source", "site", "data/d/")
AT = datetime(2026, 1, 2, 3, 4, 5, 678000, tzinfo=UTC)
ID = "1a34f2e4-1234-4321-8765-0123456789ab"
FIELDS = ("bucket", "name", "size", "updated", "generation", "md5Hash", "timeDeleted")

Row = dict[str, Any]


def row(name: str, data: bytes = b"x", generation: int = 7, **more: Any) -> Row:
    digest = base64.b64encode(hashlib.md5(data).digest()).decode()
    return {
        "bucket": "source",
        "name": name,
        "size": len(data),
        "updated": AT,
        "generation": generation,
        "md5Hash": digest,
        "timeDeleted": None,
    } | more


def as_parquet(rows: list[Row], fields: tuple[str, ...], header: bool) -> bytes:
    time = pa.timestamp("us", tz="UTC")
    types = {"size": pa.int64(), "generation": pa.int64(), "updated": time, "timeDeleted": time}
    sink = io.BytesIO()
    pq.write_table(
        pa.table({name: pa.array([r[name] for r in rows], types.get(name, pa.string())) for name in fields}), sink
    )
    return sink.getvalue()


def as_csv(rows: list[Row], fields: tuple[str, ...], header: bool) -> bytes:
    def spelled(value: Any) -> Any:
        return value.isoformat().replace("+00:00", "Z") if isinstance(value, datetime) else value

    lines = io.StringIO()
    writer = csv.writer(lines, lineterminator="\n")
    if header:
        writer.writerow(fields)
    for one in rows:
        writer.writerow([spelled(one[name]) for name in fields])
    return lines.getvalue().encode()


def deliver(
    store: ObjectStore,
    shards: list[list[Row]],
    *,
    form: str = "parquet",
    at: str = "2026-01-03T00:00",
    fields: tuple[str, ...] = FIELDS,
    header: bool = True,
    folder: str = "reports/",
    **manifest: Any,
) -> None:
    """A report as Insights delivers it: the shards, then the manifest beside them."""
    names = []
    for number, rows in enumerate(shards):
        names.append(f"{ID}_{at}_{number}.{form}")
        store.put(folder + names[-1], {"parquet": as_parquet, "csv": as_csv}[form](rows, fields, header))
    told = {
        "report_config": {
            "csv_options": {"delimiter": ",", "header_required": header},
            "object_metadata_report_options": {"metadata_fields": fields},
        },
        "records_processed": str(sum(map(len, shards))),
        "snapshot_time": f"{at}:00Z",
        "shard_count": len(shards),
        "report_shards_file_names": names,
    } | manifest
    store.put(f"{folder}{ID}_{at}_manifest.json", json.dumps(told).encode())


@pytest.fixture
def store() -> ObjectStore:
    return memory_store()


@pytest.fixture
def feed(store: ObjectStore) -> GcsInsightsFeed:
    return GcsInsightsFeed(store, "reports", f"reports/{ID}", SCOPE)


def listed(key: str, data: bytes = b"x", generation: int = 7, *, tag: bool = True) -> ObjectInfo:
    e_tag = f'"{hashlib.md5(data).hexdigest()}"' if tag else None
    return ObjectInfo(key, len(data), AT, ObjectVersion(e_tag, str(generation)))


@pytest.mark.parametrize(("form", "header"), [("parquet", True), ("csv", True), ("csv", False)])
def test_a_report_is_the_listing_of_the_source(
    form: str, header: bool, store: ObjectStore, feed: GcsInsightsFeed
) -> None:
    shards = [
        [row("site/data/d/z"), row('site/data/d/a,"b" %20\n', b"", 9), row("site/data/dx/k")],
        [
            row("site/data/d/composite", b"abc", md5Hash=None),
            row("site/data/d/k", bucket="other"),
            row("site/data/d/z", b"old", 3, timeDeleted=AT),
        ],
    ]
    deliver(store, shards, form=form, header=header)
    changes = feed.poll(None, 1)
    assert changes.listing is not None
    assert changes.listing.equals(
        listing_of(
            [
                listed("data/d/z"),
                listed('data/d/a,"b" %20\n', b"", 9),
                listed("data/d/composite", b"abc", tag=False),
            ]
        )
    )
    assert changes.as_of == datetime(2026, 1, 3, tzinfo=UTC)


def test_the_newest_report_is_read_once(store: ObjectStore, feed: GcsInsightsFeed) -> None:
    assert feed.poll(None, 1).listing is None
    for day in (2, 10, 9):
        deliver(store, [[row("site/data/d/k", b"x" * day)]], at=f"2026-01-{day:02d}T00:00")
    changes = feed.poll(None, 1)
    assert changes.listing is not None
    assert changes.listing["size_bytes"].to_pylist() == [10]
    assert feed.poll(changes.cursor, 1).listing is None


def test_a_report_in_dated_folders_is_found(store: ObjectStore) -> None:
    deliver(store, [[row("site/data/d/k")]], folder=f"reports/{ID}/dt=2026-01-03T00:00/")
    assert GcsInsightsFeed(store, "reports", f"reports/{ID}", SCOPE).poll(None, 1).full


@pytest.mark.parametrize("manifest", [{"records_processed": 2}, {"shard_count": 2}, {"snapshot_time": "then"}])
def test_a_report_that_is_not_whole_is_refused(
    manifest: dict[str, Any], store: ObjectStore, feed: GcsInsightsFeed
) -> None:
    deliver(store, [[row("site/data/d/k")]], **manifest)
    with pytest.raises(FeedDamaged):
        feed.poll(None, 1)


def test_a_shard_that_is_not_there_is_refused(store: ObjectStore, feed: GcsInsightsFeed) -> None:
    deliver(store, [[row("site/data/d/k")]])
    store.delete(f"reports/{ID}_2026-01-03T00:00_0.parquet")
    with pytest.raises(FeedDamaged, match="not there"):
        feed.poll(None, 1)


def test_a_report_that_cannot_tell_changes_is_bad_input(store: ObjectStore, feed: GcsInsightsFeed) -> None:
    deliver(store, [[row("site/data/d/k")]], fields=("bucket", "name", "size"))
    with pytest.raises(ConfigError, match="updated, generation"):
        feed.poll(None, 1)
