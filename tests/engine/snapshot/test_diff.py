"""Comparing manifests."""

from __future__ import annotations

from datetime import UTC, datetime

import hypothesis.strategies as st
from hypothesis import given, settings

from holdfast.engine.snapshot import Manifest, ManifestEntry, diff, digest_of

NOW = datetime(2026, 1, 1, tzinfo=UTC)
FOLDERS = st.dictionaries(
    st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1, max_size=6), st.binary(max_size=3), max_size=12
)


def manifest(files: dict[str, bytes]) -> Manifest:
    return Manifest.build(ManifestEntry(p, len(d), digest_of(d), None, None, NOW) for p, d in files.items())


@settings(max_examples=100, deadline=None)
@given(FOLDERS, FOLDERS)
def test_a_diff_is_what_sets_say(source, target):
    found = diff(manifest(source), manifest(target))
    assert set(found.added["path"].to_pylist()) == source.keys() - target.keys()
    assert set(found.removed["path"].to_pylist()) == target.keys() - source.keys()
    assert set(found.changed["path"].to_pylist()) == {
        p for p in source.keys() & target.keys() if source[p] != target[p]
    }
    assert found.copy_bytes == sum(len(source[p]) for p in source if source[p] != target.get(p))
    assert found.is_empty == (source == target)
    assert found.unchanged.num_rows + found.copy_objects == len(source)


def test_against_nothing_everything_is_added():
    found = diff(manifest({"a": b"1", "b": b"22"}), None)
    assert found.added["path"].to_pylist() == ["a", "b"]
    assert found.added["size_bytes"].to_pylist() == [1, 2]
    assert (found.copy_objects, found.copy_bytes) == (2, 3)


def test_the_order_of_entries_does_not_matter():
    files = {"b": b"2", "a": b"1", "A": b"3", "é": b"4"}
    assert manifest(files).data == manifest(dict(reversed(files.items()))).data


def test_a_hundred_thousand_objects_are_compared_in_one_join():
    import time

    many = {f"p{i:06}": b"" for i in range(100_000)}
    left = manifest(many)
    started = time.monotonic()
    assert diff(left, left).is_empty
    assert time.monotonic() - started < 30
