"""The interval follows what is measured: a slow save moves it, a fast step moves it, a slow standby bounds it."""

from __future__ import annotations

import operator

import pytest

from engine.checkpoint.worlds import wait_for
from holdfast.clock import FakeClock
from holdfast.engine.checkpoint import Checkpointer, CheckpointError, TrainingState, elect
from holdfast.engine.checkpoint.interval import Bound, FailureRate, IntervalInputInvalid, SaveCosts, plan_interval
from holdfast.engine.checkpoint.pacing import IntervalPolicy, Pace
from holdfast.engine.objectstore import memory_store

HOUR = 3600.0
POLICY = IntervalPolicy(FailureRate(prior_mtbf_seconds=4 * HOUR), restart_seconds=120)


def measured(policy: IntervalPolicy = POLICY, *, step: float = 0.5, stall: float = 1.0, standbys: int = 1) -> Pace:
    """After ten steps and one save."""
    pace = Pace(policy, standbys=standbys, began=0.0)
    for number in range(1, 11):
        pace.stepped(number, number * step)
    pace.stalled(stall)
    pace.resumed(10 * step + stall)
    return pace


def test_the_first_save_is_a_measurement_and_waits_for_the_minimum() -> None:
    pace = Pace(IntervalPolicy(POLICY.failures, minimum_seconds=5), standbys=0, began=0.0)
    due = []
    for number in range(1, 10):
        pace.stepped(number, float(number))
        due.append(pace.is_due(number, saved_step=0, now=float(number)))
    assert due == [False] * 4 + [True] * 5
    pace.stalled(0.1)
    pace.resumed(9.1)
    assert not pace.is_due(10, saved_step=9, now=10.0), "one measurement under way is enough"
    assert pace.is_due(15, saved_step=9, now=15.0), "but when nothing came of it, another is due"


def test_a_maximum_is_kept_unless_a_bound_from_below_asks_for_more() -> None:
    rare = FailureRate(prior_mtbf_seconds=24 * HOUR, observed_seconds=90 * 24 * HOUR)
    costs = {"stall_seconds": 30.0, "step_seconds": 1.0, "maximum_seconds": 600.0}
    plan = plan_interval(SaveCosts(**costs), rare)
    assert (plan.bound, plan.interval_seconds) == (Bound.MAXIMUM, 600.0)
    slow = plan_interval(SaveCosts(**costs, replication_seconds=900.0), rare)
    assert (slow.bound, slow.interval_seconds) == (Bound.MAXIMUM, 900.0)
    often = plan_interval(SaveCosts(**costs), FailureRate(prior_mtbf_seconds=600.0))
    assert often.bound is Bound.YOUNG_DALY


@pytest.mark.parametrize(
    "wrong",
    [
        {"egress_price_per_gib": 0.1, "egress_budget_per_hour": 0.0},
        {"minimum_seconds": float("nan")},
        {"maximum_seconds": 0.0},
        {"restart_seconds": -1.0},
    ],
)
def test_a_policy_that_cannot_be_planned_with_is_refused_at_once(wrong: dict[str, float]) -> None:
    with pytest.raises(IntervalInputInvalid):
        IntervalPolicy(POLICY.failures, **wrong)


@pytest.mark.parametrize("mode", ["blocking", "copy"])
def test_a_run_whose_steps_grow_slow_goes_on_saving(mode: str) -> None:
    """Its second step takes 10 ms, the later ones 10 s: by steps alone it would not save again for hours."""
    store, clock = memory_store("site-a"), FakeClock()
    it = Checkpointer(
        store,
        "run",
        epoch=1,
        site="site-a",
        interval=POLICY,
        fingerprint={},
        clock=clock,
        mode=mode,
        retry_seconds=0.01,
    )
    saved = []
    with it:
        for step in range(1, 401):
            clock.advance(0.01 if step <= 2 else 10.0)
            if it.step(step, TrainingState({"model.bin": str(step).encode()}, {})):
                saved.append(step)
                wait_for(lambda step=step: (it.status()["checkpoint"] or {"step": 0})["step"] == step)
        plan = it.status()["interval"]
    assert plan is not None
    assert len(saved) > 10
    assert max(map(operator.sub, saved[2:], saved[1:])) <= 60


def test_the_plan_is_the_policy_on_what_was_measured() -> None:
    pace = measured()
    pace.replicated("site-b", 7.0)
    pace.saved(upload_seconds=3.0, changed_bytes=2**30, now=100.0)
    expected = plan_interval(
        SaveCosts(
            stall_seconds=1.0,
            step_seconds=0.5,
            changed_bytes=2**30,
            upload_seconds=3.0,
            replication_seconds=7.0,
            restart_seconds=120,
        ),
        POLICY.failures.observe(failures=0, seconds=100.0),
    )
    assert pace.plan == expected
    steps = expected.interval_steps
    assert [pace.is_due(10 + steps + more, saved_step=10, now=0.0) for more in (-1, 0, 1)] == [False, True, True]


def test_a_slower_save_is_taken_less_often_and_a_stall_between_steps_is_no_step() -> None:
    pace = measured()
    pace.saved(upload_seconds=0.0, changed_bytes=0, now=10.0)
    before = pace.plan
    pace.resumed(1_000.0)  # training stood still from 5 to 1000
    pace.stepped(11, 1_000.5)
    pace.stalled(9.0)
    pace.resumed(1_000.5)
    pace.saved(upload_seconds=0.0, changed_bytes=0, now=1_001.0)
    assert before is not None
    assert pace.plan is not None
    ratio = pace.plan.interval_seconds / before.interval_seconds
    assert 2.5 < ratio < 3.1, "the root of nine, about"


def test_the_slowest_standby_and_every_standby_s_bytes_bound_it() -> None:
    cheap = IntervalPolicy(POLICY.failures, egress_price_per_gib=0.09, egress_budget_per_hour=1.8)
    pace = measured(cheap, standbys=2)
    pace.replicated("site-b", 500.0)
    pace.replicated("site-c", 900.0)
    pace.saved(upload_seconds=1.0, changed_bytes=2**30, now=10.0)
    plan = pace.plan
    assert plan is not None
    assert (plan.bound, plan.interval_seconds) == (Bound.REPLICATION, 900.0)
    assert dict(plan.bounds_seconds)[Bound.EGRESS] == pytest.approx(360.0), "two GiB a save, twenty GiB an hour"


def test_a_run_plans_shows_and_follows_its_interval() -> None:
    store, clock = memory_store("site-a"), FakeClock()
    policy = IntervalPolicy(FailureRate(prior_mtbf_seconds=200.0, prior_weight_failures=1000))
    it = Checkpointer(store, "run", epoch=1, site="site-a", interval=policy, fingerprint={}, clock=clock)
    saved = []

    def state(step: int) -> TrainingState:
        clock.advance(1.0)  # what a save costs this trainer
        return TrainingState({"model.bin": str(step).encode()}, {})

    with it:
        for step in range(1, 101):
            clock.advance(0.5)
            if it.step(step, lambda step=step: state(step)):
                saved.append(step)
                wait_for(lambda step=step: (it.status()["checkpoint"] or {"step": 0})["step"] == step)
        shown = it.status()["interval"]
    assert saved[0] == 2
    assert set(map(operator.sub, saved[2:], saved[1:])) == {39}, "Daly's optimum is 19.4 s"
    assert shown["steps"] == 39
    assert 0.85 < shown["expected_goodput"] < 0.95
    assert elect(store, "run", epoch=1).step == saved[-1]


def test_without_any_interval_the_checkpointer_is_refused() -> None:
    with pytest.raises(CheckpointError, match="every_steps, every_seconds, interval"):
        Checkpointer(memory_store("site-a"), "run", epoch=1, site="site-a", fingerprint={})
