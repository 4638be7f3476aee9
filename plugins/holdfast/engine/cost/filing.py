"""A period's report in files: for the evidence folder, and for whoever reads them next."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from holdfast import strict_json
from holdfast.engine.cost.asking import Asking
from holdfast.engine.cost.periods import Period, last_month, month_of, parse_period
from holdfast.engine.cost.publish import replace_file, write_dataset
from holdfast.engine.cost.record import keep_report
from holdfast.engine.cost.report import Look, cost_settings, report_document, summary
from holdfast.engine.runtime import Runtime

REPORT = "report.json"


@dataclass(frozen=True)
class Filed:
    """What was written.

    Args:
        folder: has ``report.json``, and the FOCUS dataset where there is a line for it.
        summary: a few figures.
        unknown: why a bill is not known, per export.
        notes: what else is worth knowing.
        kept: by site ``kept``, where the report is a record for the audit, or why it is not.
    """

    folder: Path
    summary: dict[str, Any]
    unknown: tuple[str, ...]
    notes: tuple[str, ...]
    kept: dict[str, str]


def period_named(runtime: Runtime, text: str) -> Period:
    """``last``, ``this``, or a month. Raises ConfigError."""
    now = runtime.clock.now()
    if text in ("last", ""):
        return last_month(now)
    return month_of(now) if text == "this" else parse_period(text)


def file_report(runtime: Runtime, period: str, folder: Path, *, ask: bool = False) -> Filed:
    """Report a period into ``<folder>/<period>/``; an earlier report there is replaced, file by file.

    Each report is kept at the sites, too, where an audit export finds it.

    Raises:
        ConfigError: the topology says nothing of cost, or the period is none.
    """
    cost_settings(runtime)
    asking = Asking(runtime, runtime.state_folder / "cost") if ask else None
    look = Look(runtime, period_named(runtime, period), asking=asking)
    into = folder / str(look.period)
    into.mkdir(parents=True, exist_ok=True)
    if look.of_period.num_rows:
        write_dataset(look.dataset(), into)
    document = report_document(look)
    text = strict_json.dumps(document, indent=2, ensure_ascii=False) + "\n"
    replace_file(into / REPORT, text.encode())
    unknown = look.standby.unknown if look.standby.parts else ("cost.exports names no export",)
    return Filed(into, summary(look), unknown, look.notes, keep_report(look.site_stores, document))
