"""A dataset with writers at two sites as the command line, the operators and the DAG sync it."""

from __future__ import annotations

import dataclasses
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

import pytest
from pydantic import ValidationError

from holdfast.engine.config.sync import Deletes, Filters, Sync
from holdfast.engine.config.writers import written_sites
from holdfast.engine.health.interface import Verdict
from holdfast.engine.objectstore.errors import StoreUnavailable
from holdfast.engine.pipeline import conflicts, going_back, merging, removals, shards, sync
from holdfast.engine.pipeline.active import require_active
from holdfast.engine.recovery import new_plan, points, protect_group, run_plan
from holdfast.engine.recovery.protection import read_note
from holdfast.engine.replication.directions import NoCommonSnapshot
from holdfast.engine.runtime import Runtime
from holdfast.engine.snapshot import VerifyReport, keys, latest, open_snapshot, read_fork, take_and_publish, verify
from holdfast.errors import ConfigError
from world import AWS, AZURE, DATASET, GCP, GROUP, World, make_world

FOLDER = "data/market-data/"


def with_policy(world: World, **policy: Any) -> World:
    topology = world.topology
    changes = {"sync": Sync(**policy), "expectations": None}
    dataset = topology.datasets[DATASET].model_copy(update=changes)
    world.topology = topology.model_copy(update={"datasets": {**topology.datasets, DATASET: dataset}})
    world.topology._path = topology.path
    return world


def both(world: World, winner: str | None = AWS, **policy: Any) -> World:
    return with_policy(world, direction="active-active", winner=winner, **policy)


def as_runtime(world: World) -> Runtime:
    return cast("Runtime", world)


def run(world: World, **kwargs: Any) -> sync.SyncReport:
    return sync.run(as_runtime(world), GROUP, DATASET, **kwargs)


def put(world: World, name: str, data: bytes, site: str) -> None:
    world.bare(site).put(FOLDER + name, data)
    world.clock.advance(1)


def shows(world: World, site: str, epoch: int = 1) -> dict[str, bytes]:
    record = latest(world.bare(site), DATASET, epoch=epoch)
    assert record is not None
    opened = open_snapshot(world.bare(site), record)
    return {path: opened.read(path) for path in opened.manifest.paths}


def everything(world: World) -> dict[str, list[tuple[str, str | None]]]:
    return {site: [(info.key, info.version.e_tag) for info in world.bare(site).list("")] for site in (AWS, GCP, AZURE)}


@pytest.fixture
def world() -> World:
    """A snapshot everywhere, then a change at each of two sites and a conflict; one more site is a witness."""
    found = with_policy(make_world())
    put(found, "both", b"old", AWS)
    run(found)
    put(found, "here", b"aws", AWS)
    put(found, "there", b"gcp", GCP)
    put(found, "both", b"aws", AWS)
    put(found, "both", b"gcp", GCP)
    return found


@pytest.mark.parametrize("winner", [AWS, GCP])
def test_a_run_merges_both_sites_and_brings_the_result_to_the_witness(world: World, winner: str) -> None:
    report = run(both(world, winner))
    expected = {
        "sp500.parquet": b"prices",
        "here": b"aws",
        "there": b"gcp",
        "both": b"aws" if winner == AWS else b"gcp",
    }
    assert [shows(world, site) for site in (AWS, GCP, AZURE)] == [expected] * 3
    assert report.merge is not None
    assert [(one.path, one.site) for one in report.merge.overruled] == [("both", GCP if winner == AWS else AWS)]
    assert sync.require_synced(as_runtime(world), GROUP, DATASET, report) == report
    for site in (GCP, AZURE):
        note = read_note(world.bare(site), GROUP, DATASET, site)
        assert note is not None
        assert note.snapshot_id == report.snapshot_id
    found = conflicts.report(as_runtime(world), GROUP, DATASET)
    assert (found.peer, found.differences) == (GCP, ())
    assert run(world).record is None


def test_without_a_winner_it_is_refused_before_anything_moves(world: World) -> None:
    before = everything(world)
    with pytest.raises(ConfigError, match="winner") as refused:
        run(both(world, None))
    assert refused.value.exit_code == 2
    assert "sync conflicts" in str(refused.value)
    assert everything(world) == before


def test_without_the_peer_nothing_is_merged_and_nothing_is_published(world: World) -> None:
    before = everything(both(world))
    world.board.cut.add(GCP)
    with pytest.raises(StoreUnavailable):
        run(world)
    world.board.cut.clear()
    assert everything(world) == before


@pytest.mark.parametrize(
    ("policy", "found"),
    [
        ({"table": "delta"}, "delta"),
        ({"table": "iceberg"}, "iceberg"),
        ({"engine": "datasync"}, "datasync"),
        ({"rename": {"a/": "b/"}}, "rename"),
        ({"filters": Filters(oldest_seconds=5)}, "by age"),
    ],
)
def test_rules_that_cannot_be_followed_at_two_sites_are_refused(
    world: World, policy: dict[str, Any], found: str
) -> None:
    before = everything(world)
    with pytest.raises(ConfigError, match=found):
        run(both(world, **policy))
    assert everything(world) == before


def test_the_two_sites_are_named_by_writers_where_the_group_leaves_a_choice(world: World) -> None:
    runtime = as_runtime(both(world))
    state = require_active(runtime, GROUP)
    assert merging.require_mergeable(runtime, GROUP, DATASET, state) == (AWS, GCP)
    group = world.topology.groups[GROUP]
    roles = group.sites.model_copy(update={"standby": (GCP, AZURE), "witness": ()})
    groups = {GROUP: group.model_copy(update={"sites": roles})}
    world.topology = world.topology.model_copy(update={"groups": groups})
    with pytest.raises(ConfigError, match="writers"):
        merging.require_mergeable(runtime, GROUP, DATASET, state)
    both(world, GCP)
    assert merging.require_mergeable(runtime, GROUP, DATASET, state) == (GCP, GCP)
    both(world, AWS, writers=(AWS, AZURE))
    assert merging.require_mergeable(runtime, GROUP, DATASET, state) == (AWS, AZURE)
    assert written_sites(world.topology, GROUP, DATASET) == (AWS, AZURE)
    both(world, GCP, writers=(GCP, AZURE))
    with pytest.raises(ConfigError, match="neither of the two"):
        merging.require_mergeable(runtime, GROUP, DATASET, state)
    assert written_sites(with_policy(world).topology, GROUP, DATASET) == ()


@pytest.mark.parametrize(
    "policy",
    [
        {"writers": (AWS, GCP)},
        {"direction": "active-active", "writers": (AWS,)},
        {"direction": "active-active", "writers": (AWS, AWS)},
        {"direction": "active-active", "writers": (AWS, GCP), "winner": AZURE},
    ],
)
def test_writers_that_cannot_be_are_refused_when_the_topology_is_read(policy: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Sync(**policy)


def test_sites_that_never_agreed_are_told_to_sync_one_way_first(world: World) -> None:
    for info in list(world.bare(GCP).list("snapshots/" + DATASET)):
        world.bare(GCP).delete(info.key)
    with pytest.raises(NoCommonSnapshot, match="one-way"):
        run(both(world))


def test_shards_are_refused_and_told_what_does_it(world: World) -> None:
    runtime = as_runtime(both(world))
    for call in (
        lambda: shards.plan_shards(runtime, GROUP, DATASET, shards=2),
        lambda: shards.copy(runtime, GROUP, DATASET, plan_id="0" * 32, number=0),
    ):
        with pytest.raises(ConfigError, match="ReplicateDatasetOperator"):
            call()


def test_neither_protecting_the_group_nor_a_rollback_publishes_over_what_was_written_at_the_peer(world: World) -> None:
    """Both would take what its writers put there for leftovers of an older state."""
    first = run(both(world)).snapshot_id
    assert first is not None
    put(world, "there", b"gcp again", GCP)
    put(world, "here", b"aws again", AWS)
    take_and_publish(world.bare(AWS), dataset=DATASET, path="market-data", epoch=1, site=AWS, clock=world.clock)
    state = require_active(as_runtime(world), GROUP)
    done = {(one.subject, one.target): one.ok for one in protect_group(world, GROUP, state)}
    assert (done[DATASET, GCP], done[DATASET, AZURE]) == (False, True)
    back = going_back.roll_back(as_runtime(world), GROUP, DATASET, to=first, reason="test")
    assert {one.site: one.ok for one in back.targets} == {GCP: False, AZURE: True}
    report = run(world)
    assert shows(world, GCP)["there"] == b"gcp again"
    assert shows(world, AWS)["here"] == b"aws"  # rolled back: the folder follows only when a writer writes
    assert all(one.ok for one in report.targets)
    assert all(one.ok for one in protect_group(world, GROUP, state))


def test_deletes_leave_own_keys_alone_where_writers_write(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(removals, "_is_healthy", lambda *_: True)
    at_once = Deletes(enabled=True, delay_seconds=0, most_share=1.0)
    world.bare(GCP).delete(FOLDER + "sp500.parquet")
    world.bare(AWS).delete(FOLDER + "here")
    report = run(both(world, deletes=at_once))
    assert report.merge is not None
    cleaned = {one.site: one for one in removals.clean(as_runtime(world), GROUP, DATASET)}
    world.clock.advance(10)
    cleaned = {one.site: one for one in removals.clean(as_runtime(world), GROUP, DATASET)}
    assert cleaned[GCP].refused is None
    assert world.bare(GCP).get(FOLDER + "both") == b"gcp"  # overruled, and still there
    assert run(world).record is None
    assert "sp500.parquet" not in shows(world, AZURE)


def test_the_dataset_is_merged_again_after_a_failover_the_other_way_round(world: World) -> None:
    run(both(world, AWS))
    world.epochs.advance(GROUP, expected_epoch=1, active_site=GCP, plan_id="test", reason="test")
    for site in (GCP, AWS, AZURE):
        begin(world, site)
    put(world, "both", b"old site", AWS)
    put(world, "both", b"new site", GCP)
    report = run(world)
    assert report.source_site == GCP
    assert report.merge is not None
    assert [(one.path, one.site) for one in report.merge.overruled] == [("both", GCP)]
    assert [shows(world, site, 2)["both"] for site in (AWS, GCP, AZURE)] == [b"old site"] * 3


def test_a_failover_to_the_peer_keeps_what_its_writers_did_since_the_last_merge(world: World) -> None:
    """Neither are they leftovers of an old epoch, nor is a snapshot damaged of which they changed an object."""
    record = run(both(world, AWS)).record
    assert record is not None
    put(world, "new", b"gcp", GCP)
    put(world, "there", b"gcp again", GCP)
    put(world, "here", b"over what lies there under .versions/", GCP)
    world.bare(GCP).delete(FOLDER + "sp500.parquet")
    world.senses.verdicts = Verdict.HEALTHY
    plan = new_plan(world, GROUP, verb="failover", reason="test", plan_id="p")
    assert run_plan(world, plan, senses=world.senses, approved_by="ada").complete
    fork = read_fork(world.bare(GCP), keys.root(DATASET), 2)
    assert fork is not None
    assert fork.forked_from == record.snapshot_id
    report = run(world)
    assert report.source_site == GCP
    assert [shows(world, site, 2) for site in (AWS, GCP, AZURE)] == [
        {"both": b"aws", "here": b"over what lies there under .versions/", "new": b"gcp", "there": b"gcp again"}
    ] * 3


def test_after_a_failover_the_old_site_may_be_gone_back_to_though_nothing_was_merged_since(world: World) -> None:
    """Protecting the group brings no snapshot there; it has to know the epoch, or nothing of it may be selected."""
    record = run(both(world, AWS)).record
    world.senses.verdicts = Verdict.HEALTHY
    there = new_plan(world, GROUP, verb="failover", reason="test", plan_id="there")
    assert run_plan(world, there, senses=world.senses, approved_by="ada").complete
    state = require_active(as_runtime(world), GROUP)
    assert all(one.ok for one in protect_group(world, GROUP, state))
    assert latest(world.bare(AWS), DATASET, epoch=2) == record
    back = new_plan(world, GROUP, verb="switchover", reason="test", plan_id="back")
    assert run_plan(world, back, senses=world.senses, approved_by="ada").complete


def test_bytes_that_rotted_at_the_peer_are_no_change_of_its_writers(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = run(both(world, AWS)).record
    assert record is not None
    plan = new_plan(world, GROUP, verb="failover", reason="test", plan_id="p")
    rotten = VerifyReport(record.snapshot_id, 4, 0, missing=(), corrupt=("there",), extra=())
    monkeypatch.setattr(points, "verify", lambda store, one: rotten if one == record else verify(store, one))

    def elected() -> points.SnapshotPoint:
        with ThreadPoolExecutor(1) as pool:
            found = points.find_points(world, plan, pool).snapshot(DATASET)
        assert found is not None
        return found

    (passed,) = elected().passed_over
    assert passed == (record.snapshot_id, "damaged: an object is missing or has another digest")
    put(world, "there", b"gcp again", GCP)
    assert elected().record == record
    assert "1 objects its own writers changed" in str(elected().verified_by)


def begin(world: World, site: str) -> None:
    from holdfast.engine.snapshot import begin_epoch, new_fork

    point = latest(world.bare(site), DATASET, epoch=1)
    assert point is not None
    fork = new_fork(
        DATASET,
        epoch=2,
        parent_epoch=1,
        forked_from=point.snapshot_id,
        site=GCP,
        plan_id="test",
        holder="test",
        reason="test",
        created_at=world.clock.now(),
    )
    begin_epoch(world.bare(site), point, fork)


def test_stopped_it_says_so_and_goes_on_later(world: World) -> None:
    stop = threading.Event()
    stop.set()
    with pytest.raises(sync.SyncInterrupted):
        run(both(world), stop=stop)
    assert run(world).record is not None


def test_the_report_is_plain_data(world: World) -> None:
    merged = dataclasses.asdict(run(both(world)))["merge"]
    assert merged["overruled"][0]["key"] == FOLDER + "both"
    assert (merged["from_active_objects"], merged["from_peer_objects"]) == (1, 1)
