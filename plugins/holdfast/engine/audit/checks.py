"""What the sources' own proofs say, years later and offline: one check per kind of source.

Each gets the exports, and the digests of the contents their events came in, made again from the events' raw bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

import pyarrow as pa

from holdfast.engine.audit.errors import Tampered
from holdfast.engine.audit.interface import Document, Finding, SourceObject
from holdfast.engine.audit.manifest import Manifest
from holdfast.engine.audit.problems import Kind, Problem


@dataclass
class Contents:
    """Per source and object the SHA-256 of its content, as the events' bytes say it."""

    found: dict[str, dict[str, str]] = field(default_factory=dict)
    #: Objects whose content could not be made again: they hold protected events whose keys are not at hand.
    not_opened: list[str] = field(default_factory=list)
    #: How many protected events that are.
    events_not_opened: int = 0

    def of(self, source: str, objects: Sequence[tuple[SourceObject, int]]) -> ContentHasher:
        """Begin a segment."""
        return ContentHasher(objects, self.found.setdefault(source, {}), self.not_opened.append)


class ContentHasher:
    """Makes the objects' contents again, object by object, without holding one whole.

    Args:
        objects: of the segment, with how many events each has.
        found: gets the digests by object id; of an object with protected events that nobody opened, the sealed one.
        not_opened: told the ids of such objects.
    """

    def __init__(
        self,
        objects: Sequence[tuple[SourceObject, int]],
        found: dict[str, str],
        not_opened: Callable[[str], object] = lambda _id: None,
    ) -> None:
        self._found = found
        self._not_opened = not_opened
        self._is_hidden = False
        self._objects = iter(objects)
        self._left = 0
        self._current: SourceObject | None = None
        self._hash: Any = None
        self._is_first = True

    def add(self, raw: pa.LargeBinaryArray) -> None:
        """The next events. Raises Tampered: there are more than the objects have."""
        at = 0
        while at < len(raw):
            while not self._left:
                if not self._next():
                    raise Tampered("there are more events than its objects have", where="objects")
            take = min(self._left, len(raw) - at)
            self._feed(raw.slice(at, take).to_pylist())
            at += take
            self._left -= take

    def _feed(self, records: list[bytes | None]) -> None:
        assert self._current is not None
        separator = self._current.separator
        found = [one for one in records if one is not None]
        self._is_hidden = self._is_hidden or len(found) < len(records)
        self._hash.update((b"" if self._is_first else separator) + separator.join(found))
        self._is_first = False

    def _next(self) -> bool:
        """Whether there is another object; then it is begun."""
        self._finish()
        following = next(self._objects, None)
        if following is None:
            return False
        self._current, self._left = following
        self._hash = sha256(self._current.prefix)
        self._is_first, self._is_hidden = True, False
        return True

    def end(self) -> None:
        """No more events. Raises Tampered: an object's are missing, or make another content."""
        while not self._left:
            if not self._next():
                return
        raise Tampered("events of an object are missing", where=self._current.object_id if self._current else "")

    def _finish(self) -> None:
        if self._current is None:
            return
        self._hash.update(self._current.suffix)
        digest = self._current.content_sha256 if self._is_hidden else self._hash.hexdigest()
        if self._is_hidden:
            self._not_opened(self._current.object_id)
        if digest != self._current.content_sha256:
            raise Tampered(
                "the events are not what the object held",
                where=self._current.object_id,
                expected=f"sha256 {self._current.content_sha256}",
                found=digest,
            )
        self._found[self._current.object_id] = digest
        self._current = None


@dataclass(frozen=True)
class Opened:
    """An export whose files are the sealed ones.

    Args:
        contents: made again from its events.
    """

    folder: Path
    manifest: Manifest
    contents: Contents

    def documents(self, source: str) -> Iterator[Document]:
        """What a source gave beside its events, by the names it gave."""
        prefix = f"documents/{source}/"
        for one in self.manifest.documents:
            if one.file.path.startswith(prefix):
                name = one.file.path.removeprefix(prefix).partition("/")[2]
                yield Document(name, one.media_type, (self.folder / one.file.path).read_bytes(), one.about)


def check_cloudtrail(exports: Sequence[Opened], note: Callable[[str], object]) -> Iterator[tuple[str, Finding]]:
    """What AWS's own signatures say of the log files, made again from their events.

    An hour that was asked again has digests in one export and some of its log files in an earlier one: so all exports
    are judged together. Files that an export before the first of them holds are told as a note.
    """
    from holdfast.engine.audit.sources.cloudtrail_chain import verify_digests
    from holdfast.engine.audit.sources.cloudtrail_layout import delivered_at

    begins: dict[str, datetime | None] = {}
    for export in exports:
        for source in export.manifest.sources:
            if source.kind == "cloudtrail":
                window = source.window if export.manifest.seal else None
                begins.setdefault(source.name, window.start if window else None)
    for name, begin in begins.items():
        documents = [document for export in exports for document in export.documents(name)]
        contents = {key: found for export in exports for key, found in export.contents.found.get(name, {}).items()}
        elsewhere = 0
        for found in verify_digests(documents, contents):
            delivered = delivered_at(found.where) if found.code == "log-missing" else None
            if begin is not None and delivered is not None and delivered < begin:
                elsewhere += 1
            else:
                yield name, found
        if elsewhere:
            note(f"Unknown: whether {elsewhere} log files of {name} that an earlier export holds are what AWS signed")


def check_evidence(
    folder: Path, manifest: Manifest, keys: Collection[str] = (), note: Callable[[str], object] = lambda _: None
) -> Iterator[Problem]:
    """The signatures of drills' evidence that was sealed with the export: on its own, or as a source's documents.

    A source's was verified when it was read, too: what did not hold then is a gap, and was not changed since.

    Args:
        keys: by id, those that may have signed it; none: any may, which is told as a note.
    """
    signed_by = set[str]()
    from holdfast.engine.drill.evidence import ENVELOPE, EvidenceInvalid, verify_evidence

    for one in manifest.documents:
        inside, _, name = one.file.path.rpartition("/")
        if name != ENVELOPE or "evidence" not in inside.split("/"):
            continue
        try:
            found = verify_evidence(folder / inside)
        except EvidenceInvalid as error:
            kind = Kind.INCOMPLETE if one.source else Kind.TAMPERED
            yield Problem(kind, "evidence-invalid", error.what, one.file.path, error.expected, error.found)
            continue
        signed_by.add(found.key_id)
        if keys and found.key_id not in keys:
            kind = Kind.INCOMPLETE if one.source else Kind.TAMPERED
            what = "the evidence is signed by a key that is not trusted for drills"
            yield Problem(kind, "evidence-not-trusted", what, one.file.path, " or ".join(sorted(keys)), found.key_id)
    if signed_by and not keys:
        note(f"Unknown: whose keys signed the drills' evidence ({', '.join(sorted(signed_by))}); none was given")


#: Gets exports of one log, oldest first, and what to tell notes. Gives findings, with the source each is about.
Check = Callable[[Sequence[Opened], Callable[[str], object]], Iterable[tuple[str, Finding]]]

#: By kind of source.
CHECKS: dict[str, Check] = {"cloudtrail": check_cloudtrail}
