"""docs/formats/sync-plan.md today's code reads what was written before, and writes the same."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from holdfast.engine.config import Residency, Site
from holdfast.engine.config.sync import Sync
from holdfast.engine.objectstore import memory_store
from holdfast.engine.objectstore.interface import ObjectInfo, ObjectVersion
from holdfast.engine.objectstore.pages import table_of
from holdfast.engine.replication.plan import (
    RESULTS,
    load_index,
    load_plan,
    load_shard,
    merge_results,
    plan_sync,
    split,
    store_plan,
    store_result,
    store_shards,
)
from holdfast.engine.snapshot.digest import digest_of
from holdfast.engine.snapshot.manifest import Manifest, ManifestEntry

GOLDEN = Path(__file__).resolve().parents[3] / "golden" / "sync-plan"
PLAN_ID = (GOLDEN / "plan-id").read_text().strip() if GOLDEN.exists() else ""
NOW = datetime(2026, 3, 1, 12, 0, 5, 42, tzinfo=UTC)
OLD = datetime(2026, 2, 1, 12, 0, 1, tzinfo=UTC)
SITES = {
    "aws": Site(cloud="aws", region="eu-west-1", jurisdiction="EU", connection="c", bucket="b", egress_cost_per_gib=9),
    "gcp": Site(cloud="gcp", region="europe-west1", jurisdiction="EU", connection="c", bucket="b"),
    "azure": Site(cloud="azure", region="eastus", jurisdiction="US", connection="c", bucket="b"),
}


def made():
    listed = [
        ObjectInfo("data/market/_SUCCESS", 0, NOW, ObjectVersion('"s"')),
        ObjectInfo("data/market/a é.parquet", 3, OLD, ObjectVersion('"a"')),
        ObjectInfo("data/market/b.parquet", 1024, NOW, ObjectVersion('"b2"', "v2")),
        ObjectInfo("data/market/c/", 0, OLD, ObjectVersion('"d"')),
        ObjectInfo("data/market/new.parquet", 7, NOW, ObjectVersion('"n"')),
    ]
    known = Manifest.build(
        ManifestEntry(path, size, digest_of(path.encode()), None, tag, OLD)
        for path, size, tag in [("a é.parquet", 3, '"a"'), ("b.parquet", 9, '"b"'), ("gone", 5, '"g"')]
    ).table
    return plan_sync(
        table_of(listed),
        known,
        {"gcp": known, "azure": None},
        dataset="market",
        folder="market",
        # Spelled out, so that another default leaves the file as it is.
        policy=Sync(last=("_SUCCESS", "**/_SUCCESS")),
        residency=Residency(jurisdictions=("EU",)),
        topology_sites=SITES,
        source_site="aws",
        now=NOW,
        measured_bytes_per_second={"gcp": 1e6},
        based_on="0123456789abcdef" * 2,
    )


def result_of(shard):
    rows = [
        {
            "path": path,
            "site": site,
            "key": f"data/market/{path}",
            "digest": digest_of(path.encode()),
            "size_bytes": size,
            "e_tag": '"x"',
            "version": None if site == "aws" else "17",
            "modified_at": NOW,
        }
        for path, size in zip(shard.rows["path"].to_pylist(), shard.rows["size_bytes"].to_pylist(), strict=True)
        for site in ("aws", "gcp")
    ]
    return pa.Table.from_pylist(rows, schema=RESULTS)


def written():
    """Every file of the plan, by its name under the plan's folder."""
    store, plan = memory_store(), made()
    store_plan(store, plan)
    shards = split(plan.copies, shards=2)
    store_shards(store, "market", plan.plan_id, shards)
    for shard in shards:
        store_result(store, "market", plan.plan_id, shard, result_of(shard))
    root = f"sync-plans/market/{plan.plan_id}/"
    return plan.plan_id, {info.key.removeprefix(root): store.get(info.key) for info in store.list(root)}


def golden():
    return {path.relative_to(GOLDEN).as_posix(): path.read_bytes() for path in GOLDEN.rglob("*.*")}


def test_a_plan_written_before_is_read():
    store = memory_store()
    for name, data in golden().items():
        store.put(f"sync-plans/market/{PLAN_ID}/{name}", data)
    plan = load_plan(store, "market", PLAN_ID)
    assert plan.document.content_id() == PLAN_ID
    for site in ("gcp", "azure"):
        assert plan.actions(site).to_pylist() == made().actions(site).to_pylist()
    assert [(row["path"], row["action"], row["reason"]) for row in plan.changes.to_pylist()] == [
        ("b.parquet", "copy", "changed"),
        ("gone", "delete", "removed"),
        ("new.parquet", "copy", "new"),
        ("_SUCCESS", "copy", "new"),
        ("c/", "skip", "marker"),
    ]
    shards = split(plan.copies, shards=2)
    assert [
        load_shard(store, "market", PLAN_ID, entry.number) for entry in load_index(store, "market", PLAN_ID).shards
    ] == (shards)
    merged = merge_results(store, "market", PLAN_ID)
    assert merged.missing == ()
    assert merged.table.to_pylist() == [row for shard in shards for row in result_of(shard).to_pylist()]


def test_a_plan_is_written_the_same():
    plan_id, files = written()
    before = golden()
    assert set(files) == set(before)
    for name in sorted(files):
        if name.endswith(".parquet"):
            # How Parquet encodes the values is Arrow's and its options' to say; a plan's id names the bytes it has.
            now, then = _parquet(files[name]), _parquet(before[name])
            assert now.schema.equals(then.schema, check_metadata=True)
            assert now.to_pylist() == then.to_pylist()
    assert written() == (plan_id, files)


def _parquet(data: bytes) -> pa.Table:
    return pq.read_table(pa.BufferReader(data))
