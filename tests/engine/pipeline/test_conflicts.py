"""Two sites that are both written to: what is told of them, and that nothing is touched."""

from __future__ import annotations

from typing import Any, cast

import pytest
from pydantic import ValidationError

from holdfast.engine.config.sync import Filters, Sync
from holdfast.engine.pipeline import conflicts, shards, sync
from holdfast.engine.replication.directions import NoCommonSnapshot
from holdfast.engine.runtime import Runtime
from holdfast.errors import ConfigError
from world import AWS, AZURE, DATASET, GCP, GROUP, World, make_world


@pytest.fixture
def world() -> World:
    """Every kind of change at two sites since a snapshot both have."""
    found = with_policy(make_world(), Sync())
    for name in ("here", "there", "both", "gone_here", "gone_there", "kept"):
        put(found, name, b"old")
    sync.run(as_runtime(found), GROUP, DATASET)
    put(found, "here", b"from aws")
    put(found, "both", b"from aws")
    put(found, "gone_there", b"from aws")
    found.bare(AWS).delete("data/market-data/gone_here")
    put(found, "there", b"from gcp", GCP)
    put(found, "both", b"from gcp!", GCP)
    put(found, "new", b"from gcp", GCP)
    found.bare(GCP).delete("data/market-data/gone_there")
    return with_policy(found, Sync(direction="active-active"))


def with_policy(world: World, policy: Sync) -> World:
    topology = world.topology
    dataset = topology.datasets[DATASET].model_copy(update={"sync": policy, "expectations": None})
    world.topology = topology.model_copy(update={"datasets": {**topology.datasets, DATASET: dataset}})
    world.topology._path = topology.path
    return world


def as_runtime(world: World) -> Runtime:
    return cast("Runtime", world)


def put(world: World, name: str, data: bytes, site: str = AWS) -> None:
    world.bare(site).put(f"data/market-data/{name}", data)
    world.clock.advance(1)


def report(world: World, **kwargs: Any) -> conflicts.ConflictReport:
    return conflicts.report(as_runtime(world), GROUP, DATASET, **kwargs)


def everything(world: World) -> dict[str, list[tuple[str, str | None]]]:
    return {site: [(info.key, info.version.e_tag) for info in world.bare(site).list("")] for site in (AWS, GCP, AZURE)}


def test_what_both_sites_changed_is_told_and_nothing_is_written(world: World) -> None:
    before = everything(world)
    found = report(world, peer=GCP)
    assert {one.path: one.what for one in found.differences} == {
        "here": f"changed at {AWS}",
        "there": f"changed at {GCP}",
        "both": "both changed",
        "gone_here": f"deleted at {AWS}",
        "gone_there": f"changed at {AWS}, deleted at {GCP}",
        "new": f"added at {GCP}",
    }
    assert {one.path for one in found.differences if one.conflict} == {"both", "gone_there"}
    assert (found.conflicts, found.unsettled, found.winner) == (2, 2, None)
    assert {one.outcome for one in found.differences if one.conflict} == {"a person decides"}
    assert everything(world) == before


def test_the_winner_rule_settles_conflicts_in_words(world: World) -> None:
    with_policy(world, Sync(direction="active-active", winner=GCP))
    found = report(world)
    assert (found.peer, found.conflicts, found.unsettled) == (GCP, 2, 0)
    assert {one.path: one.outcome for one in found.differences} == {
        "here": f"{AWS}'s version goes to {GCP}",
        "there": f"{GCP}'s version goes to {AWS}",
        "both": f"{GCP}'s version goes to {AWS}",
        "gone_here": f"removed at {GCP}, as at {AWS}",
        "gone_there": f"removed at {AWS}, as at {GCP}",
        "new": f"{GCP}'s version goes to {AWS}",
    }
    outcomes = {one.path: one.outcome for one in report(world, peer=GCP, winner=AWS).differences}
    assert outcomes["both"] == outcomes["gone_there"] == f"{AWS}'s version goes to {GCP}"


def test_what_lay_at_a_replica_when_a_sync_reached_it_counts_for_nothing_and_later_writes_show(world: World) -> None:
    with_policy(world, Sync())
    sync.run(as_runtime(world), GROUP, DATASET)
    assert report(world, peer=AZURE).differences == report(world, peer=GCP).differences == ()
    put(world, "there", b"from gcp again", GCP)
    assert [(one.path, one.what) for one in report(world, peer=GCP).differences] == [("there", f"changed at {GCP}")]


def test_what_filters_leave_out_is_no_conflict(world: World) -> None:
    with_policy(world, Sync(filters=Filters(exclude=("new", "both"))))
    found = {one.path: one.what for one in report(world, peer=GCP).differences}
    assert ("new" in found, found["both"]) == (False, "same change")  # it left the dataset at both sites


def test_names_that_do_not_fit_and_rules_it_cannot_follow_are_refused(world: World) -> None:
    with pytest.raises(ConfigError, match="neither of the two"):
        report(world, peer=GCP, winner=AZURE)
    with pytest.raises(ConfigError, match="--peer"):
        report(world, peer=AWS)
    for policy in (Sync(rename={"a/": "b/"}), Sync(filters=Filters(youngest_seconds=5))):
        with pytest.raises(ConfigError, match="cannot be compared"):
            report(with_policy(world, policy), peer=GCP)
    with pytest.raises(ValidationError, match="winner"):
        Sync(winner=AWS)


def test_sites_that_never_agreed_cannot_be_compared() -> None:
    world = with_policy(make_world(), Sync())
    for key in [info.key for info in world.bare(GCP).list("snapshots/")]:
        world.bare(GCP).delete(key)
    with pytest.raises(NoCommonSnapshot):
        report(world, peer=GCP)


def test_without_a_winner_neither_a_run_nor_a_mapped_one_begins(world: World) -> None:
    before = everything(world)
    with pytest.raises(ConfigError, match="sync conflicts"):
        sync.run(as_runtime(world), GROUP, DATASET)
    with pytest.raises(ConfigError, match="sync conflicts"):
        shards.plan_shards(as_runtime(world), GROUP, DATASET, shards=2)
    assert everything(world) == before
