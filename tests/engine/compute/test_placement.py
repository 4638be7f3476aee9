"""Where a job is tried next: lost machines are replaced, a trainer's own fault is not, and no room is said as it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from holdfast.engine.compute import (
    Attempt,
    ComputeError,
    Degraded,
    GiveUp,
    JobState,
    RunAt,
    allowed_placements,
    check_recovery,
    next_placement,
    recovery_strategy,
    register_recovery,
)
from holdfast.engine.compute.placement import MOST_LOST_MACHINES, Counts
from holdfast.engine.config.compute import Placement
from holdfast.engine.config.models import Topology, TrainingJob
from holdfast.errors import ConfigError, UnknownName

SPOT = Placement(machine="small", spot=True, price_per_hour=0.3)
BIG_SPOT = Placement(machine="big", spot=True, price_per_hour=0.9)
STAYS = Placement(machine="small", price_per_hour=1.0)
ELSEWHERE = Placement(site="site-b", machine="other")
ALL = (SPOT, BIG_SPOT, STAYS, ELSEWHERE)
STRATEGIES = ("next-placement", "same-placement-first", "on-demand-after-preemption")


def job(recovery: str = "next-placement", placements: tuple[Placement, ...] = ALL) -> TrainingJob:
    return TrainingJob(
        dataset="prices",
        model="model",
        command=("{python}",),
        steps=10,
        checkpoint_every_steps=2,
        placements=placements,
        recovery=recovery,
    )


def after(recovery: str, *history: tuple[Placement, JobState], **more: Any) -> Any:
    return next_placement(job(recovery), "site-a", [Attempt(*one) for one in history], **more)


def where(decision: Any) -> Placement:
    assert isinstance(decision, RunAt), decision
    return decision.placement


LOST, PREEMPTED, FULL = JobState.LOST, JobState.PREEMPTED, JobState.NO_CAPACITY


@pytest.mark.parametrize("recovery", STRATEGIES)
def test_the_first_attempt_is_at_the_first_placement(recovery: str) -> None:
    assert where(after(recovery)) == SPOT


@pytest.mark.parametrize("recovery", STRATEGIES)
def test_a_placement_without_room_is_not_asked_again_before_one_ran(recovery: str) -> None:
    assert where(after(recovery, (SPOT, FULL))) == BIG_SPOT
    assert where(after(recovery, (SPOT, FULL), (BIG_SPOT, FULL))) == STAYS


@pytest.mark.parametrize("recovery", STRATEGIES)
def test_no_room_anywhere_at_the_site_is_degraded_and_tells_what_was_tried(recovery: str) -> None:
    decision = after(recovery, (SPOT, FULL), (BIG_SPOT, FULL), (STAYS, FULL))
    assert isinstance(decision, Degraded)
    assert decision.tried == (SPOT, BIG_SPOT, STAYS)
    assert decision.counts == Counts(user_errors=0, lost_machines=0, without_capacity=3)
    assert "none of the 3 placements at site-a" in decision.reason


@pytest.mark.parametrize("recovery", STRATEGIES)
def test_room_is_asked_for_again_everywhere_once_a_machine_ran(recovery: str) -> None:
    history = [(SPOT, FULL), (BIG_SPOT, FULL), (STAYS, LOST)]
    tried = []
    while isinstance(decision := after(recovery, *history), RunAt):
        tried.append(decision.placement)
        history.append((decision.placement, FULL))
    assert sorted(tried, key=ALL.index) == [SPOT, BIG_SPOT, STAYS]


@pytest.mark.parametrize("recovery", STRATEGIES)
def test_a_trainers_own_fault_is_never_tried_elsewhere(recovery: str) -> None:
    decision = after(recovery, (SPOT, LOST), (BIG_SPOT, JobState.FAILED))
    assert isinstance(decision, GiveUp)
    assert decision.counts == Counts(user_errors=1, lost_machines=1, without_capacity=0)


@pytest.mark.parametrize("state", [JobState.SUCCEEDED, JobState.FENCED, JobState.STOPPED])
def test_a_job_that_ended_as_it_should_gets_no_other_machine(state: JobState) -> None:
    assert isinstance(after("next-placement", (SPOT, state)), GiveUp)


@pytest.mark.parametrize("state", [JobState.RUNNING, JobState.PENDING])
def test_a_job_that_may_still_write_gets_no_second_machine(state: JobState) -> None:
    with pytest.raises(ComputeError, match="has not ended"):
        after("next-placement", (SPOT, state))


def test_next_placement_leaves_the_lost_one_and_comes_round_to_it_last() -> None:
    assert where(after("next-placement", (BIG_SPOT, LOST))) == STAYS
    assert where(after("next-placement", (STAYS, PREEMPTED))) == SPOT
    assert where(after("next-placement", (BIG_SPOT, LOST), (STAYS, FULL))) == SPOT
    assert where(after("next-placement", (BIG_SPOT, LOST), (STAYS, FULL), (SPOT, FULL))) == BIG_SPOT


def test_same_placement_first_goes_back_and_then_in_order() -> None:
    assert where(after("same-placement-first", (BIG_SPOT, LOST))) == BIG_SPOT
    assert where(after("same-placement-first", (BIG_SPOT, LOST), (BIG_SPOT, FULL))) == SPOT


def test_on_demand_after_preemption_takes_no_spot_once_it_was_bitten() -> None:
    recovery = "on-demand-after-preemption"
    assert where(after(recovery, (SPOT, LOST))) == BIG_SPOT, "a lost machine is no preemption"
    assert where(after(recovery, (SPOT, PREEMPTED))) == STAYS
    assert where(after(recovery, (SPOT, PREEMPTED), (STAYS, LOST))) == STAYS
    decision = after(recovery, (SPOT, PREEMPTED), (STAYS, FULL))
    assert isinstance(decision, Degraded)
    assert decision.tried == (STAYS,)


def test_a_budget_of_lost_machines_ends_it_and_missing_room_does_not_count_against_it() -> None:
    lost = [(SPOT, LOST)] * MOST_LOST_MACHINES
    assert isinstance(after("next-placement", *lost, (BIG_SPOT, FULL)), RunAt)
    assert isinstance(after("next-placement", *lost, (BIG_SPOT, PREEMPTED)), GiveUp)
    assert isinstance(after("next-placement", (SPOT, LOST), most_lost_machines=0), GiveUp)


def test_placements_are_those_of_the_active_site() -> None:
    assert allowed_placements(job(), "site-a") == (SPOT, BIG_SPOT, STAYS)
    assert allowed_placements(job(), "site-b") == ALL
    assert allowed_placements(job(placements=()), "site-a") == (Placement(),)
    decision = next_placement(job(placements=(ELSEWHERE,)), "site-a", [])
    assert isinstance(decision, Degraded)
    assert "no placement at site-a" in decision.reason


def test_an_unknown_strategy_is_named_with_those_there_are() -> None:
    with pytest.raises(UnknownName, match="next-placement or on-demand-after-preemption or same-placement-first"):
        next_placement(job("hope"), "site-a", [])


def test_a_strategy_that_cannot_rank_or_takes_anothers_name_is_refused_when_it_is_imported() -> None:
    with pytest.raises(ConfigError, match="no `ranked`"):
        register_recovery("broken")(type("Broken", (), {}))
    with pytest.raises(ConfigError, match="is NextPlacement"):
        register_recovery("next-placement")(type("Other", (), {"ranked": lambda self, placements, history: placements}))
    assert type(recovery_strategy("next-placement")).__name__ == "NextPlacement"


def topology(training: TrainingJob) -> Topology:
    made: Topology = Topology.model_construct(
        sites={"site-a": object(), "site-b": object()}, training={"job": training}, groups={}
    )
    made._path = Path("holdfast.yaml")
    return made


def test_a_strategy_that_could_go_nowhere_is_refused_before_anything_runs() -> None:
    with pytest.raises(ConfigError, match=r"training\.job\.recovery.*without spot"):
        check_recovery(topology(job("on-demand-after-preemption", (SPOT, BIG_SPOT))), "job")
    check_recovery(topology(job("on-demand-after-preemption", (SPOT, STAYS))), "job")
    for recovery in STRATEGIES:
        check_recovery(topology(job(recovery, ())), "job")


def test_a_placement_at_an_unknown_site_is_named() -> None:
    with pytest.raises(UnknownName, match=r"placements\.1.*site-a or site-b.*site-c"):
        check_recovery(topology(job(placements=(SPOT, Placement(site="site-c")))), "job")
