"""How every command speaks: a person's text on a terminal, one JSON document with ``--json``, one error on stderr."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import IO, Annotated, Any, ParamSpec, TypeVar

import typer
from pydantic import BaseModel
from rich.console import Console, ConsoleOptions
from rich.markup import escape
from rich.segment import Segment

from holdfast import strict_json
from holdfast.errors import ConfigError, HoldfastError

P = ParamSpec("P")
R = TypeVar("R")

JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of text.")]
TopologyOption = Annotated[
    Path | None,
    typer.Option("--topology", help="The topology file; default $HOLDFAST_TOPOLOGY or include/holdfast.yaml."),
]


class _SafeConsole(Console):
    """A console that writes no control characters but its own: names and errors from outside may hold them."""

    def render(self, renderable: Any, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            if segment.control or segment.text.isprintable():
                yield segment
            else:
                yield Segment(printable(segment.text), segment.style)


def printable(text: str) -> str:
    """The text with what a terminal would act on replaced; its lines stay."""
    return "".join(c if c == "\n" or c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


def cell(text: str) -> str:
    """The text as markup that shows it on one line, whatever names and messages from elsewhere hold."""
    return escape(printable(text).replace("\n", "\N{REPLACEMENT CHARACTER}"))


def console_of(file: IO[str] | None = None, **options: Any) -> Console:
    """A console for output, by default to stdout."""
    return _SafeConsole(file=file, highlight=False, soft_wrap=True, **options)


console = console_of()
errors = console_of(stderr=True)


def to_json(value: object) -> str:
    """A JSON document of models, dataclasses, dates and paths; null for a number that is not finite."""
    return strict_json.dumps(value, indent=2, default=_plain, ensure_ascii=False)


def print_json(value: object) -> None:
    """Write a JSON document to stdout."""
    sys.stdout.write(to_json(value) + "\n")


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """What is written here goes to a path of the command line: where the disk refuses it, that is bad input."""
    try:
        yield
    except OSError as error:
        raise ConfigError("it cannot be written", where=str(path), found=str(error)) from None


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
            # Indented: a line of the text is none of ours.
            told = str(error).replace("\n", "\n  ")
            errors.print(f"holdfast: {told}", style="red", markup=False)
            raise typer.Exit(error.exit_code) from None

    return wrapped
