"""What a transfer service staged is taken over only as far as the sync itself would have taken it."""

from __future__ import annotations

import pyarrow as pa
import pytest

from holdfast.engine.config.sync import Sync
from holdfast.engine.objectstore import memory_store
from holdfast.engine.objectstore.listing import list_table
from holdfast.engine.replication.movers.adopt import adopt
from holdfast.engine.replication.sync import SyncSite
from holdfast.engine.replication.target import Run
from holdfast.engine.snapshot.placement import replica_metadata
from sync_world import DATASET, FOLDER, SITES, World

STAGING = f"data/{FOLDER}/.versions/{'0' * 16}/"


@pytest.mark.parametrize("data", [b"a dead writer's", b""])
def test_what_came_with_a_replication_that_was_never_committed_is_left_to_the_sync(data):
    world = World({name: memory_store(name) for name in ("aws", "gcp")})
    world.source.put("a", b"ours")
    source, target = world.stores["aws"], world.stores["gcp"]
    source.put("data/market/z", data, metadata=replica_metadata("0" * 32, "z"))
    listing = list_table(source, "data/market/")
    paths = [key.removeprefix("data/market/") for key in listing["key"].to_pylist()]
    for path in paths:
        target.put(STAGING + path, source.get(f"data/market/{path}"))
    run = Run(SyncSite("aws", source), DATASET, FOLDER, Sync(), 1, None, SITES, world.clock, "0" * 32)
    adopted = adopt(run, SyncSite("gcp", target), listing.append_column("path", pa.array(paths)), STAGING)
    assert (adopted.objects, adopted.missing, adopted.wrong) == (1, 1, 0)
    world.sync()
    assert world.shows("gcp") == {"a": b"ours"}
