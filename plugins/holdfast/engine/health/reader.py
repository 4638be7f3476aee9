"""Reads the heartbeats of all sites from the buckets of all sites, and tells who still changes."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass

from holdfast.clock import Clock
from holdfast.engine.health.heartbeat import Heartbeat, HeartbeatUnreadable, decode, key_of
from holdfast.engine.health.interface import Observation, Signal
from holdfast.engine.health.probes import OUTSIDE
from holdfast.engine.objectstore.errors import ObjectNotFound
from holdfast.engine.objectstore.interface import ObjectStore
from holdfast.errors import HoldfastError


@dataclass(frozen=True, slots=True)
class HeartbeatView:
    """The newest heartbeat of a site, and for how long it has not changed.

    ``changed``: seen to change at least once; before that nobody can tell a live heartbeat from an old one.
    """

    beat: Heartbeat
    unchanged_seconds: float
    changed: bool


class HeartbeatReader:
    """Remembers the newest heartbeat of each site and when it last changed.

    One turn reads one object per bucket: bucket ``i`` is asked for the heartbeat of site ``i + turn``, so every
    heartbeat is read once a turn, each turn in another bucket, and the read doubles as the probe of that bucket.
    What is due in a bucket that did not answer last time is read in one that did.
    """

    def __init__(self, sites: tuple[str, ...], stores: Mapping[str, ObjectStore], *, clock: Clock) -> None:
        self.sites = sites
        self._buckets = [site for site in sites if site in stores]
        self._stores = stores
        self._clock = clock
        self._lock = threading.Lock()
        self._turns = dict.fromkeys(self._buckets, 0)
        self._failing: set[str] = set()
        self._newest: dict[str, tuple[Heartbeat, float, bool]] = {}
        self._looked: dict[str, float] = {}

    def read(self, bucket: str) -> None:
        """Take this bucket's turn. Raises what its store raises, except for an object that is not there."""
        with self._lock:
            turn = self._turns[bucket]
            self._turns[bucket] = turn + 1
            due = [self._due(bucket, turn)]
            healthy = [b for b in self._buckets if b not in self._failing]
            if healthy and bucket == healthy[0]:
                due += [self._due(b, turn) for b in self._failing]
        try:
            for site in dict.fromkeys(due):
                self._read_one(bucket, site)
        except HoldfastError:
            with self._lock:
                self._failing.add(bucket)
            raise
        with self._lock:
            self._failing.discard(bucket)

    def _due(self, bucket: str, turn: int) -> str:
        return self.sites[(self._buckets.index(bucket) + turn) % len(self.sites)]

    def _read_one(self, bucket: str, site: str) -> None:
        beat: Heartbeat | None = None
        # Missing or broken is an answer of the store too; the beat's age tells the rest.
        with suppress(ObjectNotFound, HeartbeatUnreadable):
            beat = decode(self._stores[bucket].get(key_of(site)), where=f"{bucket}: {key_of(site)}")
        now = self._clock.monotonic()
        with self._lock:
            # A site's silence is read in its peers' buckets; that its own bucket answers proves nothing about them.
            if bucket != site:
                self._looked[site] = now
            if beat is not None and beat.site == site:
                self._remember(beat, now)

    def _remember(self, beat: Heartbeat, now: float) -> None:
        known = self._newest.get(beat.site)
        if known is None:
            self._newest[beat.site] = (beat, now, False)
            return
        same_agent = beat.agent == known[0].agent
        if (same_agent and beat.sequence > known[0].sequence) or (not same_agent and beat.sent_at > known[0].sent_at):
            self._newest[beat.site] = (beat, now, True)

    def view(self, site: str) -> HeartbeatView | None:
        """The newest heartbeat seen of a site, ``None`` when none was."""
        with self._lock:
            known = self._newest.get(site)
        if known is None:
            return None
        beat, since, changed = known
        return HeartbeatView(beat, self._clock.monotonic() - since, changed)

    def could_look(self, site: str, within_seconds: float) -> bool:
        """Whether a peer's bucket answered lately when asked for this site's heartbeat: a beat would have been seen."""
        with self._lock:
            looked = self._looked.get(site)
        return looked is not None and self._clock.monotonic() - looked <= within_seconds


class HeartbeatProbe:
    """Whether a site's heartbeat still changes. Asks nobody: it judges what its reader has read.

    ``ok`` is ``None`` while nobody can tell: no peer's bucket answers, or the one beat seen may be an old one.
    """

    signal = Signal.HEARTBEAT

    def __init__(
        self, site: str, reader: HeartbeatReader, *, vantage: str = OUTSIDE, clock: Clock, stale_seconds: float
    ) -> None:
        self.site, self.vantage = site, vantage
        self._reader, self._clock, self._stale_seconds = reader, clock, stale_seconds

    def observe(self) -> Observation:
        ok, detail = self._look()
        return Observation(self.site, self.vantage, self.signal, ok, self._clock.now(), None, detail)

    def _look(self) -> tuple[bool | None, str]:
        view = self._reader.view(self.site)
        if view is not None and view.unchanged_seconds <= self._stale_seconds:
            if view.changed:
                return True, f"beat {view.beat.sequence}"
            return None, "seen once, not yet seen to change"
        if not self._reader.could_look(self.site, self._stale_seconds):
            return None, "no peer's bucket answers"
        if view is None:
            return None, "no heartbeat was ever seen"
        return False, f"beat {view.beat.sequence} has not changed for {view.unchanged_seconds:.1f} s"
