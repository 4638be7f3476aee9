"""The sync between stores in memory: what it reads, where it lands, what it proves, and when it publishes."""

from __future__ import annotations

import contextlib
import random
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from holdfast.engine.config import Residency
from holdfast.engine.config.sync import Filters, Sync, Verification
from holdfast.engine.objectstore import local_store, memory_store
from holdfast.engine.objectstore.errors import BytesCorrupted, StoreUnavailable
from holdfast.engine.objectstore.faults import Fault, FaultyStore, Kind, Script
from holdfast.engine.objectstore.listing import list_table
from holdfast.engine.replication import Interrupted, SourceDamaged, SyncSite, rounds, sync_dataset
from holdfast.engine.replication.feeds import Change, Changes
from holdfast.engine.snapshot import (
    DatasetBusy,
    DatasetEmpty,
    begin_epoch,
    load_manifest,
    new_fork,
    point_in_time,
    read_receipt,
    rollback,
    root,
    selectable,
    take_and_publish,
    verify,
    write_fork,
)
from sync_harms import Cut, Harm, HarmedStore, Kill, Killed, Movement, Storm, Trace, bent
from sync_world import DATASET, SITES, Source, World, see

MIB = 1024 * 1024


def world_of(*sites, **objects):
    world = World({name: memory_store(name) for name in sites or ("aws", "gcp", "azure")})
    for name, data in objects.items():
        world.source.put(name, data)
    return world


def reads(trace, site="aws"):
    """The objects of the dataset that were read at a site, in order."""
    verbs = ("open", "get", "read_into")
    return [op.key.removeprefix("data/market/") for op in trace.ops if op.site == site and op.verb in verbs
            and op.key.startswith("data/")]  # fmt: skip


def whole(world, report):
    assert all(target.ok for target in report.targets), report.targets
    assert {site: world.shows(site) for site in world.targets} == dict.fromkeys(world.targets, world.source.live)


# -- what is read, and how often ---------------------------------------------------------------------------------------


def test_two_targets_are_served_by_one_read_of_each_object():
    world, trace = world_of(a=b"1", b=b"2" * 1000, empty=b""), Trace()
    report = world.sync(trace)
    whole(world, report)
    assert sorted(reads(trace)) == ["a", "b", "empty"]
    assert report.read_bytes == 1001
    assert report.changed_objects == 3
    assert [target.copied_objects for target in report.targets] == [3, 3]
    assert world.latest("gcp") == world.latest("azure") == world.latest("aws") == report.record


def test_only_what_changed_is_read_and_copied():
    world = world_of(**{f"o{number}": b"x" * number for number in range(1, 30)})
    world.sync()
    world.source.put("o3", b"changed")
    world.source.put("new", b"n")
    world.source.delete("o7")
    trace = Trace()
    report = world.sync(trace)
    whole(world, report)
    assert sorted(reads(trace)) == ["new", "o3"]
    assert [(target.copied_objects, target.carried_objects) for target in report.targets] == [(2, 27), (2, 27)]


def test_a_run_without_a_change_publishes_and_reads_nothing():
    world = world_of(a=b"1")
    first = world.sync()
    trace = Trace()
    again = world.sync(trace)
    assert again.record is None
    assert again.snapshot_id == first.snapshot_id
    assert reads(trace) == []
    assert not [op for op in trace.ops if op.verb == "put"]
    assert sum(1 for op in trace.ops if op.site == "aws" and op.verb == "list" and op.key.startswith("data/")) == 1


def test_a_target_that_lags_gets_everything_it_lacks():
    world = world_of("aws", "gcp", a=b"1", b=b"2")
    world.sync()
    world.stores["azure"], world.targets = memory_store("azure"), ("gcp", "azure")
    again = world.sync()
    whole(world, again)
    assert again.record is None
    assert [target.copied_objects for target in again.targets] == [0, 2]
    world.source.put("b", b"22")
    world.stores["azure"] = memory_store("azure")
    report = world.sync()
    whole(world, report)
    assert [target.copied_objects for target in report.targets] == [1, 2]


def test_bytes_rewritten_at_the_source_are_read_and_not_copied_again():
    world = world_of(a=b"same", b=b"b")
    world.sync()
    world.source.put("a", b"same")
    report = world.sync()
    whole(world, report)
    assert report.changed_objects == 1
    assert [target.copied_objects for target in report.targets] == [0, 0]


def test_a_feed_has_only_what_it_names_asked_for():
    world = world_of(a=b"1", b=b"2", c=b"3")
    world.sync()
    world.source.put("b", b"22")
    world.source.delete("c")
    world.source.put("d", b"4")
    when = world.clock.now()
    named = tuple(
        Change(f"data/market/{name}", kind, None, None, None, when, f"{number}")
        for number, (name, kind) in enumerate([("b", "put"), ("c", "delete"), ("d", "put"), ("a", "put")])
    )
    trace = Trace()
    report = world.sync(trace, changes=Changes(named, "cursor", True))
    whole(world, report)
    assert sorted(reads(trace)) == ["b", "d"]
    assert "data/market/" not in {op.key for op in trace.ops if op.site == "aws" and op.verb == "list"}


def test_a_snapshot_from_a_feed_says_so_until_a_full_listing_proves_its_moment():
    world = world_of(a=b"1", b=b"2")
    assert world.sync().planned_from == "listing"
    world.source.put("b", b"22")
    when = world.clock.now()
    seen = list_table(world.stores["aws"], "data/market/")
    named = Changes((), "cursor", True, listing=seen, as_of=when)
    report = world.sync(changes=named)
    whole(world, report)
    said = {"planned_from": "feed", "last_full_look": when.isoformat()}
    assert {site: dict(world.latest(site).labels) for site in ("aws", "gcp", "azure")} == dict.fromkeys(
        ("aws", "gcp", "azure"), said
    )
    assert (report.planned_from, report.last_full_look) == ("feed", when.isoformat())
    again = world.sync(changes=named)
    assert (again.record, again.planned_from) == (None, "feed")
    judged = point_in_time(world.stores["gcp"], world.latest("gcp"), versioned=True)
    assert (judged.holds, judged.planned_from) == (None, "feed")
    assert when.isoformat() in judged.text

    proven = world.sync()
    whole(world, proven)
    assert proven.record is not None
    assert (proven.planned_from, dict(proven.record.labels), proven.changed_objects) == ("listing", {}, 0)
    assert proven.record.manifest_digest == report.record.manifest_digest
    assert [target.copied_objects for target in proven.targets] == [0, 0]
    assert world.sync().record is None


def test_a_snapshot_taken_before_is_built_on():
    world = world_of("aws", "gcp", a=b"1", b=b"2")
    store = world.stores["aws"]
    record = take_and_publish(store, dataset=DATASET, path="market", epoch=1, site="aws", clock=world.clock)
    report = world.sync()
    assert report.record is None
    assert world.latest("gcp") == record
    world.source.put("c", b"3")
    report = world.sync()
    assert report.record is not None
    assert report.record.parent == record.snapshot_id
    whole(world, report)


def test_a_source_that_may_only_be_read_is_not_written():
    world = world_of(a=b"1", b=b"2")
    trace = Trace()
    first = world.sync(trace, write_source=False)
    whole(world, first)
    world.source.put("b", b"22")
    second = world.sync(trace, write_source=False)
    third = world.sync(trace, write_source=False)
    whole(world, second)
    assert second.changed_objects == 1
    assert second.record is not None
    assert second.record.parent == first.snapshot_id
    assert third.record is None
    assert not [op for op in trace.ops if op.site == "aws" and op.writes]
    assert world.latest("aws") is None


# -- point in time -----------------------------------------------------------------------------------------------------


class Once(Harm):
    """The source's writers do something before the first operation of a kind."""

    def __init__(self, verb, do, *, key="data/", site="aws"):
        self.verb, self.do, self.key, self.site, self.done = verb, do, key, site, False

    def before(self, op):
        if not self.done and (op.site, op.verb) == (self.site, self.verb) and op.key.startswith(self.key):
            self.done = True
            self.do()


@pytest.mark.parametrize("verb", ["open", "stored_checksums"])
def test_an_object_that_changes_under_the_copy_is_taken_again(verb):
    world = world_of(a=b"old" * 100, b=b"b")
    report = world.sync(Trace([Once(verb, lambda: world.source.put("a", b"new" * 100))]))
    whole(world, report)


def test_an_object_added_while_others_are_read_is_in_the_snapshot():
    world = world_of(a=b"1")
    whole(world, world.sync(Trace([Once("open", lambda: world.source.put("z", b"later"))])))


def test_a_source_that_never_rests_publishes_nothing():
    world = world_of(a=b"1", b=b"2")
    moving = Movement(world.source, random.Random(1), ("a", "b"), frozenset(range(10_000)))
    with pytest.raises(DatasetBusy):
        world.sync(Trace([moving]))
    assert [world.latest(site) for site in world.stores] == [None] * 3


def test_an_empty_folder_is_refused():
    world = world_of()
    with pytest.raises(DatasetEmpty):
        world.sync()
    world.source.put("a", b"1")
    world.sync()
    world.source.delete("a")
    with pytest.raises(DatasetEmpty):
        world.sync()
    assert world.shows("gcp") == {"a": b"1"}


# -- where it lands ----------------------------------------------------------------------------------------------------


def test_objects_lie_at_their_own_keys_and_nothing_there_is_overwritten():
    world = world_of("aws", "gcp", a=b"1", b=b"2")
    gcp = world.stores["gcp"]
    gcp.put("data/market/b", b"somebody's")
    whole(world, world.sync())
    assert gcp.get("data/market/a") == b"1"
    assert gcp.get("data/market/b") == b"somebody's"
    old = world.latest("gcp")
    world.source.put("a", b"11")
    whole(world, world.sync())
    assert gcp.get("data/market/a") == b"1"
    assert verify(gcp, old).ok


def test_the_staged_layout_never_touches_own_keys():
    world = world_of("aws", "gcp", a=b"1", b=b"2")
    whole(world, world.sync(policy=Sync(layout="staged")))
    keys = [info.key for info in world.stores["gcp"].list("data/market/")]
    assert len(keys) == 2
    assert all(key.startswith("data/market/.versions/") for key in keys)


def test_a_folder_that_keeps_no_metadata_is_a_target_too(tmp_path):
    (tmp_path / "gcp").mkdir()
    world = World({"aws": memory_store("aws"), "gcp": local_store("gcp", tmp_path / "gcp")})
    world.source.put("ü/a b", b"1")
    world.source.put("c", b"")
    whole(world, world.sync())
    world.source.put("c", b"3")
    whole(world, world.sync())


def test_small_metadata_goes_last():
    world, trace = world_of("aws", "gcp"), Trace()
    for name in ("_SUCCESS", "part-1", "x/_metadata", "part-2"):
        world.source.put(name, name.encode())
    whole(world, world.sync(trace))
    puts = [op.key.removeprefix("data/market/") for op in trace.ops if op.verb == "put" and op.key.startswith("data/")]
    assert set(puts[:2]) == {"part-1", "part-2"}


def test_filters_and_renames_decide_what_belongs_and_under_which_path():
    world = world_of("aws", "gcp")
    for name in ("raw/a.csv", "raw/b.tmp", "other/c.csv"):
        world.source.put(name, name.encode())
    policy = Sync(filters=Filters(exclude=("**/*.tmp",)), rename={"raw/": "clean/"})
    report = world.sync(policy=policy)
    assert world.shows("gcp") == {"clean/a.csv": b"raw/a.csv", "other/c.csv": b"other/c.csv"}
    assert see(world.stores["aws"], report.record) == world.shows("gcp")
    assert world.sync(policy=policy).record is None


# -- targets that fail or may not -------------------------------------------------------------------------------------


def test_a_target_that_is_down_does_not_stop_the_others_and_catches_up():
    world = world_of(a=b"1", b=b"2")
    report = world.sync(Trace([Cut("azure", 0)]))
    down = {target.site: target for target in report.targets}
    assert down["azure"].error is not None
    assert down["gcp"].ok
    assert world.shows("gcp") == world.source.live
    whole(world, world.sync())


def test_a_target_that_breaks_off_in_the_middle_is_reported():
    world = world_of(**{f"o{number}": b"x" * number for number in range(20)})
    report = world.sync(Trace([Cut("azure", 40)]))
    assert [target.ok for target in report.targets] == [True, False]
    whole(world, world.sync())


def test_when_no_target_answers_that_is_an_error_and_the_source_has_its_snapshot():
    world = world_of("aws", "gcp", a=b"1")
    with pytest.raises(StoreUnavailable):
        world.sync(Trace([Cut("gcp", 0)]))
    assert world.shows("aws") == {"a": b"1"}
    whole(world, world.sync())


def test_residency_is_checked_before_a_target_is_touched():
    world, trace = world_of(a=b"1"), Trace()
    world.clock.advance(1)
    sites = {**SITES, "azure": SITES["azure"].model_copy(update={"jurisdiction": "US"})}
    report = sync_dataset(
        SyncSite("aws", world.stores["aws"]),
        [SyncSite(name, HarmedStore(world.stores[name], name, trace)) for name in ("gcp", "azure")],
        dataset=DATASET, folder="market", policy=Sync(), epoch=1, residency=Residency(jurisdictions=("EU",)),
        topology_sites=sites, clock=world.clock,
    )  # fmt: skip
    assert [target.refused is None for target in report.targets] == [True, False]
    assert "US" in report.targets[1].refused
    assert not [op for op in trace.ops if op.site == "azure"]


def test_a_target_in_a_newer_epoch_is_refused():
    world = world_of("aws", "gcp", a=b"1")
    world.sync()
    fork = new_fork(
        DATASET, epoch=2, parent_epoch=1, forked_from=world.latest("gcp").snapshot_id, site="gcp", plan_id="p",
        holder="test", reason="test", created_at=world.clock.now(),
    )  # fmt: skip
    write_fork(world.stores["gcp"], root(DATASET), fork)
    world.source.put("a", b"2")
    report = world.sync()
    assert report.targets[0].refused is not None
    assert see(world.stores["gcp"], world.latest("gcp", epoch=2)) == {"a": b"1"}


def test_two_runs_at_once_end_in_the_same_bytes():
    world = world_of(**{f"o{number}": b"x" * number for number in range(40)})
    with ThreadPoolExecutor(2) as pool:
        for report in pool.map(lambda _: world.sync(threads=4), range(2)):
            assert all(target.ok for target in report.targets)
    world.check_everything_shown()
    whole(world, world.sync())


def test_a_rollback_during_a_run_is_not_undone_by_it():
    world = world_of("aws", "gcp", a=b"good")
    good = world.sync().record
    world.source.put("a", b"BAD!")
    world.sync()
    world.source.put("b", b"more")

    def roll_back(taken, read):
        rollback(
            world.stores, DATASET, to=good.snapshot_id, epoch=1, site="aws", clock=world.clock, reason="bad data"
        )  # fmt: skip
        world.clock.advance(1)

    report = world.sync(validate=roll_back)
    assert all(target.ok for target in report.targets)
    assert (world.shows("aws"), world.shows("gcp")) == ({"a": b"good"}, {"a": b"good"})


@pytest.mark.parametrize("write_source", [True, False])
def test_a_run_that_looked_earlier_does_not_put_older_content_on_top(write_source):
    world = world_of("aws", "gcp", a=b"1")
    world.sync(write_source=write_source)
    world.source.put("a", b"2")
    world.source.put("b", b"2")

    def overtake(taken, read):
        world.source.put("a", b"3")
        world.sync(write_source=write_source)
        world.clock.advance(1)

    report = world.sync(validate=overtake, write_source=write_source)
    assert all(target.ok for target in report.targets)
    assert report.targets[0].copied_objects == 2
    assert world.shows("gcp") == {"a": b"3", "b": b"2"}
    assert world.sync(write_source=write_source).record is None


class Rot(Harm):
    """An object of the source reads as other bytes for ever, at the version it always had."""

    def __init__(self):
        self.reads = 0

    def read(self, op, data):
        if (op.site, op.key) != ("aws", "data/market/a"):
            return data
        self.reads += 1
        return bent(data, 1)

    def before(self, op):
        assert self.reads < 500, "it reads the same wrong bytes again and again"


def test_rot_at_the_source_ends_the_run_that_brings_it_to_a_new_site():
    world = world_of("aws", "gcp", a=b"x" * 50, b=b"y" * 50)
    world.sync()
    world.stores["azure"], world.targets = memory_store("azure"), ("gcp", "azure")
    with pytest.raises(SourceDamaged, match="data/market/a"):
        world.sync(Trace([Rot()]))
    assert (world.shows("gcp"), world.shows("azure")) == (world.source.live, None)


# -- verification ------------------------------------------------------------------------------------------------------


def receipt(world, site="gcp"):
    return read_receipt(world.stores[site], DATASET, world.latest(site).snapshot_id, site)


def test_everything_is_read_back_unless_the_policy_says_otherwise():
    world, trace = world_of("aws", "gcp", a=b"1", b=b"2"), Trace()
    world.sync(trace)
    assert sorted(reads(trace, "gcp")) == ["a", "b"]
    assert (receipt(world).verification, receipt(world).read_back_objects) == ("all", 2)


def test_with_provider_checksums_nothing_is_read_back_and_the_receipt_says_so():
    world, trace = world_of("aws", "gcp", a=b"1", b=b"2"), Trace()
    whole(world, world.sync(trace, policy=Sync(verify=Verification.PROVIDER)))
    assert reads(trace, "gcp") == []
    found = receipt(world)
    assert (found.verification, found.provider_objects, found.read_back_objects) == ("provider", 2, 0)
    # What was not read back then is read back when the policy asks for it.
    world.source.put("c", b"3")
    trace = Trace()
    whole(world, world.sync(trace))
    assert sorted(set(reads(trace, "gcp"))) == ["a", "b", "c"]
    assert receipt(world).carried_objects == 0


def test_a_store_that_tells_no_checksum_is_read_back():
    world = world_of("aws", "gcp", a=b"1")
    whole(world, world.sync(policy=Sync(verify=Verification.PROVIDER)))
    found = receipt(world)
    assert found.provider_objects + found.read_back_objects == 1


def test_a_sample_is_read_back_and_the_rest_is_not_claimed():
    world = world_of("aws", "gcp", **{f"o{number}": b"%d" % number for number in range(60)})
    trace = Trace()
    whole(world, world.sync(trace, policy=Sync(verify=Verification.SAMPLED, sample_share=0.3)))
    found = receipt(world)
    assert 0 < found.read_back_objects < 60
    assert found.read_back_objects == len(reads(trace, "gcp"))
    assert found.read_back_objects + found.provider_objects + found.written_objects == 60


class BentOnce(Harm):
    """One bit of the first object written (or read) at a site is flipped, silently."""

    def __init__(self, site, *, write):
        self.site, self.write, self.done = site, write, False

    def _bend(self, op, data):
        if self.done or op.site != self.site or not op.key.startswith("data/") or not data:
            return data
        self.done = True
        return bytes([data[0] ^ 1]) + data[1:]

    def wrote(self, op, data):
        return self._bend(op, data) if self.write else data

    def read(self, op, data):
        return data if self.write else self._bend(op, data)


@pytest.mark.parametrize("verification", list(Verification)[::2], ids=str)
@pytest.mark.parametrize("write", [True, False], ids=["written", "read"])
def test_a_bit_flipped_on_its_way_is_found_and_mended(write, verification):
    world = world_of("aws", "gcp", a=b"one" * 50, b=b"two")
    site = "gcp" if write else "aws"
    whole(world, world.sync(Trace([BentOnce(site, write=write)]), policy=Sync(verify=verification)))
    assert verify(world.stores["gcp"], world.latest("gcp")).ok


def test_a_source_that_keeps_giving_other_bytes_publishes_nothing():
    world = world_of("aws", "gcp", a=b"one" * 50)

    class Bent(Harm):
        def read(self, op, data):
            return bytes([data[0] ^ 1]) + data[1:] if op.site == "aws" and op.key == "data/market/a" else data

    with pytest.raises(BytesCorrupted):
        world.sync(Trace([Bent()]))
    assert world.latest("gcp") is None


# -- publishing --------------------------------------------------------------------------------------------------------


def test_the_commit_record_is_the_last_thing_written_and_the_manifest_the_same_everywhere():
    world, trace = world_of(a=b"1", b=b"2"), Trace()
    report = world.sync(trace)
    for site in world.targets:
        puts = [op.key for op in trace.ops if (op.verb, op.site) == ("put", site)]
        assert puts[-1] == report.record.key
        assert puts[-2].startswith("receipts/")
        assert (
            load_manifest(world.stores[site], report.record).data
            == load_manifest(world.stores["aws"], report.record).data
        )


def test_a_draft_that_is_refused_is_published_nowhere():
    world, seen = world_of(a=b"1", b=b"2"), {}

    class Refusal(Exception):
        pass

    def check(taken, read):
        seen.update({path: read(path) for path in taken.manifest.paths})
        raise Refusal

    with pytest.raises(Refusal):
        world.sync(validate=check)
    assert seen == {"a": b"1", "b": b"2"}
    assert [world.latest(site) for site in world.stores] == [None] * 3
    trace = Trace()
    whole(world, world.sync(trace))
    assert reads(trace) == [], "what had landed and was noted is not read again"


def test_progress_is_told_and_a_stop_leaves_something_to_go_on_from():
    world, stop, told = world_of(**{f"o{number:02}": b"x" * number for number in range(1, 60)}), threading.Event(), []
    trace = Trace([Once("put", stop.set, key="data/market/o30", site="gcp")])
    with pytest.raises(Interrupted):
        world.sync(trace, stop=stop, progress=told.append)
    assert told[-1].total_objects == 59
    assert [world.latest(site) for site in world.stores] == [None] * 3
    landed = {op.key for op in trace.ops if op.verb == "put" and op.key.startswith("data/")}
    again = Trace()
    whole(world, world.sync(again, progress=told.append))
    assert not landed & {op.key for op in again.ops if op.verb == "put"}
    assert len(reads(again)) == 59 - len(landed), "each landed at both targets, so there is nothing to read for it"
    assert told[-1].phase == "publishing"


def test_nothing_is_left_under_uploads_once_it_is_published():
    world = world_of(a=b"1", big=random.Random(1).randbytes(17 * MIB))
    whole(world, world.sync())
    assert [[info.key for info in store.list("uploads/")] for store in world.stores.values()] == [[], [], []]
    assert [world.unfinished(site) for site in world.targets] == [[], []]


def test_every_fault_of_a_target_is_tried_again():
    world = world_of("aws", "gcp", a=b"1", b=b"2")
    faults = [Fault(Kind.FAIL_BEFORE, "put", "data/"), Fault(Kind.FAIL_AFTER, "put", "data/")]
    script = Script(faults)
    whole(world, world.sync(wrap=lambda name, store: FaultyStore(store, script, clock=world.clock) if name == "gcp"
                            else store))  # fmt: skip
    assert not script.left


def test_a_storm_of_refusals_ends_in_the_newest_state():
    world = world_of(**{f"o{number}": b"x" * number for number in range(20)})
    for seed in range(4):
        with contextlib.suppress(StoreUnavailable):
            world.sync(Trace([Storm(random.Random(seed), 0.1, site="azure")]))
    whole(world, world.sync())


# -- large objects -----------------------------------------------------------------------------------------------------


@pytest.fixture
def in_parts(monkeypatch):
    """Everything above a kilobyte goes in parts of a few kilobytes."""
    monkeypatch.setattr(rounds, "PARTS_ABOVE_BYTES", 1000)
    monkeypatch.setattr("holdfast.engine.replication.large.part_bytes_for", lambda size, limits: 4000)


def large(seed, size_bytes=41_000):
    return random.Random(seed).randbytes(size_bytes)


def test_a_large_object_goes_in_parts_to_all_targets_by_one_read(in_parts):
    world, trace = world_of(big=large(1), exact=large(2, 8000), small=b"s"), Trace()
    report = world.sync(trace, threads=4)
    whole(world, report)
    assert report.read_bytes == 49_001
    assert trace.count("put_part", "gcp") == trace.count("put_part", "azure") == 13
    assert world.stores["gcp"].get("data/market/big") == large(1)


def test_a_large_object_whose_key_is_taken_lies_under_versions(in_parts):
    world = world_of("aws", "gcp", big=large(1))
    world.sync()
    world.source.put("big", large(2))
    whole(world, world.sync())
    assert world.stores["gcp"].get("data/market/big") == large(1)
    whole(world, world.sync(policy=Sync(layout="staged")))


@pytest.mark.parametrize("change", ["overwritten", "removed"])
def test_a_large_object_that_changes_under_the_copy_is_never_torn(in_parts, change):
    world = world_of(big=large(1), other=b"o")
    times = iter(range(100))

    class Changes(Harm):
        def before(self, op):
            if op.verb == "read_into" and op.site == "aws" and next(times) == 5:
                world.source.put("big", large(2)) if change == "overwritten" else world.source.delete("big")

    whole(world, world.sync(Trace([Changes()]), threads=3))
    world.check_everything_shown()
    assert [world.unfinished(site) for site in world.targets] == [[], []]
    assert [list(world.stores[site].list("uploads/")) for site in world.targets] == [[], []]


def test_a_bit_flipped_in_a_part_is_found_and_mended(in_parts):
    for write in (True, False):
        world = world_of("aws", "gcp", big=large(1))
        whole(world, world.sync(Trace([BentOnce("gcp" if write else "aws", write=write)])))


def test_a_run_killed_inside_a_large_object_goes_on_at_its_part(in_parts, monkeypatch):
    monkeypatch.setattr("holdfast.engine.replication.large.MOST_WORKERS", 1)
    world = world_of("aws", "gcp", big=large(1))
    dry = Trace()
    world_of("aws", "gcp", big=large(1)).sync(dry)
    at = [op.index for op in dry.ops if op.verb == "put_part"][7]
    with pytest.raises(Killed):
        world.sync(Trace([Kill(at)]))
    trace = Trace()
    whole(world, world.sync(trace))
    assert trace.count("put_part") <= 11 - 7
    assert trace.count("begin") == 0
    assert world.unfinished("gcp") == []


def test_an_upload_of_bytes_that_are_gone_is_dropped(in_parts):
    world = world_of("aws", "gcp", big=large(1))
    with pytest.raises(Killed):
        world.sync(Trace([Kill(22)]))
    world.source.put("big", large(2))
    whole(world, world.sync())
    world.sweep()
    assert world.unfinished("gcp") == []


def test_one_target_that_breaks_off_does_not_stop_a_large_object_for_the_others(in_parts):
    world = world_of(big=large(1))

    class Broken(Harm):
        def before(self, op):
            if op.site == "azure" and op.verb == "put_part":
                raise StoreUnavailable("injected", where=op.key)

    report = world.sync(Trace([Broken()]), threads=3)
    assert [target.ok for target in report.targets] == [True, False]
    assert world.shows("gcp") == world.source.live
    whole(world, world.sync())


def test_a_store_without_parts_gets_large_objects_as_a_stream(monkeypatch):
    monkeypatch.setattr(rounds, "PARTS_ABOVE_BYTES", 1000)
    monkeypatch.setattr(rounds, "part_store", lambda store: None)
    world = world_of("aws", "gcp", big=large(1), small=b"s")
    whole(world, world.sync())
    world.source.put("big", large(2))
    whole(world, world.sync())


# -- the line ----------------------------------------------------------------------------------------------------------


def fail_over(world, site, epoch, record):
    fork = new_fork(
        DATASET, epoch=epoch, parent_epoch=epoch - 1, forked_from=record.snapshot_id, site=site, plan_id="p",
        holder="test", reason="test", created_at=world.clock.now(),
    )  # fmt: skip
    begin_epoch(world.stores[site], record, fork)
    world.site, world.targets = site, tuple(name for name in world.stores if name != site)
    world.source = Source(world.stores[site])


def ids(world, site, epoch):
    return [record.snapshot_id for record in selectable(world.stores[site], DATASET, epoch=epoch)]


def test_what_a_site_has_from_before_a_snapshot_it_missed_stays_selectable_after_a_failover():
    world, made = world_of("aws", "gcp", "azure"), []
    missed = {"gcp": (2, 3, 6), "azure": (4, 5)}
    for number in range(1, 8):
        world.source.put("a", b"%d" % number)
        cut = Trace([Cut(site, 0) for site, numbers in missed.items() if number in numbers])
        made.append(world.sync(cut).record)
    fail_over(world, "gcp", 2, made[6])
    had = [made[number - 1].snapshot_id for number in (7, 5, 4, 1)]
    assert ids(world, "gcp", 2) == had
    rollback(
        world.stores, DATASET, to=made[3].snapshot_id, epoch=2, site="gcp", clock=world.clock, reason="test"
    )  # fmt: skip
    world.clock.advance(1)
    world.source.put("a", b"8")
    eighth = world.sync(epoch=2).record
    # A snapshot of two epochs ago, over what gcp missed and what azure missed since.
    world.source.put("a", b"9")
    world.sync(Trace([Cut("azure", 0)]), epoch=2)
    world.source.put("a", b"10")
    tenth = world.sync(epoch=2).record
    fail_over(world, "azure", 3, tenth)
    had = [tenth.snapshot_id, eighth.snapshot_id, *(made[number - 1].snapshot_id for number in (7, 6, 3, 2, 1))]
    assert ids(world, "azure", 3) == had


def test_a_site_that_missed_the_snapshot_an_epoch_began_with_keeps_what_came_before():
    world, made = world_of("aws", "gcp", "azure"), []
    for number in (1, 2):
        world.source.put("a", b"%d" % number)
        made.append(world.sync(Trace([Cut("azure", 0)] if number == 2 else [])).record)
    fail_over(world, "gcp", 2, made[1])
    world.source.put("a", b"3")
    third = world.sync(epoch=2).record
    assert ids(world, "azure", 2) == [third.snapshot_id, made[0].snapshot_id]
