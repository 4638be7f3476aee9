"""``holdfast audit fetch``: sealed exports from the ledger."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from holdfast.cli.output import JsonOption, TopologyOption, console, print_json, reports_errors

app = typer.Typer()


@app.command("fetch")
@reports_errors
def fetch(
    output: Annotated[Path, typer.Option("--output", help="A folder for the exports, each in one of its own.")],
    seals: Annotated[
        list[int] | None, typer.Argument(min=0, metavar="[SEAL]...", help="Which; default: the newest.")
    ] = None,
    last: Annotated[int, typer.Option("--last", min=1, help="Without SEAL: so many of the newest.")] = 1,
    site: Annotated[
        str | None, typer.Option("--site", help="One of the ledger's sites; default: its first one.")
    ] = None,
    topology: TopologyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Bring sealed exports from one of the ledger's sites into a folder, e.g. for an auditor.

    They are not verified: `holdfast audit verify` does that, also without the ledger. Interrupted, it goes on where it
    was.
    """
    from holdfast.engine.audit.export import open_ledger
    from holdfast.engine.audit.fetching import fetch_exports
    from holdfast.engine.runtime import Runtime

    ledger = open_ledger(Runtime.from_environment(topology))
    found = []
    for number, folder in fetch_exports(ledger, output, seals or (), last=last, site=site):
        found.append({"seal": number, "folder": str(folder)})
        if not as_json:
            console.print(f"Seal {number}: {folder}", markup=False, soft_wrap=True)
    if as_json:
        print_json({"exports": found})
