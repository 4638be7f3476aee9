"""What an export says for itself: observations, each with the documents it rests on. Unknown is never good news."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

from holdfast.engine.audit.evidence.controls import Evidence, Look
from holdfast.engine.audit.interface import State
from holdfast.engine.audit.manifest import CHECKPOINT, MANIFEST, DocumentRef, Manifest
from holdfast.engine.audit.posture.checks import BY_ID
from holdfast.engine.audit.segments import file_sha256
from holdfast.engine.audit.verify import Verified
from holdfast.engine.snapshot.documents import iso_utc

POSTURE, RESIDENCY = "findings/posture.jsonl", "findings/residency.json"
_LARGEST_BYTES = 64 * 1024 * 1024


class Shown(StrEnum):
    """What evidence says, the worst first."""

    #: It is there and says the opposite.
    CONTRARY = "contrary"
    #: It is not there, or it does not say.
    UNKNOWN = "unknown"
    #: It is there and says what is looked for, but no export holds all that the rule speaks of.
    PARTLY = "partly"
    #: It is there and says what is looked for.
    SHOWN = "shown"
    #: It has no meaning here.
    NOT_APPLICABLE = "not-applicable"


@dataclass(frozen=True, slots=True)
class Named:
    """A file of the export: its path and SHA-256 in hex."""

    path: str
    sha256: str


@dataclass(frozen=True, slots=True)
class Observation:
    """One thing the export says.

    Args:
        look: which kind of evidence.
        name: unique in its kind, e.g. a source's or a check's with what it looked at.
        shown: what it says.
        what: one sentence.
        files: what it rests on.
        subject: by what evidence is narrowed: a source's kind, a check's id, a document's path.
    """

    look: Look
    name: str
    shown: Shown
    what: str
    files: tuple[Named, ...]
    subject: str = ""

    def speaks_to(self, evidence: Evidence) -> bool:
        """Whether the evidence looks for it."""
        if self.look != evidence.look:
            return False
        if evidence.paths:
            return any(self.subject.startswith(path) for path in evidence.paths)
        wanted = evidence.kinds or evidence.checks
        return not wanted or self.subject in wanted


def worst_of(shown: Iterable[Shown]) -> Shown:
    """Of several; of nothing, or of what has no meaning alone, it is unknown."""
    found = set(shown)
    return next((one for one in Shown if one in found and one is not Shown.NOT_APPLICABLE), Shown.UNKNOWN)


def gather(verified: Verified) -> list[Observation]:
    """Everything a verified export says.

    Raises:
        Tampered: it is not what was sealed, so nothing of it is evidence.
    """
    manifest = verified.sealed("is evidence")
    folder = Path(verified.answer.where)
    return [
        _verification(verified, manifest, folder),
        *_coverage(verified, manifest),
        _retention(manifest),
        *_drills(manifest, folder, verified.drill_keys),
        *_posture(manifest, folder),
        *_residency(manifest, folder),
        *_documents(manifest),
    ]


def _verification(verified: Verified, manifest: Manifest, folder: Path) -> Observation:
    names = ", ".join(verified.answer.signed_by)
    is_pinned = bool(names)
    return Observation(
        "verification",
        "export",
        Shown.SHOWN if is_pinned else Shown.UNKNOWN,
        f"Seal {manifest.seal} of {manifest.origin} is what was sealed, and signed by {names}"
        if is_pinned
        else "It is whole in itself, but no trusted key was given: anybody could have made it",
        tuple(Named(name, file_sha256(folder / name)) for name in (MANIFEST, CHECKPOINT)),
    )


def _coverage(verified: Verified, manifest: Manifest) -> Iterator[Observation]:
    meaning = {State.COMPLETE: Shown.SHOWN, State.GAP: Shown.CONTRARY}
    for one in verified.coverage:
        told = [f"{sum(i.state is state for i in one.intervals)} {state}" for state in State]
        document = next(source.coverage for source in manifest.sources if source.name == one.source)
        yield Observation(
            "coverage",
            one.source,
            meaning.get(one.state, Shown.UNKNOWN),
            f"{one.source} ({one.kind}) is {one.state}: of {len(one.intervals)} intervals {', '.join(told)}",
            _files(manifest.document(document)),
            one.kind,
        )


def _retention(manifest: Manifest) -> Observation:
    retention = manifest.retention
    until = f"{retention.until:%Y-%m-%d}" if retention.until else "no date"
    what = f"To be kept until {until} by {', '.join(retention.profiles) or 'no profile'}, lock {retention.lock_mode}"
    if retention.lock_mode == "none" or retention.until is None:
        return Observation("retention", "lock", Shown.CONTRARY, f"{what}: nothing is locked", ())
    return Observation("retention", "lock", Shown.UNKNOWN, f"{what}; that the lock holds, only the store can tell", ())


def _drills(manifest: Manifest, folder: Path, keys: Collection[str]) -> Iterator[Observation]:
    from holdfast.engine.drill.evidence import ENVELOPE, JOURNAL, REPORT, EvidenceInvalid, verify_evidence

    for one in manifest.documents:
        inside, _, name = one.file.path.rpartition("/")
        if name != ENVELOPE or not inside:
            continue
        files = _files(*(manifest.document(f"{inside}/{part}") for part in (ENVELOPE, JOURNAL, REPORT)))
        try:
            found = verify_evidence(folder / inside)
            shown = _of_drill(found.verdict, json.loads((folder / inside / JOURNAL).read_bytes()))
        except EvidenceInvalid as error:
            yield Observation("drills", inside, Shown.CONTRARY, f"The evidence does not hold: {error.what}", files)
            continue
        except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            what = f"The evidence cannot be read: {type(error).__name__}"
            yield Observation("drills", inside, Shown.UNKNOWN, what, files)
            continue
        said = found.verdict or found.status
        whose = "is trusted for drills" if found.key_id in keys else "nobody pinned here"
        if keys and found.key_id not in keys:
            shown, whose = Shown.CONTRARY, "is not trusted for drills"
        what = f"Drill {found.drill_id} says {said}; signed by key {found.key_id}, which {whose}"
        yield Observation("drills", inside, shown, what, files)


def _of_drill(verdict: str | None, journal: Mapping[str, Any]) -> Shown:
    """Aborted is no failure and no success: it shows nothing."""
    if verdict is not None:
        return {"pass": Shown.SHOWN, "fail": Shown.CONTRARY}.get(verdict, Shown.UNKNOWN)
    from holdfast.engine.drill.journal import Verdicts

    claims = {name: claim for name, claim in journal["verdict"].items() if name != "passed"}
    passed = Verdicts.model_validate(claims).passed  # judged anew from its claims
    if journal["deviated"] is not False or passed is False:
        return Shown.CONTRARY
    return Shown.SHOWN if passed is True and journal["status"] == "completed" else Shown.UNKNOWN


def _posture(manifest: Manifest, folder: Path) -> Iterator[Observation]:
    document = manifest.document(POSTURE)
    if document is None:
        return
    meaning = {1: Shown.SHOWN, 3: Shown.CONTRARY, 99: Shown.NOT_APPLICABLE}
    files = _files(document)
    number = 0
    try:
        for number, line in enumerate(_text(folder, document).splitlines(), 1):
            row = json.loads(line)
            check, uid = str(row["compliance"]["control"]), row["finding_info"]["uid"]
            looked_at = iso_utc(datetime.fromtimestamp(row["time"] / 1000, UTC))
            shown, what = meaning.get(row["compliance"]["status_id"], Shown.UNKNOWN), f"{row['message']} ({looked_at})"
            asked_at = json.loads(row["resources"][0]["data"]).get("asked_at")
            if asked_at is not None and shown is Shown.SHOWN:
                shown, what = Shown.UNKNOWN, f"{what} Asked at {asked_at}, which is not the cloud's own endpoint"
            yield Observation("posture", f"{number:05d} {uid}"[:300], shown, what[:1000], files, check)
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError, ArithmeticError, OSError):
        # Which check it would have been is not known, so it counts against every one of them.
        for check in BY_ID:
            what = f"line {number} of the findings cannot be read"
            yield Observation("posture", f"unreadable {check}", Shown.UNKNOWN, what, files, check)


def _residency(manifest: Manifest, folder: Path) -> Iterator[Observation]:
    document = manifest.document(RESIDENCY)
    if document is None:
        return
    files = _files(document)
    try:
        row = json.loads(_text(folder, document))
        shown = {"lawful": Shown.SHOWN, "breach": Shown.CONTRARY}.get(row["verdict"], Shown.UNKNOWN)
        counts = ", ".join(f"{int(count)} {name}" for name, count in row["counts"].items())
        made_at = str(row["made_at"])[:40]
        if not row["copies"]:
            shown = Shown.UNKNOWN
        yield Observation("residency", "report", shown, f"Copies judged at {made_at}: {counts}"[:1000], files)
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        yield Observation("residency", "unreadable", Shown.UNKNOWN, "the report cannot be read", files)


def _documents(manifest: Manifest) -> Iterator[Observation]:
    """Those of the export itself, and the lineage that the source of Holdfast's own records gave."""
    own = {one.name for one in manifest.sources if one.kind == "holdfast"}
    for one in manifest.documents:
        path = one.file.path
        if one.source in own:
            path = path.removeprefix(f"documents/{one.source}/").partition("/")[2]
        if not one.source or path.startswith("lineage/"):
            name, what = one.file.path, f"{one.file.path} is there as it was sealed"
            yield Observation("documents", name, Shown.SHOWN, what, _files(one), path)


def _text(folder: Path, document: DocumentRef) -> str:
    if document.file.size_bytes > _LARGEST_BYTES:
        raise ValueError(f"more than {_LARGEST_BYTES} bytes")
    return (folder / document.file.path).read_text(encoding="utf-8")


def _files(*documents: DocumentRef | None) -> tuple[Named, ...]:
    return tuple(Named(one.file.path, one.file.sha256) for one in documents if one is not None)
