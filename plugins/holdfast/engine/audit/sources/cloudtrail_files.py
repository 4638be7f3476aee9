"""A CloudTrail log file: inflated within bounds, and cut into the bytes of its records.

A file is ``{"Records":[{…},{…}]}`` in gzip. The records are slices of its content, never written anew, so that
``prefix + separator.join(records) + suffix`` is the content, whose hash CloudTrail signed.
"""

from __future__ import annotations

import itertools
import json
import re
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

#: More than this is not read: the largest files seen are tens of MiB.
MAX_CONTENT_BYTES = 256 * 1024 * 1024
#: The same of the file as it lies in the bucket.
MAX_FILE_BYTES = 64 * 1024 * 1024
#: Real logs inflate about ten- to fortyfold; gzip can go to about a thousand.
MAX_RATIO = 400
_RATIO_COUNTS_FROM_BYTES = 16 * 1024 * 1024
_STEP_BYTES = 1024 * 1024


class UnreadableFile(ValueError):
    """The bytes are not one gzip stream, or hold more than is read."""


def inflate(chunks: Iterable[bytes], *, max_bytes: int = MAX_CONTENT_BYTES, max_ratio: int = MAX_RATIO) -> bytes:
    """The content of one gzip stream, made piece by piece so that a bomb is noticed before it has gone off.

    Raises:
        UnreadableFile: no gzip, cut off, followed by more bytes, or larger than allowed.
    """
    inflater = zlib.decompressobj(zlib.MAX_WBITS | 16)
    pieces: list[bytes] = []
    received = size = 0
    try:
        for chunk in chunks:
            received += len(chunk)
            while chunk:
                if inflater.eof:
                    raise UnreadableFile("there are bytes after the end of the gzip stream")
                piece = inflater.decompress(chunk, _STEP_BYTES)
                pieces.append(piece)
                size += len(piece)
                if size > max_bytes:
                    raise UnreadableFile(f"it inflates to more than {max_bytes} bytes")
                if size > _RATIO_COUNTS_FROM_BYTES and size > max_ratio * received:
                    raise UnreadableFile(f"it inflates more than {max_ratio}-fold: {size} bytes of {received}")
                chunk = inflater.unused_data or inflater.unconsumed_tail
    except zlib.error as error:
        raise UnreadableFile(f"it is not gzip: {error}") from None
    if not inflater.eof:
        raise UnreadableFile("the gzip stream is cut off")
    return b"".join(pieces)


@dataclass(frozen=True, slots=True)
class Cut:
    """The content is exactly ``prefix + separator.join(records) + suffix``."""

    prefix: bytes
    separator: bytes
    suffix: bytes
    records: list[bytes]


_HEAD = re.compile(rb'\{"Records":\[(?=\{("[A-Za-z0-9_]+":))')
_TAIL = b"]}"
_ALL_BUT_BRACKETS = bytes(byte for byte in range(256) if byte not in b'{}[]"\0')

_OPENER = {ord("}"): ord("{"), ord("]"): ord("[")}


def cut(content: bytes) -> Cut:
    """Cuts a log file into its records. What is not such a file becomes one record whole."""
    return cut_at_first_key(content) or cut_by_scanning(content) or Cut(b"", b"", b"", [content])


def cut_at_first_key(content: bytes) -> Cut | None:
    """Cuts compact JSON where ``},{"<first key>":`` stands; ``None`` where that is not shown to be right.

    That sequence is never part of a JSON string, whose quotes are escaped. It may stand between objects deeper in a
    record, or not between two records that begin with different keys: so each piece is shown to be one object by its
    brackets, all pieces at once.
    """
    head = _HEAD.match(content)
    if head is None or not content.endswith(b"}" + _TAIL):
        return None
    # As blanks they are between values, for which the scanner is; inside a string they are not allowed.
    if b"\n" in content or b"\r" in content or b"\t" in content or b"\0" in content:
        return None
    opened = b"{" + head[1]
    first, *others = content.split(b"}," + opened)
    records = [first[head.end() :] + b"}", *[opened + piece + b"}" for piece in others]]
    records[-1] = records[-1].removesuffix(_TAIL + b"}")
    return Cut(head[0], b",", _TAIL, records) if _are_objects(records) else None


def _are_objects(records: list[bytes]) -> bool:
    """Whether each of them, beginning with ``{`` and ending with ``}``, is one object by its brackets."""
    unescaped = [record.replace(rb"\\", b"").replace(rb"\"", b"") if b"\\" in record else record for record in records]
    brackets = b"\0".join(unescaped).translate(None, _ALL_BUT_BRACKETS)
    # Two quotes side by side end a string and begin the next, or are an empty one: without them nothing moves in or
    # out of a string. What is left are the strings with brackets in them.
    while b'""' in brackets:
        brackets = brackets.replace(b'""', b"")
    if b'"' in brackets:
        brackets = re.sub(rb'"[^"\0]*"', b"", brackets)
    return all(_is_object(shape) for shape in set(brackets.split(b"\0")))


@lru_cache(maxsize=65536)
def _is_object(shape: bytes) -> bool:
    opened: list[int] = []
    for index, byte in enumerate(shape):
        if index and not opened:
            return False
        if byte in b"{[":
            opened.append(byte)
        elif not opened or opened.pop() != _OPENER.get(byte):
            return False
    return bool(shape) and not opened


_SPACED_HEAD = re.compile(r'[ \t\r\n]*\{[ \t\r\n]*"Records"[ \t\r\n]*:[ \t\r\n]*\[[ \t\r\n]*')
_SPACED_TAIL = re.compile(r"[ \t\r\n]*\][ \t\r\n]*\}[ \t\r\n]*")
_COMMA = re.compile(r"[ \t\r\n]*,[ \t\r\n]*")
_JSON = json.JSONDecoder()


def cut_by_scanning(content: bytes) -> Cut | None:
    """Cuts any ``{"Records": […]}``, value by value; ``None`` where it is something else, e.g. has other keys.

    Other keys are not passed over: a second ``Records`` could hide there.
    """
    try:
        text = content.decode()
        head = _SPACED_HEAD.match(text)
        if head is None:
            return None
        if tail := _SPACED_TAIL.fullmatch(text, head.end()):
            return Cut(head[0].encode(), b",", tail[0].encode(), [])
        values, seams = _values(text, head.end())
    except (ValueError, RecursionError):
        return None
    tail = _SPACED_TAIL.fullmatch(text, values[-1][1])
    if tail is None:
        return None
    if len(set(seams)) > 1:
        # One separator for all: the blanks, which differ, go to the records.
        seams, values = [","] * len(seams), _with_blanks(text, values)
    return Cut(
        head[0].encode(),
        seams[0].encode() if seams else b",",
        tail[0].encode(),
        [text[start:end].encode() for start, end in values],
    )


def _values(text: str, start: int) -> tuple[list[tuple[int, int]], list[str]]:
    """Where each value of an array begins and ends, and what stands between them. Raises ValueError."""
    values: list[tuple[int, int]] = []
    seams: list[str] = []
    while True:
        _, end = _JSON.raw_decode(text, start)
        values.append((start, end))
        seam = _COMMA.match(text, end)
        if seam is None:
            return values, seams
        seams.append(seam[0])
        start = seam.end()


def _with_blanks(text: str, values: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """The same values, each with the blanks around it up to the commas."""
    found, start = [], values[0][0]
    for (_, end), (following, _) in itertools.pairwise(values):
        comma = text.index(",", end, following)
        found.append((start, comma))
        start = comma + 1
    return [*found, (start, values[-1][1])]
