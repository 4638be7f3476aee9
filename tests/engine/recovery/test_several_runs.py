"""A job may have several runs, and a group several jobs: a plan takes each along, and none keeps another waiting."""

from __future__ import annotations

import pytest

import world as worlds
from holdfast.engine.authority.interface import EpochState
from holdfast.engine.checkpoint import elect, replicate_checkpoint
from holdfast.engine.compute import ComputeUnavailable, JobHandle, JobNotStarted, JobSpec, JobState, JobStatus
from holdfast.engine.health.interface import Verdict
from holdfast.engine.pipeline import start_training
from holdfast.engine.recovery import PlanResult, new_plan, protect_group, run_plan
from holdfast.engine.recovery.fork_late import RunLeftBehind
from holdfast.engine.recovery.start_training import TrainingMustWait
from holdfast.engine.recovery.subjects import current_run, runs_of
from world import AWS, GCP, GROUP, JOB, RUN, World, make_world

OLD, LIVE, NEWER = f"{RUN}.one", f"{RUN}.20260801T000000000000", f"{RUN}.20260802T000000000000"


@pytest.fixture
def world() -> World:
    world = make_world()
    world.training_ends = False
    return world


def saved(
    world: World, monkeypatch: pytest.MonkeyPatch, run: str, step: int, *, replica: bool = True, job: bool = True
) -> None:
    """A run at the active site with a checkpoint, its replica at the standby, and a job that runs."""
    with monkeypatch.context() as patched:
        patched.setattr(worlds, "RUN", run)
        manifest = world.checkpoint(AWS, step, 1)
    if replica:
        replicate_checkpoint(world.bare(AWS), world.bare(GCP), run, manifest, site=GCP, clock=world.clock)
    if job:
        world.backends[AWS].submit(JobSpec(run, 1, AWS, ("train",)))
    world.clock.advance(1)


def state_of(world: World) -> EpochState:
    state = world.epochs.read(GROUP)
    assert state is not None
    return state


def fail_over(world: World) -> PlanResult:
    world.board.cut.add(AWS)
    return run_plan(world, new_plan(world, GROUP, reason="test"), senses=world.senses, approved_by="me")


def test_every_run_that_has_not_ended_goes_on(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    saved(world, monkeypatch, OLD, 250)
    saved(world, monkeypatch, LIVE, 120)
    result = fail_over(world)
    assert result.complete
    promoted, resumed = result.record("promote"), result.record("resume_training")
    assert promoted is not None
    assert resumed is not None
    assert {(one["run"], one["step"]) for one in promoted.evidence["runs"]} == {(RUN, 100), (OLD, 250), (LIVE, 120)}
    assert set(world.backends[GCP].jobs) == {f"{RUN}.e2", f"{OLD}.e2", f"{LIVE}.e2"}
    assert {one["run"] for one in resumed.evidence["jobs"] if one["handle"]} == {RUN, OLD, LIVE}
    assert not start_training(world, GROUP, JOB, run=LIVE).submitted


def test_runs_are_in_the_order_in_which_they_were_begun(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    saved(world, monkeypatch, OLD, 50, job=False)
    assert runs_of(world.bare(AWS), GROUP, JOB) == (RUN, OLD)
    later = f"{RUN}.a-name-that-sorts-first"
    saved(world, monkeypatch, later, 10, job=False)
    assert runs_of(world.bare(AWS), GROUP, JOB) == (RUN, OLD, later)
    assert current_run(world.bare(AWS), GROUP, JOB, epoch=1) == later
    start_training(world, GROUP, JOB, run=f"{RUN}.another")  # its first attempt says when; nothing is saved yet
    world.clock.advance(1)
    saved(world, monkeypatch, f"{RUN}.before", 5)
    saved(world, monkeypatch, f"{RUN}.another", 1)
    assert runs_of(world.bare(AWS), GROUP, JOB)[-2:] == (f"{RUN}.another", f"{RUN}.before")


def test_a_run_that_ended_well_is_not_trained_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    saved(world, monkeypatch, OLD, 250)
    world.publish_model(AWS, 1, b"of the old run", run=OLD, step="250")
    saved(world, monkeypatch, LIVE, 120)
    assert all(one.ok for one in protect_group(world, GROUP, state_of(world)))
    assert fail_over(world).complete
    assert set(world.backends[GCP].jobs) == {f"{RUN}.e2", f"{LIVE}.e2"}
    with pytest.raises(RunLeftBehind, match="ended well before") as refused:
        start_training(world, GROUP, JOB, run=OLD)
    assert not refused.value.transient


def test_a_run_that_failed_is_left_but_can_be_started(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is known of it when the site is lost is what the last protection saw."""
    saved(world, monkeypatch, OLD, 250)
    world.backends[AWS].jobs[f"{OLD}.e1"] = JobStatus(JobState.FAILED)
    saved(world, monkeypatch, LIVE, 120)
    assert all(one.ok for one in protect_group(world, GROUP, state_of(world)))
    promoted = fail_over(world).record("promote")
    assert promoted is not None
    assert [(one["run"], one["step"]) for one in promoted.evidence["runs_left"]] == [(OLD, 250)]
    assert f"{OLD}.e2" not in world.backends[GCP].jobs
    assert start_training(world, GROUP, JOB, run=OLD).submitted
    assert elect(world.bare(GCP), OLD, epoch=2, site=GCP).step == 250


def test_a_run_that_went_on_since_the_last_protection_is_resumed(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    saved(world, monkeypatch, OLD, 200)
    world.backends[AWS].jobs[f"{OLD}.e1"] = JobStatus(JobState.FAILED)
    saved(world, monkeypatch, LIVE, 120)
    assert all(one.ok for one in protect_group(world, GROUP, state_of(world)))
    world.clock.advance(1)
    saved(world, monkeypatch, OLD, 210)
    assert fail_over(world).complete
    assert f"{OLD}.e2" in world.backends[GCP].jobs


def test_a_run_the_plan_could_not_take_is_forked_when_it_is_asked_for(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved(world, monkeypatch, LIVE, 120)
    assert fail_over(world).complete
    world.board.cut.clear()
    saved(world, monkeypatch, OLD, 250)  # its replica came after the plan had looked
    world.clock.advance(1)
    started = start_training(world, GROUP, JOB, run=OLD)
    assert (started.site, started.epoch, started.submitted) == (GCP, 2, True)
    assert elect(world.bare(GCP), OLD, epoch=2, site=GCP).step == 250


def test_while_the_plan_has_not_promoted_nothing_is_forked_for_it(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved(world, monkeypatch, LIVE, 120)
    world.epochs.advance(GROUP, expected_epoch=1, active_site=GCP, plan_id="p1", reason="its runner died then")
    with pytest.raises(TrainingMustWait):
        start_training(world, GROUP, JOB, run=LIVE)
    assert not [info.key for info in world.bare(GCP).list(f"runs/{LIVE}/epochs/")]


def test_an_epoch_that_nobody_knows_here_is_not_guessed(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    assert fail_over(world).complete
    world.board.cut.clear()
    world.senses.verdicts = Verdict.HEALTHY
    back = new_plan(world, GROUP, verb="switchover", target=AWS, reason="back")
    assert run_plan(world, back, senses=world.senses, approved_by="me").complete
    saved(world, monkeypatch, OLD, 250)
    with pytest.raises(RunLeftBehind, match="no place in the epoch before") as refused:
        start_training(world, GROUP, JOB, run=OLD)
    assert not refused.value.transient


def test_a_switchover_stops_every_run_and_brings_it_over(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    saved(world, monkeypatch, OLD, 250, replica=False)
    saved(world, monkeypatch, LIVE, 120)
    begun = start_training(world, GROUP, JOB, run=NEWER)  # nothing of it is saved yet
    world.senses.verdicts = Verdict.HEALTHY
    plan = new_plan(world, GROUP, verb="switchover", reason="test")
    result = run_plan(world, plan, senses=world.senses, approved_by="me")
    quiesced = result.record("quiesce")
    assert result.complete
    assert quiesced is not None
    assert {one["run"] for one in quiesced.evidence["stopped"] if one["dead"]} == {RUN, OLD, LIVE, NEWER}
    assert world.backends[AWS].jobs[begun.handle.name].state is JobState.STOPPED
    assert set(world.backends[GCP].jobs) == {f"{run}.e2" for run in (RUN, OLD, LIVE, NEWER)}
    assert elect(world.bare(GCP), OLD, epoch=2, site=GCP).step == 250


def with_two_jobs(world: World, monkeypatch: pytest.MonkeyPatch) -> str:
    job = world.topology.job(JOB)
    group = world.topology.group(GROUP).model_copy(update={"training": (JOB, "other")})
    world.topology = world.topology.model_copy(update={"training": {JOB: job, "other": job}, "groups": {GROUP: group}})
    other = f"{GROUP}-other"
    saved(world, monkeypatch, other, 50)
    return other


def refuse(world: World, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    backend = world.backends[GCP]
    submit = backend.submit

    def refusing(spec: JobSpec) -> JobHandle:
        if spec.run == RUN:
            raise error
        return submit(spec)

    monkeypatch.setattr(backend, "submit", refusing)


def test_a_job_that_is_refused_keeps_no_other_one(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    other = with_two_jobs(world, monkeypatch)
    refuse(world, monkeypatch, JobNotStarted("the image is not there", where=GCP))
    result = fail_over(world)
    resumed = result.record("resume_training")
    assert result.complete
    assert resumed is not None
    (refused,) = [one for one in resumed.evidence["jobs"] if one["run"] == RUN]
    assert refused["handle"] is None
    assert "the image is not there" in refused["detail"]
    assert f"{other}.e2" in world.backends[GCP].jobs
    assert state_of(world).operation is None


def test_a_service_that_does_not_answer_keeps_no_other_job(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    other = with_two_jobs(world, monkeypatch)
    refuse(world, monkeypatch, ComputeUnavailable("503", where=GCP))
    with pytest.raises(ComputeUnavailable):
        fail_over(world)
    assert f"{other}.e2" in world.backends[GCP].jobs
