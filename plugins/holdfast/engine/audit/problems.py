"""What a verification found, and what it comes to: one exit code for each kind of answer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

from holdfast.engine.audit.errors import NotComplete, NotKnown, Tampered
from holdfast.engine.audit.interface import State
from holdfast.errors import HoldfastError


class Kind(StrEnum):
    """Of a problem, the worst first."""

    #: Something is not what was sealed.
    TAMPERED = "tampered"
    #: It is shown that events are missing, or more may still arrive.
    INCOMPLETE = "incomplete"
    #: It cannot be said.
    UNKNOWN = "unknown"


EXIT_CODES: Mapping[Kind, int] = {
    Kind.TAMPERED: Tampered.exit_code,
    Kind.INCOMPLETE: NotComplete.exit_code,
    Kind.UNKNOWN: NotKnown.exit_code,
}
_OF_STATE = {State.GAP: Kind.INCOMPLETE, State.LATE: Kind.INCOMPLETE, State.UNKNOWN: Kind.UNKNOWN}


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is not fine: what, where, what was expected and what was found."""

    kind: Kind
    code: str
    what: str
    where: str
    expected: str | None = None
    found: str | None = None

    def __str__(self) -> str:
        text = f"{self.where}: {self.what}"
        if self.expected is not None:
            text += f"; expected {self.expected}"
        return text if self.found is None else f"{text}; found {self.found}"


def tampered(code: str, what: str, where: str, expected: object = None, found: object = None) -> Problem:
    """Something is not what was sealed."""
    return Problem(
        Kind.TAMPERED,
        code,
        what,
        where,
        None if expected is None else str(expected)[:500],
        None if found is None else str(found)[:500],
    )


def not_pinned(where: str) -> Problem:
    """Nobody the caller trusts vouches for it."""
    return Problem(
        Kind.UNKNOWN,
        "not-pinned",
        "no trusted key was given: it is whole in itself, and anybody could have made it",
        where,
        "a key known by another way: --key",
        "none",
    )


def of_state(state: State, code: str, what: str, where: str) -> Iterator[Problem]:
    """What a state of coverage means for a verification; of a complete one nothing."""
    kind = _OF_STATE.get(state)
    if kind is not None:
        yield Problem(kind, code, what, where)


def of_error(error: HoldfastError, code: str, where: str) -> Problem:
    """What an error means for a verification."""
    kind = next((kind for kind, exit_code in EXIT_CODES.items() if error.exit_code == exit_code), Kind.TAMPERED)
    at = where if not error.where or error.where in where else f"{where} ({error.where})"
    return Problem(kind, code, error.what, at, error.expected, error.found)


@dataclass
class Answer:
    """What an export comes to.

    Args:
        where: the export.
        problems: everything found.
        signed_by: names of the trusted keys whose signatures hold.
        sources: per source the state of its coverage.
        counts: what was checked: events, documents, files, bytes.
    """

    where: str
    problems: list[Problem] = field(default_factory=list)
    signed_by: list[str] = field(default_factory=list)
    sources: dict[str, str] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    origin: str | None = None
    seal: int | None = None
    size: int | None = None
    root: str | None = None
    window: tuple[str, str] | None = None
    notes: list[str] = field(default_factory=list)

    def add(self, *problems: Problem | None) -> None:
        """Note problems."""
        self.problems += [problem for problem in problems if problem is not None]

    @property
    def worst(self) -> Problem | None:
        """The first one of the worst kind."""
        return min(self.problems, key=lambda problem: list(Kind).index(problem.kind), default=None)

    @property
    def verdict(self) -> str:
        """``fine``, or the worst kind."""
        return "fine" if self.worst is None else str(self.worst.kind)

    @property
    def exit_code(self) -> int:
        """0 fine, 5 tampered, 6 incomplete, 7 unknown."""
        return 0 if self.worst is None else EXIT_CODES[self.worst.kind]

    def to_json(self) -> dict[str, Any]:
        """For ``--json``."""
        return {
            "where": self.where,
            "verdict": self.verdict,
            "exit_code": self.exit_code,
            "origin": self.origin,
            "seal": self.seal,
            "size": self.size,
            "root": self.root,
            "window": list(self.window) if self.window else None,
            "signed_by": self.signed_by,
            "sources": self.sources,
            "counts": self.counts,
            "notes": self.notes,
            "problems": [{**asdict(problem), "kind": str(problem.kind)} for problem in self.problems],
        }
