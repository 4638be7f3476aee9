"""What every epoch store does, whatever it is built on."""

from __future__ import annotations

from datetime import timedelta

import pytest

from holdfast.clock import FakeClock
from holdfast.engine.authority import (
    EpochConflict,
    EpochState,
    EpochStore,
    GroupNotInitialised,
    Operation,
    OperationInProgress,
)


def advance(epochs: EpochStore, expected: int, site: str, plan: str = "plan-1") -> EpochState:
    return epochs.advance("risk", expected_epoch=expected, active_site=site, plan_id=plan, reason="a test")


def operation(clock: FakeClock, plan: str, seconds: float = 60.0) -> Operation:
    return Operation(plan, "failover", "somebody", clock.now(), clock.now() + timedelta(seconds=seconds))


def test_a_group_nobody_initialised_has_no_state(epochs: EpochStore) -> None:
    assert epochs.read("risk") is None


def test_advance_commits_what_every_later_read_shows(epochs: EpochStore, clock: FakeClock) -> None:
    state = advance(epochs, 0, "aws")
    assert (state.epoch, state.active_site, state.previous_site, state.plan_id) == (1, "aws", None, "plan-1")
    assert (state.holder, state.reason, state.committed_at) == ("test", "a test", clock.now())
    assert epochs.read("risk") == state
    moved = advance(epochs, 1, "gcp", "plan-2")
    assert (moved.epoch, moved.active_site, moved.previous_site) == (2, "gcp", "aws")
    assert epochs.read("risk") == moved
    assert moved.write_id != state.write_id


def test_a_stale_epoch_never_wins(epochs: EpochStore) -> None:
    advance(epochs, 0, "aws")
    moved = advance(epochs, 1, "gcp", "plan-2")
    for stale in (0, 1):
        with pytest.raises(EpochConflict, match="expected epoch") as caught:
            advance(epochs, stale, "azure", "plan-3")
        assert caught.value.current == moved
        assert caught.value.exit_code == 3
    assert epochs.read("risk") == moved


def test_an_epoch_of_the_future_is_refused(epochs: EpochStore) -> None:
    with pytest.raises(EpochConflict) as caught:
        advance(epochs, 3, "aws")
    assert caught.value.current is None
    assert epochs.read("risk") is None


def test_the_same_plan_commits_its_epoch_once(epochs: EpochStore) -> None:
    advance(epochs, 0, "aws")
    first = advance(epochs, 1, "gcp", "plan-2")
    assert advance(epochs, 1, "gcp", "plan-2") == first
    with pytest.raises(EpochConflict):
        advance(epochs, 1, "azure", "plan-2")


def test_groups_do_not_touch_each_other(epochs: EpochStore) -> None:
    advance(epochs, 0, "aws")
    epochs.advance("other", expected_epoch=0, active_site="gcp", plan_id="p", reason="")
    assert epochs.read("risk").active_site == "aws"
    assert epochs.read("other").active_site == "gcp"


def test_one_plan_at_a_time_has_the_group(epochs: EpochStore, clock: FakeClock) -> None:
    advance(epochs, 0, "aws")
    mine = operation(clock, "plan-2")
    assert epochs.claim("risk", mine).operation == mine
    with pytest.raises(OperationInProgress, match=r"failover plan-2 of somebody") as caught:
        epochs.claim("risk", operation(clock, "plan-3"))
    assert caught.value.operation == mine
    assert epochs.release("risk", "plan-3").operation == mine, "nobody ends another plan's operation"
    assert epochs.release("risk", "plan-2").operation is None
    assert epochs.release("risk", "plan-2").operation is None
    assert epochs.claim("risk", operation(clock, "plan-3")).operation.plan_id == "plan-3"


def test_claiming_again_renews(epochs: EpochStore, clock: FakeClock) -> None:
    advance(epochs, 0, "aws")
    epochs.claim("risk", operation(clock, "plan-2", 60))
    clock.advance(50)
    longer = operation(clock, "plan-2", 60)
    assert epochs.claim("risk", longer).operation == longer


def test_an_expired_operation_gives_way(epochs: EpochStore, clock: FakeClock) -> None:
    advance(epochs, 0, "aws")
    epochs.claim("risk", operation(clock, "plan-2", 60))
    clock.advance(61)
    assert epochs.claim("risk", operation(clock, "plan-3")).operation.plan_id == "plan-3"


def test_an_advance_keeps_the_running_operation(epochs: EpochStore, clock: FakeClock) -> None:
    advance(epochs, 0, "aws")
    mine = operation(clock, "plan-2")
    epochs.claim("risk", mine)
    assert advance(epochs, 1, "gcp", "plan-2").operation == mine
    assert advance(epochs, 1, "gcp", "plan-2").operation == mine


def test_an_uninitialised_group_cannot_be_claimed(epochs: EpochStore, clock: FakeClock) -> None:
    with pytest.raises(GroupNotInitialised, match="authority init risk"):
        epochs.claim("risk", operation(clock, "plan-2"))
    with pytest.raises(GroupNotInitialised):
        epochs.release("risk", "plan-2")


def test_inspect_shows_what_is_held(epochs: EpochStore) -> None:
    state = advance(epochs, 0, "aws")
    views = epochs.inspect("risk")
    assert all(view.reachable for view in views)
    assert [view.state for view in views].count(state) * 2 > len(views)
