"""Bills of three clouds, made up line by line in the layouts their exports have, and a topology they belong to.

The lines are what real bills hold beside plain usage: reservations used and unused, savings, credits, refunds, taxes,
corrections of an earlier month, tags in each cloud's own form, two currencies.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from holdfast.clock import FakeClock
from holdfast.engine.config import Connection, Topology, load_topology
from holdfast.engine.config.cost import Cost
from holdfast.engine.cost.columns import DECIMALS, FOCUS_1_2, TIMES
from holdfast.engine.objectstore import memory_store
from holdfast.engine.objectstore._decorator import StoreDecorator
from holdfast.engine.objectstore.interface import ObjectInfo
from holdfast.engine.runtime import Runtime
from world import AWS, AZURE, GCP, GROUP, TOPOLOGY, topology_environ

OCTOBER = datetime(2026, 10, 1, tzinfo=UTC)
NOVEMBER = datetime(2026, 11, 1, tzinfo=UTC)
NOW = datetime(2026, 11, 29, 12, tzinfo=UTC)
DRILL = "20261012T120000Z-abc123"
_SINCE_1_1 = ("CapacityReservationId", "CapacityReservationStatus", "CommitmentDiscountQuantity", "SkuMeter")
_SINCE_1_1 += ("CommitmentDiscountUnit", "ServiceSubcategory", "SkuPriceDetails")
_SINCE_1_2 = ("BillingAccountType", "InvoiceId", "PricingCurrency", "PricingCurrencyContractedUnitPrice")
_SINCE_1_2 += ("PricingCurrencyEffectiveCost", "PricingCurrencyListUnitPrice", "SubAccountType")
#: Columns of a version of the specification, as the clouds write them.
COLUMNS = {
    "1.0": tuple(name for name in FOCUS_1_2 if name not in (*_SINCE_1_1, *_SINCE_1_2)),
    "1.1": tuple(name for name in FOCUS_1_2 if name not in _SINCE_1_2),
    "1.2": FOCUS_1_2,
    "1.3": (*FOCUS_1_2, "ServiceProviderName", "HostProviderName", "ContractApplied"),
    "1.4": (
        *(name for name in FOCUS_1_2 if name not in ("ProviderName", "PublisherName")),
        *("ServiceProviderName", "HostProviderName", "ContractApplied"),
    ),
}


def line(
    cost: str | Decimal,
    *,
    billed: str | Decimal | None = None,
    listed: str | Decimal | None = None,
    month: datetime = OCTOBER,
    start: datetime | None = None,
    hours: float = 24,
    tags: Mapping[str, str] | None = None,
    currency: str = "USD",
    provider: str = "AWS",
    account: str = "111122223333",
    **columns: Any,
) -> dict[str, Any]:
    """One line of a bill in the columns of 1.2; what is not named is what plain storage usage has."""
    cost = Decimal(cost)
    begin = start or month
    made: dict[str, Any] = dict.fromkeys(FOCUS_1_2)
    made |= {
        "BilledCost": cost if billed is None else Decimal(billed),
        "EffectiveCost": cost,
        "ContractedCost": cost if listed is None else Decimal(listed),
        "ListCost": cost if listed is None else Decimal(listed),
        "BillingAccountId": account,
        "BillingAccountName": "the desk",
        "BillingCurrency": currency,
        "BillingPeriodStart": month,
        "BillingPeriodEnd": (month + timedelta(days=32)).replace(day=1),
        "ChargePeriodStart": begin,
        "ChargePeriodEnd": begin + timedelta(hours=hours),
        "ChargeCategory": "Usage",
        "ChargeDescription": "storage",
        "ChargeFrequency": "Usage-Based",
        "ConsumedQuantity": Decimal("100"),
        "ConsumedUnit": "GB",
        "InvoiceIssuerName": provider,
        "PricingCategory": "Standard",
        "PricingQuantity": Decimal("100"),
        "PricingUnit": "GB-Mo",
        "ProviderName": provider,
        "PublisherName": provider,
        "RegionId": "eu-west-1",
        "RegionName": "EU (Ireland)",
        "ServiceCategory": "Storage",
        "ServiceName": "Amazon S3",
        "ServiceSubcategory": "Object Storage",
        "SkuId": "sku-1",
        "SkuPriceId": "sku-1.price-1",
        "SubAccountId": account,
        "SubAccountName": "dr",
        "Tags": dict(tags or {}),
    }
    return {**made, **columns}


def aws_lines(month: datetime = OCTOBER) -> list[dict[str, Any]]:
    """The active site's cloud: its bucket, a drill, taxes, a credit and a refund."""
    of = {"month": month}
    return [
        line("42.125", **of, ResourceId="arn:aws:s3:::holdfast-eu-west-1", ResourceType="Bucket"),
        line(
            "9.30",
            **of,
            **egress("103.333333333333333333", "DataTransfer-Out-Bytes"),
            **bucket_of("holdfast-eu-west-1"),
        ),
        line(
            "3.0000000001",
            **of,
            tags={"dr_drill_id": DRILL},
            start=month.replace(day=12),
            hours=1,
            **machine("i-drill"),
        ),
        line("-5", **of, ChargeCategory="Credit", ChargeFrequency="One-Time", PricingCategory=None, **unpriced()),
        line("-1.5", **of, ChargeClass="Correction", start=month - timedelta(days=20), **machine("i-refunded")),
        line(
            "8.06",
            **of,
            ChargeCategory="Tax",
            ServiceName="Tax",
            ServiceCategory="Other",
            PricingCategory=None,
            **unpriced(),
        ),
    ]


def gcp_lines(month: datetime = OCTOBER) -> list[dict[str, Any]]:
    """The standby site's cloud: storage, a machine that waits, a commitment half used, spot, one line nobody tagged."""
    of: dict[str, Any] = {"month": month, "provider": "Google Cloud", "account": "01AB-CD", "RegionId": "europe-west1"}
    mine = {"holdfast-group": GROUP, "holdfast-role": "standby"}
    committed = {
        "CommitmentDiscountCategory": "Spend",
        "CommitmentDiscountId": "projects/dr/commitments/flex-1",
        "CommitmentDiscountName": "flex-1",
        "CommitmentDiscountType": "Flexible CUD",
    }
    return [
        line("31.50", **of, ServiceName="Cloud Storage", ResourceName="holdfast-europe-west1", ResourceType="Bucket"),
        line("120", **of, billed="150", listed="150", tags=mine, **machine("vm-standby"), SkuId="e2-standard-8"),
        line(
            "14.40",
            **of,
            listed="20",
            tags=mine,
            CommitmentDiscountStatus="Used",
            **committed,
            **machine("vm", pricing="Committed"),
        ),
        line("5.60", **of, listed="5.60", tags=mine, CommitmentDiscountStatus="Unused", **committed, **idle()),
        line("6.00", **of, listed="20", tags=mine, **machine("vm-spot", pricing="Dynamic")),
        line("7.77", **{**of, "RegionId": "europe-west3"}, ServiceName="Cloud Storage", ResourceName="somebody-elses"),
    ]


def azure_lines(month: datetime = OCTOBER) -> list[dict[str, Any]]:
    """The witness's cloud, billed in euros: the account found by a rule, an unused reservation of capacity."""
    of: dict[str, Any] = {
        "month": month,
        "provider": "Microsoft",
        "account": "/providers/microsoft.billing/billingaccounts/1",
        "currency": "EUR",
        "RegionId": "westeurope",
    }
    store = "/subscriptions/s/resourcegroups/rg/providers/microsoft.storage/storageaccounts/drwitness"
    return [
        line("18.90", **of, ServiceName="Storage Accounts", ResourceId=store, SubAccountId="/subscriptions/dr"),
        line(
            "50",
            **of,
            SubAccountId="/subscriptions/dr",
            CapacityReservationId="/subscriptions/s/capacityreservations/cr-1",
            CapacityReservationStatus="Unused",
            **{**machine("cr-1"), "ConsumedQuantity": None, "ConsumedUnit": None},
        ),
        line("0.0000001", **of, SubAccountId="/subscriptions/other", ChargeDescription='=HYPERLINK("http://x")'),
    ]


def machine(name: str, *, pricing: str = "Standard") -> dict[str, Any]:
    """The columns of an hour of a machine."""
    return {
        "ChargeDescription": "machine hours",
        "ConsumedQuantity": Decimal("744"),
        "ConsumedUnit": "Hours",
        "PricingCategory": pricing,
        "PricingQuantity": Decimal("744"),
        "PricingUnit": "Hours",
        "ResourceId": name,
        "ResourceType": "Instance",
        "ServiceCategory": "Compute",
        "ServiceName": "Compute",
        "ServiceSubcategory": "Virtual Machines",
    }


def egress(gib: str, meter: str) -> dict[str, Any]:
    """The columns of bytes that left."""
    return {
        "ChargeDescription": f"{meter} to the internet",
        "ConsumedQuantity": Decimal(gib),
        "ConsumedUnit": "GB",
        "PricingUnit": "GB",
        "ServiceCategory": "Networking",
        "ServiceName": "AWS Data Transfer",
        "ServiceSubcategory": "Network Connectivity",
        "SkuMeter": meter,
    }


def bucket_of(name: str) -> dict[str, Any]:
    return {"ResourceId": name, "ResourceType": "Bucket"}


def unpriced() -> dict[str, Any]:
    """The columns of a line without a quantity."""
    names = ("ConsumedQuantity", "ConsumedUnit", "PricingQuantity", "PricingUnit", "SkuPriceId")
    return dict.fromkeys(names)


def idle() -> dict[str, Any]:
    """The columns of a commitment's unused part: priced, and nothing consumed."""
    return {**machine("flex-1", pricing="Committed"), "ConsumedQuantity": None, "ConsumedUnit": None}


def as_parquet(lines: Sequence[Mapping[str, Any]], version: str = "1.2", *, how: str = "aws") -> bytes:
    """A Parquet file as AWS writes it (doubles, a map of tags), or as BigQuery does (decimals, a list of pairs)."""
    arrays, fields = [], []
    for name in COLUMNS[version]:
        values = [_renamed(one, name) for one in lines]
        if name in DECIMALS:
            kind: Any = pa.float64() if how == "aws" else pa.decimal128(38, 18)
            values = [None if value is None else float(value) if how == "aws" else value for value in values]
        elif name in TIMES:
            kind = pa.timestamp("ms") if how == "aws" else pa.timestamp("us", tz="UTC")
        elif name == "Tags" and how == "aws":
            kind, values = pa.map_(pa.string(), pa.string()), [list(value.items()) for value in values]
        elif name == "Tags":
            kind = pa.list_(pa.struct([("key", pa.string()), ("value", pa.string())]))
            values = [[{"key": key, "value": item} for key, item in value.items()] for value in values]
        else:
            kind = pa.string()
        if kind == pa.timestamp("ms"):
            values = [None if value is None else value.replace(tzinfo=None) for value in values]
        arrays.append(pa.array(values, kind))
        fields.append(pa.field(name, kind))
    fields.append(pa.field("x_Discounts", pa.string()))
    arrays.append(pa.nulls(len(lines), pa.string()))
    sink = io.BytesIO()
    pq.write_table(pa.table(arrays, schema=pa.schema(fields)), sink)
    return sink.getvalue()


def as_csv(lines: Iterable[Mapping[str, Any]], version: str = "1.2", *, zipped: bool = False) -> bytes:
    """A CSV file as Azure writes it: tags as JSON, times with a Z, a byte order mark."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\r\n")
    names = [*COLUMNS[version], "x_CostAllocationRuleName"]
    writer.writerow(names)
    for one in lines:
        writer.writerow([_cell(_renamed(one, name)) for name in names])
    data = b"\xef\xbb\xbf" + text.getvalue().encode()
    return gzip.compress(data) if zipped else data


def _renamed(one: Mapping[str, Any], name: str) -> Any:
    return one.get({"ServiceProviderName": "ProviderName", "HostProviderName": "PublisherName"}.get(name, name))


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, datetime):
        return value.strftime("%Y-%m-%dT%H:%M:%SZ")
    if isinstance(value, dict):
        return json.dumps(value)
    return format(value, "f") if isinstance(value, Decimal) else str(value)


COST: dict[str, Any] = {
    "currency": "USD",
    "exports": {
        "aws-bill": {"site": AWS, "bucket": "bills-aws", "prefix": "exports"},
        "azure-bill": {"site": AZURE, "bucket": "bills", "prefix": "focus"},
        "gcp-bill": {"site": GCP, "bucket": "bills-gcp", "prefix": "focus"},
    },
    "rules": [{"sub_account": "/subscriptions/dr", "group": GROUP, "role": "witness", "site": AZURE}],
}


class CostWorld:
    """The topology of the sandbox with bills of October 2026 in memory; it is the 29th of November."""

    def __init__(self, **cost: Any) -> None:
        self.clock = FakeClock(NOW)
        sandbox = load_topology(TOPOLOGY, topology_environ())
        document = sandbox.model_dump(mode="json", exclude_unset=True)
        document["cost"] = {**COST, **cost}
        self.topology = Topology.model_validate(document)
        self.stores: dict[str, Any] = {name: Dated(name, self) for name in document["cost"]["exports"]}
        self.runtime = Runtime(self.topology, _NoConnections(), clock=self.clock)

    @property
    def cost(self) -> Cost:
        assert self.topology.cost is not None
        return self.topology.cost

    def deliver_all(self, month: datetime = OCTOBER) -> CostWorld:
        """Every cloud's bill of a month, in its own layout."""
        self.deliver_aws(aws_lines(month), month=month)
        self.deliver_azure(azure_lines(month), month=month, version="1.2")
        self.deliver_gcp(gcp_lines(month), month=month)
        return self

    def deliver_aws(
        self, lines: Sequence[Mapping[str, Any]], *, month: datetime = OCTOBER, run: str = "", files: int = 2
    ) -> None:
        """As AWS Data Exports lays it out, the manifest last."""
        store, part = self.stores["aws-bill"], f"BILLING_PERIOD={month:%Y-%m}"
        folder = f"dr/data/{part}/{run}/" if run else f"dr/data/{part}/"
        keys = []
        for at in range(files):
            key = f"{folder}dr-{at + 1:05}.snappy.parquet"
            store.put(key, as_parquet(lines[at::files], "1.2"))
            keys.append(f"s3://bills-aws/exports/{key}")
        manifest = {"executionId": run or "one", "dataFiles": keys, "columns": []}
        metadata = f"dr/metadata/{part}/{run}/" if run else f"dr/metadata/{part}/"
        store.put(f"{metadata}dr-Manifest.json", json.dumps(manifest).encode())

    def deliver_azure(
        self,
        lines: Sequence[Mapping[str, Any]],
        *,
        month: datetime = OCTOBER,
        run: str = "run-1",
        version: str = "1.0r2",
        rows: int | None = None,
    ) -> None:
        """As a Cost Management export lays it out."""
        end = (month + timedelta(days=32)).replace(day=1) - timedelta(days=1)
        folder = f"daily/{month:%Y%m%d}-{end:%Y%m%d}/{run}/"
        store = self.stores["azure-bill"]
        store.put(f"{folder}part_0_0001.csv.gz", as_csv(lines, version.removesuffix("r2"), zipped=True))
        blob = {"blobName": f"focus/{folder}part_0_0001.csv.gz", "dataRowCount": len(lines) if rows is None else rows}
        manifest = {"exportConfig": {"type": "FocusCost", "dataVersion": version}, "blobs": [blob]}
        store.put(f"{folder}manifest.json", json.dumps(manifest).encode())

    def deliver_gcp(
        self, lines: Sequence[Mapping[str, Any]], *, month: datetime = OCTOBER, folder: str | None = None
    ) -> None:
        """As a query's EXPORT DATA leaves it: files without a manifest."""
        where = f"{month:%Y-%m}" if folder is None else folder
        self.stores["gcp-bill"].put(f"{where}/focus-000000000000.parquet", as_parquet(lines, "1.0", how="bigquery"))


class Dated(StoreDecorator):
    """A store in memory whose objects are as old as the world's clock says."""

    def __init__(self, name: str, world: CostWorld) -> None:
        super().__init__(memory_store(f"bill {name}"))
        self._world = world
        self._put_at: dict[str, datetime] = {}

    def put(self, key: str, *args: Any, **kwargs: Any) -> Any:
        self._put_at[key] = self._world.clock.now()
        return super().put(key, *args, **kwargs)

    def list(self, prefix: str = "", *, start_after: str | None = None) -> Iterator[ObjectInfo]:
        for info in super().list(prefix, start_after=start_after):
            yield replace(info, modified_at=self._put_at[info.key])


class _NoConnections:
    def get(self, conn_id: str) -> Connection:
        raise AssertionError(f"nothing may ask for {conn_id}")


def price_list(folder: Path) -> Path:
    """A small price list in a file."""
    file = folder / "prices.yaml"
    file.write_text((Path(__file__).resolve().parents[1] / "include" / "prices" / "list-prices.yaml").read_text())
    return file
