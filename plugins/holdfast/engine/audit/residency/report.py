"""What the residency proof says: one row for each copy, and one verdict over all of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any


class Verdict(StrEnum):
    #: Today's policy permits it there, or no class binds it.
    LAWFUL = "lawful"
    #: It lies where its class may not.
    BREACH = "breach"
    #: What it is, where it lies or what its policy says could not be found out. That is not a pass.
    UNKNOWN = "unknown"


class CopyKind(StrEnum):
    #: A committed snapshot of a dataset or model.
    SNAPSHOT = "snapshot"
    #: A training run: its checkpoints and blobs.
    RUN = "run"
    #: The live backups of one source in a vault.
    BACKUP = "backup"
    #: A vault's packs whose content nobody here can name.
    PACKS = "packs"
    #: Objects that no snapshot and no run names.
    STRAY = "stray"
    #: A whole site, or a part of it, that could not be read.
    UNREADABLE = "unreadable"


@dataclass(frozen=True, slots=True)
class Copy:
    """One copy.

    Args:
        subject: dataset, model, run, backup's source, vault, or the folder strays lie in.
        item: which of it: a snapshot's id, a vault's name, a few words.
        residency_class: what binds it; several are joined with ``+``; ``None``: none does, or it is not known.
        size_bytes, objects: of this copy; ``None``: not known.
        decision: id of the newest decision that allowed it there before it came; ``None``: undecided.
        decision_policy_sha256: of that decision's policy.
        policy_sha256: of the policy it was judged by now.
        why: one sentence.
    """

    kind: CopyKind
    subject: str
    item: str
    site: str
    jurisdiction: str
    residency_class: str | None
    size_bytes: int | None
    objects: int | None
    decision: str | None
    decision_policy_sha256: str | None
    policy_sha256: str | None
    verdict: Verdict
    why: str

    @property
    def undecided(self) -> bool:
        """A class binds it, and no decision is known that allowed it."""
        return self.residency_class is not None and self.decision is None


@dataclass(frozen=True)
class ResidencyReport:
    """The proof.

    Args:
        made_at: when the walk began.
        copies: all of them, by site, kind and subject.
        decisions: lines of the decision log that were read.
        log_findings: what is wrong with the decision log: then not everything that was decided is known.
    """

    made_at: datetime
    copies: tuple[Copy, ...]
    decisions: int
    log_findings: tuple[str, ...] = ()

    @property
    def verdict(self) -> Verdict:
        """The worst there is; a breach is one whatever else is not known."""
        found = {copy.verdict for copy in self.copies}
        if Verdict.BREACH in found:
            return Verdict.BREACH
        return Verdict.UNKNOWN if Verdict.UNKNOWN in found or self.log_findings else Verdict.LAWFUL

    def count(self) -> dict[str, int]:
        """Copies by verdict."""
        found = Counter(str(copy.verdict) for copy in self.copies)
        return {str(verdict): found[str(verdict)] for verdict in Verdict}

    def of(self, *verdicts: Verdict) -> Iterable[Copy]:
        """The copies with one of these verdicts."""
        return (copy for copy in self.copies if copy.verdict in verdicts)

    def to_json(self) -> dict[str, Any]:
        """The proof as JSON."""
        return {
            "made_at": self.made_at.isoformat(),
            "verdict": str(self.verdict),
            "counts": self.count(),
            "decisions": self.decisions,
            "log_findings": list(self.log_findings),
            "copies": [
                {**{name: getattr(copy, name) for name in copy.__dataclass_fields__}, "undecided": copy.undecided}
                for copy in self.copies
            ],
        }
