"""What an export refuses before anything is sealed: a window that cannot be, a clock that is behind, a ledger that went
back."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path

import pytest

from audit_world import HOUR, START, AuditWorld, FakeSource, event
from holdfast.clock import FakeClock
from holdfast.engine.audit.errors import ClockBehind
from holdfast.engine.audit.export import open_ledger
from holdfast.errors import ConfigError

NOW = START + 3 * HOUR


@pytest.fixture
def world(tmp_path: Path) -> AuditWorld:
    return AuditWorld(tmp_path, FakeSource([[[event(10 * hour + n) for n in range(5)]] for hour in range(12)]))


def seals(world: AuditWorld) -> list[int]:
    return open_ledger(world.runtime()).numbers("site-b")


@pytest.mark.parametrize(
    ("since", "until", "said"),
    [
        (START, NOW + timedelta(days=5000), "until: the window ends in the future"),
        (START, NOW + timedelta(minutes=6), "until: the window ends in the future"),
        (NOW + timedelta(days=1000), None, "since: the window begins after its end"),
        (NOW, START, "since: the window begins after its end"),
        (START - 9 * HOUR, START + HOUR, "until: the window ends before what is sealed already"),
    ],
)
def test_a_window_that_was_mistyped_is_refused_before_anything_is_sealed(
    world: AuditWorld, since: datetime, until: datetime | None, said: str
) -> None:
    world.export(until=START + 2 * HOUR)
    with pytest.raises(ConfigError, match=said):
        world.export(until=until, since=since)
    assert seals(world) == [0]
    done = world.export()
    assert done.folder is not None
    assert done.manifest.sources[0].records == 5
    assert world.verify(done.folder).problems == []


def test_clocks_may_differ_by_a_little(world: AuditWorld) -> None:
    done = world.export(until=NOW + timedelta(minutes=4))
    assert done.folder is not None
    assert world.verify(done.folder).problems == []


def test_a_clock_that_went_back_seals_nothing(world: AuditWorld) -> None:
    world.export()
    world.clock = FakeClock(NOW - timedelta(seconds=1))
    with pytest.raises(ClockBehind, match="behind the ledger") as raised:
        world.export()
    assert raised.value.exit_code == 3
    assert seals(world) == [0]


def test_a_clock_that_goes_back_while_it_is_collected_seals_nothing(world: AuditWorld) -> None:
    world.export(until=START + HOUR)

    def back(*_: object) -> None:
        world.clock.advance(-HOUR.total_seconds())

    with pytest.raises(ClockBehind):
        world.export(progress=back)
    assert seals(world) == [0]


def test_nothing_is_sealed_behind_a_window_from_the_future(world: AuditWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """A ledger that a version without these checks sealed too far."""
    with monkeypatch.context() as patched:
        patched.setattr("holdfast.engine.audit.export.require_window", lambda *_: None)
        patched.setattr("holdfast.engine.audit.export.sealing_moment", lambda clock, *_: clock.now())
        world.export(until=NOW + timedelta(days=5000))
    with pytest.raises(ClockBehind, match="where a window ends"):
        world.export()
    assert seals(world) == [0]
