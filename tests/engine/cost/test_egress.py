"""Bytes that left, by the receipts: priced by tiers, told in bounds where a receipt does not say, beside the bill."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import yaml

from cost_world import OCTOBER, CostWorld, aws_lines
from holdfast.engine.cost.bill import read_bills
from holdfast.engine.cost.egress import EgressReport, as_document, egress_report
from holdfast.engine.cost.errors import PriceListInvalid
from holdfast.engine.cost.mapping import map_lines
from holdfast.engine.cost.movements import read_movements
from holdfast.engine.cost.periods import month_of
from holdfast.engine.cost.prices import GIB, Price, load_prices, read_price_list
from holdfast.engine.objectstore import memory_store
from holdfast.engine.objectstore._decorator import StoreDecorator
from holdfast.engine.objectstore.errors import PermissionRefused
from holdfast.engine.snapshot.receipts import Receipt, write_receipt
from world import AWS, AZURE, GCP

PERIOD = month_of(OCTOBER)
PRICES = str(Path(__file__).resolve().parents[3] / "include" / "prices" / "list-prices.yaml")


def receipt(target: str = GCP, *, gib: float = 1, day: int = 3, subject: str = "market-data", **fields: Any) -> Receipt:
    return Receipt(
        subject=subject,
        item=f"{day:032x}",
        manifest_digest="blake3:00",
        site=target,
        source_site=AWS,
        verified_at=OCTOBER + timedelta(days=day),
        **{
            "object_count": 10,
            "size_bytes": 100 * GIB,
            "read_back_objects": 1,
            "read_back_bytes": int(gib * GIB),
            "carried_objects": 9,
            **fields,
        },
    )


def stores(*receipts: Receipt) -> dict[str, Any]:
    found: dict[str, Any] = {site: Written(site) for site in (AWS, GCP, AZURE)}
    for one in receipts:
        write_receipt(found[one.site], one)
    return found


class Written(StoreDecorator):
    """Its objects are of the middle of the period."""

    def __init__(self, name: str) -> None:
        super().__init__(memory_store(name))

    def list(self, prefix: str = "", *, start_after: str | None = None):
        from dataclasses import replace

        for info in super().list(prefix, start_after=start_after):
            yield replace(info, modified_at=OCTOBER + timedelta(days=15))


def report(world: CostWorld, found: dict[str, Any], runs_at: str | None = AWS) -> EgressReport:
    bill = read_bills(world.runtime, world.cost, [PERIOD], stores=world.stores)
    lines = map_lines(bill.lines, world.topology, world.cost).lines
    return egress_report(
        read_movements(found, PERIOD), lines, world.topology, load_prices(world.topology), PERIOD, runs_at
    )


def test_what_left_is_priced_per_dataset_and_compared_with_the_bill():
    world = CostWorld(price_list=PRICES)
    world.deliver_aws(aws_lines())
    found = report(world, stores(receipt(gib=60), receipt(AZURE, gib=60), receipt(gib=30, day=5, subject="other")))
    copies = {one.subject: one for one in found.lines if (one.site, one.kind) == (AWS, "copy")}
    assert copies["market-data"].least_bytes == copies["market-data"].most_bytes == 120 * GIB
    # 150 GiB left the account: 100 are free, 50 cost 0.09, and each dataset pays its share.
    assert copies["market-data"].least.amount == Decimal("3.6")
    assert copies["other"].least.amount == Decimal("0.9")
    back = {(one.site, one.subject): one for one in found.lines if one.kind == "read-back"}
    assert back[GCP, "market-data"].least_bytes == 60 * GIB
    assert back[AZURE, "market-data"].least.price_id == "azure-egress-internet"
    document = as_document(found)
    (billed,) = document["billed"]
    assert billed["units"] == ["GB"]
    assert billed["per_gib"]["USD"] == "0.09"
    assert billed["explained"] == [pytest.approx(1.4516, abs=1e-4)] * 2


def test_what_was_not_read_back_is_a_bound_and_not_a_figure():
    found = report(CostWorld(price_list=PRICES), stores(receipt(gib=1, provider_objects=1, verification="provider")))
    copy = next(one for one in found.lines if one.kind == "copy")
    assert (copy.least_bytes, copy.most_bytes) == (GIB, 100 * GIB)


def test_without_runs_at_the_read_backs_are_told_and_not_priced():
    found = report(CostWorld(price_list=PRICES), stores(receipt()), runs_at=None)
    assert {one.kind for one in found.lines} == {"copy"}
    assert any("runs_at" in note for note in found.notes)


def test_a_third_site_that_copies_pays_for_the_relay():
    found = report(CostWorld(price_list=PRICES), stores(receipt(gib=2)), runs_at=AZURE)
    assert {(one.site, one.kind) for one in found.lines} == {(AWS, "copy"), (GCP, "read-back"), (AZURE, "relay")}


def test_no_price_is_not_free_and_an_unreadable_site_is_told():
    found_stores = stores(receipt())
    found_stores[AZURE] = Refusing(found_stores[AZURE])
    found_stores[GCP].put("receipts/market-data/x/gcp-europe-west1.json", b"{}")
    found = report(CostWorld(), found_stores)
    assert [one.least for one in found.lines] == [None, None]
    assert as_document(found)["metered"][0]["least_cost"] is None
    assert len(found.unreadable) == 2


class Refusing(StoreDecorator):
    def list(self, prefix: str = "", *, start_after: str | None = None):
        raise PermissionRefused("not allowed", where="receipts/")


def test_a_sites_own_price_comes_before_the_list():
    world = CostWorld(price_list=PRICES)
    document = world.topology.model_dump(mode="json", exclude_unset=True)
    document["sites"][AWS]["egress_cost_per_gib"] = 0.05
    world.topology = type(world.topology).model_validate(document)
    found = report(world, stores(receipt(gib=2)))
    copy = next(one for one in found.lines if one.kind == "copy")
    assert (copy.least.amount, copy.least.price_id) == (Decimal("0.1"), f"sites.{AWS}.egress_cost_per_gib")


@pytest.mark.parametrize(
    ("gib", "cost"), [(0, 0), (100, 0), (101, "0.09"), (10240, "912.6"), (10241, "912.685"), (160000, "11775.400")]
)
def test_tiers_are_paid_one_after_the_other(gib, cost):
    price = read_price_list(Path(PRICES)).find("aws", "eu-west-1", "egress")
    assert isinstance(price, Price)
    expected = Decimal(cost)
    if gib == 160000:
        expected = (
            10140 * Decimal("0.09") + 40960 * Decimal("0.085") + 102400 * Decimal("0.07") + 6400 * Decimal("0.05")
        )
    assert price.cost(gib * GIB) == expected


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"tiers": [{"price": 0.09}]}, "a float is not exact"),
        ({"tiers": [{"up_to": 5, "price": "1"}]}, "up_to"),
        ({"tiers": [{"up_to": 5, "price": "1"}, {"up_to": 4, "price": "1"}, {"price": "1"}]}, "up_to"),
        ({"unit": "furlong"}, "unit"),
        ({"id": "azure-blob-hot"}, "each id once"),
    ],
)
def test_a_price_list_that_says_nonsense_is_one_error(change, said, tmp_path):
    document = yaml.safe_load(Path(PRICES).read_text())
    document["prices"][0] |= change
    file = tmp_path / "prices.yaml"
    file.write_text(yaml.safe_dump(document))
    with pytest.raises(PriceListInvalid, match=said):
        read_price_list(file)
