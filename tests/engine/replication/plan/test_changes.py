"""What changed, against a model that goes object by object with the rules of `snapshot.take`."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from holdfast.engine.config.sync import Filters, Sync
from holdfast.engine.objectstore.errors import InvalidKey
from holdfast.engine.objectstore.interface import ObjectInfo, ObjectVersion
from holdfast.engine.objectstore.keys import check_key
from holdfast.engine.objectstore.pages import table_of
from holdfast.engine.replication.plan import ACTIONS, PathsCollide, changes, plan_changes
from holdfast.engine.snapshot.manifest import SCHEMA as MANIFEST
from holdfast.engine.snapshot.placement import SCHEMA as PLACEMENT
from holdfast.engine.snapshot.placement import Placed

NOW = datetime(2026, 1, 1, tzinfo=UTC)
ROOT = "data/m/"
YOUNG_SECONDS = 30


@pytest.fixture(autouse=True, params=[2, 1000])
def block_rows(request, monkeypatch):
    monkeypatch.setattr(changes, "BLOCK_ROWS", request.param)


def model(listed, known, policy, identify=True):
    """path → (action, reason, key, digest, size) of everything but what is skipped; and the skipped keys."""
    inside = {info.key for info in listed if info.key.startswith(f"{ROOT}.versions/")}
    live, skipped = {}, {}
    for info in listed:
        relative = info.key.removeprefix(ROOT)
        if info.key in inside or relative == info.key:
            continue
        why = _left_out(relative, info, policy)
        if why and why != "too-young":
            skipped[info.key] = why
            continue
        old = max((old for old in policy.rename if relative.startswith(old)), key=len, default=None)
        path = relative if old is None else policy.rename[old] + relative[len(old) :]
        if path in live:
            return None
        live[path] = (info, why)
    rows = {}
    for path, (info, why) in live.items():
        row = known.get(path)
        if row is not None and row.key == info.key and row.is_still(info) and identify:
            rows[path] = ("keep", "unchanged", info.key, row.digest, info.size_bytes)
        elif row is not None and row.key != info.key and row.other_is_still(info):
            if row.key is None:
                skipped[info.key] = "leftover"
            else:
                rows[path] = ("keep", "elsewhere", row.key, row.digest, row.size_bytes)
        elif not _plain(path):
            rows[path] = ("refuse", "key", info.key, None, info.size_bytes)
        elif row is not None and row.key is not None:
            rows[path] = ("copy", "changed", info.key, None, info.size_bytes)
        elif why:
            skipped[info.key] = why
        else:
            rows[path] = ("copy", "new", info.key, None, info.size_bytes)
    for path, row in known.items():
        if path in live or row.key is None:
            continue
        if row.key in inside and row.other_e_tag is None and row.other_version is None:
            rows[path] = ("keep", "elsewhere", row.key, row.digest, row.size_bytes)
        else:
            reason = (
                "filtered" if row.key in skipped and skipped[row.key] not in ("leftover", "too-young") else "removed"
            )
            rows[path] = ("delete", reason, row.key, row.digest, row.size_bytes)
            if reason == "filtered":
                del skipped[row.key]
    return rows, skipped


def _plain(path):
    try:
        return check_key(ROOT + path, "") != ""
    except InvalidKey:
        return False


def _left_out(relative, info, policy):
    if relative == "" or (relative.endswith("/") and info.size_bytes == 0):
        return "marker"
    if relative.endswith("x"):
        return "excluded" if policy.filters.exclude else None
    if policy.filters.youngest_seconds and info.modified_at > NOW - timedelta(seconds=YOUNG_SECONDS):
        return "too-young"
    return None


NAMES = ["a", "b", "c/d", "c/x", "e\\f", "g/", "é", "x", "", "b0", "b1", "p/../q"]
VERSION = st.sampled_from(
    [
        ObjectVersion('"1"'),
        ObjectVersion('"2"'),
        ObjectVersion(None, "g1"),
        ObjectVersion('"1"', "g1"),
        ObjectVersion(None),
    ]
)
MOMENT = st.sampled_from([NOW - timedelta(seconds=seconds) for seconds in (10, 100)])
KEYS = [*(ROOT + name for name in NAMES), f"{ROOT}.versions/aa/a", f"{ROOT}.versions/bb/gone", "data/mx/a"]


@st.composite
def listings(draw):
    keys = draw(st.lists(st.sampled_from(KEYS), unique=True))
    return [ObjectInfo(key, draw(st.integers(0, 2)), draw(MOMENT), draw(VERSION)) for key in sorted(keys)]


@st.composite
def knowns(draw, listed):
    """What was known, mostly of what is listed."""
    known = {}
    for path in draw(st.lists(st.sampled_from([*NAMES[:5], "gone", "q/b0"]), unique=True)):
        at = {info.key: info for info in listed}
        key = draw(st.sampled_from([None, ROOT + path, ROOT + path, f"{ROOT}.versions/aa/a", f"{ROOT}.versions/no/x"]))
        info = at.get(key, ObjectInfo("", 1, draw(MOMENT), draw(VERSION)))
        row = Placed(path, key)
        if key is not None:
            version = draw(st.sampled_from([info.version, info.version, draw(VERSION)]))
            size = draw(st.sampled_from([info.size_bytes, info.size_bytes, 7]))
            row = Placed(path, key, f"blake3:{path}", size, version.version, version.e_tag, info.modified_at)
        own = at.get(ROOT + path)
        if own is not None and key != ROOT + path and draw(st.booleans()):
            other = draw(st.sampled_from([own.version, draw(VERSION)]))
            moment = draw(st.sampled_from([own.modified_at, draw(MOMENT)]))
            row = replace(row, other_version=other.version, other_e_tag=other.e_tag, other_modified_at=moment)
        elif own is None and draw(st.booleans()):  # what lay at its own key is gone now
            row = replace(row, other_e_tag='"1"', other_modified_at=draw(MOMENT))
        known[path] = row
    return known


POLICY = st.sampled_from(
    [
        Sync(),
        Sync(last=("b*", "a")),
        Sync(filters=Filters(exclude=("**/*x",), youngest_seconds=YOUNG_SECONDS)),
        Sync(rename={"b": "q/b", "b0": "", "c/": "r//"}),
        Sync(rename={"b0": "a"}, last=("a",)),
    ]
)


def placement(known):
    rows = [{name: getattr(row, name) for name in PLACEMENT.names} for row in known.values()]
    return pa.Table.from_pylist(sorted(rows, key=lambda row: row["path"]), schema=PLACEMENT)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), listed=listings(), policy=POLICY, identify=st.booleans())
def test_every_object_is_told_as_the_model_tells_it(data, listed, policy, identify):
    known = data.draw(knowns(listed))
    expected = model(listed, known, policy, identify)

    def run():
        before = placement(known) if known else None
        return plan_changes(table_of(listed), before, folder="m", policy=policy, now=NOW, versions_identify=identify)

    if expected is None:
        with pytest.raises(PathsCollide, match="two objects would get the path"):
            run()
        return
    table = run()
    rows, skipped = expected
    assert table.schema.equals(ACTIONS, check_metadata=True)
    found = [row for row in table.to_pylist() if row["action"] != "skip"]
    assert {
        row["path"]: (row["action"], row["reason"], row["key"], row["digest"], row["size_bytes"]) for row in found
    } == rows
    assert len(found) == len(rows)
    assert {row["key"]: row["reason"] for row in table.to_pylist() if row["action"] == "skip"} == skipped
    order = [(row["wave"], row["path"]) for row in found]
    assert order == sorted(order)
    table.validate(full=True)


def test_a_manifest_without_placement_is_known_too():
    info = ObjectInfo(f"{ROOT}a", 3, NOW - timedelta(days=1), ObjectVersion('"1"', None))
    manifest = pa.table(
        {
            "path": ["a", "b"],
            "size_bytes": [3, 3],
            "digest": ["blake3:a", "blake3:b"],
            "version": pa.array(["gen", None]),
            "e_tag": ['"1"', '"1"'],
            "modified_at": [info.modified_at, info.modified_at],
        },
        schema=MANIFEST,
    )
    rows = plan_changes(table_of([info]), manifest, folder="m", policy=Sync(), now=NOW).to_pylist()
    assert [(row["path"], row["action"], row["key"], row["version"]) for row in rows] == [
        ("a", "keep", f"{ROOT}a", "gen"),
        ("b", "delete", f"{ROOT}b", None),
    ]


def test_a_collision_names_both_objects():
    listed = table_of(ObjectInfo(ROOT + name, 1, NOW, ObjectVersion('"1"')) for name in ("new/f", "old/f"))
    with pytest.raises(PathsCollide) as error:
        plan_changes(listed, None, folder="m", policy=Sync(rename={"old/": "new/"}), now=NOW)
    assert f"{ROOT}new/f" in str(error.value)
    assert f"{ROOT}old/f" in str(error.value)
    excluded = Sync(rename={"old/": "new/"}, filters=Filters(exclude=("old/**",)))
    assert plan_changes(listed, None, folder="m", policy=excluded, now=NOW).num_rows == 2


def test_an_empty_listing_of_a_known_dataset_is_deletes_and_says_so():
    known = pa.table({name: [] for name in PLACEMENT.names}, schema=PLACEMENT)
    assert plan_changes(table_of([]), known, folder="m", policy=Sync(), now=NOW).num_rows == 0
    row = Placed("a", f"{ROOT}a", "blake3:a", 1, None, '"1"', NOW)
    gone = plan_changes(table_of([]), placement({"a": row}), folder="m", policy=Sync(), now=NOW).to_pylist()
    assert [(row["action"], row["reason"], row["digest"]) for row in gone] == [("delete", "removed", "blake3:a")]
