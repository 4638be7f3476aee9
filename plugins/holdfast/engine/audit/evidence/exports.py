"""The exports an index is made of: one, or several of one ledger that follow each other."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path

from holdfast.engine.audit.evidence.controls import Look, maximum_ages
from holdfast.engine.audit.manifest import CLOCKS_DIFFER, DocumentRef, Manifest
from holdfast.engine.audit.problems import Answer
from holdfast.engine.audit.verify import Verified


@dataclass(frozen=True)
class Exports:
    """What was verified together.

    Args:
        answer: for all of them.
        each: by seal, every seal once.
    """

    answer: Answer
    each: tuple[Verified, ...]

    @classmethod
    def of(cls, verified: Verified | Exports) -> Exports:
        """Of one export, which is verified for itself. Raises as `together`."""
        return verified if isinstance(verified, Exports) else cls.together(verified.answer, [verified])

    @classmethod
    def together(cls, answer: Answer, each: Sequence[Verified]) -> Exports:
        """Of what `verify_exports` found.

        Raises:
            Tampered: one of them, or the log they make, is not what was sealed, so nothing of it is evidence.
            NotKnown: one of them cannot be read whole.
        """
        for one in (*each, Verified(answer, each[-1].manifest, opened=each[-1].opened)):
            one.sealed("is evidence")
        by_seal = {one.answer.seal or 0: one for one in each}
        return cls(answer, tuple(by_seal[seal] for seal in sorted(by_seal)))

    @property
    def newest(self) -> Manifest:
        return self.manifests()[-1]

    def manifests(self) -> list[Manifest]:
        """Of each."""
        return [one.manifest for one in self.each if one.manifest is not None]

    @property
    def window(self) -> tuple[datetime, datetime]:
        """From the first event that was asked for to the last; where nothing was asked, when they were sealed."""
        windows = [source.window for manifest in self.manifests() for source in manifest.sources if source.window]
        return (
            min((one.start for one in windows), default=self.manifests()[0].sealed_at),
            max((one.end for one in windows), default=self.newest.sealed_at),
        )

    def is_fresh(self, look: Look, at: datetime) -> bool:
        """Whether what was looked at then tells of the end: within the newest export's window, or not too old."""
        windows = [source.window.start for source in self.newest.sources if source.window]
        end = self.newest.sealed_at
        first = min([end - maximum_ages()[look], *windows]) if look in maximum_ages() else at
        return first <= at <= end + CLOCKS_DIFFER

    def path(self, one: Verified, name: str) -> str:
        """A file of one of them: of a single export as its manifest names it, of several from the folder of all."""
        if len(self.each) == 1:
            return name
        inside = os.path.relpath(Path(one.answer.where).resolve(), self._common)
        return f"{Path(inside).as_posix()}/{name}"

    @cached_property
    def _common(self) -> str:
        return os.path.commonpath([Path(one.answer.where).resolve() for one in self.each])

    def documents(self) -> Iterator[tuple[Verified, DocumentRef]]:
        """What no source brought, oldest first: what lies in several exports with the same bytes once."""
        seen = set()
        for one in self.each:
            for document in one.manifest.documents if one.manifest else ():
                key = document.file.path, document.file.sha256
                if not document.source and key not in seen:
                    seen.add(key)
                    yield one, document
