"""Change feeds: what a cloud says has changed, so that an incremental sync costs O(changes).

A feed is only a hint. Events come late, twice, out of order, or never; the truth about a key is a HEAD or a pinned
read (`apply_changes`), and a periodic full listing bounds what a lost event can hide (`due_for_reconcile`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal, Protocol

import pyarrow as pa

Kind = Literal["put", "delete"]


@dataclass(frozen=True, slots=True)
class Change:
    """One thing a feed said about a key.

    Args:
        key: relative to the site's prefix, as listings show it.
        version: version id or generation the event names.
        e_tag: as the event spells it.
        size_bytes: of the object, where the event says it.
        at: when it happened, by the service's clock.
        sequence: orders the events of *one* key: plain string comparison, greater is later.
    """

    key: str
    kind: Kind
    version: str | None
    e_tag: str | None
    size_bytes: int | None
    at: datetime
    sequence: str


@dataclass(frozen=True, slots=True)
class Rejected:
    """A message or record that cannot be understood, so that its change may be lost until the next full listing.

    Args:
        id: the service's id of the message, or file and record number.
        reason: what is wrong with it.
        at: when it was sent, where the service says so.
        deliveries: how often it came so far.
        excerpt: the beginning of its body.
    """

    id: str
    reason: str
    at: datetime | None = None
    deliveries: int = 1
    excerpt: str = ""


@dataclass(frozen=True)
class Changes:
    """What one poll found.

    Args:
        changes: in the order they came, duplicates and all; `collapse` leaves one per key.
        cursor: where the next poll goes on, once these are acknowledged.
        complete: nothing more was waiting.
        listing: a whole inventory (schema `objectstore.listing.LISTING`) instead of changes.
        as_of: of which time the inventory is; of a log: up to when it is complete. ``None``: not known.
        rejected: what could not be understood. It is not acknowledged.
        ignored: events that were understood and change no object's bytes, or are of another bucket or prefix.
        receipts: what `acknowledge` hands back to the service. They are of no use to anybody else.
    """

    changes: tuple[Change, ...]
    cursor: str
    complete: bool
    listing: pa.Table | None = None
    as_of: datetime | None = None
    rejected: tuple[Rejected, ...] = ()
    ignored: int = 0
    receipts: tuple[str, ...] = field(default=(), repr=False)

    @property
    def full(self) -> bool:
        """Whether this is an inventory of everything, not a list of changes."""
        return self.listing is not None


class ChangeFeed(Protocol):
    """One source of hints. Not for two threads at once."""

    @property
    def name(self) -> str:
        """Its URI, for messages."""

    @property
    def identity(self) -> str:
        """Its URI and what it is asked about: a cursor is of use to the same feed of the same objects alone."""

    def poll(self, cursor: str | None, limit: int) -> Changes:
        """What happened after ``cursor``, about ``limit`` events at most.

        Without a cursor a full listing follows: a log then answers with its present end and no changes.

        Raises:
            FeedUnavailable: no answer, try later.
            FeedDamaged: a log or report cannot be trusted.
            FeedRewound: the feed no longer holds what comes after the cursor.
            ConfigError: there is no such feed, or no right to read it.
        """

    def renew(self, changes: Changes) -> None:
        """Ask the service to hold these back a little longer. Call it every few minutes during a long sync."""

    def acknowledge(self, changes: Changes) -> None:
        """Never send these again. Only after the snapshot they led to is committed and the cursor is written."""


@dataclass(frozen=True, slots=True)
class Scope:
    """Which objects a feed is asked about.

    Args:
        bucket: bucket or container of the source.
        prefix: the site's prefix in it, without slashes at the ends; keys are relative to it.
        folder: only keys that begin with this (relative to the prefix), e.g. ``data/prices/``.
    """

    bucket: str
    prefix: str = ""
    folder: str = ""

    def key(self, bucket: str, bucket_key: str) -> str | None:
        """A key in a bucket as the site's store names it; ``None`` when it is outside."""
        if bucket != self.bucket:
            return None
        lead = f"{self.prefix}/" if self.prefix else ""
        if not bucket_key.startswith(lead + self.folder):
            return None
        return bucket_key[len(lead) :] or None


def collapse(changes: Iterable[Change]) -> tuple[Change, ...]:
    """The newest change of each key, by its sequence, sorted by key."""
    newest: dict[str, Change] = {}
    for change in changes:
        held = newest.get(change.key)
        if held is None or change.sequence >= held.sequence:
            newest[change.key] = change
    return tuple(newest[key] for key in sorted(newest))
