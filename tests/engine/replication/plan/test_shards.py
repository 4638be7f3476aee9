"""Shards: every copy in exactly one, about equally heavy, and each done once however often it is tried."""

from __future__ import annotations

from datetime import UTC, datetime

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.engine.config.sync import Sync
from holdfast.engine.objectstore import memory_store
from holdfast.engine.objectstore.errors import StoreUnavailable
from holdfast.engine.objectstore.faults import Fault, FaultyStore, Kind, Script
from holdfast.engine.objectstore.interface import ObjectInfo, ObjectVersion
from holdfast.engine.objectstore.pages import table_of
from holdfast.engine.replication.plan import (
    RESULTS,
    PlanConflict,
    PlanDamaged,
    load_index,
    load_result,
    load_shard,
    merge_results,
    plan_sync,
    split,
    store_plan,
    store_result,
    store_shards,
)

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def a_plan(sizes, *, late=0):
    names = [f"{number:04d}" for number in range(len(sizes))] + [f"{number:04d}/_SUCCESS" for number in range(late)]
    infos = [
        ObjectInfo(f"data/m/{name}", size, NOW, ObjectVersion(f'"{name}"'))
        for name, size in zip(names, [*sizes, *[0] * late], strict=True)
    ]
    return plan_sync(
        table_of(sorted(infos, key=lambda info: info.key)),
        None,
        {"gcp": None, "azure": None},
        dataset="market",
        folder="m",
        policy=Sync(),
        residency=None,
        topology_sites={},
        source_site="aws",
        now=NOW,
    )


@settings(max_examples=150, deadline=None)
@given(
    sizes=st.lists(st.integers(0, 1000), max_size=40),
    late=st.integers(0, 3),
    shards=st.integers(1, 60),
    cost=st.sampled_from([0, 1, 100]),
)
def test_every_copy_is_in_exactly_one_shard(sizes, late, shards, cost):
    copies = a_plan(sizes, late=late).copies
    parts = split(copies, shards=shards, object_cost_bytes=cost)
    assert [part.number for part in parts] == list(range(len(parts)))
    assert [row for part in parts for row in part.rows.to_pylist()] == copies.to_pylist()
    assert all(part.objects == part.rows.num_rows > 0 for part in parts)
    assert len([part for part in parts if not part.barrier]) <= shards
    assert [part.barrier for part in parts] == [False] * (len(parts) - bool(late)) + [True] * bool(late)
    for part in parts:
        assert set(part.rows["wave"].to_pylist()) == {0} or part.barrier
        assert (part.first, part.last) == (part.rows["path"][0].as_py(), part.rows["path"][-1].as_py())
    weights = [part.size_bytes + part.objects * max(1, cost) for part in parts if not part.barrier]
    if weights:
        heaviest = max(sizes) + max(1, cost)
        assert max(weights) <= sum(weights) / shards + heaviest


def test_a_shard_is_cut_by_count_where_objects_are_empty():
    parts = split(a_plan([0] * 10).copies, shards=5)
    assert [part.objects for part in parts] == [2] * 5


@pytest.mark.parametrize("shards", [0, -1, 9999])
def test_a_number_of_shards_that_cannot_be_is_refused(shards):
    with pytest.raises(ValueError, match="expected 1 to"):
        split(a_plan([1]).copies, shards=shards)


def stored(store, made, shards=2):
    parts = split(made.copies, shards=shards)
    store_plan(store, made)
    store_shards(store, "market", made.plan_id, parts)
    return parts


def results_of(shard, digest="blake3:x"):
    rows = [
        {"path": path, "site": site, "key": f"data/m/{path}", "digest": digest, "size_bytes": 1}
        for path in shard.rows["path"].to_pylist()
        for site in ("aws", "gcp", "azure")
    ]
    return pa.Table.from_pylist(rows, schema=RESULTS)


def test_shards_read_back_as_they_were():
    store, made = memory_store(), a_plan([5, 6, 7], late=1)
    parts = stored(store, made)
    index = load_index(store, "market", made.plan_id)
    assert [entry.barrier for entry in index.shards] == [False, False, True]
    for part in parts:
        loaded = load_shard(store, "market", made.plan_id, part.number)
        assert loaded == part
        assert loaded.rows.to_pylist() == part.rows.to_pylist()
    assert set(parts[0].rows["targets"].to_pylist()) == {"gcp,azure"}
    stored(store, made)
    with pytest.raises(PlanConflict):
        stored(store, made, shards=1)
    with pytest.raises(PlanDamaged, match="no such shard"):
        load_shard(store, "market", made.plan_id, 3)


def test_a_damaged_shard_is_refused():
    store, made = memory_store(), a_plan([5, 6])
    stored(store, made)
    key = f"sync-plans/market/{made.plan_id}/shards/0001.parquet"
    store.put(key, store.get(f"sync-plans/market/{made.plan_id}/shards/0000.parquet"))
    with pytest.raises(PlanDamaged, match="not the one that was planned"):
        load_shard(store, "market", made.plan_id, 1)


def test_the_first_result_counts_and_the_second_runner_is_told():
    store, made = memory_store(), a_plan([5, 6])
    one, two = stored(store, made)
    first = results_of(one)
    assert store_result(store, "market", made.plan_id, one, first).equals(first)
    again = store_result(store, "market", made.plan_id, one, results_of(one, digest="blake3:other"))
    assert again.to_pylist() == first.to_pylist()
    assert load_result(store, "market", made.plan_id, 0).to_pylist() == first.to_pylist()
    assert load_result(store, "market", made.plan_id, 1) is None
    merged = merge_results(store, "market", made.plan_id)
    assert (merged.missing, merged.shards) == ((1,), 2)
    store_result(store, "market", made.plan_id, two, results_of(two))
    merged = merge_results(store, "market", made.plan_id)
    assert merged.missing == ()
    assert merged.table.to_pylist() == [*first.to_pylist(), *results_of(two).to_pylist()]


def test_a_lost_answer_to_a_result_is_not_taken_for_another_s():
    store, made = memory_store(), a_plan([5])
    (shard,) = stored(store, made)
    faulty = FaultyStore(store, Script([Fault(Kind.FAIL_AFTER, "put")]))
    assert store_result(faulty, "market", made.plan_id, shard, results_of(shard)).equals(results_of(shard))
    other = FaultyStore(memory_store(), Script([Fault(Kind.FAIL_BEFORE, "put")]))
    with pytest.raises(StoreUnavailable):
        store_result(other, "market", made.plan_id, shard, results_of(shard))


def test_a_result_of_foreign_paths_is_refused():
    store, made = memory_store(), a_plan([5, 6])
    one, two = stored(store, made)
    with pytest.raises(ValueError, match="not of shard 0"):
        store_result(store, "market", made.plan_id, one, results_of(two))


def test_a_plan_without_copies_has_no_shards_and_is_done():
    store, made = memory_store(), a_plan([])
    assert stored(store, made) == []
    assert merge_results(store, "market", made.plan_id).missing == ()
