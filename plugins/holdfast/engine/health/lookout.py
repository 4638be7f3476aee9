"""A vantage point: all probes of one place, run in parallel, none of which can hold up the others."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterable, Mapping, Sequence
from functools import partial

from holdfast.clock import Clock
from holdfast.engine.config import Detection, Topology
from holdfast.engine.health.interface import Observation, Probe
from holdfast.engine.health.probes import OUTSIDE, ObjectStoreProbe, ServiceProbe
from holdfast.engine.health.reader import HeartbeatProbe, HeartbeatReader
from holdfast.engine.objectstore.interface import ObjectStore

#: Looks of one probe that may hang at once, each until its own timeout; beyond that none is started.
_MOST_HANGING = 32


class _Slot:
    """One probe and how many of its looks are under way."""

    def __init__(self, probe: ObjectStoreProbe | ServiceProbe) -> None:
        self.probe = probe
        self.under_way = 0


class Lookout:
    """One vantage point's eyes.

    Args:
        direct: probes that ask a site; each look runs in a thread of its own.
        heartbeats: probes that judge what the reader has read, after the direct ones.
        reader: where peers' observations come from.
        timeout_seconds: a direct probe that has not answered by then has failed, whatever its own timeout is.
    """

    def __init__(
        self,
        direct: Sequence[ObjectStoreProbe | ServiceProbe],
        heartbeats: Sequence[Probe],
        reader: HeartbeatReader,
        *,
        vantage: str,
        timeout_seconds: float,
        clock: Clock,
    ) -> None:
        self.vantage = vantage
        self._slots = [_Slot(probe) for probe in direct]
        self._heartbeats = heartbeats
        self._reader = reader
        self._timeout_seconds = timeout_seconds
        self._clock = clock
        self._lock = threading.Lock()

    def look(self) -> list[Observation]:
        """Look once at everything; takes at most ``timeout_seconds``."""
        results: queue.SimpleQueue[tuple[_Slot, Observation]] = queue.SimpleQueue()
        waiting = set()
        for slot in self._slots:
            with self._lock:
                if slot.under_way >= _MOST_HANGING:
                    continue
                slot.under_way += 1
            waiting.add(slot)
            threading.Thread(
                target=self._run, args=(slot, results), daemon=True, name=f"probe-{slot.probe.site}-{slot.probe.signal}"
            ).start()
        deadline = self._clock.monotonic() + self._timeout_seconds
        seen = []
        while waiting:
            try:
                slot, observation = results.get(timeout=max(0.001, deadline - self._clock.monotonic()))
            except queue.Empty:
                break
            waiting.discard(slot)
            seen.append(observation)
        answered = {(o.site, o.signal) for o in seen}
        late = [slot.probe for slot in self._slots if slot in waiting or slot.under_way >= _MOST_HANGING]
        seen += [
            Observation(
                probe.site,
                probe.vantage,
                probe.signal,
                ok=False,
                observed_at=self._clock.now(),
                latency_seconds=self._timeout_seconds,
                detail=f"no answer within {self._timeout_seconds:g} s",
            )
            for probe in late
            if (probe.site, probe.signal) not in answered
        ]
        return [*seen, *(probe.observe() for probe in self._heartbeats)]

    def _run(self, slot: _Slot, results: queue.SimpleQueue[tuple[_Slot, Observation]]) -> None:
        try:
            results.put((slot, slot.probe.observe()))
        finally:
            with self._lock:
                slot.under_way -= 1

    def peers(self) -> list[Observation]:
        """What the other sites' agents saw last, as their heartbeats tell."""
        views = (self._reader.view(site) for site in self._reader.sites if site != self.vantage)
        return [seen for view in views if view is not None for seen in view.beat.observations]


def open_lookout(
    topology: Topology,
    sites: Iterable[str],
    stores: Mapping[str, ObjectStore],
    *,
    detection: Detection,
    services: Iterable[str] = (),
    vantage: str = OUTSIDE,
    clock: Clock,
) -> Lookout:
    """The vantage point of whoever runs this.

    Args:
        sites: the sites to look at; a vantage point that is one of them does not look at itself.
        stores: the buckets to read heartbeats in.
        services: the services whose endpoints are asked.
        vantage: the site this runs at, or ``outside``.
    """
    names = tuple(sites)
    reader = HeartbeatReader(names, stores, clock=clock)
    direct: list[ObjectStoreProbe | ServiceProbe] = [
        ObjectStoreProbe(site, partial(reader.read, site), vantage=vantage, clock=clock)
        for site in names
        if site in stores
    ]
    direct += [
        ServiceProbe(site, url, vantage=vantage, clock=clock, timeout_seconds=detection.timeout_seconds)
        for service in services
        for site, url in topology.service(service).endpoints.items()
        if site in names and site != vantage
    ]
    heartbeats = [
        HeartbeatProbe(site, reader, vantage=vantage, clock=clock, stale_seconds=detection.heartbeat_stale_seconds)
        for site in names
        if site != vantage
    ]
    return Lookout(direct, heartbeats, reader, vantage=vantage, timeout_seconds=detection.timeout_seconds, clock=clock)
