"""What a walk over Airflow's audit rows shows: removed, purged, changed and hidden rows, each as what it is."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from holdfast.engine.audit.interface import Finding, Interval, State
from holdfast.engine.audit.sources.airflow_position import Purge, Row
from holdfast.engine.audit.sources.airflow_walk import Hole, Seen, Walk, is_young

#: How Airflow names the row in which ``airflow db clean`` records itself, before it begins.
_CLEAN = "cli_cleanup_tables"

#: So many ids are asked for again by the next walk; a transaction leaves few.
_OPEN_IDS = 1_000

NOT_RECORDED = Finding(
    "login-not-recorded",
    "Airflow records what is changed through its API, not who logged in and what was refused; those are in the logs of "
    "what authenticates its users",
    state=State.COMPLETE,
)


#: Commands whose arguments Airflow records as they were typed, a variable's value or a connection's extra among them.
_TYPED = frozenset({"cli_variables_set", "cli_connections_add"})


def is_typed(row: Row) -> bool:
    """Whether a row holds what somebody typed into a command that takes secrets."""
    return row.event in _TYPED


def typed(ids: Sequence[int]) -> list[Finding]:
    """Rows that may hold a secret that Airflow did not mask."""
    if not ids:
        return []
    return [
        Finding(
            "arguments-typed",
            "rows hold the arguments of `airflow variables set` or `connections add` as they were typed, where Airflow "
            f"masks only names that look secret: {_ids(ids)}",
            _at(ids),
            State.COMPLETE,
        )
    ]


def purge_of(row: Row) -> Purge | None:
    """The cleaning of the ``log`` table that a row records, ``None`` when it records none."""
    if row.event != _CLEAN or row.when is None or row.extra is None:
        return None
    try:
        command = [str(one) for one in ast.literal_eval(json.loads(row.extra)["full_command"])]
    except (ValueError, KeyError, TypeError, SyntaxError):
        return None
    options = _options(command)
    tables = next((options[name] for name in ("--tables", "-t") if name in options), None)
    if "--dry-run" in options or (tables is not None and "log" not in tables.split(",")):
        return None
    try:
        before = datetime.fromisoformat(options["--clean-before-timestamp"])
    except (KeyError, ValueError):
        return None
    return Purge(row.id, row.when, before if before.tzinfo else before.replace(tzinfo=UTC))


def _options(command: Sequence[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for position, word in enumerate(command):
        name, equals, value = word.partition("=")
        if name.startswith("-"):
            following = command[position + 1] if position + 1 < len(command) else ""
            found[name] = value if equals else following
    return found


def of_anchors(seen: Iterable[Seen], purges: Sequence[Purge], newest: int, last_id: int) -> list[Finding]:
    """What became of the rows that earlier walks read."""
    cleaned = max((purge.before for purge in purges), default=None)
    changed = [one.anchor.id for one in seen if one.became == "changed"]
    gone = [one.anchor for one in seen if one.became == "gone"]
    purged = [one.id for one in gone if cleaned is not None and one.when is not None and one.when < cleaned]
    removed = [one.id for one in gone if one.id not in purged]
    findings = []
    if newest < last_id:
        findings.append(
            Finding(
                "ids-went-back",
                f"the newest id is lower than one that was read before, as after a restore from a backup: expected at "
                f"least {last_id}, found {newest or 'none'}",
                f"eventLogs/{last_id}",
            )
        )
    elif removed:
        findings.append(Finding("rows-removed", f"rows that were read before are gone: {_ids(removed)}", _at(removed)))
    if changed:
        findings.append(
            Finding("row-changed", f"rows hold something else than when they were read: {_ids(changed)}", _at(changed))
        )
    if purged:
        findings.append(
            Finding(
                "ids-purged",
                f"`airflow db clean` removed rows older than {cleaned}, read before: among them {_ids(purged)}",
                _at(purged),
                State.COMPLETE,
            )
        )
    return findings


def of_holes(
    walk: Walk, purges: Sequence[Purge], interval: Interval, read_to: int, now: datetime, settle: timedelta
) -> tuple[list[Finding], int, tuple[int, ...]]:
    """What the holes among a window's ids are: findings, how many ids are explained, and those still open.

    Args:
        read_to: the newest id that earlier walks read. What is gone below it, `of_anchors` tells.
    """
    findings: list[Finding] = []
    explained = 0
    opened: list[int] = []
    unexplained: list[Hole] = []
    cleaned = max((purge.before for purge in purges), default=None)
    for whole in walk.holes:
        hole = replace(whole, first=max(whole.first, read_to + 1))
        explained += whole.size - max(0, hole.size)
        if hole.size <= 0:
            continue
        if hole.lowest and cleaned is not None and hole.above is not None and hole.above >= cleaned:
            explained += hole.size
            findings.append(_purged(hole, cleaned, interval))
        elif is_young(hole, now, settle) and len(opened) + hole.size <= _OPEN_IDS:
            opened.extend(range(hole.first, hole.last + 1))
        else:
            unexplained.append(hole)
    if opened:
        findings.append(
            Finding(
                "ids-not-yet",
                f"ids without a row whose transaction may still be open; the next walk asks again: {_ids(opened)}",
                _at(opened),
                State.LATE,
            )
        )
    if unexplained:
        count = sum(hole.size for hole in unexplained)
        shown = ", ".join(map(str, unexplained[:20])) + (" and more" if len(unexplained) > 20 else "")
        partly = (
            "" if all(hole.each_asked for hole in unexplained) else "; of the wide ones only the borders were asked"
        )
        findings.append(missing(f"{count} ids without a row: {shown}{partly}", unexplained[0].first))
    return findings, explained, tuple(opened)


def missing(what: str, first: int) -> Finding:
    """A hole that nothing explains."""
    return Finding(
        "ids-missing",
        f"{what}. An insert that was rolled back, a row without a time, which Airflow's API does not show, and a row "
        "that was deleted look the same",
        f"eventLogs/{first}",
        State.UNKNOWN,
    )


def _purged(hole: Hole, cleaned: datetime, interval: Interval) -> Finding:
    before = cleaned <= interval.start
    return Finding(
        "ids-purged",
        f"`airflow db clean` removed rows older than {cleaned} before they were read: ids {hole}"
        + ("; all are from before this interval" if before else ""),
        f"eventLogs/{hole.last}",
        State.COMPLETE if before else State.GAP,
    )


def of_list(walked: set[int], listed: set[int], after: int, cut: int) -> list[Finding]:
    """What the list endpoint shows, beside what the walk found between two ids."""
    inside = {one for one in listed if after < one <= cut}
    hidden, extra = {one for one in walked if one > after} - inside, inside - walked
    findings = []
    if hidden:
        findings.append(
            Finding(
                "list-hides",
                f"{len(hidden)} rows that the list endpoint does not show, as of deleted DAGs: {_ids(sorted(hidden))}",
                _at(sorted(hidden)),
                State.COMPLETE,
            )
        )
    if extra:
        findings.append(
            Finding(
                "listed-not-found",
                f"{len(extra)} rows are listed, and their id answers that there is none: {_ids(sorted(extra))}",
                _at(sorted(extra)),
            )
        )
    return findings


def outside(rows_before: int, rows_after: int, timeless: int) -> list[Finding]:
    """Rows whose time is not in the window their id is in."""
    if not rows_before + rows_after + timeless:
        return []
    return [
        Finding(
            "outside-window",
            f"rows that belong to this window by their id and not by their time: {rows_before} from before it, "
            f"{rows_after} from after it, {timeless} without a time",
            state=State.COMPLETE,
        )
    ]


def _ids(ids: Sequence[int]) -> str:
    return ", ".join(map(str, ids[:20])) + (f" and {len(ids) - 20} more" if len(ids) > 20 else "")


def _at(ids: Sequence[int]) -> str:
    return f"eventLogs/{ids[0]}"
