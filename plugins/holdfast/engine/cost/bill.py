"""The bills of some periods: all exports' lines, mapped to whose they are, and what is known of their completeness."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import StrEnum

import pyarrow as pa
import pyarrow.compute as pc

from holdfast.engine.config.cost import Cost, CostExport
from holdfast.engine.cost import columns
from holdfast.engine.cost.deliveries import Delivery, find_deliveries
from holdfast.engine.cost.errors import BillDamaged
from holdfast.engine.cost.focus import joined, read_focus
from holdfast.engine.cost.periods import Period, month_of
from holdfast.engine.objectstore.errors import ObjectStoreError
from holdfast.engine.objectstore.interface import ObjectStore
from holdfast.engine.runtime import Runtime
from holdfast.errors import ConfigError, HoldfastError

_MONTH = "x_BillingMonth"


class BillState(StrEnum):
    """What a period's bill of one export is worth."""

    #: The period is over, the cloud's time for corrections too, and it was delivered after the period's end.
    FINAL = "final"
    #: It still changes.
    OPEN = "open"
    #: There is no line of this period.
    MISSING = "missing"
    #: Files are there, and cannot be read as what they should be.
    DAMAGED = "damaged"
    #: The store refuses or does not answer.
    UNREADABLE = "unreadable"

    @property
    def is_known(self) -> bool:
        return self in (BillState.FINAL, BillState.OPEN)


@dataclass(frozen=True)
class BillPart:
    """One export's bill of one period.

    Args:
        export: of the topology; ``site`` is the one whose cloud it is of.
        files, rows: what was read.
        versions: of FOCUS, in its lines.
        detail: for people: why it is not simply final.
    """

    export: str
    site: str
    period: Period
    state: BillState
    delivered_at: datetime | None = None
    files: int = 0
    rows: int = 0
    versions: tuple[str, ...] = ()
    detail: str = ""


@dataclass(frozen=True)
class Bill:
    """Lines (`columns.SCHEMA`), and per export and period what they are worth.

    Args:
        notes: what else is worth knowing: superseded deliveries, files that were there twice.
    """

    lines: pa.Table = field(repr=False)
    parts: tuple[BillPart, ...]
    notes: tuple[str, ...] = ()

    def part_states(self, period: Period) -> dict[str, BillState]:
        """By export its state in this period."""
        return {one.export: one.state for one in self.parts if one.period == period}

    def is_final(self, periods: Collection[Period], exports: Collection[str]) -> bool:
        """Whether each of these exports is final in all of these periods."""
        parts = [one for one in self.parts if one.period in periods and one.export in exports]
        return bool(parts) and all(one.state is BillState.FINAL for one in parts)


def billing_months(lines: pa.Table) -> pa.ChunkedArray:
    """The month each line's billing period is of: the one its middle lies in.

    Not every cloud's period begins at midnight in UTC (Google Cloud bills by Pacific time), and not every account's on
    the first of a month.
    """
    start, end = (pc.cast(lines[name], pa.int64()) for name in ("BillingPeriodStart", "BillingPeriodEnd"))
    middle = pc.add(start, pc.divide(pc.subtract(end, start), 2))
    return pc.floor_temporal(pc.cast(middle, columns.TIME), unit="month")


def lines_of(lines: pa.Table, period: Period) -> pa.Table:
    """The lines of one billing period."""
    return lines.filter(pc.equal(billing_months(lines), pa.scalar(period.start, columns.TIME)))


def read_bills(
    runtime: Runtime, cost: Cost, periods: Sequence[Period], *, stores: Mapping[str, ObjectStore] | None = None
) -> Bill:
    """All exports of some periods. What cannot be read is a part without lines, never an error and never zero.

    Args:
        stores: by export its folder; by default opened with the connection of its site.
    """
    given = stores or {}
    read = [
        _read_export(
            given[name] if name in given else runtime.bucket(export.site, export.bucket, export.prefix),
            name,
            export,
            periods,
            runtime.clock.now(),
        )
        for name, export in sorted(cost.exports.items())
    ]
    bill = Bill(
        joined(one.lines for one in read),
        tuple(part for one in read for part in one.parts),
        tuple(note for one in read for note in one.notes),
    )
    return _without_overlap(bill)


def _read_export(store: ObjectStore, name: str, export: CostExport, periods: Sequence[Period], now: datetime) -> Bill:
    try:
        found = find_deliveries(store, bucket=export.bucket, prefix=export.prefix, periods=periods)
    except ConfigError:
        raise
    except HoldfastError as error:
        return _all(name, export, periods, _state_of(error), str(error))
    tables: list[tuple[Delivery, pa.Table]] = []
    damage: dict[Period | None, HoldfastError] = {}
    notes = [
        f"{name}: {one.root}: an older delivery of {one.delivered_at:%Y-%m-%d %H:%M} was left out"
        for one in found.superseded
    ]
    for delivery in found.current:
        try:
            if delivery.damage is not None:
                raise delivery.damage
            tables.append((delivery, _read_delivery(store, name, export, delivery, notes)))
        except (BillDamaged, ObjectStoreError) as error:
            damage[delivery.period] = error
    lines, delivered = _newest_folder_wins(tables, name, notes)
    parts, kept = [], []
    for period in periods:
        wrong = damage.get(period) or damage.get(None)
        of_period = lines_of(lines, period)
        if wrong is not None:
            parts.append(BillPart(name, export.site, period, _state_of(wrong), detail=str(wrong)))
            continue
        parts.append(_part(name, export, period, of_period, delivered.get(period), now))
        kept.append(of_period)
    return Bill(joined(kept), tuple(parts), tuple(notes))


def _state_of(error: HoldfastError) -> BillState:
    return BillState.DAMAGED if isinstance(error, BillDamaged) else BillState.UNREADABLE


def _all(name: str, export: CostExport, periods: Sequence[Period], state: BillState, detail: str) -> Bill:
    parts = tuple(BillPart(name, export.site, period, state, detail=detail) for period in periods)
    return Bill(joined(()), parts)


def _read_delivery(store: ObjectStore, name: str, export: CostExport, delivery: Delivery, notes: list[str]) -> pa.Table:
    tables: list[pa.Table] = []
    seen: dict[bytes, str] = {}
    for file in delivery.files:
        where = f"{store.name}: {file.key}"
        if file.size_bytes > export.most_file_mib * 1024 * 1024:
            raise BillDamaged(
                "the file is too large",
                where=where,
                expected=f"{export.most_file_mib} MiB at most",
                found=f"{file.size_bytes} bytes",
                fix="Raise `most_file_mib` if the export is really that large",
            )
        data = store.get(file.key)
        digest = hashlib.sha256(data).digest()
        if digest in seen:
            notes.append(f"{name}: {file.key} is {seen[digest]} once more; it was left out")
            continue
        seen[digest] = file.key
        table = read_focus(
            data, name=file.key, export=name, version=delivery.version, most_file_mib=export.most_file_mib
        )
        if file.rows is not None and file.rows != table.num_rows:
            raise BillDamaged(
                "the file has another number of rows than its manifest says",
                where=where,
                expected=f"{file.rows} rows",
                found=f"{table.num_rows}",
                fix="Have the cloud deliver the export again",
            )
        tables.append(table)
    return joined(tables)


def _newest_folder_wins(
    tables: Sequence[tuple[Delivery, pa.Table]], name: str, notes: list[str]
) -> tuple[pa.Table, dict[Period, datetime]]:
    """Of one account's period that lies in several folders, the lines of the newest folder alone."""
    best: dict[tuple[str | None, datetime], tuple[datetime, str]] = {}
    keyed = [(delivery, table.append_column(_MONTH, billing_months(table))) for delivery, table in tables]
    for delivery, table in keyed:
        for key in _accounts(table):
            mine = (delivery.delivered_at, delivery.root)
            best[key] = max(best.get(key, mine), mine)
    kept: list[pa.Table] = []
    delivered: dict[Period, datetime] = {}
    for delivery, table in keyed:
        for account, month in _accounts(table):
            if best[account, month] == (delivery.delivered_at, delivery.root):
                mine = pc.and_(_equal(table[_MONTH], month), _equal(table["BillingAccountId"], account))
                kept.append(table.filter(mine).drop_columns([_MONTH]))
                period = month_of(month)
                delivered[period] = max(delivered.get(period, delivery.delivered_at), delivery.delivered_at)
            else:
                newer = best[account, month][1] or "."
                notes.append(f"{name}: {delivery.root or '.'}: {month:%Y-%m} of account {account} is newer in {newer}")
    return joined(kept), delivered


def _equal(values: pa.ChunkedArray, value: object) -> pa.ChunkedArray:
    """Row by row, with null equal to null."""
    return pc.is_in(values, pa.array([value], values.type))


def _accounts(table: pa.Table) -> list[tuple[str | None, datetime]]:
    found = table.select(["BillingAccountId", _MONTH]).group_by(["BillingAccountId", _MONTH])
    return [(row["BillingAccountId"], row[_MONTH]) for row in found.aggregate([]).to_pylist()]


def _part(
    name: str, export: CostExport, period: Period, lines: pa.Table, delivered_at: datetime | None, now: datetime
) -> BillPart:
    if not lines.num_rows or delivered_at is None:
        return BillPart(name, export.site, period, BillState.MISSING, detail="no line of this period was delivered")
    settled = period.end + timedelta(days=export.settle_days)
    if now < settled:
        state, detail = BillState.OPEN, f"it may change until {settled:%Y-%m-%d}"
    elif delivered_at < period.end:
        state, detail = BillState.OPEN, f"it was delivered last on {delivered_at:%Y-%m-%d}, before the period's end"
    else:
        state, detail = BillState.FINAL, ""
    return BillPart(
        name,
        export.site,
        period,
        state,
        delivered_at,
        len(pc.unique(lines["x_SourceFile"])),
        lines.num_rows,
        tuple(sorted(pc.unique(lines["x_FocusVersion"]).to_pylist())),
        detail,
    )


def _without_overlap(bill: Bill) -> Bill:
    """Two exports of one sub-account's period would count twice: the first by name is kept, and the other told."""
    keys = ["ProviderName", "BillingAccountId", "SubAccountId", "BillingPeriodStart"]
    seen = bill.lines.group_by([*keys, "x_Export"]).aggregate([]).to_pylist()
    owners: dict[tuple[object, ...], str] = {}
    notes, lines = [], bill.lines
    for row in sorted(seen, key=lambda one: str(one["x_Export"])):
        if row["BillingAccountId"] is None:
            continue
        key = tuple(row[name] for name in keys)
        owner = owners.setdefault(key, row["x_Export"])
        if owner == row["x_Export"]:
            continue
        same = pc.equal(lines["x_Export"], row["x_Export"])
        for name in keys:
            same = pc.and_(same, _equal(lines[name], row[name]))
        lines = lines.filter(pc.invert(same))
        account = row["SubAccountId"] or row["BillingAccountId"]
        notes.append(f"{row['x_Export']}: account {account} is in {owner} as well; counted once")
    return replace(bill, lines=lines, notes=(*bill.notes, *notes))
