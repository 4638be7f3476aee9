"""Objects of JSON lines, read once from first byte to last: split into records, and nothing of them lost or made anew.

A small object is one `SourceObject`. A large one becomes several, each a range of it that ends with a line: nothing is
held whole in memory. What an object inflates to is bounded before a byte of it is taken.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import chain

from holdfast.engine.audit.interface import Finding, SourceObject, State
from holdfast.engine.objectstore.interface import ObjectInfo, ObjectReader, ObjectStore

BOM = b"\xef\xbb\xbf"
_GZIP_MAGIC = b"\x1f\x8b"
_TAKEN_BYTES, _PIECE_BYTES = 64 * 1024, 1024 * 1024


@dataclass(frozen=True, slots=True)
class Limits:
    """What one object may be.

    Args:
        part_bytes: an object larger than this is read in parts of about this; also the longest line.
        part_lines: the most lines of one; an event takes hundreds of bytes.
        gzip_bytes: the largest compressed object; it is held in memory.
        inflated_bytes: the most a compressed object may inflate to,
        ratio: and how many times its own size (one MiB is always allowed).
        objects: the most objects of one listing; more is taken for one that never ends.
    """

    part_bytes: int = 16 * 1024 * 1024
    part_lines: int = 256 * 1024
    gzip_bytes: int = 128 * 1024 * 1024
    inflated_bytes: int = 4 * 1024 * 1024 * 1024
    ratio: int = 200
    objects: int = 100_000


DEFAULT_LIMITS = Limits()


@dataclass(frozen=True, slots=True)
class Part:
    """An object, or a range of a large one, with its records."""

    source: SourceObject
    records: list[bytes]
    findings: tuple[Finding, ...] = ()


class Broken(Exception):
    """The rest of the object cannot be taken; what came before stands."""

    def __init__(self, finding: Finding) -> None:
        super().__init__(finding.detail)
        self.finding = finding


def read_object(
    store: ObjectStore, info: ObjectInfo, object_id: str, limits: Limits = DEFAULT_LIMITS, *, may_grow: bool = False
) -> Iterator[Part]:
    """The object's parts, in order.

    Args:
        store: where it lies.
        info: as listed; if it was written since, the newer version is read, from its first byte to its last.
        object_id: what it is called; a range of it has ``#bytes=…`` or ``#inflated=…`` after that.
        limits: what it may be.
        may_grow: it is appended to, so that a last line that is cut short is left for later.

    Raises:
        Broken: it, or the rest of it, cannot be taken.
        ObjectStoreError: as the store does.
    """
    found = store.open(info.key, size_bytes=info.size_bytes)
    reader = replace(found, info=replace(found.info, key=object_id))  # from here on it is called by its id
    for part in _parts(reader, limits, may_grow):
        if len(part.records) > limits.part_lines:
            what = f"expected at most {limits.part_lines} lines in {limits.part_bytes} bytes, found {len(part.records)}"
            detail = f"{what}; the rest of the object is not taken"
            raise Broken(Finding("too-many-lines", detail, object_id, State.UNKNOWN))
        yield part


def _parts(reader: ObjectReader, limits: Limits, may_grow: bool) -> Iterator[Part]:
    chunks = iter(reader)
    first = b""
    while len(first) < len(_GZIP_MAGIC) and (chunk := next(chunks, b"")):
        first += chunk
    if first.startswith(_GZIP_MAGIC):
        yield from _inflated(reader, first, chunks, limits)
    elif reader.info.size_bytes <= limits.part_bytes:
        yield _whole(reader, b"".join((first, *chunks)), may_grow)
    else:
        yield from _ranges(reader, first, chunks, limits, may_grow)


def _whole(reader: ObjectReader, data: bytes, may_grow: bool) -> Part:
    info = reader.info
    kept, findings = _without_cut_line(data, info.key, may_grow)
    metadata = {} if len(kept) == len(data) else {"object_bytes": str(len(data)), "taken_bytes": str(len(kept))}
    return _part(info, info.key, kept, metadata, findings=findings)


def _ranges(
    reader: ObjectReader, first: bytes, chunks: Iterator[bytes], limits: Limits, may_grow: bool
) -> Iterator[Part]:
    info = reader.info
    about = {"object_bytes": str(info.size_bytes)}
    start = 0
    for data, is_last in _cut(first, chunks, limits, info.key):
        kept, findings = _without_cut_line(data, info.key, may_grow and is_last)
        if not kept:
            continue
        name = f"{info.key}#bytes={start}-{start + len(kept) - 1}"
        yield _part(info, name, kept, about, findings=findings)
        start += len(kept)


def _inflated(reader: ObjectReader, first: bytes, chunks: Iterator[bytes], limits: Limits) -> Iterator[Part]:
    info = reader.info
    if info.size_bytes > limits.gzip_bytes:
        raise _too_large(info, f"at most {limits.gzip_bytes} compressed bytes", str(info.size_bytes))
    packed = b"".join((first, *chunks))
    total = _inflated_bytes(packed, info, limits)
    received = (len(packed), hashlib.sha256(packed).hexdigest())
    if total <= limits.part_bytes:
        yield _part(info, info.key, b"".join(_inflate(packed, info.key)), {}, received)
        return
    start = 0
    for data, _ in _cut(b"", _inflate(packed, info.key), limits, info.key):
        name = f"{info.key}#inflated={start}-{start + len(data) - 1}"
        yield _part(info, name, data, {"inflated_bytes": str(total)}, received)
        start += len(data)


def _inflated_bytes(packed: bytes, info: ObjectInfo, limits: Limits) -> int:
    """How much it holds: counted, not held. Raises Broken when that is too much."""
    most = min(limits.inflated_bytes, max(len(packed) * limits.ratio, 1024 * 1024))
    total = 0
    for piece in _inflate(packed, info.key):
        total += len(piece)
        if total > most:
            raise _too_large(info, f"at most {most} inflated bytes of {len(packed)}", "more")
    return total


def _inflate(packed: bytes, key: str) -> Iterator[bytes]:
    """The inflated bytes of all members, at most a MiB at a time. Raises Broken when they do not end well."""
    view, position = memoryview(packed), 0
    while position < len(packed):
        member = zlib.decompressobj(wbits=31)
        try:
            while not member.eof:
                taken: bytes | memoryview = view[position : position + _TAKEN_BYTES]
                position += len(taken)
                piece = member.decompress(taken, _PIECE_BYTES)
                if not piece and not taken:
                    raise zlib.error("they end in the middle")
                while piece:
                    yield piece
                    piece = b"" if member.eof else member.decompress(member.unconsumed_tail, _PIECE_BYTES)
        except zlib.error as error:
            raise Broken(Finding("not-gzip", f"its compressed bytes cannot be read: {error}", key, State.GAP)) from None
        position -= len(member.unused_data)


def _cut(first: bytes, chunks: Iterator[bytes], limits: Limits, key: str) -> Iterator[tuple[bytes, bool]]:
    """Pieces of at most ``part_bytes`` that end with a line; True with the last one, which ends as it ends."""
    held: list[bytes] = []
    size = 0
    for chunk in chain((first,), chunks):
        rest = chunk
        while size + len(rest) > limits.part_bytes:
            end = rest.rfind(b"\n", 0, max(limits.part_bytes - size, 0)) + 1
            if not end:  # the last line that fits ends before this chunk
                rest = b"".join((*held, rest))
                held, size = [], 0
                end = rest.rfind(b"\n", 0, limits.part_bytes) + 1
            if not end:
                raise _line_too_long(limits, key)
            yield b"".join((*held, rest[:end])), False
            held, size, rest = [], 0, rest[end:]
        held.append(rest)
        size += len(rest)
    if size:
        yield b"".join(held), True


def _line_too_long(limits: Limits, key: str) -> Broken:
    detail = f"expected lines of at most {limits.part_bytes} bytes; the rest of the object is not taken"
    return Broken(Finding("line-too-long", detail, key, State.UNKNOWN))


def _without_cut_line(data: bytes, key: str, may_grow: bool) -> tuple[bytes, tuple[Finding, ...]]:
    """The data up to its last whole line, where it may be in the middle of being written."""
    if not may_grow or not data or data.endswith(b"\n"):
        return data, ()
    end = data.rfind(b"\n") + 1
    if _is_object(data[end:]):
        return data, ()
    what = f"its last line, of {len(data) - end} bytes, is still being written; it is left for later"
    return data[:end], (Finding("line-in-flight", what, key, State.LATE),)


def _is_object(line: bytes) -> bool:
    """Whether it is a whole JSON object; of a number or a word, more might come."""
    import json

    try:
        return isinstance(json.loads(line.decode("utf-8-sig")), dict)
    except (ValueError, RecursionError):
        return False


def _part(
    info: ObjectInfo,
    name: str,
    data: bytes,
    metadata: Mapping[str, str],
    received: tuple[int, str] | None = None,
    findings: tuple[Finding, ...] = (),
) -> Part:
    """Its records; what was received, by size and SHA-256, is the data itself unless it was compressed."""
    prefix = BOM if data.startswith(BOM) else b""
    body = data[len(prefix) :]
    is_crlf = b"\r" in body and body.count(b"\r\n") == body.count(b"\n") > 0
    separator = b"\r\n" if is_crlf else b"\n"
    records = body.split(separator)
    ends = len(records)
    while records and not records[-1]:
        records.pop()
    suffix = separator * (ends - max(len(records), 1))
    digest = hashlib.sha256(data).hexdigest()
    size_bytes, sha256 = received or (len(data), digest)
    source = SourceObject(
        object_id=name,
        size_bytes=size_bytes,
        sha256=sha256,
        content_sha256=digest,
        prefix=prefix,
        separator=separator,
        suffix=suffix,
        metadata=dict(metadata),
        version=_version(info),
        modified_at=info.modified_at,
    )
    return Part(source, records, findings)


def _version(info: ObjectInfo) -> str | None:
    found = info.version.e_tag or info.version.version
    return found and found.strip('"')


def _too_large(info: ObjectInfo, expected: str, found: str) -> Broken:
    detail = f"expected {expected}, found {found}; nothing of it is taken"
    return Broken(Finding("object-too-large", detail, info.key, State.UNKNOWN))
