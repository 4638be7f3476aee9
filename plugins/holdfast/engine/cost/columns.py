"""The columns of FOCUS's Cost and Usage dataset, and what their presence says of a file's version.

From the specification's column pages for 1.0 to 1.4 (https://focus.finops.org/focus-specification/). What is read is
brought to the columns of 1.2, the newest version that all three clouds export.
"""

from __future__ import annotations

from collections.abc import Collection

import pyarrow as pa

from holdfast.engine.config import Cloud

#: Money and quantities: exact, 20 digits before the point and 18 behind it.
DECIMAL = pa.decimal128(38, 18)
TIME = pa.timestamp("us", tz="UTC")
TAGS = pa.map_(pa.string(), pa.string())

DECIMALS = (
    "BilledCost",
    "CommitmentDiscountQuantity",
    "ConsumedQuantity",
    "ContractedCost",
    "ContractedUnitPrice",
    "EffectiveCost",
    "ListCost",
    "ListUnitPrice",
    "PricingCurrencyContractedUnitPrice",
    "PricingCurrencyEffectiveCost",
    "PricingCurrencyListUnitPrice",
    "PricingQuantity",
)
TIMES = ("BillingPeriodEnd", "BillingPeriodStart", "ChargePeriodEnd", "ChargePeriodStart")
STRINGS = (
    *("AvailabilityZone", "BillingAccountId", "BillingAccountName", "BillingAccountType", "BillingCurrency"),
    *("CapacityReservationId", "CapacityReservationStatus", "ChargeCategory", "ChargeClass", "ChargeDescription"),
    *("ChargeFrequency", "CommitmentDiscountCategory", "CommitmentDiscountId", "CommitmentDiscountName"),
    *("CommitmentDiscountStatus", "CommitmentDiscountType", "CommitmentDiscountUnit", "ConsumedUnit", "InvoiceId"),
    *("InvoiceIssuerName", "PricingCategory", "PricingCurrency", "PricingUnit", "ProviderName", "PublisherName"),
    *("RegionId", "RegionName", "ResourceId", "ResourceName", "ResourceType", "ServiceCategory", "ServiceName"),
    *("ServiceSubcategory", "SkuId", "SkuMeter", "SkuPriceDetails", "SkuPriceId", "SubAccountId", "SubAccountName"),
    "SubAccountType",
)
FOCUS_1_2 = tuple(sorted((*DECIMALS, *TIMES, *STRINGS, "Tags")))

#: What stands in ``ProviderName``.
PROVIDERS = {Cloud.AWS: "AWS", Cloud.GCP: "Google Cloud", Cloud.AZURE: "Microsoft", Cloud.LOCAL: "Holdfast"}

#: Without these no line can be attributed to anything; every version from 1.0 on has them.
REQUIRED = (
    *("BilledCost", "EffectiveCost", "ListCost", "BillingCurrency", "BillingPeriodStart", "BillingPeriodEnd"),
    *("ChargePeriodStart", "ChargePeriodEnd", "ChargeCategory", "ServiceName"),
)
#: What no line of a bill may leave empty. A list cost is missed only where it is asked for.
NEVER_NULL = tuple(name for name in REQUIRED if name not in ("ListCost", "ServiceName"))
#: A later version's column, and the one of 1.2 it stands for.
RENAMED = {"ServiceProviderName": "ProviderName", "HostProviderName": "PublisherName"}

_SINCE_1_3 = {"ServiceProviderName", "HostProviderName", "ContractApplied", "AllocatedMethodId", "AllocatedResourceId"}
_SINCE_1_2 = {"InvoiceId", "PricingCurrency", "BillingAccountType", "SubAccountType"}
_SINCE_1_1 = {"CapacityReservationStatus", "CommitmentDiscountQuantity", "ServiceSubcategory", "SkuMeter"}

#: What is added to each line as it is read.
ADDED = pa.schema(
    [
        pa.field("x_FocusVersion", pa.string(), nullable=False),
        pa.field("x_Export", pa.string(), nullable=False),
        pa.field("x_SourceFile", pa.string(), nullable=False),
        pa.field("x_SourceRow", pa.int64(), nullable=False),
    ]
)


def type_of(name: str) -> pa.DataType:
    """The type a column of 1.2 is brought to."""
    if name in DECIMALS:
        return DECIMAL
    if name in TIMES:
        return TIME
    return TAGS if name == "Tags" else pa.string()


SCHEMA = pa.schema([*(pa.field(name, type_of(name)) for name in FOCUS_1_2), *ADDED])


def version_of(names: Collection[str]) -> str:
    """The oldest version that has all the columns these are, by presence: ``1.0`` to ``1.4``.

    Azure's ``1.0r2`` has the columns of 1.0; only its export's manifest tells them apart.
    """
    present = set(names)
    if present & _SINCE_1_3:
        return "1.3" if "ProviderName" in present else "1.4"
    if present & _SINCE_1_2:
        return "1.2"
    return "1.1" if present & _SINCE_1_1 else "1.0"
