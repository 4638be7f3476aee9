"""The lease and the fence, on a clock that moves only when told."""

from __future__ import annotations

import pytest

from holdfast.clock import FakeClock
from holdfast.engine.authority import EpochState, Lease, MemoryEpochStore, fence_wait_seconds
from holdfast.engine.config import Fencing, Group, Objectives, Roles

T_FENCE = 30.0


class SlowEpochs(MemoryEpochStore):
    """Answers after a while: the state as of when the read began, or as of when it ended."""

    def __init__(self, clock: FakeClock) -> None:
        super().__init__(clock=clock)
        self.clock = clock
        self.before_answer = 0.0
        self.after_answer = 0.0

    def read(self, group: str) -> EpochState | None:
        self.clock.advance(self.before_answer)
        state = super().read(group)
        self.clock.advance(self.after_answer)
        return state


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def epochs(clock: FakeClock) -> SlowEpochs:
    store = SlowEpochs(clock)
    move(store, 0, "aws")
    return store


def move(epochs: MemoryEpochStore, expected: int, site: str) -> None:
    epochs.advance("risk", expected_epoch=expected, active_site=site, plan_id=f"plan-{expected}", reason="")


def lease(epochs: MemoryEpochStore, clock: FakeClock, site: str = "aws") -> Lease:
    return Lease("risk", site, epochs, fence_seconds=T_FENCE, clock=clock)


def test_nobody_may_write_before_the_first_read(epochs: SlowEpochs, clock: FakeClock) -> None:
    mine = lease(epochs, clock)
    assert not mine.may_write()
    assert (mine.status().role, mine.status().epoch) == ("unknown", None)


def test_the_active_site_may_write_until_t_fence_after_its_read_began(epochs: SlowEpochs, clock: FakeClock) -> None:
    mine = lease(epochs, clock)
    epochs.before_answer, epochs.after_answer = 4.0, 6.0
    assert mine.renew().may_write
    clock.advance(T_FENCE - 10.0 - 0.001)
    assert mine.may_write()
    clock.advance(0.001)
    assert not mine.may_write(), "the ten seconds the read took count"
    assert "no majority read for 30 s" in mine.status().detail


def test_a_read_that_took_longer_than_t_fence_gives_nothing(epochs: SlowEpochs, clock: FakeClock) -> None:
    mine = lease(epochs, clock)
    epochs.after_answer = T_FENCE
    assert not mine.renew().may_write


def test_a_standby_and_a_witness_may_not_write(epochs: SlowEpochs, clock: FakeClock) -> None:
    standby = lease(epochs, clock, "gcp").renew()
    assert (standby.role, standby.may_write, standby.fenced, standby.epoch) == ("standby", False, False, 1)
    witness = Lease("risk", "azure", epochs, fence_seconds=T_FENCE, clock=clock, standby_role="witness").renew()
    assert (witness.role, witness.may_write) == ("witness", False)


def test_renewing_in_time_keeps_the_lease(epochs: SlowEpochs, clock: FakeClock) -> None:
    mine = lease(epochs, clock)
    for _ in range(20):
        assert mine.renew().may_write
        clock.advance(T_FENCE - 1)


def test_a_lease_that_ran_out_comes_back_if_nobody_was_promoted(epochs: SlowEpochs, clock: FakeClock) -> None:
    mine = lease(epochs, clock)
    mine.renew()
    clock.advance(T_FENCE)  # nobody asks meanwhile: the process was stopped
    status = mine.status()
    assert (status.fenced, status.may_write) == (True, False)
    assert mine.renew().may_write


def test_a_lease_that_ran_out_stays_lost_once_another_site_was_promoted(epochs: SlowEpochs, clock: FakeClock) -> None:
    mine = lease(epochs, clock)
    mine.renew()
    clock.advance(T_FENCE)
    move(epochs, 1, "gcp")
    assert mine.renew().role == "standby"
    assert not mine.may_write()
    move(epochs, 2, "aws")
    assert mine.renew().may_write


def test_no_majority_lets_the_lease_run_out(epochs: SlowEpochs, clock: FakeClock) -> None:
    mine = lease(epochs, clock)
    mine.renew()
    epochs.available = False
    clock.advance(T_FENCE - 1)
    assert mine.renew().may_write
    clock.advance(1)
    status = mine.renew()
    assert not status.may_write
    assert "made unavailable" in status.detail


def test_an_older_read_that_comes_late_changes_nothing(clock: FakeClock, epochs: SlowEpochs) -> None:
    mine = lease(epochs, clock)
    mine.renew()
    move(epochs, 1, "gcp")
    assert mine.renew().epoch == 2
    epochs._states["risk"] = None  # as from a reader that began before everything
    assert mine.renew().epoch == 2


def test_a_promotion_waits_until_the_old_lease_has_ended(epochs: SlowEpochs, clock: FakeClock) -> None:
    """The worst case: the old site's last read begins just before the commit."""
    group = Group(
        owner="o",
        tier=1,
        sites=Roles(active="aws", standby=("gcp",), witness=("azure",)),
        objectives=Objectives(rpo_seconds=1, rto_seconds=1),
        fencing=Fencing(fence_seconds=T_FENCE, clock_skew_seconds=1.0),
    )
    old = lease(epochs, clock)
    old.renew()
    move(epochs, 1, "gcp")
    waited = fence_wait_seconds(group)
    assert waited == T_FENCE + 1.0
    clock.advance(waited - 1.001)
    assert old.may_write(), "the wait is not idle"
    clock.advance(1.001)
    assert not old.may_write()
