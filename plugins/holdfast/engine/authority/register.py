"""The ranked register over object stores: the default epoch store, without a server of its own.

It survives the loss of any minority of its stores. It must never be the target of replication, lifecycle rules or
restores: an acceptor that forgets what it promised breaks safety.
"""

from __future__ import annotations

import queue
import random
import threading
import uuid
from collections.abc import Callable, Mapping
from dataclasses import replace

from holdfast.clock import Clock, SystemClock
from holdfast.engine.authority import changes
from holdfast.engine.authority.acceptor import ZERO, Ballot
from holdfast.engine.authority.changes import Change
from holdfast.engine.authority.interface import AcceptorView, Contended, EpochState, NoMajority, Operation
from holdfast.engine.authority.protocol import (
    Absent,
    AcceptorSteps,
    Answer,
    Clashed,
    Failed,
    Found,
    Get,
    Pause,
    Phase,
    StoreCall,
    StoreResult,
    Written,
    look,
    propose,
)
from holdfast.engine.objectstore.errors import ObjectExists, ObjectNotFound, PreconditionFailed
from holdfast.engine.objectstore.interface import ObjectStore
from holdfast.errors import ConfigError

#: The longest pause between two attempts, in seconds.
_LONGEST_PAUSE_SECONDS = 1.0


class RankedRegister:
    """An `EpochStore` over at least three object stores, one acceptor per site.

    Args:
        acceptors: per site its store; an odd number, so that a majority is one fewer.
        holder: who writes, for people; appears in every committed state.
        clock: time for records, budgets and pauses.
        rng: spreads the pauses of contending proposers. Safety never depends on it.
        budget_seconds: the longest a call takes, from its start.
        new_id: makes an id no other call of any process ever makes.

    Raises:
        ConfigError: fewer than three acceptors, or an even number of them.
    """

    def __init__(
        self,
        acceptors: Mapping[str, ObjectStore],
        *,
        holder: str,
        clock: Clock | None = None,
        rng: random.Random | None = None,
        budget_seconds: float = 10.0,
        new_id: Callable[[], str] = lambda: uuid.uuid4().hex,
    ) -> None:
        if len(acceptors) < 3 or len(acceptors) % 2 == 0:
            raise ConfigError(
                "a ranked register needs a majority that outlives one store",
                where="authority",
                expected="an odd number of acceptors, at least 3",
                found=str(len(acceptors)),
            )
        self._acceptors = dict(acceptors)
        self._holder = holder
        self._clock = clock or SystemClock()
        self._rng = rng or random.Random()  # noqa: S311 - spreads pauses, guards nothing
        self._budget_seconds = budget_seconds
        self._new_id = new_id

    def read(self, group: str) -> EpochState | None:
        return self._run(group, changes.keep)

    def advance(self, group: str, *, expected_epoch: int, active_site: str, plan_id: str, reason: str) -> EpochState:
        return _there(
            self._run(
                group,
                changes.advance(
                    group,
                    expected_epoch=expected_epoch,
                    active_site=active_site,
                    plan_id=plan_id,
                    reason=reason,
                    holder=self._holder,
                    clock=self._clock,
                ),
            )
        )

    def claim(self, group: str, operation: Operation) -> EpochState:
        return _there(self._run(group, changes.claim(group, operation, clock=self._clock)))

    def release(self, group: str, plan_id: str) -> EpochState:
        return _there(self._run(group, changes.release(group, plan_id)))

    def inspect(self, group: str) -> list[AcceptorView]:
        phase = Phase({site: look(group) for site in self._acceptors}, len(self._acceptors))
        answers = self._gather(phase, self._clock.monotonic() + self._budget_seconds, wait_for_all=True)
        return [_view(site, answers.get(site)) for site in self._acceptors]

    def _run(self, group: str, change: Change) -> EpochState | None:
        """Run a proposer to its end within the budget."""
        deadline = self._clock.monotonic() + self._budget_seconds
        steps = propose(group, tuple(self._acceptors), change, f"{self._holder}/{self._new_id()}")
        answers: Mapping[str, Answer] = {}
        troubles: dict[str, str] = {}
        round_seconds = 0.0
        contended = False
        try:
            wanted = next(steps)
            while True:
                if isinstance(wanted, Phase):
                    started = self._clock.monotonic()
                    answers = self._gather(wanted, deadline)
                    round_seconds = self._clock.monotonic() - started
                else:
                    # The last look before the time is over says little; what it said before says why.
                    troubles |= {site: text for site, text in wanted.details.items() if text}
                    contended = wanted.contended or (contended and not any(wanted.details.values()))
                    self._pause(group, replace(wanted, contended=contended), deadline, round_seconds, troubles)
                wanted = steps.send(answers)
        except StopIteration as stop:
            decision: changes.Decision = stop.value
        if decision.refusal is not None:
            raise decision.refusal
        return decision.state

    def _gather(self, phase: Phase, deadline: float, *, wait_for_all: bool = False) -> dict[str, Answer]:
        """Ask all acceptors at once, each in a thread of its own, and return once the answers decide the phase.

        Whoever has not answered by then is left to itself: its thread goes on and what it writes late is what any late
        message is to the protocol. Threads are daemons, so a hanging store holds up no process either.
        """
        results: queue.SimpleQueue[tuple[str, Answer]] = queue.SimpleQueue()
        for site, steps in phase.steps.items():
            threading.Thread(
                target=self._ask, args=(site, steps, deadline, results), daemon=True, name=f"authority-{site}"
            ).start()
        answers: dict[str, Answer] = {}
        while len(answers) < len(phase.steps) and (wait_for_all or not phase.decided(answers)):
            try:
                site, answer = results.get(timeout=max(0.001, deadline - self._clock.monotonic()))
            except queue.Empty:
                break
            answers[site] = answer
        if phase.decided(answers) and not wait_for_all:
            return answers
        late = Answer("failed")
        return {site: answers.get(site, late) for site in phase.steps}

    def _ask(
        self, site: str, steps: AcceptorSteps, deadline: float, results: queue.SimpleQueue[tuple[str, Answer]]
    ) -> None:
        store = self._acceptors[site]
        try:
            wanted = next(steps)
            while True:
                if self._clock.monotonic() >= deadline:
                    results.put((site, Answer("failed")))
                    return
                wanted = steps.send(perform(store, wanted))
        except StopIteration as stop:
            results.put((site, stop.value))

    def _pause(
        self, group: str, pause: Pause, deadline: float, round_seconds: float, troubles: Mapping[str, str]
    ) -> None:
        """Wait a random while, longer after every attempt; raise when the budget is over."""
        longest = min(_LONGEST_PAUSE_SECONDS, max(0.01, round_seconds) * 2.0 ** min(pause.attempt, 10))
        seconds = self._rng.uniform(0.0, longest)
        if self._clock.monotonic() + seconds < deadline:
            self._clock.sleep(seconds)
            return
        facts = {
            "where": f"group {group}",
            "expected": f"answers of {len(self._acceptors) // 2 + 1} of {len(self._acceptors)} acceptors "
            f"within {self._budget_seconds:g} s",
            "found": "; ".join(
                f"{site}: {troubles.get(site, 'no answer')}" for site in sorted(pause.details.keys() or troubles)
            ),
        }
        if pause.contended:
            raise Contended("other writers kept winning", **facts, fix="Call again with the same arguments")
        raise NoMajority(
            "too few acceptors answer: nobody knows who is active, so nobody may act",
            **facts,
            fix="`holdfast authority show` tells which; call again with the same arguments",
        )


def perform(store: ObjectStore, call: StoreCall) -> StoreResult:
    """Do what a step wants at a store; every error becomes a result."""
    try:
        if isinstance(call, Get):
            reader = store.open(call.key)
            return Found(reader.info.version, b"".join(reader))
        return Written(store.put(call.key, call.body, mode=call.mode, content_type="application/json"))
    except ObjectNotFound as error:
        return Absent() if isinstance(call, Get) else Failed(str(error))
    except (ObjectExists, PreconditionFailed):
        return Clashed() if not isinstance(call, Get) else Failed("the object changed while it was read")
    except Exception as error:  # whatever a store raises, it did not answer; a thread must not die with the answer owed
        return Failed(f"{type(error).__name__}: {error}")


def _there(state: EpochState | None) -> EpochState:
    assert state is not None, "a change that is not refused leaves a state"
    return state


def _view(site: str, answer: Answer | None) -> AcceptorView:
    if answer is None or answer.seen is None:
        detail = "no answer" if answer is None or not answer.detail else answer.detail
        return AcceptorView(site, reachable=False, promised=None, accepted=None, state=None, detail=detail)
    state = answer.seen.state
    return AcceptorView(
        site,
        reachable=True,
        promised=_text(state.promised),
        accepted=_text(state.accepted),
        state=state.value,
        detail=None if answer.seen.version else "nothing written yet",
    )


def _text(ballot: Ballot) -> str | None:
    return None if ballot == ZERO else str(ballot)
