"""Small objects of S3, whole, and ranges: one request each over the connections of the parts.

obstore answers the same requests; per object of 64 KiB a large part of its processor time goes to
hand the request to its own threads and back (docs/performance.md). It still lists, heads, deletes and copies.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

from holdfast.engine.objectstore._translate import Call, translate_answer
from holdfast.engine.objectstore.attributes import NO_ATTRIBUTES, Attributes
from holdfast.engine.objectstore.checksums import crc64nvme, from_s3_text, s3_text
from holdfast.engine.objectstore.errors import (
    NotSupported,
    ObjectExists,
    PreconditionFailed,
    StoreUnavailable,
)
from holdfast.engine.objectstore.interface import Create, IfMatch, ObjectInfo, ObjectVersion, PutMode
from holdfast.engine.objectstore.parts._base import corrupted
from holdfast.engine.objectstore.parts._connection import TooLong
from holdfast.engine.objectstore.parts._http import Answer, Exchange
from holdfast.engine.objectstore.parts.s3 import WRONG_BYTES, S3Parts, placed_headers

_META = "x-amz-meta-"
_FIELDS = {
    "content-type": "content_type",
    "cache-control": "cache_control",
    "content-disposition": "content_disposition",
    "content-encoding": "content_encoding",
    "content-language": "content_language",
}
_CHECKSUM = "x-amz-checksum-crc64nvme"
_ALGORITHM = "x-amz-sdk-checksum-algorithm"
_KEPT_TIMES = 1024
_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+)")


class S3Whole:
    """GET and PUT of whole objects. Safe to use from many threads.

    Args:
        parts: whose connections and login are used.
        site_headers: of every PUT.
        unsigned: bodies are vouched for by a CRC-64 instead of a SHA-256 in the signature.
        checked: a CRC-64 goes with bodies, whatever vouches for them.
    """

    def __init__(
        self, parts: S3Parts, site_headers: Mapping[str, str], *, unsigned: bool, checked: bool | None = None
    ) -> None:
        self._parts, self._site_headers, self._unsigned = parts, dict(site_headers), unsigned
        self._checked = unsigned if checked is None else checked
        self._times: dict[str, datetime] = {}
        self._attributes: dict[tuple[str | None, ...], Attributes] = {}
        self._lock = threading.Lock()

    def begin_get(self, call: Call, path: str, if_match: ObjectVersion | None, most_bytes: int) -> PendingGet:
        """Ask for an object. Raises StoreUnavailable: no connection could be made."""
        query, headers = _pinned(if_match)
        return PendingGet(self, self._parts.begin_get(call, path, query, headers, most_bytes), call, if_match)

    def begin_range(self, call: Call, path: str, if_match: ObjectVersion | None, start: int, end: int) -> PendingRange:
        """Ask for some bytes of an object. Raises StoreUnavailable: no connection could be made."""
        query, headers = _pinned(if_match)
        wanted = {**headers, "Range": f"bytes={start}-{end - 1}"}
        return PendingRange(self, self._parts.begin_get(call, path, query, wanted, end - start), call, if_match, start)

    def got(
        self, answer: Answer, call: Call, if_match: ObjectVersion | None, size_bytes: int | None = None
    ) -> tuple[ObjectInfo, bytes, Attributes]:
        """What an answer brought.

        Args:
            size_bytes: of the whole object, where the answer is of a range.

        Raises:
            ObjectNotFound, PreconditionFailed: as `ObjectStore.get`.
        """
        if answer.status != (200 if size_bytes is None else 206):
            raise self._refused(answer, call)
        said = answer.headers
        if "content-length" not in said and "transfer-encoding" not in said:  # whether it is whole nobody can know
            raise StoreUnavailable(
                "the answer is not one of an object store", where=call.where, expected="its length", found="none"
            )
        tag = said.get("etag")
        if tag is None:  # a login page of some proxy
            raise StoreUnavailable(
                "the answer is not one of an object store", where=call.where, expected="an ETag", found="none"
            )
        tag = _quoted(tag)
        if if_match is not None and if_match.e_tag is not None and if_match.e_tag != tag:
            raise PreconditionFailed(
                "the object is not in the version named", where=call.where, expected=if_match.e_tag, found=tag
            )
        version = ObjectVersion(tag, _version(said))
        size = len(answer.body) if size_bytes is None else size_bytes
        info = ObjectInfo(call.key or "", size, self._time(said.get("last-modified"), call), version)
        return info, answer.body, self._said(said, call)

    def begin_put(self, call: Call, path: str, data: bytes, mode: PutMode, said: Mapping[str, Any]) -> PendingPut:
        """Send an object. Raises StoreUnavailable: no connection could be made.

        Args:
            said: of `put_options`: ``attributes`` and ``tags``.
        """
        headers = dict(self._site_headers)
        if isinstance(mode, Create):
            headers["If-None-Match"] = "*"
        elif isinstance(mode, IfMatch):
            headers["If-Match"] = mode.version.e_tag or ""
        if said:
            headers.update(placed_headers(said.get("attributes", {}), said.get("tags", {})))
        checksum = None
        if self._checked:
            headers[_CHECKSUM] = checksum = s3_text(crc64nvme(data))
            headers[_ALGORITHM] = "CRC64NVME"
        exchange = self._parts.begin_put(call, path, headers, data, unsigned=self._unsigned)
        return PendingPut(self, exchange, call, mode, checksum)

    def has_put(self, answer: Answer, call: Call, mode: PutMode, checksum: str | None) -> ObjectVersion:
        """What an answer says was written.

        Raises:
            ObjectExists, PreconditionFailed: as `ObjectStore.put`.
            BytesCorrupted: the server received others.
        """
        if answer.status != 200:
            raise self._put_refused(answer, mode, call)
        tag = answer.headers.get("etag")
        if not tag:
            raise StoreUnavailable("the answer is not one of S3", where=call.where, outcome_unknown=True)
        stored = answer.headers.get(_CHECKSUM)
        if None not in (checksum, stored) and stored != checksum and from_s3_text(stored or "") is not None:
            raise corrupted(call, f"CRC-64/NVME {stored}, expected {checksum}")
        return ObjectVersion(_quoted(tag), _version(answer.headers))

    def _put_refused(self, answer: Answer, mode: PutMode, call: Call) -> Exception:
        if answer.status == 412 and isinstance(mode, Create):
            return ObjectExists("an object of this key is there already", where=call.where, found="HTTP 412")
        if isinstance(mode, IfMatch) and answer.status == 404 and self._parts.code_of(answer) == "NoSuchKey":
            return PreconditionFailed("the object is not in the version named", where=call.where, found="nothing")
        return self._refused(answer, call)

    def _refused(self, answer: Answer, call: Call) -> Exception:
        code = self._parts.code_of(answer)
        return (
            corrupted(call, code) if code in WRONG_BYTES else translate_answer(answer.status, code, call, answer.body)
        )

    def _time(self, text: str | None, call: Call) -> datetime:
        """Objects written in the same second say the same."""
        known = self._times.get(text or "")
        if known is not None:
            return known
        try:
            at = parsedate_to_datetime(text or "").astimezone(UTC)
        except ValueError:
            raise StoreUnavailable(
                "the answer is not one of S3", where=call.where, expected="Last-Modified", found=text
            ) from None
        with self._lock:
            if len(self._times) >= _KEPT_TIMES:
                self._times.clear()
            self._times[text or ""] = at
        return at

    def _said(self, headers: Mapping[str, str], call: Call) -> Attributes:
        fields, metadata = {}, {}
        for name, value in headers.items():
            if name in _FIELDS:
                fields[_FIELDS[name]] = value
            elif name.startswith(_META):
                if not value.isascii():
                    raise NotSupported(
                        "the object has metadata that is not ASCII, and cannot be read for it",
                        where=call.where,
                        fix="Rewrite that metadata in ASCII (RFC 2047)",
                    )
                metadata[name.removeprefix(_META)] = value
        if metadata:
            return Attributes(**fields, metadata=metadata)  # type: ignore[arg-type]
        if not fields:
            return NO_ATTRIBUTES
        shape = tuple(fields.get(name) for name in _FIELDS.values())
        known = self._attributes.get(shape)
        if known is None:
            known = Attributes(**fields)  # type: ignore[arg-type]
            with self._lock:
                if len(self._attributes) < _KEPT_TIMES:
                    self._attributes[shape] = known
        return known


class PendingGet:
    """A GET on its way; ``None``: the object is longer than was to be taken."""

    __slots__ = ("_call", "_exchange", "_if_match", "_whole")

    def __init__(self, whole: S3Whole, exchange: Exchange, call: Call, if_match: ObjectVersion | None) -> None:
        self._whole, self._exchange, self._call, self._if_match = whole, exchange, call, if_match

    def result(self) -> tuple[ObjectInfo, bytes, Attributes] | None:
        """As `S3Whole.got`."""
        try:
            answer = self._exchange.answer()
        except TooLong:
            return None
        return self._whole.got(answer, self._call, self._if_match)

    def abandon(self) -> None:
        """Nobody wants it any more."""
        self._exchange.abandon()


class PendingRange(PendingGet):
    """A GET of a range on its way."""

    __slots__ = ("_start",)

    def __init__(
        self, whole: S3Whole, exchange: Exchange, call: Call, if_match: ObjectVersion | None, start: int
    ) -> None:
        super().__init__(whole, exchange, call, if_match)
        self._start = start

    def result(self) -> tuple[ObjectInfo, bytes, Attributes] | None:
        """As `S3Whole.got`; ``None``: the server has no such range, does not know ranges, or says it in its own way."""
        try:
            answer = self._exchange.answer()
        except TooLong:
            return None
        if answer.status in (200, 416):
            return None
        said = _RANGE.fullmatch(answer.headers.get("content-range", "")) if answer.status == 206 else None
        if answer.status == 206 and (said is None or int(said[1]) != self._start):
            return None
        return self._whole.got(answer, self._call, self._if_match, None if said is None else int(said[2]))


class PendingPut:
    """A PUT on its way."""

    __slots__ = ("_call", "_checksum", "_exchange", "_mode", "_whole")

    def __init__(self, whole: S3Whole, exchange: Exchange, call: Call, mode: PutMode, checksum: str | None) -> None:
        self._whole, self._exchange, self._call, self._mode, self._checksum = whole, exchange, call, mode, checksum

    def result(self) -> ObjectVersion:
        """As `S3Whole.has_put`."""
        return self._whole.has_put(self._exchange.answer(), self._call, self._mode, self._checksum)

    def abandon(self) -> None:
        """Nobody waits for it any more; it may have happened."""
        self._exchange.abandon()


def _pinned(if_match: ObjectVersion | None) -> tuple[Mapping[str, str], Mapping[str, str]]:
    """Query and headers of a read of exactly this version, of any where none is named."""
    if if_match is None:
        return {}, {}
    if if_match.e_tag is not None:
        return {}, {"If-Match": if_match.e_tag}
    return ({} if if_match.version is None else {"versionId": if_match.version}), {}


def _quoted(tag: str) -> str:
    """As listings have it; some servers leave the quotes out."""
    return tag if tag.endswith('"') else f'"{tag}"'


def _version(headers: Mapping[str, str]) -> str | None:
    version = headers.get("x-amz-version-id")
    return None if version in (None, "", "null") else version
