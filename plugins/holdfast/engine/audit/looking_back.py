"""What arrived at a source after its interval was sealed as settled: each export lists such intervals once more.

Nothing is opened for that. An object that no seal holds, or that has grown since, makes its interval one that is asked
again: what is new of it is sealed by this export, whose coverage tells of the interval anew.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from pathlib import Path

from holdfast.engine.audit.before import Before
from holdfast.engine.audit.coverage import parse_coverage
from holdfast.engine.audit.interface import AuditSource, Coverage, Finding, Interval, Lists, State
from holdfast.engine.audit.manifest import CLOCKS_DIFFER
from holdfast.engine.audit.segments import read_objects
from holdfast.errors import HoldfastError

#: An object's id without the range of it that was sealed by itself.
_RANGE = re.compile(r"#(bytes|inflated)=[0-9]+-[0-9]+\Z")


@dataclass(frozen=True)
class Late:
    """What arrived in an interval since it was sealed.

    Args:
        objects: their ids, in order.
        known: what is sealed already of all the interval's objects, by id and SHA-256.
        sealed_as: the state it had.
    """

    objects: tuple[str, ...]
    known: frozenset[tuple[str, str]]
    sealed_as: State

    @property
    def finding(self) -> Finding:
        """As the interval's coverage tells it."""
        what = f"{len(self.objects)} objects came, or grew, after the interval was sealed as {self.sealed_as}"
        return Finding("arrived-late", f"{what}; they are sealed here", self.objects[0], State.COMPLETE)


def not_looked_for(since: datetime, error: Exception) -> Finding:
    """That what arrived late could not be looked for; the next export looks again."""
    what = f"what arrived late since {since.isoformat()} was not looked for: {error}"
    return Finding("not-looked-back", what[:2000], state=State.UNKNOWN)


@dataclass
class _Held:
    """What the seals hold of one source."""

    newest: dict[Interval, Coverage] = field(default_factory=dict)
    #: By object its size in bytes, as it was when it was last sealed,
    sizes: dict[str, int] = field(default_factory=dict)
    #: and what is sealed of it, by id and SHA-256.
    parts: dict[str, set[tuple[str, str]]] = field(default_factory=dict)


@dataclass(frozen=True)
class LookingBack:
    """Which intervals have something new.

    Args:
        before: the ledger's newest seal.
        since: intervals that begin earlier are not looked at.
        scratch: an empty folder.
    """

    before: Before
    since: datetime
    scratch: Path

    def late(
        self, source: AuditSource, pending: Collection[Interval]
    ) -> tuple[dict[Interval, Late], HoldfastError | None]:
        """By interval of the source what arrived since it was sealed; and why it was not looked for in all of them.

        Args:
            pending: intervals that are asked again anyway.
        """
        found: dict[Interval, Late] = {}
        try:
            if isinstance(source, Lists):
                found.update(self._late(source, source.name, pending))
        except HoldfastError as error:
            return found, error
        return found, None

    def _late(self, source: Lists, name: str, pending: Collection[Interval]) -> Iterator[tuple[Interval, Late]]:
        held = self._held(name)
        for interval, coverage in sorted(held.newest.items()):
            if interval.start < self.since or interval in pending:
                continue
            # What no seal holds although its interval tells of it could not be taken, and cannot now.
            told = {finding.where for finding in coverage.findings} - held.sizes.keys()
            sizes = dict(source.listed(interval))
            new = sorted(name for name, size in sizes.items() if held.sizes.get(name) != size and name not in told)
            if new:
                known = frozenset(part for name in sizes for part in held.parts.get(name, ()))
                yield interval, Late(tuple(new), known, coverage.state)

    @cached_property
    def _seals(self) -> list[Before]:
        """Those that may have such an interval, the newest first."""
        return list(self._back())

    def _back(self) -> Iterator[Before]:
        for seal in self.before.back():
            assert seal.record is not None
            if seal.record.sealed_at < self.since - CLOCKS_DIFFER:
                return
            yield seal

    def _held(self, source: str) -> _Held:
        held, file = _Held(), self.scratch / "objects.parquet"
        for seal in self._seals:
            assert seal.manifest is not None
            for one in seal.manifest.sources:
                if one.name == source:
                    coverage = parse_coverage(seal.document(one.coverage) or b"", one.coverage)
                    for told in coverage.intervals:
                        held.newest.setdefault(told.interval, told)
            for segment in seal.manifest.segments:
                if segment.source == source:
                    file.write_bytes(seal.read(segment.objects))
                    for found, _ in read_objects(file):
                        name = _RANGE.sub("", found.object_id)
                        held.sizes.setdefault(name, int(found.metadata.get("object_bytes", found.size_bytes)))
                        held.parts.setdefault(name, set()).add((found.object_id, found.sha256))
        return held
