"""``holdfast audit index`` and ``oscal``: what of an export speaks to which control."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from holdfast.cli.audit_options import KeyOption, NeedOption, drill_keys, trusted_keys
from holdfast.cli.output import JsonOption, console, print_json, reports_errors

if TYPE_CHECKING:
    from holdfast.engine.audit.evidence.index import Answer

app = typer.Typer()
_COLOURS = {"shown": "green", "contrary": "red"}
ExportArgument = Annotated[Path, typer.Argument(help="An export's folder.")]


@app.command("index")
@reports_errors
def index(
    export_folder: ExportArgument,
    output: Annotated[Path, typer.Option("--output", help="An empty folder for index.md and index.json.")],
    key: KeyOption = None,
    need: NeedOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write which documents of an export speak to which control, for people and as JSON. No compliance is claimed.

    Exit codes: 0 written, 2 bad input, 5 the export was tampered with, so nothing of it is evidence.
    """
    from holdfast.engine.audit.evidence import index as indexing
    from holdfast.engine.audit.verify import verify_export

    verified = verify_export(export_folder, trusted=trusted_keys(key), drill_keys=drill_keys(key), needed=need)
    answers = indexing.write_index(verified, output)
    if as_json:
        print_json(indexing.as_json(verified, answers))
    else:
        _print(answers, output)


@app.command("oscal")
@reports_errors
def oscal(
    export_folder: ExportArgument,
    output: Annotated[Path, typer.Option("--output", help="A new file, e.g. results.json.")],
    key: KeyOption = None,
    need: NeedOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write an export's evidence as OSCAL assessment results; needs the extra `oscal`. No compliance is claimed.

    Exit codes: 0 written, 2 bad input, 5 the export was tampered with, so nothing of it is evidence.
    """
    from holdfast.engine.audit.evidence.oscal import write_oscal
    from holdfast.engine.audit.verify import verify_export

    verified = verify_export(export_folder, trusted=trusted_keys(key), drill_keys=drill_keys(key), needed=need)
    answers = write_oscal(verified, output)
    if as_json:
        print_json({"file": output, "controls": {one.control.id: str(one.shown) for one in answers}})
    else:
        _print(answers, output)


def _print(answers: Sequence[Answer], output: Path) -> None:
    from holdfast.engine.audit.evidence.controls import DISCLAIMER

    table = Table("control", "articles", "evidence", box=None)
    for one in answers:
        colour = _COLOURS.get(str(one.shown), "yellow")
        table.add_row(one.control.id, one.control.articles, f"[{colour}]{one.shown}[/]")
    console.print(table)
    console.print(f"Written to {output}", markup=False)
    console.print(DISCLAIMER)
