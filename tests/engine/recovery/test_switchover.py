"""A switchover loses nothing: writers stop, everything comes over, then the epoch moves."""

from __future__ import annotations

import pytest

from holdfast.engine.checkpoint import elect
from holdfast.engine.compute.interface import JobState
from holdfast.engine.health.interface import Verdict
from holdfast.engine.recovery import GateClosed, NeedsHuman, Plan, new_plan, run_plan
from world import AWS, GCP, GROUP, RUN, World, make_world


@pytest.fixture
def world() -> World:
    made = make_world()
    made.senses.verdicts = Verdict.HEALTHY
    return made


def plan_of(world: World) -> Plan:
    return new_plan(world, GROUP, verb="switchover", reason="test", plan_id="s1")


def test_the_last_checkpoint_of_the_old_site_is_where_the_new_one_goes_on(world: World) -> None:
    world.checkpoint(AWS, 130, 1)  # not replicated yet
    result = run_plan(world, plan_of(world), senses=world.senses, approved_by="ada")
    assert result.complete
    assert world.backends[AWS].jobs[f"{RUN}.e1"].state is JobState.STOPPED
    assert elect(world.bare(GCP), RUN, epoch=2).step == 130


def test_it_is_always_a_persons_choice(world: World) -> None:
    with pytest.raises(NeedsHuman, match="a switchover is a person's choice"):
        run_plan(world, plan_of(world), senses=world.senses)


def test_a_source_that_is_down_cannot_be_switched_over(world: World) -> None:
    world.senses.verdicts = Verdict.DOWN
    with pytest.raises(GateClosed, match="needs it alive"):
        run_plan(world, plan_of(world), senses=world.senses, approved_by="ada")
    state = world.epochs.read(GROUP)
    assert state is not None
    assert (state.epoch, state.operation) == (1, None)


def test_there_and_back_again(world: World) -> None:
    run_plan(world, plan_of(world), senses=world.senses, approved_by="ada")
    back = new_plan(world, GROUP, verb="switchover", reason="back", plan_id="s2")
    assert (back.source, back.target, back.epoch) == (GCP, AWS, 3)
    assert run_plan(world, back, senses=world.senses, approved_by="ada").complete
    assert elect(world.bare(AWS), RUN, epoch=3).step >= 100
