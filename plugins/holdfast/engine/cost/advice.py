"""Advice, each with the lines of the bill it came from, the price it was weighed with, what it saves and what it risks.

There is none without a line, and no saving without a price: what cannot be shown is not advised.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from holdfast.engine.config import Topology
from holdfast.engine.config.models import NoCapacityPolicy
from holdfast.engine.cost.idle import idle_commitments, spot_exposure
from holdfast.engine.cost.mapping import GROUP, SITE
from holdfast.engine.cost.money import EXACT, only_where, plain, sums
from holdfast.engine.cost.periods import Period
from holdfast.engine.cost.prices import GIB, Prices
from holdfast.engine.cost.standby import standby_lines

#: So many lines are named, the dearest first; how many there are is told.
_CITED = 5
#: A resource that was there for so much of the period is always there.
_ALWAYS = Decimal("0.9")
_MONTHLY_UNIT = r"(?i)^(gb|gib|gby|giby|gigabyte|gibibyte)s?[-./ ]?(mo|month)s?$"
_CHEAPER_ALREADY = r"(?i)(infrequent|[-_ ]ia\b|sia|nearline|coldline|archive|glacier|cool|cold)"
_IDENTITY = (
    *("ProviderName", "BillingAccountId", "SubAccountId", "BillingPeriodStart", "ChargePeriodStart", "ChargePeriodEnd"),
    *("ChargeCategory", "ChargeClass", "ChargeDescription", "ResourceId", "SkuPriceId", "SkuId", "BilledCost"),
    *("EffectiveCost", "BillingCurrency", "CommitmentDiscountId"),
)


@dataclass(frozen=True)
class LineRef:
    """One line of a bill: where it stands, and what it is wherever a later delivery puts it.

    Args:
        row: of a CSV file the header is row 1, of a Parquet file the first line is.
        charge_id: of its content; the clouds give a line no id of its own.
    """

    file: str
    row: int
    charge_id: str
    effective: Decimal
    currency: str


@dataclass(frozen=True)
class Advice:
    """One thing to do.

    Args:
        saving: per period; negative: it costs more, and lowers a risk.
        price: what the lines were weighed with: an id of the price list, or the column of the bill.
        lines: the dearest of them; ``line_count`` says how many there are.
    """

    kind: str
    what: str
    risk: str
    saving: Decimal
    currency: str
    price: str
    group: str | None
    site: str | None
    lines: tuple[LineRef, ...]
    line_count: int


def advise(lines: pa.Table, topology: Topology, prices: Prices, period: Period) -> tuple[Advice, ...]:
    """All advice on one billing period, per currency the largest saving first.

    Args:
        lines: of this period, mapped.
    """
    found = [
        *_idle(lines, topology),
        *_spot(lines, topology),
        *_storage(lines, topology, prices),
        *_always_on(lines, topology, prices, period),
    ]
    return tuple(sorted(found, key=lambda one: (one.currency, -one.saving, one.kind, str(one.group))))


def cite(lines: pa.Table) -> tuple[LineRef, ...]:
    """The dearest of these lines."""
    order = pc.sort_indices(lines["EffectiveCost"], sort_keys=[("", "descending")])[:_CITED]
    return tuple(
        LineRef(row["x_SourceFile"], row["x_SourceRow"], charge_id(row), row["EffectiveCost"], row["BillingCurrency"])
        for row in lines.take(order).to_pylist()
    )


def charge_id(row: dict[str, Any]) -> str:
    """What a line is, in 16 hex digits of a hash of what names it and of its costs."""
    known = {name: str(row.get(name)) for name in _IDENTITY}
    return hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()[:16]


def _made(lines: pa.Table, **fields: Any) -> Iterator[Advice]:
    if lines.num_rows:
        yield Advice(lines=cite(lines), line_count=lines.num_rows, **fields)


def _idle(lines: pa.Table, topology: Topology) -> Iterator[Advice]:
    for one in idle_commitments(lines):
        if one.unused.effective <= 0:
            continue
        prefix = "CommitmentDiscount" if one.kind == "commitment" else "CapacityReservation"
        mine = only_where(lines, f"{prefix}Status", "Unused")
        for column, value in ((f"{prefix}Id", one.commitment), (GROUP, one.group), (SITE, one.site)):
            mine = only_where(mine, column, value)
        mine = only_where(mine, "BillingCurrency", one.unused.currency)
        if one.kind == "commitment":
            what = (
                f"The commitment {one.name} is partly unused: let it lapse or shrink it, or let the active site use it"
            )
            risk = "Most commitments run to the end of their term; what is unused until then is paid in any case."
        else:
            what = f"The reserved capacity {one.name} is unused: give it up, or let work that can be stopped use it"
            risk = _capacity_risk(topology, one.group)
        yield from _made(
            mine,
            kind=f"idle-{one.kind}",
            what=what,
            risk=risk,
            saving=one.unused.effective,
            currency=one.unused.currency,
            price="EffectiveCost of the lines",
            group=one.group,
            site=one.site,
        )


def _capacity_risk(topology: Topology, group: str | None) -> str:
    if group not in topology.groups:
        return "A failover may need it: without it machines come when the cloud has some."
    settings = topology.groups[group]
    return (
        f"It is what a failover of {group} (tier {settings.tier}, RTO {settings.objectives.rto_seconds:g} s) would run "
        "on: without it the RTO holds only while the cloud has machines to give."
    )


def _spot(lines: pa.Table, topology: Topology) -> Iterator[Advice]:
    for one in spot_exposure(lines, topology):
        settings = topology.groups[one.group]
        if settings.no_capacity is NoCapacityPolicy.GO_ON:
            continue  # the group has said that it goes on without
        if one.premium is None:
            continue
        mine = only_where(only_where(standby_lines(lines), "PricingCategory", "Dynamic"), GROUP, one.group)
        mine = only_where(only_where(mine, SITE, one.site), "BillingCurrency", one.spot.currency)
        mine = only_where(mine, "ServiceCategory", "Compute")
        yield from _made(
            mine,
            kind="spot-standby",
            what=f"Standby machines of {one.group} are spot machines: take machines that stay",
            risk="As it is, the cloud may take them with seconds of notice, and a failover within "
            f"{one.rto_seconds:g} s then waits for capacity. The price is the difference to ListCost.",
            saving=-one.premium,
            currency=one.spot.currency,
            price="ListCost of the lines",
            group=one.group,
            site=one.site,
        )


def _storage(lines: pa.Table, topology: Topology, prices: Prices) -> Iterator[Advice]:
    if prices.price_list is None:
        return
    stored = only_where(standby_lines(lines), "ServiceCategory", "Storage")
    stored = stored.filter(pc.fill_null(pc.match_substring_regex(stored["PricingUnit"], _MONTHLY_UNIT), False))
    for name in ("SkuMeter", "ChargeDescription", "SkuId"):
        stored = stored.filter(pc.invert(pc.fill_null(pc.match_substring_regex(stored[name], _CHEAPER_ALREADY), False)))
    stored = only_where(stored, "BillingCurrency", prices.price_list.currency)
    for site, group in _pairs(stored):
        if site is None:
            continue
        mine = only_where(only_where(stored, SITE, site), GROUP, group)
        units = pc.sum(mine["PricingQuantity"]).as_py()
        (now,) = sums(mine)
        cheaper = None if units is None else prices.of(topology.site(site), "storage-infrequent", units * GIB)
        if cheaper is None or cheaper.amount >= now.effective:
            continue
        yield from _made(
            mine,
            kind="storage-class",
            what=f"What lies at {site} is seldom read: keep it in the class for infrequent access",
            risk="An object is paid for 30 days at least, so one that a sync replaces sooner costs more; reading is "
            "paid per GiB, so a failover, a restore and every full read-back cost something.",
            saving=now.effective - cheaper.amount,
            currency=cheaper.currency,
            price=cheaper.price_id,
            group=group,
            site=site,
        )


def _pairs(lines: pa.Table) -> Sequence[tuple[str | None, str | None]]:
    rows = lines.group_by([SITE, GROUP]).aggregate([]).to_pylist()
    return sorted(((row[SITE], row[GROUP]) for row in rows), key=str)


def _always_on(lines: pa.Table, topology: Topology, prices: Prices, period: Period) -> Iterator[Advice]:
    """Machines by the hour that are there the whole period, where the price list has a committed price of their SKU."""
    machines = only_where(only_where(standby_lines(lines), "ServiceCategory", "Compute"), "PricingCategory", "Standard")
    machines = machines.filter(
        pc.fill_null(pc.match_substring_regex(machines["ConsumedUnit"], "(?i)^h(ou)?rs?$"), False)
    )
    grouped = machines.group_by(["ResourceId", "SkuId", SITE, GROUP, "BillingCurrency"])
    for row in grouped.aggregate([("ConsumedQuantity", "sum"), ("EffectiveCost", "sum")]).to_pylist():
        hours, now = row["ConsumedQuantity_sum"], row["EffectiveCost_sum"]
        if row[SITE] is None or hours is None or hours < _ALWAYS * Decimal(str(period.days)) * 24:
            continue
        priced = prices.of(topology.site(row[SITE]), "compute-committed", hours * 3600, sku=row["SkuId"])
        if priced is None or priced.currency != row["BillingCurrency"] or priced.amount >= now:
            continue
        mine = machines
        for name in ("ResourceId", "SkuId", SITE, GROUP, "BillingCurrency"):
            mine = only_where(mine, name, row[name])
        yield from _made(
            mine,
            kind="always-on",
            what=f"{row['ResourceId'] or row['SkuId']} stands by all the time at the price of an hour: commit to it",
            risk="A commitment runs for a year or more, also after the standby has moved to another region or size.",
            saving=EXACT.subtract(now, priced.amount),
            currency=priced.currency,
            price=priced.price_id,
            group=row[GROUP],
            site=row[SITE],
        )


def as_document(found: Sequence[Advice]) -> list[dict[str, Any]]:
    """JSON-able."""
    return [
        {
            "kind": one.kind,
            "what": one.what,
            "risk": one.risk,
            "saving": plain(one.saving),
            "currency": one.currency,
            "price": one.price,
            "group": one.group,
            "site": one.site,
            "line_count": one.line_count,
            "lines": [
                {
                    "file": line.file,
                    "row": line.row,
                    "charge_id": line.charge_id,
                    "effective": plain(line.effective),
                    "currency": line.currency,
                }
                for line in one.lines
            ],
        }
        for one in found
    ]
