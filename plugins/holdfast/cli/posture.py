"""``holdfast posture``: is every site, and the account behind it, set up as it should be?"""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Annotated

import typer

from holdfast import strict_json
from holdfast.cli.output import JsonOption, TopologyOption, cell, console, print_json, reports_errors, writing
from holdfast.engine.audit.posture import Posture, Status, Thresholds, as_ocsf, check_posture
from holdfast.engine.runtime import Runtime

_EXITS = {Status.PASS: 0, Status.NOT_APPLICABLE: 0, Status.FAIL: 6, Status.UNKNOWN: 7}
_MARKS = {
    Status.PASS: "[green]pass[/]",
    Status.FAIL: "[red]fail[/]",
    Status.UNKNOWN: "[yellow]unknown[/]",
    Status.NOT_APPLICABLE: "[dim]not applicable[/]",
}

app = typer.Typer(add_completion=False)


@app.callback(invoke_without_command=True)
@reports_errors
def posture(
    topology: TopologyOption = None,
    site: Annotated[list[str] | None, typer.Option("--site", help="Only this site; may be repeated.")] = None,
    check: Annotated[list[str] | None, typer.Option("--check", help="Only this check; may be repeated.")] = None,
    role: Annotated[
        str | None, typer.Option("--role", help="The published role Holdfast's identity is meant to have, no other.")
    ] = None,
    unused_days: Annotated[
        int, typer.Option("--unused-days", min=1, help="A credential unused so long is stale.")
    ] = 90,
    age_days: Annotated[int, typer.Option("--age-days", min=1, help="A credential so old is stale.")] = 365,
    ocsf: Annotated[
        Path | None, typer.Option("--ocsf", help="Also write OCSF compliance findings here, one JSON document a line.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Look at encryption, locks, public access, logins, privileges and trails of every site. Writes nothing there.

    Exit codes: 0 everything passes, 1 it failed to run, 2 bad input, 6 something fails, 7 nothing fails but something
    is unknown.
    """
    runtime = Runtime.from_environment(topology)
    thresholds = Thresholds(unused=timedelta(days=unused_days), age=timedelta(days=age_days))
    found = check_posture(runtime, sites=site or (), check_ids=check or (), role=role, thresholds=thresholds)
    now = runtime.clock.now()
    if ocsf is not None:
        with writing(ocsf):
            lines = (strict_json.dumps(as_ocsf(result, now)) + "\n" for result in found.results)
            ocsf.write_text("".join(lines), encoding="utf-8")
    if as_json:
        counts = {status.value: found.count(status) for status in Status}
        results = [result.as_dict() for result in found.results]
        print_json({"at": now, "status": found.status.value, "counts": counts, "results": results})
    else:
        _print(found)
    if _EXITS[found.status]:
        raise typer.Exit(_EXITS[found.status])


def _print(found: Posture) -> None:
    # Two lines each, and no table: names and sentences are whole in a terminal of 80 columns too.
    for result in found.results:
        where = result.site or f"{result.resource.cloud} {result.resource.kind} {result.resource.uid}"
        padding = " " * (len("not applicable") - len(result.status.value))
        about = f"{result.check.severity.value:<8}  {result.check.check_id:<21}  {cell(where)}"
        console.print(f"{_MARKS[result.status]}{padding}  {about}")
        console.print(f"    {cell(result.found)}")
    counts = ", ".join(f"{found.count(status)} {status.value}" for status in Status)
    console.print(f"{len(found.results)} checks: {counts}")
    emulators = sorted({result.asked_at for result in found.results if result.asked_at})
    if emulators:
        console.print(f"Asked at {', '.join(emulators)}: what an emulator says proves nothing of a cloud.")
