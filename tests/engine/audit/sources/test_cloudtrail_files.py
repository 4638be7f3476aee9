"""Cutting log files: the fast way is the exact way, and no byte is lost, whatever a file holds."""

from __future__ import annotations

import gzip
import json
import tracemalloc
import zlib
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.cloudtrail_events import events, files
from holdfast.engine.audit.sources.cloudtrail_files import (
    UnreadableFile,
    cut,
    cut_at_first_key,
    cut_by_scanning,
    inflate,
)

_HARD = st.sampled_from(
    ['},{"eventVersion":', "}", "{", "[{", "]}", '"', "\\", '\\"', "a\nb", "é\u2028", '{"Records":[', "\x00", " ", ","]
)
_TEXT = st.lists(_HARD | st.text(max_size=3), max_size=4).map("".join)
_KEYS = st.sampled_from(["eventVersion", "a", "b"]) | _TEXT
_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | _TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_KEYS, inner, max_size=3),
    max_leaves=8,
)
_NESTED = st.lists(st.fixed_dictionaries({"eventVersion": _VALUES}), min_size=2, max_size=3)
_RECORDS = st.lists(
    st.fixed_dictionaries({"eventVersion": _VALUES, "x": _VALUES | _NESTED})
    | st.dictionaries(_KEYS, _VALUES, max_size=3),
    max_size=5,
)
_FORMS: list[dict[str, Any]] = [
    {"separators": (",", ":")},
    {},
    {"indent": 2},
    {"indent": 0, "separators": (" ,", ":\t")},
]


def _check(records: list[Any], form: dict[str, Any], ascii_only: bool) -> None:
    content = json.dumps({"Records": records}, ensure_ascii=ascii_only, **form).encode()
    found = cut(content)
    assert found.prefix + found.separator.join(found.records) + found.suffix == content
    assert [json.loads(record) for record in found.records] == records
    fast = cut_at_first_key(content)
    assert fast is None or fast == cut_by_scanning(content)


_FILES = given(records=_RECORDS, form=st.sampled_from([*_FORMS, _FORMS[0]]), ascii_only=st.booleans())


@settings(max_examples=50, deadline=None)
@_FILES
def test_a_file_is_cut_into_its_records_the_fast_way_and_the_exact_one_alike(
    records: list[Any], form: dict[str, Any], ascii_only: bool
) -> None:
    _check(records, form, ascii_only)


@pytest.mark.slow
@settings(max_examples=3000, deadline=None)
@_FILES
def test_so_are_thousands_of_files(records: list[Any], form: dict[str, Any], ascii_only: bool) -> None:
    _check(records, form, ascii_only)


_PARTS = [b'{"Records":[', b'{"a":', b"},", b'{"a":1}', b"]}", b'"', b"\\", b"1", b"[", b"]", b"}"]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from(_PARTS)))
def test_no_byte_is_lost_of_what_is_no_log_file(parts: list[bytes]) -> None:
    content = b"".join(parts)
    found = cut(content)
    assert found.prefix + found.separator.join(found.records) + found.suffix == content
    assert found.records or content.startswith(b'{"Records":[]}')


def test_the_fast_way_is_taken_for_what_aws_writes() -> None:
    records = [
        {"eventVersion": "1.09", "p": '{"S":[{"a":"}"}]}', "r": [{"A": 1}, {"B": {}}], "n": n} for n in range(50)
    ]
    content = json.dumps({"Records": records}, separators=(",", ":")).encode()
    fast = cut_at_first_key(content)
    assert fast is not None
    assert len(fast.records) == 50


def test_objects_in_a_record_that_look_like_records_are_not_cut_off() -> None:
    inner = [{"eventVersion": "1", "x": "}]"}, {"eventVersion": "2"}, {"eventVersion": "3", "x": "[{"}]
    records = [{"eventVersion": "1.09", "requestParameters": inner}, {"eventVersion": "1.09"}]
    content = json.dumps({"Records": records}, separators=(",", ":")).encode()
    assert cut_at_first_key(content) is None
    assert [json.loads(record) for record in cut(content).records] == records


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{}",
        b"[1]",
        b'{"Records":[{"a":1}],"Records":[{"b":2}]}',
        b'{"Records":[{"a":1}],"x":1}',
        b'{"Records":[{"a":1}] }trailing',
        b'{"Records":[{"a":1},]}',
        b'{"Records":[\xff]}',
        b'{"Records":' + b"[" * 100_000,
    ],
)
def test_what_is_something_else_is_one_record_whole(content: bytes) -> None:
    found = cut(content)
    assert found.records == [content]
    assert found.prefix == found.suffix == b""


@pytest.mark.parametrize("content", [b'{"Records":[]}', b'{"Records": [ ]\n}\n'])
def test_an_empty_file_has_no_records(content: bytes) -> None:
    found = cut(content)
    assert found.records == []
    assert found.prefix + found.suffix == content


def test_a_file_inflates_from_chunks_of_any_size() -> None:
    content = b"x" * 3_000_000
    packed = gzip.compress(content)
    assert inflate([packed]) == content
    assert inflate(packed[start : start + 7] for start in range(0, len(packed), 7)) == content


@pytest.mark.parametrize(
    ("packed", "words"),
    [
        (b"", "cut off"),
        (b"plain text", "no"),
        (gzip.compress(b"x" * 1000)[:-1], "cut off"),
        (gzip.compress(b"x") + b"\0", "after the end"),
        (gzip.compress(b"x") + gzip.compress(b"y"), "after the end"),
        (gzip.compress(bytes(40_000_000)), "fold"),
    ],
    ids=["nothing", "plain", "cut", "zero-behind", "two-members", "bomb"],
)
def test_what_is_not_one_honest_gzip_stream_is_refused(packed: bytes, words: str) -> None:
    with pytest.raises(UnreadableFile, match=words):
        inflate([packed])


def test_a_bomb_is_stopped_long_before_its_end() -> None:
    """Of a file of 128 MiB of zeros hardly more is made than the limit."""
    packer = zlib.compressobj(1, zlib.DEFLATED, 31)
    bomb = b"".join([packer.compress(bytes(1 << 20)) for _ in range(128)] + [packer.flush()])
    tracemalloc.start()
    try:
        with pytest.raises(UnreadableFile, match="more than"):
            inflate([bomb], max_bytes=4 << 20, max_ratio=10**6)
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()


def test_the_benchmark_s_records_are_such_as_aws_writes() -> None:
    """No two alike, the same again with the same seed, and cut the fast way."""
    found = list(events(3000))
    assert found == list(events(3000))
    assert len({json.loads(record)["eventID"] for record in found}) == 3000
    assert len({json.loads(record)["eventName"] for record in found}) > 15
    assert 900 < sum(map(len, found)) / len(found) < 1500
    for content in files(3000, per_file=1000):
        fast = cut_at_first_key(content)
        assert fast is not None
        assert fast.records == found[:1000]
        del found[:1000]
