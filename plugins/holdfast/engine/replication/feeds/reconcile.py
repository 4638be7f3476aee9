"""When a full listing is due, and what it shows that the feed did not say."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

import pyarrow as pa

from holdfast.engine.config.sync import Sync
from holdfast.engine.replication.feeds.apply import changed_keys, different_keys
from holdfast.engine.replication.feeds.interface import Changes, Rejected

#: So many keys are named in a report.
SAMPLE = 20


@dataclass(frozen=True)
class FeedReport:
    """What a full listing shows beside what the feed said. ``missed`` is what only the listing told.

    Args:
        said: keys the feed named.
        changed: keys that did change since what was known.
        missed: keys that changed and the feed did not name.
        sample: some of the missed keys, sorted.
    """

    said: int
    changed: int
    missed: int
    sample: tuple[str, ...]


def due_for_reconcile(
    last_full_at: datetime | None, now: datetime, policy: Sync, *, rejected: Iterable[Rejected] = ()
) -> str | None:
    """Why a full listing is due now, ``None`` when it is not.

    Args:
        last_full_at: when the last full listing *began*; ``None``: there was none.
        now: timezone-aware.
        policy: ``reconcile_every_seconds`` bounds how long a lost event can hide.
        rejected: what the last poll could not understand. One that was sent before the last full listing is covered.
    """
    if last_full_at is None:
        return "no full listing yet"
    age = now - last_full_at
    if age < timedelta(0):
        return f"the last full listing is dated {last_full_at.isoformat()}, in the future"
    if age >= timedelta(seconds=policy.reconcile_every_seconds):
        return f"the last full listing is {age.total_seconds():.0f} s old"
    uncovered = sum(1 for one in rejected if one.at is None or one.at >= last_full_at)
    return f"{uncovered} messages of the feed could not be understood" if uncovered else None


def compare(known: pa.Table, changes: Changes, listing: pa.Table) -> FeedReport:
    """What the feed missed between ``known`` and ``listing``.

    A change that happened after the poll and before the listing counts as missed although its event may be on its
    way: one key in a busy folder is no sign of a broken feed, a number that grows is.

    Args:
        known: the listing before.
        changes: what the feed said, polled before the listing was made.
        listing: everything there is.
    """
    said = set(changed_keys(known, changes))
    changed = different_keys(known, listing)
    missed = [key for key in changed if key not in said]
    return FeedReport(said=len(said), changed=len(changed), missed=len(missed), sample=tuple(missed[:SAMPLE]))
