"""What exports say for themselves: observations, each with the documents it rests on. Unknown is never good news."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

from holdfast.engine.audit.chain import fold_coverage
from holdfast.engine.audit.coverage import worst
from holdfast.engine.audit.evidence.controls import maximum_ages
from holdfast.engine.audit.evidence.exports import Exports
from holdfast.engine.audit.evidence.findings import findings
from holdfast.engine.audit.evidence.observations import Named, Observation, Shown
from holdfast.engine.audit.interface import State
from holdfast.engine.audit.manifest import CHECKPOINT, MANIFEST, DocumentRef, Manifest
from holdfast.engine.audit.segments import file_sha256
from holdfast.engine.audit.verify import Verified
from holdfast.engine.snapshot.documents import in_utc

#: Problems of a chain that say that what lies between its exports is not here.
_HOLES = frozenset({"export-missing", "window-missing"})


def gather(verified: Verified | Exports) -> list[Observation]:
    """Everything that verified exports say.

    Raises:
        Tampered: they are not what was sealed, so nothing of them is evidence.
    """
    exports = Exports.of(verified)
    return [
        _verification(exports),
        *_coverage(exports),
        _retention(exports),
        *_all_drills(exports),
        *findings(exports),
        *_documents(exports),
    ]


def _verification(exports: Exports) -> Observation:
    names = ", ".join(dict.fromkeys(name for one in exports.each for name in one.answer.signed_by))
    is_pinned = all(one.answer.signed_by for one in exports.each)
    seals = [manifest.seal for manifest in exports.manifests()]
    told = f"Seal {seals[0]}" if len(seals) == 1 else f"{len(seals)} seals from {seals[0]} to {seals[-1]}"
    return Observation(
        "verification",
        "export",
        Shown.SHOWN if is_pinned else Shown.UNKNOWN,
        f"{told} of {exports.newest.origin}: what was sealed, and signed by {names}"
        if is_pinned
        else "It is whole in itself, but no trusted key was given: anybody could have made it",
        tuple(
            Named(exports.path(one, name), file_sha256(Path(one.answer.where) / name))
            for one in exports.each
            for name in (MANIFEST, CHECKPOINT)
        ),
    )


def _coverage(exports: Exports) -> Iterator[Observation]:
    """Per source over all exports: of an interval the newest word counts."""
    meaning = {State.COMPLETE: Shown.SHOWN, State.GAP: Shown.CONTRARY}
    holes = sorted({one.code for one in exports.answer.problems} & _HOLES)
    for source, intervals in fold_coverage(exports.each).items():
        state = worst(one.state for one in intervals.values())
        told = [f"{sum(i.state is state for i in intervals.values())} {state}" for state in State]
        kind = ""
        files: list[Named] = []
        for one in exports.each:
            for each in one.manifest.sources if one.manifest else ():
                if one.manifest and each.name == source:
                    kind = each.kind
                    files += _files(exports, one, one.manifest.document(each.coverage))
        shown = meaning.get(state, Shown.UNKNOWN)
        what = f"{source} ({kind}) is {state}: of {len(intervals)} intervals {', '.join(told)}"
        if holes and shown is Shown.SHOWN:
            shown, what = Shown.UNKNOWN, f"{what}; but exports in between are not here ({', '.join(holes)})"
        yield Observation("coverage", source, shown, what, tuple(files), kind)


def _retention(exports: Exports) -> Observation:
    """That of the seal which is kept worst, of equals the newest's."""
    each = [_retained(manifest) for manifest in reversed(exports.manifests())]
    return min(each, key=lambda one: list(Shown).index(one.shown))


def _retained(manifest: Manifest) -> Observation:
    retention = manifest.retention
    until = f"{retention.until:%Y-%m-%d}" if retention.until else "no date"
    what = f"To be kept until {until} by {', '.join(retention.profiles) or 'no profile'}, lock {retention.lock_mode}"
    if retention.lock_mode == "none" or retention.until is None:
        return Observation("retention", "lock", Shown.CONTRARY, f"{what}: nothing is locked", ())
    return Observation("retention", "lock", Shown.UNKNOWN, f"{what}; that the lock holds, only the store can tell", ())


def _all_drills(exports: Exports) -> Iterator[Observation]:
    """Of each export; a good drill that is too old shows nothing, and a newer one is not worse for it."""
    for one in exports.each:
        assert one.manifest is not None
        for found in _drills(one.manifest, Path(one.answer.where), one.drill_keys):
            files = tuple(replace(file, path=exports.path(one, file.path)) for file in found.files)
            drill = replace(found, name=exports.path(one, found.name), files=files)
            if drill.shown is Shown.SHOWN and not (drill.at and exports.is_fresh("drills", drill.at)):
                stale = f"stale: more than {maximum_ages()['drills'].days} days before the last seal"
                drill = replace(drill, shown=Shown.NOT_APPLICABLE, what=f"{drill.what}; {stale}")
            yield drill


def _drills(manifest: Manifest, folder: Path, keys: Collection[str]) -> Iterator[Observation]:
    from holdfast.engine.drill.evidence import ENVELOPE, JOURNAL, REPORT, EvidenceInvalid, verify_evidence

    for one in manifest.documents:
        inside, _, name = one.file.path.rpartition("/")
        if name != ENVELOPE or not inside:
            continue
        parts = (manifest.document(f"{inside}/{part}") for part in (ENVELOPE, JOURNAL, REPORT))
        files = tuple(_named(part) for part in parts if part is not None)
        try:
            found = verify_evidence(folder / inside)
            journal = json.loads((folder / inside / JOURNAL).read_bytes())
            shown, at = _of_drill(found.verdict, journal), _ended_at(journal)
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
        yield Observation("drills", inside, shown, f"{what}; it ended at {at or 'no known time'}", files, at=at)


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


def _ended_at(journal: Mapping[str, Any]) -> datetime | None:
    text = journal.get("ended_at") or journal.get("started_at")
    return in_utc(datetime.fromisoformat(text)) if text else None


def _documents(exports: Exports) -> Iterator[Observation]:
    """What no source brought, and the lineage that the source of Holdfast's own records gave."""
    for one, document in exports.documents():
        yield _there(exports, one, document, document.file.path)
    for one in exports.each:
        own = {source.name for source in one.manifest.sources if source.kind == "holdfast"} if one.manifest else set()
        for document in one.manifest.documents if one.manifest else ():
            inside = document.file.path.removeprefix(f"documents/{document.source}/").partition("/")[2]
            if document.source in own and inside.startswith("lineage/"):
                yield _there(exports, one, document, inside)


def _there(exports: Exports, one: Verified, document: DocumentRef, subject: str) -> Observation:
    files = _files(exports, one, document)
    what = f"{document.file.path} is there as it was sealed"
    return Observation("documents", files[0].path, Shown.SHOWN, what, files, subject)


def _files(exports: Exports, one: Verified, document: DocumentRef | None) -> tuple[Named, ...]:
    if document is None:
        return ()
    return (replace(_named(document), path=exports.path(one, document.file.path)),)


def _named(document: DocumentRef) -> Named:
    return Named(document.file.path, document.file.sha256)
