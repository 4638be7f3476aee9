"""Storage nobody can remove before its time: what it will cost until then is already spent.

Measured by a listing of the folder, so it is what lies there now. A lock that is renewed (vaults renew theirs) lasts
longer than this counts, so the sum is a lower bound.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from holdfast.engine.config import Topology
from holdfast.engine.config.cost import Cost
from holdfast.engine.cost.egress import priced_document
from holdfast.engine.cost.money import EXACT
from holdfast.engine.cost.prices import Priced, Prices
from holdfast.engine.objectstore.errors import ObjectStoreError
from holdfast.engine.objectstore.interface import ObjectInfo, ObjectStore

_MONTH_DAYS = Decimal("30.4375")


@dataclass(frozen=True)
class LockedStorage:
    """One folder of locked objects.

    Args:
        size_bytes: of all objects.
        locked_bytes: of those whose lock, from when they were written, has not ended.
        byte_months: still to be paid for them, however little is needed.
        grown_bytes: written in the last 30 days.
        last_end: when the last of these locks ends; ``None``: nothing is locked.
        committed: the price of the byte-months; ``None``: nobody says a price.
        per_month_at_rest: what the folder comes to per month once as much is removed as is written: growth × the lock.
        error: why it could not be listed; then every number is 0 and means nothing.
    """

    name: str
    site: str
    prefix: str
    lock_days: float
    objects: int = 0
    size_bytes: int = 0
    locked_bytes: int = 0
    byte_months: Decimal = Decimal(0)
    grown_bytes: int = 0
    last_end: datetime | None = None
    committed: Priced | None = None
    per_month_at_rest: Priced | None = None
    error: str | None = None


def locked_folders(topology: Topology, cost: Cost) -> Iterator[tuple[str, str, str, float]]:
    """Name, site, prefix and days of every folder that is known to be locked."""
    for name, vault in sorted(topology.vaults.items()):
        if not vault.lock_days:
            continue
        # Which tier a pack is of only the vault's own log says: the shortest lock is what holds for each.
        for site in vault.places:
            yield f"vault {name}", site, vault.prefix or f"vault/{name}", float(min(vault.lock_days.values()))
    for one in cost.locked:
        yield one.prefix, one.site, one.prefix, one.days


def locked_storage(
    stores: Mapping[str, ObjectStore], topology: Topology, cost: Cost, prices: Prices, now: datetime
) -> tuple[LockedStorage, ...]:
    """Every locked folder, listed now."""
    found = []
    for name, site, prefix, days in locked_folders(topology, cost):
        try:
            found.append(_measured(name, site, prefix, days, stores[site].list(f"{prefix}/"), topology, prices, now))
        except ObjectStoreError as error:
            found.append(LockedStorage(name, site, prefix, days, error=str(error)))
    return tuple(found)


def _measured(
    name: str,
    site: str,
    prefix: str,
    days: float,
    objects: Iterable[ObjectInfo],
    topology: Topology,
    prices: Prices,
    now: datetime,
) -> LockedStorage:
    lock, month = timedelta(days=days), timedelta(days=30)
    count = size = locked = grown = 0
    byte_days = Decimal(0)
    last: datetime | None = None
    for info in objects:
        count += 1
        size += info.size_bytes
        grown += info.size_bytes if now - info.modified_at <= month else 0
        end = info.modified_at + lock
        if end > now:
            locked += info.size_bytes
            left = Decimal(str((end - now).total_seconds())) / 86400
            byte_days = EXACT.add(byte_days, EXACT.multiply(Decimal(info.size_bytes), left))
            last = end if last is None else max(last, end)
    byte_months = EXACT.divide(byte_days, _MONTH_DAYS)
    settings = topology.site(site)
    at_rest = EXACT.divide(EXACT.multiply(Decimal(grown), Decimal(str(days))), Decimal(30))
    return LockedStorage(
        name,
        site,
        prefix,
        days,
        count,
        size,
        locked,
        byte_months,
        grown,
        last,
        prices.of(settings, "storage", byte_months),
        prices.of(settings, "storage", at_rest),
    )


def as_document(found: Iterable[LockedStorage]) -> list[dict[str, Any]]:
    """JSON-able."""
    return [
        {
            "name": one.name,
            "site": one.site,
            "prefix": one.prefix,
            "lock_days": one.lock_days,
            "objects": one.objects,
            "size_bytes": one.size_bytes,
            "locked_bytes": one.locked_bytes,
            "locked_until": None if one.last_end is None else one.last_end.isoformat(),
            "grown_bytes_in_30_days": one.grown_bytes,
            "committed": priced_document(one.committed),
            "per_month_at_rest": priced_document(one.per_month_at_rest),
            "error": one.error,
        }
        for one in found
    ]
