"""``holdfast cost``: what standing by, moving bytes and drills cost, from the clouds' own bills."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from holdfast.cli import cost_tables as show
from holdfast.cli.output import JsonOption, TopologyOption, errors, print_json, reports_errors, to_json, writing
from holdfast.engine.cost import advice as advice_of
from holdfast.engine.cost import drills, egress, idle, locked, objectives, standby
from holdfast.engine.cost.asking import Asking
from holdfast.engine.cost.errors import NoBill
from holdfast.engine.cost.periods import last_month, month_of, parse_period
from holdfast.engine.cost.publish import write_dataset
from holdfast.engine.cost.record import KEPT, keep_report
from holdfast.engine.cost.report import Look, cost_settings, report_document
from holdfast.engine.runtime import Runtime
from holdfast.errors import HoldfastError

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
AskOption = Annotated[
    bool,
    typer.Option(
        "--ask", help="Ask the billing interfaces of `cost.apis` where an export has nothing; may cost money."
    ),
]
UNKNOWN = 7


@app.command("report")
@reports_errors
def report(
    period: PeriodOption = None,
    output: OutputOption = None,
    focus: Annotated[
        Path | None,
        typer.Option("--focus", help="Write standby and drills as FOCUS 1.2 (Parquet, CSV) into this folder."),
    ] = None,
    record: Annotated[
        bool, typer.Option("--record", help="Keep the report at every site as well, for the next `audit export`.")
    ] = False,
    ask: AskOption = False,
    topology: TopologyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Everything of one billing period.

    Exit codes: 0 known, 1 no site keeps the record, 2 bad input, 3 an interface would cost more than allowed, 7 no bill
    of the period, or not of every export.
    """
    look = _look(topology, period, ask=ask)
    document = report_document(look)
    if record:
        _record(look, document)
    if focus is not None and look.bill.lines.num_rows:
        dataset = look.dataset()
        with writing(focus):
            write_dataset(dataset, focus)
    _tell(document, output, as_json, lambda: show.print_report(look))
    _end(look)


@app.command("standby")
@reports_errors
def standby_cost(
    period: PeriodOption = None,
    output: OutputOption = None,
    ask: AskOption = False,
    topology: TopologyOption = None,
    as_json: JsonOption = False,
) -> None:
    """What stands by cost in a billing period, by group, tier and site.

    Exit codes: 0 known, 2 bad input, 3 an interface would cost more than allowed, 7 no bill of the period, or not of
    every export.
    """
    look = _look(topology, period, ask=ask)
    _tell(standby.as_document(look.standby), output, as_json, lambda: show.print_standby(look.standby))
    _end(look)


@app.command("egress")
@reports_errors
def egress_cost(
    period: PeriodOption = None,
    output: OutputOption = None,
    topology: TopologyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Bytes that left each site, per dataset: metered by receipts, priced, and beside the bill.

    Exit codes: 0 shown, 2 bad input, 7 receipts of a site could not be read, or nothing was metered and no bill exists.
    """
    look = _look(topology, period)
    _tell(egress.as_document(look.egress), output, as_json, lambda: show.print_egress(look.egress))
    for line in look.egress.unreadable:
        errors.print(f"holdfast: {line}", style="red", markup=False)
    if look.egress.unreadable:
        raise typer.Exit(UNKNOWN)
    if not look.egress.movements:
        _require_bill(look)


@app.command("drill")
@reports_errors
def drill_cost(
    drill: Annotated[str, typer.Argument(help="Its id, as its evidence names it.")],
    output: OutputOption = None,
    topology: TopologyOption = None,
    as_json: JsonOption = False,
) -> None:
    """What a drill cost: an estimate until its bill has come and is final.

    Exit codes: 0 known (its state says how well), 2 bad input, 7 no journal, or neither a line of a bill nor a price.
    """
    runtime = Runtime.from_environment(topology)
    cost_settings(runtime)
    drills.check_drill_id(drill)
    now = runtime.clock.now()
    facts = drills.read_drill(runtime.stores(runtime.topology.sites), drill, runtime.topology)
    look = Look(runtime, min(month_of(facts.started_at), month_of(now)))
    found = look.drill(facts)
    _tell(drills.as_document(found), output, as_json, lambda: show.print_drill(found))
    if not found.is_known:
        errors.print(f"holdfast: what {drill} cost is unknown: {found.why_unknown}", style="red", markup=False)
        raise typer.Exit(UNKNOWN)


@app.command("objectives")
@reports_errors
def objectives_cost(
    period: PeriodOption = None,
    output: OutputOption = None,
    topology: TopologyOption = None,
    as_json: JsonOption = False,
) -> None:
    """What a minute of RPO and of RTO costs: the next better and the next worse step.

    Exit codes: 0 shown, 2 bad input, 7 neither syncs nor a bill of the period.
    """
    look = _look(topology, period)
    document = objectives.as_document(look.rpo, look.rto, look.period)
    _tell(document, output, as_json, lambda: show.print_objectives(look.rpo, look.rto))
    if not look.rpo:
        _require_bill(look)


@app.command("advice")
@reports_errors
def advice(
    period: PeriodOption = None,
    output: OutputOption = None,
    topology: TopologyOption = None,
    as_json: JsonOption = False,
) -> None:
    """What could be saved, or made surer, with the lines it came from; and what is idle or locked.

    Exit codes: 0 shown, 2 bad input, 7 no bill of the period, or not of every export.
    """
    look = _look(topology, period)
    document = {
        "period": str(look.period),
        "advice": advice_of.as_document(look.advice),
        **idle.as_document(look.of_period, look.runtime.topology),
        "locked": locked.as_document(look.locked),
    }
    _tell(document, output, as_json, lambda: show.print_advice(look.advice, look.locked))
    _end(look)


def _look(topology: Path | None, period: str | None, *, ask: bool = False) -> Look:
    runtime = Runtime.from_environment(topology)
    cost_settings(runtime)
    asked = last_month(runtime.clock.now()) if period is None else parse_period(period)
    asking = Asking(runtime, runtime.state_folder / "cost") if ask else None
    return Look(runtime, asked, asking=asking)


def _record(look: Look, document: dict[str, Any]) -> None:
    """Raises HoldfastError: no site keeps it."""
    kept = keep_report(look.site_stores, document)
    for site, why in kept.items():
        errors.print(f"{site}: {why}", style="dim" if why == KEPT else "red", markup=False)
    if KEPT not in kept.values():
        raise HoldfastError(
            "no site keeps the report",
            where=str(look.period),
            expected="one at least",
            found="; ".join(f"{site}: {why}" for site, why in kept.items()),
        )


def _tell(document: dict[str, Any], output: Path | None, as_json: bool, text: Callable[[], None]) -> None:
    if output is not None:
        with writing(output):
            output.parent.mkdir(parents=True, exist_ok=True)
            output.write_text(to_json(document) + "\n", encoding="utf-8")
    if as_json:
        print_json(document)
    else:
        text()


def _require_bill(look: Look) -> None:
    """Ends with 7 when there is no bill; on stderr alone, since with ``--json`` the document is printed already."""
    try:
        look.require_bill()
    except NoBill as error:
        errors.print(f"holdfast: {error}", style="red", markup=False)
        raise typer.Exit(error.exit_code) from None


def _end(look: Look) -> None:
    """Ends with 7 when there is no bill, or that of a cloud that stands by is not known."""
    _require_bill(look)
    if look.standby.is_known:
        return
    for reason in look.standby.unknown:
        errors.print(f"holdfast: {reason}", style="red", markup=False)
    raise typer.Exit(UNKNOWN)
