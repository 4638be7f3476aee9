"""Minutes of RPO and RTO have a price with bounds; advice names its lines, its price and its risk, or is not given."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import yaml

from cost_world import OCTOBER, CostWorld, aws_lines, gcp_lines, line, machine
from holdfast.engine.cost.advice import Advice, advise, charge_id
from holdfast.engine.cost.bill import read_bills
from holdfast.engine.cost.idle import idle_commitments, spot_exposure
from holdfast.engine.cost.locked import locked_storage
from holdfast.engine.cost.mapping import map_lines
from holdfast.engine.cost.movements import Movement
from holdfast.engine.cost.objectives import RpoFrontier, rpo_frontiers, rto_frontiers
from holdfast.engine.cost.periods import month_of
from holdfast.engine.cost.prices import GIB, load_prices
from holdfast.engine.objectstore._decorator import StoreDecorator
from holdfast.engine.objectstore.errors import StoreUnavailable
from world import AWS, AZURE, GCP, GROUP

PERIOD = month_of(OCTOBER)
PRICES = str(Path(__file__).resolve().parents[3] / "include" / "prices" / "list-prices.yaml")


def syncs(count: int = 5, *, minutes: float = 60, gib: float = 1) -> list[Movement]:
    size = int(gib * GIB)
    return [
        Movement("market-data", str(at), AWS, GCP, OCTOBER + timedelta(minutes=minutes * at), size, size, 0, 100)
        for at in range(count)
    ]


def frontier(movements: list[Movement], world: CostWorld, **settings: Any) -> RpoFrontier:
    (found,) = rpo_frontiers(movements, world.topology, load_prices(world.topology), **settings)
    return found


def test_a_minute_of_rpo_has_a_price_between_two_bounds():
    world = CostWorld(price_list=PRICES)
    found = frontier(syncs(), world, lags={("market-data", GCP): 30})
    assert [float(step.interval_seconds) for step in found.steps] == [900, 1800, 3600, 7200, 14400]
    current = next(step for step in found.steps if step.is_current)
    # 730.5 syncs a month of 1 GiB and 100 objects: 630.5 GiB above the free 100, and 73,050 writes.
    assert current.least == current.most == Decimal("730.5") * Decimal("0.09") - 9 + Decimal("73.05") * Decimal("0.005")
    assert float(current.rpo_seconds) == 3630
    half = next(step for step in found.steps if step.interval_seconds == 1800)
    assert half.least == current.least
    assert half.most > current.most
    least, most = half.per_minute
    assert least == 0
    assert most == (half.most - current.most) / 30
    twice = next(step for step in found.steps if step.interval_seconds == 7200)
    assert twice.per_minute[1] == 0 or twice.per_minute[0] == 0
    assert min(twice.per_minute) >= 0  # longer is never dearer: each minute given away saves this much
    assert set(found.price_ids) == {"aws-egress-internet", "gcp-gcs-class-a"}


def test_too_few_syncs_say_nothing_and_no_price_is_not_free():
    assert frontier(syncs(2), CostWorld(price_list=PRICES)).steps == ()
    steps = frontier(syncs(), CostWorld()).steps
    assert [step.least for step in steps] == [None] * 5
    assert [step.per_minute for step in steps] == [None] * 5


def test_another_region_of_the_same_cloud_has_its_own_price_and_the_same_region_none():
    world = CostWorld(price_list=PRICES)
    document = world.topology.model_dump(mode="json", exclude_unset=True)
    document["sites"][GCP] |= {"cloud": "aws", "region": "eu-central-1"}
    world.topology = type(world.topology).model_validate(document)
    current = next(step for step in frontier(syncs(), world).steps if step.is_current)
    assert current.least == Decimal("730.5") * Decimal("0.02") + Decimal("73.05") * Decimal("0.005")
    document["sites"][GCP] |= {"region": "eu-west-1"}
    world.topology = type(world.topology).model_validate(document)
    current = next(step for step in frontier(syncs(), world).steps if step.is_current)
    assert current.least == Decimal("73.05") * Decimal("0.005")


def test_a_minute_of_rto_is_the_difference_to_what_stands_by_now():
    options = [
        {"name": "hot", "rto_seconds": 30, "per_month": "477.50", "basis": "a quote"},
        {"name": "cold", "rto_seconds": 3600, "per_month": "20", "basis": "the drill of May"},
        {"name": "worse", "rto_seconds": 4000, "per_month": "500", "basis": "nobody wants it"},
    ]
    world = CostWorld(rto_options={GROUP: options})
    world.deliver_gcp(gcp_lines())
    lines = mapped(world)
    from holdfast.engine.cost.money import grouped_sums
    from holdfast.engine.cost.standby import standby_lines

    standby = [(key[0], cost) for key, cost in grouped_sums(standby_lines(lines), ("x_HoldfastGroup",))]
    (found,) = rto_frontiers(world.topology, world.cost, standby, {GROUP: 330.0})
    steps = {step.name: step for step in found.steps}
    assert steps["now"].per_month == Decimal("177.50")
    assert steps["hot"].per_minute == Decimal(60)  # 300 more for 5 minutes
    assert steps["cold"].per_minute == pytest.approx(Decimal("2.889"), abs=Decimal("0.001"))
    assert found.dominated == ("worse",)
    (unmeasured,) = rto_frontiers(world.topology, world.cost, standby, {})
    assert [step.per_minute for step in unmeasured.steps] == [None] * 4


def mapped(world: CostWorld) -> Any:
    bill = read_bills(world.runtime, world.cost, [PERIOD], stores=world.stores)
    return map_lines(bill.lines, world.topology, world.cost).lines


def advice(world: CostWorld) -> dict[str, Advice]:
    found = advise(mapped(world), world.topology, load_prices(world.topology), PERIOD)
    return {one.kind: one for one in found}


def test_idle_commitments_and_spot_machines_of_the_standby_are_found():
    world = CostWorld().deliver_all()
    lines = mapped(world)
    idle = {one.kind: one for one in idle_commitments(lines)}
    assert idle["commitment"].unused.effective == Decimal("5.60")
    assert idle["commitment"].used.effective == Decimal("14.40")
    assert idle["commitment"].name == "flex-1"
    assert (idle["capacity"].unused.currency, idle["capacity"].unused.effective) == ("EUR", Decimal("50"))
    (spot,) = spot_exposure(lines, world.topology)
    assert (spot.group, spot.site, spot.premium) == (GROUP, GCP, Decimal("14"))


def test_advice_names_its_lines_its_price_and_its_risk():
    world = CostWorld(price_list=PRICES).deliver_all()
    found = advice(world)
    assert set(found) == {"idle-commitment", "idle-capacity", "spot-standby", "storage-class"}
    for one in found.values():
        assert one.lines
        assert one.risk
        assert one.price
        assert one.line_count >= len(one.lines)
    storage = found["storage-class"]
    # 100 GB-months at 31.50 now, at 0.01 in the other class.
    assert (storage.saving, storage.price, storage.site) == (Decimal("30.50"), "gcp-gcs-nearline", GCP)
    assert storage.lines[0].file == "2026-10/focus-000000000000.parquet"
    assert storage.lines[0].row == 1
    assert found["spot-standby"].saving == Decimal("-14")
    assert "RTO" in found["idle-capacity"].risk
    assert found["idle-capacity"].currency == "EUR"


def test_there_is_no_advice_without_a_line_or_a_price():
    assert advice(CostWorld(price_list=PRICES)) == {}
    world = CostWorld()
    world.deliver_aws(aws_lines())
    assert advice(world) == {}  # the active site's lines are no standby, and no price list is there


def test_a_charge_keeps_its_id_when_a_later_delivery_moves_it():
    one, other = line("1", x_SourceFile="a", x_SourceRow=2), line("1", x_SourceFile="b", x_SourceRow=9)
    assert charge_id(one) == charge_id(other)
    assert charge_id(one) != charge_id(line("1.01"))


def test_a_machine_that_always_stands_by_is_weighed_with_the_committed_price_of_its_sku(tmp_path: Path):
    document = yaml.safe_load(Path(PRICES).read_text())
    document["prices"].append(
        {
            "id": "gcp-e2-committed",
            "cloud": "gcp",
            "what": "compute-committed",
            "sku": "e2-standard-8",
            "unit": "hour",
            "tiers": [{"price": "0.10"}],
            "source": "a quote",
        }
    )
    file = tmp_path / "prices.yaml"
    file.write_text(yaml.safe_dump(document))
    world = CostWorld(price_list=str(file)).deliver_all()
    found = advice(world)["always-on"]
    assert (found.saving, found.price) == (Decimal("120") - Decimal("74.4"), "gcp-e2-committed")
    seldom = {**machine("vm-standby"), "ConsumedQuantity": Decimal("100"), "SkuId": "e2-standard-8"}
    tags = {"holdfast-group": GROUP, "holdfast-role": "standby"}
    world.deliver_gcp([line("120", tags=tags, provider="Google Cloud", RegionId="europe-west1", **seldom)])
    assert "always-on" not in advice(world)


class Away(StoreDecorator):
    def list(self, prefix: str = "", *, start_after: str | None = None):
        raise StoreUnavailable("it does not answer", where="a site")


def test_what_is_locked_is_money_already_spent():
    world = CostWorld(
        price_list=PRICES,
        exports={"gcp-bill": {"site": GCP, "bucket": "b"}, "azure-bill": {"site": AZURE, "bucket": "c"}},
        locked=[{"site": GCP, "prefix": "ledger", "days": 60}, {"site": AZURE, "prefix": "ledger", "days": 60}],
    )
    store = world.stores["gcp-bill"]
    world.clock = world.runtime.clock = type(world.clock)(OCTOBER)
    store.put("ledger/old", bytes(1000))
    world.clock.advance(45 * 86400)
    store.put("ledger/new", bytes(3000))
    store.put("other", bytes(5000))
    world.clock.advance(30 * 86400 - 1)
    stores = {GCP: store, AZURE: Away(store)}
    now = world.clock.now()
    found, away = locked_storage(stores, world.topology, world.cost, load_prices(world.topology), now)
    assert (found.objects, found.size_bytes, found.locked_bytes, found.grown_bytes) == (2, 4000, 3000, 3000)
    assert found.last_end == OCTOBER + timedelta(days=105)
    assert found.byte_months == pytest.approx(Decimal(3000) * 30 / Decimal("30.4375"), rel=Decimal("0.001"))
    assert found.committed.price_id == "gcp-gcs-standard"
    assert away.error is not None
    assert away.committed is None
