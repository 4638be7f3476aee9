"""Verify an export offline: no cloud, no Airflow, no network, nothing of ours but the trusted keys.

The order is the order of trust. The checkpoint's signatures; then the manifest, as the log's last leaf, before anything
it names is opened; then every file's digest; then every event and document as a leaf, and the root; then what the
coverage says; then what the sources' own proofs say (CloudTrail's digests, the drills' evidence). Everything that is
wrong is reported, not the first thing only.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from hashlib import sha256
from pathlib import Path

from holdfast.engine.audit.checks import CHECKS, Contents, Opened, check_evidence
from holdfast.engine.audit.commitments import manifest_leaf
from holdfast.engine.audit.coverage import CoverageManifest, parse_coverage
from holdfast.engine.audit.errors import NotKnown, Tampered
from holdfast.engine.audit.interface import Coverage, Finding, State
from holdfast.engine.audit.leaves import Progress, check_leaves
from holdfast.engine.audit.manifest import (
    CHECKPOINT,
    CLOCKS_DIFFER,
    MANIFEST,
    RANGE,
    RANGE_FORMAT,
    TIMESTAMP,
    UNLISTED,
    File,
    Manifest,
    parse_manifest,
)
from holdfast.engine.audit.privacy.certificates import check_certificates
from holdfast.engine.audit.privacy.keys import SubjectKey
from holdfast.engine.audit.problems import Answer, Kind, Problem, not_pinned, of_error, of_state, tampered
from holdfast.engine.audit.segments import file_sha256
from holdfast.engine.audit.tlog.errors import NoteRefused
from holdfast.engine.audit.tlog.keys import VerifierKey
from holdfast.engine.audit.tlog.merkle import CompactRange, folded
from holdfast.engine.audit.tlog.notes import Policy, verify_checkpoint
from holdfast.engine.memory import blocks_kept
from holdfast.engine.snapshot.documents import canonical
from holdfast.errors import ConfigError, HoldfastError

#: A manifest or checkpoint above this is none of ours.
_LARGEST_HEAD_BYTES = 256 * 1024 * 1024
_LARGEST_NOTE_BYTES = 1024 * 1024


@dataclass
class Verified:
    """An export that was looked at.

    Args:
        answer: what was found.
        manifest: ``None``: it cannot be trusted.
        left: the compact range of all leaves before this export.
    """

    answer: Answer
    manifest: Manifest | None = None
    left: CompactRange = field(default_factory=CompactRange)
    #: Of every source whose coverage can be read.
    coverage: list[CoverageManifest] = field(default_factory=list)
    #: ``None``: a file is not the sealed one.
    opened: Opened | None = None
    #: By id, the keys that may sign drills' evidence; none: any may.
    drill_keys: frozenset[str] = frozenset()

    def sealed(self, purpose: str) -> Manifest:
        """The manifest, for what is right only where nothing was tampered with.

        Args:
            purpose: for the message, e.g. ``is evidence``.

        Raises:
            Tampered: the export is not what was sealed.
            NotKnown: it cannot be read whole.
        """
        if self.answer.verdict == "tampered":
            raise Tampered(
                f"the export is not what was sealed, so nothing of it {purpose}",
                where=self.answer.where,
                found=str(self.answer.worst),
                fix="Fetch it again: `holdfast audit fetch`, at each of the ledger's sites",
            )
        if self.manifest is None or self.opened is None:
            raise NotKnown(
                f"the export cannot be read whole, so nothing of it {purpose}",
                where=self.answer.where,
                found=str(next(one for one in self.answer.problems if one.code != "not-pinned")),
                fix="Make all of it readable",
            )
        return self.manifest


def is_export(folder: Path) -> bool:
    """Whether anything of an export lies here, were it half of one; also where nobody may look."""
    return not all(_is_missing(folder / name) for name in (*UNLISTED, "segments"))


def _is_missing(path: Path) -> bool:
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        return False  # something may be there, and cannot be read
    return False


def no_export(folder: Path, expected: str) -> ConfigError:
    return ConfigError(
        "there is no export here",
        where=str(folder),
        expected=expected,
        found="nothing of it",
        fix="Name the folder `holdfast audit export --output` wrote",
    )


@blocks_kept()
def verify_export(
    folder: Path,
    *,
    trusted: Sequence[VerifierKey] = (),
    needed: int | None = None,
    judges_coverage: bool = True,
    time_roots: Sequence[bytes] = (),
    subject_keys: Mapping[bytes, SubjectKey] | None = None,
    drill_keys: Collection[str] = (),
    progress: Progress = lambda *_: None,
) -> Verified:
    """Verify one export.

    Args:
        folder: the export's.
        trusted: keys the caller trusts, known by another way than the export.
        needed: how many of them must have signed; by default all of them.
        time_roots: certificates in PEM of authorities whose timestamp of the checkpoint is to be verified.
        subject_keys: by id: what they protect is opened and compared with its leaves.
        drill_keys: by id (SHA-256 in hex): one of them must have signed each drill's evidence. None: any may.
        judges_coverage: whether what the coverage and the sources' own proofs say is a problem; `verify_exports` asks
            that of all together.
        progress: told ``(what, done, of)``.

    Raises:
        ConfigError: there is no export here.
    """
    if not is_export(folder):
        raise no_export(folder, f"a folder with {MANIFEST} and {CHECKPOINT}")
    done = Verified(Answer(str(folder)), drill_keys=frozenset(drill_keys))
    answer = done.answer
    head = _head(folder, answer, trusted, needed)
    if head is None:
        return done
    manifest, left, before = head
    done.manifest, done.left = manifest, left
    _tell(answer, manifest)
    _check_history(manifest, left, answer)
    _check_time(folder, answer, time_roots)
    whole = _check_files(folder, manifest, answer, progress)
    if whole:
        contents = check_leaves(folder, manifest, left, before, answer, progress, subject_keys)
        done.opened = Opened(folder, manifest, contents)
        done.coverage = _check_coverage(folder, manifest, answer)
        if judges_coverage:
            for one in done.coverage:
                answer.add(*coverage_problems(one.source, one.intervals))
            check_proofs([done], answer)
        answer.add(*check_evidence(folder, manifest, done.drill_keys, answer.notes.append))
        answer.add(*check_certificates(folder, manifest))
        _tell_privacy(answer, contents, subject_keys)
    return done


def check_proofs(exports: Iterable[Verified], answer: Answer, *, tells_late: bool = True) -> None:
    """Add what the sources' own proofs say.

    Args:
        exports: of one log, oldest first.
        tells_late: whether what may still arrive is a problem.
    """
    opened = [one.opened for one in exports if one.opened is not None]
    for check in CHECKS.values():
        for source, found in check(opened, answer.notes.append):
            if tells_late or found.state is not State.LATE:
                answer.add(*of_state(found.state, found.code, found.detail, f"{source} {found.where}".strip()))


def _head(
    folder: Path, answer: Answer, trusted: Sequence[VerifierKey], needed: int | None
) -> tuple[Manifest, CompactRange, tuple[bytes, ...]] | None:
    """What all else hangs on; ``None``: it does not hold."""
    both, at = f"{folder / CHECKPOINT} or {MANIFEST}", str(folder)  # which of the two was changed, nobody can tell
    try:
        note = _read(folder / CHECKPOINT, _LARGEST_NOTE_BYTES)
        encoded = _read(folder / MANIFEST, _LARGEST_HEAD_BYTES)
        left_hashes, before = _read_range(folder / RANGE)
        at = str(folder / MANIFEST)
        manifest = parse_manifest(encoded, at)
        sealers = Policy.of(*(VerifierKey.parse(text) for text in manifest.signers))
        at = both
        checkpoint, _ = verify_checkpoint(note, manifest.origin, sealers)
    except HoldfastError as error:
        answer.add(of_error(error, "head", at))
        return None
    answer.size, answer.root = checkpoint.size, checkpoint.root.hex()
    _check_trust(note, manifest.origin, answer, trusted, needed)
    if checkpoint.size != manifest.size:
        answer.add(
            tampered(
                "checkpoint-differs",
                "the checkpoint is of another size than the manifest",
                both,
                f"{manifest.size} leaves",
                f"{checkpoint.size} leaves",
            )
        )
        return None
    try:
        left = CompactRange(0, manifest.first_leaf, left_hashes)
        CompactRange(0, manifest.size - 1, before)
    except HoldfastError as error:
        answer.add(of_error(error, "range", str(folder / RANGE)))
        return None
    root = folded([*before, manifest_leaf(encoded)])
    if root != checkpoint.root:
        answer.add(
            tampered(
                "manifest-differs",
                "the manifest is not the one whose seal was signed",
                f"{folder / MANIFEST} or {RANGE}",
                f"root {checkpoint.root.hex()}",
                f"root {root.hex()}",
            )
        )
        return None
    return manifest, left, before


def _check_trust(note: bytes, origin: str, answer: Answer, trusted: Sequence[VerifierKey], needed: int | None) -> None:
    where = f"{answer.where}/{CHECKPOINT}"
    if not trusted:
        answer.add(not_pinned(where))
        return
    try:
        _, verified = verify_checkpoint(note, origin, Policy.trusting(trusted, needed))
    except NoteRefused as error:
        answer.add(of_error(error, "not-signed", where))
        return
    answer.signed_by = [key.name for key in verified.signed_by]


def _tell(answer: Answer, manifest: Manifest) -> None:
    answer.origin, answer.seal = manifest.origin, manifest.seal
    windows = [source.window for source in manifest.sources if source.window]
    if windows:
        answer.window = (
            min(window.start for window in windows).isoformat(),
            max(window.end for window in windows).isoformat(),
        )
    answer.counts = {
        "events": sum(segment.rows for segment in manifest.segments),
        "objects": sum(segment.object_count for segment in manifest.segments),
        "documents": len(manifest.documents),
        "files": len(manifest.files()),
        "size_bytes": sum(file.size_bytes for file in manifest.files()),
    }


def _check_history(manifest: Manifest, left: CompactRange, answer: Answer) -> None:
    where = f"{answer.where}/{MANIFEST}"
    previous = manifest.previous
    if previous is not None:
        root = left.root.hex()
        if root != previous.root:
            answer.add(
                tampered(
                    "history-differs",
                    "the log does not begin with the seal before",
                    f"{answer.where}/{RANGE}",
                    previous.root,
                    root,
                )
            )
        if manifest.sealed_at < previous.sealed_at:
            answer.add(
                tampered(
                    "clock-went-back",
                    "it was sealed before the seal it follows",
                    where,
                    f"{previous.sealed_at.isoformat()} or later",
                    manifest.sealed_at.isoformat(),
                )
            )
    for source in manifest.sources:
        if source.window and source.window.end - manifest.sealed_at > CLOCKS_DIFFER:
            answer.add(
                tampered(
                    "from-the-future",
                    f"the window of {source.name} ends after it was sealed",
                    where,
                    f"{manifest.sealed_at.isoformat()} or earlier",
                    source.window.end.isoformat(),
                )
            )


def _check_time(folder: Path, answer: Answer, roots: Sequence[bytes]) -> None:
    """The independent time of the checkpoint, where there is one."""
    file = folder / TIMESTAMP
    if not file.exists():
        if roots:
            answer.add(Problem(Kind.UNKNOWN, "no-timestamp", "no authority said when it was sealed", str(file)))
        return
    from holdfast.engine.audit.tlog.timestamps import verify_timestamp

    try:
        response, note = _read(file, _LARGEST_NOTE_BYTES), _read(folder / CHECKPOINT, _LARGEST_NOTE_BYTES)
        if (digest := sha256(note).digest()) not in response:
            raise Tampered(
                "this is no timestamp of the checkpoint",
                where=str(file),
                expected=f"a response of an authority about {digest.hex()}",
                found=f"{len(response)} bytes without that",
            )
        if not roots:
            answer.notes.append("Who signed its timestamp was not looked at: no authority's certificates were given")
            return
        found = verify_timestamp(response, note, roots)
    except HoldfastError as error:
        answer.add(of_error(error, "timestamp", str(file)))
        return
    answer.notes.append(f"An independent authority says that it existed at {found.moment.isoformat()}")


def _check_files(folder: Path, manifest: Manifest, answer: Answer, progress: Progress) -> bool:
    """Whether every file is there and is the one that was sealed."""
    before = len(answer.problems)
    files = {file.path: file for file in manifest.files()}
    there, folders = set(), set()
    for path, is_folder in _walk(folder, answer):
        name = path.relative_to(folder).as_posix()
        if is_folder:
            folders.add(name)
            continue
        there.add(name)
        if name not in files and name not in UNLISTED:
            answer.add(tampered("file-added", "nobody sealed this file", name))
    for number, (name, file) in enumerate(files.items()):
        progress("files", number, len(files))
        if name in there:
            answer.add(_check_file(folder / name, file))
        elif name in folders:
            answer.add(tampered("not-a-file", "a folder stands in the place of a file", name))
        elif _is_missing(folder / name):  # else it was told that it cannot be read, or is no file
            answer.add(tampered("file-missing", "a file is missing", name, f"{file.size_bytes} bytes", "nothing"))
    return len(answer.problems) == before


def _walk(folder: Path, answer: Answer) -> Iterator[tuple[Path, bool]]:
    """Every file and folder, and which it is; what is neither is told."""

    def unread(error: OSError) -> None:
        answer.add(_unreadable(os.path.relpath(error.filename, folder), error))

    for place, names, files in os.walk(folder, onerror=unread):
        for name in (*names, *files):
            path = Path(place) / name
            try:
                mode = path.lstat().st_mode
            except OSError as error:
                unread(error)
                continue
            if stat.S_ISREG(mode) or stat.S_ISDIR(mode):
                yield path, stat.S_ISDIR(mode)
            else:
                answer.add(tampered("not-a-file", "neither a file nor a folder", str(path.relative_to(folder))))


def _check_file(path: Path, file: File) -> Problem | None:
    differs = "file-differs", "the file is not the sealed one", file.path
    try:
        if (size := path.stat().st_size) != file.size_bytes:
            return tampered(*differs, f"{file.size_bytes} bytes", size)
        found = file_sha256(path)
    except OSError as error:
        return _unreadable(file.path, error)
    return None if found == file.sha256 else tampered(*differs, f"sha256 {file.sha256}", found)


def _unreadable(where: str, error: OSError) -> Problem:
    """What may not be read may well be what was sealed."""
    return Problem(Kind.UNKNOWN, "unreadable", "it cannot be read", where, "a file or folder to read", error.strerror)


def _tell_privacy(answer: Answer, contents: Contents, keys: Mapping[bytes, SubjectKey] | None) -> None:
    """What was not looked at: a leaf proves that a protected event is the sealed one, not what it says."""
    if contents.events_not_opened:
        count = answer.counts["events_not_opened"] = contents.events_not_opened
        why = "no keys were given" if keys is None else "their subjects' keys are gone"
        answer.notes.append(f"{count:,} protected events are in their places; their bytes were not opened: {why}")
    if contents.not_opened:
        count = answer.counts["objects_not_opened"] = len(set(contents.not_opened))
        answer.notes.append(
            f"Unknown: whether {count} objects with protected events are what their cloud signed; "
            "only that the digests it signed are the sealed ones"
        )


def _check_coverage(folder: Path, manifest: Manifest, answer: Answer) -> list[CoverageManifest]:
    read = []
    for source in manifest.sources:
        try:
            coverage = parse_coverage((folder / source.coverage).read_bytes(), source.coverage)
        except HoldfastError as error:
            answer.add(of_error(error, "coverage", source.coverage))
            continue
        if (coverage.source, coverage.kind, coverage.state) != (source.name, source.kind, source.state):
            answer.add(
                tampered(
                    "coverage-differs",
                    "the manifest says another state than the coverage",
                    source.coverage,
                    f"{coverage.source} {coverage.state}",
                    f"{source.name} {source.state}",
                )
            )
        answer.sources[source.name] = str(coverage.state)
        read.append(coverage)
    return read


def coverage_problems(
    source: str, intervals: Iterable[Coverage], *, late_until: datetime | None = None
) -> Iterator[Problem]:
    """What the states of a source's intervals mean for a verification.

    Args:
        late_until: an interval that ended after this may still be late.
    """
    asked = False
    for one in intervals:
        asked = True
        if one.state is State.COMPLETE or (one.state is State.LATE and late_until and one.interval.end > late_until):
            continue
        at = f"{source} {one.interval.start:%Y-%m-%dT%H:%M:%SZ}"
        parts = f"{one.observed} of {one.expected} parts by proof {one.proof!r}"
        bare = Finding(f"coverage-{one.state}", parts, state=one.state)
        reasons = [found for found in one.findings if found.state is not State.COMPLETE] or [bare]
        for found in reasons:
            yield from of_state(found.state, found.code, found.detail, f"{at} {found.where}".strip())
    if not asked:
        yield Problem(Kind.UNKNOWN, "not-asked", "nothing was asked of the source", source)


def _read(file: Path, most: int) -> bytes:
    try:
        found = file.lstat()
        if not stat.S_ISREG(found.st_mode):
            raise Tampered("something else where a file was written", where=str(file), expected="a file")
        size = found.st_size
        if size > most:
            raise Tampered("the file is far too large", where=str(file), expected=f"at most {most}", found=str(size))
        return file.read_bytes()
    except OSError as error:
        kind = Tampered if _is_missing(file) else NotKnown
        raise kind("the file cannot be read", where=str(file), found=str(error.strerror)) from None


def _read_range(file: Path) -> tuple[tuple[bytes, ...], tuple[bytes, ...]]:
    data = _read(file, _LARGEST_NOTE_BYTES)
    try:
        row = json.loads(data)
        if set(row) != {"format", "left", "before"} or row["format"] != RANGE_FORMAT:
            raise ValueError("expected format, left and before")
        if canonical(row) != data:
            raise ValueError("expected canonical JSON")
        if not all(isinstance(row[name], list) for name in ("left", "before")):
            raise ValueError("expected lists of hashes")
        left, before = (tuple(bytes.fromhex(found) for found in row[name]) for name in ("left", "before"))
        if [each.hex() for each in (*left, *before)] != [*row["left"], *row["before"]]:
            raise ValueError("expected lower-case hex digits")
    except (ValueError, TypeError, RecursionError) as error:
        raise Tampered("the range proof cannot be read", where=str(file), found=str(error)[:300]) from None
    return left, before
