"""A price list: prices with tiers, as data with its date and sources, for what no bill says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import BeforeValidator, Field, ValidationError, model_validator

from holdfast.engine.config import Site, Topology
from holdfast.engine.config.base import Model, Name
from holdfast.engine.cost.errors import PriceListInvalid
from holdfast.engine.cost.money import EXACT

GIB = 1024**3
Kind = Literal[
    "egress", "egress-same-cloud", "storage", "storage-infrequent", "write-requests", "compute", "compute-committed"
]
#: What one unit of it is, in what is counted: bytes, byte-months, requests, seconds.
UNITS = {"GiB": GIB, "GB": 10**9, "GiB-month": GIB, "GB-month": 10**9, "1000-requests": 1000, "hour": 3600}


def _no_float(value: Any) -> Any:
    if isinstance(value, float):
        raise ValueError(f'expected a quoted decimal, as "0.09": a float is not exact; found {value!r}')
    return value


Exact = Annotated[Decimal, BeforeValidator(_no_float)]


class PriceTier(Model):
    """Up to how many units in a month (the last tier: without end) one costs so much."""

    up_to: Exact | None = Field(None, gt=0)
    price: Exact = Field(ge=0)


class Price(Model):
    """One price."""

    id: Name
    cloud: Literal["aws", "gcp", "azure", "local"]
    regions: tuple[str, ...] = ()
    what: Kind
    unit: Literal["GiB", "GB", "GiB-month", "GB-month", "1000-requests", "hour"]
    sku: str | None = None
    tiers: tuple[PriceTier, ...] = Field(min_length=1)
    source: str = Field(min_length=1)
    note: str = ""

    @model_validator(mode="after")
    def _tiers_rise_and_end(self) -> Self:
        ends = [tier.up_to for tier in self.tiers]
        known = [end for end in ends[:-1] if end is not None]
        if len(known) != len(ends) - 1 or ends[-1] is not None or known != sorted(set(known)):
            raise ValueError("expected `up_to` in every tier but the last, each above the one before")
        return self

    def cost(self, amount: Decimal | int) -> Decimal:
        """What so many bytes, byte-months, requests or seconds of one month cost, tier by tier."""
        units = EXACT.divide(Decimal(amount), Decimal(UNITS[self.unit]))
        below, found = Decimal(0), Decimal(0)
        for tier in self.tiers:
            inside = (units if tier.up_to is None else min(units, tier.up_to)) - below
            if inside <= 0:
                break
            found = EXACT.add(found, EXACT.multiply(inside, tier.price))
            below = tier.up_to if tier.up_to is not None else units
        return found


class PriceList(Model):
    """All prices of one currency."""

    format: Literal["holdfast.prices/1"]
    as_of: date
    currency: str = Field(pattern=r"^[A-Z]{3}$")
    prices: tuple[Price, ...]

    @model_validator(mode="after")
    def _says_one_thing(self) -> Self:
        ids = [price.id for price in self.prices]
        repeated = sorted({one for one in ids if ids.count(one) > 1})
        if repeated:
            raise ValueError(f"expected each id once; found {', '.join(repeated)} more often")
        return self

    def find(self, cloud: str, region: str, what: Kind, *, sku: str | None = None) -> Price | None:
        """The price of this region, else the one of the whole cloud, else none: what is not there is not free."""
        fits = [one for one in self.prices if (one.cloud, one.what) == (cloud, what) and one.sku in (None, sku)]
        fits.sort(key=lambda one: (one.sku is None, not one.regions))
        return next((one for one in fits if not one.regions or region in one.regions), None)


@dataclass(frozen=True)
class Priced:
    """An amount of money, and the price it came from."""

    amount: Decimal
    currency: str
    price_id: str
    source: str


class Prices:
    """What estimates are made by: what the topology says of a site, else the price list.

    Args:
        price_list: none: only the topology.
        currency: of the topology's own prices.
    """

    def __init__(self, topology: Topology, price_list: PriceList | None, currency: str) -> None:
        self._topology = topology
        self.price_list = price_list
        self._currency = currency

    def egress(self, site: str, size_bytes: int) -> Priced | None:
        """What it costs when so many bytes leave a site in one month; ``None``: nobody says."""
        settings = self._topology.site(site)
        if "egress_cost_per_gib" in settings.model_fields_set:
            per_gib = Decimal(repr(settings.egress_cost_per_gib))
            amount = EXACT.divide(EXACT.multiply(Decimal(size_bytes), per_gib), Decimal(GIB))
            where = f"sites.{site}.egress_cost_per_gib"
            return Priced(amount, self._currency, where, str(self._topology.path))
        return self.of(settings, "egress", size_bytes)

    def of(self, site: Site, what: Kind, amount: Decimal | int, *, sku: str | None = None) -> Priced | None:
        """What so much of it costs at a site in one month; ``None``: nobody says."""
        if self.price_list is None:
            return None
        price = self.price_list.find(site.cloud.value, site.region, what, sku=sku)
        if price is None:
            return None
        return Priced(price.cost(amount), self.price_list.currency, price.id, price.source)


def load_prices(topology: Topology) -> Prices:
    """What this topology's estimates are made by.

    Raises:
        PriceListInvalid: the file cannot be read or is not valid.
    """
    cost = topology.cost
    currency = "USD" if cost is None else cost.currency
    if cost is None or cost.price_list is None:
        return Prices(topology, None, currency)
    return Prices(topology, read_price_list(topology.beside(cost.price_list)), currency)


def read_price_list(file: Path) -> PriceList:
    """A price list from its file. Raises PriceListInvalid."""
    try:
        document = yaml.safe_load(file.read_text(encoding="utf-8"))
        return PriceList.model_validate(document)
    except (OSError, UnicodeDecodeError, yaml.YAMLError, ValidationError) as error:
        raise PriceListInvalid(
            "the price list cannot be read",
            where=str(file),
            expected="a holdfast.prices/1 document, see include/prices/list-prices.yaml",
            found=_first(error),
        ) from None


def _first(error: Exception) -> str:
    if isinstance(error, ValidationError):
        one: Sequence[Any] = error.errors(include_url=False)
        at = ".".join(str(part) for part in one[0]["loc"])
        return f"{at}: {one[0]['msg'].removeprefix('Value error, ')}"
    return " ".join(str(error).split())[:300]
