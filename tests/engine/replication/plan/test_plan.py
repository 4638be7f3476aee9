"""Plans: what each target lacks, what is refused, what it costs, and the same plan read back."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from holdfast.engine.config import Limits, Residency, Site
from holdfast.engine.config.sync import Deletes, Filters, Sync
from holdfast.engine.objectstore import memory_store
from holdfast.engine.objectstore.interface import ObjectInfo, ObjectVersion
from holdfast.engine.objectstore.pages import table_of
from holdfast.engine.replication.plan import PlanConflict, PlanDamaged, load_plan, plan_sync, store_plan, targets
from holdfast.engine.snapshot.manifest import Manifest, ManifestEntry
from holdfast.engine.snapshot.placement import SCHEMA as PLACEMENT

NOW = datetime(2026, 1, 1, tzinfo=UTC)
OLD = NOW - timedelta(days=1)
GIB = 1024**3
EU = Residency(jurisdictions=("EU",))


def site(cloud, region, jurisdiction="EU", **facts):
    return Site(cloud=cloud, region=region, jurisdiction=jurisdiction, connection="c", bucket="b", **facts)


SITES = {
    "aws": site("aws", "eu-west-1", egress_cost_per_gib=0.09),
    "near": site("aws", "eu-west-1"),
    "gcp": site("gcp", "europe-west1"),
    "azure": site("azure", "eastus", "US"),
}


def listing(**objects):
    """Names to contents; the content's letter is the version, its length the size."""
    infos = [
        ObjectInfo(f"data/m/{name.replace('__', '/')}", len(text), OLD, ObjectVersion(f'"{text}"'))
        for name, text in objects.items()
    ]
    return table_of(sorted(infos, key=lambda info: info.key))


def manifest(**objects):
    entries = [
        ManifestEntry(name.replace("__", "/"), len(text), f"blake3:{text}", None, f'"{text}"', OLD)
        for name, text in objects.items()
    ]
    return Manifest.build(entries).table


def plan(listed, known, bases, *, policy=None, residency=None, sites=SITES, **kwargs):
    return plan_sync(
        listed,
        known,
        bases,
        dataset="market",
        folder="m",
        policy=policy or Sync(),
        residency=residency,
        topology_sites=sites,
        source_site="aws",
        now=NOW,
        **kwargs,
    )


def rows(table):
    return [(row["path"], row["action"], row["reason"]) for row in table.to_pylist()]


def test_each_target_gets_what_it_lacks_and_one_read_serves_all():
    known = manifest(a="a", b="b", c="c", gone="g")
    made = plan(
        listing(a="a", b="B", c="c", new="n"),
        known,
        {"gcp": known, "near": manifest(a="a", c="old", stray="s"), "azure": None},
    )
    assert rows(made.actions("gcp")) == [
        ("b", "copy", "changed"),
        ("gone", "delete", "removed"),
        ("new", "copy", "new"),
    ]
    assert rows(made.actions("near")) == [
        ("b", "copy", "changed"),
        ("c", "copy", "missing"),
        ("new", "copy", "new"),
        ("stray", "delete", "removed"),
    ]
    assert [row[:2] for row in rows(made.actions("azure"))] == [(name, "copy") for name in ("a", "b", "c", "new")]
    assert [(row["path"], row["targets"]) for row in made.copies.to_pylist()] == [
        ("a", "azure"),
        ("b", "gcp,near,azure"),
        ("c", "near,azure"),
        ("new", "gcp,near,azure"),
    ]
    near = made.target("near")
    assert (near.copy_objects, near.copy_bytes, near.keep_objects, near.delete_objects) == (3, 3, 1, 1)
    assert (made.copy_objects, made.copy_bytes) == (4, 4)


def test_a_missing_object_is_pinned_and_named_by_its_digest():
    made = plan(listing(a="a"), manifest(a="a"), {"gcp": None})
    row = made.actions("gcp").to_pylist()[0]
    assert (row["key"], row["e_tag"], row["digest"], row["size_bytes"]) == ("data/m/a", '"a"', "blake3:a", 1)


def test_residency_refuses_with_its_reason_instead_of_raising():
    made = plan(listing(a="a", b="bb"), None, {"azure": None, "gcp": None, "moon": None}, residency=EU)
    azure = made.target("azure")
    assert "may not lie in this site's jurisdiction" in azure.refused
    assert rows(azure.work) == [("a", "refuse", "residency"), ("b", "refuse", "residency")]
    assert (azure.copy_objects, azure.copy_bytes, azure.refuse_objects, azure.refuse_bytes) == (0, 0, 2, 3)
    assert made.target("gcp").refused is None
    assert "a site the topology does not have" in made.target("moon").refused
    assert [row["targets"] for row in made.copies.to_pylist()] == ["gcp", "gcp"]


def test_what_is_not_known_is_none_and_never_zero():
    big = table_of([ObjectInfo("data/m/a", 10 * GIB, OLD, ObjectVersion('"a"'))])
    made = plan(big, None, {"gcp": None, "near": None, "moon": None})
    gcp, near, moon = made.targets
    assert gcp.egress_cost == pytest.approx(0.9)
    assert gcp.expected_seconds is None
    assert gcp.at_least_seconds is None
    assert near.egress_cost == 0.0  # the same region of the same cloud
    assert moon.egress_cost is None
    silent = {**SITES, "aws": site("aws", "eu-west-1")}
    assert plan(big, None, {"gcp": None}, sites=silent).target("gcp").egress_cost is None
    nothing = plan(listing(a="a"), manifest(a="a"), {"gcp": manifest(a="a")}, sites=silent).target("gcp")
    assert (nothing.egress_cost, nothing.expected_seconds) == (0.0, 0.0)


def test_the_expected_time_follows_what_was_measured_and_never_beats_the_limits():
    big = table_of(ObjectInfo(f"data/m/{number}", GIB, OLD, ObjectVersion('"a"')) for number in range(4))
    slow = {**SITES, "gcp": SITES["gcp"].model_copy(update={"limits": Limits(bytes_per_second=GIB / 4)})}
    assert plan(big, None, {"gcp": None}, measured_bytes_per_second=GIB).target("gcp").expected_seconds == 4.0
    per_site = plan(big, None, {"gcp": None, "near": None}, measured_bytes_per_second={"gcp": GIB / 2})
    assert [target.expected_seconds for target in per_site.targets] == [8.0, None]
    many = plan(big, None, {"gcp": None}, measured_bytes_per_second=GIB, measured_objects_per_second=0.5)
    assert many.target("gcp").expected_seconds == 8.0
    limited = plan(big, None, {"gcp": None}, sites=slow, measured_bytes_per_second=GIB).target("gcp")
    assert (limited.at_least_seconds, limited.expected_seconds) == (32.0, 32.0)  # written and read back
    requests = {**SITES, "aws": SITES["aws"].model_copy(update={"limits": Limits(requests_per_second=0.1)})}
    assert plan(big, None, {"gcp": None}, sites=requests).target("gcp").at_least_seconds == pytest.approx(40)


@pytest.mark.parametrize(
    ("stays", "suspect"),
    [
        (range(100), None),
        (range(5, 100), None),  # a few less
        (range(0, 100, 3), "lacks 66 of 100"),
        (range(80), "ends before the last 20 of 100"),
        ((), "shows none of 100"),
    ],
)
def test_a_listing_that_looks_cut_off_is_told(stays, suspect):
    names = [f"o{number:03d}" for number in range(100)]
    made = plan(listing(**{names[at]: "x" for at in stays}), manifest(**dict.fromkeys(names, "x")), {})
    assert (made.suspect or "") == "" if suspect is None else suspect in made.suspect


def test_what_filters_leave_out_does_not_make_a_listing_suspect():
    names = [f"o{number:03d}" for number in range(100)]
    everything = dict.fromkeys(names, "x")
    made = plan(listing(**everything), manifest(**everything), {}, policy=Sync(filters=Filters(exclude=("o0[1-9]*",))))
    assert made.suspect is None
    assert made.counts["delete"] == {"filtered": (90, 90)}


def test_many_deletes_want_a_person_where_deletes_are_on():
    known, listed = manifest(**dict.fromkeys("abcdefghij", "x")), listing(**dict.fromkeys("abcdefgh", "x"))
    assert not plan(listed, known, {}).deletes.needs_approval
    strict = plan(listed, known, {}, policy=Sync(deletes=Deletes(enabled=True, most_share=0.1)))
    assert (strict.deletes.objects, strict.deletes.needs_approval) == (2, True)
    assert not plan(
        listed, known, {}, policy=Sync(deletes=Deletes(enabled=True, most_share=0.3))
    ).deletes.needs_approval
    few = plan(listed, known, {}, policy=Sync(deletes=Deletes(enabled=True, most_share=0.3, most_objects=1)))
    assert few.deletes.needs_approval


def test_small_metadata_comes_last_at_every_target():
    listed = listing(_SUCCESS="s", a="a", z__data="d", z___metadata="m")
    made = plan(listed, manifest(_SUCCESS="s"), {"gcp": None, "near": manifest(_SUCCESS="s", old="o")})
    assert [row[0] for row in rows(made.actions("gcp"))] == ["a", "z/data", "z/_metadata", "_SUCCESS"]
    assert rows(made.actions("near")) == [
        ("a", "copy", "new"),
        ("old", "delete", "removed"),
        ("z/data", "copy", "new"),
        ("z/_metadata", "copy", "new"),
    ]
    assert [row["path"] for row in made.copies.to_pylist()] == ["a", "z/data", "z/_metadata", "_SUCCESS"]


NAMES = [*"abcdef", "_SUCCESS", "d/_metadata"]
CONTENT = st.dictionaries(st.sampled_from(NAMES), st.sampled_from("xy"), max_size=8)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(listed=CONTENT, known=st.none() | CONTENT, base=st.none() | CONTENT, block=st.sampled_from([1, 2, 100]))
def test_a_target_s_work_is_what_a_comparison_by_hand_gives(listed, known, base, block, monkeypatch):
    monkeypatch.setattr(targets, "BLOCK_ROWS", block)
    made = plan(
        listing(**listed),
        None if known is None else manifest(**known),
        {"gcp": None if base is None else manifest(**base)},
    )
    expected = {}
    for name, text in listed.items():
        if known is None or name not in known:
            expected[name] = ("copy", "new")
        elif known[name] != text:
            expected[name] = ("copy", "changed")
        elif (base or {}).get(name) != text:
            expected[name] = ("copy", "missing")
    for name in base or {}:
        if name not in listed:
            expected[name] = ("delete", "removed")
    assert {path: (action, reason) for path, action, reason in rows(made.actions("gcp"))} == expected
    assert made.target("gcp").keep_objects == len([name for name in listed if name not in expected])
    assert made.copy_objects == sum(action == "copy" for action, _ in expected.values())


def test_leftovers_at_a_target_are_not_its_snapshot():
    base = pa.Table.from_pylist(
        [{"path": "a", "key": None}, {"path": "b", "key": "data/m/b", "digest": "blake3:b", "size_bytes": 1}],
        schema=PLACEMENT,
    )
    made = plan(listing(a="a", b="b"), manifest(a="a", b="b"), {"gcp": base})
    assert rows(made.actions("gcp")) == [("a", "copy", "missing")]


# -- stored ------------------------------------------------------------------------------------------------------------


def a_plan(**kwargs):
    known = manifest(a="a", b="b", gone="g")
    return plan(listing(a="a", b="B", _SUCCESS="s"), known, {"gcp": known, "azure": None}, residency=EU, **kwargs)


def test_a_stored_plan_reads_back_as_it_was():
    store, made = memory_store(), a_plan(based_on="0" * 32)
    assert store_plan(store, made) == made.plan_id
    loaded = load_plan(store, "market", made.plan_id)
    assert loaded == made
    assert loaded.plan_id == made.plan_id
    assert loaded.to_json() == made.to_json()
    for target in ("gcp", "azure"):
        assert loaded.actions(target).to_pylist() == made.actions(target).to_pylist()
    assert loaded.copies.to_pylist() == made.copies.to_pylist()
    assert [row["path"] for row in loaded.changes.to_pylist()] == ["b", "gone", "_SUCCESS"]
    elsewhere = memory_store()
    store_plan(elsewhere, loaded)
    assert load_plan(elsewhere, "market", made.plan_id) == made


def test_storing_again_is_no_error_and_nothing_is_overwritten():
    store, made = memory_store(), a_plan()
    store_plan(store, made)
    store_plan(store, a_plan())
    key = f"sync-plans/market/{made.plan_id}/changes.parquet"
    store.put(key, b"other")
    with pytest.raises(PlanConflict):
        store_plan(store, made)
    assert store.get(key) == b"other"


def test_another_moment_or_content_is_another_plan():
    one = a_plan()
    assert one.plan_id == a_plan().plan_id
    assert one.plan_id != a_plan(based_on="1" * 32).plan_id
    assert one.plan_id != a_plan(measured_bytes_per_second=5.0).plan_id


@pytest.mark.parametrize("name", ["plan.json", "changes.parquet", "targets/gcp.parquet"])
@pytest.mark.parametrize("harm", ["change", "remove", "cut"])
def test_a_damaged_plan_is_refused(name, harm):
    store, made = memory_store(), a_plan()
    store_plan(store, made)
    key = f"sync-plans/market/{made.plan_id}/{name}"
    data = store.get(key)
    if harm == "remove":
        store.delete(key)
    elif harm == "cut":
        store.put(key, data[: len(data) // 2])
    else:
        store.put(key, data.replace(b"market", b"markat") if name == "plan.json" else data[:-20] + b"x" * 20)
    with pytest.raises(PlanDamaged):
        load_plan(store, "market", made.plan_id)


def test_the_summary_is_json_without_rows():
    import json

    summary = json.loads(json.dumps(a_plan().to_json()))
    assert summary["format"] == "holdfast.sync-plan/1"
    assert summary["counts"]["copy"] == {"changed": [1, 1], "new": [1, 1]}
    assert summary["targets"][0]["expected_seconds"] is None
    assert "tables" not in summary
