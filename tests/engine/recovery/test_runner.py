"""A plan ends the same wherever its runner died, whoever resumes it, and however many run it at once."""

from __future__ import annotations

import contextlib
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from holdfast.engine.authority import OperationInProgress
from holdfast.engine.checkpoint import NothingSelectable, elect, replicate_checkpoint
from holdfast.engine.checkpoint.collect import collect
from holdfast.engine.checkpoint.format import blob_key
from holdfast.engine.checkpoint.guard import AlwaysGranted
from holdfast.engine.checkpoint.retention import KeepPolicy
from holdfast.engine.health.interface import Verdict
from holdfast.engine.recovery import (
    GateClosed,
    NeedsHuman,
    PastNoReturn,
    Plan,
    PlanSuperseded,
    WrongAnswer,
    abort_plan,
    load_plan,
    new_plan,
    run_plan,
)
from holdfast.engine.recovery.plan import STEPS
from holdfast.engine.recovery.points import RecoveryPoints
from holdfast.engine.recovery.start_training import start_run
from holdfast.engine.recovery.steps import fence
from holdfast.engine.snapshot import latest
from holdfast.errors import ConfigError, UnknownName
from world import AWS, DATASET, GCP, GROUP, JOB, MODEL, RUN, Killed, World, make_world


@pytest.fixture
def world() -> World:
    made = make_world()
    made.board.cut.add(AWS)
    return made


def plan_of(world: World, plan_id: str = "p1") -> Plan:
    return new_plan(world, GROUP, reason="test", plan_id=plan_id)


def assert_failed_over(world: World) -> None:
    state = world.epochs.read(GROUP)
    assert state is not None
    assert (state.epoch, state.active_site, state.operation) == (2, GCP, None)
    assert world.traffic_record.state is not None
    assert (world.traffic_record.state.site, world.traffic_record.state.epoch) == (GCP, 2)
    assert world.traffic_record.switches == 1
    assert world.backends[GCP].submitted == 1
    store = world.bare(GCP)
    for subject in (DATASET, MODEL):
        assert latest(store, subject, epoch=2) is not None
    assert elect(store, RUN, epoch=2).step == 100


def test_a_failover_makes_the_standby_answer_in_the_new_epoch(world: World) -> None:
    result = run_plan(world, plan_of(world), senses=world.senses)
    assert result.complete
    assert [r.step for r in result.records] == list(STEPS["failover"])
    assert_failed_over(world)
    verified = result.record("verify")
    assert verified is not None
    assert verified.evidence["services"][0]["answers_equal"] is True


def test_the_promotion_waits_out_the_fence_after_the_commit(world: World) -> None:
    result = run_plan(world, plan_of(world), senses=world.senses)
    fence = result.record("fence")
    assert fence is not None
    assert fence.evidence["waited_seconds"] >= 2.25


@pytest.mark.parametrize("gone", ["its manifest", "its blob"])
def test_a_checkpoint_that_the_old_writer_retired_during_the_fence_is_not_what_the_epoch_forks_from(
    world: World, monkeypatch: pytest.MonkeyPatch, gone: str
) -> None:
    """Its lease is still good then, and it keeps the newest at the standby; a fork of what is gone loses the run."""
    world.training_ends = False
    there, ahead, met = world.bare(GCP), fence.find_points, []

    def find_points(*arguments: Any) -> RecoveryPoints:
        points = ahead(*arguments)
        elected = points.runs[0].election.manifest
        assert elected is not None
        later = world.checkpoint(AWS, 200, 1, parent=elected)
        replicate_checkpoint(world.bare(AWS), there, RUN, later, site=GCP, clock=world.clock)
        if gone == "its manifest":
            last_one, guard = KeepPolicy(last=1), AlwaysGranted()
            done = collect(there, RUN, last_one, epoch=1, guard=guard, clock=world.clock, grace_seconds=60.0, site=GCP)
            assert [one.manifest for one in done.choice.retired] == [elected]
        else:
            there.delete(blob_key(RUN, elected.model_digest))
        met.append(elected.step)
        return points

    monkeypatch.setattr(fence, "find_points", find_points)
    result = run_plan(world, plan_of(world), senses=world.senses)
    promoted = result.record("promote")
    assert promoted is not None
    assert met == [100]
    assert promoted.evidence["runs"][0]["step"] == 200
    assert elect(there, RUN, epoch=2, site=GCP).step == 200
    assert result.complete


def test_a_run_whose_checkpoints_are_gone_is_not_begun_anew_and_keeps_no_service_from_moving(world: World) -> None:
    world.training_ends = False
    there, plan = world.bare(GCP), plan_of(world)
    run_plan(world, plan, only=STEPS["failover"][:-1], senses=world.senses)
    elected = elect(there, RUN, epoch=2).manifest
    assert elected is not None
    there.delete(elected.key)
    result = run_plan(world, plan, senses=world.senses)
    resumed = result.record("resume_training")
    assert result.complete
    assert resumed is not None
    assert "nothing of it can be resumed" in resumed.evidence["jobs"][0]["detail"]
    assert world.backends[GCP].submitted == 0
    state = world.epochs.read(GROUP)
    assert state is not None
    with pytest.raises(NothingSelectable):
        start_run(world, GROUP, JOB, run=RUN, state=state)
    assert world.backends[GCP].submitted == 0

    world.board.cut.clear()
    world.senses.verdicts = Verdict.HEALTHY
    back = new_plan(world, GROUP, reason="it has the run", plan_id="p2", verb="switchover", target=AWS)
    assert run_plan(world, back, senses=world.senses, approved_by="a person").complete
    assert elect(world.bare(AWS), RUN, epoch=3, site=AWS).step == elected.step


def test_a_finished_plan_run_again_does_nothing(world: World) -> None:
    plan = plan_of(world)
    first = run_plan(world, plan, senses=world.senses)
    again = run_plan(world, plan, senses=world.senses)
    assert again.records == first.records
    assert_failed_over(world)


@pytest.mark.parametrize("step", STEPS["failover"])
def test_a_plan_stopped_after_any_step_is_finished_by_another_runner(world: World, step: str) -> None:
    plan = plan_of(world)
    upto = STEPS["failover"][: STEPS["failover"].index(step) + 1]
    run_plan(world, plan, only=upto, senses=world.senses)
    world.holder = "another"
    assert run_plan(world, load_plan(world, GROUP, plan.plan_id), senses=world.senses).complete
    assert_failed_over(world)


def operations_of_a_whole_run() -> int:
    world = make_world()
    world.board.cut.add(AWS)
    plan = plan_of(world)
    world.board.operations = 0
    run_plan(world, plan, senses=world.senses)
    return world.board.operations


def test_a_runner_killed_at_any_store_operation_is_finished_by_another() -> None:
    total = operations_of_a_whole_run()
    assert total > 30
    for kill_at in range(1, total + 1):
        world = make_world()
        world.board.cut.add(AWS)
        world.training_ends = False  # a runner that finds the job looks at it
        plan = plan_of(world)
        world.board.operations, world.board.kill_at = 0, kill_at
        with contextlib.suppress(Killed):
            run_plan(world, plan, senses=world.senses)
        world.board.kill_at = None
        world.holder = "another"
        assert run_plan(world, plan, senses=world.senses).complete, f"killed at operation {kill_at}"
        assert_failed_over(world)


def test_two_runners_of_one_plan_at_once_end_the_same(world: World) -> None:
    world.training_ends = False
    plan = plan_of(world)
    with ThreadPoolExecutor(2) as pool:
        results = [pool.submit(run_plan, world, plan, senses=world.senses) for _ in range(2)]
        first, second = (r.result() for r in results)
    assert first.complete
    assert second.complete
    assert_failed_over(world)
    assert run_plan(world, plan, senses=world.senses).complete


def test_without_a_verdict_of_down_a_person_must_decide_and_nothing_changed(world: World) -> None:
    world.senses.verdicts = Verdict.SUSPECT
    with pytest.raises(NeedsHuman, match="suspect"):
        run_plan(world, plan_of(world), senses=world.senses)
    state = world.epochs.read(GROUP)
    assert state is not None
    assert (state.epoch, state.operation) == (1, None)
    assert world.traffic_record.switches == 0


def test_a_persons_approval_is_recorded_by_name(world: World) -> None:
    world.senses.verdicts = Verdict.SUSPECT
    result = run_plan(world, plan_of(world), senses=world.senses, approved_by="ada")
    decided = result.record("decide")
    assert decided is not None
    assert (decided.evidence["approved_by"], decided.evidence["automatic"]) == ("ada", False)


def test_replicas_older_than_the_objective_need_a_person(world: World) -> None:
    world.clock.advance(world.topology.group(GROUP).objectives.rpo_seconds + 10)
    with pytest.raises(NeedsHuman, match="behind"):
        run_plan(world, plan_of(world), senses=world.senses)


def test_a_group_whose_policy_is_approval_is_never_decided_by_rules(world: World) -> None:
    group = world.topology.groups[GROUP].model_copy(update={"decision": "approval"})
    world.topology.groups[GROUP] = group
    with pytest.raises(NeedsHuman, match="policy"):
        run_plan(world, plan_of(world), senses=world.senses)


def test_a_plan_is_given_up_freely_before_its_epoch_is_committed(world: World) -> None:
    plan = plan_of(world)
    run_plan(world, plan, only=("detect",), senses=world.senses)
    abort_plan(world, plan, by="ada", reason="false alarm")
    with pytest.raises(GateClosed, match="given up"):
        run_plan(world, plan, senses=world.senses)
    assert world.epochs.read(GROUP).epoch == 1  # type: ignore[union-attr]  # initialised above


def test_after_the_commit_a_plan_only_rolls_forward(world: World) -> None:
    plan = plan_of(world)
    run_plan(world, plan, only=("detect", "decide", "commit_epoch"), senses=world.senses)
    with pytest.raises(PastNoReturn):
        abort_plan(world, plan, by="ada", reason="too late")
    assert run_plan(world, plan, senses=world.senses).complete
    assert_failed_over(world)


def test_a_plan_of_a_past_epoch_is_superseded(world: World) -> None:
    old, new = plan_of(world, "old"), plan_of(world, "new")
    run_plan(world, new, senses=world.senses)
    with pytest.raises(PlanSuperseded):
        run_plan(world, old, senses=world.senses)


def test_a_group_that_another_plan_holds_is_refused_and_unchanged(world: World) -> None:
    first, second = plan_of(world, "first"), plan_of(world, "second")
    run_plan(world, first, only=("detect",), senses=world.senses)
    before = sorted(i.key for i in world.bare(GCP).list(""))
    with pytest.raises(OperationInProgress):
        run_plan(world, second, senses=world.senses)
    assert sorted(i.key for i in world.bare(GCP).list("")) == before


def test_a_failover_away_from_the_site_that_hosts_the_zone_is_refused(world: World) -> None:
    world.board.cut.clear()
    world.epochs.advance(GROUP, expected_epoch=1, active_site=GCP, plan_id="x", reason="test")
    with pytest.raises(GateClosed, match="zone is hosted there"):
        plan_of(world)


def test_a_step_cannot_run_before_the_ones_it_stands_on(world: World) -> None:
    with pytest.raises(GateClosed, match="detect, decide"):
        run_plan(world, plan_of(world), only=("commit_epoch",), senses=world.senses)


def test_wrong_names_are_refused_with_what_is_known(world: World) -> None:
    with pytest.raises(UnknownName, match="market-risk"):
        new_plan(world, "nope", reason="test")
    with pytest.raises(UnknownName, match="gcp-europe-west1"):
        new_plan(world, GROUP, target="nope", reason="test")
    with pytest.raises(ConfigError, match="cannot become active"):
        new_plan(world, GROUP, target="azure-westeurope", reason="test")
    with pytest.raises(UnknownName, match="unknown step"):
        run_plan(world, plan_of(world), only=("fly",), senses=world.senses)


def test_a_service_that_lies_is_not_verified(world: World) -> None:
    world.senses.lies = (1.0, 2.0, 3.0)
    plan = plan_of(world)
    with pytest.raises(WrongAnswer, match="other predictions"):
        run_plan(world, plan, senses=world.senses)
    world.senses.lies = None
    assert run_plan(world, plan, senses=world.senses).complete
