"""Intervals that the next seal asks for again, and what of them is sealed already; as a document of each seal."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

from holdfast.engine.audit.collect import Unit, is_asked_again
from holdfast.engine.audit.errors import Tampered
from holdfast.engine.audit.interface import Interval, State
from holdfast.engine.snapshot.documents import canonical, in_utc, iso_utc

FORMAT = "holdfast.pending/1"
#: By state, how long after its end an interval is still asked for again; after that its last state stays.
GIVE_UP = {State.LATE: timedelta(days=30), State.UNKNOWN: timedelta(days=7), State.GAP: timedelta(days=1)}

Known = Mapping[Interval, frozenset[tuple[str, str]]]


def pending_of(units: Sequence[Unit], known: Known, now: datetime) -> dict[Interval, frozenset[tuple[str, str]]]:
    """What is to be asked again after these units.

    Args:
        known: what earlier seals hold of their intervals.
        now: an interval that ended longer ago than `GIVE_UP` is left out.
    """
    return {
        one.interval: known.get(one.interval, frozenset()) | unit.read.get(one.interval, frozenset())
        for unit in units
        for one in unit.coverages
        if is_asked_again(one) and one.interval.end > now - GIVE_UP[one.state]
    }


def encode(source: str, pending: Known) -> bytes:
    """As a document."""
    rows = [
        {"start": iso_utc(interval.start), "end": iso_utc(interval.end), "known": sorted(map(list, known))}
        for interval, known in sorted(pending.items())
    ]
    return canonical({"format": FORMAT, "source": source, "intervals": rows})


def decode(data: bytes, where: str) -> dict[Interval, frozenset[tuple[str, str]]]:
    """From a document. Raises Tampered."""
    try:
        row = json.loads(data)
        if row["format"] != FORMAT:
            raise ValueError(f"expected {FORMAT}; found {row['format']}")
        return {
            Interval(_moment(one["start"]), _moment(one["end"])): frozenset((str(a), str(b)) for a, b in one["known"])
            for one in row["intervals"]
        }
    except (ValueError, KeyError, TypeError) as error:
        raise Tampered("what is pending cannot be read", where=where, expected=FORMAT, found=str(error)[:300]) from None


def _moment(text: str) -> datetime:
    return in_utc(datetime.fromisoformat(text))
