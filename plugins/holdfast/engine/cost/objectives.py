"""What a minute of RPO and of RTO costs: the next better and the next worse step, from what was measured.

RPO: the syncs of a period say how often and how much is copied. Copying twice as often moves at least the same bytes
(data that is only added to) and at most twice as many (the same objects overwritten again and again); both bounds are
told. What it costs is those bytes' egress and the write requests at the target.

RTO: what stands by now is measured by the bill and by drills; another way to stand by is as somebody has priced it
(`cost.rto_options`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import reduce
from itertools import pairwise
from statistics import median
from typing import Any

from holdfast.engine.config import Topology
from holdfast.engine.config.cost import Cost
from holdfast.engine.cost.egress import price_of, way_of
from holdfast.engine.cost.money import EXACT, Sum, plain
from holdfast.engine.cost.movements import Movement, intervals
from holdfast.engine.cost.periods import Period
from holdfast.engine.cost.prices import Prices

#: Steps of a sync's interval, as factors of the one there is.
STEPS = (Decimal("0.25"), Decimal("0.5"), Decimal(1), Decimal(2), Decimal(4))
_MONTH_SECONDS = Decimal("2629800")
_FEWEST = 3


@dataclass(frozen=True)
class RpoStep:
    """One interval of a dataset's sync, and what it costs in a month.

    Args:
        rpo_seconds: the interval and the time a sync took: what may be lost at most.
        least, most: per month; ``None``: there is no price.
        per_minute: what this step costs more (or saves, negative) than the one there is, per minute of RPO that it
            wins or gives away, at least and at most. ``None`` for the step there is.
    """

    interval_seconds: Decimal
    rpo_seconds: Decimal
    least: Decimal | None
    most: Decimal | None
    per_minute: tuple[Decimal, Decimal] | None
    is_current: bool


@dataclass(frozen=True)
class RpoFrontier:
    """The steps of one dataset to one site.

    Args:
        syncs: that were measured; below 3 nothing is said.
        objective_seconds: the group's.
        price_ids: what was multiplied with.
    """

    group: str
    dataset: str
    source: str
    target: str
    syncs: int
    bytes_per_sync: int
    objects_per_sync: int
    objective_seconds: float
    currency: str | None
    price_ids: tuple[str, ...]
    steps: tuple[RpoStep, ...]


def rpo_frontiers(
    movements: Sequence[Movement],
    topology: Topology,
    prices: Prices,
    lags: Mapping[tuple[str, str], float] | None = None,
) -> tuple[RpoFrontier, ...]:
    """Per group, dataset and target the interval there is, and the steps around it.

    Args:
        movements: of the period.
        lags: by dataset and target how long a sync took, in seconds; without one the RPO is the interval alone.
    """
    found = []
    for group, settings in sorted(topology.groups.items()):
        targets = [site for site in settings.sites.all() if site != settings.sites.active]
        for dataset in settings.datasets:
            for target in targets:
                mine = intervals(movements, dataset, target)
                if mine:
                    lag = Decimal(str((lags or {}).get((dataset, target), 0)))
                    found.append(_frontier(group, dataset, target, mine, topology, prices, lag))
    return tuple(found)


def _frontier(
    group: str,
    dataset: str,
    target: str,
    mine: Sequence[Movement],
    topology: Topology,
    prices: Prices,
    lag: Decimal,
) -> RpoFrontier:
    source = mine[-1].source
    size = sum(one.most_bytes for one in mine) // len(mine)
    objects = sum(one.objects for one in mine) // len(mine)
    steps: tuple[RpoStep, ...] = ()
    currency: str | None = None
    ids: tuple[str, ...] = ()
    if len(mine) >= _FEWEST:
        gaps = [(after.at - before.at).total_seconds() for before, after in pairwise(mine)]
        interval = max(Decimal(str(median(gaps))), Decimal(1))
        steps, currency, ids = _steps(interval, lag, size, objects, source, target, topology, prices)
    return RpoFrontier(
        group,
        dataset,
        source,
        target,
        len(mine),
        size,
        objects,
        topology.groups[group].objectives.rpo_seconds,
        currency,
        ids,
        steps,
    )


def _steps(
    interval: Decimal,
    lag: Decimal,
    size: int,
    objects: int,
    source: str,
    target: str,
    topology: Topology,
    prices: Prices,
) -> tuple[tuple[RpoStep, ...], str | None, tuple[str, ...]]:
    priced: list[tuple[Decimal, Decimal | None, Decimal | None]] = []
    currency: str | None = None
    ids: set[str] = set()
    syncs_now = EXACT.divide(_MONTH_SECONDS, interval)
    for factor in STEPS:
        more = EXACT.divide(Decimal(1), factor)
        bounds: list[Decimal | None] = []
        for grows in sorted((Decimal(1), more)):
            # Bytes and objects of a month: as now, or as many more as there are more syncs.
            times = EXACT.multiply(syncs_now, grows)
            amount, currency, used = _month(source, target, times * size, times * objects, topology, prices)
            ids |= used
            bounds.append(amount)
        priced.append((EXACT.multiply(interval, factor), bounds[0], bounds[1]))
    here = next((least, most) for at, least, most in priced if at == interval)
    return tuple(_step(one, interval, lag, here) for one in priced), currency, tuple(sorted(ids))


def _month(
    source: str, target: str, size: Decimal, objects: Decimal, topology: Topology, prices: Prices
) -> tuple[Decimal | None, str | None, set[str]]:
    way = way_of(topology, source, target)
    egress = None if way is None else price_of(prices, topology, source, way, int(size))
    if way is not None and egress is None:
        return None, None, set()
    writes = prices.of(topology.site(target), "write-requests", objects)
    parts = [one for one in (egress, writes) if one is not None]
    parts = [one for one in parts if one.currency == parts[0].currency]
    if not parts:
        return None, None, set()
    amount = reduce(EXACT.add, (one.amount for one in parts))
    return amount, parts[0].currency, {one.price_id for one in parts}


def _step(
    one: tuple[Decimal, Decimal | None, Decimal | None],
    interval: Decimal,
    lag: Decimal,
    here: tuple[Decimal | None, Decimal | None],
) -> RpoStep:
    at, least, most = one
    per_minute = None
    if at != interval and least is not None and most is not None and here[0] is not None:
        minutes = EXACT.divide(interval - at, Decimal(60))
        differences = [EXACT.divide(bound - here[0], minutes) for bound in (least, most)]
        per_minute = (min(differences), max(differences))
    return RpoStep(at, at + lag, least, most, per_minute, at == interval)


@dataclass(frozen=True)
class RtoStep:
    """One way to stand by.

    Args:
        rto_seconds: measured by the group's newest drill, or as the option says; ``None``: never measured.
        per_minute: what it costs more than what is there now per minute of RTO won; ``None``: not comparable.
    """

    name: str
    rto_seconds: float | None
    per_month: Decimal
    currency: str
    basis: str
    is_current: bool
    per_minute: Decimal | None


@dataclass(frozen=True)
class RtoFrontier:
    """The ways to stand by of one group; those another one beats in both are marked by `dominated`."""

    group: str
    objective_seconds: float
    steps: tuple[RtoStep, ...]

    @property
    def dominated(self) -> tuple[str, ...]:
        """Names of steps that are neither faster nor cheaper than some other."""
        return tuple(
            one.name
            for one in self.steps
            if any(_beats(other, one) for other in self.steps if other.currency == one.currency)
        )


def _beats(other: RtoStep, one: RtoStep) -> bool:
    if other.rto_seconds is None or one.rto_seconds is None or other is one:
        return False
    as_good = other.rto_seconds <= one.rto_seconds and other.per_month <= one.per_month
    return as_good and (other.rto_seconds, other.per_month) != (one.rto_seconds, one.per_month)


def rto_frontiers(
    topology: Topology, cost: Cost, standby: Iterable[tuple[str | None, Sum]], measured: Mapping[str, float]
) -> tuple[RtoFrontier, ...]:
    """Per group what is there now, and the options.

    Args:
        standby: per group what its standby cost in the period, once for each currency.
        measured: per group the RTO of its newest drill, from the fault, in seconds.
    """
    costs: dict[str, list[Sum]] = {}
    for name, value in standby:
        if name is not None:
            costs.setdefault(name, []).append(value)
    return tuple(
        _rto_frontier(name, topology, cost, costs.get(name, []), measured.get(name))
        for name in sorted(topology.groups)
        if name in costs or name in cost.rto_options
    )


def _rto_frontier(
    group: str, topology: Topology, cost: Cost, now: Sequence[Sum], rto_seconds: float | None
) -> RtoFrontier:
    steps = [
        RtoStep("now", rto_seconds, one.effective, one.currency, "the bill, and the newest drill", True, None)
        for one in now
    ]
    here = next((one for one in now if one.currency == cost.currency), None)
    for option in cost.rto_options.get(group, ()):
        per_minute = None
        # Beside a standby that is paid in several currencies an option in one of them cannot be weighed.
        if here is not None and len(now) == 1 and rto_seconds is not None and option.rto_seconds != rto_seconds:
            minutes = EXACT.divide(Decimal(str(rto_seconds - option.rto_seconds)), Decimal(60))
            per_minute = EXACT.divide(option.per_month - here.effective, minutes)
        steps.append(
            RtoStep(option.name, option.rto_seconds, option.per_month, cost.currency, option.basis, False, per_minute)
        )
    return RtoFrontier(group, topology.groups[group].objectives.rto_seconds, tuple(steps))


def _rounded(amount: Decimal | None) -> str | None:
    return None if amount is None else plain(amount.quantize(Decimal("1e-6"), context=EXACT))


def as_document(rpo: Iterable[RpoFrontier], rto: Iterable[RtoFrontier], period: Period) -> dict[str, Any]:
    """JSON-able."""
    return {
        "period": str(period),
        "rpo": [
            {
                "group": one.group,
                "dataset": one.dataset,
                "source": one.source,
                "target": one.target,
                "syncs": one.syncs,
                "bytes_per_sync": one.bytes_per_sync,
                "objects_per_sync": one.objects_per_sync,
                "objective_seconds": one.objective_seconds,
                "currency": one.currency,
                "prices": list(one.price_ids),
                "steps": [
                    {
                        "interval_seconds": float(step.interval_seconds),
                        "rpo_seconds": float(step.rpo_seconds),
                        "per_month": [_rounded(step.least), _rounded(step.most)],
                        "per_minute": None
                        if step.per_minute is None
                        else [_rounded(step.per_minute[0]), _rounded(step.per_minute[1])],
                        "is_current": step.is_current,
                    }
                    for step in one.steps
                ],
            }
            for one in rpo
        ],
        "rto": [
            {
                "group": front.group,
                "objective_seconds": front.objective_seconds,
                "dominated": list(front.dominated),
                "steps": [
                    {
                        "name": way.name,
                        "rto_seconds": way.rto_seconds,
                        "per_month": plain(way.per_month),
                        "currency": way.currency,
                        "basis": way.basis,
                        "is_current": way.is_current,
                        "per_minute": _rounded(way.per_minute),
                    }
                    for way in front.steps
                ],
            }
            for front in rto
        ],
    }
