"""A sync of a lake table: commits appear in their order, and a torn table is never published."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from holdfast.clock import FakeClock
from holdfast.engine.config.sync import Sync
from holdfast.engine.objectstore import memory_store
from holdfast.engine.objectstore._decorator import StoreDecorator
from holdfast.engine.replication.sync import SyncSite, sync_dataset
from holdfast.engine.snapshot import latest, open_snapshot
from holdfast.engine.snapshot.tables import TableDamaged
from sync_world import SITES

deltalake = pytest.importorskip("deltalake")
POLICY = Sync(table="delta")


class Noting(StoreDecorator):
    """Notes what is written in the dataset's folder, in order."""

    def __init__(self, inner):
        super().__init__(inner)
        self.written: list[str] = []

    def put(self, key, data, **kwargs):
        result = self.inner.put(key, data, **kwargs)
        if key.startswith("data/lake/"):
            self.written.append(key.removeprefix("data/lake/"))
        return result


class World:
    def __init__(self, root: Path) -> None:
        self.root, self.clock = root, FakeClock()
        self.source, self.target = memory_store("aws"), Noting(memory_store("gcp"))

    def append(self, *values: int) -> None:
        deltalake.write_deltalake(str(self.root), pa.table({"x": pa.array(values, pa.int64())}), mode="append")

    def upload(self, *, without: str = "\0") -> None:
        for path in self.root.rglob("*"):
            name = str(path.relative_to(self.root))
            if path.is_file() and without not in name:
                self.source.put(f"data/lake/{name}", path.read_bytes())

    def sync(self):
        self.clock.advance(1)
        return sync_dataset(
            SyncSite("aws", self.source),
            [SyncSite("gcp", self.target)],
            dataset="lake",
            folder="lake",
            policy=POLICY,
            epoch=1,
            residency=None,
            topology_sites=SITES,
            clock=self.clock,
            threads=4,
        )


@pytest.fixture
def world(tmp_path):
    return World(tmp_path / "origin")


def test_commits_appear_in_their_order_after_their_data_and_before_the_pointer(world, tmp_path):
    for number in range(6):
        world.append(number)
    deltalake.DeltaTable(str(world.root)).create_checkpoint()
    world.upload()
    world.sync()
    log = [name.removeprefix("_delta_log/") for name in world.target.written if name.startswith("_delta_log/")]
    commits = [f"{number:020d}.json" for number in range(6)]
    assert log == [*commits, "00000000000000000005.checkpoint.parquet", "_last_checkpoint"]
    assert not any(name.endswith(".parquet") and "_delta_log" not in name for name in world.target.written[6:])
    opened = open_snapshot(world.target, latest(world.target, "lake", epoch=1))
    for path in opened.manifest.paths:
        (tmp_path / "replica" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "replica" / path).write_bytes(opened.read(path))
    replica = deltalake.DeltaTable(str(tmp_path / "replica"))
    assert (replica.version(), sorted(replica.to_pyarrow_table()["x"].to_pylist())) == (5, [0, 1, 2, 3, 4, 5])


def test_a_table_torn_at_its_source_is_not_published_until_it_is_whole(world):
    world.append(1)
    world.upload()
    first = world.sync().record
    before = {path.name for path in world.root.glob("*.parquet")}
    world.append(2)
    (late,) = {path.name for path in world.root.glob("*.parquet")} - before
    world.upload(without=late)
    with pytest.raises(TableDamaged):
        world.sync()
    assert latest(world.source, "lake", epoch=1) == first
    assert latest(world.target, "lake", epoch=1) == first
    world.upload()
    second = world.sync().record
    assert latest(world.target, "lake", epoch=1) == second
    opened = open_snapshot(world.target, second)
    assert sorted(opened.dataset().to_table()["x"].to_pylist()) == [1, 2]
