"""Watching: look, count, judge, again, until somebody says stop."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping

from holdfast.clock import Clock
from holdfast.engine.config import Topology
from holdfast.engine.health.interface import SiteVerdict, Verdict
from holdfast.engine.health.lookout import Lookout, open_lookout
from holdfast.engine.health.probes import OUTSIDE
from holdfast.engine.health.verdict import Detector
from holdfast.engine.objectstore.interface import ObjectStore
from holdfast.errors import HoldfastError


class NotDown(HoldfastError):
    """The time was over and the site was not found to be down. Nothing may be promoted on a guess."""

    def __init__(self, what: str, *, verdict: SiteVerdict, **facts: str | None) -> None:
        super().__init__(what, **facts)
        self.verdict = verdict


class Watch:
    """A vantage point and a detector, one step per interval."""

    def __init__(self, lookout: Lookout, detector: Detector, *, clock: Clock) -> None:
        self._lookout = lookout
        self._detector = detector
        self._clock = clock

    @property
    def detector(self) -> Detector:
        return self._detector

    def step(self) -> dict[str, SiteVerdict]:
        """Look once and judge. Takes at most the detection's timeout."""
        self._detector.record(self._lookout.look())
        self._detector.record(self._lookout.peers())
        return self._detector.verdicts()

    def verdicts(self, stop: threading.Event | None = None) -> Iterator[dict[str, SiteVerdict]]:
        """The verdicts of every interval, until ``stop`` is set (or the caller stops asking)."""
        interval = self._detector.detection.interval_seconds
        while stop is None or not stop.is_set():
            began = self._clock.monotonic()
            yield self.step()
            self._clock.sleep(max(0.0, interval - (self._clock.monotonic() - began)))

    def detect_down(self, site: str, *, deadline_seconds: float, stop: threading.Event | None = None) -> SiteVerdict:
        """Watch until a site is down.

        Raises:
            NotDown: it was not, after ``deadline_seconds``; carries the last verdict with its reasons.
        """
        deadline = self._clock.monotonic() + deadline_seconds
        verdict = None
        for verdicts in self.verdicts(stop):
            verdict = verdicts[site]
            if verdict.verdict is Verdict.DOWN:
                return verdict
            if self._clock.monotonic() >= deadline:
                break
        if verdict is None:
            verdict = self.step()[site]
        raise NotDown(
            "the site was not found to be down",
            verdict=verdict,
            where=f"site {site}",
            expected=f"verdict `down` within {deadline_seconds:g} s",
            found=f"`{verdict.verdict}`: {'; '.join(verdict.reasons)}",
        )

    def reset(self) -> None:
        """Forget everything seen; call it after every action (a fault, a promotion, a switch)."""
        self._detector.reset()


def open_watch(
    topology: Topology, group: str, stores: Mapping[str, ObjectStore], *, clock: Clock, vantage: str = OUTSIDE
) -> Watch:
    """A watch over the sites of a group, seen from ``vantage`` and from every site whose agent sends heartbeats.

    Args:
        stores: the store of each site of the group.
    """
    settings = topology.group(group)
    sites = settings.sites.all()
    lookout = open_lookout(
        topology, sites, stores, detection=settings.detection, services=settings.services, vantage=vantage, clock=clock
    )
    return Watch(lookout, Detector(sites, settings.detection, clock=clock, own_vantage=vantage), clock=clock)


def as_rows(verdicts: Mapping[str, SiteVerdict]) -> list[dict[str, str]]:
    """Verdicts as the rows of a table: site, verdict, since, why."""
    return [
        {
            "site": v.site,
            "verdict": v.verdict.value,
            "since": v.since.isoformat(timespec="seconds"),
            "why": "; ".join(v.reasons),
        }
        for v in verdicts.values()
    ]
