"""``holdfast …``: the engine on the command line, without Airflow.

Exit codes: 0 done, 1 failed (or a drill deviated), 2 bad input, 3 refused by a rule, 4 no majority. A command with more
of them says so: `holdfast train --help`.
"""

from __future__ import annotations

import gc
from typing import Annotated

import typer

from holdfast import __version__
from holdfast.cli import authority, check, drill, failover, sandbox, sync, train, vault

app = typer.Typer(
    name="holdfast",
    help="Keeps machine-learning pipelines alive when a cloud is lost, and proves it.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    epilog="Exit codes: 0 done, 1 failed or deviated, 2 bad input, 3 refused by a rule, 4 no majority.",
)
app.command("check")(check.check)
app.add_typer(sandbox.app, name="sandbox")
app.add_typer(authority.app, name="authority")
app.add_typer(drill.app, name="drill")
app.add_typer(failover.app, name="failover")
app.add_typer(sync.app, name="sync")
app.add_typer(train.app, name="train")
app.add_typer(vault.app, name="vault")


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"holdfast {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """What holds for every command."""


def main() -> None:
    """The console script."""
    gc.freeze()  # what was imported stays, and need not be looked through again and again
    app()
