"""The in-memory twin of the ranked register: the same rules in one process, for tests and dry runs."""

from __future__ import annotations

import threading
import uuid

from holdfast.clock import Clock, SystemClock
from holdfast.engine.authority import changes
from holdfast.engine.authority.changes import Change
from holdfast.engine.authority.interface import AcceptorView, EpochState, NoMajority, Operation


class MemoryEpochStore:
    """An `EpochStore` that lives as long as its process. ``available = False`` makes every call raise NoMajority."""

    def __init__(self, *, holder: str = "memory", clock: Clock | None = None) -> None:
        self._holder = holder
        self._clock = clock or SystemClock()
        self._states: dict[str, EpochState | None] = {}
        self._lock = threading.Lock()
        self.available = True

    def read(self, group: str) -> EpochState | None:
        return self._run(group, changes.keep)

    def advance(self, group: str, *, expected_epoch: int, active_site: str, plan_id: str, reason: str) -> EpochState:
        state = self._run(
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
        assert state is not None
        return state

    def claim(self, group: str, operation: Operation) -> EpochState:
        state = self._run(group, changes.claim(group, operation, clock=self._clock))
        assert state is not None
        return state

    def release(self, group: str, plan_id: str) -> EpochState:
        state = self._run(group, changes.release(group, plan_id))
        assert state is not None
        return state

    def inspect(self, group: str) -> list[AcceptorView]:
        return [
            AcceptorView(
                "memory",
                reachable=self.available,
                promised=None,
                accepted=None,
                state=self._states.get(group) if self.available else None,
            )
        ]

    def _run(self, group: str, change: Change) -> EpochState | None:
        if not self.available:
            raise NoMajority("the in-memory epoch store was made unavailable", where=f"group {group}")
        with self._lock:
            decision = change(self._states.get(group), uuid.uuid4().hex)
            self._states[group] = decision.state
        if decision.refusal is not None:
            raise decision.refusal
        return decision.state
