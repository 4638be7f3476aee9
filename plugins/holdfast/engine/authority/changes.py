"""What a change does to a group's state: pure rules, the same behind every epoch store."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from holdfast.clock import Clock
from holdfast.engine.authority.interface import (
    AuthorityError,
    EpochConflict,
    EpochState,
    GroupNotInitialised,
    Operation,
    OperationInProgress,
)


@dataclass(frozen=True, slots=True)
class Decision:
    """What a change makes of the state it found: the state that must stand, and the refusal, if it is one.

    A refusal keeps the state it found: the caller is told of a state that is committed, never of one that may vanish.
    """

    state: EpochState | None
    refusal: AuthorityError | None = None


#: Takes the current state and the write id a new state must carry.
Change = Callable[[EpochState | None, str], Decision]


def keep(current: EpochState | None, _write_id: str) -> Decision:
    """Change nothing: a read."""
    return Decision(current)


def advance(
    group: str, *, expected_epoch: int, active_site: str, plan_id: str, reason: str, holder: str, clock: Clock
) -> Change:
    """Commit epoch ``expected_epoch + 1``; see `EpochStore.advance`."""

    def change(current: EpochState | None, write_id: str) -> Decision:
        epoch = 0 if current is None else current.epoch
        if epoch == expected_epoch:
            return Decision(
                EpochState(
                    group=group,
                    epoch=epoch + 1,
                    active_site=active_site,
                    previous_site=None if current is None else current.active_site,
                    plan_id=plan_id,
                    holder=holder,
                    reason=reason,
                    committed_at=clock.now(),
                    write_id=write_id,
                    operation=None if current is None else current.operation,
                )
            )
        if current is not None and (current.epoch, current.plan_id, current.active_site) == (
            expected_epoch + 1,
            plan_id,
            active_site,
        ):
            return Decision(current)
        return Decision(
            current,
            EpochConflict(
                "the group is in another epoch",
                current=current,
                where=f"group {group}",
                expected=f"epoch {expected_epoch}",
                found=describe(current),
                fix="Read the authority again and decide anew",
            ),
        )

    return change


def claim(group: str, operation: Operation, *, clock: Clock) -> Change:
    """Take the group for a plan or drill; see `EpochStore.claim`."""

    def change(current: EpochState | None, write_id: str) -> Decision:
        if current is None:
            return Decision(None, _not_initialised(group))
        held = current.operation
        if held is not None and held.plan_id != operation.plan_id and clock.now() < held.expires_at:
            return Decision(
                current,
                OperationInProgress(
                    f"a {held.kind} has this group",
                    operation=held,
                    where=f"group {group}",
                    expected="no running plan or drill",
                    found=f"{held.kind} {held.plan_id} of {held.holder}, until {held.expires_at:%Y-%m-%d %H:%M:%S} UTC",
                    fix="Wait until it ends or expires; nothing was changed",
                ),
            )
        return Decision(current if held == operation else replace(current, operation=operation, write_id=write_id))

    return change


def release(group: str, plan_id: str) -> Change:
    """End the operation of this plan; see `EpochStore.release`."""

    def change(current: EpochState | None, write_id: str) -> Decision:
        if current is None:
            return Decision(None, _not_initialised(group))
        if current.operation is None or current.operation.plan_id != plan_id:
            return Decision(current)
        return Decision(replace(current, operation=None, write_id=write_id))

    return change


def describe(state: EpochState | None) -> str:
    """A state in a few words, for messages."""
    return "no epoch yet" if state is None else f"epoch {state.epoch}, active {state.active_site}, plan {state.plan_id}"


def _not_initialised(group: str) -> GroupNotInitialised:
    return GroupNotInitialised(
        "the group has no epoch yet",
        where=f"group {group}",
        expected="an initialised group",
        found="nothing in the authority",
        fix=f"Run `holdfast authority init {group}`",
    )
