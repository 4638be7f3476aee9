"""A plan's copies shared out: shards by bytes and count in path order, each done once however often it is tried.

A shard's outcome is written create-only: the first one counts, whoever else did the same work is told what counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import pyarrow as pa
import pyarrow.compute as pc

from holdfast.engine.objectstore.interface import ObjectStore
from holdfast.engine.replication.plan.documents import ShardEntry, ShardIndex
from holdfast.engine.replication.plan.errors import PlanDamaged
from holdfast.engine.replication.plan.plan import COPIES
from holdfast.engine.replication.plan.schema import TEXT
from holdfast.engine.replication.plan.stored import create_same, read_document, read_rows, root, rows_from
from holdfast.engine.snapshot.digest import digest_of
from holdfast.engine.snapshot.manifest import write_table
from holdfast.engine.snapshot.once import create_or_read

#: What an object costs beside its bytes, in bytes: requests take time, and so do empty objects.
OBJECT_COST_BYTES = 256 * 1024
MOST_SHARDS = 9999
#: Where each object of a shard lies now, a row for each site that has it, the source's (as read) among them.
RESULTS = pa.schema(
    [
        pa.field("path", TEXT, nullable=False),
        pa.field("site", pa.string(), nullable=False),
        pa.field("key", TEXT, nullable=False),
        pa.field("digest", pa.string(), nullable=False),
        pa.field("size_bytes", pa.int64(), nullable=False),
        pa.field("e_tag", TEXT),
        pa.field("version", TEXT),
        pa.field("modified_at", pa.timestamp("us", tz="UTC")),
    ],
    metadata={b"format": b"holdfast.sync-result/1"},
)


@dataclass(frozen=True)
class Shard:
    """Some of a plan's copies. A ``barrier`` is begun when all other shards are done."""

    number: int
    barrier: bool
    objects: int
    size_bytes: int
    first: str
    last: str
    rows: pa.Table = field(repr=False, compare=False)


@dataclass(frozen=True)
class MergedResults:
    """What the shards of a plan brought about so far. With ``missing`` shards nothing may be published."""

    table: pa.Table = field(repr=False)
    missing: tuple[int, ...]
    shards: int


def split(copies: pa.Table, *, shards: int, object_cost_bytes: int = OBJECT_COST_BYTES) -> list[Shard]:
    """Share out copies in path order.

    Args:
        copies: `SyncPlan.copies`: by wave and path.
        shards: at most so many for the data; later waves are one more shard, a barrier. Each has about the same
            cost; one object is never split, so a shard may be larger and there may be fewer.
        object_cost_bytes: what an object costs beside its bytes.

    Returns:
        Shards with every row in exactly one, none empty; numbered from 0.
    """
    if not 1 <= shards < MOST_SHARDS:
        raise ValueError(f"expected 1 to {MOST_SHARDS - 1} shards; found {shards}")
    late = int(pc.sum(pc.greater(copies["wave"], 0)).as_py() or 0)
    data = copies.slice(0, copies.num_rows - late)
    cuts = [0, *_cuts(data, shards, object_cost_bytes), data.num_rows]
    parts = [(data.slice(begin, end - begin), False) for begin, end in pairwise(cuts)]
    parts.append((copies.slice(data.num_rows), True))
    kept = [(rows, barrier) for rows, barrier in parts if rows.num_rows]
    return [_shard(number, rows, barrier) for number, (rows, barrier) in enumerate(kept)]


def _cuts(data: pa.Table, shards: int, object_cost_bytes: int) -> list[int]:
    """Where the second and later shards begin: each ends with the object that brings it to its share."""
    if not data.num_rows:
        return []
    cost = pc.cumulative_sum(pc.add(pc.fill_null(data["size_bytes"], 0), max(1, object_cost_bytes)))
    total = cost[-1].as_py()
    return [_first_reaching(cost, total * number // shards) + 1 for number in range(1, shards)]


def _first_reaching(rising: pa.ChunkedArray, value: int) -> int:
    low, high = 0, len(rising) - 1
    while low < high:
        middle = (low + high) // 2
        if rising[middle].as_py() < value:
            low = middle + 1
        else:
            high = middle
    return low


def _shard(number: int, rows: pa.Table, barrier: bool) -> Shard:
    return Shard(
        number=number,
        barrier=barrier,
        objects=rows.num_rows,
        size_bytes=int(pc.sum(rows["size_bytes"]).as_py() or 0),
        first=rows["path"][0].as_py(),
        last=rows["path"][-1].as_py(),
        rows=rows,
    )


def store_shards(store: ObjectStore, dataset: str, plan_id: str, shards: Sequence[Shard]) -> ShardIndex:
    """Write a plan's shards, their index last; the same ones again are no error.

    Raises:
        PlanConflict: the plan was split otherwise before.
    """
    folder = root(dataset, plan_id)
    entries = []
    for shard in shards:
        data = write_table(shard.rows)
        create_same(store, _shard_key(folder, shard.number), data)
        facts = {name: getattr(shard, name) for name in ShardEntry.model_fields if name != "digest"}
        entries.append(ShardEntry(**facts, digest=digest_of(data)))
    index = ShardIndex(plan_id=plan_id, shards=tuple(entries))
    create_same(store, f"{folder}/shards/index.json", index.to_json(), content_type="application/json")
    return index


def load_index(store: ObjectStore, dataset: str, plan_id: str) -> ShardIndex:
    """A plan's shards without their rows. Raises PlanDamaged."""
    key = f"{root(dataset, plan_id)}/shards/index.json"
    index = read_document(store, key, ShardIndex)
    if index.plan_id != plan_id:
        raise PlanDamaged(
            "the shards are another plan's", where=f"{store.name}: {key}", expected=plan_id, found=index.plan_id
        )
    return index


def load_shard(store: ObjectStore, dataset: str, plan_id: str, number: int) -> Shard:
    """One shard with its rows. Raises PlanDamaged."""
    index = load_index(store, dataset, plan_id)
    if not 0 <= number < len(index.shards):
        raise PlanDamaged(
            "the plan has no such shard",
            where=f"{store.name}: {root(dataset, plan_id)}",
            expected=f"0 to {len(index.shards) - 1}",
            found=str(number),
        )
    entry = index.shards[number]
    rows = read_rows(store, _shard_key(root(dataset, plan_id), number), COPIES, digest=entry.digest)
    return Shard(**entry.model_dump(exclude={"digest"}), rows=rows)


def store_result(store: ObjectStore, dataset: str, plan_id: str, shard: Shard, results: pa.Table) -> pa.Table:
    """Write what a shard brought about, unless somebody did before.

    Args:
        results: schema `RESULTS`; paths of this shard alone.

    Returns:
        The results that count: these, or those that lay there first.

    Raises:
        ValueError: a path is not of this shard.
        StoreUnavailable: it is not known whether they were written.
    """
    _check_paths(results, shard)
    key = _result_key(root(dataset, plan_id), shard.number)
    data = write_table(results.select(RESULTS.names).cast(RESULTS))
    found = create_or_read(store, key, data)
    return results if found == data else rows_from(found, RESULTS, where=f"{store.name}: {key}")


def load_result(store: ObjectStore, dataset: str, plan_id: str, number: int) -> pa.Table | None:
    """What a shard brought about; ``None``: it is not done."""
    key = _result_key(root(dataset, plan_id), number)
    if not any(info.key == key for info in store.list(key)):
        return None
    return read_rows(store, key, RESULTS, digest=None)


def merge_results(store: ObjectStore, dataset: str, plan_id: str) -> MergedResults:
    """What all shards brought about, and which are not done.

    Raises:
        PlanDamaged: the index or a result is not what was written.
    """
    index = load_index(store, dataset, plan_id)
    folder = root(dataset, plan_id)
    there = {info.key for info in store.list(f"{folder}/results/")}
    done = {entry.number: _result_key(folder, entry.number) for entry in index.shards}
    missing = tuple(number for number, key in done.items() if key not in there)
    tables = [read_rows(store, key, RESULTS, digest=None) for key in done.values() if key in there]
    return MergedResults(pa.concat_tables([RESULTS.empty_table(), *tables]), missing, len(index.shards))


def _check_paths(results: pa.Table, shard: Shard) -> None:
    foreign = results["path"].filter(pc.invert(pc.is_in(results["path"].cast(TEXT), value_set=shard.rows["path"])))
    if len(foreign):
        raise ValueError(f"{foreign[0].as_py()!r} is not of shard {shard.number}")


def _shard_key(folder: str, number: int) -> str:
    return f"{folder}/shards/{number:04d}.parquet"


def _result_key(folder: str, number: int) -> str:
    return f"{folder}/results/{number:04d}.parquet"
