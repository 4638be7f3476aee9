"""How long ago entries of the log were written, by the clock of the store they lie in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from holdfast.engine.objectstore.interface import ObjectStore
from holdfast.engine.vault import layout
from holdfast.engine.vault.errors import HistoryDamaged
from holdfast.engine.vault.history import ANCHORS, History
from holdfast.engine.vault.log import read_entry


def arrivals(store: ObjectStore, history: History) -> dict[int, datetime]:
    """By entry from the oldest live backup on, when it was in the store at the latest, by the store's clock.

    An entry is at least as old as any that counts and came after it, also where it was put back since.
    """
    first = min(history.backups, default=history.tip.sequence + 1)
    wanted = {number for number in history.entries if number >= first}
    found: dict[int, datetime] = {}
    for prefix, key_of in ((layout.LOG, layout.entry_key), (layout.LOG_COPIES, layout.entry_copy_key)):
        if wanted <= found.keys():
            break
        for info in store.list(prefix, start_after=key_of(first - 1)):
            number = layout.sequence_of(info.key)
            if number in wanted:
                found.setdefault(number, _at_latest(info.modified_at))
    return _not_after_later(found)


def _at_latest(told: datetime) -> datetime:
    """Where a store tells whole seconds only, it may be the end of that second."""
    return told if told.microsecond else told + timedelta(seconds=1)


def _not_after_later(times: Mapping[int, datetime]) -> dict[int, datetime]:
    found: dict[int, datetime] = {}
    latest: datetime | None = None
    for number in sorted(times, reverse=True):
        latest = times[number] if latest is None else min(latest, times[number])
        found[number] = latest
    return found


@dataclass(frozen=True)
class LogAges:
    """By number of entry, when it was there at the latest.

    Args:
        written: of entries and copies that are there.
        now: what time the store says it is.
        keys: of entries and copies that are there.
    """

    written: Mapping[int, datetime]
    now: datetime
    keys: frozenset[str] = frozenset()

    @classmethod
    def read(cls, store: ObjectStore, now: datetime, history: History) -> LogAges:
        found: dict[int, datetime] = {}
        keys: set[str] = set()
        for prefix in (layout.LOG, layout.LOG_COPIES):
            for info in store.list(prefix):
                number = layout.sequence_of(info.key)
                if number is None:
                    continue
                keys.add(info.key)
                # What is no entry, or no copy of one, may have lain there before the entries it would be after.
                if number <= history.tip.sequence and number not in history.strays:
                    found.setdefault(number, info.modified_at)
        # An entry is at least as old as any after it, also where it was put back since, or is gone.
        return cls(_not_after_later(found), now, frozenset(keys))

    def is_over(self, number: int, grace: timedelta) -> bool:
        """Whether a time has passed since an entry was written."""
        at = self.written.get(number)
        if at is None:
            later = [number_ for number_ in self.written if number_ > number]
            at = self.written[min(later)] if later else None
        return at is not None and self.now - at >= grace


def removable_entries(store: ObjectStore, history: History, ages: LogAges, grace: timedelta) -> list[int]:
    """Entries that count no more, and did not when the oldest reader whose grace lasts began.

    That reader began at an anchor whose grace is over, or at a later entry: what came before the anchor and what it
    does not name, he never asks for.

    Args:
        history: loaded with ``hinted=False``.
    """
    if not history.stale:
        return []
    for number in (history.anchor_at, *sorted(history.stale, reverse=True)):
        if not ages.is_over(number, grace):
            continue
        try:
            entry = read_entry(store, number, history.repository)
        except HistoryDamaged:
            continue
        if entry.kind not in ANCHORS or not history.keys.entitle(entry):
            continue
        state = entry.public.get("state")
        named = {int(found[0]) for found in [*state["live"], *state["keys"]]} if state else {number}
        return [stale for stale in history.stale if stale < number and stale not in named]
    return []
