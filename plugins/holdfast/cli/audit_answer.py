"""How the commands of ``holdfast audit`` tell what a verification found, and how far one is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from holdfast.cli.audit_options import state_text
from holdfast.cli.output import console, errors

if TYPE_CHECKING:
    from holdfast.engine.audit.problems import Answer, Problem

_COLOURS = {"fine": "green", "tampered": "red", "incomplete": "yellow", "unknown": "yellow"}
_MOST_PROBLEMS = 30


def print_answer(answer: Answer, *, problems: bool = True) -> None:
    """What was looked at, and what is not fine."""
    colour = _COLOURS[answer.verdict]
    if answer.counts:
        events, documents = answer.counts["events"], answer.counts["documents"]
        console.print(
            f"{answer.origin}, seal {answer.seal}: {events:,} events and {documents} documents, "
            f"{answer.size:,} leaves, root {(answer.root or '')[:16]}",
            markup=False,
        )
        if answer.window:
            console.print(f"From {answer.window[0]} to {answer.window[1]}", markup=False)
    for name, state in answer.sources.items():
        console.print(f"  {name}: {state_text(state)}")
    if answer.signed_by:
        console.print(f"Signed by {', '.join(answer.signed_by)}", markup=False)
    for note in answer.notes:
        console.print(note, markup=False)
    if problems:
        for line in _problem_lines(answer.problems):
            console.print(line, style=_COLOURS[line.partition(":")[0]], markup=False)
    console.print(f"[{colour}]{answer.verdict}[/]")


def _problem_lines(problems: Sequence[Problem]) -> Iterator[str]:
    """A line for each kind of problem of a source: hours that lack the same thing are one of them."""
    groups: dict[tuple[str, str, str], list[Problem]] = {}
    for problem in problems:
        groups.setdefault((str(problem.kind), problem.code, problem.where.partition(" ")[0]), []).append(problem)
    order = list(_COLOURS)
    found = sorted(groups.items(), key=lambda group: order.index(group[0][0]))
    for (kind, _code, _source), alike in found[:_MOST_PROBLEMS]:
        more = f" — and {len(alike) - 1} more like this" if len(alike) > 1 else ""
        yield f"{kind}: {alike[0]}{more}"
    if len(found) > _MOST_PROBLEMS:
        yield f"{found[-1][0][0]}: and {len(found) - _MOST_PROBLEMS} other kinds; --json has them all"


@contextmanager
def progress_bars() -> Iterator[Any]:
    """A bar for each kind of thing that is verified, on a terminal."""
    from rich.progress import Progress

    if not errors.is_terminal:
        yield lambda *_: None
        return
    with Progress(console=errors, transient=True) as bars:
        tasks: dict[str, Any] = {}

        def show(what: str, done: int, of: int) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(what, total=of)
            bars.update(tasks[what], completed=done, total=of)

        yield show
