"""Which objects of a folder belong to the dataset, and under which path: globs, sizes, ages and renames, on columns.

A glob matches the whole relative path. ``*`` and ``?`` stay within a folder, ``**`` crosses folders, ``**/`` also
matches none at all, ``[abc]``, ``[a-z]`` and ``[!a]`` are one character other than ``/``. Nothing else is special.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta

import pyarrow as pa
import pyarrow.compute as pc

from holdfast.engine.config.sync import Filters
from holdfast.engine.replication.plan.schema import Reason, reason_code

_TOKEN = re.compile(
    r"(?P<folders>(?<![^/])\*\*/)|(?P<any>\*\*)|(?P<some>\*)|(?P<one>\?)|\[(?P<no>!?)(?P<of>\]?[^\]]*)\]"
)
_NOTHING = r"[^\x{0}-\x{10FFFF}]"


def glob_regex(globs: Sequence[str]) -> str:
    """A regular expression (RE2, as Arrow's functions take) for paths that one of the globs matches whole."""
    return rf"\A(?s:{'|'.join(_translated(glob) for glob in globs)})\z"


def _translated(glob: str) -> str:
    parts, at = [], 0
    for token in _TOKEN.finditer(glob):
        parts += [re.escape(glob[at : token.start()]), _meaning(token)]
        at = token.end()
    return "".join([*parts, re.escape(glob[at:])])


def _meaning(token: re.Match[str]) -> str:
    if token["folders"]:
        return "(?:.*/)?"
    if token["any"]:
        return ".*"
    if token["some"] or token["one"]:
        return "[^/]*" if token["some"] else "[^/]"
    if not token["of"]:
        return re.escape(token.group())
    members = "".join(rf"\x{{{first:X}}}-\x{{{last:X}}}" for first, last in _ranges(token["of"]))
    if token["no"]:
        return f"[^/{members}]"
    return f"[{members}]" if members else _NOTHING


def _ranges(members: str) -> Iterator[tuple[int, int]]:
    """The code points of a class as ranges, without ``/``."""
    at = 0
    while at < len(members):
        is_range = members[at + 1 : at + 2] == "-" and at + 2 < len(members)
        first, last = ord(members[at]), ord(members[at + 2] if is_range else members[at])
        at += 3 if is_range else 1
        for low, high in ((first, min(last, ord("/") - 1)), (max(first, ord("/") + 1), last)):
            if low <= high:
                yield low, high


def matching(paths: pa.ChunkedArray, globs: Sequence[str]) -> pa.ChunkedArray:
    """Which of the paths at least one of the globs matches."""
    return pc.match_substring_regex(paths, glob_regex(globs))


def wave_of(paths: pa.ChunkedArray, last: Sequence[str]) -> pa.ChunkedArray:
    """When an object is copied: 0 with the data, n after it with the n-th glob of ``last`` (the first that matches).

    More than 126 globs share the last wave.
    """
    wave = _zeros(paths)
    for number, glob in reversed(list(enumerate(last, start=1))):
        found = matching(paths, [glob])
        wave = pc.if_else(found, pa.scalar(min(number, 127), pa.int8()), wave)
    return wave


def _zeros(paths: pa.ChunkedArray) -> pa.ChunkedArray:
    return pa.chunked_array([pa.repeat(pa.scalar(0, pa.int8()), len(paths))], pa.int8())


def left_out(
    paths: pa.ChunkedArray, size_bytes: pa.ChunkedArray, modified_at: pa.ChunkedArray, filters: Filters, now: datetime
) -> pa.ChunkedArray:
    """Why each object is left out, as the code of a `Reason`; null: it belongs to the dataset."""
    why = pa.chunked_array([pa.nulls(len(paths), pa.int8())])
    for reason, mask in _conditions(paths, size_bytes, modified_at, filters, now):
        why = pc.if_else(mask, reason_code(reason), why)
    return why


def _conditions(
    paths: pa.ChunkedArray, size_bytes: pa.ChunkedArray, modified_at: pa.ChunkedArray, filters: Filters, now: datetime
) -> Iterator[tuple[Reason, pa.ChunkedArray]]:
    """What leaves an object out; of several the last one is told."""
    moment = pa.timestamp("us", tz="UTC")
    if filters.youngest_seconds is not None:
        since = pa.scalar(now - timedelta(seconds=filters.youngest_seconds), moment)
        yield Reason.TOO_YOUNG, pc.greater(modified_at, since)
    if filters.oldest_seconds is not None:
        until = pa.scalar(now - timedelta(seconds=filters.oldest_seconds), moment)
        yield Reason.TOO_OLD, pc.less(modified_at, until)
    if filters.smallest_bytes is not None:
        yield Reason.TOO_SMALL, pc.less(size_bytes, filters.smallest_bytes)
    if filters.largest_bytes is not None:
        yield Reason.TOO_LARGE, pc.greater(size_bytes, filters.largest_bytes)
    if filters.include:
        yield Reason.NOT_INCLUDED, pc.invert(matching(paths, filters.include))
    if filters.exclude:
        yield Reason.EXCLUDED, matching(paths, filters.exclude)


def renamed(paths: pa.ChunkedArray, rename: Mapping[str, str]) -> pa.ChunkedArray:
    """Each path with the longest prefix of it that ``rename`` names replaced; others as they are."""
    found = paths
    for old in sorted(rename, key=len):
        new, nothing = pa.scalar(rename[old], pa.large_string()), pa.scalar("", pa.large_string())
        moved = pc.binary_join_element_wise(new, pc.utf8_slice_codeunits(paths, len(old)), nothing)
        found = pc.if_else(pc.starts_with(paths, old), moved, found)
    return found
