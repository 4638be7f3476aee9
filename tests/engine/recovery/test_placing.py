"""A run is placed by its history in the bucket: in order, once, by the strategy, and never a second writer."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from engine.checkpoint.worlds import write
from holdfast.engine.compute import ComputeUnavailable, JobHandle, JobSpec, JobState, JobStatus
from holdfast.engine.compute.attempts import Attempts, AttemptUnreadable
from holdfast.engine.compute.placement import MOST_LOST_MACHINES
from holdfast.engine.config.compute import Placement
from holdfast.engine.config.models import NoCapacityPolicy
from holdfast.engine.objectstore.interface import OVERWRITE
from holdfast.engine.pipeline import start_training
from holdfast.engine.recovery import new_plan, run_plan
from holdfast.engine.recovery.placing import (
    LONGEST_PAUSE_SECONDS,
    Answer,
    GivenUp,
    NoRoom,
    Placed,
    Wanted,
    pause_seconds,
    place,
)
from holdfast.engine.recovery.start_training import TrainingGivenUp
from world import AWS, GCP, GROUP, JOB, RUN, FakeBackend, Killed, World, make_world

SPOT, STAYS = Placement(machine="small", spot=True), Placement(machine="big")
NEW = f"{RUN}.one"
WANTED = Wanted(GROUP, JOB, NEW, 1, AWS, None)


@pytest.fixture
def world() -> World:
    made = make_world()
    made.may_run_at(SPOT, STAYS)
    made.backends[AWS].asked.clear()
    return made


def ask(world: World, wanted: Wanted = WANTED, **more: Any) -> Answer:
    return place(world, wanted, **more)


def placed(world: World, wanted: Wanted = WANTED, **more: Any) -> Placed:
    found = ask(world, wanted, **more)
    assert isinstance(found, Placed), found
    return found


def ends(world: World, state: JobState, *, wanted: Wanted = WANTED, **facts: Any) -> None:
    world.backends[wanted.site].jobs[f"{wanted.run}.e{wanted.epoch}"] = JobStatus(state, **facts)


def asked(world: World) -> list[str]:
    return world.backends[AWS].asked


def records(world: World, run: str = NEW, epoch: int = 1) -> list[str]:
    return sorted(one.key.rpartition("/")[2] for one in world.bare(AWS).list(f"runs/{run}/attempts/{epoch:06d}."))


# -- where, and how often ---------------------------------------------------------------------------------------------


def test_a_placement_without_a_machine_is_followed_by_the_next(world: World) -> None:
    world.backends[AWS].full = {"small"}
    told: list[str] = []
    found = placed(world, say=told.append)
    assert (found.attempt, found.placement, found.submitted) == (2, STAYS, True)
    assert told[0] == "attempt 1: no machine at small, spot: no small left"
    assert told[1].startswith("attempt 2: submitted at big")
    again = placed(world)
    assert (again.handle, again.attempt, again.submitted) == (found.handle, 2, False)
    assert records(world) == ["000001.000001.end.json", "000001.000001.json", "000001.000002.json"]


def test_the_strategy_counts_every_attempt_of_the_epoch_whoever_asks(world: World) -> None:
    world.may_run_at(SPOT, STAYS, recovery="on-demand-after-preemption")
    seen = []
    for state in (JobState.LOST, JobState.PREEMPTED, JobState.LOST, JobState.LOST):
        world.holder = f"starter {state}"
        seen.append(placed(world).placement.machine)
        ends(world, state)
    assert seen == ["small", "big", "big", "big"]
    assert placed(world).attempt == 5


def test_a_failure_of_its_own_is_never_tried_elsewhere(world: World) -> None:
    placed(world)
    ends(world, JobState.FAILED, detail="exit code 3")
    for _ in range(3):
        found = ask(world)
        assert isinstance(found, GivenUp)
        assert (found.attempt, found.counts.user_errors, found.detail) == (1, 1, "exit code 3")
    assert asked(world) == ["small, spot"]


def test_machines_are_lost_up_to_a_budget_and_a_person_starts_it_anew(world: World) -> None:
    for _ in range(MOST_LOST_MACHINES + 1):
        placed(world)
        ends(world, JobState.LOST)
    found = ask(world)
    assert isinstance(found, GivenUp)
    assert found.counts.lost_machines == MOST_LOST_MACHINES + 1
    assert len(asked(world)) == MOST_LOST_MACHINES + 1
    assert isinstance(ask(world, again_after=found.attempt - 1), GivenUp)  # he knows of an older end than this one
    anew = placed(world, again_after=found.attempt)
    assert (anew.attempt, anew.placement) == (MOST_LOST_MACHINES + 2, SPOT)
    for _ in range(MOST_LOST_MACHINES):
        ends(world, JobState.LOST)
        placed(world, again_after=found.attempt)
    ends(world, JobState.LOST)
    assert isinstance(ask(world, again_after=found.attempt), GivenUp)


def test_what_was_stopped_on_request_is_started_again_on_request(world: World) -> None:
    first = placed(world)
    world.backends[AWS].stop(first.handle, grace_seconds=0)
    second = placed(world)
    assert (second.attempt, second.placement) == (2, SPOT)
    assert "ended as stopped" in second.reason


def test_what_ended_well_is_found_and_not_started(world: World) -> None:
    placed(world)
    ends(world, JobState.SUCCEEDED)
    world.publish_model(AWS, 1, b"its model", run=NEW)
    for again_after in (None, 1):
        found = placed(world, again_after=again_after)
        assert (found.attempt, found.submitted) == (1, False)


def test_what_ended_well_without_a_model_is_started_by_who_knows_of_it(world: World) -> None:
    placed(world)
    ends(world, JobState.SUCCEEDED)
    assert not placed(world).submitted
    again = placed(world, again_after=1)
    assert (again.attempt, again.submitted) == (2, True)


def test_a_job_that_took_the_current_epoch_for_over_is_started_again(world: World) -> None:
    placed(world)
    ends(world, JobState.FENCED)
    again = placed(world)
    assert (again.attempt, again.submitted) == (2, True)


def test_no_machine_anywhere_is_asked_again_ever_more_seldom(world: World) -> None:
    world.backends[AWS].full = {"small", "big"}
    for number in range(1, 4):
        found = ask(world)
        assert isinstance(found, NoRoom)
        assert found.tried == ((SPOT, "no small left"), (STAYS, "no big left"))
        assert found.counts.without_capacity == 2
        assert found.ask_again_at == world.clock.now() + timedelta(seconds=pause_seconds(number))
        world.clock.advance(pause_seconds(number) - 1)
        assert isinstance(ask(world), NoRoom)
        assert len(asked(world)) == 2 * number
        world.clock.advance(1)
    world.backends[AWS].full = {"small"}
    found_at = placed(world)
    assert (found_at.attempt, found_at.placement) == (8, STAYS)
    newest = Attempts(world.bare(AWS), NEW, 1, holder="test").newest()
    assert newest is not None
    assert (newest.round, newest.left_out, len(newest.before)) == (4, 6, 1)
    assert pause_seconds(40) == LONGEST_PAUSE_SECONDS


def test_a_machine_lost_after_a_long_wait_for_one_still_counts(world: World) -> None:
    placed(world)
    ends(world, JobState.PREEMPTED)
    world.may_run_at(SPOT, STAYS, recovery="on-demand-after-preemption")
    world.backends[AWS].full = {"big"}
    for number in range(1, 4):
        assert isinstance(ask(world), NoRoom)
        world.clock.advance(pause_seconds(number))
    world.backends[AWS].full = set()
    assert placed(world).placement == STAYS
    assert set(asked(world)[1:]) == {"big"}


def test_a_site_without_a_placement_is_told_and_waiting_is_no_help(world: World) -> None:
    world.may_run_at(Placement(site=GCP, machine="other"))
    found = ask(world)
    assert isinstance(found, NoRoom)
    assert (found.ask_again_at, found.attempt) == (None, 0)
    assert "no placement at aws-eu-west-1" in found.reason
    assert asked(world) == []


def test_an_older_epochs_history_does_not_count(world: World) -> None:
    for _ in range(MOST_LOST_MACHINES + 1):
        placed(world)
        ends(world, JobState.PREEMPTED)
    later = Wanted(GROUP, JOB, NEW, 2, AWS, None)
    found = placed(world, later)
    assert (found.attempt, found.placement, found.handle.name) == (1, SPOT, f"{NEW}.e2")


def test_a_job_from_before_attempts_were_written_down_is_found(world: World) -> None:
    found = placed(world, Wanted(GROUP, JOB, RUN, 1, AWS, None))
    assert (found.attempt, found.submitted, found.placement) == (1, False, Placement())
    assert "before its attempts were written down" in found.reason
    assert asked(world) == []


def test_a_damaged_record_starts_nothing(world: World) -> None:
    placed(world)
    key = f"runs/{NEW}/attempts/000001.000001.json"
    world.bare(AWS).put(key, b'{"format": "holdfast.attempt/2"}', mode=OVERWRITE)
    with pytest.raises(AttemptUnreadable, match=r"holdfast\.attempt/1"):
        ask(world)
    assert world.backends[AWS].submitted == 2  # the world's own run, and this one


# -- a job that waits for a machine -----------------------------------------------------------------------------------


def test_a_job_that_waits_longer_than_its_placement_allows_is_taken_away(world: World) -> None:
    patient = Placement(machine="small", spot=True, wait_seconds=300)
    world.may_run_at(patient, STAYS)
    first = placed(world)
    ends(world, JobState.PENDING, detail="0/3 nodes are available")
    world.clock.advance(299)
    assert placed(world).handle == first.handle
    world.clock.advance(1)
    second = placed(world)
    assert (second.attempt, second.placement) == (2, STAYS)
    end = Attempts(world.bare(AWS), NEW, 1, holder="test").end_of(1)
    assert end is not None
    assert (end.state, end.detail) == (JobState.NO_CAPACITY, "no machine within 300 s: 0/3 nodes are available")


def test_the_wait_for_a_machine_counts_from_when_the_service_took_the_job(world: World) -> None:
    world.may_run_at(Placement(machine="small", wait_seconds=60), STAYS)
    aws = world.backends[AWS]
    submit = aws.submit

    def down(_spec: JobSpec) -> JobHandle:
        raise ComputeUnavailable("503", where=AWS)

    aws.submit = down  # type: ignore[method-assign]
    with pytest.raises(ComputeUnavailable):
        ask(world)
    aws.submit = submit  # type: ignore[method-assign]
    world.clock.advance(300)
    first = placed(world)
    assert first.move_on_at == world.clock.now() + timedelta(seconds=60)
    ends(world, JobState.PENDING)
    world.clock.advance(59)
    again = placed(world)
    assert (again.handle, again.move_on_at) == (first.handle, first.move_on_at)
    world.clock.advance(1)
    assert placed(world).placement == STAYS


def test_a_starter_that_died_after_the_submit_leaves_a_wait_that_counts_from_the_next_look(world: World) -> None:
    world.may_run_at(Placement(machine="small", wait_seconds=60), STAYS)
    first = placed(world)
    ends(world, JobState.PENDING)
    world.bare(AWS).delete(f"runs/{NEW}/attempts/000001.000001.submitted")
    world.clock.advance(3600)
    assert placed(world).handle == first.handle
    world.clock.advance(60)
    assert placed(world).attempt == 2


def test_the_pauses_begin_anew_after_a_machine_ran(world: World) -> None:
    world.may_run_at(SPOT)
    aws = world.backends[AWS]
    aws.full = {"small"}
    pauses = []
    for _ in range(5):
        none = ask(world)
        assert isinstance(none, NoRoom)
        assert none.ask_again_at is not None
        pauses.append((none.ask_again_at - world.clock.now()).total_seconds())
        world.clock.advance(pauses[-1])
    assert pauses == [30, 60, 120, 240, 480]
    aws.full = set()
    placed(world)
    world.clock.advance(36_000)
    ends(world, JobState.PREEMPTED)
    aws.full = {"small"}
    for seconds in (30, 60):
        none = ask(world)
        assert isinstance(none, NoRoom)
        assert none.ask_again_at == world.clock.now() + timedelta(seconds=seconds)
        world.clock.advance(seconds)


def test_one_that_began_as_it_was_asked_to_leave_lost_its_machine(world: World) -> None:
    world.may_run_at(Placement(machine="small", wait_seconds=300), STAYS)
    placed(world)
    ends(world, JobState.PENDING)
    world.clock.advance(300)

    def begins(handle: JobHandle, *, grace_seconds: float) -> JobStatus:
        ends(world, JobState.STOPPED, heartbeat_at=world.clock.now())
        return world.backends[AWS].jobs[handle.name]

    world.backends[AWS].stop = begins  # type: ignore[method-assign]
    assert placed(world).attempt == 2
    end = Attempts(world.bare(AWS), NEW, 1, holder="test").end_of(1)
    assert end is not None
    assert end.state is JobState.LOST


def test_every_attempt_is_told_what_was_elected_when_it_was_written_down(world: World) -> None:
    told = "HOLDFAST_RESUME_FROM"
    specs = world.backends[AWS].specs
    start_training(world, GROUP, JOB, run=NEW)
    assert told not in specs[f"{NEW}.e1"].environment
    ends(world, JobState.LOST)
    world.clock.advance(1)
    elected = write(world.bare(AWS), 50, run=NEW, site=AWS).digest
    start_training(world, GROUP, JOB, run=NEW)
    assert specs[f"{NEW}.e1"].environment[told] == elected
    ends(world, JobState.LOST)
    # Written down is written down, whatever was saved since.
    place(world, replace(WANTED, resume_from=elected))
    specs.pop(f"{NEW}.e1")
    world.backends[AWS].jobs.pop(f"{NEW}.e1")
    write(world.bare(AWS), 60, run=NEW, site=AWS)
    start_training(world, GROUP, JOB, run=NEW)
    assert specs[f"{NEW}.e1"].environment[told] == elected


# -- never two writers ------------------------------------------------------------------------------------------------


def test_a_starter_killed_at_any_moment_leaves_a_job_that_is_submitted_once(world: World) -> None:
    world.board.operations = 0
    placed(world)
    ends(world, JobState.LOST)
    placed(world)
    total = world.board.operations
    assert total > 5
    for kill_at in range(1, total + 1):
        it = make_world()
        it.may_run_at(SPOT, STAYS)
        it.backends[AWS].asked.clear()
        it.board.operations, it.board.kill_at = 0, kill_at
        for state in (JobState.LOST, None):
            try:
                placed(it)
            except Killed:
                it.board.kill_at = None
                it.holder = "another"
                placed(it)
            if state is not None:
                ends(it, state)
        assert asked(it) == ["small, spot", "big"], f"killed at operation {kill_at}"
        assert placed(it).attempt == 2


def test_of_many_starters_at_once_one_decides_and_all_get_its_job(world: World) -> None:
    barrier = threading.Barrier(8)
    backend = Locked(world, AWS)
    world.backends[AWS] = backend

    def start(_: int) -> Placed:
        barrier.wait()
        return placed(world)

    with ThreadPoolExecutor(8) as pool:
        for state in (JobState.PREEMPTED, JobState.LOST, None):
            found = list(pool.map(start, range(8)))
            assert len({(one.attempt, one.placement, one.handle.attempt) for one in found}) == 1
            if state is not None:
                ends(world, state)
    assert backend.asked == ["small, spot", "big", "small, spot"]


class Locked(FakeBackend):
    """One submit at a time, as every real backend sees to in its own way."""

    def __init__(self, world: World, site: str) -> None:
        super().__init__(world, site)
        self._lock = threading.Lock()

    def submit(self, spec: JobSpec) -> JobHandle:
        with self._lock:
            return super().submit(spec)

    def status(self, handle: JobHandle) -> JobStatus:
        with self._lock:  # a handle means its own attempt, which ended before a later one was made
            over = handle.attempt < self.attempts.get(handle.name, 1)
            return JobStatus(JobState.LOST) if over else super().status(handle)


def test_a_slow_starter_does_not_start_a_failed_attempt_again(world: World) -> None:
    backend = world.backends[AWS]
    submit = backend.submit

    def overtaken(spec: JobSpec) -> JobHandle:
        """Between this starter's look and its submit another one submits, and the job fails."""
        backend.submit = submit  # type: ignore[method-assign]
        placed(world)
        ends(world, JobState.FAILED)
        return submit(spec)

    backend.submit = overtaken  # type: ignore[method-assign]
    placed(world)
    assert isinstance(ask(world), GivenUp)
    assert backend.asked == ["small, spot"]


# -- a plan ----------------------------------------------------------------------------------------------------------


def fail_over(world: World) -> dict[str, Any]:
    world.board.cut.add(AWS)
    world.training_ends = False
    result = run_plan(world, new_plan(world, GROUP, reason="test"), senses=world.senses)
    assert result.complete
    record = result.record("resume_training")
    assert record is not None
    (job,) = record.evidence["jobs"]
    return dict(job)


def test_a_plan_says_at_which_placement_it_resumed(world: World) -> None:
    world.backends[GCP].full = {"small"}
    job = fail_over(world)
    assert (job["attempt"], job["placement"]) == (2, {"machine": "big", "spot": False})
    assert job["handle"]["reference"] == {"attempt": 1}


@pytest.mark.parametrize(
    ("policy", "said"),
    [(NoCapacityPolicy.WAIT, "resumed later"), (NoCapacityPolicy.GO_ON, "goes on without it")],
)
def test_a_plan_ends_without_a_machine_and_says_so(world: World, policy: NoCapacityPolicy, said: str) -> None:
    world.may_run_at(SPOT, STAYS, no_capacity=policy)
    world.backends[GCP].full = {"small", "big"}
    job = fail_over(world)
    assert (job["handle"], job["placement"]) == (None, None)
    assert said in job["detail"]
    assert job["degraded"]["policy"] == policy
    assert [one["answer"] for one in job["degraded"]["tried"]] == ["no small left", "no big left"]
    state = world.epochs.read(GROUP)
    assert state is not None
    assert (state.active_site, state.operation) == (GCP, None)
    assert world.traffic_record.state is not None
    assert world.traffic_record.state.site == GCP


def test_a_group_that_fails_without_a_machine_has_served_before_its_plan_fails(world: World) -> None:
    world.may_run_at(SPOT, STAYS, no_capacity=NoCapacityPolicy.FAIL)
    world.backends[GCP].full = {"small", "big"}
    plan = new_plan(world, GROUP, reason="test")
    world.board.cut.add(AWS)
    with pytest.raises(TrainingGivenUp, match="2 placements without a machine"):
        run_plan(world, plan, senses=world.senses)
    assert world.traffic_record.state is not None
    assert world.traffic_record.state.site == GCP
    world.backends[GCP].full = set()
    world.clock.advance(pause_seconds(1))
    assert run_plan(world, plan, senses=world.senses).complete


def test_a_trainer_that_fails_by_itself_does_not_hold_a_plan_up(world: World) -> None:
    plan = new_plan(world, GROUP, reason="test")
    world.board.cut.add(AWS)
    world.training_ends = False
    steps = plan.steps[:-1]
    run_plan(world, plan, only=steps, senses=world.senses)
    at = Wanted(GROUP, JOB, RUN, 2, GCP, None)
    placed(world, at)
    ends(world, JobState.FAILED, wanted=at)
    result = run_plan(world, plan, senses=world.senses)
    record = result.record("resume_training")
    assert record is not None
    (job,) = record.evidence["jobs"]
    assert job["detail"].startswith("given up: the trainer failed by itself")
