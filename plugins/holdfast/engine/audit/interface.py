"""What a source of audit events is: intervals, what was received in them, and whether that is all there was."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Protocol, runtime_checkable

import pyarrow as pa

from holdfast.errors import HoldfastError


class SourceUnreadable(HoldfastError):
    """An interval, or a part of it, could not be read: what it held is unknown, which is not nothing.

    An expired token, a permission that was narrowed, a page that stayed throttled, an object that cannot be parsed.

    Args:
        code: as a `Finding` has it: ``permission-refused``, ``throttled``, ``bucket-missing``, ...
    """

    def __init__(
        self,
        what: str,
        *,
        code: str = "unreadable",
        where: str | None = None,
        expected: str | None = None,
        found: str | None = None,
        fix: str | None = None,
    ) -> None:
        super().__init__(what, where=where, expected=expected, found=found, fix=fix)
        self.code = code


class State(StrEnum):
    """Whether all events of an interval are there."""

    #: What the source offers as proof says so, and all of it was read.
    COMPLETE = "complete"
    #: It is shown that something is missing or was changed.
    GAP = "gap"
    #: More may still arrive: the interval is not final yet.
    LATE = "late"
    #: Nothing shows whether it is all: it could not be read, or the source offers no proof.
    UNKNOWN = "unknown"


#: Of several states of one whole, the one that counts is the first of these that occurs.
WORST_FIRST = (State.GAP, State.UNKNOWN, State.LATE, State.COMPLETE)


@dataclass(frozen=True, slots=True, order=True)
class Interval:
    """From ``start`` (inclusive) to ``end`` (exclusive), both aware and in UTC."""

    start: datetime
    end: datetime

    def __post_init__(self) -> None:
        if self.start.tzinfo is None or self.end.tzinfo is None or self.end <= self.start:
            raise ValueError(f"expected an aware start before an aware end; found {self.start} to {self.end}")

    def __contains__(self, moment: object) -> bool:
        return isinstance(moment, datetime) and self.start <= moment < self.end


@dataclass(frozen=True, slots=True)
class SourceObject:
    """One object of a source as it was received: a log file in a bucket, or one answer of an API.

    Its content is exactly ``prefix + separator.join(records) + suffix``, so that it can be made again from its records
    and compared with what its cloud signed.

    Args:
        object_id: unique in its source, e.g. the key in the bucket, or ``eventLogs/17``.
        size_bytes: as received.
        sha256: hex, of the bytes as received, e.g. of the gzip file.
        content_sha256: hex, of what they hold: the inflated bytes. The same where nothing is compressed.
        prefix: before the first record, e.g. ``{"Records":[``.
        separator: between two records.
        suffix: after the last record.
        metadata: user metadata of the store, where it means something (CloudTrail's signature lies there).
        version: the store's version, generation or ETag.
        modified_at: by the store's clock.
    """

    object_id: str
    size_bytes: int
    sha256: str
    content_sha256: str
    prefix: bytes = b""
    separator: bytes = b"\n"
    suffix: bytes = b""
    metadata: Mapping[str, str] = field(default_factory=dict)
    version: str | None = None
    modified_at: datetime | None = None

    def content(self, records: Sequence[bytes]) -> bytes:
        """The content, made again from its records."""
        return self.prefix + self.separator.join(records) + self.suffix


@dataclass(frozen=True)
class Batch:
    """A few objects whole, with their records.

    Args:
        objects: in the order of their records.
        counts: per object how many records it has.
        raw: the records' bytes as received, of all objects, ``sum(counts)`` long, type ``large_binary``. The bytes of a
            record are a slice of what came; they are never written anew.
    """

    objects: tuple[SourceObject, ...]
    counts: tuple[int, ...]
    raw: pa.LargeBinaryArray

    def __post_init__(self) -> None:
        if len(self.objects) != len(self.counts) or sum(self.counts) != len(self.raw):
            raise ValueError(
                f"expected {sum(self.counts)} records of {len(self.counts)} objects; found {len(self.raw)}"
            )


@dataclass(frozen=True, slots=True)
class Document:
    """A piece of evidence kept whole beside the events: a digest file, the public keys of its day, a sink's settings.

    Args:
        name: a relative path, unique in its source: ``[A-Za-z0-9._=-]`` and ``/``, without ``..`` (`document_name`).
        media_type: e.g. ``application/json``.
        data: its bytes as received.
        about: what else is known of it, e.g. an object's user metadata.
    """

    name: str
    media_type: str
    data: bytes = field(repr=False)
    about: Mapping[str, str] = field(default_factory=dict)

    @property
    def sha256(self) -> str:
        """Hex."""
        return hashlib.sha256(self.data).hexdigest()


@dataclass(frozen=True, slots=True)
class Finding:
    """One reason why an interval is not simply complete, or a thing to know of it.

    Args:
        code: short and stable, e.g. ``digest-missing``, ``permission-refused``, ``ids-missing``.
        detail: one sentence for people: what is missing, expected, found.
        where: the object, id or moment it is about.
        state: what it makes of the interval; ``COMPLETE`` for what is only worth knowing, such as duplicates.
    """

    code: str
    detail: str
    where: str = ""
    state: State = State.GAP


@dataclass(frozen=True, slots=True)
class Coverage:
    """Whether all events of an interval are there, why, and by what proof.

    Args:
        interval: which one.
        proof: by what the source shows it, e.g. ``digest-chain``, ``ids``, ``hour-closed``; ``none`` has no proof and
            is never complete.
        expected: how many of the proof's parts there should be (digests, hours, ids), where that is known.
        observed: how many of them are there.
        objects: objects read.
        records: records read.
        findings: everything that makes it less than complete, and what else is worth knowing.
    """

    interval: Interval
    proof: str
    expected: int | None
    observed: int
    objects: int
    records: int
    findings: tuple[Finding, ...] = ()

    @property
    def state(self) -> State:
        """The worst its findings say; without a proof, or without knowing what to expect, never complete."""
        states = {finding.state for finding in self.findings}
        if self.proof == "none" or self.expected is None:
            states.add(State.UNKNOWN)
        elif self.observed < self.expected and not states - {State.COMPLETE}:
            states.add(State.GAP)
        return next((state for state in WORST_FIRST if state in states), State.COMPLETE)


@runtime_checkable
class AuditSource(Protocol):
    """One source. A call may raise `SourceUnreadable`; whoever seals then counts the interval as unknown, and goes on.

    For each interval, in order: `read` to its end, then `completeness`, `documents`. Reading the same interval again,
    also by a new object after a crash, gives the same records again (and what arrived since).
    """

    @property
    def name(self) -> str:
        """Of the topology, e.g. ``aws-trail``."""

    @property
    def kind(self) -> str:
        """E.g. ``cloudtrail``."""

    def intervals(self, window: Interval) -> Sequence[Interval]:
        """The parts of the window that are proven one by one, in order, without holes; e.g. hours."""

    def read(self, interval: Interval) -> Iterator[Batch]:
        """What was received in it, in a stable order, at most about 64 MiB of records in each batch."""

    def completeness(self, interval: Interval) -> Coverage:
        """Whether what `read` gave is all."""

    def documents(self, interval: Interval) -> Iterator[Document]:
        """The evidence that belongs to it."""

    def normalise(self, raw: pa.LargeBinaryArray) -> pa.Table:
        """The records as OCSF: a table of `holdfast.engine.audit.ocsf.schema.SCHEMA`, one row per record, in order.

        A record that cannot be understood becomes a row of Base Event (class 0) with what is known; none is dropped.
        """


@runtime_checkable
class Lists(Protocol):
    """A source that can say what lies in an interval without opening it: what came late is found by that."""

    def listed(self, interval: Interval) -> Iterator[tuple[str, int]]:
        """The ids of the interval's objects as they are now, each with its size in bytes. Raises HoldfastError."""
