"""What was decided: the decision log as the sites and this machine have it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from holdfast.engine.objectstore.interface import ObjectStore
from holdfast.engine.policy.records import ROOT, DecisionRecord, line_hash, read_lines
from holdfast.engine.policy.request import Kind
from holdfast.errors import HoldfastError

_READERS = 16


@dataclass
class Decisions:
    """The log, looked up by what it allowed where.

    Args:
        count: lines.
        findings: holes, changed lines, objects that differ between sites or cannot be read.
    """

    count: int = 0
    findings: list[str] = field(default_factory=list)
    _allowed: dict[tuple[Kind, str, str], list[DecisionRecord]] = field(default_factory=dict)

    def allowing(
        self, kinds: Iterable[Kind], names: Iterable[str], site: str, *, before: datetime | None = None
    ) -> DecisionRecord | None:
        """The newest decision that allowed one of these at a site.

        Args:
            before: when the copy was there; what was decided later did not let it in.
        """
        wanted = [(kind, name, site) for kind in kinds for name in names]
        found = [one for key in wanted for one in self._allowed.get(key, ()) if before is None or one.at <= before]
        return max(found, key=lambda one: one.at, default=None)

    def add(self, lines: Iterable[tuple[DecisionRecord, bytes]]) -> None:
        """Take in lines, of any writers, each once."""
        by_writer: dict[str, dict[int, tuple[DecisionRecord, bytes]]] = {}
        for record, line in lines:
            known = by_writer.setdefault(record.writer, {}).setdefault(record.seq, (record, line))
            if known[1] != line:
                self.findings.append(f"{record.writer}: two different lines have number {record.seq}")
        for writer, numbered in sorted(by_writer.items()):
            self._check(writer, numbered)
            for record, _ in numbered.values():
                self.count += 1
                if record.allowed:
                    key = (record.resource.kind, record.resource.name, record.target.site)
                    self._allowed.setdefault(key, []).append(record)

    def _check(self, writer: str, numbered: Mapping[int, tuple[DecisionRecord, bytes]]) -> None:
        last = max(numbered)
        missing = sorted(set(range(1, last + 1)) - numbered.keys())
        if missing:
            shown = ", ".join(map(str, missing[:5])) + (" …" if len(missing) > 5 else "")
            self.findings.append(f"{writer}: {len(missing)} of {last} lines are missing: {shown}")
        for seq, (record, _) in sorted(numbered.items()):
            before = numbered.get(seq - 1)
            if before is not None and record.previous != line_hash(before[1]):
                self.findings.append(f"{writer}: line {seq - 1} was changed after it was written, or line {seq} was")


def read_decisions(stores: Mapping[str, ObjectStore], spool: Path | None = None) -> Decisions:
    """The log of all these sites together. One that cannot be read is a finding.

    Args:
        stores: by site.
        spool: of this machine; what is not shipped yet lies there.
    """
    found = Decisions()
    # Before the buckets: what is shipped meanwhile is in both, never in neither.
    spooled = list(_spooled(spool)) if spool is not None else []
    objects: dict[str, bytes] = {}
    with ThreadPoolExecutor(_READERS, "decisions") as pool:
        for site, store in stores.items():
            try:
                keys = [info.key for info in store.list(ROOT)]
                for key, data in zip(keys, pool.map(store.get, keys), strict=True):
                    if objects.setdefault(key, data) != data:
                        found.findings.append(f"{key}: {site} has other bytes than another site")
            except HoldfastError as error:
                found.findings.append(f"decisions at {site} cannot be read: {error}")
    found.add(_lines([*sorted(objects.items()), *spooled], found.findings))
    return found


def _spooled(spool: Path) -> Iterator[tuple[str, bytes]]:
    for path in sorted(spool.glob("*/*.jsonl")):
        with suppress(FileNotFoundError):
            data = path.read_bytes()
            yield str(path), data[: data.rfind(b"\n") + 1]  # a line may just be written


def _lines(pieces: Iterable[tuple[str, bytes]], findings: list[str]) -> Iterator[tuple[DecisionRecord, bytes]]:
    for where, data in pieces:
        try:
            yield from read_lines(data, where)
        except HoldfastError as error:
            findings.append(str(error))
