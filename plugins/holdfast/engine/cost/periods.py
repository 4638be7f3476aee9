"""Billing periods: calendar months in UTC, as all three clouds bill."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from holdfast.errors import ConfigError

_MONTH = re.compile(r"^(\d{4})-(0[1-9]|1[0-2])$")


@dataclass(frozen=True, slots=True, order=True)
class Period:
    """From ``start`` (inclusive) to ``end`` (exclusive)."""

    start: datetime
    end: datetime

    def __str__(self) -> str:
        return f"{self.start:%Y-%m}"

    @property
    def days(self) -> float:
        return (self.end - self.start) / timedelta(days=1)

    @property
    def next(self) -> Period:
        return month_of(self.end)


def month_of(moment: datetime) -> Period:
    """The period a moment is in."""
    start = moment.astimezone(UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    return Period(start, (start + timedelta(days=32)).replace(day=1))


def last_month(now: datetime) -> Period:
    """The newest period that is over."""
    return month_of(month_of(now).start - timedelta(days=1))


def parse_period(text: str) -> Period:
    """``2026-10``. Raises ConfigError."""
    found = _MONTH.match(text)
    if found is None:
        raise ConfigError("this is no billing period", where="period", expected="a month as 2026-10", found=repr(text))
    return month_of(datetime(int(found[1]), int(found[2]), 1, tzinfo=UTC))


def periods_between(first: datetime, last: datetime) -> tuple[Period, ...]:
    """All periods from the one of ``first`` to the one of ``last``."""
    found = [month_of(first)]
    while found[-1].end <= last:
        found.append(found[-1].next)
    return tuple(found)
