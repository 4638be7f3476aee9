"""Asking a cloud's billing interface where an export is missing: rarely, never beyond a budget, and never twice.

An answer is kept in the state folder: for eight hours while its period may change (the clouds refresh three times a
day), for good once it has settled. What is asked are sums per sub-account and service; tags and resources, and so
most of what the rest of this package says, only an export has.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from decimal import Decimal, InvalidOperation
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, Protocol

import pyarrow as pa

from holdfast.engine.config import Topology
from holdfast.engine.config.cost import Cost, CostApi
from holdfast.engine.cost import columns
from holdfast.engine.cost.bill import Bill, BillPart, BillState
from holdfast.engine.cost.errors import BillingRefused, BillingUnavailable, NoBill, OverBudget
from holdfast.engine.cost.periods import Period
from holdfast.engine.runtime import Runtime
from holdfast.errors import ConfigError

_KEEP = timedelta(hours=8)
_SETTLES = timedelta(days=20)
FORMAT = "holdfast.asked-cost/1"


@dataclass
class Budget:
    """What one run may still spend on asking, in US dollars, and in requests."""

    most_cost: Decimal
    most_requests: int = 50
    spent: Decimal = Decimal(0)
    requests: int = 0

    def take(self, price: Decimal, where: str) -> None:
        """Before a request. Raises OverBudget; then nothing was asked."""
        if self.requests >= self.most_requests or self.spent + price > self.most_cost:
            raise OverBudget(
                "the next request to the billing interface would go beyond its budget; it was not made",
                where=where,
                expected=f"{self.most_cost} USD and {self.most_requests} requests at most in one run",
                found=f"{self.spent} USD and {self.requests} requests so far, {price} USD for the next",
                fix="Set up a FOCUS export, or raise `most_cost` of the interface",
            )
        self.spent += price
        self.requests += 1


@dataclass(frozen=True, slots=True)
class AskedLine:
    """A sum of one sub-account and service in a period."""

    sub_account: str | None
    service: str
    currency: str
    effective: Decimal
    billed: Decimal


@dataclass(frozen=True)
class Asked:
    """An answer.

    Args:
        spent: on asking, in US dollars; 0 when it was kept from an earlier run.
        not_kept: why it could not be kept, so that the next run asks, and pays, again.
    """

    kind: str
    scope: str
    period: Period
    lines: tuple[AskedLine, ...]
    asked_at: datetime
    spent: Decimal = Decimal(0)
    requests: int = 0
    is_kept: bool = False
    not_kept: str | None = None


class BillingApi(Protocol):
    """One leaf per cloud."""

    def ask(self, period: Period, budget: Budget) -> tuple[AskedLine, ...]:
        """The sums of a period.

        Raises:
            OverBudget: the next request would cost too much.
            BillingUnavailable: it was throttled, or did not answer.
            BillingRefused: the credentials are expired or do not allow it.
            NoBill: it has nothing of the period.
        """


def open_api(runtime: Runtime, settings: CostApi) -> BillingApi:
    """The leaf of an interface. Raises ConfigError."""
    connection = runtime.connections.get(settings.connection)
    if settings.kind == "cost-explorer":
        from holdfast.engine.cost.aws_cost_explorer import CostExplorer

        return CostExplorer(settings.scope, connection, clock=runtime.clock)
    if settings.kind == "cost-management":
        from holdfast.engine.cost.azure_cost_management import CostManagement

        return CostManagement(settings.scope, connection, clock=runtime.clock)
    from holdfast.engine.cost.gcp_billing import BigQueryBilling

    return BigQueryBilling(settings.scope, connection, price_per_tib=settings.price_per_tib)


@dataclass
class Asking:
    """Asks, within a budget, and keeps what was answered.

    Args:
        folder: where answers are kept.
        apis: by site, instead of the leaves.
    """

    runtime: Runtime
    folder: Path
    apis: dict[str, BillingApi] = field(default_factory=dict)

    def ask(self, site: str, settings: CostApi, period: Period) -> Asked:
        """One site's sums of one period; see `BillingApi.ask` for what else is raised.

        Raises:
            ConfigError: answers cannot be kept in the folder; nothing was asked.
        """
        now = self.runtime.clock.now()
        kept = self._kept(settings, period, now)
        if kept is not None:
            return kept
        _require_writable(self.folder)
        budget = Budget(settings.most_cost)
        api = self.apis.get(site) or open_api(self.runtime, settings)
        lines = api.ask(period, budget)
        if not lines:
            raise NoBill(
                "the billing interface has nothing of the period: what it cost is unknown",
                where=f"{settings.kind} {settings.scope}",
                expected=f"sums of {period}",
                found="none",
            )
        asked = Asked(settings.kind, settings.scope, period, lines, now, budget.spent, budget.requests)
        try:
            _keep(self._file(settings, period), asked)
        except OSError as error:  # it was paid for, and is shown all the same
            return replace(asked, not_kept=str(error))
        return asked

    def _file(self, settings: CostApi, period: Period) -> Path:
        name = json.dumps([settings.kind, settings.scope, settings.connection, str(period)])
        return self.folder / f"{hashlib.sha256(name.encode()).hexdigest()[:32]}.json"

    def _kept(self, settings: CostApi, period: Period, now: datetime) -> Asked | None:
        try:
            found = json.loads(self._file(settings, period).read_text(encoding="utf-8"))
            asked_at = datetime.fromisoformat(found["asked_at"])
            lines = tuple(AskedLine(one[0], one[1], one[2], Decimal(one[3]), Decimal(one[4])) for one in found["lines"])
            if found["format"] != FORMAT or not timedelta(0) <= now - asked_at:
                return None
        except (OSError, ValueError, KeyError, TypeError, IndexError, InvalidOperation):
            return None
        has_settled = asked_at >= period.end + _SETTLES
        if not has_settled and now - asked_at > _KEEP:
            return None
        return Asked(settings.kind, settings.scope, period, lines, asked_at, is_kept=True)


def asked_bill(bill: Bill, asking: Asking, cost: Cost, topology: Topology, periods: Sequence[Period]) -> Bill:
    """A bill with what interfaces say of the clouds whose export has nothing; its notes say what asking cost.

    A refusal, a throttled interface or an exhausted budget leaves the part unknown, with the reason.
    """
    parts, tables, told = list(bill.parts), [bill.lines], []
    for site, settings in sorted(cost.apis.items()):
        exports = [name for name, one in cost.exports.items() if one.site == site]
        for period in periods:
            lacking = [part for part in parts if part.period == period and part.export in exports]
            if any(part.state.is_known for part in lacking):
                continue
            name = f"asked-{site}"
            try:
                asked = asking.ask(site, settings, period)
            except (OverBudget, BillingUnavailable, BillingRefused, NoBill) as error:
                parts.append(BillPart(name, site, period, BillState.UNREADABLE, detail=str(error)))
                continue
            told += [f"{part.export} {period}: {part.state}: {part.detail}" for part in lacking]
            parts = [part for part in parts if part not in lacking]
            parts.append(_part(name, site, asked))
            tables.append(_table(name, asked, columns.PROVIDERS[topology.site(site).cloud]))
            told.append(
                f"{name} {period}: {'kept' if asked.is_kept else 'asked'} at {asked.asked_at:%Y-%m-%d %H:%M}, "
                f"{asked.requests} requests, {asked.spent} USD"
                + (f"; it could not be kept, so the next run asks again: {asked.not_kept}" if asked.not_kept else "")
            )
    return replace(bill, lines=pa.concat_tables(tables), parts=tuple(parts), notes=(*bill.notes, *told))


def _part(name: str, site: str, asked: Asked) -> BillPart:
    detail = "sums of an interface, without tags and resources; an export has them"
    return BillPart(name, site, asked.period, BillState.OPEN, asked.asked_at, 0, len(asked.lines), (), detail)


def _table(name: str, asked: Asked, provider: str) -> pa.Table:
    rows: list[dict[str, Any]] = [
        {
            **dict.fromkeys(columns.SCHEMA.names),
            "BilledCost": one.billed,
            **dict.fromkeys(("EffectiveCost", "ListCost", "ContractedCost"), one.effective),
            "BillingAccountId": asked.scope,
            "BillingCurrency": one.currency,
            **dict.fromkeys(("BillingPeriodStart", "ChargePeriodStart"), asked.period.start),
            **dict.fromkeys(("BillingPeriodEnd", "ChargePeriodEnd"), asked.period.end),
            "ChargeCategory": "Usage",
            "ChargeDescription": "a sum of a billing interface",
            **dict.fromkeys(("InvoiceIssuerName", "ProviderName", "PublisherName"), provider),
            "ServiceCategory": "Other",
            "ServiceName": one.service,
            "SubAccountId": one.sub_account,
            "x_FocusVersion": asked.kind,
            "x_Export": name,
            "x_SourceFile": asked.kind,
            "x_SourceRow": at,
        }
        for at, one in enumerate(asked.lines, 1)
    ]
    return pa.Table.from_pylist(rows, schema=columns.SCHEMA)


def _require_writable(folder: Path) -> None:
    """Raises ConfigError: what is asked here could not be kept, and would be paid for again by each run."""
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ConfigError(
            "answers of billing interfaces cannot be kept here, so none was asked",
            where=str(folder),
            expected="a folder that can be written, or made",
            found=str(error.strerror or error),
            fix="Name another one with HOLDFAST_STATE",
        ) from None


def _keep(file: Path, asked: Asked) -> None:
    """An answer, for later runs; nobody else may read what a company spends. Raises OSError."""
    document = {
        "format": FORMAT,
        "asked_at": asked.asked_at.isoformat(),
        "lines": [
            [one.sub_account, one.service, one.currency, str(one.effective), str(one.billed)] for one in asked.lines
        ],
    }
    draft = file.with_suffix(f".{os.getpid()}")
    draft.touch(mode=0o600)
    draft.write_text(json.dumps(document), encoding="utf-8")
    draft.replace(file)
