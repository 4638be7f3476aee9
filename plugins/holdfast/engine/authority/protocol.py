"""The ranked register, two-phase as in CASPaxos and Active Disk Paxos, as steps somebody else runs.

Each acceptor is one object in one store. A phase at an acceptor is a GET and a conditional PUT: read the state,
apply the rule, write it back only if nobody wrote in between. Everything here is a generator that yields what it wants
done and is sent what came of it. `RankedRegister` runs the steps against stores in threads; the model check in the
tests interleaves the very same steps in every order, with lost and late answers.

Sources: D. Rystsov, "CASPaxos: Replicated State Machines without logs" (2018); G. Chockler, D. Malkhi, "Active Disk
Paxos with infinitely many processes" (2002).
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from typing import Literal

from holdfast.engine.authority.acceptor import (
    EMPTY,
    AcceptorState,
    AcceptorUnreadable,
    Ballot,
    decode,
    encode,
    key_of,
)
from holdfast.engine.authority.changes import Change, Decision, keep
from holdfast.engine.authority.interface import EpochState
from holdfast.engine.objectstore.interface import CREATE, IfMatch, ObjectVersion, PutMode

#: How often an acceptor is tried within one phase while others write there.
ACCEPTOR_TRIES = 6
#: How often an unsettled register is looked at again before the reader settles it itself.
READER_PATIENCE = 2


# -- what one acceptor is asked, and what comes back ------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Get:
    """Read the acceptor object."""

    key: str


@dataclass(frozen=True, slots=True)
class Put:
    """Write the acceptor object, on a condition."""

    key: str
    body: bytes
    mode: PutMode


@dataclass(frozen=True, slots=True)
class Found:
    version: ObjectVersion
    body: bytes


@dataclass(frozen=True, slots=True)
class Absent:
    pass


@dataclass(frozen=True, slots=True)
class Written:
    version: ObjectVersion


@dataclass(frozen=True, slots=True)
class Clashed:
    """The condition of the PUT did not hold."""


@dataclass(frozen=True, slots=True)
class Failed:
    """No answer, or none that says what happened. A PUT may have happened, or happen later."""

    detail: str


StoreCall = Get | Put
StoreResult = Found | Absent | Written | Clashed | Failed


@dataclass(frozen=True, slots=True)
class Seen:
    """An acceptor's state and the version it had; no version: the object was not there."""

    state: AcceptorState
    version: ObjectVersion | None


@dataclass(frozen=True, slots=True)
class Answer:
    """What one phase at one acceptor came to."""

    kind: Literal["ok", "outranked", "failed"]
    seen: Seen | None = None
    detail: str = ""


AcceptorSteps = Generator[StoreCall, StoreResult, Answer]
_Rule = Callable[[AcceptorState], AcceptorState | Literal["done", "outranked"]]


def look(group: str) -> AcceptorSteps:
    """Read an acceptor."""
    return _read(group)


def _read(group: str) -> AcceptorSteps:
    result = yield Get(key_of(group))
    match result:
        case Absent():
            return Answer("ok", Seen(EMPTY, None))
        case Found(version, body):
            try:
                return Answer("ok", Seen(decode(group, body), version))
            except AcceptorUnreadable as error:
                return Answer("failed", detail=str(error))
        case Failed(detail):
            return Answer("failed", detail=detail)
    raise TypeError(f"a GET cannot come to {result!r}")


def promise(group: str, ballot: Ballot, known: Seen | None) -> AcceptorSteps:
    """Phase one: from now on nothing below ``ballot`` is accepted here. Tells what was accepted so far."""

    def rule(state: AcceptorState) -> AcceptorState | Literal["done", "outranked"]:
        if state.promised == ballot:
            return "done"
        if state.rank >= ballot:
            return "outranked"
        return AcceptorState(ballot, state.accepted, state.value)

    return _apply(group, rule, f"{ballot}.promise", known)


def accept(group: str, ballot: Ballot, value: EpochState, known: Seen | None) -> AcceptorSteps:
    """Phase two: hold ``value``, unless a higher ballot was promised meanwhile."""

    def rule(state: AcceptorState) -> AcceptorState | Literal["done", "outranked"]:
        if state.accepted == ballot:
            return "done"  # ours, even when a higher ballot was promised on top of it since
        if state.rank > ballot:
            return "outranked"
        return AcceptorState(ballot, ballot, value)

    return _apply(group, rule, f"{ballot}.accept", known)


def _apply(group: str, rule: _Rule, write_id: str, known: Seen | None) -> AcceptorSteps:
    """Read (unless the state is known), apply the rule, write on condition; read again whenever that is not certain.

    A PUT that brought no answer is told by reading: either our ballot is in the object, or the same PUT is tried
    again on the same condition, and at most one of the two can take effect.
    """
    seen, trouble = known, "others kept writing here"
    for _ in range(ACCEPTOR_TRIES):
        if seen is None:
            answer = yield from _read(group)
            if answer.seen is None:
                return answer
            seen = answer.seen
        after = rule(seen.state)
        if after == "done":
            return Answer("ok", seen)
        if after == "outranked":
            return Answer("outranked", seen, f"ballot {seen.state.rank} was here first")
        assert isinstance(after, AcceptorState)
        mode: PutMode = CREATE if seen.version is None else IfMatch(seen.version)
        result = yield Put(key_of(group), encode(group, after, write_id), mode)
        if isinstance(result, Written):
            return Answer("ok", Seen(after, result.version))
        if isinstance(result, Failed):
            trouble = result.detail
        seen = None
    return Answer("failed", detail=trouble)


# -- the proposer -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Phase:
    """Run these steps at the acceptors, all at once, until ``need`` are ok or no longer can be."""

    steps: Mapping[str, AcceptorSteps]
    need: int

    def decided(self, answers: Mapping[str, Answer]) -> bool:
        """Whether these answers are enough to go on."""
        ok = sum(answer.kind == "ok" for answer in answers.values())
        return ok >= self.need or len(self.steps) - (len(answers) - ok) < self.need


@dataclass(frozen=True, slots=True)
class Pause:
    """Wait a random while before the next attempt, or give up when the time is over."""

    attempt: int
    #: True: another proposer was in the way. False: too few acceptors answered.
    contended: bool
    details: Mapping[str, str]


ProposerSteps = Generator[Phase | Pause, Mapping[str, Answer], Decision]


def propose(
    group: str, acceptors: tuple[str, ...], change: Change, proposer: str, *, patience: int = READER_PATIENCE
) -> ProposerSteps:
    """Apply ``change`` to the group's state, linearizably, and return what it decided.

    Args:
        acceptors: the names of the acceptors; a majority of them decides.
        proposer: unique for this call, for ever: the second part of its ballots.
        patience: how often an unsettled register is looked at again before its last value is written anew.
    """
    majority = len(acceptors) // 2 + 1
    attempt = 0
    highest_round = 0
    answers: Mapping[str, Answer]
    while True:
        answers = yield Phase({site: look(group) for site in acceptors}, majority)
        views = _seen(answers)
        if len(views) < majority:
            attempt += 1
            yield _pause(attempt, answers)
            continue
        settled = settled_state(views, majority)
        if settled is not None:
            decision = change(settled.value, "")
            if decision.state is settled.value:
                return decision
        elif change is keep and patience > 0:
            patience -= 1
            yield Pause(0, True, {})
            continue

        attempt += 1
        highest_round = max([highest_round, *(seen.state.rank.round for seen in _all_seen(answers))]) + 1
        ballot = Ballot(highest_round, proposer)
        answers = yield Phase({site: promise(group, ballot, views.get(site)) for site in acceptors}, majority)
        promised = _seen(answers)
        highest_round = max([highest_round, *(seen.state.rank.round for seen in _all_seen(answers))])
        if len(promised) < majority:
            yield _pause(attempt, answers)
            continue
        current = max((seen.state for seen in promised.values()), key=lambda state: state.accepted).value
        decision = change(current, str(ballot))
        if decision.state is None:
            return decision  # nothing was ever accepted by a majority, and nothing is to be written
        answers = yield Phase(
            {site: accept(group, ballot, decision.state, promised.get(site)) for site in acceptors}, majority
        )
        if len(_seen(answers)) >= majority:
            return decision
        highest_round = max([highest_round, *(seen.state.rank.round for seen in _all_seen(answers))])
        yield _pause(attempt, answers)


def settled_state(views: Mapping[str, Seen], majority: int) -> AcceptorState | None:
    """The committed state when these views alone prove it: their highest accepted ballot stands on a majority.

    Nothing higher was committed before the views were read, or one of any majority would show it.
    """
    if len(views) < majority:
        return None
    newest = max((seen.state for seen in views.values()), key=lambda state: state.accepted)
    agreeing = sum(seen.state.accepted == newest.accepted for seen in views.values())
    return newest if agreeing >= majority else None


def _seen(answers: Mapping[str, Answer]) -> dict[str, Seen]:
    return {site: a.seen for site, a in answers.items() if a.kind == "ok" and a.seen is not None}


def _all_seen(answers: Mapping[str, Answer]) -> list[Seen]:
    return [a.seen for a in answers.values() if a.seen is not None]


def _pause(attempt: int, answers: Mapping[str, Answer]) -> Pause:
    details = {site: a.detail for site, a in answers.items() if a.kind != "ok"}
    return Pause(attempt, any(a.kind == "outranked" for a in answers.values()), details)


__all__ = [
    "Absent",
    "AcceptorSteps",
    "Answer",
    "Clashed",
    "Failed",
    "Found",
    "Get",
    "Pause",
    "Phase",
    "ProposerSteps",
    "Put",
    "Seen",
    "StoreCall",
    "StoreResult",
    "Written",
    "accept",
    "look",
    "promise",
    "propose",
    "settled_state",
]
