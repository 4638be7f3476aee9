"""Who is active: the register's state and the interface every epoch store has.

Truth is here and nowhere else; Airflow's database and traffic records follow it.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Literal, Protocol

from holdfast.errors import HoldfastError, Refused

OperationKind = Literal["failover", "switchover", "failback", "drill"]


@dataclass(frozen=True, slots=True)
class Operation:
    """A plan or drill that has the group to itself until it ends or expires.

    It keeps two people from running two plans at once. Safety never depends on it: epochs do that.
    """

    plan_id: str
    kind: OperationKind
    holder: str
    started_at: datetime
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class EpochState:
    """The committed state of one protection group.

    ``write_id`` is new for every write, so a writer that lost the answer recognises its own write when it reads again.
    """

    group: str
    epoch: int
    active_site: str
    previous_site: str | None
    plan_id: str | None
    holder: str
    reason: str
    committed_at: datetime
    write_id: str
    operation: Operation | None = None


@dataclass(frozen=True, slots=True)
class AcceptorView:
    """What one acceptor answered, for people (``holdfast authority show``); never a basis for a decision."""

    site: str
    reachable: bool
    promised: str | None
    accepted: str | None
    state: EpochState | None
    detail: str | None = None


class AuthorityError(HoldfastError):
    """Base of the errors of this package."""


class NoMajority(AuthorityError):
    """Fewer than a majority of acceptors answered: nobody knows who is active, so nobody may act."""

    transient = True
    exit_code = 4


class Contended(NoMajority):
    """Other proposers kept winning until the time was over. Safe to call again."""


class GroupNotInitialised(Refused, AuthorityError):
    """The group has no epoch yet: `holdfast authority init`."""


class EpochConflict(Refused, AuthorityError):
    """The group is in another epoch than the caller believed: somebody else moved it."""

    def __init__(self, what: str, *, current: EpochState | None, **facts: str | None) -> None:
        super().__init__(what, **facts)
        self.current = current


class OperationInProgress(Refused, AuthorityError):
    """Another plan or drill has this group."""

    def __init__(self, what: str, *, operation: Operation, **facts: str | None) -> None:
        super().__init__(what, **facts)
        self.operation = operation


class EpochStore(Protocol):
    """A linearizable register per protection group. Every call has a bounded time."""

    def read(self, group: str) -> EpochState | None:
        """The committed state, ``None`` when the group was never initialised. Raises NoMajority."""

    def advance(self, group: str, *, expected_epoch: int, active_site: str, plan_id: str, reason: str) -> EpochState:
        """Commit epoch ``expected_epoch + 1`` with a new active site. ``expected_epoch=0`` initialises the group.

        Idempotent on ``plan_id``: when that plan already committed exactly this epoch, its state is returned.
        A running `Operation` is kept.

        Raises:
            EpochConflict: the group is in another epoch.
            NoMajority: it is not known whether the epoch was committed; call again with the same arguments.
        """

    def claim(self, group: str, operation: Operation) -> EpochState:
        """Take the group for a plan or drill; taking it again with the same plan id renews it.

        Raises:
            OperationInProgress: another, unexpired operation has it.
        """

    def release(self, group: str, plan_id: str) -> EpochState:
        """End the operation of this plan; ending what is not there is no error."""

    def inspect(self, group: str) -> list[AcceptorView]:
        """What each acceptor holds."""
