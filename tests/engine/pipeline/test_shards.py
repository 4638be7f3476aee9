"""A sync spread over workers: shards in any order, twice, killed between; then one sync that publishes."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from folders import FolderRuntime, folder_runtime, make_folders
from holdfast.engine.pipeline import replicas, shards, sync


@pytest.fixture
def runtime(tmp_path: Path) -> FolderRuntime:
    """A dataset of fifty objects and one piece of metadata that belongs last."""
    topology = make_folders(tmp_path)
    for number in range(50):
        put(tmp_path, f"part-{number:02}.bin", bytes([number]) * (100 + number))
    put(tmp_path, "_SUCCESS", b"")
    return folder_runtime(topology)


def put(folder: Path, name: str, data: bytes) -> None:
    file = folder / "site-a" / "data" / "prices" / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(data)


def copy(runtime: FolderRuntime, handle: shards.ShardHandle, **kwargs: object) -> shards.ShardReport:
    return shards.copy(runtime, "desk", "prices", plan_id=handle.plan_id, number=handle.number, **kwargs)  # type: ignore[arg-type]


def copied(report: sync.SyncReport) -> dict[str, int]:
    return {one.site: one.copied_objects for one in report.targets}


def test_shards_bring_the_objects_and_the_sync_after_them_only_what_belongs_last(runtime: FolderRuntime) -> None:
    made = shards.plan_shards(runtime, "desk", "prices", shards=4)
    assert len(made.shards) == 4
    assert sum(one.objects for one in made.shards) == 50
    order = list(made.shards)
    random.Random(7).shuffle(order)
    for handle in order:
        copy(runtime, handle)
    assert replicas.snapshots(runtime, "desk", "prices", site="site-b") == ()
    report = sync.require_synced(runtime, "desk", "prices", sync.run(runtime, "desk", "prices"))
    assert copied(report) == {"site-b": 1, "site-c": 1}  # _SUCCESS
    assert all(one.ok for one in replicas.verify_everywhere(runtime, "desk", "prices"))


def test_a_shard_that_is_tried_again_copies_nothing_twice(runtime: FolderRuntime) -> None:
    handle = shards.plan_shards(runtime, "desk", "prices", shards=2).shards[0]
    first, again = copy(runtime, handle), copy(runtime, handle)
    assert (first.known_objects, first.read_bytes) == (0, handle.size_bytes)
    assert (again.known_objects, again.read_bytes) == (handle.objects, 0)


def test_a_shard_may_be_copied_to_one_site_by_its_own_workers(runtime: FolderRuntime, tmp_path: Path) -> None:
    for handle in shards.plan_shards(runtime, "desk", "prices", shards=3).shards:
        copy(runtime, handle, sites=["site-c"])
    assert not (tmp_path / "site-b" / "data").exists()
    assert copied(sync.run(runtime, "desk", "prices")) == {"site-b": 51, "site-c": 1}


def test_what_moved_since_the_plan_is_taken_by_the_publishing_sync_as_it_is_now(
    runtime: FolderRuntime, tmp_path: Path
) -> None:
    handle = shards.plan_shards(runtime, "desk", "prices", shards=1).shards[0]
    put(tmp_path, "part-03.bin", b"newer")
    (tmp_path / "site-a" / "data" / "prices" / "part-04.bin").unlink()
    assert copy(runtime, handle).moved_objects == 2
    put(tmp_path, "part-05.bin", b"newer still")
    report = sync.run(runtime, "desk", "prices")
    assert report.record is not None
    assert report.record.object_count == 50
    assert copied(report) == {"site-b": 3, "site-c": 3}
    assert all(one.ok for one in replicas.verify_everywhere(runtime, "desk", "prices"))


def test_nothing_to_copy_is_no_shard_and_a_plan_nobody_made_is_outdated(runtime: FolderRuntime) -> None:
    sync.run(runtime, "desk", "prices")
    assert shards.plan_shards(runtime, "desk", "prices", shards=4).shards == ()
    with pytest.raises(shards.PlanOutdated, match="new plan"):
        copy(runtime, shards.ShardHandle("0" * 32, 0, 1, 1))


def test_a_site_that_fails_fails_the_shard_and_the_retry_brings_it(runtime: FolderRuntime, tmp_path: Path) -> None:
    handle = shards.plan_shards(runtime, "desk", "prices", shards=1).shards[0]
    (tmp_path / "site-b").rename(tmp_path / "away")
    with pytest.raises(shards.ShardNotCopied, match="site-b") as failed:
        copy(runtime, handle)
    assert failed.value.transient
    (tmp_path / "away").rename(tmp_path / "site-b")
    again = copy(runtime, handle)
    assert {one.site: one.copied_objects for one in again.targets} == {"site-b": 50, "site-c": 0}
