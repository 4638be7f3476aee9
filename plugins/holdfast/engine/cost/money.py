"""Sums of money: exact, per currency, and never of two currencies together."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Context, Decimal
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

#: Behind the point, for people; documents carry every digit.
_SHOWN = Decimal("0.01")
#: Python's own context rounds a sum to 28 digits.
EXACT = Context(prec=76)


@dataclass(frozen=True, slots=True)
class Sum:
    """What lines come to in one currency.

    Args:
        billed: what is on the invoice.
        effective: with upfront payments spread over what they pay for; this is what "cost" means here.
        listed: at list prices, before every discount; ``None``: a line has none.
    """

    currency: str
    billed: Decimal
    effective: Decimal
    listed: Decimal | None
    lines: int

    def as_document(self) -> dict[str, Any]:
        return {
            "currency": self.currency,
            "billed": plain(self.billed),
            "effective": plain(self.effective),
            "listed": None if self.listed is None else plain(self.listed),
            "lines": self.lines,
        }


def sums(lines: pa.Table) -> tuple[Sum, ...]:
    """What these lines come to, per currency."""
    return tuple(value for _, value in grouped_sums(lines, ()))


def grouped_sums(lines: pa.Table, keys: Sequence[str]) -> list[tuple[tuple[Any, ...], Sum]]:
    """What the lines of each combination of these columns come to, per currency; in the order of the keys."""
    grouped = lines.group_by([*keys, "BillingCurrency"]).aggregate(
        [
            ("BilledCost", "sum"),
            ("EffectiveCost", "sum"),
            ("ListCost", "sum"),
            ("ListCost", "count"),
            ([], "count_all"),
        ]
    )
    found = []
    for row in grouped.to_pylist():
        made = Sum(
            row["BillingCurrency"],
            row["BilledCost_sum"],
            row["EffectiveCost_sum"],
            row["ListCost_sum"] if row["ListCost_count"] == row["count_all"] else None,
            row["count_all"],
        )
        found.append((tuple(row[key] for key in keys), made))
    return sorted(found, key=lambda one: (tuple(str(part) for part in one[0]), one[1].currency))


def plain(amount: Decimal) -> str:
    """Every digit, without an exponent and without zeros at the end."""
    text = format(amount, "f")
    text = text.rstrip("0").rstrip(".") if "." in text else text
    return "0" if text in ("-0", "") else text


def shown(amount: Decimal, currency: str) -> str:
    """For people; a small amount keeps two digits that say something."""
    if amount and abs(amount) < Decimal("0.005"):
        return f"{amount:.2g} {currency}"
    return f"{amount.quantize(_SHOWN):,} {currency}"


def total(amounts: Iterable[tuple[str, Decimal]]) -> dict[str, Decimal]:
    """Per currency."""
    found: dict[str, Decimal] = {}
    for currency, amount in amounts:
        found[currency] = EXACT.add(found.get(currency, Decimal(0)), amount)
    return found


def only_where(lines: pa.Table, column: str, *values: str | None) -> pa.Table:
    """The lines whose column is one of these, of which ``None`` is one as well."""
    return lines.filter(pc.is_in(lines[column], pa.array(values, pa.string())))
