"""The interval policy: a simulation that knows no formula agrees with it, and no bound is ever undercut."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.engine.checkpoint.interval import (
    Bound,
    FailureRate,
    IntervalInputInvalid,
    SaveCosts,
    daly_interval,
    expected_goodput,
    plan_interval,
)

#: The settings of the measurements: one failure in 4 h, 180 s to restart, a stall of torch.save down to overlapped.
MTBF_SECONDS = 4 * 3600.0
RESTART_SECONDS = 180.0
STALLS_SECONDS = (0.36, 0.03, 0.009)
SETTINGS = [(stall, lag) for stall in STALLS_SECONDS for lag in (0.0, 60.0)]
#: Failures per simulated figure: the noise of the goodput is then about 0.0002.
FAILURES = 6000


def costs(stall: float = 0.03, step: float = 0.001, **changes: Any) -> SaveCosts:
    return SaveCosts(**{"stall_seconds": stall, "step_seconds": step, "restart_seconds": RESTART_SECONDS, **changes})


def simulate(interval: float, stall: float, lag: float, *, seed: int) -> tuple[float, float]:
    """(goodput, mean lost seconds per failure) of a run that is cut off again and again.

    After a failure it restarts, then trains and saves until the next one; what counts is the newest save whose copy
    had arrived by then. Failures also strike during a restart. No formula of the policy is used.
    """
    rng = random.Random(seed)
    kept = wall = lost = 0.0
    trainings = 0
    for _ in range(FAILURES):
        until = rng.expovariate(1.0 / MTBF_SECONDS)
        wall += until
        left = until - RESTART_SECONDS
        if left <= 0:
            continue
        trainings += 1
        done = max(0, int((left - lag) / (interval + stall)))
        kept += done * interval
        trained = left - stall * int(left / (interval + stall))
        lost += trained - done * interval
    return kept / wall, lost / trainings


@pytest.mark.parametrize(("stall", "lag"), SETTINGS)
def test_a_simulation_agrees_with_the_expected_goodput_and_loss(stall: float, lag: float) -> None:
    plan = plan_interval(costs(stall, replication_seconds=lag), FailureRate(MTBF_SECONDS))
    goodput, lost = simulate(plan.interval_seconds, stall, lag, seed=7)
    assert goodput == pytest.approx(plan.expected_goodput, abs=0.001)
    assert lost == pytest.approx(plan.expected_lost_seconds, rel=0.05)


@pytest.mark.parametrize(("stall", "lag"), SETTINGS)
def test_no_other_interval_beats_the_planned_one_by_more_than_noise(stall: float, lag: float) -> None:
    chosen = daly_interval(stall, MTBF_SECONDS)
    grid = {factor: simulate(chosen * factor, stall, lag, seed=11)[0] for factor in (0.25, 0.5, 0.75, 1, 1.5, 2, 4)}
    assert max(grid.values()) - grid[1] <= 0.0005
    assert grid[1] - min(grid[0.25], grid[4]) > 0.0005  # the grid is wide enough to tell


@pytest.mark.parametrize(("stall", "seconds"), [(0.36, 102), (0.03, 29), (0.009, 16)])
def test_the_optimum_is_that_of_the_measurements(stall: float, seconds: int) -> None:
    assert daly_interval(stall, MTBF_SECONDS) == pytest.approx(seconds, abs=0.6)


def test_saving_every_half_hour_costs_what_was_measured() -> None:
    assert expected_goodput(1800, costs(0.03), MTBF_SECONDS) == pytest.approx(0.929, abs=0.003)
    expected = expected_goodput(1800, costs(), MTBF_SECONDS)
    assert simulate(1800, 0.03, 0.0, seed=3)[0] == pytest.approx(expected, abs=0.004)


def test_dalys_terms_matter_where_the_stall_is_long() -> None:
    """At a stall of a tenth of the MTBF Daly's interval gives more goodput than Young's, as he found."""
    stall, mtbf = 1440.0, MTBF_SECONDS
    young = math.sqrt(2 * stall * mtbf)
    heavy = costs(stall)
    assert expected_goodput(daly_interval(stall, mtbf), heavy, mtbf) > expected_goodput(young, heavy, mtbf)
    assert daly_interval(2 * mtbf, mtbf) == mtbf


@pytest.mark.parametrize(
    ("changes", "bound", "seconds"),
    [
        ({}, Bound.YOUNG_DALY, 29),
        ({"upload_seconds": 45.0}, Bound.UPLOAD, 45),
        ({"upload_seconds": 45.0, "replication_seconds": 90.0}, Bound.REPLICATION, 90),
        (
            {"changed_bytes": 10 * 1024**3, "egress_price_per_gib": 0.09, "egress_budget_per_hour": 9.0},
            Bound.EGRESS,
            360,
        ),
        ({"minimum_seconds": 60.0}, Bound.MINIMUM, 60),
        ({"step_seconds": 120.0}, Bound.STEP, 120),
    ],
)
def test_the_bound_that_decides_is_named(changes: dict[str, Any], bound: Bound, seconds: float) -> None:
    plan = plan_interval(costs(**changes), FailureRate(MTBF_SECONDS))
    assert plan.bound is bound
    assert plan.interval_seconds == pytest.approx(seconds, abs=0.6)
    assert str(bound) in plan.explain()


def test_the_egress_of_the_plan_keeps_to_the_budget_and_fills_it() -> None:
    paid = costs(changed_bytes=10 * 1024**3, egress_price_per_gib=0.09, egress_budget_per_hour=9.0)
    cost = plan_interval(paid, FailureRate(MTBF_SECONDS)).egress_cost_per_hour
    assert 8.9 < cost <= 9.0


def test_the_prior_gives_way_to_what_is_observed() -> None:
    prior = FailureRate(MTBF_SECONDS, prior_weight_failures=2)
    assert prior.mtbf_seconds == pytest.approx(MTBF_SECONDS)
    assert prior.observe(failures=0, seconds=2 * MTBF_SECONDS).mtbf_seconds == pytest.approx(2 * MTBF_SECONDS)
    assert prior.observe(failures=2, seconds=0).mtbf_seconds == pytest.approx(MTBF_SECONDS / 2)
    often = prior.observe(failures=1000, seconds=1000 * 600.0)
    assert often.mtbf_seconds == pytest.approx(600, rel=0.05)
    assert prior.observe(failures=1, seconds=5).observe(failures=2, seconds=6) == prior.observe(failures=3, seconds=11)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("stall_seconds", -1.0),
        ("stall_seconds", math.nan),
        ("step_seconds", 0.0),
        ("upload_seconds", math.inf),
        ("changed_bytes", -1),
        ("minimum_seconds", -0.1),
        ("egress_budget_per_hour", -2.0),
    ],
)
def test_a_figure_that_cannot_be_is_refused_by_name(name: str, value: float) -> None:
    with pytest.raises(IntervalInputInvalid) as refused:
        replace(costs(), **{name: value})
    assert refused.value.where == name


def test_a_budget_that_allows_no_save_is_refused() -> None:
    with pytest.raises(IntervalInputInvalid, match="allows no save"):
        costs(changed_bytes=1, egress_price_per_gib=0.1, egress_budget_per_hour=0.0)
    assert costs(changed_bytes=1, egress_budget_per_hour=0.0).egress_cost_per_save == 0


@pytest.mark.parametrize("changes", [{"prior_mtbf_seconds": 0.0}, {"prior_weight_failures": 0.0}])
def test_a_prior_that_says_nothing_is_refused(changes: dict[str, float]) -> None:
    with pytest.raises(IntervalInputInvalid):
        FailureRate(**{"prior_mtbf_seconds": MTBF_SECONDS, **changes})


def test_a_hopeless_run_has_no_goodput_and_says_so() -> None:
    assert plan_interval(costs(step=1e6), FailureRate(10.0)).expected_goodput == 0.0


_SECONDS = st.floats(0, 1e5)
_ANY = st.builds(
    SaveCosts,
    stall_seconds=_SECONDS,
    step_seconds=st.floats(1e-3, 1e4),
    changed_bytes=st.integers(0, 10**13),
    upload_seconds=_SECONDS,
    replication_seconds=_SECONDS,
    restart_seconds=_SECONDS,
    egress_price_per_gib=st.floats(0, 1),
    egress_budget_per_hour=st.one_of(st.none(), st.floats(0.1, 1e4)),
    minimum_seconds=_SECONDS,
)
_RATES = st.builds(FailureRate, st.floats(60, 1e7), st.floats(0.1, 10), st.integers(0, 100), st.floats(0, 1e8))


@given(_ANY, _RATES)
def test_the_interval_is_whole_steps_and_never_under_a_bound(given_costs: SaveCosts, rate: FailureRate) -> None:
    plan = plan_interval(given_costs, rate)
    assert plan.interval_steps >= 1
    assert plan.interval_seconds == plan.interval_steps * given_costs.step_seconds
    assert all(plan.interval_seconds >= seconds for _, seconds in plan.bounds_seconds)
    if given_costs.egress_budget_per_hour is not None:
        assert plan.egress_cost_per_hour <= given_costs.egress_budget_per_hour * (1 + 1e-9)
    assert 0 <= plan.expected_goodput <= 1


@given(_ANY, _RATES, st.floats(0, 1))
def test_a_longer_stall_never_shortens_the_interval(given_costs: SaveCosts, rate: FailureRate, share: float) -> None:
    """Up to a stall of half the MTBF; beyond that Daly's expansion is not meant, and no interval helps."""
    longer = min(given_costs.stall_seconds, rate.mtbf_seconds / 2)
    long, short = replace(given_costs, stall_seconds=longer), replace(given_costs, stall_seconds=longer * share)
    assert plan_interval(short, rate).interval_steps <= plan_interval(long, rate).interval_steps
