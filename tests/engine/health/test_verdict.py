"""The rules of a verdict, one by one."""

from __future__ import annotations

import pytest

from holdfast.clock import FakeClock
from holdfast.engine.config import Detection
from holdfast.engine.health import OUTSIDE, Detector, Observation, Signal, Verdict, as_rows

RULES = Detection(
    interval_seconds=5,
    timeout_seconds=2,
    consecutive_failures=3,
    vantage_points=2,
    minimum_seconds=15,
    recovery_successes=5,
    heartbeat_stale_seconds=15,
)
STORE, SERVICE, HEARTBEAT = Signal.OBJECT_STORE, Signal.SERVICE, Signal.HEARTBEAT
EVERYWHERE = (OUTSIDE, "b", "c")


class World:
    """Three sites; ``a`` is the one in question."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.detector = Detector(("a", "b", "c"), RULES, clock=self.clock)

    def tick(
        self,
        ticks: int = 1,
        *,
        failing: dict[Signal, tuple[str, ...]] | None = None,
        blind: tuple[str, ...] = (),
        nothing: tuple[str, ...] = (),
    ) -> Verdict:
        """So many intervals. ``failing``: per signal the vantage points that see ``a`` fail. ``blind``: those that
        could not look at ``a``. ``nothing``: sites the detector itself does not reach."""
        for _ in range(ticks):
            self.clock.advance(RULES.interval_seconds)
            now = self.clock.now()
            seen = [Observation(site, OUTSIDE, STORE, site not in nothing, now) for site in ("b", "c")]
            for vantage in EVERYWHERE:
                for signal in (STORE, SERVICE, HEARTBEAT):
                    ok = None if vantage in blind else vantage not in (failing or {}).get(signal, ())
                    seen.append(Observation("a", vantage, signal, ok, now))
            self.detector.record(seen)
            self.verdict = self.detector.verdicts()["a"]
        return self.verdict.verdict

    def down(self) -> None:
        assert self.tick(4, failing=dict.fromkeys((STORE, SERVICE, HEARTBEAT), EVERYWHERE)) is Verdict.DOWN


@pytest.fixture
def world() -> World:
    return World()


def test_nothing_seen_is_unknown(world: World) -> None:
    assert world.detector.verdicts()["a"].verdict is Verdict.UNKNOWN


def test_all_answering_is_healthy(world: World) -> None:
    assert world.tick(3) is Verdict.HEALTHY
    assert "9 signals answer from 3 vantage points" in world.verdict.reasons[0]


def test_service_and_heartbeat_gone_for_two_vantage_points_is_down_with_reasons(world: World) -> None:
    gone = {SERVICE: (OUTSIDE, "b"), HEARTBEAT: (OUTSIDE, "b")}
    assert world.tick(3, failing=gone) is Verdict.SUSPECT, "three failures, but only ten seconds"
    assert world.tick(1, failing=gone) is Verdict.DOWN
    assert "heartbeat: confirmed by 2 of 3 vantage points, 2 needed" in world.verdict.reasons
    assert world.verdict.reasons[-1] == "two independent kinds of signal agree"
    row = as_rows({"a": world.verdict})[0]
    assert (row["site"], row["verdict"]) == ("a", "down")
    assert "service from b: 4 failures in a row for 15.0 s" in row["why"]


@pytest.mark.parametrize(
    "gone",
    [
        {SERVICE: EVERYWHERE, STORE: EVERYWHERE},
        {HEARTBEAT: EVERYWHERE},
        {SERVICE: (OUTSIDE,), STORE: (OUTSIDE,), HEARTBEAT: (OUTSIDE,)},
        {SERVICE: ("b",), HEARTBEAT: EVERYWHERE},
        {SERVICE: ("b",), STORE: ("c",), HEARTBEAT: EVERYWHERE},
    ],
    ids=["one path", "heartbeat only", "one vantage point", "service seen gone by one", "each direct signal by one"],
)
def test_less_than_two_kinds_from_two_vantage_points_is_never_down(world: World, gone: dict) -> None:
    world.tick(2)
    for _ in range(40):
        assert world.tick(1, failing=gone) is not Verdict.DOWN
    assert world.verdict.verdict is Verdict.SUSPECT


def test_nobody_looked_is_no_failure(world: World) -> None:
    world.tick(2)
    for _ in range(40):
        assert world.tick(1, failing={SERVICE: EVERYWHERE, HEARTBEAT: (OUTSIDE,)}, blind=("b", "c")) is not Verdict.DOWN
    assert world.tick(40, blind=EVERYWHERE) is Verdict.UNKNOWN


def test_a_detector_without_a_majority_knows_nothing(world: World) -> None:
    gone = dict.fromkeys((STORE, SERVICE, HEARTBEAT), EVERYWHERE)
    assert world.tick(10, failing=gone, nothing=("b", "c")) is Verdict.UNKNOWN
    assert "sees 0 of 3 sites" in world.verdict.reasons[0]
    assert world.tick(1, failing=gone, nothing=("c",)) is Verdict.UNKNOWN, "one of three is no majority"


def test_a_failure_that_is_not_in_a_row_does_not_add_up(world: World) -> None:
    gone = dict.fromkeys((STORE, SERVICE, HEARTBEAT), EVERYWHERE)
    for _ in range(20):
        assert world.tick(2, failing=gone) is not Verdict.DOWN
        assert world.tick(1) is not Verdict.DOWN


def test_a_vantage_point_that_went_silent_has_no_voice(world: World) -> None:
    gone = {SERVICE: (OUTSIDE, "b"), HEARTBEAT: (OUTSIDE, "b")}
    world.tick(3, failing=gone)
    for _ in range(10):
        assert world.tick(1, failing=gone, blind=("b",)) is not Verdict.DOWN
    assert world.verdict.verdict is Verdict.SUSPECT


def test_failures_before_and_after_a_silence_are_not_in_a_row(world: World) -> None:
    gone = {SERVICE: (OUTSIDE, "b"), HEARTBEAT: (OUTSIDE, "b")}
    world.tick(2, failing=gone)
    world.tick(10, failing=gone, blind=EVERYWHERE)
    assert world.tick(2, failing=gone) is not Verdict.DOWN


def test_down_stays_until_it_recovered_everywhere(world: World) -> None:
    world.down()
    assert world.tick(RULES.recovery_successes - 1) is Verdict.DOWN
    assert world.tick(1) is Verdict.HEALTHY


def test_one_success_does_not_end_a_down_verdict(world: World) -> None:
    world.down()
    for _ in range(10):
        assert world.tick(1) is Verdict.DOWN
        assert world.tick(1, failing={SERVICE: (OUTSIDE,)}) is Verdict.DOWN


def test_reset_begins_anew(world: World) -> None:
    world.down()
    world.detector.reset()
    assert world.detector.verdicts()["a"].verdict is Verdict.UNKNOWN
    assert world.tick(3, failing=dict.fromkeys((SERVICE, HEARTBEAT), EVERYWHERE)) is Verdict.SUSPECT


def test_the_same_observation_counts_once(world: World) -> None:
    world.tick(1)
    old = Observation("a", "b", SERVICE, ok=False, observed_at=world.clock.now())
    for _ in range(10):
        world.clock.advance(1)
        world.detector.record([old])
    assert not any("service from b" in reason for reason in world.detector.verdicts()["a"].reasons)


def test_a_site_is_no_witness_in_its_own_cause(world: World) -> None:
    world.tick(2)
    for _ in range(10):
        world.clock.advance(5)
        now = world.clock.now()
        world.detector.record([Observation("a", "a", signal, ok=False, observed_at=now) for signal in Signal])
    assert not any("from a" in reason for reason in world.detector.verdicts()["a"].reasons)


def test_since_is_when_the_verdict_changed(world: World) -> None:
    world.tick(1)
    since = world.verdict.since
    world.tick(5)
    assert world.verdict.since == since
