"""The timeline picture of a drill: inline SVG, one row per step, seconds from the fault."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from holdfast.engine.drill.html import text

_ROWS = {
    "detect": "detection",
    "decide": "decision",
    "commit_epoch": "epoch committed",
    "fence": "fence",
    "promote": "promote",
    "switch_traffic": "traffic switched",
    "verify": "first right answer",
    "resume_training": "training resumed",
}
_LEFT, _RIGHT, _WIDTH, _ROW, _TOP = 150.0, 120.0, 1000.0, 24.0, 34.0


@dataclass(frozen=True)
class _Bar:
    label: str
    start: float
    end: float
    kind: str


def moment(value: object) -> datetime | None:
    """A timestamp of a journal, ``None`` when there is none."""
    try:
        return datetime.fromisoformat(str(value)) if value else None
    except ValueError:
        return None


def timeline(journal: Mapping[str, Any]) -> str:
    """The picture, or an empty text when nothing was begun."""
    steps: Sequence[Mapping[str, Any]] = journal.get("steps") or []
    plan = [s for s in steps if s.get("of", "plan") == "plan" and s.get("name") in _ROWS]
    fault = journal.get("fault") or {}
    starts = [t for s in plan if (t := moment(s.get("started_at")))]
    zero = moment(fault.get("injected_at")) or min(starts, default=None)
    if zero is None:
        return ""
    bars = _bars(plan, fault, zero)
    if not bars:
        return ""
    objective = (journal.get("objectives") or {}).get("rto_seconds")
    answered = next((bar.end for bar in bars if bar.label == _ROWS["verify"]), None)
    return _draw(
        bars,
        answered,
        objective if isinstance(objective, int | float) else None,
        "seconds since the fault" if fault.get("injected_at") else "seconds since the first step",
    )


def _bars(plan: Sequence[Mapping[str, Any]], fault: Mapping[str, Any], zero: datetime) -> list[_Bar]:
    def at(value: object) -> float | None:
        found = moment(value)
        return None if found is None else (found - zero).total_seconds()

    bars = []
    for step in sorted(plan, key=lambda s: str(s.get("ended_at"))):
        start, end = at(step.get("started_at")), at(step.get("ended_at"))
        if start is not None and end is not None:
            good = step.get("status") in ("done", "skipped")
            bars.append(_Bar(_ROWS[step["name"]], start, max(start, end), "step" if good else "failed"))
    lifted = at(fault.get("lifted_at"))
    if fault.get("injected_at"):
        last = max((bar.end for bar in bars), default=1.0)
        bars.insert(
            0, _Bar("fault", 0.0, lifted if lifted is not None else last, "fault" if lifted is not None else "open")
        )
    if lifted is not None:
        bars.append(_Bar("fault lifted", lifted, lifted, "lift"))
    return bars


def _draw(bars: list[_Bar], answered: float | None, objective: float | None, axis: str) -> str:
    low = min(0.0, *(bar.start for bar in bars))
    high = max(bar.end for bar in bars)
    if objective is not None and high < objective <= high * 1.6:
        high = objective
    span = max(high - low, 0.5)

    def x(seconds: float) -> float:
        return _LEFT + (seconds - low) / span * (_WIDTH - _LEFT - _RIGHT)

    height = _TOP + _ROW * len(bars) + 40
    bottom = height - 34
    parts = [f'<svg viewBox="0 0 {_WIDTH:g} {height:g}" role="img" aria-label="Timeline of the drill">']
    for tick in _ticks(low, high):
        parts.append(_vertical(x(tick), _TOP - 6, bottom, 'stroke="var(--line)"'))
        parts.append(_label(x(tick), bottom + 15, f"{tick:g}", "middle", dim=True))
    parts.append(_label((_LEFT + _WIDTH - _RIGHT) / 2, bottom + 31, axis, "middle", dim=True))
    if answered is not None:
        parts += _mark(x(answered), bottom, "var(--pass)", f"first right answer {answered:.2f} s", 12)
    if objective is not None and low <= objective <= high:
        parts += _mark(x(objective), bottom, "var(--fail)", f"RTO objective {objective:g} s", 26)
    for index, bar in enumerate(bars):
        parts += _row(bar, x, _TOP + _ROW * index)
    return "".join([*parts, "</svg>"])


def _row(bar: _Bar, x: Callable[[float], float], y: float) -> list[str]:
    middle = y + _ROW / 2 + 4
    start, end = x(bar.start), x(bar.end)
    note = f"{bar.start:.2f} s" if bar.kind == "lift" else f"{bar.start:.2f} → {bar.end:.2f} s"
    if bar.kind == "open":
        note = f"{bar.start:.2f} s, never lifted"
    note_x, anchor = (end + 8, "start") if end + 114 < _WIDTH else (start - 8, "end")
    if bar.kind == "lift":
        shape = f'<path d="M{start - 6:.1f} {y + 12:.1f} l6 -6 l6 6 l-6 6 z" fill="var(--fault)"/>'
    else:
        colour = {"fault": "--fault", "open": "--fault", "failed": "--fail"}.get(bar.kind, "--bar")
        opacity = 0.35 if bar.kind in ("fault", "open") else 1
        box = f'x="{start:.1f}" y="{y + 5:.1f}" width="{max(end - start, 2.5):.1f}" height="14" rx="3"'
        shape = f'<rect {box} fill="var({colour})" fill-opacity="{opacity:g}"/>'
    return [_label(_LEFT - 10, middle, bar.label, "end"), shape, _label(note_x, middle, note, anchor, dim=True)]


def _mark(x: float, bottom: float, colour: str, label: str, y: float) -> list[str]:
    """A dashed line through all rows, named at its top."""
    anchor, shift = ("end", -5) if x > _WIDTH - 220 else ("start", 5)
    line = _vertical(x, 4, bottom, f'stroke="{colour}" stroke-width="1.5" stroke-dasharray="4 3"')
    return [line, _label(x + shift, y, label, anchor)]


def _vertical(x: float, top: float, bottom: float, style: str) -> str:
    return f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{top:g}" y2="{bottom:g}" {style}/>'


def _label(x: float, y: float, words: str, anchor: str, *, dim: bool = False) -> str:
    kind = ' class="dim"' if dim else ""
    return f'<text{kind} x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{text(words)}</text>'


def _ticks(low: float, high: float) -> list[float]:
    rough = max(high - low, 0.5) / 8
    magnitude = 10 ** math.floor(math.log10(rough))
    step = next(m * magnitude for m in (1, 2, 5, 10) if m * magnitude >= rough)
    first = math.ceil(low / step)
    return [round(i * step, 6) for i in range(first, int(high // step) + 1)]
