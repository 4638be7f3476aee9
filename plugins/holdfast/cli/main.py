"""``holdfast …``: the engine on the command line, without Airflow.

Exit codes: 0 done, 1 failed (or a drill deviated), 2 bad input, 3 refused by a rule, 4 no majority, 5 damaged or
tampered with, 6 incomplete, 7 unknown, 130 interrupted. A command says which of them it has, and what it means by them.
"""

from __future__ import annotations

import gc
import importlib
import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from holdfast import __version__

#: By name, in the order of the help: each is a module of this package, imported when it is asked for.
COMMANDS = (
    *("check", "sandbox", "authority", "drill", "failover", "sync", "train", "vault"),
    *("audit", "residency", "posture", "cost"),
)


class _Commands(TyperGroup):
    """The commands; who calls one of them does not wait for what the others import."""

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ARG002 - click's signature
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:  # noqa: ARG002
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"holdfast.cli.{cmd_name}")
        if cmd_name == "check":
            alone = typer.Typer(add_completion=False)
            alone.command("check")(module.check)
            return typer.main.get_command(alone)
        group = typer.main.get_group(module.app)
        group.name = cmd_name
        return group


app = typer.Typer(
    name="holdfast",
    cls=_Commands,
    help="Keeps machine-learning pipelines alive when a cloud is lost, and proves it.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    epilog="Exit codes: 0 done, 1 failed or deviated, 2 bad input, 3 refused by a rule, 4 no majority, 5 damaged or "
    "tampered with, 6 incomplete, 7 unknown, 130 interrupted; of a command: its own --help.",
)


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
    asked = next((word for word in sys.argv[1:] if word in COMMANDS), None)
    if asked is not None:
        try:
            importlib.import_module(f"holdfast.cli.{asked}")
        except KeyboardInterrupt:
            sys.exit(130)  # as Typer ends whatever is interrupted later
    gc.freeze()  # what was imported stays, and need not be looked through again and again
    app()
