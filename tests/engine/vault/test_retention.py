"""Which backups stay, also when somebody with a writer's key makes false ones to push the good ones out."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta

from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.engine.vault.backups import Backup
from holdfast.engine.vault.forget import IN_TIME, Keep, plan_forget

START = datetime(2026, 3, 1, 2, tzinfo=UTC)
DAY = timedelta(days=1)


def backup(sequence: int, taken_at: datetime, came_at: datetime | None = None, source: str = "data") -> Backup:
    return Backup(
        backup_id=f"{sequence:032x}",
        sequence=sequence,
        source=source,
        kind="tree",
        taken_at=taken_at,
        committed_at=came_at or taken_at + timedelta(minutes=5),
        tier="daily",
        objects=1,
        size_bytes=1,
        stored_bytes=1,
        segments=(),
    )


def kept(backups: list[Backup], keep: Keep) -> set[int]:
    return {one.sequence for one, _ in plan_forget(backups, keep).kept}


GOOD = [backup(number, START + number * DAY) for number in range(1, 31)]


def test_backups_dated_back_do_not_push_out_those_that_came_in_time() -> None:
    """A minute before each midnight of the past month, made in one night."""
    now = START + 30 * DAY + timedelta(hours=3)
    false = [
        backup(100 + number, (START + number * DAY).replace(hour=23, minute=59), now + timedelta(seconds=number))
        for number in range(30)
    ]
    for keep in (Keep(daily=7, weekly=4, monthly=12), Keep(hourly=24, daily=7), Keep(weekly=3)):
        in_time = [one for one in false if one.committed_at - one.taken_at <= IN_TIME]
        assert len(in_time) == 2
        assert len(kept(GOOD, keep) - kept([*GOOD, *false], keep)) <= len(in_time)


def test_a_point_in_time_that_came_late_fills_a_period_that_has_none() -> None:
    """An older snapshot that is backed up now is kept for its day, where nothing else is of that day."""
    old = backup(200, START - 3 * DAY, START + 31 * DAY)
    assert 200 in kept([*GOOD, old], Keep(daily=40))


@given(st.integers(0, 10**6), st.integers(1, 40), st.integers(1, 10))
@settings(max_examples=200)
def test_nothing_dated_back_takes_the_place_of_what_came_in_time(seed: int, false: int, count: int) -> None:
    """Nor where the good ones have gaps that the false ones fill."""
    rng = random.Random(seed)
    good = [one for one in GOOD if rng.random() < 0.6]
    others = [backup(100 + n, START + timedelta(hours=rng.randrange(24 * 32)), START + 40 * DAY) for n in range(false)]
    for tier in ("hourly", "daily", "weekly", "monthly", "yearly"):
        keep = Keep(**{tier: count})
        newest = {max(good, key=lambda one: one.sequence).sequence} if good else set()
        assert kept(good, keep) - newest <= kept([*good, *others], keep)
        assert len(kept([*good, *others], keep)) <= 2 * count + 2
