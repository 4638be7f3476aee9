"""Two sites that both write: what merges, what conflicts, who wins; and what a failback ships."""

from __future__ import annotations

from datetime import UTC, datetime

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from holdfast.engine.config.sync import Sync
from holdfast.engine.replication.directions import (
    ConflictsRefused,
    NoCommonSnapshot,
    compare,
    last_common,
    merge_plan,
    resolve,
    reverse_plan,
)
from holdfast.engine.snapshot import Manifest, ManifestEntry, begin_epoch, digest_of, new_fork, open_snapshot, take

AT = datetime(2026, 1, 1, tzinfo=UTC)


def manifest(**files: bytes) -> Manifest:
    return Manifest.build(
        ManifestEntry(name, len(data), digest_of(data), None, None, AT) for name, data in files.items()
    )


def states(comparison):
    return {row["path"]: row["state"] for row in comparison.table.to_pylist()}


BASE = {"same": b"0", "l": b"0", "r": b"0", "both": b"0", "gone_l": b"0", "gone_r": b"0", "cd": b"0", "dc": b"0"}
LEFT = {"same": b"0", "l": b"1", "r": b"0", "both": b"1", "gone_r": b"0", "cd": b"1", "new_l": b"n", "add": b"1"}
RIGHT = {"same": b"0", "l": b"0", "r": b"1", "both": b"2", "gone_l": b"0", "dc": b"1", "new_r": b"n", "add": b"2"}


def test_every_kind_of_change_is_told():
    found = compare(manifest(**BASE), manifest(**LEFT), manifest(**RIGHT), sites=("aws", "gcp"))
    assert states(found) == {
        "l": "changed left",
        "r": "changed right",
        "both": "both changed",
        "gone_l": "deleted left",
        "gone_r": "deleted right",
        "cd": "changed left, deleted right",
        "dc": "deleted left, changed right",
        "new_l": "added left",
        "new_r": "added right",
        "add": "both added",
    }
    assert sorted(found.conflicts["path"].to_pylist()) == ["add", "both", "cd", "dc"]
    assert found.counts()["both added"] == 1


def test_conflicts_without_a_winner_are_refused_and_listed():
    found = compare(manifest(**BASE), manifest(**LEFT), manifest(**RIGHT), sites=("aws", "gcp"))
    with pytest.raises(ConflictsRefused) as refused:
        resolve(found, None)
    assert refused.value.report.conflicts.num_rows == 4
    assert "add (both added)" in str(refused.value)
    assert "both (both changed)" in str(refused.value)
    with pytest.raises(ValueError, match="neither"):
        resolve(found, "azure")


def test_changes_to_different_objects_merge_without_a_winner():
    left, right = {**BASE, "l": b"1"}, {**BASE, "r": b"1", "new": b"2"}
    del right["gone_r"]
    merge = resolve(compare(manifest(**BASE), manifest(**left), manifest(**right), sites=("aws", "gcp")), None)
    assert merge.to_left["path"].to_pylist() == ["new", "r"]
    assert merge.to_right["path"].to_pylist() == ["l"]
    assert merge.delete_left == ("gone_r",)
    assert merge.overruled.num_rows == 0


def test_the_same_change_at_both_sites_is_no_conflict():
    found = compare(manifest(a=b"0"), manifest(a=b"1"), manifest(a=b"1"), sites=("aws", "gcp"))
    assert states(found) == {"a": "same change"}
    assert resolve(found, None).is_empty


def test_sites_that_never_agreed_conflict_in_all_that_differs():
    found = compare(None, manifest(a=b"1", b=b"1"), manifest(a=b"2", b=b"1", c=b"3"), sites=("aws", "gcp"))
    assert states(found) == {"a": "both added", "b": "same change", "c": "added right"}


FILES = st.dictionaries(st.sampled_from("abcdef"), st.sampled_from([b"0", b"1", b"2"]))


@settings(deadline=None)
@given(base=FILES, left=FILES, right=FILES, winner=st.sampled_from(["aws", "gcp"]))
def test_after_a_merge_both_sites_are_equal_and_no_lone_change_is_lost(base, left, right, winner):
    merge = resolve(compare(manifest(**base), manifest(**left), manifest(**right), sites=("aws", "gcp")), winner)

    def applied(own, other, copies, deletes):
        result = {name: data for name, data in own.items() if name not in deletes}
        for row in copies.to_pylist():
            assert row["digest"] == digest_of(other[row["path"]])
            result[row["path"]] = other[row["path"]]
        return result

    at_left = applied(left, right, merge.to_left, merge.delete_left)
    at_right = applied(right, left, merge.to_right, merge.delete_right)
    assert at_left == at_right
    wins, loses = (left, right) if winner == "aws" else (right, left)
    for name in set(base) | set(left) | set(right):
        if wins.get(name) != base.get(name):
            assert at_left.get(name) == wins.get(name)
        else:
            assert at_left.get(name) == loses.get(name)


def live(world, site, previous):
    return take(world.stores[site], dataset="market", path="market", clock=world.clock, previous=previous).manifest


def test_two_live_folders_are_compared_since_their_last_common_snapshot(world):
    world.put("aws", a=b"0", b=b"0")
    common = world.publish()
    world.bring(common)
    world.put("aws", a=b"aws")
    world.publish()
    world.put("gcp", b=b"gcp", c=b"new")
    stores = {name: world.stores[name] for name in ("aws", "gcp")}
    assert last_common(world.stores["aws"], world.stores["gcp"], "market", epoch=1) == common
    policy = Sync(direction="active-active", winner="gcp")
    now = {site: live(world, site, common) for site in stores}
    merge = merge_plan(stores, "market", epoch=1, policy=policy, live=now)
    assert states(merge.comparison) == {"a": "changed left", "b": "changed right", "c": "added right"}
    world.put("gcp", a=b"gcp too")
    now = {site: live(world, site, common) for site in stores}
    merge = merge_plan(stores, "market", epoch=1, policy=policy, live=now)
    assert merge.to_left["path"].to_pylist() == ["a", "b", "c"]
    assert merge.overruled.to_pylist() == [{"path": "a", "size_bytes": 3, "digest": digest_of(b"aws")}]
    with pytest.raises(ConflictsRefused):
        merge_plan(stores, "market", epoch=1, policy=Sync(), live=now)
    with pytest.raises(NoCommonSnapshot):
        last_common(world.stores["aws"], world.stores["azure"], "market", epoch=1)


def test_a_failback_ships_only_what_differs(world):
    world.put("aws", a=b"a" * 10, b=b"b" * 10, c=b"c" * 10)
    point = world.publish()
    world.bring(point)
    # The source is lost; gcp goes on in epoch 2. The old site wakes up and publishes once more.
    fork = new_fork(
        "market",
        epoch=2,
        parent_epoch=1,
        forked_from=point.snapshot_id,
        site="gcp",
        plan_id="p",
        holder="test",
        reason="test",
        created_at=world.clock.now(),
    )
    begin_epoch(world.stores["gcp"], point, fork)
    world.put("gcp", b=b"B" * 7, d=b"d" * 5)
    world.drop("gcp", "c")
    back = world.publish("gcp", epoch=2)
    world.put("aws", zombie=b"late")
    world.publish("aws", epoch=1)
    plan = reverse_plan(world.stores["gcp"], world.stores["aws"], back, source_site="gcp", target_site="aws")
    assert plan.ship["path"].to_pylist() == ["b", "d"]
    assert (plan.ship_objects, plan.ship_bytes) == (2, 12)
    assert plan.difference.removed["path"].to_pylist() == ["c", "zombie"]
    assert plan.stranded["path"].to_pylist() == ["zombie"]
    report = world.bring(back, source="gcp", target="aws")
    assert (report.copied_objects, report.copied_bytes) == (plan.ship_objects, plan.ship_bytes)
    opened = open_snapshot(world.stores["aws"], world.latest("aws", epoch=2))
    assert {path: opened.read(path) for path in opened.manifest.paths} == {
        "a": b"a" * 10,
        "b": b"B" * 7,
        "d": b"d" * 5,
    }
    again = reverse_plan(world.stores["gcp"], world.stores["aws"], back, source_site="gcp", target_site="aws")
    assert (again.ship_objects, again.difference.is_empty) == (0, True)
    empty = reverse_plan(world.stores["gcp"], world.stores["azure"], back, source_site="gcp", target_site="azure")
    assert empty.ship_objects == 3
