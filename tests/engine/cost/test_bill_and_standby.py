"""The bills of three clouds come to what they should, once, per currency, and what is not there is unknown."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from cost_world import NOVEMBER, OCTOBER, CostWorld, aws_lines, azure_lines, gcp_lines, line
from holdfast.clock import FakeClock
from holdfast.engine.config import Connection, EnvironmentConnections
from holdfast.engine.cost.bill import BillState, lines_of, read_bills
from holdfast.engine.cost.mapping import map_lines
from holdfast.engine.cost.money import sums
from holdfast.engine.cost.periods import month_of, parse_period
from holdfast.engine.cost.standby import StandbyReport, standby_report
from holdfast.engine.objectstore._decorator import StoreDecorator
from holdfast.engine.objectstore.errors import PermissionRefused
from holdfast.engine.runtime import Runtime
from holdfast.errors import ConfigError
from world import AWS, AZURE, GCP, GROUP

PERIOD = month_of(OCTOBER)


def report(world: CostWorld) -> StandbyReport:
    bill = read_bills(world.runtime, world.cost, [PERIOD], stores=world.stores)
    return standby_report(bill, map_lines(bill.lines, world.topology, world.cost).lines, PERIOD, world.topology)


def effective(lines: list[dict]) -> Decimal:
    return sum((one["EffectiveCost"] for one in lines), Decimal(0))


def test_standby_cost_is_per_group_site_and_role_and_never_adds_two_currencies():
    found = report(CostWorld().deliver_all())
    assert found.state is BillState.FINAL
    assert found.is_known
    standby = {(one.site, one.role, one.cost.currency): one for one in found.lines}
    assert set(standby) == {(GCP, "standby", "USD"), (AZURE, "witness", "EUR")}
    at_gcp = standby[GCP, "standby", "USD"]
    assert (at_gcp.group, at_gcp.tier, at_gcp.mapped_by) == (GROUP, 1, ("bucket", "tag"))
    assert at_gcp.cost.effective == Decimal("177.50")
    assert at_gcp.cost.billed == Decimal("207.50")
    assert standby[AZURE, "witness", "EUR"].cost.effective == Decimal("68.90")
    assert {one.currency: one.effective for one in found.totals} == {"USD": Decimal("177.50"), "EUR": Decimal("68.90")}
    assert {one.currency: one.effective for one in found.unmapped} == {
        "USD": Decimal("7.77") + Decimal("-5") + Decimal("-1.5") + Decimal("8.06") + Decimal("3.0000000001"),
        "EUR": Decimal("0.0000001"),
    }
    whole = effective(aws_lines()) + effective(gcp_lines())
    assert {one.currency: one.effective for one in found.whole} == {"USD": whole, "EUR": effective(azure_lines())}


def test_a_newer_delivery_replaces_an_older_one_in_each_clouds_layout():
    world = CostWorld()
    world.deliver_aws([line("1000")], run="2026-11-02-a", files=1)
    world.deliver_azure([line("1000", currency="EUR")], run="run-0")
    world.deliver_gcp([line("1000", account="01AB-CD")], folder="2026-10/first")
    world.clock.advance(1)
    world.deliver_aws(aws_lines(), run="2026-11-14-b")
    world.deliver_azure(azure_lines(), run="run-1")
    world.deliver_gcp(gcp_lines(), folder="2026-10/second")
    bill = read_bills(world.runtime, world.cost, [PERIOD], stores=world.stores)
    assert bill.lines.num_rows == len(aws_lines()) + len(azure_lines()) + len(gcp_lines())
    assert len([note for note in bill.notes if "older" in note or "newer" in note]) == 3


def test_a_file_that_is_there_twice_and_an_export_of_the_same_account_count_once():
    world = CostWorld(
        exports={
            "gcp-bill": {"site": GCP, "bucket": "b", "prefix": "one"},
            "more": {"site": GCP, "bucket": "b", "prefix": "two"},
        }
    )
    world.deliver_gcp(gcp_lines())
    first = world.stores["gcp-bill"].get("2026-10/focus-000000000000.parquet")
    world.stores["gcp-bill"].put("2026-10/focus-000000000000 (1).parquet", first)
    world.stores["more"].put("copy/focus.parquet", first)
    bill = read_bills(world.runtime, world.cost, [PERIOD], stores=world.stores)
    assert sums(bill.lines)[0].effective == effective(gcp_lines())
    assert any("once more" in note for note in bill.notes)
    assert any("counted once" in note for note in bill.notes)


def test_late_lines_and_corrections_belong_to_the_period_that_bills_them():
    world = CostWorld()
    world.deliver_gcp(gcp_lines())
    late = line("9", month=NOVEMBER, start=OCTOBER + timedelta(days=30), account="01AB-CD", provider="Google Cloud")
    world.deliver_gcp([{**late, "ChargeClass": "Correction"}], month=NOVEMBER)
    bill = read_bills(world.runtime, world.cost, [PERIOD, PERIOD.next], stores=world.stores)
    assert sums(lines_of(bill.lines, PERIOD))[0].effective == effective(gcp_lines())
    assert sums(lines_of(bill.lines, PERIOD.next))[0].effective == 9


def test_a_period_that_begins_in_pacific_time_or_at_mid_month_is_still_a_month():
    world = CostWorld()
    pacific = {"BillingPeriodStart": OCTOBER + timedelta(hours=7), "BillingPeriodEnd": NOVEMBER + timedelta(hours=7)}
    east = {"BillingPeriodStart": OCTOBER - timedelta(hours=8), "BillingPeriodEnd": NOVEMBER - timedelta(hours=8)}
    odd = {"BillingPeriodStart": OCTOBER - timedelta(days=10), "BillingPeriodEnd": NOVEMBER - timedelta(days=10)}
    world.deliver_gcp([line("1", **pacific), line("2", **east), line("4", **odd)])
    bill = read_bills(world.runtime, world.cost, [PERIOD], stores=world.stores)
    assert sums(lines_of(bill.lines, PERIOD))[0].effective == 7
    assert bill.part_states(PERIOD)["gcp-bill"] is BillState.FINAL


def test_one_broken_manifest_makes_its_own_period_unknown_and_no_other():
    world = CostWorld()
    world.deliver_aws(aws_lines())
    world.deliver_aws(aws_lines(NOVEMBER), month=NOVEMBER)
    world.stores["aws-bill"].put("dr/metadata/BILLING_PERIOD=2026-11/dr-Manifest.json", b"{")
    bill = read_bills(world.runtime, world.cost, [PERIOD, PERIOD.next], stores=world.stores)
    assert bill.part_states(PERIOD)["aws-bill"] is BillState.FINAL
    assert bill.part_states(PERIOD.next)["aws-bill"] is BillState.DAMAGED
    for data in (b"[]", b"{}", b'{"dataFiles": "x"}', b'{"dataFiles": ["s3://elsewhere/x.parquet"]}'):
        world.stores["aws-bill"].put("dr/metadata/BILLING_PERIOD=2026-10/dr-Manifest.json", data)
        bill = read_bills(world.runtime, world.cost, [PERIOD], stores=world.stores)
        assert bill.part_states(PERIOD)["aws-bill"] is BillState.DAMAGED


def test_a_missing_list_cost_is_unknown_and_takes_no_sum_with_it():
    world = CostWorld()
    world.deliver_gcp([line("1", ListCost=None), line("2")])
    bill = read_bills(world.runtime, world.cost, [PERIOD], stores=world.stores)
    (found,) = sums(bill.lines)
    assert (found.effective, found.listed, found.as_document()["listed"]) == (3, None, None)


class Refusing(StoreDecorator):
    def list(self, prefix: str = "", *, start_after: str | None = None):
        raise PermissionRefused("the token has expired", where="bills")


def test_what_cannot_be_read_is_unknown_and_never_zero():
    world = CostWorld().deliver_all()
    world.stores["gcp-bill"] = Refusing(world.stores["gcp-bill"])
    found = report(world)
    assert (found.state, found.is_known) == (BillState.UNREADABLE, False)
    assert [part.detail for part in found.parts if part.state is BillState.UNREADABLE] != [""]

    world = CostWorld().deliver_all()
    world.deliver_azure(azure_lines(), rows=17)
    found = report(world)
    assert (found.state, found.is_known) == (BillState.DAMAGED, False)
    assert any("17 rows" in part.detail for part in found.parts)

    world = CostWorld()
    world.deliver_aws(aws_lines())
    found = report(world)
    assert (found.state, found.is_known) == (BillState.MISSING, False)


def test_a_cloud_that_stands_by_and_has_no_export_makes_the_sum_unknown():
    world = CostWorld(exports={"gcp-bill": {"site": GCP, "bucket": "b"}}, rules=[])
    world.deliver_gcp(gcp_lines())
    found = report(world)
    assert (found.state, found.uncovered, found.is_known) == (BillState.FINAL, (AZURE,), False)
    assert "names no bill" in found.unknown[0]


def test_a_file_the_manifest_names_and_that_is_not_there_is_no_smaller_bill():
    world = CostWorld().deliver_all()
    world.stores["aws-bill"].delete("dr/data/BILLING_PERIOD=2026-10/dr-00002.snappy.parquet")
    found = report(world)
    assert found.state is BillState.DAMAGED
    assert AWS not in {one.site for one in found.lines}


def test_a_period_is_final_only_after_its_corrections_time():
    world = CostWorld()
    world.clock = world.runtime.clock = type(world.clock)(OCTOBER + timedelta(days=40))
    world.deliver_all()
    assert report(world).state is BillState.OPEN


@pytest.mark.parametrize("text", ["2026-13", "2026", "october", "2026-1"])
def test_a_period_is_a_month(text):
    with pytest.raises(ConfigError, match="no billing period"):
        parse_period(text)


def test_an_aws_export_is_read_through_s3_with_its_sites_connection(moto):
    import boto3

    world = CostWorld(exports={"aws-bill": {"site": AWS, "bucket": "bills-aws", "prefix": "/exports/"}})
    world.deliver_aws(aws_lines())
    s3 = boto3.client("s3", "eu-west-1", endpoint_url=moto, aws_access_key_id="a", aws_secret_access_key="b")
    s3.create_bucket(Bucket="bills-aws", CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
    for info in world.stores["aws-bill"].list(""):
        s3.put_object(Bucket="bills-aws", Key=f"exports/{info.key}", Body=world.stores["aws-bill"].get(info.key))
    s3.put_object(Bucket="bills-aws", Key="exports-of-another/x.csv", Body=b"no bill")
    extra = {"endpoint_url": moto, "region_name": "eu-west-1"}
    access = Connection(conn_id="x", conn_type="aws", login="a", password="b", extra=extra)
    clock = FakeClock(datetime.now(UTC) + timedelta(days=60))  # moto dates its objects by the machine's clock
    runtime = Runtime(world.topology, EnvironmentConnections({}), access=lambda _name, _site: access, clock=clock)
    bill = read_bills(runtime, world.cost, [PERIOD])
    assert [(part.export, part.files, part.rows) for part in bill.parts] == [("aws-bill", 2, len(aws_lines()))]
    assert sums(bill.lines)[0].effective == effective(aws_lines())
