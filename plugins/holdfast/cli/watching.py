"""How a plan or drill shows on a terminal while it runs: one line per step."""

from __future__ import annotations

from holdfast.cli.output import errors
from holdfast.engine.recovery.interface import Progress

_MARKS = {"begun": "…", "done": "✓", "failed": "✗", "waiting": " ", "recorded": " "}


def show_progress(seen: Progress) -> None:
    """Print one event to stderr; stdout is the result's."""
    seconds = "" if seen.seconds is None else f"{seen.seconds:8.3f} s"
    detail = "" if seen.detail is None else f"  {seen.detail}"
    errors.print(
        f"{_MARKS.get(seen.phase, ' ')} {seen.step:<22}{seconds:>11}{detail}",
        markup=False,
        style="red" if seen.phase == "failed" else "dim" if seen.phase != "done" else None,
    )
