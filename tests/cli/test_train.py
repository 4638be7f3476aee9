"""`holdfast train` as somebody types it: text and JSON, and the exit codes a script goes by."""

from __future__ import annotations

import contextlib
import json
import signal
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from holdfast.cli import train
from holdfast.cli.main import app
from holdfast.engine.checkpoint import Checkpointer, TrainingState, replicate_checkpoint
from holdfast.engine.checkpoint.format import blob_key, canonical
from holdfast.engine.checkpoint.heartbeat import stamp
from holdfast.engine.compute import ComputeUnavailable, JobHandle, JobState, JobStatus
from holdfast.engine.compute.placement import MOST_LOST_MACHINES
from holdfast.engine.config.compute import Placement
from holdfast.engine.config.models import NoCapacityPolicy
from holdfast.engine.objectstore.interface import OVERWRITE
from holdfast.engine.runtime import Runtime
from world import AWS, GCP, GROUP, JOB, MODEL, RUN, FakeBackend, World, make_world


class TellingBackend(FakeBackend):
    """A backend whose jobs have heartbeats, and which sometimes does not answer."""

    def __init__(self, world: World, site: str) -> None:
        super().__init__(world, site)
        self.beats: dict[str, dict[str, Any]] = {}
        self.unanswered = 0
        self.on_look: Callable[[], None] = lambda: None

    def status(self, handle: JobHandle) -> JobStatus:
        if self.unanswered:
            self.unanswered -= 1
            raise ComputeUnavailable("the service does not answer", where=self.site)
        self.on_look()
        return super().status(handle)

    def heartbeat(self, handle: JobHandle) -> dict[str, Any] | None:
        return self.beats.get(handle.name)


@dataclass
class Program:
    """The command over a world in memory."""

    world: World
    backend: TellingBackend = field(init=False)

    def __post_init__(self) -> None:
        self.backend = TellingBackend(self.world, AWS)
        self.backend.jobs = self.world.backends[AWS].jobs
        self.world.backends[AWS] = self.backend

    def __call__(self, *words: str, code: int = 0) -> Result:
        done = CliRunner().invoke(app, ["train", *words])
        assert done.exit_code == code, done.output + done.stderr
        assert "Traceback" not in done.output + done.stderr
        return done

    def json(self, *words: str, code: int = 0) -> Any:
        return json.loads(self(*words, "--json", code=code).stdout)

    def beat(self, step: int, **facts: Any) -> None:
        now = stamp(self.world.clock.now())
        self.backend.beats[f"{RUN}.e1"] = {
            "at": now,
            "step": step,
            "step_at": now,
            "total_steps": 300,
            "state": "training",
            "permission": "granted",
            **facts,
        }

    def ends(self, state: JobState, **facts: Any) -> None:
        self.backend.jobs[f"{RUN}.e1"] = JobStatus(state, **facts)


@pytest.fixture
def program(monkeypatch: pytest.MonkeyPatch) -> Program:
    world = make_world()
    monkeypatch.setattr(Runtime, "from_environment", lambda *_args, **_kwargs: world)
    return Program(world)


def test_a_run_starts_once_and_a_second_call_finds_it(program: Program) -> None:
    name = f"{RUN}.one"
    first = program.json("run", GROUP, JOB, "--run", name)
    again = program.json("run", GROUP, JOB, "--run", name)
    assert (first["run"], first["site"], first["epoch"], first["state"]) == (name, AWS, 1, "running")
    assert again["handle"] == first["handle"]
    assert program.backend.submitted == 1
    assert f"holdfast train status {GROUP} {JOB} --run {name}" in program("run", GROUP, JOB, "--run", name).stdout


def test_a_run_that_nobody_names_gets_the_name_of_a_new_one(program: Program) -> None:
    started = program.json("run", GROUP, JOB)["run"]
    assert started.startswith(f"{RUN}.")
    assert program.json("run", GROUP, JOB, "--run", started)["state"] == "running"
    assert program.backend.submitted == 1


def test_waiting_goes_on_through_an_api_that_does_not_answer_and_tells_the_model(program: Program) -> None:
    program.beat(150, checkpoint={"step": 100})
    program.backend.unanswered = 3

    def look() -> None:
        program.world.checkpoint(AWS, 300, 1)
        digest = program.world.publish_model(AWS, 1, b"model at step 300", run=RUN, step="300")
        assert digest.startswith("blake3:")
        program.ends(JobState.SUCCEEDED, step=300, total_steps=300)
        program.backend.on_look = lambda: None

    program.backend.on_look = look
    done = program("run", GROUP, JOB, "--run", RUN, "--wait", "--poll", "0.05")
    assert f"{RUN} ended well at step 300" in done.stdout
    assert done.stderr.count("cannot be asked now") == 1
    found = program.json("run", GROUP, JOB, "--run", RUN, "--wait")
    assert (found["model"], found["step"], found["state"]) == (MODEL, 300, "succeeded")
    assert found["checkpoint"].startswith("blake3:")


@pytest.mark.parametrize(
    ("state", "code"),
    [
        (JobState.FAILED, 1),
        (JobState.FENCED, 7),
    ],
)
def test_the_exit_code_tells_a_failed_job_from_one_to_start_again(program: Program, state: JobState, code: int) -> None:
    program.backend.on_look = lambda: program.ends(state)
    done = program("run", GROUP, JOB, "--run", RUN, "--wait", code=code)
    assert str(state) in done.stderr


@pytest.mark.parametrize("state", [JobState.LOST, JobState.PREEMPTED])
def test_waiting_goes_on_with_the_next_machine_until_too_many_were_lost(program: Program, state: JobState) -> None:
    program.backend.on_look = lambda: program.ends(state, detail="the node went")
    done = program("run", GROUP, JOB, "--run", RUN, "--wait", "--poll", "0.05", code=1)
    assert f"{MOST_LOST_MACHINES + 1} machines were lost" in done.stderr
    assert program.backend.submitted == MOST_LOST_MACHINES
    assert f"holdfast train resume {GROUP} {JOB} --run {RUN}" in done.stderr


class Pauses(threading.Event):
    """Ctrl-C that never comes; each pause moves the world's clock."""

    def __init__(self, program: Program) -> None:
        super().__init__()
        self.program, self.count = program, 0

    def wait(self, timeout: float | None = None) -> bool:
        self.count += 1
        self.program.world.clock.advance(60)
        if self.count == 3:
            self.program.backend.full.clear()
        return self.is_set()


def test_waiting_goes_through_the_placements_until_one_has_a_machine(
    program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    program.world.may_run_at(Placement(machine="small", spot=True), Placement(machine="big"))
    program.backend.full = {"small", "big"}
    pauses = Pauses(program)
    monkeypatch.setattr(train, "leaving", lambda: contextlib.nullcontext(pauses))
    name = f"{RUN}.one"

    def look() -> None:
        program.world.publish_model(AWS, 1, b"m", run=name, step="300")
        program.backend.jobs[f"{name}.e1"] = JobStatus(JobState.SUCCEEDED, step=300, total_steps=300)
        program.backend.on_look = lambda: None

    program.backend.on_look = look
    done = program("run", GROUP, JOB, "--run", name, "--wait")
    assert program.backend.asked[:4] == ["small, spot", "big", "small, spot", "big"]
    assert program.backend.asked[-1] == "small, spot"
    assert "attempt 1: no machine at small, spot: no small left" in done.stderr
    found = program.json("status", GROUP, JOB, "--run", name)
    (ran,) = (one for one in found["attempts"] if one["state"] == "succeeded")
    assert ran["placement"] == {"machine": "small", "spot": True}
    assert "no placement had a machine" in ran["reason"]


@pytest.mark.parametrize(
    ("policy", "code"),
    [(NoCapacityPolicy.WAIT, 7), (NoCapacityPolicy.GO_ON, 7), (NoCapacityPolicy.FAIL, 1)],
)
def test_without_waiting_no_machine_is_one_clear_error(program: Program, policy: NoCapacityPolicy, code: int) -> None:
    program.world.may_run_at(Placement(machine="small"), Placement(machine="big"), no_capacity=policy)
    program.backend.full = {"small", "big"}
    found = program.json("run", GROUP, JOB, "--run", f"{RUN}.one", code=code)
    assert "big: no big left" in found["found"]
    assert "2 placements without a machine" in found["found"]
    attempts = program.json("status", GROUP, JOB, "--run", f"{RUN}.one")["attempts"]
    assert [(one["attempt"], one["state"]) for one in attempts] == [(1, "no-capacity"), (2, "no-capacity")]
    assert "no small left" in program("status", GROUP, JOB, "--run", f"{RUN}.one").stdout


def test_a_run_that_failed_by_itself_is_started_again_by_resume_alone(program: Program) -> None:
    program.json("run", GROUP, JOB, "--run", f"{RUN}.one")
    program.backend.jobs[f"{RUN}.one.e1"] = JobStatus(JobState.FAILED, detail="exit code 3")
    refused = program("run", GROUP, JOB, "--run", f"{RUN}.one", code=1)
    assert "1 fault of its own" in refused.stderr
    assert program.backend.submitted == 1
    found = program.json("resume", GROUP, JOB, "--run", f"{RUN}.one", "--tell-seconds", "0")
    assert (found["begun"], found["was"], found["attempt"]) == (True, "failed", 2)
    assert program.backend.submitted == 2


def test_ctrl_c_leaves_the_job_and_says_how_to_go_on(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    left = threading.Event()
    left.set()
    monkeypatch.setattr(train, "leaving", lambda: contextlib.nullcontext(left))
    done = program("run", GROUP, JOB, "--run", RUN, "--wait", code=130)
    assert f"holdfast train run {GROUP} {JOB} --run {RUN} --wait" in done.stderr
    assert program.backend.jobs[f"{RUN}.e1"].state is JobState.RUNNING


def test_the_first_ctrl_c_ends_the_waiting_and_a_second_one_the_program() -> None:
    before = signal.getsignal(signal.SIGINT)
    with train.leaving() as left:
        assert not left.is_set()
        signal.raise_signal(signal.SIGINT)
        assert left.is_set()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_the_status_tells_what_a_loss_would_cost(program: Program) -> None:
    program.world.checkpoint(AWS, 120, 1)
    program.world.clock.advance(30)
    program.beat(150, loss=0.5, checkpoint={"step": 120}, saving={"pending_step": 150, "superseded": 2})
    found = program.json("status", GROUP, JOB, "--run", RUN)
    (risk,) = found["at_risk"]
    assert (risk["standby"], risk["standby_step"], risk["steps"]) == (GCP, 100, 50)
    assert (risk["unsaved_steps"], risk["unreplicated_steps"]) == (30, 20)
    assert risk["seconds"] == pytest.approx(31.0)
    assert (found["durable_step"], found["beat"]["permission"], found["beat"]["age_seconds"]) == (120, "granted", 0.0)
    text = program("status", GROUP, JOB).stdout
    for said in ("150/300", "superseded 2", "50 steps, 31 s", GCP):
        assert said in text


def test_a_status_without_everything_known_is_no_success(program: Program) -> None:
    program.backend.unanswered = 1
    done = program("status", GROUP, JOB, code=1)
    assert "not known: " in done.stderr
    program.beat(150, step_at="yesterday")
    assert "the heartbeat's time is none" in program("status", GROUP, JOB, code=1).stderr


def test_a_standby_that_is_cut_off_is_told_as_the_whole_run(program: Program) -> None:
    program.beat(150)
    program.world.board.cut.add(GCP)
    (risk,) = program.json("status", GROUP, JOB)["at_risk"]
    assert (risk["steps"], risk["seconds"]) == (150, None)
    assert "did not answer" in risk["detail"]


def test_resume_says_which_checkpoint_and_why_not_a_newer_one(program: Program) -> None:
    newer = program.world.checkpoint(AWS, 200, 1)
    program.world.bare(AWS).put(blob_key(RUN, newer.blobs["model"].digest), b"x", mode=OVERWRITE)
    program.ends(JobState.LOST)
    program.beat(100, resumed={"step": 100, "resume": "bitwise", "differences": [], "passed_over": []})
    found = program.json("resume", GROUP, JOB)
    assert (found["begun"], found["was"], found["elected"]["step"]) == (True, "lost", 100)
    assert [one["key"] for one in found["elected"]["passed_over"]] == [newer.key]
    assert found["resumed"]["resume"] == "bitwise"
    program.ends(JobState.LOST)
    text = program("resume", GROUP, JOB).stdout
    assert "from step 100" in text
    assert f"passed over {newer.key}" in text


def test_resume_claims_nothing_the_job_has_not_said(program: Program) -> None:
    program.ends(JobState.LOST)
    found = program.json("resume", GROUP, JOB, "--tell-seconds", "0")
    assert found["resumed"] is None
    program.ends(JobState.LOST)
    assert "has not said yet" in program("resume", GROUP, JOB, "--tell-seconds", "0").stdout


def test_resume_leaves_a_running_job_alone(program: Program) -> None:
    found = program.json("resume", GROUP, JOB)
    assert (found["begun"], found["was"]) == (False, "running")
    assert program.backend.submitted == 0
    assert "nothing was started" in program("resume", GROUP, JOB).stdout


def test_resume_refuses_a_run_that_nobody_knows(program: Program) -> None:
    found = program.json("resume", GROUP, JOB, "--run", f"{RUN}.other", code=2)
    assert found["error"] == "NoRun"
    assert program.backend.submitted == 0


def test_checkpoints_are_listed_per_site(program: Program) -> None:
    found = program.json("checkpoints", RUN)
    assert [(site["site"], [one["step"] for one in site["checkpoints"]]) for site in found["sites"]] == [
        (AWS, [100]),
        (GCP, [100]),
    ]
    assert found["alarms"] == []
    text = program("checkpoints", RUN, "--site", GCP).stdout
    assert GCP in text
    assert "yes" in text
    program.world.board.cut.add(GCP)
    assert "cut off" in program("checkpoints", RUN, code=1).stderr


def test_verify_has_a_code_for_whole_for_damaged_for_unknown_and_for_nothing(program: Program) -> None:
    assert program.json("verify", RUN)["verdict"] == "intact"
    program("verify", RUN, "--step", "7", code=6)
    program.world.board.cut.add(GCP)
    program("verify", RUN, code=1)
    program.world.board.cut.clear()
    later = program.world.checkpoint(AWS, 200, 1)
    replicate_checkpoint(program.world.bare(AWS), program.world.bare(GCP), RUN, later, site=GCP)
    program.world.bare(GCP).put(blob_key(RUN, later.blobs["model"].digest), b"model at step 2oo", mode=OVERWRITE)
    assert later.key in program("verify", RUN, code=5).stderr
    assert program.json("verify", RUN, "--site", AWS)["verdict"] == "intact"


def test_a_checkpoint_of_a_later_version_is_told_apart_from_damage_and_the_older_one_is_taken(program: Program) -> None:
    key = f"runs/{RUN}/checkpoints/000000000200.000001.json"
    program.world.bare(AWS).put(key, canonical({"format": "holdfast.checkpoint/3"}), mode=OVERWRITE)
    shown = program("verify", RUN, "--site", AWS, code=1)
    assert f"{key}: the checkpoint is of a format that this version of holdfast does not read" in shown.stderr
    assert "1 checkpoints" in shown.stdout
    told = program("checkpoints", RUN, "--site", AWS).stderr
    assert f"{key}: the checkpoint is of a format that this version of holdfast does not read" in told
    assert "holdfast.checkpoint/3" in told
    program.ends(JobState.LOST)
    found = program.json("resume", GROUP, JOB, "--tell-seconds", "0")
    assert found["elected"]["step"] == 100
    assert [one["key"] for one in found["elected"]["passed_over"]] == [key]


def test_compressed_checkpoints_show_what_they_are_stored_in_and_what_they_hold(program: Program) -> None:
    state = TrainingState({"model": bytes(2_000_000)})
    store = program.world.bare(AWS)
    with Checkpointer(store, RUN, epoch=1, site=AWS, every_steps=1, compression="auto") as it:
        it.step(200, state)
        stored = it.finish(state).manifest.size_bytes
    listed = program.json("checkpoints", RUN, "--site", AWS)["sites"][0]["checkpoints"][0]
    assert (listed["encoded"], listed["size_bytes"], listed["content_bytes"]) == (1, stored, 2_000_000)
    assert "2.0 MB" in program("checkpoints", RUN, "--site", AWS).stdout
    shown = program("verify", RUN, "--site", AWS).stdout
    assert f"1 compressed, decoded and compared, {stored} bytes of 2.0 MB" in shown
    assert [one["encoded"] for one in program.json("verify", RUN, "--site", AWS)["sites"][0]["checkpoints"]] == [1, 0]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("run", "nobody", JOB), "nobody"),
        (("run", GROUP, "nothing"), "nothing"),
        (("run", GROUP, JOB, "--run", "mine"), "cannot have this name"),
        (("status", GROUP, "nothing"), "nothing"),
        (("verify", RUN, "--site", "nowhere"), "nowhere"),
    ],
)
def test_bad_input_is_one_clear_error(program: Program, words: tuple[str, ...], said: str) -> None:
    assert said in program(*words, code=2).stderr


# -- what asking again may mend ----------------------------------------------------------------------------------------


def test_a_service_that_is_away_while_a_machine_is_waited_for_does_not_end_the_waiting(
    program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    program.world.may_run_at(Placement(machine="small"))
    program.backend.full = {"small"}
    pauses = Pauses(program)
    monkeypatch.setattr(train, "leaving", lambda: contextlib.nullcontext(pauses))
    name = f"{RUN}.one"
    find = program.backend.find
    asked: list[int] = []

    def away_once(job: str) -> JobHandle | None:
        if pauses.count and not asked:
            asked.append(pauses.count)
            raise ComputeUnavailable("503", where=AWS)
        return find(job)

    def look() -> None:
        program.world.publish_model(AWS, 1, b"m", run=name, step="300")
        program.backend.jobs[f"{name}.e1"] = JobStatus(JobState.SUCCEEDED, step=300, total_steps=300)
        program.backend.on_look = lambda: None

    monkeypatch.setattr(program.backend, "find", away_once)
    program.backend.on_look = look
    done = program("run", GROUP, JOB, "--run", name, "--wait")
    assert asked
    assert "is asked again" in done.stderr
    assert f"{name} ended well" in done.stdout


def test_a_job_that_was_started_and_cannot_be_asked_is_told_all_the_same(program: Program) -> None:
    program.backend.unanswered = 1
    found = program.json("run", GROUP, JOB)
    assert found["state"] is None
    assert f"{found['run']}.e1" in program.backend.specs
    program.backend.unanswered = 1
    assert found["run"] in program("run", GROUP, JOB, "--run", found["run"]).stdout


def test_a_resumption_is_told_also_where_the_jobs_word_cannot_be_read(
    program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    program.ends(JobState.LOST)

    def silent(_handle: JobHandle) -> dict[str, Any]:
        raise ComputeUnavailable("the bucket does not answer", where=AWS)

    monkeypatch.setattr(program.backend, "heartbeat", silent)
    found = program.json("resume", GROUP, JOB, "--run", RUN, "--tell-seconds", "0")
    assert (found["begun"], found["resumed"]) == (True, None)


# -- what a script goes by ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", [float("nan"), float("inf")])
def test_a_loss_that_is_no_number_leaves_json_to_be_json(program: Program, loss: float) -> None:
    program.beat(150, loss=loss)

    def refuse(constant: str) -> None:
        raise AssertionError(f"no JSON: {constant}")

    found = json.loads(program("status", GROUP, JOB, "--run", RUN, "--json").stdout, parse_constant=refuse)
    assert (found["beat"]["step"], found["beat"]["loss"]) == (150, None)


def test_a_resumption_without_a_machine_ends_with_the_code_its_help_names(program: Program) -> None:
    program.ends(JobState.LOST)
    program.world.may_run_at(Placement(machine="small"))
    program.backend.full = {"small"}
    program("resume", GROUP, JOB, "--run", RUN, code=7)
    assert "7 no placement has a machine" in program("resume", "--help").stdout


def test_checkpoints_of_no_run_are_bad_input(program: Program) -> None:
    assert program.json("checkpoints", f"{RUN}.nothing", code=2)["error"] == "NoRun"
    program.world.board.cut.add(GCP)  # it may lie there
    program("checkpoints", f"{RUN}.nothing", code=1)
    program.world.board.cut.clear()
    assert program("checkpoints", RUN).stdout


def test_a_run_is_stopped_by_hand_and_resumed_by_hand(program: Program) -> None:
    found = program.json("stop", GROUP, JOB)
    assert (found["run"], found["epoch"], found["site"], found["state"], found["already"]) == (
        RUN,
        1,
        AWS,
        "stopped",
        False,
    )
    assert program.json("stop", GROUP, JOB, "--run", RUN)["already"]
    assert program.json("resume", GROUP, JOB, "--run", RUN, "--tell-seconds", "0")["begun"]


def test_what_cannot_be_stopped_says_so(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    assert program.json("stop", GROUP, JOB, "--run", f"{RUN}.nothing", code=2)["error"] == "NoRun"
    program("stop", GROUP, JOB, "--run", "another", code=2)
    monkeypatch.setattr(program.backend, "stop", lambda _handle, **_: JobStatus(JobState.RUNNING))
    assert program.json("stop", GROUP, JOB, code=1)["state"] == "running"
