"""``holdfast audit select``: a part of exports, for who must not see everything."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from holdfast.cli.audit_options import ExportsArgument, KeyOption, state_text, trusted_keys
from holdfast.cli.output import JsonOption, console, print_json, reports_errors

app = typer.Typer()
_Many = list[str] | None


@app.command("select")
@reports_errors
def select(
    exports: ExportsArgument,
    output: Annotated[Path, typer.Option("--output", help="An empty folder for the selection.")],
    start: Annotated[str | None, typer.Option("--from", help="From this time of the events on (ISO 8601).")] = None,
    end: Annotated[str | None, typer.Option("--to", help="Before this time.")] = None,
    source: Annotated[_Many, typer.Option("--source", help="A source's name; repeat it for others.")] = None,
    user: Annotated[_Many, typer.Option("--user", help="A user's name, id or e-mail address.")] = None,
    operation: Annotated[_Many, typer.Option("--operation", help="`api.operation`.")] = None,
    class_: Annotated[_Many, typer.Option("--class", help="An OCSF class: its number, or e.g. authentication.")] = None,
    status: Annotated[_Many, typer.Option("--status", help="success, failure, other, unknown, or a number.")] = None,
    where: Annotated[_Many, typer.Option("--where", help='"dotted.path=value" of the OCSF columns; all hold.')] = None,
    key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Select events by query into a small folder: each with its proof, and whether they can be all.

    Check it with `audit check-proof`. Values of one option are alternatives; different options must all hold.

    Exit codes: 0 written, 2 bad input, 5 an export was tampered with, or 7 cannot be read: nothing is selected.
    """
    from holdfast.engine.audit.chain import exports_below, verify_exports
    from holdfast.engine.audit.moments import parse_moment
    from holdfast.engine.audit.selection.query import make_query
    from holdfast.engine.audit.selection.select import select_events

    query = make_query(
        start=parse_moment(start, "--from"),
        end=parse_moment(end, "--to"),
        sources=tuple(source or ()),
        users=tuple(user or ()),
        operations=tuple(operation or ()),
        classes=tuple(class_ or ()),
        statuses=tuple(status or ()),
        where=tuple(where or ()),
    )
    _, each = verify_exports(exports_below(*exports), trusted=trusted_keys(key))
    selection = select_events(each, query, output)
    if as_json:
        print_json({**selection.model_dump(mode="json"), "folder": output})
        return
    console.print(f"{len(selection.events):,} events of {selection.origin}; written to {output}", markup=False)
    for one in selection.sources:
        console.print(f"  {one.source}: {state_text(str(one.state))}", highlight=False)
        for interval in one.intervals:
            if interval.why:
                console.print(f"    {interval.start:%Y-%m-%d %H:%M}: {interval.state}, {interval.why}", markup=False)
    console.print("Where a source is not complete, an event that is not here may still have happened.")
