"""From observations to a verdict: auditable rules, because "cannot reach" is not "dead".

A site is down when, for at least two independent kinds of evidence (its heartbeat is missing; and its service or its
store does not answer), at least N vantage points each saw K failures in a row for the minimum time, while the detector
itself sees a majority of the sites.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime

from holdfast.clock import Clock
from holdfast.engine.config import Detection
from holdfast.engine.health.interface import Observation, Signal, SiteVerdict, Verdict
from holdfast.engine.health.probes import OUTSIDE

#: Signals that share a path fail together: a cut network takes service and store at once. They count as one kind.
DIRECT = (Signal.SERVICE, Signal.OBJECT_STORE)


@dataclass(slots=True)
class _Track:
    """What one vantage point saw of one signal of one site."""

    last: Observation | None = None
    heard_at: float = 0.0
    failures: int = 0
    failing_since: float = 0.0
    successes: int = 0
    #: K failures were reached; stays until enough successes in a row.
    failed: bool = False


@dataclass(slots=True)
class _Site:
    tracks: dict[tuple[str, Signal], _Track] = field(default_factory=dict)
    verdict: Verdict = Verdict.UNKNOWN
    since: datetime | None = None


class Detector:
    """Counts observations and judges sites. It has no thread and no I/O: `record` what was seen, ask `verdicts`.

    Args:
        sites: every site of the group; the detector must see a majority of them.
        detection: the thresholds.
        clock: monotonic time for durations, wall time for records.
        own_vantage: whose view of the sites must be a majority.
    """

    def __init__(self, sites: Iterable[str], detection: Detection, *, clock: Clock, own_vantage: str = OUTSIDE) -> None:
        self.detection = detection
        self._clock = clock
        self._own_vantage = own_vantage
        self._sites = {site: _Site() for site in sites}
        #: A vantage point that has not spoken for this long has no voice.
        self._silence_seconds = max(
            detection.heartbeat_stale_seconds, 3 * (detection.interval_seconds + detection.timeout_seconds)
        )

    def reset(self) -> None:
        """Forget everything: after every action all clocks and counts begin anew."""
        self._sites = {site: _Site() for site in self._sites}

    def record(self, observations: Iterable[Observation]) -> None:
        """Take in what was seen. An observation seen before, or of an unknown site, counts for nothing."""
        now = self._clock.monotonic()
        for seen in observations:
            site = self._sites.get(seen.site)
            if site is None or seen.vantage == seen.site:
                continue
            track = site.tracks.setdefault((seen.vantage, seen.signal), _Track())
            if track.last is not None and seen.observed_at == track.last.observed_at:
                continue  # a peer's heartbeat was read twice; never compare with <, clocks are set back at times
            track.last = seen
            self._count(track, seen, now)

    def _count(self, track: _Track, seen: Observation, now: float) -> None:
        if seen.ok is None:
            return  # nobody looked: neither a failure nor a success
        if now - track.heard_at > self._silence_seconds:
            track.failures = track.successes = 0  # a gap: what came before it no longer is "in a row"
        track.heard_at = now
        if seen.ok:
            track.failures = 0
            track.successes += 1
            if track.successes >= self.detection.recovery_successes:
                track.failed = False
            return
        if track.failures == 0:
            track.failing_since = now
        track.failures += 1
        track.successes = 0
        if track.failures >= self.detection.consecutive_failures:
            track.failed = True

    def verdicts(self) -> dict[str, SiteVerdict]:
        """The verdict on every site, as of now."""
        now = self._clock.monotonic()
        visible = [site for site, tracked in self._sites.items() if self._sees(tracked, now)]
        majority = len(self._sites) // 2 + 1
        blind = None
        if len(visible) < majority:
            blind = (
                f"the detector sees {len(visible)} of {len(self._sites)} sites; a verdict needs {majority} "
                f"({', '.join(visible) or 'none'})"
            )
        return {name: self._judge(name, site, now, blind) for name, site in self._sites.items()}

    def _sees(self, site: _Site, now: float) -> bool:
        """Whether the detector itself reaches this site directly."""
        tracks = [
            t
            for (vantage, signal), t in site.tracks.items()
            if vantage == self._own_vantage and signal in DIRECT and self._heard(t, now)
        ]
        return any(track.failures == 0 for track in tracks)

    def _heard(self, track: _Track, now: float) -> bool:
        return (
            track.last is not None
            and track.failures + track.successes > 0
            and (now - track.heard_at <= self._silence_seconds)
        )

    def _judge(self, name: str, site: _Site, now: float, blind: str | None) -> SiteVerdict:
        heard = {key: track for key, track in site.tracks.items() if self._heard(track, now)}
        if blind is not None:
            verdict, reasons = Verdict.UNKNOWN, [blind]
        elif not heard:
            verdict, reasons = Verdict.UNKNOWN, ["no vantage point has looked lately"]
        else:
            verdict, reasons = self._weigh(site, heard)
        if verdict != site.verdict or site.since is None:
            site.verdict, site.since = verdict, self._clock.now()
        observations = tuple(track.last for track in site.tracks.values() if track.last is not None)
        return SiteVerdict(name, verdict, site.since, tuple(reasons), observations)

    def _weigh(self, site: _Site, heard: dict[tuple[str, Signal], _Track]) -> tuple[Verdict, list[str]]:
        rules = self.detection
        confirmed: dict[Signal, list[str]] = {}
        reasons = []
        for (vantage, signal), track in sorted(heard.items()):
            if track.failures >= rules.consecutive_failures:
                lasted = track.heard_at - track.failing_since  # as far as it was seen, not as far as now
                reasons.append(
                    f"{signal} from {vantage}: {track.failures} failures in a row for {lasted:.1f} s"
                    f" ({track.last.detail if track.last else ''})"
                )
                if lasted >= rules.minimum_seconds:
                    confirmed.setdefault(signal, []).append(vantage)
            elif track.failed:
                reasons.append(
                    f"{signal} from {vantage}: {track.successes} of {rules.recovery_successes} successes "
                    "since it failed"
                )
        agreed = {signal for signal, vantages in confirmed.items() if len(vantages) >= rules.vantage_points}
        reasons += [
            f"{signal}: confirmed by {len(confirmed[signal])} of {sum(s is signal for _, s in heard)} "
            f"vantage points, {rules.vantage_points} needed"
            for signal in sorted(agreed)
        ]
        if Signal.HEARTBEAT in agreed and agreed & set(DIRECT):
            return Verdict.DOWN, [*reasons, "two independent kinds of signal agree"]
        if site.verdict is Verdict.DOWN and any(track.failed for track in heard.values()):
            return Verdict.DOWN, [*reasons, "was down and has not recovered everywhere"]
        if reasons:
            return Verdict.SUSPECT, reasons
        return Verdict.HEALTHY, [f"{len(heard)} signals answer from {len({v for v, _ in heard})} vantage points"]
