"""Rules of FOCUS 1.2's Cost and Usage dataset, checked over an Arrow table: what a validator would refuse.

Column presence, types, nullability, allowed values and the conditions between columns, from the specification's column
and attribute pages. It is no certified validator and covers no rule that needs another dataset, a price list or
knowledge of the provider; docs/reference/cost.md lists what is covered. (`focus-validator` 1.0.0 on PyPI is for FOCUS
1.0 and pins an old pytz, so it cannot stand in this package's lock.)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from holdfast.engine.cost import columns

#: They must be there whatever the provider supports; the others where it does, and here they always are.
MANDATORY = (
    *("BilledCost", "BillingAccountId", "BillingAccountName", "BillingCurrency", "BillingPeriodEnd"),
    *("BillingPeriodStart", "ChargeCategory", "ChargeClass", "ChargeDescription", "ChargePeriodEnd"),
    *("ChargePeriodStart", "ContractedCost", "EffectiveCost", "InvoiceIssuerName", "ListCost", "PricingQuantity"),
    *("PricingUnit", "ProviderName", "PublisherName", "ServiceCategory", "ServiceName"),
)
NOT_NULL = (
    *("BilledCost", "BillingAccountId", "BillingCurrency", "BillingPeriodEnd", "BillingPeriodStart"),
    *("ChargeCategory", "ChargePeriodEnd", "ChargePeriodStart", "ContractedCost", "EffectiveCost"),
    *("InvoiceIssuerName", "ListCost", "ProviderName", "PublisherName", "ServiceCategory", "ServiceName"),
)
ALLOWED: Mapping[str, Sequence[str]] = {
    "ChargeCategory": ("Usage", "Purchase", "Tax", "Credit", "Adjustment"),
    "ChargeClass": ("Correction",),
    "ChargeFrequency": ("One-Time", "Recurring", "Usage-Based"),
    "PricingCategory": ("Standard", "Dynamic", "Committed", "Other"),
    "CommitmentDiscountCategory": ("Spend", "Usage"),
    "CommitmentDiscountStatus": ("Used", "Unused"),
    "CapacityReservationStatus": ("Used", "Unused"),
    "ServiceCategory": (
        *("AI and Machine Learning", "Analytics", "Business Applications", "Compute", "Databases", "Developer Tools"),
        *("Multicloud", "Identity", "Integration", "Internet of Things", "Management and Governance", "Media"),
        *("Migration", "Mobile", "Networking", "Security", "Storage", "Web", "Other"),
    ),
}


@dataclass(frozen=True)
class Violation:
    """One rule that some rows break.

    Args:
        row: the first such row, from 0; ``None``: the column as such.
    """

    column: str
    rule: str
    rows: int
    row: int | None


def check_focus(table: pa.Table) -> tuple[Violation, ...]:
    """Every broken rule."""
    return (*_presence(table), *_types(table), *(found for rule in _RULES for found in _broken(table, rule)))


def _presence(table: pa.Table) -> Iterator[Violation]:
    for name in MANDATORY:
        if name not in table.column_names:
            yield Violation(name, "must be present", 0, None)
    for name in table.column_names:
        if name not in columns.FOCUS_1_2 and not name.startswith("x_"):
            yield Violation(name, "a column that is not of FOCUS must begin with x_", 0, None)
        if table.column_names.count(name) > 1:
            yield Violation(name, "must be there once", 0, None)


def _types(table: pa.Table) -> Iterator[Violation]:
    for name in table.column_names:
        kind = table.schema.field(name).type
        if name in columns.DECIMALS and not pa.types.is_decimal(kind):
            yield Violation(name, "must be a decimal", 0, None)
        if name in columns.TIMES and not (pa.types.is_timestamp(kind) and kind.tz == "UTC"):
            yield Violation(name, "must be a time in UTC", 0, None)
        if name in columns.STRINGS and not pa.types.is_string(kind):
            yield Violation(name, "must be a string", 0, None)


@dataclass(frozen=True)
class _Rule:
    column: str
    says: str
    needs: tuple[str, ...]
    breaks: Callable[[Mapping[str, Any]], Any]


def _broken(table: pa.Table, rule: _Rule) -> Iterator[Violation]:
    if not all(name in table.column_names for name in rule.needs):
        return
    rows = pc.fill_null(rule.breaks({name: table[name] for name in rule.needs}), False)
    count = pc.sum(pc.cast(rows, pa.int64())).as_py() or 0
    if count:
        yield Violation(rule.column, rule.says, count, pc.index(rows, True).as_py())


def _is(values: Any, *wanted: str) -> Any:
    return pc.is_in(values, pa.array(wanted, pa.string()))


def _not_null(name: str) -> _Rule:
    return _Rule(name, "must not be null", (name,), lambda at: pc.is_null(at[name]))


def _allowed(name: str, values: Sequence[str]) -> _Rule:
    return _Rule(
        name,
        f"must be one of {', '.join(values)}",
        (name,),
        lambda at: pc.and_(pc.is_valid(at[name]), pc.invert(_is(at[name], *values))),
    )


def _after(name: str, other: str) -> _Rule:
    return _Rule(name, f"must be after {other}", (name, other), lambda at: pc.less_equal(at[name], at[other]))


def _together(name: str, other: str) -> _Rule:
    """Null exactly where the other one is."""
    return _Rule(
        name,
        f"must be null exactly where {other} is",
        (name, other),
        lambda at: pc.xor(pc.is_null(at[name]), pc.is_null(at[other])),
    )


def _null_without(name: str, other: str) -> _Rule:
    return _Rule(
        name,
        f"must be null where {other} is",
        (name, other),
        lambda at: pc.and_(pc.is_valid(at[name]), pc.is_null(at[other])),
    )


def _needed_with(name: str, other: str) -> _Rule:
    return _Rule(
        name,
        f"must not be null where {other} is not",
        (name, other),
        lambda at: pc.and_(pc.is_null(at[name]), pc.is_valid(at[other])),
    )


def _null_for(name: str, other: str, *values: str) -> _Rule:
    return _Rule(
        name,
        f"must be null where {other} is {' or '.join(values)}",
        (name, other),
        lambda at: pc.and_(pc.is_valid(at[name]), _is(at[other], *values)),
    )


def _needed_for_priced(name: str) -> _Rule:
    return _Rule(
        name,
        "must not be null where ChargeCategory is Usage or Purchase and ChargeClass is not Correction",
        (name, "ChargeCategory", "ChargeClass"),
        lambda at: pc.and_(
            pc.is_null(at[name]),
            pc.and_(_is(at["ChargeCategory"], "Usage", "Purchase"), pc.is_null(at["ChargeClass"])),
        ),
    )


def _negative(name: str) -> _Rule:
    return _Rule(name, "must not be negative", (name,), lambda at: pc.less(at[name], pa.scalar(0).cast(at[name].type)))


_RULES: tuple[_Rule, ...] = (
    *(_not_null(name) for name in NOT_NULL),
    *(_allowed(name, values) for name, values in ALLOWED.items()),
    _Rule(
        "BillingCurrency",
        "must be a code of ISO 4217",
        ("BillingCurrency",),
        lambda at: pc.invert(pc.match_substring_regex(at["BillingCurrency"], "^[A-Z]{3}$")),
    ),
    _after("ChargePeriodEnd", "ChargePeriodStart"),
    _after("BillingPeriodEnd", "BillingPeriodStart"),
    _Rule(
        "ChargeFrequency",
        "must not be Usage-Based where ChargeCategory is Purchase",
        ("ChargeFrequency", "ChargeCategory"),
        lambda at: pc.and_(_is(at["ChargeFrequency"], "Usage-Based"), _is(at["ChargeCategory"], "Purchase")),
    ),
    _together("PricingUnit", "PricingQuantity"),
    _together("ConsumedUnit", "ConsumedQuantity"),
    _null_for("PricingCategory", "ChargeCategory", "Tax"),
    _null_for("PricingQuantity", "ChargeCategory", "Tax"),
    _null_for("ListUnitPrice", "ChargeCategory", "Tax"),
    _null_for("ContractedUnitPrice", "ChargeCategory", "Tax"),
    _null_for("SkuPriceId", "ChargeCategory", "Tax"),
    _null_for("ConsumedQuantity", "ChargeCategory", "Purchase", "Tax", "Credit", "Adjustment"),
    _null_for("ConsumedQuantity", "CommitmentDiscountStatus", "Unused"),
    _needed_for_priced("PricingCategory"),
    _needed_for_priced("PricingQuantity"),
    _negative("ListUnitPrice"),
    _negative("ContractedUnitPrice"),
    _together("CommitmentDiscountCategory", "CommitmentDiscountId"),
    _together("CommitmentDiscountType", "CommitmentDiscountId"),
    _null_without("CommitmentDiscountName", "CommitmentDiscountId"),
    _null_without("CommitmentDiscountStatus", "CommitmentDiscountId"),
    _null_without("CapacityReservationStatus", "CapacityReservationId"),
    _together("RegionName", "RegionId"),
    _null_without("ResourceName", "ResourceId"),
    _needed_with("ResourceType", "ResourceId"),
    _null_without("SubAccountName", "SubAccountId"),
    _together("SubAccountType", "SubAccountId"),
    _Rule(
        "CommitmentDiscountStatus",
        "must not be null where CommitmentDiscountId is not and ChargeCategory is Usage",
        ("CommitmentDiscountStatus", "CommitmentDiscountId", "ChargeCategory"),
        lambda at: pc.and_(
            pc.is_null(at["CommitmentDiscountStatus"]),
            pc.and_(pc.is_valid(at["CommitmentDiscountId"]), _is(at["ChargeCategory"], "Usage")),
        ),
    ),
)
