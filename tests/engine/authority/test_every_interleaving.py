"""A model check: the real protocol code, three stores, three proposers, every interleaving, lost and late answers.

The generators of `holdfast.engine.authority.protocol` run here step by step instead of in threads. A generator's state
is a function of what it was sent, so a state of the world is: the objects in the stores, what every step was sent so
far, and the writes still in flight. Every such state is visited once. A proposer that crashes needs no rule of its
own: every state is also one in which it never takes another step.

The register's value is the list of proposers that changed it. A committed list may only ever be extended; a decision
that was committed and is then missing is a lost one. The same check must catch the tempting one-phase register, "read
a majority, write on condition, win with two of three", which is kept here as the mutant.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import partial
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.engine.authority.acceptor import AcceptorState, Ballot, decode, encode
from holdfast.engine.authority.changes import Decision
from holdfast.engine.authority.interface import EpochState
from holdfast.engine.authority.protocol import (
    Absent,
    Answer,
    Clashed,
    Failed,
    Found,
    Get,
    Pause,
    Phase,
    Put,
    Seen,
    Written,
    propose,
)
from holdfast.engine.objectstore.interface import CREATE, Create, IfMatch, ObjectVersion

GROUP = "risk"
SITES = ("a", "b", "c")
NO_ANSWER = Failed("no answer")
Lineage = tuple[int, ...]


# -- the two protocols ------------------------------------------------------------------------------------------------


class Protocol(NamedTuple):
    """How to start a proposer, and what a stored body says: the ballot of its value, and who changed it so far."""

    start: Callable[[int], Any]
    value: Callable[[bytes], tuple[object, Lineage]]
    #: What the stores hold at first; None: nothing.
    first_body: bytes | None


def _state(lineage: Lineage, write_id: str) -> EpochState:
    """Epoch n of a group is the n-th change; who made it stands in ``reason``."""
    return EpochState(
        GROUP,
        len(lineage),
        f"site-{lineage[-1]}",
        None,
        f"plan-{lineage[-1]}",
        "model",
        ",".join(map(str, lineage)),
        datetime(2026, 1, 1, tzinfo=UTC),
        write_id,
    )


def _lineage(state: EpochState | None) -> Lineage:
    return () if state is None else tuple(map(int, state.reason.split(",")))


def _append(proposer: int, current: EpochState | None, write_id: str) -> Decision:
    lineage = _lineage(current)
    return Decision(current if proposer in lineage else _state((*lineage, proposer), write_id))


def _ranked_value(body: bytes) -> tuple[object, Lineage]:
    acceptor = decode(GROUP, body)
    return acceptor.accepted, _lineage(acceptor.value)


#: Proposer n makes change n; from 3 on they are restarts: another ballot, the same change.
EMPTY = Protocol(
    lambda number: propose(GROUP, SITES, partial(_append, number % 3), f"p{number}", patience=0), _ranked_value, None
)
SETTLED = EMPTY._replace(
    first_body=encode(GROUP, AcceptorState(Ballot(1, "p"), Ballot(1, "p"), _state((9,), "w")), "w")
)


def _one_phase(number: int):
    """The mutant: take the newest value of a majority, append, write on condition, win with two of three."""
    answers = yield Phase({site: _mutant_read() for site in SITES}, 2)
    found = {site: a.seen.state for site, a in answers.items() if a.kind == "ok"}
    documents = [json.loads(f.body) for f in found.values() if isinstance(f, Found)]
    newest = max(documents, key=lambda d: (d["version"], d["by"]))
    lineage = [*newest["lineage"], number]
    body = json.dumps({"version": newest["version"] + 1, "by": number, "lineage": lineage}).encode()
    answers = yield Phase({site: _mutant_write(body, found[site]) for site in found}, 2)
    if sum(a.kind == "ok" for a in answers.values()) < 2:
        yield Pause(99, True, {})
    return Decision(_state(tuple(lineage), ""))


def _mutant_read():
    result = yield Get(GROUP)
    return Answer("failed") if isinstance(result, Failed) else Answer("ok", Seen(result, None))


def _mutant_write(body: bytes, found: Found | Absent):
    result = yield Put(GROUP, body, CREATE if isinstance(found, Absent) else IfMatch(found.version))
    if isinstance(result, Failed):  # the write id in the body resolves a lost answer, as in the real one
        again = yield Get(GROUP)
        result = Written(again.version) if isinstance(again, Found) and again.body == body else Clashed()
    return Answer("ok") if isinstance(result, Written) else Answer("failed")


def _one_phase_value(body: bytes) -> tuple[object, Lineage]:
    document = json.loads(body)
    return (document["version"], document["by"]), tuple(document["lineage"])


ONE_PHASE = Protocol(_one_phase, _one_phase_value, json.dumps({"version": 1, "by": 9, "lineage": [9]}).encode())


# -- the world --------------------------------------------------------------------------------------------------------


#: Variables of the proposers that are not read again once the next phase has begun.
DEAD = {"answers", "views", "settled", "promised", "current", "found", "documents", "newest"}
NOTHING = -1


class LostDecision(AssertionError):
    """A committed decision is missing from a later one."""


class Lane(NamedTuple):
    """A proposer's running step at one store: what it is, what it was sent, and what it came to."""

    program: int
    sent: tuple[int, ...] = ()
    answer: int = NOTHING


class Column(NamedTuple):
    """One store and all that concerns it. Stores are interchangeable, so a world is a *set* of columns."""

    body: int
    lanes: tuple[Lane, ...]
    #: Steps whose phase went on without them; what they still write is what a late message is.
    stragglers: tuple[tuple[int, tuple[int, ...]], ...] = ()
    in_flight: tuple[int, ...] = ()


class World(NamedTuple):
    columns: tuple[int, ...]
    #: Where each proposer stands.
    mains: tuple[int, ...]
    committed: Lineage
    losses_left: int


class Move(NamedTuple):
    """One turn at one store: of a proposer's step, a straggler or a write in flight."""

    column: int
    proposer: int | None
    losses: int


class Interner:
    """Small numbers for things that are compared and hashed millions of times."""

    def __init__(self) -> None:
        self._ids: dict[Any, int] = {}
        self._things: list[Any] = []

    def id(self, thing: Any) -> int:
        found = self._ids.setdefault(thing, len(self._things))
        if found == len(self._things):
            self._things.append(thing)
        return found

    def __getitem__(self, number: int) -> Any:
        return self._things[number]


class Explorer:
    """Makes the worlds one step after a world, running the protocol's own generators; remembers all it ever computed.

    Args:
        attempts: rounds each proposer may begin.
        losses: how many PUTs of a run may lose their answer or arrive late.
        turns: a step goes on until it wrote or came to its answer. That hides no behaviour: versions never come back,
            so a PUT succeeds only if nobody wrote since its GET, which might as well have come just before it; and a
            clash tells nothing and would come later just the same. False: every single call is a step.
        looked: all proposers have looked at the untouched stores before the first step. With one round each, that is
            general for a ranked register: what a proposer sees when it looks decides the rank of its ballot and
            nothing else, ballots differ, and proposers are alike but for their ballots.
    """

    def __init__(
        self,
        protocol: Protocol,
        *,
        proposers: int = 3,
        attempts: int = 1,
        losses: int = 0,
        turns: bool = True,
        looked: bool = False,
    ) -> None:
        self._protocol, self._proposers = protocol, proposers
        self._attempts, self._losses, self._turns, self._looked = attempts, losses, turns, looked
        self._things = Interner()
        self._columns = Interner()
        #: How a proposer or a step can be brought to where it is: its number, and the answers it was sent.
        self._recipes: dict[int, tuple[int, tuple[tuple[int, ...], ...]]] = {}
        self._programs: dict[int, tuple[int, str]] = {}
        self._memory: dict[Any, Any] = {}

    def first(self) -> World:
        body = NOTHING if self._protocol.first_body is None else self._things.id(self._protocol.first_body)
        columns = (self._columns.id(Column(body, (Lane(NOTHING),) * self._proposers)),) * len(SITES)
        mains = []
        for number in range(self._proposers):
            main = self._main(number, ())
            if self._looked:
                looking = self._programs_of(main)[0]
                seen = self._life(looking, self._turn(body, looking, ())[0][1])
                main = self._following(main, (seen,) * len(SITES))
            columns = tuple(self._enter(c, number, p) for c, p in zip(columns, self._programs_of(main), strict=True))
            mains.append(main)
        return World(tuple(sorted(columns)), tuple(mains), self._value(body)[1], self._losses)

    def explore(self, deadline_seconds: float = 600.0) -> int:
        """Visit every reachable world; returns how many. Raises LostDecision."""
        first = self.first()
        seen, stack = {first}, [first]
        ends = time.process_time() + deadline_seconds
        while stack:
            for world in self.after(stack.pop()):
                if world not in seen:
                    seen.add(world)
                    stack.append(world)
            assert len(seen) % 1024 or time.process_time() < ends, f"too large: {len(seen)} worlds and no end"
        return len(seen)

    def after(self, world: World) -> Iterator[World]:
        """Every world one step later."""
        tried = set()
        for place, number in enumerate(world.columns):
            if number in tried:
                continue  # two equal columns: the same step at the other one is the same step
            tried.add(number)
            for move in self._moves(number):
                if move.losses <= world.losses_left:
                    yield self._step(world, place, move)

    def _step(self, world: World, place: int, move: Move) -> World:
        columns = [*world.columns[:place], move.column, *world.columns[place + 1 :]]
        committed, mains = world.committed, world.mains
        body = self._columns[move.column].body
        if body != self._columns[world.columns[place]].body:
            ballots = [self._value(self._columns[column].body) for column in columns]
            mine = self._value(body)
            if mine[1] and sum(ballot == mine[0] for ballot, _ in ballots) >= 2:
                committed = _extend(committed, mine[1], returned=False)
        if move.proposer is not None:
            answers = tuple(self._columns[column].lanes[move.proposer].answer for column in columns)
            main = mains[move.proposer]
            following = self._following(main, answers)
            if following is not None:
                programs = self._programs_of(following)
                columns = [self._enter(c, move.proposer, p) for c, p in zip(columns, programs, strict=True)]
                mains = (*mains[: move.proposer], following, *mains[move.proposer + 1 :])
                decided = None if following == NOTHING else self._things[following]
                if isinstance(decided, Decision):
                    committed = _extend(committed, _lineage(decided.state), returned=True)
        return World(tuple(sorted(columns)), mains, committed, world.losses_left - move.losses)

    # -- one store ----------------------------------------------------------------------------------------------------

    def _moves(self, number: int) -> list[Move]:
        """Every turn that can be taken at a column."""
        if ("moves", number) not in self._memory:
            self._memory["moves", number] = list(self._find_moves(self._columns[number]))
        return self._memory["moves", number]

    def _find_moves(self, column: Column) -> Iterator[Move]:
        for proposer, lane in enumerate(column.lanes):
            if lane.program == NOTHING or lane.answer != NOTHING:
                continue
            for body, sent, late, losses in self._turn(column.body, lane.program, lane.sent):
                life = self._life(lane.program, sent)
                after = Lane(lane.program, sent) if not isinstance(life, int) else Lane(lane.program, (), life)
                lanes = (*column.lanes[:proposer], after, *column.lanes[proposer + 1 :])
                moved = column._replace(body=body, lanes=lanes, in_flight=(*column.in_flight, *late))
                yield Move(self._tidy(moved), None if after.answer == NOTHING else proposer, losses)
        for index, (program, sent) in enumerate(column.stragglers):
            rest = column.stragglers[:index] + column.stragglers[index + 1 :]
            for body, after, late, losses in self._turn(column.body, program, sent):
                alive = () if isinstance(self._life(program, after), int) else ((program, after),)
                moved = column._replace(body=body, stragglers=(*rest, *alive), in_flight=(*column.in_flight, *late))
                yield Move(self._tidy(moved), None, losses)
        for put in column.in_flight:
            body = self._put(column.body, self._things[put])
            assert body is not None, "a write that can no longer take effect was kept"
            yield Move(self._tidy(column._replace(body=body)), None, 0)

    def _tidy(self, column: Column) -> int:
        """Drop what can have no effect any more: a condition that failed once fails for ever, and ranks only grow."""
        flying = tuple(sorted(p for p in column.in_flight if self._put(column.body, self._things[p]) is not None))
        alive = tuple(sorted({s for s in column.stragglers if self._writes(column.body, *s)}))
        return self._columns.id(column._replace(in_flight=flying, stragglers=alive))

    def _writes(self, body: int, program: int, sent: tuple[int, ...]) -> bool:
        return any(after != body or late for after, _, late, _ in self._turn(body, program, sent)) or not self._turns

    def _enter(self, number: int, proposer: int, program: int) -> int:
        """A proposer went on to its next phase; its unfinished step here becomes a straggler."""
        key = ("enter", number, proposer, program)
        if key not in self._memory:
            self._memory[key] = self._make_enter(number, proposer, program)
        return self._memory[key]

    def _make_enter(self, number: int, proposer: int, program: int) -> int:
        column = self._columns[number]
        lane = column.lanes[proposer]
        late = ((lane.program, lane.sent),) if lane.program != NOTHING and lane.answer == NOTHING else ()
        lanes = (*column.lanes[:proposer], Lane(program), *column.lanes[proposer + 1 :])
        return self._tidy(column._replace(lanes=lanes, stragglers=(*column.stragglers, *late)))

    def _turn(
        self, body: int, program: int, sent: tuple[int, ...]
    ) -> list[tuple[int, tuple[int, ...], tuple[int, ...], int]]:
        """What may come of a step's next turn: the body after it, all it was sent, writes in flight, losses used."""
        key = ("turn", body, program, sent)
        if key not in self._memory:
            self._memory[key] = list(self._take_turn(body, program, sent))
        return self._memory[key]

    def _take_turn(
        self, body: int, program: int, sent: tuple[int, ...]
    ) -> Iterator[tuple[int, tuple[int, ...], tuple[int, ...], int]]:
        call = self._life(program, sent)
        while not isinstance(call, int):
            after = None
            if isinstance(call, Get):
                there = Absent() if body == NOTHING else Found(_version(body), self._things[body])
                sent = (*sent, self._things.id(there))
            else:
                after = self._put(body, call)
                lost = (*sent, self._things.id(NO_ANSWER))
                if after is not None:
                    yield after, lost, (), 1
                    yield body, lost, (self._things.id(call),), 1
                else:
                    yield body, lost, (), 1
                sent = (*sent, self._things.id(Clashed() if after is None else Written(_version(after))))
            if after is not None or not self._turns:
                yield body if after is None else after, sent, (), 0
                return
            call = self._life(program, sent)
        yield body, sent, (), 0

    def _put(self, body: int, put: Put) -> int | None:
        """The body after this PUT, ``None`` when its condition does not hold."""
        if isinstance(put.mode, Create):
            return self._things.id(put.body) if body == NOTHING else None
        return self._things.id(put.body) if body != NOTHING and put.mode.version == _version(body) else None

    # -- running the generators ---------------------------------------------------------------------------------------

    def _main(self, proposer: int, history: tuple[tuple[int, ...], ...]) -> int:
        """Where a proposer stands after these answers: equal live variables are one place."""
        where = self._replay(proposer, history)
        if isinstance(where, Decision):
            return self._things.id(where)
        if where is None:
            return NOTHING
        steps, phase = where
        names = [f"{name}={value!r}" for name, value in steps.gi_frame.f_locals.items() if name not in DEAD]
        at_site = {site: self._program(step) for site, step in phase.steps.items()}
        number = self._things.id((proposer, tuple(names), tuple(at_site.items())))
        if number not in self._recipes:
            self._recipes[number] = (proposer, history)
            for site, program in at_site.items():
                self._programs.setdefault(program, (number, site))
            self._memory["programs", number] = tuple(at_site.get(site, NOTHING) for site in SITES)
        return number

    def _programs_of(self, main: int) -> tuple[int, ...]:
        return self._memory.get(("programs", main), (NOTHING,) * len(SITES))

    def _following(self, main: int, answers: tuple[int, ...]) -> int | None:
        """Where a proposer goes with these answers, ``None`` when they do not decide its phase."""
        key = ("following", main, answers)
        if key not in self._memory:
            proposer, history = self._recipes[main]
            _, phase = self._replay(proposer, history)
            given_now = {site: self._things[a] for site, a in zip(SITES, answers, strict=True) if a != NOTHING}
            enough = len(given_now) == len(phase.steps) or phase.decided(given_now)
            self._memory[key] = self._main(proposer, (*history, answers)) if enough else None
        return self._memory[key]

    def _replay(self, proposer: int, history: tuple[tuple[int, ...], ...]) -> Any:
        """The proposer and the phase it wants, its decision, or ``None`` when it gave up."""
        steps = self._protocol.start(proposer)
        answers = iter(history)
        try:
            wanted = next(steps)
            while True:
                if isinstance(wanted, Pause):
                    if wanted.attempt >= self._attempts:
                        return None
                    wanted = steps.send({})
                    continue
                now = next(answers, None)
                if now is None:
                    return steps, wanted
                wanted = steps.send({SITES[site]: self._things[a] for site, a in enumerate(now) if a != NOTHING})
        except StopIteration as stop:
            return stop.value

    def _program(self, steps: Any) -> int:
        """A step's identity: its function and what it was called with. What version it knows only spares it a GET."""
        known = []
        for name, value in steps.gi_frame.f_locals.items():
            closure = tuple(cell.cell_contents for cell in getattr(value, "__closure__", None) or ())
            if name != "known" or not self._turns:
                known.append((name, closure if callable(value) else value))
        return self._things.id(("program", steps.gi_code.co_name, tuple(known)))

    def _life(self, program: int, sent: tuple[int, ...]) -> Get | Put | int:
        """What a step wants next after it was sent these results, or the number of its answer."""
        key = ("life", program, sent)
        if key not in self._memory:
            main, site = self._programs[program]
            steps = self._replay(*self._recipes[main])[1].steps[site]
            try:
                wanted = next(steps)
                for result in sent:
                    wanted = steps.send(self._things[result])
                self._memory[key] = wanted
            except StopIteration as stop:
                answer: Answer = stop.value
                if self._turns and answer.seen is not None:
                    # Where every turn begins with a GET, what version an answer knows makes no difference.
                    answer = Answer(answer.kind, Seen(answer.seen.state, None))
                self._memory[key] = self._things.id(answer)
        return self._memory[key]

    def _value(self, body: int) -> tuple[object, Lineage]:
        if body == NOTHING:
            return None, ()
        if ("value", body) not in self._memory:
            self._memory["value", body] = self._protocol.value(self._things[body])
        return self._memory["value", body]


def _version(body: int) -> ObjectVersion:
    return ObjectVersion(str(body))  # by content, as S3's ETags are


def _extend(committed: Lineage, lineage: Lineage, *, returned: bool) -> Lineage:
    """The committed lineage after this one was committed, or was returned to a caller as committed."""
    if lineage[: len(committed)] == committed:
        return lineage
    if returned and committed[: len(lineage)] == lineage:
        return committed
    raise LostDecision(f"{committed} was committed, and then {lineage}")


# -- the checks -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", [EMPTY, SETTLED], ids=["uninitialised", "initialised"])
def test_three_proposers_never_lose_a_decision(protocol: Protocol) -> None:
    assert Explorer(protocol, looked=True).explore() > 10_000, "the exploration stopped early"


def test_three_proposers_with_a_lost_or_late_answer_never_lose_a_decision() -> None:
    assert Explorer(SETTLED, looked=True, losses=1).explore() > 250_000, "the exploration stopped early"


def test_two_proposers_with_a_second_round_and_a_lost_answer_never_lose_a_decision() -> None:
    assert Explorer(SETTLED, proposers=2, attempts=2).explore() > 10_000
    assert Explorer(SETTLED, proposers=2, losses=1).explore() > 10_000


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("size", "worlds"),
    [
        ({}, 391_328),
        ({"proposers": 2, "attempts": 3}, 188_932),
        ({"proposers": 2, "attempts": 2, "losses": 1}, 291_513),
    ],
    ids=["three proposers at any time", "three rounds", "two rounds and a lost answer"],
)
def test_larger_worlds_never_lose_a_decision(size: dict[str, Any], worlds: int) -> None:
    assert Explorer(SETTLED, **size).explore() >= 0.9 * worlds, "the exploration stopped early"


def test_winning_two_of_three_in_one_phase_loses_a_decision_and_is_caught() -> None:
    with pytest.raises(LostDecision, match="was committed, and then"):
        Explorer(ONE_PHASE).explore()


def test_the_one_phase_register_needs_a_third_proposer_to_fail() -> None:
    """Why testing it with two proposers proves nothing."""
    assert Explorer(ONE_PHASE, proposers=2, losses=1).explore() > 1_000


#: Six proposers, four rounds each, six lost or late answers, every single call a step of its own.
RANDOM = Explorer(SETTLED, proposers=6, attempts=4, losses=6, turns=False)


@settings(max_examples=60, deadline=None)
@given(schedule=st.lists(st.integers(0, 10_000), min_size=50, max_size=400))
def test_random_schedules_with_crashes_and_restarts_never_lose_a_decision(schedule: list[int]) -> None:
    world = RANDOM.first()
    for choice in schedule:
        worlds = list(RANDOM.after(world))
        if not worlds:
            break
        following = worlds[choice % len(worlds)]
        assert following.committed[: len(world.committed)] == world.committed, "an epoch went back"
        world = following
    sites_by_epoch = dict(enumerate(world.committed, start=1))
    assert len(sites_by_epoch) == len(set(world.committed)), "a change was made twice"
