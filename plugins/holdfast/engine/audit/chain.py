"""Several exports of one ledger: each follows the one before, none is missing, and what was late may be there now."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import datetime
from itertools import pairwise
from pathlib import Path

from holdfast.engine.audit.coverage import worst
from holdfast.engine.audit.interface import Coverage, Interval, State
from holdfast.engine.audit.leaves import Progress
from holdfast.engine.audit.manifest import CHECKPOINT, MANIFEST
from holdfast.engine.audit.privacy.keys import SubjectKey
from holdfast.engine.audit.problems import Answer, Kind, Problem, tampered
from holdfast.engine.audit.tlog.errors import NoteRefused
from holdfast.engine.audit.tlog.keys import VerifierKey
from holdfast.engine.audit.tlog.notes import Checkpoint, Note
from holdfast.engine.audit.verify import (
    Verified,
    check_proofs,
    coverage_problems,
    is_export,
    no_export,
    verify_export,
)
from holdfast.errors import ConfigError


def exports_below(*paths: Path, note: Callable[[str], object] = lambda _text: None) -> list[Path]:
    """The exports that paths name, each once: a path itself, or what lies in it.

    Args:
        note: told what lies beside exports and is none.

    Raises:
        ConfigError: there is none in one of them.
    """
    found: dict[Path, Path] = {}
    for path in paths:
        inside = [path] if is_export(path) else sorted(path.iterdir()) if path.is_dir() else []
        # What begins with a dot is being written, or a run that was killed left it (`folders`).
        exports = [one for one in inside if is_export(one) and (one == path or not one.name.startswith("."))]
        if not exports:
            raise no_export(path, f"a folder with {MANIFEST} and {CHECKPOINT}, or a folder of such folders")
        for one in exports:
            found.setdefault(one.resolve(), one)
        for one in inside:
            if one not in exports:
                note(f"Not looked at, for it is no export: {one}")
    return list(found.values())


def read_checkpoint(file: Path) -> Checkpoint:
    """A checkpoint somebody kept; its signatures are not looked at. Raises ConfigError."""
    what = "the checkpoint cannot be read"
    try:
        return Checkpoint.parse(Note.parse(file.read_bytes()).text)
    except OSError as error:
        raise ConfigError(what, where=str(file), expected="a signed note", found=str(error.strerror)) from None
    except NoteRefused as error:
        raise ConfigError(
            what,
            where=str(file),
            expected=f"a signed note of a log: {error.expected or 'the checkpoint of an export'}",
            found=f"{error.what}: {error.found}" if error.found else error.what,
            fix="Name a copy of the `checkpoint` of an export that was verified before",
        ) from None


def verify_exports(
    folders: Sequence[Path],
    *,
    trusted: Sequence[VerifierKey] = (),
    needed: int | None = None,
    remembered: Checkpoint | None = None,
    late_until: datetime | None = None,
    time_roots: Sequence[bytes] = (),
    subject_keys: Mapping[bytes, SubjectKey] | None = None,
    drill_keys: Collection[str] = (),
    progress: Progress = lambda *_: None,
) -> tuple[Answer, list[Verified]]:
    """Verify exports, and that they are one unbroken log.

    An interval counts as the newest of them says: what was late in one may be complete in a later one.

    Args:
        folders: of one or more exports, in any order.
        trusted, needed, time_roots, subject_keys, drill_keys, progress: as for `verify_export`.
        remembered: a checkpoint seen before: the newest export must not be older, nor another log.
        late_until: an interval that ended after this may still be late; by default none may.

    Returns:
        The answer for all together, and each export's own.
    """
    each = [
        verify_export(
            folder,
            trusted=trusted,
            needed=needed,
            judges_coverage=False,
            time_roots=time_roots,
            subject_keys=subject_keys,
            drill_keys=drill_keys,
            progress=progress,
        )
        for folder in folders
    ]
    whole = Answer(", ".join(map(str, folders)) if len(folders) < 4 else f"{len(folders)} exports")
    for one in each:
        whole.add(*one.answer.problems)
    read = sorted((one for one in each if one.manifest is not None), key=lambda one: (_seal(one), one.answer.where))
    ends: dict[str, datetime] = {}
    for earlier, later in pairwise(read):
        ends.update(_ends(earlier))
        found = list(_follows(earlier, later))
        whole.add(*found)
        if found:
            ends.clear()  # what was asked in between is not known
        elif _seal(later) != _seal(earlier):
            whole.add(*_windows(ends, later))
    if read:
        _tell(whole, read)
        if remembered is not None:
            whole.add(*_comes_after(read, remembered))
    check_proofs(read, whole, tells_late=late_until is None)
    folded = fold_coverage(read)
    for source, intervals in folded.items():
        whole.sources[source] = str(worst(one.state for one in intervals.values()))
        whole.add(*coverage_problems(source, intervals.values(), late_until=late_until))
    for source, end in _gone(read).items():
        whole.sources[source] = str(State.GAP)
        whole.add(
            Problem(
                Kind.INCOMPLETE,
                "source-gone",
                f"the newest export does not ask {source} any more",
                read[-1].answer.where,
                f"a window of {source} from {end.isoformat()} on",
                "none",
            )
        )
    return whole, each


def fold_coverage(exports: Iterable[Verified]) -> dict[str, dict[Interval, Coverage]]:
    """Per source and interval what the newest of the exports says of it; give them oldest first."""
    folded: dict[str, dict[Interval, Coverage]] = {}
    for one in exports:
        for manifest in one.coverage:
            found = folded.setdefault(manifest.source, {})
            found.update((coverage.interval, coverage) for coverage in manifest.intervals)
    return {source: dict(sorted(intervals.items())) for source, intervals in folded.items()}


def _seal(one: Verified) -> int:
    assert one.manifest is not None
    return one.manifest.seal


def _tell(whole: Answer, read: Sequence[Verified]) -> None:
    newest = read[-1].answer
    whole.origin, whole.seal, whole.size, whole.root = newest.origin, newest.seal, newest.size, newest.root
    whole.signed_by = newest.signed_by
    windows = [one.answer.window for one in read if one.answer.window]
    whole.window = (min(first for first, _ in windows), max(last for _, last in windows)) if windows else None
    once = {(_seal(one), one.answer.root): one.answer for one in read}.values()  # there may be copies
    names = dict.fromkeys(name for one in once for name in one.counts)
    whole.counts = {name: sum(one.counts.get(name, 0) for one in once) for name in names}
    whole.notes += [note for one in read for note in one.answer.notes]


def _follows(earlier: Verified, later: Verified) -> Iterable[Problem]:
    before, after = earlier.manifest, later.manifest
    assert before is not None
    assert after is not None
    where = later.answer.where
    if after.origin != before.origin:
        yield tampered("another-log", "the exports are of different logs", where, before.origin, after.origin)
    elif after.seal == before.seal:
        if later.answer.root != earlier.answer.root:
            yield tampered(
                "forked",
                f"two different exports are seal {after.seal}: the log was forked",
                where,
                f"root {earlier.answer.root} as {earlier.answer.where}",
                f"root {later.answer.root}",
            )
    elif after.seal != before.seal + 1:
        yield Problem(
            Kind.INCOMPLETE,
            "export-missing",
            "exports in between are missing",
            where,
            f"seal {before.seal + 1} after seal {before.seal}",
            f"seal {after.seal}",
        )
    elif after.previous is None or (after.previous.size, after.previous.root, after.previous.sealed_at) != (
        before.size,
        earlier.answer.root,
        before.sealed_at,
    ):
        yield tampered(
            "forked",
            "the export does not follow the one before: the log was forked, or the other one was not in it",
            where,
            f"{before.size} leaves, root {earlier.answer.root}",
            None if after.previous is None else f"{after.previous.size} leaves, root {after.previous.root}",
        )


def _ends(one: Verified) -> dict[str, datetime]:
    """Per source that was asked, where its window ends."""
    assert one.manifest is not None
    return {source.name: source.window.end for source in one.manifest.sources if source.window}


def _gone(read: Sequence[Verified]) -> dict[str, datetime]:
    """Sources that were asked and are not in the newest export, with where their last window ends."""
    ends = {source: end for one in read for source, end in _ends(one).items()}
    return {source: end for source, end in ends.items() if source not in _ends(read[-1])}


def _windows(ends: Mapping[str, datetime], later: Verified) -> Iterable[Problem]:
    """A source's window must begin where its last one ended."""
    assert later.manifest is not None
    for source in later.manifest.sources:
        end = ends.get(source.name)
        if end is None or source.window is None or source.window.start == end:
            continue
        is_hole = source.window.start > end
        yield Problem(
            Kind.INCOMPLETE if is_hole else Kind.TAMPERED,
            "window-missing" if is_hole else "window-went-back",
            f"the window of {source.name} does not begin where the one before ended",
            later.answer.where,
            end.isoformat(),
            source.window.start.isoformat(),
        )


def _comes_after(read: Sequence[Verified], remembered: Checkpoint) -> Iterable[Problem]:
    """The newest export against a checkpoint that was seen before."""
    newest = read[-1]
    assert newest.manifest is not None
    where = newest.answer.where
    if newest.manifest.origin != remembered.origin:
        yield tampered(
            "another-log", "another log than the one remembered", where, remembered.origin, newest.answer.origin
        )
    elif newest.manifest.size < remembered.size:
        yield tampered(
            "rolled-back",
            "the newest export is older than the checkpoint that was seen before",
            where,
            f"{remembered.size} leaves or more",
            f"{newest.manifest.size} leaves",
        )
    else:
        known = _roots(read)
        if remembered.size not in known:
            yield Problem(
                Kind.UNKNOWN,
                "not-linked",
                "nothing links the checkpoint that was seen before to these exports",
                where,
                f"the exports from {remembered.size} leaves on",
                f"roots at {', '.join(map(str, sorted(known)))} leaves",
            )
        elif known[remembered.size] != remembered.root.hex():
            yield tampered(
                "forked",
                "the log is not the one whose checkpoint was seen before",
                where,
                f"root {remembered.root.hex()} at {remembered.size} leaves",
                f"root {known[remembered.size]}",
            )


def _roots(read: Sequence[Verified]) -> dict[int, str]:
    """The sizes at which these exports prove a root: where each begins, and where it ends."""
    found = {}
    for one in read:
        assert one.manifest is not None
        found[one.left.end] = one.left.root.hex()
        found[one.manifest.size] = str(one.answer.root)
    return found
