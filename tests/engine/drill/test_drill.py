"""A drill measures, always rolls back, leaves a journal however it ends, and is green only when everything holds."""

from __future__ import annotations

import json
import os
import signal
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

import world as worlds
from holdfast.engine.authority import NoMajority, OperationInProgress
from holdfast.engine.authority.interface import Operation
from holdfast.engine.checkpoint import Fenced, elect, replicate_checkpoint
from holdfast.engine.compute.errors import ComputeUnavailable
from holdfast.engine.compute.interface import JobHandle, JobSpec, JobState, JobStatus
from holdfast.engine.config.compute import Placement
from holdfast.engine.config.models import NoCapacityPolicy
from holdfast.engine.config.residency import ResidencyRefused
from holdfast.engine.drill import SteadyStateFailed, comparison, phases, run, stale_writes, training
from holdfast.engine.drill.checkpoints import list_checkpoints
from holdfast.engine.drill.conclude import conclude, free_unrecorded
from holdfast.engine.drill.errors import FaultNotNoticed, TrainingFailed
from holdfast.engine.drill.log import DrillState, open_drill
from holdfast.engine.drill.reference import Reference, run_references
from holdfast.engine.drill.run import run_drill
from holdfast.engine.health.interface import Verdict
from holdfast.engine.objectstore import local_store
from holdfast.engine.objectstore.errors import StoreUnavailable
from holdfast.engine.recovery import Answer, GateClosed, NeedsHuman, new_plan, run_plan
from holdfast.engine.snapshot import latest, put_snapshot
from holdfast.engine.snapshot.digest import digest_of
from holdfast.errors import UnknownName
from world import AWS, GCP, GROUP, JOB, MODEL, RUN, World, make_world

FINAL = b"model at step 300"


class Faults:
    """Cuts a site of the world off."""

    description = "the test's switchboard"

    def __init__(self, world: World) -> None:
        self.world = world
        self.calls: list[tuple[str, str]] = []
        self.on_inject: Any = None

    def inject(self, site: str, mode: str, **parameters: float | str) -> None:
        self.calls.append(("inject", site))
        self.world.board.cut.add(site)
        if self.on_inject is not None:
            self.on_inject()

    def clear(self, site: str) -> None:
        self.calls.append(("clear", site))
        self.world.board.cut.discard(site)


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> World:
    made = make_world()
    made.environ["HOLDFAST_STATE"] = str(tmp_path / "state")
    reference = Reference(digest_of(FINAL), {"model.ubj": FINAL}, 1.0)
    for module in (run, comparison):
        monkeypatch.setattr(module, "run_references", lambda state, given_up=None: {RUN: reference})
    made.backends[AWS].jobs[f"{RUN}.e1"] = JobStatus(JobState.RUNNING, step=107, total_steps=300)
    return made


def drill(world: World, tmp_path: Path, faults: Faults | None = None, **more: Any) -> Any:
    return run_drill(
        world, GROUP, "site-outage", faults or Faults(world), tmp_path / "evidence", senses=world.senses, **more
    )


def written(tmp_path: Path) -> dict[str, Any]:
    document = json.loads((tmp_path / "evidence" / "journal.json").read_text())
    assert isinstance(document, dict)
    return document


def test_a_drill_that_works_is_green_and_measures_everything(world: World, tmp_path: Path) -> None:
    faults = Faults(world)
    journal = drill(world, tmp_path, faults)
    document = written(tmp_path)
    assert journal.status == "completed", document["error"]
    assert journal.green, document["verdict"]
    assert not journal.deviated
    assert faults.calls == [("inject", AWS), ("clear", AWS)]
    assert set(journal.rto_seconds) == {"from_fault", "from_detection", "from_decision", "without_approval"}
    assert all(v is not None for v in journal.rto_seconds.values())
    assert (
        journal.rto_seconds["from_fault"]
        > journal.rto_seconds["from_detection"]
        >= journal.rto_seconds["from_decision"]
    )
    assert journal.rpo["training_steps"] == 7  # 107 at the fault, 100 at the standby
    assert (journal.rpo["objects"], journal.rpo["bytes"]) == (0, 0)
    by_job = journal.model.pop("by_job")
    assert [(job["job"], job["identical"]) for job in by_job] == [(JOB, True)]
    assert journal.model == {
        "digest": digest_of(FINAL),
        "reference_digest": digest_of(FINAL),
        "identical": True,
        "reference_seconds": 1.0,
    }
    assert journal.service["answers_equal"] is True
    assert journal.epoch == {"before": 1, "after": 2}
    assert world.epochs.read(GROUP).operation is None  # type: ignore[union-attr]  # initialised


def test_stale_writes_land_and_none_is_ever_selected(world: World, tmp_path: Path) -> None:
    journal = drill(world, tmp_path)
    kinds = {p["kind"]: p for p in journal.stale_writes["probes"]}
    assert journal.stale_writes["accepted"] == 0
    assert journal.stale_writes["attempted"] >= 8
    assert kinds["model snapshot"]["outcome"] == "written, never selected"
    assert kinds["checkpoint"]["outcome"] == "written, never selected"
    landed = {m.digest for m in list_checkpoints(world.bare(GCP), RUN) if m.epoch == 1 and m.step > 300}
    assert set(kinds["checkpoint"]["written"]) <= landed  # what was looked for is what was written
    assert "refused" in kinds["traffic switch"]["outcome"]
    assert "refused" in kinds["register advance"]["outcome"]
    assert "refused" in kinds["prediction"]["outcome"]
    for site in (AWS, GCP):
        assert latest(world.bare(site), MODEL, epoch=2).labels["run"] == RUN  # type: ignore[union-attr]  # it was published
        assert elect(world.bare(site), RUN, epoch=2).step == 300


def test_a_lineage_that_selects_everything_is_caught(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def mutant(store: Any, run: str, *, epoch: int, fork: Any, passed: Any) -> Any:
        manifests = list_checkpoints(store, run)
        own_first = sorted(manifests, key=lambda m: (m.epoch, m.step), reverse=True)
        return (SimpleNamespace(manifest=m) for m in own_first)

    monkeypatch.setattr(stale_writes, "lineage", mutant)
    journal = drill(world, tmp_path)
    caught = [p for p in journal.stale_writes["probes"] if p["kind"] == "checkpoint" and p["accepted"]]
    assert {p["site"] for p in caught} == {AWS, GCP}
    assert all(p["outcome"].startswith("selected at ") for p in caught)
    assert journal.verdict.stale_writes_refused is False
    assert not journal.green


def test_an_old_service_that_does_not_answer_has_refused_nothing(world: World, tmp_path: Path) -> None:
    original = world.senses.ask_site

    def dies(rooms: Any, service: str, site: str, *, timeout_seconds: float) -> Any:
        if site == AWS and world.epochs.read(GROUP).epoch == 2:  # type: ignore[union-attr]  # initialised
            return Answer(None, None, None, None, AWS, 0.0, refused="no answer")
        return original(rooms, service, site, timeout_seconds=timeout_seconds)

    world.senses.ask_site = dies  # type: ignore[method-assign]  # the world is the test's own
    journal = drill(world, tmp_path)
    probe = next(p for p in journal.stale_writes["probes"] if p["kind"] == "prediction")
    assert probe["accepted"] is None
    assert probe["outcome"].startswith("unknown: ")
    assert journal.verdict.stale_writes_refused is None
    assert not journal.green


def test_a_refusal_in_the_old_epoch_is_asked_again_until_the_new_one_is_known(world: World, tmp_path: Path) -> None:
    original, asked = world.senses.ask_site, []

    def slow(rooms: Any, service: str, site: str, *, timeout_seconds: float) -> Any:
        if site == AWS and world.epochs.read(GROUP).epoch == 2 and len(asked) < 3:  # type: ignore[union-attr]  # initialised
            asked.append(site)
            return Answer(AWS, 1, None, None, AWS, 0.0, refused="the lease ended")
        return original(rooms, service, site, timeout_seconds=timeout_seconds)

    world.senses.ask_site = slow  # type: ignore[method-assign]  # the world is the test's own
    journal = drill(world, tmp_path)
    probe = next(p for p in journal.stale_writes["probes"] if p["kind"] == "prediction")
    assert (len(asked), probe["accepted"], probe["outcome"]) == (3, 0, "refused in epoch 2: standby")


@pytest.mark.parametrize(
    ("error", "accepted"),
    [
        (Fenced("the epoch is over"), 0),
        (ResidencyRefused("not here"), None),
        (StoreUnavailable("no answer"), None),
    ],
)
def test_only_a_refusal_for_the_epoch_counts_as_one(error: Exception, accepted: int | None) -> None:
    def work() -> Any:
        raise error

    assert stale_writes._attempt("checkpoint", AWS, RUN, work)["accepted"] == accepted


@pytest.mark.parametrize(
    ("before", "lost"),
    [
        (JobStatus(JobState.RUNNING, step=None, total_steps=300), None),
        (JobStatus(JobState.LOST), None),
        (JobStatus(JobState.SUCCEEDED), 0),
    ],
)
def test_training_nobody_heard_of_has_lost_an_unknown_amount(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: JobStatus, lost: int | None
) -> None:
    original = phases._jobs_now

    def unheard(state: Any) -> Any:
        world.backends[AWS].jobs[f"{RUN}.e1"] = before
        return original(state)

    monkeypatch.setattr(phases, "_jobs_now", unheard)
    journal = drill(world, tmp_path)
    assert journal.rpo["training_steps"] == lost
    assert journal.rpo["by_run"][0]["seconds"] == (None if lost is None else 0.0)
    assert journal.verdict.rpo_met is (None if lost is None else True)


def test_a_run_that_was_dead_before_the_fault_is_measured_by_what_it_left(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The plan takes it along as it takes the one that trains; its job was killed, and how far it got is known."""
    dead = f"{RUN}.20250101T000000000000"
    with monkeypatch.context() as patched:
        patched.setattr(worlds, "RUN", dead)
        manifest = world.checkpoint(AWS, 40, 1)
    replicate_checkpoint(world.bare(AWS), world.bare(GCP), dead, manifest, site=GCP, clock=world.clock)
    world.backends[AWS].jobs[f"{dead}.e1"] = JobStatus(JobState.STOPPED, step=44, total_steps=300)
    reference = Reference(digest_of(FINAL), {"model.ubj": FINAL}, 1.0)
    for module in (run, comparison):
        monkeypatch.setattr(module, "run_references", lambda state, given_up=None: {RUN: reference, dead: reference})
    # The dead one has a model only once it is resumed; of what is asked, only the loss is looked at here.
    journal = drill(world, tmp_path)
    lost = {one["name"]: one["training_steps"] for one in journal.rpo["by_run"]}
    assert lost == {RUN: 7, dead: 4}
    assert journal.rpo["training_steps"] == 11
    assert journal.verdict.rpo_met is not None


def test_of_several_runs_of_a_job_each_has_a_reference_of_its_own(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By one name the second would find the first one's job, and look for its model in an empty folder."""
    backend, folders = world.backends[GCP], []

    def submit(spec: JobSpec) -> JobHandle:
        known = spec.name in backend.jobs
        backend.jobs[spec.name] = JobStatus(JobState.SUCCEEDED)
        if not known:
            folder = Path(spec.environment["HOLDFAST_SCRATCH"])
            folders.append(folder)
            number = len(folders)
            put_snapshot(
                local_store("reference", folder),
                dataset=MODEL,
                files={"model.ubj": b"%d" % number},
                epoch=1,
                site=GCP,
                labels={"model_digest": str(number)},
                clock=world.clock,
            )
        return JobHandle("fake", GCP, spec.name, {"attempt": 1})

    monkeypatch.setattr(backend, "submit", submit)
    jobs = [{"job": JOB, "run": name, "dataset_snapshot": None} for name in (RUN, f"{RUN}.two", f"{RUN}.three")]
    state = SimpleNamespace(
        rooms=world,
        plan=SimpleNamespace(group=GROUP, target=GCP),
        drill_id="d1",
        evidence=lambda _name: {"jobs": jobs},
    )
    found = run_references(cast("Any", state))
    assert [(name, one.model_digest) for name, one in found.items()] == [
        (RUN, "1"),
        (f"{RUN}.two", "2"),
        (f"{RUN}.three", "3"),
    ]


def test_a_zombie_that_is_believed_is_counted(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = world.senses.ask_site

    def believed(rooms: Any, service: str, site: str, *, timeout_seconds: float) -> Any:
        if site == AWS and world.epochs.read(GROUP).epoch == 2:  # type: ignore[union-attr]  # initialised
            return Answer(AWS, 1, "old", (1.0,), AWS, 0.0)
        return original(rooms, service, site, timeout_seconds=timeout_seconds)

    monkeypatch.setattr(world.senses, "ask_site", believed)
    journal = drill(world, tmp_path)
    assert journal.stale_writes["accepted"] == 1
    assert journal.verdict.stale_writes_refused is False
    assert not journal.green


def test_a_failing_hypothesis_afterwards_deviates_and_is_not_green(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = comparison.compare

    def spoil(*args: Any, **kwargs: Any) -> Any:
        done = original(*args, **kwargs)
        world.senses.lies = (0.0, 0.0)
        return done

    monkeypatch.setattr(run, "compare", spoil)
    journal = drill(world, tmp_path)
    assert journal.status == "completed"
    assert journal.deviated
    assert journal.verdict.passed is False
    assert not journal.green


def test_another_model_than_the_reference_is_not_green(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = Reference(digest_of(b"other"), {"model.ubj": b"other"}, 1.0)
    monkeypatch.setattr(run, "run_references", lambda state, given_up=None: {RUN: other})
    journal = drill(world, tmp_path)
    assert journal.model["identical"] is False
    assert journal.service["answers_equal"] is False
    assert not journal.green


def test_a_steady_state_that_does_not_hold_aborts_before_any_fault(world: World, tmp_path: Path) -> None:
    world.senses.lies = (1.0,)
    faults = Faults(world)
    with pytest.raises(SteadyStateFailed, match="service_answers"):
        drill(world, tmp_path, faults)
    document = written(tmp_path)
    assert document["status"] == "aborted"
    assert document["steady_state"]["before"]["holds"] is False
    assert faults.calls == []
    assert world.epochs.read(GROUP).operation is None  # type: ignore[union-attr]  # initialised


def test_a_fault_that_nobody_notices_fails_over_nothing_whoever_approves(world: World, tmp_path: Path) -> None:
    world.senses.verdicts = Verdict.SUSPECT
    faults = Faults(world)
    journal = drill(world, tmp_path, faults, approved_by="ada")
    assert (journal.status, journal.verdict.detected, journal.verdict.passed) == ("failed", False, False)
    assert written(tmp_path)["error"]["error"] == "FaultNotNoticed"
    assert faults.calls == [("inject", AWS), ("clear", AWS)]
    state = world.epochs.read(GROUP)
    assert state is not None
    assert (state.epoch, state.active_site, state.operation) == (1, AWS, None)
    assert world.traffic_record.switches == 0


def test_a_failover_in_a_drill_waits_for_the_detection(world: World) -> None:
    state = phases.prepare(world, GROUP, "site-outage", senses=world.senses)
    phases.inject(state, Faults(world))
    with pytest.raises(GateClosed, match="detect"):
        phases.fail_over(state, approved_by="ada")
    assert world.epochs.read(GROUP).epoch == 1  # type: ignore[union-attr]  # initialised


def test_a_failure_under_the_fault_lifts_it_and_leaves_a_journal(world: World, tmp_path: Path) -> None:
    faults = Faults(world)
    faults.on_inject = lambda: setattr(world.epochs, "available", False)
    journal = drill(world, tmp_path, faults)
    assert journal.status == "failed"
    assert faults.calls[-1] == ("clear", AWS)
    assert journal.verdict.passed is not True
    assert journal.rto_seconds["from_fault"] is None
    assert written(tmp_path)["error"]["error"] == "NoMajority"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_interrupts_lifts_the_fault_and_writes_the_journal(world: World, tmp_path: Path, number: int) -> None:
    faults = Faults(world)
    faults.on_inject = lambda: os.kill(os.getpid(), number)
    journal = drill(world, tmp_path, faults)
    assert journal.status == "interrupted"
    assert journal.rollback["fault_lifted"] is True
    assert AWS not in world.board.cut
    assert written(tmp_path)["status"] == "interrupted"


def test_a_resumed_job_that_dies_is_started_again(world: World, tmp_path: Path) -> None:
    original, died = world.on_status, []

    def dies_once(backend: Any, handle: Any) -> None:
        if not died and backend.site == GCP:
            died.append(handle.name)
            backend.jobs[handle.name] = JobStatus(JobState.LOST, detail="killed")
            return
        original(backend, handle)

    world.on_status = dies_once  # type: ignore[method-assign]  # the world is the test's own
    journal = drill(world, tmp_path)
    assert journal.training is not None
    assert journal.training[0]["restarts"] == 1
    assert journal.green


@pytest.mark.parametrize("state", [JobState.PREEMPTED, JobState.NO_CAPACITY])
def test_a_resumed_job_without_its_machine_goes_on_at_the_next_placement(
    world: World, tmp_path: Path, state: JobState
) -> None:
    world.may_run_at(Placement(machine="small", spot=True), Placement(machine="big"))
    original = world.on_status

    def first_is_taken(backend: Any, handle: Any) -> None:
        if backend.site == GCP and handle.name == f"{RUN}.e2" and handle.attempt == 1:
            backend.jobs[handle.name] = JobStatus(state, detail="taken")
            return
        original(backend, handle)

    world.on_status = first_is_taken  # type: ignore[method-assign]  # the world is the test's own
    journal = drill(world, tmp_path)
    assert journal.training is not None
    assert journal.training[0]["restarts"] == 1
    assert journal.green
    assert [one for one in world.backends[GCP].asked if one != "any"] == ["small, spot", "big"]


def test_a_resumed_job_that_fails_by_itself_is_not_started_again(world: World, tmp_path: Path) -> None:
    original = world.on_status

    def fails(backend: Any, handle: Any) -> None:
        if backend.site == GCP and handle.name == f"{RUN}.e2":
            backend.jobs[handle.name] = JobStatus(JobState.FAILED, detail="exit code 3")
            return
        original(backend, handle)

    world.on_status = fails  # type: ignore[method-assign]  # the world is the test's own
    journal = drill(world, tmp_path)
    assert journal.status == "failed"
    assert "1 fault of its own" in str(journal.error)
    assert f"{RUN}.e2" in world.backends[GCP].attempts
    assert world.backends[GCP].attempts[f"{RUN}.e2"] == 1


def test_a_drill_waits_for_a_machine_where_the_group_waits(world: World, tmp_path: Path) -> None:
    world.may_run_at(Placement(machine="small"))
    world.backends[GCP].full = {"small"}
    sleep = world.clock.sleep

    def sleeps(seconds: float) -> None:
        if seconds > 20:
            world.backends[GCP].full = set()
        sleep(seconds)

    world.clock.sleep = sleeps  # type: ignore[method-assign]  # the world is the test's own
    journal = drill(world, tmp_path)
    assert journal.green
    assert journal.training is not None
    assert "none of the 1 placements" in journal.training[0]["degraded"]


def resumed(world: World) -> tuple[DrillState, dict[str, Any]]:
    """What a drill's waiting for its training begins with: a failover has resumed the job at gcp."""
    world.training_ends = False
    world.board.cut.add(AWS)
    assert run_plan(world, new_plan(world, GROUP, reason="t"), senses=world.senses, approved_by="me").complete
    handle = world.backends[GCP].find(f"{RUN}.e2")
    assert handle is not None
    plan = SimpleNamespace(target=GCP, epoch=2, group=GROUP)
    state = SimpleNamespace(rooms=world, plan=plan, progress=lambda _progress: None)
    return cast("DrillState", state), {"job": JOB, "run": RUN, "handle": asdict(handle)}


def test_a_drill_waits_through_an_answer_that_does_not_come(world: World) -> None:
    state, job = resumed(world)
    answers: list[Any] = [ComputeUnavailable("503", where=GCP), JobStatus(JobState.SUCCEEDED)]

    def status(_handle: JobHandle) -> JobStatus:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    world.backends[GCP].status = status  # type: ignore[method-assign]
    assert training._until_succeeded(state, job, 100.0, lambda: None) == 0


def test_a_drill_waits_through_a_service_that_is_away_as_a_machine_is_replaced(world: World) -> None:
    state, job = resumed(world)
    gcp = world.backends[GCP]
    gcp.jobs[f"{RUN}.e2"] = JobStatus(JobState.PREEMPTED)
    submit, away = gcp.submit, [True, True]

    def later(spec: Any) -> JobHandle:
        if away:
            away.pop()
            raise ComputeUnavailable("503", where=GCP)
        handle = submit(spec)
        if handle.attempt == 2:
            gcp.jobs[handle.name] = JobStatus(JobState.SUCCEEDED)
        return handle

    gcp.submit = later  # type: ignore[method-assign]
    assert training._until_succeeded(state, job, 100.0, lambda: None) == 1


def test_a_drill_whose_job_waits_for_another_machine_looks_with_pauses_and_for_its_time(world: World) -> None:
    world.may_run_at(Placement(machine="small", wait_seconds=60))
    state, job = resumed(world)
    looks = 0

    def status(_handle: JobHandle) -> JobStatus:
        nonlocal looks
        looks += 1
        assert looks < 1000, "no time passes between the looks"
        return JobStatus(JobState.PENDING, heartbeat_at=world.clock.now())

    world.clock.advance(3600)
    world.backends[GCP].status = status  # type: ignore[method-assign]
    with pytest.raises(TrainingFailed, match="in the time allowed"):
        training._until_succeeded(state, {**job, "move_on_at": world.clock.now().isoformat()}, 100.0, lambda: None)


def test_a_group_that_goes_on_without_training_proves_nothing_about_its_model(world: World, tmp_path: Path) -> None:
    world.may_run_at(Placement(machine="small"), no_capacity=NoCapacityPolicy.GO_ON)
    world.backends[GCP].full = {"small"}
    journal = drill(world, tmp_path)
    assert journal.training is not None
    assert "the group goes on without it" in journal.training[0]["detail"]
    assert journal.verdict.model_identical is None
    assert journal.verdict.passed is not True
    assert journal.rto_seconds["from_fault"] is not None


def test_two_drills_at_once_are_refused_and_nothing_changed(world: World, tmp_path: Path) -> None:
    first = phases.prepare(world, GROUP, "site-outage", senses=world.senses)
    before = sorted(i.key for i in world.bare(GCP).list(""))
    with pytest.raises(OperationInProgress):
        drill(world, tmp_path)
    assert written(tmp_path)["status"] == "refused"
    assert sorted(i.key for i in world.bare(GCP).list("")) == before
    assert phases.release(first) is None


def test_a_drill_while_a_failover_runs_is_refused(world: World, tmp_path: Path) -> None:
    run_plan(world, new_plan(world, GROUP, reason="real", plan_id="real"), only=("detect",), senses=world.senses)
    faults = Faults(world)
    with pytest.raises(OperationInProgress, match="failover"):
        drill(world, tmp_path, faults)
    assert faults.calls == []


def test_a_drill_without_a_majority_is_refused(world: World, tmp_path: Path) -> None:
    world.epochs.available = False
    with pytest.raises(NoMajority):
        drill(world, tmp_path)


def test_unknown_names_change_and_write_nothing(world: World, tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match="site-outage"):
        run_drill(world, GROUP, "meteor", Faults(world), tmp_path / "evidence", senses=world.senses)
    with pytest.raises(UnknownName, match="market-risk"):
        run_drill(world, "nope", "site-outage", Faults(world), tmp_path / "evidence", senses=world.senses)
    assert not (tmp_path / "evidence").exists()


def test_the_group_stays_taken_when_the_plan_fails_before_its_epoch(world: World) -> None:
    state = phases.prepare(world, GROUP, "site-outage", senses=world.senses)
    phases.inject(state, Faults(world))
    world.senses.verdicts = Verdict.SUSPECT
    with pytest.raises(FaultNotNoticed):
        phases.detect(state)
    with pytest.raises(NeedsHuman):
        run_plan(world, state.plan, only=("decide",), senses=world.senses, keep_claim=True)
    assert world.epochs.read(GROUP).operation is not None  # type: ignore[union-attr]  # initialised
    conclude(state)
    assert world.epochs.read(GROUP).operation is None  # type: ignore[union-attr]  # initialised


def test_a_drill_that_is_not_begun_stops_the_training_it_started(world: World, tmp_path: Path) -> None:
    world.backends[AWS].jobs[f"{RUN}.e1"] = JobStatus(JobState.SUCCEEDED, step=300, total_steps=300)
    world.senses.lies = (1.0,)
    with pytest.raises(SteadyStateFailed):
        drill(world, tmp_path)
    started = {name: job for name, job in world.backends[AWS].jobs.items() if name != f"{RUN}.e1"}
    assert [job.state for job in started.values()] == [JobState.STOPPED]
    assert "stopped" in written(tmp_path)["error"]["notes"]


def test_a_conclusion_that_fails_frees_the_group(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    state = phases.prepare(world, GROUP, "site-outage", senses=world.senses)
    monkeypatch.setattr(state, "failures", lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        conclude(state)
    assert world.epochs.read(GROUP).operation is None  # type: ignore[union-attr]  # initialised


def test_a_drill_that_died_before_its_first_record_is_freed_by_its_id(world: World) -> None:
    now = world.clock.now()
    world.epochs.claim(GROUP, Operation("died", "drill", "test", now, now + timedelta(minutes=30)))
    assert free_unrecorded(world, "another") == []
    assert world.epochs.read(GROUP).operation is not None  # type: ignore[union-attr]  # initialised
    assert free_unrecorded(world, "died") == [GROUP]
    assert world.epochs.read(GROUP).operation is None  # type: ignore[union-attr]  # initialised


@pytest.mark.parametrize(("second", "identical"), [("same", True), ("other", False), (None, None)])
def test_every_jobs_model_must_be_the_reference_runs(
    world: World, monkeypatch: pytest.MonkeyPatch, second: str | None, identical: bool | None
) -> None:
    state = phases.prepare(world, GROUP, "site-outage", senses=world.senses)
    world.topology.training["second"] = world.topology.job(JOB).model_copy(update={"model": "second-model"})
    done = [
        {"job": JOB, "run": RUN, "model_digest": digest_of(FINAL)},
        {"job": "second", "run": "second", "model_digest": second},
    ]
    monkeypatch.setattr(state, "evidence", lambda phase: {"jobs": done})
    references = {RUN: Reference(digest_of(FINAL), {"model.ubj": FINAL}, 1.0), "second": Reference("same", {}, 1.0)}
    found = comparison.compare(state, lambda: references)
    assert found["model"]["identical"] is identical


def test_a_long_training_does_not_outlast_the_drills_claim(world: World) -> None:
    state = phases.prepare(world, GROUP, "site-outage", senses=world.senses)
    backend = world.backends[GCP]
    handle = backend.submit(JobSpec(RUN, 2, GCP, ("train",)))
    world.training_ends = False
    claimed: list[bool] = []

    def renew() -> None:
        phases.claim(state)
        claimed.append(True)
        world.clock.advance(1000)
        if len(claimed) == 4:
            backend.jobs[handle.name] = JobStatus(JobState.SUCCEEDED)

    job = {"job": JOB, "run": RUN, "handle": asdict(handle)}
    assert training._until_succeeded(state, job, 9000.0, renew) == 0
    assert world.clock.monotonic() > 4000


def test_every_phase_runs_from_the_drills_id_alone(world: World) -> None:
    faults = Faults(world)
    drill_id = phases.prepare(world, GROUP, "site-outage", senses=world.senses).drill_id

    def opened() -> Any:
        state = world.epochs.read(GROUP)
        assert state is not None
        assert state.operation is not None, "the group was freed in the middle"
        assert state.operation.plan_id == drill_id
        return open_drill(world, drill_id, senses=world.senses)

    phases.inject(opened(), faults)
    phases.detect(opened())
    phases.fail_over(opened(), approved_by="the schedule")
    phases.resume_training(opened())
    phases.lift(opened(), faults)
    phases.measure(opened())
    phases.await_training(opened())
    comparison.compare(opened())
    phases.look_again(opened())
    journal = conclude(opened())
    assert journal.status == "completed"
    assert journal.green, journal.verdict
    assert world.epochs.read(GROUP).operation is None  # type: ignore[union-attr]  # initialised
    # A retried task finds its phase recorded and does not do it again.
    phases.inject(open_drill(world, drill_id, senses=world.senses), faults)
    assert faults.calls.count(("inject", AWS)) == 1
