"""Ten thousand disturbances that are no outage, and outages that are. Prints the false-failover rate."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from holdfast.clock import FakeClock
from holdfast.engine.config import Detection
from holdfast.engine.health import OUTSIDE, Detector, Observation, Signal, Verdict

RULES = Detection()
SITES = ("a", "b", "c")
VANTAGES = (OUTSIDE, "b", "c")
DIRECT = (Signal.OBJECT_STORE, Signal.SERVICE)
DISTURBANCES = 10_000
OUTAGES = 300

#: Whether a look at ``a`` fails: seconds into the disturbance, vantage point, signal → failed, or None for "no look".
Disturbance = Callable[[float, str, Signal], bool | None]


@dataclass(frozen=True)
class Event:
    name: str
    seconds: float
    fails: Disturbance
    detector_cut_off: bool = False


def blip(rng: random.Random) -> Event:
    """Everything is gone at once, for everybody, for less than the minimum time."""
    return Event("blip", rng.uniform(0.5, RULES.minimum_seconds * 0.99), lambda *_: True)


def one_vantage_point(rng: random.Random) -> Event:
    """One vantage point is cut off from the site, for long; the others have some slow answers meanwhile."""
    lost = rng.choice(VANTAGES)
    return Event(
        "one vantage point", rng.uniform(15, 60), lambda _t, v, s: v == lost or (s in DIRECT and rng.random() < 0.1)
    )


def one_path(rng: random.Random) -> Event:
    """The service, the store or both are gone for everybody; the site is alive and says so."""
    gone = rng.choice([DIRECT, DIRECT[:1], DIRECT[1:]])
    return Event("service or store only", rng.uniform(15, 60), lambda _t, _v, s: s in gone)


def heartbeat_only(rng: random.Random) -> Event:
    """The agent was restarted or hangs; the service answers."""
    return Event("heartbeat only", rng.uniform(15, 60), lambda _t, _v, s: s is Signal.HEARTBEAT)


def slow(rng: random.Random) -> Event:
    """Half of all direct looks time out, and one vantage point misses the heartbeat."""
    lost = rng.choice(VANTAGES)
    return Event("slow answers", rng.uniform(15, 60), lambda _t, v, s: rng.random() < 0.5 if s in DIRECT else v == lost)


def detector_cut_off(rng: random.Random) -> Event:
    """Whoever runs the detector lost its own network: it reaches no site, and no peer's heartbeat."""
    return Event(
        "detector cut off",
        rng.uniform(15, 60),
        lambda _t, v, s: (True if s in DIRECT else None) if v == OUTSIDE else None,
        detector_cut_off=True,
    )


def outage(rng: random.Random) -> Event:
    """The site is gone, for everybody, and stays so. Its heartbeat is missed once it is stale."""
    del rng
    return Event("outage", 600, lambda t, _v, s: s in DIRECT or t > RULES.heartbeat_stale_seconds)


class Simulation:
    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.clock = FakeClock()
        self.detector = Detector(SITES, RULES, clock=self.clock)

    def run(self, event: Event) -> Iterator[tuple[float, Verdict]]:
        """Seconds since the event began, and the verdict then."""
        # Looks come once per interval, at any phase of it.
        elapsed = self.rng.uniform(0, RULES.interval_seconds)
        self.clock.advance(elapsed)
        while elapsed < event.seconds:
            yield elapsed, self._look(event, elapsed)
            self.clock.advance(RULES.interval_seconds)
            elapsed += RULES.interval_seconds
        for _ in range(RULES.recovery_successes):
            yield elapsed, self._look(None, elapsed)
            self.clock.advance(RULES.interval_seconds)
            elapsed += RULES.interval_seconds

    def _look(self, event: Event | None, elapsed: float) -> Verdict:
        now = self.clock.now()
        reaches_peers = event is None or not event.detector_cut_off
        seen = [Observation(site, OUTSIDE, Signal.OBJECT_STORE, reaches_peers, now) for site in ("b", "c")]
        for vantage in VANTAGES:
            for signal in Signal:
                failed = event.fails(elapsed, vantage, signal) if event is not None else False
                seen.append(Observation("a", vantage, signal, None if failed is None else not failed, now))
        self.detector.record(seen)
        return self.detector.verdicts()["a"].verdict


def test_no_disturbance_in_ten_thousand_is_taken_for_an_outage(record_property, capsys) -> None:
    simulation = Simulation(seed=20_260_101)
    kinds = (blip, one_vantage_point, one_path, heartbeat_only, slow, detector_cut_off)
    false_verdicts: dict[str, int] = {}
    for _ in range(DISTURBANCES):
        event = simulation.rng.choice(kinds)(simulation.rng)
        if any(verdict is Verdict.DOWN for _, verdict in simulation.run(event)):
            false_verdicts[event.name] = false_verdicts.get(event.name, 0) + 1
    total = sum(false_verdicts.values())
    record_property("false_failovers", total)
    with capsys.disabled():
        bound = f"; 95 % upper bound {3 / DISTURBANCES:.2%}" if total == 0 else f": {false_verdicts}"
        print(f"\nfalse failovers: {total} of {DISTURBANCES} disturbances ({total / DISTURBANCES:.2%}{bound})")
    assert false_verdicts == {}


def test_every_true_outage_is_found_in_time(record_property, capsys) -> None:
    bound = (
        RULES.heartbeat_stale_seconds
        + 2 * RULES.interval_seconds
        + max(RULES.minimum_seconds, (RULES.consecutive_failures - 1) * RULES.interval_seconds)
    )
    slowest = 0.0
    for seed in range(OUTAGES):
        simulation = Simulation(seed)
        for _ in simulation.run(blip(simulation.rng)):
            pass
        found = next(seconds for seconds, verdict in simulation.run(outage(simulation.rng)) if verdict is Verdict.DOWN)
        slowest = max(slowest, found)
    record_property("slowest_detection_seconds", slowest)
    with capsys.disabled():
        print(f"\n{OUTAGES} outages found, the slowest after {slowest:.1f} s (bound {bound:g} s)")
    assert slowest <= bound
