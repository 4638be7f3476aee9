"""Globs, sizes, ages and renames on columns, against a matcher that goes letter by letter."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from holdfast.engine.config.sync import Filters
from holdfast.engine.replication.plan.filters import left_out, matching, renamed, wave_of
from holdfast.engine.replication.plan.schema import _REASONS

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def column(values, kind=None):
    return pa.chunked_array([pa.array(values, kind or pa.large_string())])


def naive(glob: str, path: str, begins: bool = True) -> bool:
    """Whether the glob matches the whole path; ``begins``: the glob's rest begins a segment."""
    if not glob:
        return not path
    if begins and glob.startswith("**/"):
        rest = glob[3:]
        starts = [0, *(at + 1 for at, letter in enumerate(path) if letter == "/")]
        return any(naive(rest, path[at:], True) for at in starts)
    if glob.startswith("**"):
        return any(naive(glob[2:], path[at:], False) for at in range(len(path) + 1))
    if glob[0] == "*":
        stop = path.find("/") if "/" in path else len(path)
        return any(naive(glob[1:], path[at:], False) for at in range(stop + 1))
    if not path:
        return False
    if glob[0] == "?":
        return path[0] != "/" and naive(glob[1:], path[1:], False)
    return glob[0] == path[0] and naive(glob[1:], path[1:], glob[0] == "/")


PATH = st.text(st.sampled_from("ab/.é"), max_size=8)
GLOB = st.lists(st.sampled_from(["*", "**", "**/", "?", "a", "b", "/", ".", "é"]), max_size=6).map("".join)


@settings(max_examples=400, deadline=None)
@given(globs=st.lists(GLOB, min_size=1, max_size=3), paths=st.lists(PATH, min_size=1, max_size=8))
@example(globs=["**/_SUCCESS"], paths=["_SUCCESS", "a/_SUCCESS", "a/b/_SUCCESS", "a_SUCCESS", "_SUCCESS/a"])
@example(globs=["*.b"], paths=["a.b", "aéb", "a/a.b", "a.b\n"])
def test_globs_match_as_a_naive_matcher_does(globs, paths):
    expected = [any(naive(glob.replace("***", "**"), path) for glob in globs) for path in paths]
    if any("***" in glob for glob in globs):
        return  # three stars in a row mean nothing of their own
    assert matching(column(paths), globs).to_pylist() == expected


@pytest.mark.parametrize(
    ("glob", "yes", "no"),
    [
        ("[ab]", ["a", "b"], ["c", "ab", ""]),
        ("[!ab]", ["c"], ["a", "/", ""]),
        ("[a-c]x", ["ax", "cx"], ["dx"]),
        ("[]]", ["]"], ["a"]),
        ("[!]]", ["a"], ["]"]),
        ("[+-9]", ["+", "-", ".", "0", "9"], ["/", "a"]),
        ("[z-a]", [], ["a", "z", "-"]),
        ("[a", ["[a"], ["a"]),
        ("a[-]", ["a-"], ["a"]),
        ("[^a]", ["^", "a"], ["b"]),
        ("{a,b}", ["{a,b}"], ["a"]),
        ("a+(b)|c$", ["a+(b)|c$"], ["ab", "c"]),
        ("[é-ü]", ["ö"], ["e"]),
        ("a\\d", ["a\\d"], ["a1"]),
    ],
)
def test_a_class_is_one_character_of_it_and_all_else_is_itself(glob, yes, no):
    assert matching(column([*yes, *no]), [glob]).to_pylist() == [True] * len(yes) + [False] * len(no)


def test_the_last_globs_give_waves_in_their_order():
    paths = ["_SUCCESS", "a/_metadata", "a/data", "_metadata"]
    assert wave_of(column(paths), ("**/_metadata", "_SUCCESS")).to_pylist() == [2, 1, 0, 1]
    assert wave_of(column(paths), ()).to_pylist() == [0, 0, 0, 0]


def reasons(filters, rows):
    """Why each of (path, size, age in seconds) is left out."""
    paths, sizes, ages = zip(*rows, strict=True)
    moments = column([NOW - timedelta(seconds=age) for age in ages], pa.timestamp("us", tz="UTC"))
    codes = left_out(column(paths), column(sizes, pa.int64()), moments, filters, NOW)
    return [None if code is None else _REASONS[code].value for code in codes.to_pylist()]


def test_each_filter_says_why_and_exclude_wins():
    filters = Filters(
        include=("**/*.csv",),
        exclude=("tmp/**",),
        smallest_bytes=2,
        largest_bytes=5,
        youngest_seconds=10,
        oldest_seconds=100,
    )
    rows = [
        ("a.csv", 2, 10),
        ("a.csv", 5, 100),
        ("a.csv", 1, 50),
        ("a.csv", 6, 50),
        ("a.csv", 3, 9),
        ("a.csv", 3, 101),
        ("a.txt", 1, 0),
        ("tmp/a.csv", 1, 0),
    ]
    assert reasons(filters, rows) == [
        None,
        None,
        "too-small",
        "too-large",
        "too-young",
        "too-old",
        "not-included",
        "excluded",
    ]
    assert reasons(Filters(), rows) == [None] * len(rows)


@settings(max_examples=100, deadline=None)
@given(
    paths=st.lists(PATH, min_size=1, max_size=8),
    rename=st.dictionaries(st.text(st.sampled_from("ab/é"), max_size=3), PATH, max_size=4),
)
def test_the_longest_prefix_renames(paths, rename):
    def model(path):
        found = max((old for old in rename if path.startswith(old)), key=len, default=None)
        return path if found is None else rename[found] + path[len(found) :]

    assert renamed(column(paths), rename).to_pylist() == [model(path) for path in paths]
