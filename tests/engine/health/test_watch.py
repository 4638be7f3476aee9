"""Probes, the heartbeat reader, a vantage point and the watch, on stores in memory that can be down or hang."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import pytest

from holdfast.clock import FakeClock, SystemClock
from holdfast.engine.config import Detection
from holdfast.engine.health import (
    Detector,
    GroupBeat,
    Heartbeat,
    HeartbeatProbe,
    HeartbeatReader,
    Lookout,
    NotDown,
    ObjectStoreProbe,
    Observation,
    ServiceProbe,
    Signal,
    Verdict,
    Watch,
)
from holdfast.engine.health.heartbeat import HeartbeatUnreadable, decode, encode, key_of
from holdfast.engine.objectstore.errors import BucketNotFound, ObjectNotFound, PermissionRefused, StoreUnavailable
from holdfast.errors import HoldfastError

SITES = ("a", "b", "c")


class Bucket:
    """A store that can be down or hang."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.error: HoldfastError | None = None
        self.hang: threading.Event | None = None
        self.gets = 0

    def get(self, key: str) -> bytes:
        self.gets += 1
        if self.hang is not None:
            self.hang.wait(20)
        if self.error is not None:
            raise self.error
        if key not in self.objects:
            raise ObjectNotFound("nothing here", where=key)
        return self.objects[key]


class World:
    def __init__(self) -> None:
        self.clock = FakeClock()
        self.buckets = {site: Bucket() for site in SITES}
        self.reader = HeartbeatReader(SITES, self.buckets, clock=self.clock)
        self.sequence = 0

    def beat(
        self,
        site: str,
        *,
        only: tuple[str, ...] = SITES,
        observations: tuple[Observation, ...] = (),
        agent: str = "x",
        sequence: int | None = None,
    ) -> None:
        self.sequence += 1
        beat = Heartbeat(
            site,
            agent,
            sequence or self.sequence,
            self.clock.now(),
            {"risk": GroupBeat("active", 1, True, False)},
            observations,
        )
        for bucket in only:
            self.buckets[bucket].objects[key_of(site)] = encode(beat)

    def read(self) -> None:
        for bucket in SITES:
            with suppress(HoldfastError):
                self.reader.read(bucket)

    def heartbeat_of(self, site: str) -> Observation:
        return HeartbeatProbe(site, self.reader, clock=self.clock, stale_seconds=3).observe()


@pytest.fixture
def world() -> World:
    return World()


def test_a_heartbeat_survives_its_bytes() -> None:
    now = datetime(2026, 1, 1, 12, tzinfo=UTC)
    seen = Observation("b", "a", Signal.SERVICE, None, now, 0.25, "ünklar")
    beat = Heartbeat("a", "agent", 7, now, {"risk": GroupBeat("active", None, False, True)}, (seen,))
    assert decode(encode(beat), where="here") == beat


def test_the_bytes_of_a_heartbeat_are_those_of_the_golden_file() -> None:
    now = datetime(2026, 1, 1, 12, tzinfo=UTC)
    seen = Observation("b", "a", Signal.SERVICE, None, now, 0.25, "ünklar")
    beat = Heartbeat("a", f"{1:032x}", 7, now, {"risk": GroupBeat("active", 3, True, False)}, (seen,))
    golden = (Path(__file__).resolve().parents[2] / "golden" / "health" / "heartbeat.json").read_bytes()
    assert encode(beat) == golden
    assert decode(golden, where="golden") == beat


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"format":"holdfast.heartbeat/2"}', b"\xff"])
def test_what_is_no_heartbeat_is_said_to_be_none(body: bytes) -> None:
    with pytest.raises(HeartbeatUnreadable, match="here"):
        decode(body, where="here")


def test_a_heartbeat_that_changes_is_alive_and_one_that_stops_is_not(world: World) -> None:
    world.beat("a")
    world.read()
    assert world.heartbeat_of("a").ok is None, "seen once: it may be years old"
    world.beat("a")
    world.clock.advance(1)
    world.read()
    assert world.heartbeat_of("a").ok is True
    for _ in range(4):
        world.clock.advance(1)
        world.read()
    gone = world.heartbeat_of("a")
    assert gone.ok is False
    assert "has not changed for 4.0 s" in gone.detail


def test_an_older_beat_that_lands_late_is_no_sign_of_life(world: World) -> None:
    for sequence in (5, 6):
        world.beat("a", sequence=sequence)
        world.read()
    for late in (4, 3, 2, 1):
        world.clock.advance(1)
        world.beat("a", sequence=late)
        world.read()
    assert world.heartbeat_of("a").ok is False


def test_a_restarted_agent_begins_counting_anew(world: World) -> None:
    for sequence in (50, 51):
        world.beat("a", sequence=sequence)
        world.read()
        world.clock.advance(2)
    world.beat("a", agent="y", sequence=1)
    world.read()
    assert world.heartbeat_of("a").ok is True


def test_without_a_peers_bucket_nobody_can_miss_a_heartbeat(world: World) -> None:
    for _ in range(2):
        world.beat("a")
        world.read()
    world.buckets["b"].error = world.buckets["c"].error = StoreUnavailable("refused")
    for _ in range(6):
        world.clock.advance(1)
        world.read()
    assert world.heartbeat_of("a").ok is None


def test_every_heartbeat_is_read_in_every_turn_though_a_bucket_is_gone(world: World) -> None:
    world.buckets["a"].error = StoreUnavailable("refused")
    for _ in range(8):
        for site in ("b", "c"):
            world.beat(site)
        world.read()
        world.clock.advance(1)
    assert all(world.reader.view(site).unchanged_seconds <= 1 for site in ("b", "c"))


def test_one_turn_is_one_read_per_bucket(world: World) -> None:
    world.read()
    assert [bucket.gets for bucket in world.buckets.values()] == [1, 1, 1]


@pytest.mark.parametrize(
    ("error", "ok"),
    [
        (None, True),
        (StoreUnavailable("refused"), False),
        (BucketNotFound("gone"), False),
        (PermissionRefused("no"), None),
    ],
    ids=["answers", "unavailable", "no bucket", "refused"],
)
def test_what_a_store_answers_is_told_apart(world: World, error: HoldfastError | None, ok: bool | None) -> None:
    world.buckets["a"].error = error
    probe = ObjectStoreProbe("a", lambda: world.reader.read("a"), clock=world.clock)
    assert probe.observe().ok is ok


def test_a_service_that_nobody_listens_for_is_a_failure(free_port: Callable[[], int]) -> None:
    probe = ServiceProbe("a", f"http://127.0.0.1:{free_port()}", clock=SystemClock(), timeout_seconds=1)
    seen = probe.observe()
    assert seen.ok is False
    assert "ConnectError" in seen.detail


def test_a_hanging_probe_delays_no_other(world: World) -> None:
    release = threading.Event()
    clock = SystemClock()
    reader = HeartbeatReader(SITES, world.buckets, clock=clock)
    world.buckets["a"].hang = release
    probes = [ObjectStoreProbe(site, lambda site=site: reader.read(site), clock=clock) for site in SITES]
    lookout = Lookout(probes, [], reader, vantage="outside", timeout_seconds=0.3, clock=clock)
    for _ in range(3):
        began = time.monotonic()
        seen = {o.site: o for o in lookout.look()}
        assert time.monotonic() - began < 5
        assert seen["b"].ok is seen["c"].ok is True
        assert seen["a"].ok is False
        assert seen["a"].detail == "no answer within 0.3 s"
    release.set()
    world.buckets["a"].hang = None
    assert all(o.ok for o in lookout.look())


class Scripted:
    """A vantage point that sees what the test says."""

    def __init__(self, clock: FakeClock) -> None:
        self.clock = clock
        self.dead: set[str] = set()

    def look(self) -> list[Observation]:
        return list(self._see("outside"))

    def peers(self) -> list[Observation]:
        return [o for vantage in ("b", "c") if vantage not in self.dead for o in self._see(vantage)]

    def _see(self, vantage: str) -> Iterator[Observation]:
        for site in SITES:
            for signal in Signal:
                yield Observation(site, vantage, signal, site not in self.dead, self.clock.now())


@pytest.fixture
def scripted() -> tuple[Watch, Scripted, FakeClock]:
    clock = FakeClock()
    eyes = Scripted(clock)
    return Watch(eyes, Detector(SITES, Detection(), clock=clock), clock=clock), eyes, clock


def test_a_watch_finds_the_dead_site_and_only_that(scripted) -> None:
    watch, eyes, clock = scripted
    eyes.dead = {"a"}
    verdict = watch.detect_down("a", deadline_seconds=60)
    assert verdict.verdict is Verdict.DOWN
    assert clock.monotonic() <= 20
    assert {site: v.verdict for site, v in watch.step().items()}["b"] is Verdict.HEALTHY


def test_a_watch_gives_up_at_its_deadline_and_says_why(scripted) -> None:
    watch, _, clock = scripted
    with pytest.raises(NotDown, match="expected verdict `down` within 30 s; found `healthy`") as caught:
        watch.detect_down("a", deadline_seconds=30)
    assert caught.value.verdict.verdict is Verdict.HEALTHY
    assert clock.monotonic() <= 35


def test_a_watch_ends_when_told(scripted) -> None:
    watch, _, _ = scripted
    stop = threading.Event()
    turns = 0
    for _ in watch.verdicts(stop):
        turns += 1
        if turns == 3:
            stop.set()
    assert turns == 3


def test_a_reset_watch_needs_its_full_time_again(scripted) -> None:
    watch, eyes, clock = scripted
    eyes.dead = {"a"}
    watch.detect_down("a", deadline_seconds=60)
    watch.reset()
    began = clock.monotonic()
    watch.detect_down("a", deadline_seconds=60)
    assert clock.monotonic() - began >= 15
