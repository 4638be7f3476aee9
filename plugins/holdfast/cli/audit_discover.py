"""``holdfast audit discover``: where personal data lies in exports."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer
from rich.table import Table

from holdfast.cli.audit_answer import progress_bars
from holdfast.cli.audit_options import ExportsArgument, KeyOption, NeedOption, trusted_keys
from holdfast.cli.output import JsonOption, cell, console, print_json, reports_errors

if TYPE_CHECKING:
    from holdfast.engine.audit.privacy.discover import Discovery

app = typer.Typer()


@app.command("discover")
@reports_errors
def discover(
    exports: ExportsArgument, key: KeyOption = None, need: NeedOption = None, as_json: JsonOption = False
) -> None:
    """Tell where e-mail addresses, phone, card and account numbers and IP addresses lie open in exports, offline.

    Source, path, kind and how many, never a value; needs the extra `pii`. It finds no names of people. The exports are
    verified first.

    Exit codes: 0 nothing found, 2 bad input, 5 an export was tampered with, so nothing of it was looked at, 7 nothing
    found but not all could be read, 8 found.
    """
    from holdfast.engine.audit.chain import exports_below, verify_exports
    from holdfast.engine.audit.privacy.detectors import require_extra
    from holdfast.engine.audit.privacy.discover import discover as discovered

    require_extra("holdfast audit discover")
    folders = [folder for one in exports for folder in exports_below(one)]
    with progress_bars() as progress:
        _, each = verify_exports(folders, trusted=trusted_keys(key), needed=need, progress=progress)
        found = discovered(each, progress)
    if as_json:
        print_json(found.to_json())
    else:
        _print(found)
    raise typer.Exit(found.exit_code)


def _print(found: Discovery) -> None:
    if found.events:
        table = Table("source", "part", "path", "kind", "count", "of them protected", box=None)
        for place in found.places():
            count, protected = found.events[place], found.protected[place]
            row = (place.source or "-", place.part, place.path, place.kind, f"{count:,}", f"{protected:,}")
            table.add_row(*map(cell, row))
        console.print(table)
    counts = found.looked_at
    console.print(f"Looked at {counts['events']:,} events and {counts['documents']:,} documents")
    if found.not_opened:
        console.print(f"{found.not_opened:,} protected events: their columns alone, their bytes are encrypted")
    if found.as_text:
        console.print(
            f"Unknown: {found.as_text:,} are no JSON, or too deep or too large; what they escape was not found"
        )
    for name in found.not_text:
        console.print(f"Unknown: the document {name} is no text", markup=False)
    colour = {"found": "red", "unknown": "yellow", "nothing": "green"}[found.verdict]
    console.print(f"[{colour}]{found.verdict}[/]")
