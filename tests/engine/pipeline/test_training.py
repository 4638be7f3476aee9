"""Training while the group moves: what a retry can mend is told apart from what it cannot."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, cast

import pytest

from holdfast.engine.authority import Operation
from holdfast.engine.authority.interface import OperationKind
from holdfast.engine.compute import ComputeUnavailable, JobHandle, JobSpec, JobState, JobStatus
from holdfast.engine.config.compute import Placement
from holdfast.engine.pipeline import TrainingFailed, TrainingLost, start_training, training_outcome, training_status
from holdfast.engine.recovery import new_plan, run_plan
from holdfast.engine.recovery.start_training import TrainingMustWait, start_run
from holdfast.engine.recovery.subjects import runs_of
from holdfast.engine.runtime import Runtime
from holdfast.errors import ConfigError
from world import AWS, GCP, GROUP, JOB, RUN, World, make_world


@pytest.fixture
def world() -> World:
    return make_world()


def as_runtime(world: World) -> Runtime:
    return cast("Runtime", world)


def hold(world: World, kind: OperationKind, *, seconds: float = 600) -> None:
    now = world.clock.now()
    world.epochs.claim(GROUP, Operation("p1", kind, "test", now, now + timedelta(seconds=seconds)))


def outcome(world: World, state: JobState, *, epoch: int | None = 1) -> Any:
    return training_outcome(as_runtime(world), GROUP, JOB, run=RUN, status=JobStatus(state), epoch=epoch)


@pytest.mark.parametrize("run", [RUN, f"{RUN}.20270101T000000000000"])
def test_between_the_commit_and_the_promotion_a_start_is_asked_to_wait_and_writes_nothing(
    world: World, run: str
) -> None:
    world.epochs.advance(GROUP, expected_epoch=1, active_site=GCP, plan_id="p1", reason="test")
    before = runs_of(world.bare(GCP), GROUP, JOB)
    with pytest.raises(TrainingMustWait, match="epoch 2") as refused:
        start_training(as_runtime(world), GROUP, JOB, run=run)
    assert refused.value.transient
    assert runs_of(world.bare(GCP), GROUP, JOB) == before
    assert world.backends[GCP].submitted == 0


def test_a_run_that_waited_is_found_where_the_failover_resumed_it(world: World) -> None:
    world.board.cut.add(AWS)
    assert run_plan(world, new_plan(world, GROUP, reason="test"), senses=world.senses).complete
    found = start_training(as_runtime(world), GROUP, JOB, run=RUN)
    assert (found.epoch, found.site) == (2, GCP)
    assert world.backends[GCP].submitted == 1


@pytest.mark.parametrize("kind", ["failover", "switchover", "failback"])
def test_while_a_plan_has_the_group_no_run_is_started(world: World, kind: OperationKind) -> None:
    hold(world, kind)
    submitted = world.backends[AWS].submitted
    with pytest.raises(TrainingMustWait, match="p1") as refused:
        start_training(as_runtime(world), GROUP, JOB, run=f"{RUN}.new")
    assert refused.value.transient
    assert world.backends[AWS].submitted == submitted
    assert runs_of(world.bare(AWS), GROUP, JOB) == (RUN,)


def test_a_stopped_job_is_not_started_again_while_a_switchover_has_the_group(world: World) -> None:
    hold(world, "switchover")
    handle = world.backends[AWS].find(f"{RUN}.e1")
    assert handle is not None
    world.backends[AWS].stop(handle, grace_seconds=0)
    with pytest.raises(TrainingMustWait):
        start_training(as_runtime(world), GROUP, JOB, run=RUN)


def test_a_job_that_runs_is_found_while_a_plan_has_the_group(world: World) -> None:
    hold(world, "switchover")
    submitted = world.backends[AWS].submitted
    assert start_training(as_runtime(world), GROUP, JOB, run=RUN).handle.name == f"{RUN}.e1"
    assert world.backends[AWS].submitted == submitted


def test_a_drill_starts_its_own_run_and_a_claim_that_ran_out_holds_nothing(world: World) -> None:
    hold(world, "drill")
    state = world.epochs.read(GROUP)
    assert state is not None
    assert start_run(world, GROUP, JOB, run=f"{RUN}.drill", state=state).site == AWS
    world.epochs.release(GROUP, "p1")
    hold(world, "failover", seconds=5)
    world.clock.advance(6)
    assert start_training(as_runtime(world), GROUP, JOB, run=f"{RUN}.later").site == AWS


def test_a_job_that_failed_by_itself_has_failed(world: World) -> None:
    for epoch in (1, None):
        with pytest.raises(TrainingFailed):
            outcome(world, JobState.FAILED, epoch=epoch)


def test_a_job_that_failed_in_an_epoch_that_is_over_is_lost(world: World) -> None:
    world.epochs.advance(GROUP, expected_epoch=1, active_site=GCP, plan_id="p1", reason="test")
    with pytest.raises(TrainingLost, match="over") as lost:
        outcome(world, JobState.FAILED)
    assert lost.value.transient
    with pytest.raises(TrainingFailed):
        outcome(world, JobState.FAILED, epoch=2)


def test_a_run_that_ended_just_before_the_promotion_is_asked_for_again(world: World) -> None:
    world.epochs.advance(GROUP, expected_epoch=1, active_site=GCP, plan_id="p1", reason="test")
    with pytest.raises(TrainingLost, match="promoted"):
        outcome(world, JobState.SUCCEEDED)


def test_a_job_that_ended_well_without_a_model_has_failed(world: World) -> None:
    with pytest.raises(TrainingFailed, match="no model"):
        outcome(world, JobState.SUCCEEDED)
    with pytest.raises(TrainingLost):
        outcome(world, JobState.SUCCEEDED, epoch=None)


def test_a_job_that_is_not_the_groups_is_refused(world: World) -> None:
    group = world.topology.group(GROUP).model_copy(update={"training": ()})
    world.topology = world.topology.model_copy(update={"groups": {GROUP: group}})
    with pytest.raises(ConfigError, match="does not have this training job"):
        start_training(as_runtime(world), GROUP, JOB, run=f"{RUN}.one")


def test_a_run_may_have_end_in_its_name(world: World) -> None:
    world.training_ends = False
    run = f"{RUN}.end.1"
    assert start_training(as_runtime(world), GROUP, JOB, run=run).submitted
    assert start_training(as_runtime(world), GROUP, JOB, run=run).attempt == 1


@pytest.fixture
def written_down(world: World, monkeypatch: pytest.MonkeyPatch) -> str:
    """A run whose first machine was lost, and whose second attempt nobody could submit yet."""
    world.training_ends = False
    world.may_run_at(Placement(machine="small"), Placement(machine="big"))
    backend = world.backends[AWS]
    run = f"{RUN}.one"
    start_training(as_runtime(world), GROUP, JOB, run=run)
    backend.jobs[f"{run}.e1"] = JobStatus(JobState.LOST, detail="gone")
    submit = backend.submit

    def unavailable(spec: JobSpec) -> JobHandle:
        if spec.machine == "big":
            raise ComputeUnavailable("503", where=AWS)
        return submit(spec)

    monkeypatch.setattr(backend, "submit", unavailable)
    with pytest.raises(ComputeUnavailable):
        start_training(as_runtime(world), GROUP, JOB, run=run)
    return run


def test_an_attempt_that_is_only_written_down_is_told_as_such(world: World, written_down: str) -> None:
    found = training_status.training_status(as_runtime(world), GROUP, JOB, run=written_down)
    assert [(one.attempt, one.state) for one in found.attempts] == [(1, "lost"), (2, "not submitted")]


def test_while_a_plan_is_under_way_the_job_before_is_not_taken_for_the_newest_attempt(
    world: World, written_down: str
) -> None:
    world.backends[AWS].jobs[f"{written_down}.e1"] = JobStatus(JobState.RUNNING)  # it was only not heard of
    hold(world, "failover")
    with pytest.raises(TrainingMustWait):
        start_training(as_runtime(world), GROUP, JOB, run=written_down)
