"""Bytes that left a site, per dataset: metered by receipts, times a price, and beside what the bill says."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from holdfast.engine.config import Topology
from holdfast.engine.cost.mapping import SITE
from holdfast.engine.cost.money import EXACT, Sum, only_where, plain, sums
from holdfast.engine.cost.movements import Movement, Movements
from holdfast.engine.cost.periods import Period
from holdfast.engine.cost.prices import GIB, Priced, Prices

#: How the three clouds name bytes that leave, in a meter or a description.
_LEAVING = r"(?i)(data[ -]?transfer[ -]?out|transfer.*bytes-out|-out-bytes|egress|internet.*out|inter.?region.*out)"
#: AWS and Google Cloud bill 2^30 bytes as a GB (or gibibyte); Azure's price page says GB, taken as 10^9.
_UNITS: Mapping[str, Mapping[str, int]] = {
    "Microsoft": {"GB": 10**9, "TB": 10**12, "MB": 10**6, "GiB": GIB},
    "": {
        "GB": GIB,
        "GiB": GIB,
        "gibibyte": GIB,
        "gibibytes": GIB,
        "TB": 1024 * GIB,
        "MB": 1024**2,
        "byte": 1,
        "bytes": 1,
    },
}


@dataclass(frozen=True)
class EgressLine:
    """What left one site for one dataset in a period.

    Args:
        kind: ``copy`` to another site, ``read-back`` of what landed, ``relay`` through the site that runs it.
        least, most: the price of the bounds; ``None``: there is no price, which is not free.
    """

    site: str
    subject: str
    kind: str
    least_bytes: int
    most_bytes: int
    least: Priced | None
    most: Priced | None


@dataclass(frozen=True)
class BilledEgress:
    """What a site's bill says of bytes that left it.

    Args:
        billed_bytes: ``None``: a line's unit is not known.
    """

    site: str
    billed_bytes: int | None
    cost: tuple[Sum, ...]
    units: tuple[str, ...]


@dataclass(frozen=True)
class EgressReport:
    """One period: what was metered, and what was billed."""

    period: Period
    lines: tuple[EgressLine, ...]
    billed: tuple[BilledEgress, ...]
    movements: int
    unreadable: tuple[str, ...]
    notes: tuple[str, ...]

    def explained(self, site: str) -> tuple[Decimal, Decimal] | None:
        """Which share of the bytes billed for a site our own receipts explain, at least and at most."""
        billed = next((one.billed_bytes for one in self.billed if one.site == site), None)
        if not billed:
            return None
        mine = [one for one in self.lines if one.site == site]
        least, most = (sum(getattr(one, name) for one in mine) for name in ("least_bytes", "most_bytes"))
        return Decimal(least) / Decimal(billed), Decimal(most) / Decimal(billed)


def egress_report(
    movements: Movements, lines: pa.Table, topology: Topology, prices: Prices, period: Period, runs_at: str | None
) -> EgressReport:
    """What left each site, per dataset.

    Args:
        lines: of the bills, mapped; of this period.
        runs_at: the site whose machines copied; ``None``: nobody knows where read-backs went.
    """
    flows, notes = _flows(movements.found, topology, runs_at)
    totals: dict[tuple[str, str], list[int]] = {}
    for (site, _, _, way), (least, most) in flows.items():
        total = totals.setdefault((site, way), [0, 0])
        total[0] += least
        total[1] += most
    found = []
    for (site, subject, kind, way), (least, most) in sorted(flows.items()):
        whole_least, whole_most = totals[site, way]
        found.append(
            EgressLine(
                site,
                subject,
                kind,
                least,
                most,
                _share(price_of(prices, topology, site, way, whole_least), least, whole_least),
                _share(price_of(prices, topology, site, way, whole_most), most, whole_most),
            )
        )
    billed = tuple(_billed(lines, site) for site in sorted(topology.sites))
    return EgressReport(
        period,
        tuple(found),
        tuple(one for one in billed if one.cost),
        len(movements.found),
        movements.unreadable,
        tuple(notes),
    )


_Flows = dict[tuple[str, str, str, str], list[int]]


def _flows(movements: Iterable[Movement], topology: Topology, runs_at: str | None) -> tuple[_Flows, list[str]]:
    flows: _Flows = {}
    notes: set[str] = set()

    def add(site: str, to: str, one: Movement, kind: str, least: int, most: int) -> None:
        way = way_of(topology, site, to)
        if way is not None and most:
            flow = flows.setdefault((site, one.subject, kind, way), [0, 0])
            flow[0] += least
            flow[1] += most

    for one in movements:
        if one.source not in topology.sites or one.target not in topology.sites:
            notes.add(f"{one.subject}: a receipt names {one.source} or {one.target}, which the topology does not have")
            continue
        add(one.source, one.target, one, "copy", one.least_bytes, one.most_bytes)
        if runs_at is None:
            if one.read_back_bytes:
                notes.add("`cost.runs_at` is not set: what was read back is in no sum, though it may have left a site")
            continue
        add(one.target, runs_at, one, "read-back", one.read_back_bytes, one.read_back_bytes)
        if way_of(topology, runs_at, one.source) and way_of(topology, runs_at, one.target):
            add(runs_at, one.target, one, "relay", one.least_bytes, one.most_bytes)
    return flows, sorted(notes)


def way_of(topology: Topology, site: str, to: str) -> str | None:
    """``egress`` to another cloud, ``egress-same-cloud`` to another region; ``None``: it does not leave."""
    here, there = topology.sites[site], topology.sites[to]
    if here.cloud != there.cloud:
        return "egress"
    return None if here.region == there.region else "egress-same-cloud"


def price_of(prices: Prices, topology: Topology, site: str, way: str, size_bytes: int) -> Priced | None:
    """What it costs when so many bytes leave a site that way in a month; ``None``: nobody says."""
    if way == "egress-same-cloud" and "egress_cost_per_gib" not in topology.site(site).model_fields_set:
        return prices.of(topology.site(site), "egress-same-cloud", size_bytes)
    return prices.egress(site, size_bytes)


def _share(whole: Priced | None, part: int, total: int) -> Priced | None:
    """Tiers are of a site's whole month, so each dataset pays its average."""
    if whole is None or not total:
        return whole
    amount = EXACT.divide(EXACT.multiply(whole.amount, Decimal(part)), Decimal(total))
    return Priced(amount.quantize(Decimal("1e-18"), context=EXACT), whole.currency, whole.price_id, whole.source)


def leaving(lines: pa.Table) -> pa.Table:
    """The lines of a bill that are for bytes that left."""
    named = [
        pc.fill_null(pc.match_substring_regex(lines[name], _LEAVING), False)
        for name in ("SkuMeter", "ChargeDescription", "SkuId")
    ]
    usage = pc.equal(lines["ChargeCategory"], "Usage")
    return lines.filter(pc.and_(usage, pc.or_(pc.or_(named[0], named[1]), named[2])))


def _billed(lines: pa.Table, site: str) -> BilledEgress:
    mine = leaving(only_where(lines, SITE, site))
    total: int | None = 0
    units: set[str] = set()
    for provider, unit, quantity in _quantities(mine):
        units.add(unit)
        size = _UNITS.get(provider, _UNITS[""]).get(unit)
        total = None if size is None or total is None else total + int(EXACT.multiply(quantity, Decimal(size)))
    return BilledEgress(site, total, sums(mine), tuple(sorted(units)))


def _quantities(lines: pa.Table) -> Iterator[tuple[str, str, Decimal]]:
    grouped = lines.group_by(["ProviderName", "ConsumedUnit"]).aggregate([("ConsumedQuantity", "sum")])
    for row in grouped.to_pylist():
        if row["ConsumedQuantity_sum"] is not None:
            yield row["ProviderName"] or "", row["ConsumedUnit"] or "", row["ConsumedQuantity_sum"]


def as_document(report: EgressReport) -> dict[str, Any]:
    """JSON-able."""
    return {
        "period": str(report.period),
        "syncs": report.movements,
        "metered": [
            {
                "site": one.site,
                "dataset": one.subject,
                "kind": one.kind,
                "least_bytes": one.least_bytes,
                "most_bytes": one.most_bytes,
                "least_cost": priced_document(one.least),
                "most_cost": priced_document(one.most),
            }
            for one in report.lines
        ],
        "billed": [
            {
                "site": one.site,
                "bytes": one.billed_bytes,
                "units": list(one.units),
                "cost": [cost.as_document() for cost in one.cost],
                "per_gib": _per_gib(one),
                "explained": _explained(report, one.site),
            }
            for one in report.billed
        ],
        "unreadable": list(report.unreadable),
        "notes": list(report.notes),
    }


def _explained(report: EgressReport, site: str) -> list[float] | None:
    found = report.explained(site)
    return None if found is None else [round(float(share), 4) for share in found]


def _per_gib(one: BilledEgress) -> dict[str, str] | None:
    if not one.billed_bytes:
        return None
    gib = EXACT.divide(Decimal(one.billed_bytes), Decimal(GIB))
    return {
        cost.currency: plain(EXACT.divide(cost.effective, gib).quantize(Decimal("1e-9"), context=EXACT))
        for cost in one.cost
    }


def priced_document(priced: Priced | None) -> dict[str, str] | None:
    """JSON-able; ``None``: no price."""
    if priced is None:
        return None
    return {
        "amount": plain(priced.amount),
        "currency": priced.currency,
        "price": priced.price_id,
        "source": priced.source,
    }
