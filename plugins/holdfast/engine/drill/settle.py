"""Bring the replicas up to date and look at the steady state, again until it holds or the patience is over.

A store that was just slow is no finding; one that stays slow is.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from holdfast.engine.authority.interface import EpochState
from holdfast.engine.drill.log import DrillState
from holdfast.engine.drill.steady_state import SteadyState, look
from holdfast.engine.recovery.protection import Protected, protect_group

_PAUSE_SECONDS = 1.0


@dataclass(frozen=True)
class Settled:
    """The last look, the last replication, and how many rounds it took."""

    steady_state: SteadyState
    protected: tuple[Protected, ...]
    rounds: int
    seconds: float

    def as_dict(self) -> dict[str, Any]:
        return {**self.steady_state.as_dict(), "rounds": self.rounds, "seconds": round(self.seconds, 3)}

    def replicated(self) -> list[dict[str, Any]]:
        return [asdict(p) for p in self.protected]


def settle(
    state: DrillState, committed: EpochState, *, patience_seconds: float, training_may_have_ended: bool
) -> Settled:
    """Replicate from the active site and look, until the steady state holds.

    Args:
        committed: the register's state; its active site is the source.
        patience_seconds: no further round is begun after this time.
        training_may_have_ended: see `look`.
    """
    rooms, group, clock = state.rooms, state.plan.group, state.rooms.clock
    began, rounds = clock.monotonic(), 0
    while True:
        rounds += 1
        protected = protect_group(rooms, group, committed)
        seen = look(rooms, state.senses, group, committed, training_may_have_ended=training_may_have_ended)
        taken = clock.monotonic() - began
        if (seen.holds and all(p.ok for p in protected)) or taken >= patience_seconds:
            return Settled(seen, protected, rounds, taken)
        clock.sleep(_PAUSE_SECONDS)
