"""One dataset from the active site to all others: what is published, what is refused, what is told."""

from __future__ import annotations

import io
import json
import threading
from pathlib import Path
from typing import Any, cast

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from holdfast.engine.objectstore.listing import list_table
from holdfast.engine.pipeline import feeding, replicas, sync
from holdfast.engine.quality import ExpectationsNotMet
from holdfast.engine.recovery.protection import read_note
from holdfast.engine.replication import ResidencyRefused
from holdfast.engine.replication.feeds import Changes, Observation
from holdfast.engine.runtime import Runtime
from holdfast.engine.snapshot import latest
from holdfast.engine.snapshot.records import record_keys
from holdfast.errors import ConfigError, UnknownName
from world import AWS, AZURE, DATASET, GCP, GROUP, World, make_world


@pytest.fixture
def world() -> World:
    """The market data without its suite, so that any bytes will do."""
    return with_dataset(make_world(), expectations=None)


def with_dataset(world: World, **changes: Any) -> World:
    topology = world.topology
    dataset = topology.datasets[DATASET].model_copy(update=changes)
    world.topology = topology.model_copy(update={"datasets": {**topology.datasets, DATASET: dataset}})
    world.topology._path = topology.path
    return world


def as_runtime(world: World) -> Runtime:
    return cast("Runtime", world)


def run(world: World, **kwargs: Any) -> sync.SyncReport:
    return sync.run(as_runtime(world), GROUP, DATASET, **kwargs)


def put(world: World, name: str, data: bytes, site: str = AWS) -> None:
    world.bare(site).put(f"data/market-data/{name}", data)
    world.clock.advance(1)


def newest(world: World, site: str) -> str | None:
    found = latest(world.bare(site), DATASET, epoch=1)
    return None if found is None else found.snapshot_id


def status(world: World) -> dict[str, replicas.SiteStatus]:
    return {one.site: one for one in replicas.status(as_runtime(world), GROUP, DATASET).sites}


def test_what_changed_at_the_active_site_is_published_everywhere_as_one_snapshot(world: World) -> None:
    put(world, "more.parquet", b"rows")
    report = sync.require_synced(as_runtime(world), GROUP, DATASET, run(world))
    assert report.record is not None
    assert {newest(world, site) for site in (AWS, GCP, AZURE)} == {report.snapshot_id}
    assert {(one.site, one.copied_objects) for one in report.targets} == {(GCP, 1), (AZURE, 1)}


def test_a_second_run_copies_nothing_and_publishes_nothing(world: World) -> None:
    put(world, "more.parquet", b"rows")
    first = run(world)
    again = run(world)
    assert (again.record, again.snapshot_id) == (None, first.snapshot_id)
    assert sum(one.copied_objects for one in again.targets) == 0


def test_data_that_breaks_its_suite_never_becomes_a_snapshot(world: World, tmp_path: Path) -> None:
    suite = {
        "name": "s",
        "expectations": [{"type": "expect_table_row_count_to_be_between", "kwargs": {"min_value": 5}}],
    }
    (tmp_path / "suite.json").write_text(json.dumps(suite))
    with_dataset(world, expectations=str(tmp_path / "suite.json"))
    before = {site: record_keys(world.bare(site), DATASET) for site in (AWS, GCP, AZURE)}
    world.bare(AWS).put("data/market-data/sp500.parquet", parquet(rows=3))
    with pytest.raises(ExpectationsNotMet, match="row_count"):
        run(world)
    assert {site: record_keys(world.bare(site), DATASET) for site in (AWS, GCP, AZURE)} == before
    world.bare(AWS).put("data/market-data/sp500.parquet", parquet(rows=7))
    good = run(world).snapshot_id
    assert newest(world, AZURE) == newest(world, AWS) == good != before[AWS][-1].snapshot_id


def parquet(*, rows: int) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.table({"a": list(range(rows))}), sink)
    return sink.getvalue()


def test_a_site_that_is_cut_off_does_not_stop_the_others_and_is_an_error_a_retry_mends(world: World) -> None:
    put(world, "more.parquet", b"rows")
    world.board.cut.add(GCP)
    report = run(world)
    assert newest(world, AZURE) == report.snapshot_id != newest(world, GCP)
    with pytest.raises(sync.NotSynced, match=GCP) as failed:
        sync.require_synced(as_runtime(world), GROUP, DATASET, report)
    assert failed.value.transient
    world.board.cut.clear()
    assert run(world).record is None
    assert newest(world, GCP) == report.snapshot_id


def test_a_site_that_may_not_hold_the_data_is_refused_and_gets_nothing(world: World) -> None:
    sites = {**world.topology.sites, GCP: world.topology.sites[GCP].model_copy(update={"jurisdiction": "US"})}
    world.topology = world.topology.model_copy(update={"sites": sites})
    before = newest(world, GCP)
    put(world, "more.parquet", b"rows")
    report = run(world)
    assert newest(world, GCP) == before
    with pytest.raises(ResidencyRefused, match=GCP):
        sync.require_synced(as_runtime(world), GROUP, DATASET, report)


def test_a_witness_that_may_not_hold_the_data_is_as_it_should_be(world: World) -> None:
    sites = {**world.topology.sites, AZURE: world.topology.sites[AZURE].model_copy(update={"jurisdiction": "US"})}
    world.topology = world.topology.model_copy(update={"sites": sites})
    put(world, "more.parquet", b"rows")
    report = sync.require_synced(as_runtime(world), GROUP, DATASET, run(world))
    assert {one.site for one in report.targets if one.refused} == {AZURE}
    assert replicas.allowed_sites(as_runtime(world), GROUP, DATASET) == (AWS, GCP)


def test_a_stopped_run_ends_at_the_next_object_and_the_next_one_goes_on(world: World) -> None:
    stop = threading.Event()
    for number in range(20):
        put(world, f"part-{number}.parquet", b"rows")

    def stop_in_the_copy(seen: sync.SyncProgress) -> None:
        if seen.done_objects >= 3:
            stop.set()

    with pytest.raises(sync.SyncInterrupted, match="the sync was stopped") as stopped:
        run(world, progress=stop_in_the_copy, stop=stop)
    assert stopped.value.exit_code == 130
    stop.clear()
    report = run(world, stop=stop)
    assert {newest(world, site) for site in (AWS, GCP, AZURE)} == {report.snapshot_id}


def test_the_status_tells_each_sites_lag_and_who_does_not_answer(world: World) -> None:
    put(world, "more.parquet", b"12345678")
    run(world)
    world.board.cut.add(GCP)
    put(world, "late.parquet", b"1234")
    run(world)
    world.board.cut.clear()
    world.clock.advance(30)
    found = status(world)
    assert (found[AWS].role, found[GCP].role, found[AZURE].role) == ("active", "standby", "witness")
    assert (found[AZURE].missing_snapshots, found[AZURE].lag_seconds) == (0, 0.0)
    assert (found[GCP].missing_snapshots, found[GCP].lag_objects, found[GCP].lag_bytes) == (1, 1, 4)
    assert found[GCP].lag_seconds is not None
    assert found[GCP].lag_seconds >= 30
    assert found[GCP].verified_at is not None
    world.board.cut.add(AZURE)
    assert "cut off" in str(status(world)[AZURE].error)


def test_how_far_a_site_lies_behind_is_known_while_the_active_site_is_gone(world: World) -> None:
    run(world)
    world.clock.advance(45)
    world.board.cut.add(AWS)
    assert replicas.lag_seconds(as_runtime(world), GROUP, DATASET, GCP) == 45
    assert replicas.lag_seconds(as_runtime(world), GROUP, DATASET, AWS) == 0
    world.epochs.advance(GROUP, expected_epoch=1, active_site=GCP, plan_id="p", reason="test")
    assert replicas.lag_seconds(as_runtime(world), GROUP, DATASET, AZURE) is None


def test_a_flipped_bit_is_found_and_a_site_that_does_not_answer_is_no_pass(world: World) -> None:
    put(world, "more.parquet", b"rows")
    run(world)
    assert [one.ok for one in verified(world)] == [True, True, True]
    world.bare(GCP).put("data/market-data/more.parquet", b"rowt")
    world.board.cut.add(AZURE)
    found = {one.site: one for one in verified(world)}
    assert found[GCP].report is not None
    assert found[GCP].report.corrupt == ("more.parquet",)
    assert [found[site].ok for site in (AWS, GCP, AZURE)] == [True, False, False]


def verified(world: World) -> tuple[replicas.SiteVerification, ...]:
    return replicas.verify_everywhere(as_runtime(world), GROUP, DATASET)


def test_two_sites_and_two_snapshots_are_compared_by_their_manifests(world: World) -> None:
    old = run(world).snapshot_id
    put(world, "more.parquet", b"rows")
    world.board.cut.add(GCP)
    new = run(world).snapshot_id
    world.board.cut.clear()
    assert replicas.compare(as_runtime(world), GROUP, DATASET).added["path"].to_pylist() == ["more.parquet"]
    assert replicas.compare(as_runtime(world), GROUP, DATASET, right=(AZURE, None)).is_empty
    assert (
        replicas.compare(as_runtime(world), GROUP, DATASET, left=(None, old), right=(None, new)).removed.num_rows == 1
    )
    assert [one.snapshot_id for one in replicas.snapshots(as_runtime(world), GROUP, DATASET)][:2] == [new, old]
    with pytest.raises(replicas.NoSnapshot, match="nope"):
        replicas.compare(as_runtime(world), GROUP, DATASET, right=(GCP, "nope"))


def test_names_that_do_not_fit_are_told_before_anything_is_read(world: World) -> None:
    world.board.cut.update({AWS, GCP, AZURE})
    with pytest.raises(UnknownName, match="nope"):
        sync.run(as_runtime(world), GROUP, "nope")
    with pytest.raises(UnknownName, match="nope"):
        sync.run(as_runtime(world), "nope", DATASET)
    no_datasets = world.topology.groups[GROUP].model_copy(update={"datasets": ()})
    world.topology = world.topology.model_copy(update={"groups": {GROUP: no_datasets}})
    with pytest.raises(ConfigError, match="does not protect"):
        sync.run(as_runtime(world), GROUP, DATASET)


def test_after_a_run_by_a_feed_a_replica_is_noted_complete_as_of_the_last_full_look(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(world, "more.parquet", b"rows")
    run(world)
    looked_at = world.clock.now()
    world.clock.advance(3600)
    put(world, "seen.parquet", b"rows")
    listing = list_table(world.bare(AWS), "data/market-data/")
    polled = (Changes((), "c", complete=True),)
    seen = Observation(listing, polled, "c", None, looked_at, None, is_known=False)
    fed = feeding.Fed(cast("Any", None), cast("Any", None), seen, world.bare(AWS))
    monkeypatch.setattr(sync, "look_by_feed", lambda *_: fed)
    monkeypatch.setattr(sync, "account", lambda *_: None)
    report = run(world)
    assert (report.planned_from, report.changed_objects) == ("feed", 1)
    for site in (GCP, AZURE):
        note = read_note(world.bare(site), GROUP, DATASET, site)
        assert note is not None
        assert (note.as_of, note.snapshot_id) == (looked_at, report.snapshot_id)
