"""Two written sites become one snapshot: who stands, where bytes lie, who is overruled, and what is refused."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from holdfast.clock import SystemClock
from holdfast.engine.config import Residency
from holdfast.engine.config.residency import ResidencyRefused
from holdfast.engine.config.sync import Deletes, Filters, Sync, Verification
from holdfast.engine.objectstore import local_store, memory_store
from holdfast.engine.objectstore.encrypted import EncryptedStore, Scope
from holdfast.engine.objectstore.envelope import KeyRing
from holdfast.engine.objectstore.errors import BytesCorrupted, StoreUnavailable
from holdfast.engine.objectstore.interface import CREATE
from holdfast.engine.objectstore.parts import part_store
from holdfast.engine.replication.deletes import SourceState, mark
from holdfast.engine.replication.directions import NoCommonSnapshot
from holdfast.engine.replication.errors import Interrupted, ReplicaDamaged, ReplicationError
from holdfast.engine.replication.merge import MergeJob, merge_dataset
from holdfast.engine.replication.merge_note import MergeNote, note_key, noted, read_overruled, write_note
from holdfast.engine.replication.merging import MergeNeedsApproval
from holdfast.engine.replication.sync import SyncSite
from holdfast.engine.snapshot import (
    DatasetEmpty,
    begin_epoch,
    digest_of,
    load_manifest,
    new_fork,
    read_object,
    read_receipt,
    records,
    take_and_publish,
    verify,
)
from holdfast.engine.snapshot.errors import LineSplit
from holdfast.engine.snapshot.placement import locate
from merge_world import ELSEWHERE, HERE, PREFIX, THERE, MergeWorld
from sync_harms import Cut, HarmedStore, Trace
from sync_world import DATASET, FOLDER, SITES

FILES = {"same": b"0", "here": b"0", "there": b"0", "both": b"0", "gone_here": b"0", "gone_there": b"0"}


def writes(world: MergeWorld) -> int:
    return sum(len(list(store.list(""))) for store in world.stores.values())


def changed_at_both(winner: str = HERE) -> MergeWorld:
    world = MergeWorld(FILES, winner=winner)
    world.put(HERE, "here", b"from here")
    world.put(HERE, "both", b"from here")
    world.put(HERE, "new_here", b"from here")
    world.put(THERE, "there", b"from there")
    world.put(THERE, "both", b"from there")
    world.put(THERE, "new_there", b"from there")
    world.drop(HERE, "gone_here")
    world.drop(THERE, "gone_there")
    return world


@pytest.mark.parametrize(("winner", "stands"), [(HERE, b"from here"), (THERE, b"from there")])
def test_changes_of_both_sites_become_one_snapshot_everywhere(winner: str, stands: bytes) -> None:
    world = changed_at_both(winner)
    report = world.merge()
    assert world.check_agreed() == {
        "same": b"0",
        "here": b"from here",
        "there": b"from there",
        "both": stands,
        "new_here": b"from here",
        "new_there": b"from there",
    }
    assert report.record is not None
    assert [target.ok for target in report.targets] == [True, True]
    for site in SITES:
        assert verify(world.stores[site], report.record).ok
    merge = report.merge
    assert merge is not None
    assert (merge.from_active_objects, merge.from_peer_objects, merge.same_objects) == (3, 3, 0)
    assert (merge.removed_objects, merge.peer, merge.winner) == (2, THERE, winner)
    assert report.record.labels == {"merged_with": THERE, "winner": winner, "overruled": "1"}


def test_the_overruled_bytes_stay_at_their_own_key_and_are_named() -> None:
    for winner, loser in ((HERE, THERE), (THERE, HERE)):
        world = changed_at_both(winner)
        report = world.merge()
        assert report.merge is not None
        (one,) = report.merge.overruled
        lost = b"from here" if loser == HERE else b"from there"
        assert (one.path, one.site, one.what, one.digest) == ("both", loser, "changed", digest_of(lost))
        assert one.key == PREFIX + "both"
        assert world.stores[loser].get(one.key) == lost
        assert world.overruled() == [one]
        assert report.snapshot_id is not None
        for site in (HERE, THERE):
            assert world.stores[site].head(note_key(DATASET, report.snapshot_id))


@pytest.mark.parametrize(
    ("winner", "left", "what", "stays"),
    [
        (HERE, {"x": b"new"}, "deleted", True),
        (THERE, {}, "changed", False),
    ],
)
def test_a_change_against_a_removal_is_a_conflict(winner: str, left: dict[str, bytes], what: str, stays: bool) -> None:
    world = MergeWorld({"x": b"0", "k": b"0"}, winner=winner)
    world.put(HERE, "x", b"new")
    world.drop(THERE, "x")
    report = world.merge()
    assert world.check_agreed() == {"k": b"0", **left}
    assert report.merge is not None
    (one,) = report.merge.overruled
    assert (one.path, one.what, one.site) == ("x", what, THERE if winner == HERE else HERE)
    assert (one.digest is None) is stays
    assert world.at(HERE, "x") == b"new"  # whoever wins, nobody's bytes are removed
    assert world.merge().record is None


def test_the_same_change_at_both_sites_is_no_conflict() -> None:
    world = MergeWorld({"x": b"0", "k": b"0"})
    for site in (HERE, THERE):
        world.put(site, "x", b"same")
    report = world.merge()
    assert report.merge is not None
    assert (report.merge.same_objects, report.merge.overruled) == (1, ())
    assert sum(target.copied_objects for target in report.targets if target.site == THERE) == 0
    assert world.check_agreed()["x"] == b"same"


def test_a_second_run_reads_copies_publishes_and_writes_nothing() -> None:
    world = changed_at_both()
    world.merge()
    before = writes(world)
    trace = Trace()
    report = world.merge(trace)
    assert (report.record, report.changed_objects, report.read_bytes) == (None, 0, 0)
    assert [target.copied_objects for target in report.targets] == [0, 0]
    assert writes(world) == before
    assert not [op for op in trace.ops if op.writes]


def test_only_what_the_peer_changed_is_read_there() -> None:
    world = MergeWorld({f"{n:02d}": b"0" * 10 for n in range(30)})
    world.put(THERE, "07", b"there")
    trace = Trace()
    report = world.merge(trace)
    opened = {op.key for op in trace.ops if op.site == THERE and op.verb in ("open", "get") and "data/" in op.key}
    assert opened == {PREFIX + "07"}
    assert report.read_bytes == len(b"there") * 2  # once at the peer, once at the active site for the third one


def test_a_later_write_over_a_merged_object_is_a_change_and_no_conflict() -> None:
    world = changed_at_both(THERE)
    world.merge()
    for site, other in ((HERE, THERE), (THERE, HERE)):
        for path in ("both", "there", "here", "new_here", "new_there"):
            mine = world.put(site, path)
            report = world.merge()
            assert report.merge is not None
            assert report.merge.overruled == ()
            assert world.check_agreed()[path] == mine
            assert world.shows(other)[path] == mine


@pytest.mark.parametrize("site", [HERE, THERE])
def test_a_removed_object_is_not_brought_back_by_what_is_left_of_it_at_the_other_site(site: str) -> None:
    other = THERE if site == HERE else HERE
    world = MergeWorld({"x": b"0", "k": b"0"})
    world.drop(site, "x")
    world.merge()
    assert world.at(other, "x") == b"0"  # nothing is deleted at a site with writers
    world.put(other, "k")
    world.merge()
    assert "x" not in world.check_agreed()
    again = world.put(other, "x")
    world.merge()
    assert world.check_agreed()["x"] == again


def test_an_object_of_a_replication_that_died_is_not_taken_for_the_peers_new_data() -> None:
    world = MergeWorld({"k": b"0"})
    world.put(HERE, "x", b"from here")
    trace = Trace()
    with pytest.raises(StoreUnavailable):
        world.merge(Trace([Cut(HERE, 60)]))
    assert world.at(THERE, "x") == b"from here"  # landed, and in no snapshot
    world.drop(HERE, "x")
    report = world.merge(trace)
    assert world.check_agreed() == {"k": b"0"}
    assert report.merge is not None
    assert report.merge.from_peer_objects == 0


@pytest.mark.parametrize("site", [HERE, THERE])
def test_an_object_that_was_edited_in_place_with_the_mark_it_came_with_is_a_change(site: str) -> None:
    """gcsfuse and s3fs keep an object's metadata. It was taken for a leftover: the object was dropped everywhere."""
    world = MergeWorld({"k": b"0"})
    world.put(THERE if site == HERE else HERE, "x")
    world.merge()
    store = world.stores[site]
    mark = dict(store.open(PREFIX + "x").metadata)
    assert mark
    store.put(PREFIX + "x", b"edited in place", metadata=mark)
    report = world.merge()
    assert report.merge is not None
    assert (report.merge.overruled, report.merge.removed_objects) == ((), 0)
    assert world.check_agreed()["x"] == b"edited in place"
    assert world.merge().record is None


def test_a_marked_object_that_was_copied_over_itself_does_not_come_back() -> None:
    """To encrypt it anew, or for another storage class. What lies under `.versions/` beside it stands."""
    world = MergeWorld({"k": b"0", "x": b"stale"})
    newer = world.put(HERE, "x")
    world.merge()
    store = world.stores[THERE]
    found = store.open(PREFIX + "x")
    store.put(PREFIX + "x", b"".join(found), metadata=dict(found.metadata))
    world.merge()
    assert world.check_agreed()["x"] == newer


def test_sites_that_never_agreed_are_refused_and_told_to_sync_one_way_first() -> None:
    world = MergeWorld({})
    world.put(HERE, "a")
    world.put(THERE, "b")
    before = writes(world)
    with pytest.raises(NoCommonSnapshot, match="one-way"):
        world.merge()
    take_and_publish(world.stores[HERE], dataset=DATASET, path=FOLDER, epoch=1, site=HERE, clock=world.clock)
    with pytest.raises(NoCommonSnapshot, match="one-way"):
        world.merge()
    assert {info.key for info in world.stores[THERE].list("")} == {PREFIX + "b"}
    assert before == 2


def test_a_snapshot_the_peer_missed_is_brought_merged() -> None:
    """Somebody published at the active site alone: its changes count as that site's."""
    world = MergeWorld({"a": b"0", "b": b"0"})
    world.put(HERE, "a", b"1")
    alone = take_and_publish(world.stores[HERE], dataset=DATASET, path=FOLDER, epoch=1, site=HERE, clock=world.clock)
    report = world.merge()
    assert report.record is None  # it is the merged content already
    assert report.snapshot_id == alone.snapshot_id
    assert world.check_agreed() == {"a": b"1", "b": b"0"}
    world.put(HERE, "a", b"2")
    take_and_publish(world.stores[HERE], dataset=DATASET, path=FOLDER, epoch=1, site=HERE, clock=world.clock)
    world.put(THERE, "b", b"there")
    world.merge()
    assert world.check_agreed() == {"a": b"2", "b": b"there"}


def test_a_wiped_folder_is_taken_for_no_removal_without_a_person() -> None:
    for site in (HERE, THERE):
        world = MergeWorld({"a": b"0", "b": b"0"})
        for path in ("a", "b"):
            world.drop(site, path)
        world.put(THERE if site == HERE else HERE, "new")
        with pytest.raises(MergeNeedsApproval, match="none of 2 known objects") as refused:
            world.merge()
        assert len(records(world.stores[HERE], DATASET)) == 1
        with pytest.raises(MergeNeedsApproval):
            world.merge(approve="0" * 16)
        report = world.merge(approve=refused.value.approval_id)
        assert report.merge is not None
        assert report.merge.removed_objects == 2
        assert sorted(world.check_agreed()) == ["new"]


def test_more_than_the_deletes_limits_waits_for_a_person_and_few_objects_never_do() -> None:
    files = {f"{n:03d}": b"0" for n in range(100)}
    world = MergeWorld(files)
    for n in range(9):
        world.drop(THERE, f"{n * 10:03d}")
    report = world.merge()
    assert report.merge is not None
    assert report.merge.removed_objects == 9
    for n in range(11):
        world.drop(THERE if n % 2 else HERE, f"{n * 5 + 1:03d}")
    with pytest.raises(MergeNeedsApproval, match="11 of 91 objects"):
        world.merge()
    world.merge(policy=Sync(deletes=Deletes(most_share=0.5)))
    assert len(world.check_agreed()) == 80


def test_a_listing_that_ends_early_waits_for_a_person() -> None:
    world = MergeWorld({f"{n:03d}": b"0" for n in range(100)})
    for n in range(88, 100):
        world.drop(THERE, f"{n:03d}")
    with pytest.raises(MergeNeedsApproval, match="ends before the last 12"):
        world.merge(policy=Sync(deletes=Deletes(most_share=0.5)))


def test_a_listing_that_ends_early_is_told_by_a_snapshot_too_that_the_peer_never_got(monkeypatch) -> None:
    world = MergeWorld({f"{n:03d}": b"0" for n in range(5)})
    for n in range(5, 60):
        world.put(HERE, f"{n:03d}")
    take_and_publish(world.stores[HERE], dataset=DATASET, path=FOLDER, epoch=1, site=HERE, clock=world.clock)
    whole = HarmedStore.list

    def ends_early(store: HarmedStore, prefix: str = "", **kwargs):
        for info in whole(store, prefix, **kwargs):
            if (store.name, prefix) == (world.stores[HERE].name, PREFIX) and info.key > f"{PREFIX}020":
                return
            yield info

    with monkeypatch.context() as patch:
        patch.setattr(HarmedStore, "list", ends_early)
        with pytest.raises(MergeNeedsApproval, match="39 of 60 objects"):
            world.merge(Trace())
    assert world.merge().record is None
    assert len(world.check_agreed()) == 60


def test_a_third_site_that_fails_does_not_stop_the_merge_and_gets_it_later() -> None:
    world = changed_at_both()
    report = world.merge(Trace([Cut(ELSEWHERE, 0)]))
    failed = {target.site: target.error is not None for target in report.targets}
    assert failed == {THERE: False, ELSEWHERE: True}
    assert world.latest(HERE) == world.latest(THERE) != world.latest(ELSEWHERE)
    assert world.merge().record is None
    world.check_agreed()


def test_without_the_peer_nothing_is_published_anywhere() -> None:
    world = changed_at_both()
    before = {site: world.latest(site) for site in SITES}
    with pytest.raises(StoreUnavailable):
        world.merge(Trace([Cut(THERE, 0)]))
    assert {site: world.latest(site) for site in SITES} == before


def test_a_run_that_ends_between_the_two_commits_is_finished_by_what_it_prepared() -> None:
    world = changed_at_both(HERE)
    trace = Trace()
    changed_at_both(HERE).merge(trace)
    commits = [op.index for op in trace.ops if op.verb == "put" and op.key.count("/") == 2 and "snapshots/" in op.key]
    report = world.merge(Trace([Cut(THERE, commits[1])]))
    assert {target.site: target.error is not None for target in report.targets} == {THERE: True, ELSEWHERE: False}
    assert world.latest(HERE) != world.latest(THERE)
    mine = world.put(THERE, "new_there")  # on top of what was merged: no conflict, though the active site "changed" it
    report = world.merge()
    assert report.merge is not None
    assert report.merge.finished_snapshot_id is not None
    assert [one.path for one in report.merge.overruled] == ["both"]  # of the run that was cut off
    assert world.check_agreed()["new_there"] == mine


def test_a_snapshot_published_on_top_of_one_that_is_only_prepared_at_the_peer_gets_there_in_one_run() -> None:
    world = changed_at_both(HERE)
    trace = Trace()
    changed_at_both(HERE).merge(trace)
    commits = [op.index for op in trace.ops if op.verb == "put" and op.key.count("/") == 2 and "snapshots/" in op.key]
    world.merge(Trace([Cut(THERE, commits[1])]))
    world.put(HERE, "here", b"alone")
    take_and_publish(
        world.stores[HERE],
        dataset=DATASET,
        path=FOLDER,
        epoch=1,
        site=HERE,
        clock=world.clock,
    )
    report = world.merge()
    assert report.merge is not None
    assert report.merge.finished_snapshot_id is not None
    assert all(target.ok for target in report.targets)
    shown = world.check_agreed()
    assert shown["here"] == b"alone"


def test_what_was_prepared_is_finished_though_the_peers_writers_removed_an_object_of_it() -> None:
    """Also where deletes ever ran, which makes a publication look whether its bytes are still there."""
    world = changed_at_both(HERE)
    at_once = Deletes(enabled=True, delay_seconds=0, most_share=1.0)
    healthy = SourceState(HERE, healthy=True, listing_complete=True)
    world.stores[THERE].put(f"{PREFIX}.versions/0000/x", b"stray")
    assert mark(
        world.stores[THERE], DATASET, site=THERE, epoch=1, policy=at_once, source=healthy, clock=world.clock, live=True
    )
    trace = Trace()
    changed_at_both(HERE).merge(trace)
    commits = [op.key for op in trace.ops if op.verb == "put" and op.key.count("/") == 2 and "snapshots/" in op.key]
    assert len(commits) == 3

    class CutAtTheSecondCommit(Cut):
        def before(self, op):
            if (op.site, op.verb) == (THERE, "put") and op.key.count("/") == 2 and "snapshots/" in op.key:
                self.at = op.index
            super().before(op)

    world.merge(Trace([CutAtTheSecondCommit(THERE, 10**9)]))
    assert world.latest(HERE) != world.latest(THERE)
    world.drop(THERE, "new_there")
    report = world.merge()
    assert report.merge is not None
    assert report.merge.finished_snapshot_id is not None
    assert "new_there" not in world.check_agreed()


def test_the_writers_own_uploads_are_left_alone_however_long_they_take() -> None:
    world = MergeWorld(FILES)
    began: list[tuple[str, str]] = []
    for site in SITES:
        parts = part_store(world.stores[site])
        assert parts is not None
        for key in (f"{PREFIX}of-a-writer", f"{PREFIX}.versions/{'0' * 16}/orphan"):
            parts.begin(key, size_bytes=20 * 1024 * 1024, mode=CREATE, part_bytes=5 * 1024 * 1024)
    world.clock.advance((SystemClock().now() - world.clock.now()).total_seconds() + 7200)
    world.put(HERE, "here")
    world.merge()
    for site in SITES:
        parts = part_store(world.stores[site])
        assert parts is not None
        began += [(site, upload.key) for upload in parts.uploads("")]
    # Under `.versions/`, and at the site without writers, they can only be a sync's that died.
    assert began == [(site, f"{PREFIX}of-a-writer") for site in (HERE, THERE)]


def test_stopped_it_publishes_nothing_and_goes_on_later() -> None:
    world = changed_at_both()
    stop = threading.Event()
    stop.set()
    with pytest.raises(Interrupted):
        world.merge(stop=stop)
    assert len(records(world.stores[HERE], DATASET)) == 1
    world.merge()
    world.check_agreed()


def test_the_suite_sees_the_merged_content_and_may_refuse_it() -> None:
    world = changed_at_both()
    seen: dict[str, bytes] = {}

    def validate(taken, read):
        seen.update({path: read(path) for path in taken.manifest.paths})
        raise DatasetEmpty("refused by the test")

    with pytest.raises(DatasetEmpty, match="refused by the test"):
        world.merge(validate=validate)
    assert len(records(world.stores[HERE], DATASET)) == len(records(world.stores[THERE], DATASET)) == 1
    world.merge()
    assert world.check_agreed() == seen


def test_a_dataset_of_which_both_sites_removed_everything_is_refused() -> None:
    world = MergeWorld({"a": b"0"})
    for site in (HERE, THERE):
        world.drop(site, "a")
    with pytest.raises(MergeNeedsApproval) as refused:
        world.merge()
    with pytest.raises(DatasetEmpty):
        world.merge(approve=refused.value.approval_id)


def test_the_peers_jurisdiction_decides_before_anything_is_read() -> None:
    world = changed_at_both()
    trace = Trace()
    sites = {**SITES, THERE: SITES[THERE].model_copy(update={"jurisdiction": "US"})}
    with pytest.raises(ResidencyRefused):
        world.merge(trace, residency=Residency(jurisdictions=("EU",)), topology_sites=sites)
    assert trace.ops == []


def test_filters_leave_out_the_same_at_both_sites_and_what_changes_there_does_not_disturb() -> None:
    world = changed_at_both()
    policy = Sync(filters=Filters(exclude=("tmp/**",)))
    world.put(THERE, "tmp/x")
    world.put(HERE, "tmp/y")
    world.merge(policy=policy)
    assert not [path for path in world.check_agreed() if path.startswith("tmp/")]
    world.put(THERE, "tmp/x")
    assert world.merge(policy=policy).record is None


@pytest.mark.parametrize("layout", ["direct", "staged"])
@pytest.mark.parametrize("proof", list(Verification))
def test_every_layout_and_way_to_verify(layout, proof) -> None:
    world = changed_at_both()
    policy = Sync(layout=layout, verify=proof)
    world.merge(policy=policy)
    world.check_agreed()
    assert world.merge(policy=policy).record is None
    world.put(THERE, "x")
    world.merge(policy=policy)
    world.check_agreed()


def test_the_peers_receipt_says_what_was_read_back_and_what_was_carried() -> None:
    world = changed_at_both()
    record = world.merge().record
    assert record is not None
    receipt = read_receipt(world.stores[THERE], DATASET, record.snapshot_id, THERE)
    assert receipt is not None
    # read at the peer: there, new_there; brought: here, both, new_here; as published before: same
    assert (receipt.read_back_objects, receipt.carried_objects, receipt.object_count) == (5, 1, 6)


def test_what_was_verified_less_strictly_is_read_back_before_it_counts_as_more() -> None:
    world = MergeWorld(FILES)
    world.put(HERE, "here")
    weak, strict = (Sync(verify=v, sample_share=0.0001) for v in (Verification.SAMPLED, Verification.ALL))
    world.merge(policy=weak)
    world.put(HERE, "here")
    record = world.merge(policy=strict).record
    assert record is not None
    receipt = read_receipt(world.stores[THERE], DATASET, record.snapshot_id, THERE)
    assert receipt is not None
    assert (receipt.read_back_objects, receipt.carried_objects) == (6, 0)


def test_bytes_that_rotted_at_the_peer_are_not_carried_into_a_stricter_receipt(monkeypatch) -> None:
    world = MergeWorld(FILES)
    world.put(HERE, "here")
    world.merge(policy=Sync(verify=Verification.SAMPLED, sample_share=0.0001))
    record = world.latest(THERE)
    assert record is not None
    rotten = locate(world.stores[THERE], record, load_manifest(world.stores[THERE], record))["same"].key
    world.put(HERE, "here")

    class Rot(Cut):
        def read(self, op, data):
            return b"9" if op.site == THERE and op.key == rotten else data

    with pytest.raises(ReplicaDamaged):
        world.merge(Trace([Rot(THERE, 10**9)]))


def test_after_a_failover_the_old_active_site_is_the_peer_and_its_writes_are_merged() -> None:
    world = changed_at_both(HERE)
    point = world.merge().record
    assert point is not None
    for site in (THERE, HERE):
        fork = new_fork(
            DATASET,
            epoch=2,
            parent_epoch=1,
            forked_from=point.snapshot_id,
            site=THERE,
            plan_id="p",
            holder="test",
            reason="test",
            created_at=world.clock.now(),
        )
        begin_epoch(world.stores[site], point, fork)
    world.put(HERE, "same", b"old site")
    world.put(THERE, "there", b"new site")
    world.clock.advance(1)
    job = MergeJob(
        source=SyncSite(THERE, world.stores[THERE]),
        peer=SyncSite(HERE, world.stores[HERE]),
        targets=[SyncSite(ELSEWHERE, world.stores[ELSEWHERE])],
        dataset=DATASET,
        folder=FOLDER,
        policy=Sync(direction="active-active", winner=HERE),
        winner=HERE,
        epoch=2,
        residency=None,
        topology_sites=SITES,
        clock=world.clock,
    )
    report = merge_dataset(job)
    assert all(target.ok for target in report.targets)
    assert report.record is not None
    assert report.record.epoch == 2
    shown = {path: open_at(world, site, report.record, path) for site in SITES for path in ("same", "there")}
    assert shown == {"same": b"old site", "there": b"new site"}


def open_at(world: MergeWorld, site: str, record, path: str) -> bytes:
    return read_object(world.stores[site], record, path)


def test_two_merges_at_once_publish_one_line() -> None:
    world = changed_at_both()
    errors: list[Exception] = []

    def merge() -> None:
        try:
            world.merge(threads=4)
        except Exception as error:
            errors.append(error)

    both = [threading.Thread(target=merge) for _ in range(2)]
    for one in both:
        one.start()
    for one in both:
        one.join()
    assert not [error for error in errors if not isinstance(error, LineSplit)], errors
    world.merge()
    shown = world.check_agreed()
    assert (shown["both"], shown["there"], shown["new_there"]) == (b"from here", b"from there", b"from there")


def test_a_large_object_goes_both_ways_in_parts(tmp_path) -> None:
    stores = {}
    for name in SITES:
        (tmp_path / name).mkdir()
        stores[name] = local_store(name, tmp_path / name)
    world = MergeWorld({"k": b"0"}, stores=stores)
    large = bytes(17 * 1024 * 1024)
    world.put(THERE, "large", large + b"there")
    world.put(HERE, "huge", large + b"here")
    world.merge()
    shown = world.check_agreed()
    assert (shown["large"], shown["huge"]) == (large + b"there", large + b"here")
    assert world.merge().record is None


def test_the_peer_may_lie_encrypted_as_long_as_its_writers_write_so() -> None:
    plain = memory_store(THERE)
    there = EncryptedStore(plain, [Scope(PREFIX, DATASET, lambda: KeyRing((bytes(32),)))])
    world = MergeWorld(FILES, stores={HERE: memory_store(HERE), THERE: there, ELSEWHERE: memory_store(ELSEWHERE)})
    world.put(HERE, "here", b"from here")
    world.put(THERE, "there", b"from there")
    policy = Sync(encrypt="KEY")
    world.merge(policy=policy)
    shown = world.check_agreed()
    assert (shown["here"], shown["there"]) == (b"from here", b"from there")
    assert all(b"from" not in plain.get(info.key) for info in plain.list(PREFIX))
    assert world.merge(policy=policy).record is None
    plain.put(PREFIX + "there", b"written past Holdfast")
    before = world.latest(HERE)
    with pytest.raises(BytesCorrupted):
        world.merge(policy=policy)
    assert world.latest(HERE) == before


def test_after_encryption_was_switched_at_the_peer_nothing_is_merged() -> None:
    world = MergeWorld(FILES)
    world.put(HERE, "here")
    scope = Scope(PREFIX, DATASET, lambda: KeyRing((bytes(32),)))
    world.stores[THERE] = EncryptedStore(world.stores[THERE], [scope])
    with pytest.raises(ReplicationError, match="encrypt"):
        world.merge()
    assert len(world.snapshots()) == 1


def test_a_merge_note_is_read_and_spelled_the_same() -> None:
    data = (Path(__file__).resolve().parents[2] / "golden" / "snapshot" / "merge.json").read_bytes()
    note = MergeNote.model_validate_json(data)
    assert note.to_json() == data
    assert [one.what for one in note.overruled] == ["changed", "deleted"]
    store = memory_store("golden")
    write_note(store, note)
    assert store.get(note_key(note.dataset, note.snapshot_id)) == data
    assert noted(read_overruled(store, note.dataset, note.snapshot_id)) == note.overruled
