"""``holdfast cost``: what standing by, moving bytes and drills cost, from the clouds' own bills."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from holdfast.cli import cost_tables as show
from holdfast.cli.output import JsonOption, TopologyOption, errors, print_json, reports_errors, to_json
from holdfast.engine.cost.periods import last_month, parse_period
from holdfast.engine.cost.report import Look, cost_settings, report_document
from holdfast.engine.cost.standby import as_document as standby_document
from holdfast.engine.runtime import Runtime

app = typer.Typer(
    help="Standby and drill cost from FOCUS exports: report, standby, egress, drill, objectives, advice.",
    no_args_is_help=True,
    epilog="Exit codes: 0 shown, 2 bad input, 3 refused, 7 no bill exists, or a part of it cannot be read: unknown, "
    "which is not zero.",
)

PeriodOption = Annotated[
    str | None, typer.Option("--period", help="A billing period (month, UTC), as 2026-10; default the last one.")
]
OutputOption = Annotated[
    Path | None, typer.Option("--output", help="Write the document (JSON) into this file as well.")
]
UNKNOWN = 7


@app.command("standby")
@reports_errors
def standby(
    period: PeriodOption = None,
    output: OutputOption = None,
    topology: TopologyOption = None,
    as_json: JsonOption = False,
) -> None:
    """What stands by cost in a billing period, by group, tier and site.

    Exit codes: 0 known, 2 bad input, 7 no bill of the period, or not of every export.
    """
    look = _look(topology, period)
    document = standby_document(look.standby)
    _tell(document, output, as_json, lambda: show.print_standby(look.standby))
    _end(look)


@app.command("report")
@reports_errors
def report(
    period: PeriodOption = None,
    output: OutputOption = None,
    topology: TopologyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Everything of one billing period.

    Exit codes: 0 known, 2 bad input, 7 no bill of the period, or not of every export.
    """
    look = _look(topology, period)
    document = report_document(look)
    _tell(document, output, as_json, lambda: show.print_standby(look.standby))
    _end(look)


def _look(topology: Path | None, period: str | None) -> Look:
    runtime = Runtime.from_environment(topology)
    cost_settings(runtime)
    asked = last_month(runtime.clock.now()) if period is None else parse_period(period)
    return Look(runtime, asked)


def _tell(document: dict[str, Any], output: Path | None, as_json: bool, text: Any) -> None:
    if output is not None:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(to_json(document) + "\n", encoding="utf-8")
    if as_json:
        print_json(document)
    else:
        text()


def _end(look: Look) -> None:
    """Raises NoBill; ends with 7 when an export's bill is not known."""
    look.require_bill()
    if look.standby.is_known:
        return
    for part in look.standby.parts:
        if not part.state.is_known:
            errors.print(f"holdfast: {part.export}: {part.state}: {part.detail}", style="red", markup=False)
    raise typer.Exit(UNKNOWN)
