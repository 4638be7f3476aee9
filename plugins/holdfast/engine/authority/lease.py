"""The right to write: what a site may do while it can read a majority, and the wait that makes the old one harmless.

A site holds the lease of a group while the newest committed state names it active, and the read that said so *began*
less than T_fence ago. A promotion commits its epoch and then waits T_fence and the clock skew: every read that began
before the commit has expired by then, and every later one shows the new epoch.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Literal

from holdfast.clock import Clock
from holdfast.engine.authority.interface import AuthorityError, EpochState, EpochStore
from holdfast.engine.config import Group

Role = Literal["active", "standby", "witness", "unknown"]


def fence_wait_seconds(group: Group) -> float:
    """How long a promotion waits, after its epoch is committed, until the old site's lease has ended."""
    return group.fencing.fence_seconds + group.fencing.clock_skew_seconds


@dataclass(frozen=True, slots=True)
class LeaseStatus:
    """What a site knows of its right to write, as of one moment.

    Attributes:
        role: what the newest read says the site is; ``unknown`` before the first read and once the read is too old.
        epoch: of the newest read; ``None`` before the first one or when the group was never initialised.
        may_write: the lease is held.
        fenced: the newest read named the site, and is too old to act on.
        age_seconds: since the newest read began.
        detail: why not, for people.
    """

    group: str
    site: str
    role: Role
    epoch: int | None
    may_write: bool
    fenced: bool
    age_seconds: float | None
    detail: str


class Lease:
    """One site's lease of one group. Call `renew` a few times within T_fence; ask `may_write` before every write.

    Safe to use from many threads. Time is ``clock.monotonic()``, which goes on while the machine is suspended: a
    process that was stopped finds its lease gone when it wakes.

    A lease that ran out comes back with the next read of a majority that still names the site and its epoch. That is no
    less exclusive: a promotion commits its epoch first and then waits for *any* lease of the old one to end, so such a
    read proves that nobody was promoted. A site thus rides out a cut or a stall that nobody answered with a promotion.

    Args:
        fence_seconds: T_fence.
        standby_role: the site's role while it is not active.
    """

    def __init__(
        self,
        group: str,
        site: str,
        epochs: EpochStore,
        *,
        fence_seconds: float,
        clock: Clock,
        standby_role: Literal["standby", "witness"] = "standby",
    ) -> None:
        self.group = group
        self.site = site
        self._epochs = epochs
        self._fence_seconds = fence_seconds
        self._clock = clock
        self._standby_role: Literal["standby", "witness"] = standby_role
        self._lock = threading.Lock()
        self._state: EpochState | None = None
        self._read_at: float | None = None
        self._trouble = "no majority was read yet"

    def renew(self) -> LeaseStatus:
        """Read a majority once. Never raises for what the authority answers: the lease just grows older."""
        began = self._clock.monotonic()
        try:
            state = self._epochs.read(self.group)
        except AuthorityError as error:
            with self._lock:
                self._trouble = str(error)
            return self.status()
        with self._lock:
            if (self._read_at is None or began >= self._read_at) and _epoch(state) >= _epoch(self._state):
                self._state, self._read_at = state, began
        return self.status()

    def may_write(self) -> bool:
        """Whether the lease is held now. Ask again before every write: a yes is worth nothing later."""
        return self.status().may_write

    def status(self) -> LeaseStatus:
        """The lease as of now."""
        with self._lock:
            return self._status(self._clock.monotonic())

    def _expired(self, now: float) -> bool:
        return self._read_at is None or now - self._read_at >= self._fence_seconds

    def _status(self, now: float) -> LeaseStatus:
        state = self._state
        fenced = state is not None and state.active_site == self.site and self._expired(now)
        role: Role = "unknown"
        if self._expired(now):
            detail = f"no majority read for {self._fence_seconds:g} s: {self._trouble}"
        elif state is None:
            detail = "the group has no epoch yet"
        elif state.active_site != self.site:
            role, detail = self._standby_role, f"{state.active_site} is active in epoch {state.epoch}"
        else:
            role, detail = "active", f"active in epoch {state.epoch}"
        return LeaseStatus(
            group=self.group,
            site=self.site,
            role=role,
            epoch=None if state is None else state.epoch,
            may_write=role == "active",
            fenced=fenced,
            age_seconds=None if self._read_at is None else now - self._read_at,
            detail=detail,
        )


def _epoch(state: EpochState | None) -> int:
    return 0 if state is None else state.epoch
