"""``holdfast audit index`` and ``oscal``: what of an export speaks to which control."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from holdfast.cli.audit_options import ExportsArgument, KeyOption, NeedOption, drill_keys, trusted_keys
from holdfast.cli.output import JsonOption, console, print_json, reports_errors

if TYPE_CHECKING:
    from holdfast.engine.audit.evidence.exports import Exports
    from holdfast.engine.audit.evidence.index import Answer

app = typer.Typer()
_COLOURS = {"shown": "green", "contrary": "red"}


@app.command("index")
@reports_errors
def index(
    exports: ExportsArgument,
    output: Annotated[Path, typer.Option("--output", help="An empty folder for index.md and index.json.")],
    key: KeyOption = None,
    need: NeedOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write which documents of exports speak to which control, for people and as JSON. No compliance is claimed.

    Several exports of one ledger are one: a drill may be in one of them, findings in another.

    Exit codes: 0 written, 2 bad input, 5 an export was tampered with, so nothing of them is evidence.
    """
    from holdfast.engine.audit.evidence import index as indexing

    verified = _verified(exports, key, need)
    answers = indexing.write_index(verified, output)
    if as_json:
        print_json(indexing.as_json(verified, answers))
    else:
        _print(answers, output)


@app.command("oscal")
@reports_errors
def oscal(
    exports: ExportsArgument,
    output: Annotated[Path, typer.Option("--output", help="A new file, e.g. results.json.")],
    key: KeyOption = None,
    need: NeedOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write exports' evidence as OSCAL assessment results; needs the extra `oscal`. No compliance is claimed.

    Several exports of one ledger are one, as for `index`.

    Exit codes: 0 written, 2 bad input, 5 an export was tampered with, so nothing of them is evidence.
    """
    from holdfast.engine.audit.evidence.oscal import write_oscal

    verified = _verified(exports, key, need)
    answers = write_oscal(verified, output)
    if as_json:
        print_json({"file": output, "controls": {one.control.id: str(one.shown) for one in answers}})
    else:
        _print(answers, output)


def _verified(folders: Sequence[Path], key: Sequence[str] | None, need: int | None) -> Exports:
    from holdfast.engine.audit.chain import exports_below, verify_exports
    from holdfast.engine.audit.evidence.exports import Exports

    found = [folder for one in folders for folder in exports_below(one)]
    return Exports.together(*verify_exports(found, trusted=trusted_keys(key), drill_keys=drill_keys(key), needed=need))


def _print(answers: Sequence[Answer], output: Path) -> None:
    from holdfast.engine.audit.evidence.controls import DISCLAIMER

    table = Table("control", "articles", "evidence", box=None)
    for one in answers:
        colour = _COLOURS.get(str(one.shown), "yellow")
        table.add_row(one.control.id, one.control.articles, f"[{colour}]{one.shown}[/]")
    console.print(table)
    console.print(f"Written to {output}", markup=False)
    console.print(DISCLAIMER)
