"""Findings on posture and residency: each run of the checks is a file, and the newest look at a thing counts.

An earlier look within the exports' window that said the opposite stays: it was so then. A look that is older than what
`maximum_age_days` allows shows nothing any more.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from holdfast.engine.audit.evidence.controls import Look, maximum_ages
from holdfast.engine.audit.evidence.exports import Exports
from holdfast.engine.audit.evidence.observations import Named, Observation, Shown, worst_of
from holdfast.engine.audit.manifest import DocumentRef
from holdfast.engine.audit.posture.checks import BY_ID
from holdfast.engine.snapshot.documents import in_utc, iso_utc

_FILE = re.compile(r"findings/(?P<look>posture|residency)(-[0-9TZ.]+)?\.jsonl?")
_LARGEST_BYTES = 64 * 1024 * 1024
_MEANING = {1: Shown.SHOWN, 3: Shown.CONTRARY, 99: Shown.NOT_APPLICABLE}


@dataclass(frozen=True, slots=True)
class _Seen:
    """One look at one thing."""

    look: Look
    name: str
    subject: str
    at: datetime
    shown: Shown
    what: str
    file: Named


def findings(exports: Exports) -> Iterator[Observation]:
    """What the checks found, per check and what it looked at."""
    seen: dict[tuple[Look, str, str], list[_Seen]] = defaultdict(list)
    for one, document in exports.documents():
        match = _FILE.fullmatch(document.file.path)
        if match is None:
            continue
        file = Named(exports.path(one, document.file.path), document.file.sha256)
        try:
            text = _text(Path(one.answer.where), document)
            for each in list(_posture(text, file) if match["look"] == "posture" else _residency(text, file)):
                seen[each.look, each.name, each.subject].append(each)
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError, ArithmeticError, OSError):
            yield from _unreadable(match["look"], file)
    for looks in seen.values():
        yield _newest(exports, sorted(looks, key=lambda each: each.at))


def _newest(exports: Exports, looks: list[_Seen]) -> Observation:
    last = looks[-1]
    newest = [each for each in looks if each.at == last.at]
    shown, what = worst_of(each.shown for each in newest), f"{last.what} ({iso_utc(last.at)})"
    if all(each.shown is Shown.NOT_APPLICABLE for each in newest):
        shown = Shown.NOT_APPLICABLE
    files = [last.file]
    if shown in (Shown.SHOWN, Shown.NOT_APPLICABLE) and not exports.is_fresh(last.look, last.at):
        shown = Shown.UNKNOWN
        what += f"; stale: more than {maximum_ages()[last.look].days} days before {iso_utc(exports.newest.sealed_at)}"
    if len(looks) > len(newest):
        what += f"; looked at {len(looks)} times since {iso_utc(looks[0].at)}"
    start, _ = exports.window
    failed = [each for each in looks if each.shown is Shown.CONTRARY and each.at >= start and each not in newest]
    if failed:
        shown, files = Shown.CONTRARY, [last.file, failed[-1].file]
        what += f"; at {iso_utc(failed[-1].at)} it said: {failed[-1].what}"
    once = tuple(dict.fromkeys(files))
    return Observation(last.look, last.name[:300], shown, what[:1000], once, last.subject, last.at)


def _posture(text: str, file: Named) -> Iterator[_Seen]:
    lines = text.splitlines()
    if not lines:
        raise ValueError("no line")
    for line in lines:
        row = json.loads(line)
        check, uid = str(row["compliance"]["control"]), str(row["finding_info"]["uid"])
        at = datetime.fromtimestamp(row["time"] / 1000, UTC)
        shown, what = _MEANING.get(row["compliance"]["status_id"], Shown.UNKNOWN), str(row["message"])[:500]
        asked_at = json.loads(row["resources"][0]["data"]).get("asked_at")
        if asked_at is not None and shown is Shown.SHOWN:
            shown, what = Shown.UNKNOWN, f"{what} Asked at {asked_at}, which is not the cloud's own endpoint"
        yield _Seen("posture", uid, check, at, shown, what, file)


def _residency(text: str, file: Named) -> Iterator[_Seen]:
    row = json.loads(text)
    shown = {"lawful": Shown.SHOWN, "breach": Shown.CONTRARY}.get(row["verdict"], Shown.UNKNOWN)
    counts = ", ".join(f"{int(count)} {name}" for name, count in row["counts"].items())
    at = in_utc(datetime.fromisoformat(row["made_at"]))
    what = f"Copies judged: {counts}"[:500]
    yield _Seen("residency", "report", "", at, shown if row["copies"] else Shown.UNKNOWN, what, file)


def _unreadable(look: str, file: Named) -> Iterator[Observation]:
    if look == "residency":
        yield Observation("residency", f"unreadable {file.path}", Shown.UNKNOWN, "the report cannot be read", (file,))
        return
    # Which check it would have been is not known, so it counts against every one of them.
    for check in BY_ID:
        what = f"{file.path} cannot be read to its end"
        yield Observation("posture", f"unreadable {check} {file.path}", Shown.UNKNOWN, what, (file,), check)


def _text(folder: Path, document: DocumentRef) -> str:
    if document.file.size_bytes > _LARGEST_BYTES:
        raise ValueError(f"more than {_LARGEST_BYTES} bytes")
    return (folder / document.file.path).read_text(encoding="utf-8")
