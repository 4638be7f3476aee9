"""What an export refuses before anything is sealed: a window that cannot be, a clock that is behind, a ledger that went
back."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path

import pytest

from audit_world import HOUR, START, AuditWorld, FakeSource, event
from holdfast.clock import FakeClock
from holdfast.engine.audit.errors import ClockBehind, Tampered
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


def files(world: AuditWorld, site: str, below: str) -> list[Path]:
    return sorted(path for path in (world.folder / site / "ledger" / below).rglob("*") if path.is_file())


@pytest.mark.parametrize("kept", [0, 1])
def test_a_ledger_whose_newest_seal_was_taken_away_everywhere_is_refused(world: AuditWorld, kept: int) -> None:
    """No site tells of it: only this machine knows that there was another seal."""
    for _ in range(2):
        world.export()
        world.clock.advance(HOUR.total_seconds())
    for site in ("site-b", "site-c"):
        for path in files(world, site, "seals")[kept:]:
            path.unlink()
    with pytest.raises(Tampered, match="rolled back") as raised:
        world.export()
    assert raised.value.exit_code == 5
    assert str(raised.value.expected).startswith("seal 1")
    assert len(seals(world)) == kept


def test_a_ledger_with_another_seal_of_the_same_number_is_refused(world: AuditWorld) -> None:
    world.export()
    for site in ("site-b", "site-c"):
        files(world, site, "seals")[0].unlink()
    remembered = world.environ
    world.environ = {**remembered, "HOLDFAST_STATE": str(world.folder / "other")}
    key = world.folder / "other" / "signing-key.pem"
    key.parent.mkdir()
    key.write_bytes((world.folder / "state" / "signing-key.pem").read_bytes())
    key.chmod(0o600)
    for _ in range(2):  # another machine, which knows nothing of the first one's seal
        world.clock.advance(HOUR.total_seconds())
        world.export()
    world.environ = remembered
    with pytest.raises(Tampered, match="forked"):
        world.export()


def test_what_another_machine_sealed_since_is_gone_on_from(world: AuditWorld) -> None:
    world.export()
    (head,) = (world.folder / "state" / "audit").rglob("head.json")
    held = head.read_bytes()
    world.clock.advance(HOUR.total_seconds())
    world.export()
    head.write_bytes(held)
    world.clock.advance(HOUR.total_seconds())
    assert world.export().record.seal == 2
    assert b'"seal":2' in head.read_bytes()


def test_a_killed_export_is_remembered_by_the_next(world: AuditWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    class Killed(BaseException):
        pass

    def kill(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr("holdfast.engine.audit.locking.Locking.lock", kill)
        with pytest.raises(Killed):
            world.export()
    for site in ("site-b", "site-c"):
        for path in files(world, site, "seals"):
            path.unlink()
    with pytest.raises(Tampered, match="rolled back"):
        world.export()
