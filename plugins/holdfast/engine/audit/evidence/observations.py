"""What evidence says: an observation, and what several of them come to."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from holdfast.engine.audit.evidence.controls import Evidence, Look


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
    """One thing the exports say.

    Args:
        look: which kind of evidence.
        name: unique in its kind, e.g. a source's or a check's with what it looked at.
        shown: what it says.
        what: one sentence.
        files: what it rests on.
        subject: by what evidence is narrowed: a source's kind, a check's id, a document's path.
        at: when it was looked at; ``None``: when it was sealed.
    """

    look: Look
    name: str
    shown: Shown
    what: str
    files: tuple[Named, ...]
    subject: str = ""
    at: datetime | None = None

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
