"""How every command speaks: a person's text on a terminal, one JSON document with ``--json``, one error on stderr."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, ParamSpec, TypeVar

import typer
from pydantic import BaseModel
from rich.console import Console

from holdfast import strict_json
from holdfast.errors import HoldfastError

P = ParamSpec("P")
R = TypeVar("R")

JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of text.")]
TopologyOption = Annotated[
    Path | None,
    typer.Option("--topology", help="The topology file; default $HOLDFAST_TOPOLOGY or include/holdfast.yaml."),
]

console = Console(highlight=False, soft_wrap=True)
errors = Console(stderr=True, highlight=False, soft_wrap=True)


def to_json(value: object) -> str:
    """A JSON document of models, dataclasses, dates and paths; null for a number that is not finite."""
    return strict_json.dumps(value, indent=2, default=_plain, ensure_ascii=False)


def print_json(value: object) -> None:
    """Write a JSON document to stdout."""
    sys.stdout.write(to_json(value) + "\n")


def _plain(value: object) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, datetime):
        return value.isoformat()
    if hasattr(value, "__dataclass_fields__"):
        return {name: getattr(value, name) for name in value.__dataclass_fields__}
    if isinstance(value, (set, frozenset, tuple)):
        return list(value)
    return str(value)


def reports_errors(command: Callable[P, R]) -> Callable[P, R]:
    """A command whose `HoldfastError` becomes one clear message and its exit code, never a traceback."""

    @functools.wraps(command)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return command(*args, **kwargs)
        except HoldfastError as error:
            if kwargs.get("as_json"):
                print_json(error.as_dict())
            errors.print(f"holdfast: {error}", style="red", markup=False)
            raise typer.Exit(error.exit_code) from None

    return wrapped
