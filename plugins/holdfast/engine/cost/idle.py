"""What is paid for at the standby and not used, and what is used there that its cloud may take away."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from holdfast.engine.config import Topology
from holdfast.engine.cost.mapping import GROUP, ROLE, SITE, STANDBY_ROLES
from holdfast.engine.cost.money import Sum, grouped_sums, only_where, plain, sums
from holdfast.engine.cost.standby import standby_lines


@dataclass(frozen=True)
class IdleCommitment:
    """The unused part of one commitment or reservation in the period.

    Args:
        kind: ``commitment`` (a discount for a promise) or ``capacity`` (machines kept free: what a standby is for).
        commitment: its id; ``None``: the bill's lines have none.
        used: what of the same commitment was used, in the same currency; ``None``: nothing, or without an id unknown.
    """

    kind: str
    commitment: str | None
    name: str
    group: str | None
    site: str | None
    unused: Sum
    used: Sum | None


@dataclass(frozen=True)
class SpotExposure:
    """Machines of a group that its cloud may take away with seconds of notice.

    Args:
        spot: what they cost.
        firm: what other machines of the same standby cost.
        rto_seconds: of the group, which a failover onto them must keep.
        premium: what they would cost more at list prices, the price of being sure; ``None``: a line has no list cost.
    """

    group: str
    site: str | None
    spot: Sum
    firm: tuple[Sum, ...]
    rto_seconds: float
    no_capacity: str

    @property
    def premium(self) -> Decimal | None:
        return None if self.spot.listed is None else self.spot.listed - self.spot.effective


def idle_commitments(lines: pa.Table) -> tuple[IdleCommitment, ...]:
    """Unused commitments and reservations of what stands by, and those nobody is named for."""
    mine = only_where(lines, ROLE, None, *STANDBY_ROLES)
    found: list[IdleCommitment] = []
    for kind, prefix in (("commitment", "CommitmentDiscount"), ("capacity", "CapacityReservation")):
        unused = only_where(mine, f"{prefix}Status", "Unused")
        names = "CommitmentDiscountName" if kind == "commitment" else "ResourceName"
        keys = (f"{prefix}Id", GROUP, SITE)
        used = {
            (key[0], cost.currency): cost
            for key, cost in grouped_sums(only_where(lines, f"{prefix}Status", "Used"), (f"{prefix}Id",))
        }
        for (commitment, group, site), cost in grouped_sums(unused, keys):
            named = only_where(unused, f"{prefix}Id", commitment)[names]
            name = next((one for one in named.to_pylist() if one), commitment or "without an id")
            of_it = used.get((commitment, cost.currency)) if commitment is not None else None
            found.append(IdleCommitment(kind, commitment, name, group, site, cost, of_it))
    return tuple(sorted(found, key=lambda one: (-one.unused.effective, one.commitment or "")))


def spot_exposure(lines: pa.Table, topology: Topology) -> tuple[SpotExposure, ...]:
    """Where a group's standby machines are spot machines."""
    machines = only_where(standby_lines(lines), "ServiceCategory", "Compute")
    spot = only_where(machines, "PricingCategory", "Dynamic")
    found = []
    for (group, site), cost in grouped_sums(spot, (GROUP, SITE)):
        if group not in topology.groups:
            continue
        settings = topology.groups[group]
        firm = only_where(machines, GROUP, group)
        firm = firm.filter(pc.fill_null(pc.not_equal(firm["PricingCategory"], "Dynamic"), True))
        found.append(
            SpotExposure(group, site, cost, sums(firm), settings.objectives.rto_seconds, settings.no_capacity.value)
        )
    return tuple(found)


def as_document(lines: pa.Table, topology: Topology) -> dict[str, Any]:
    """Both, JSON-able."""
    return {
        "idle_commitments": [
            {
                "kind": one.kind,
                "commitment": one.commitment,
                "name": one.name,
                "group": one.group,
                "site": one.site,
                "unused": one.unused.as_document(),
                "used": None if one.used is None else one.used.as_document(),
            }
            for one in idle_commitments(lines)
        ],
        "spot": [
            {
                "group": one.group,
                "site": one.site,
                "spot": one.spot.as_document(),
                "firm": [cost.as_document() for cost in one.firm],
                "premium": None if one.premium is None else plain(one.premium),
                "rto_seconds": one.rto_seconds,
                "no_capacity": one.no_capacity,
            }
            for one in spot_exposure(lines, topology)
        ],
    }
