"""Command jobs by the real SDK, against a local server that reads bodies by the SDK's models. None ran on Azure."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from azure_ml_stub import Loopback, Token, Workspace
from azure_stub import Answer, Stub, Wrong, arm_error, check_rest_fields, serving
from azure_world import EPOCH, RUN, SECRETS, DeadStore, World
from holdfast.engine.compute import ComputeRefused, ComputeUnavailable, JobNotStarted, JobState, NoCapacity
from holdfast.engine.compute import azure_ml as leaf
from holdfast.engine.compute.claimed import CLAIM_SECONDS
from holdfast.engine.compute.interface import JobHandle
from holdfast.engine.compute.remote import claim_attempt, heartbeat_key
from holdfast.engine.config import Connection
from holdfast.engine.config.compute import AzureML, Compute
from holdfast.errors import ConfigError

SETTINGS: dict[str, Any] = {
    "subscription": "0000",
    "resource_group": "training",
    "workspace": "models",
    "image": "registry/trainer:1",
    "timeout_seconds": 7200,
}
WAITING = ("NotStarted", "Starting", "Provisioning", "Preparing", "Queued", "Scheduled", "Paused")
MAY_WRITE = ("Running", "Finalizing", "CancelRequested", "NotResponding", "Unknown", "SomethingNew")


def client_of(url: str, **more: Any) -> Any:
    settings = AzureML.model_validate({**SETTINGS, **more})
    limits = {name: leaf.LOOKING[name] for name in ("connection_timeout", "read_timeout")}
    return leaf.ml_client(settings, Token(), "AzureCloud", transport=Loopback(url, **limits))


@pytest.fixture(autouse=True)
def _cloud_of_the_sdk(monkeypatch: pytest.MonkeyPatch) -> None:
    """The SDK notes the cloud in the environment of the process."""
    monkeypatch.setenv("AZUREML_CURRENT_CLOUD", "AzureCloud")


@pytest.fixture
def workspace() -> Workspace:
    return Workspace()


@pytest.fixture
def stub(workspace: Workspace) -> Stub:
    return Stub(workspace)


@pytest.fixture
def make_world(stub: Stub, tmp_path: Path) -> Iterator[Callable[..., World]]:
    with serving(stub) as url:

        def made(**more: Any) -> World:
            compute = {"kind": "azure-ml", "azure_ml": {**SETTINGS, **more}}
            return World(tmp_path, compute, lambda: client_of(url, **more))

        yield made


@pytest.fixture
def world(make_world: Callable[..., World]) -> World:
    return make_world()


def name_of(handle: JobHandle) -> str:
    return str(handle.reference["job"])


def puts_of(stub: Stub) -> list[str]:
    """Of jobs; an environment's PUT goes before each."""
    return [path for path in stub.sent("PUT") if "/jobs/" in path]


# How a job stands. ---------------------------------------------------------------------------------------------------


def test_a_job_waits_runs_and_succeeds(world: World, workspace: Workspace) -> None:
    backend = leaf.open_backend(world.opening)
    handle = backend.submit(world.spec)
    assert backend.status(handle).state is JobState.PENDING
    workspace.set(name_of(handle), "Running")
    world.beat(state="training", step=7, total_steps=40)
    running = backend.status(handle)
    assert (running.state, running.step, running.total_steps) == (JobState.RUNNING, 7, 40)
    assert not backend.confirm_dead(handle)
    workspace.set(name_of(handle), "Completed")
    assert backend.status(handle).state is JobState.SUCCEEDED
    assert backend.confirm_dead(handle)
    assert backend.submit(world.spec) == handle
    assert len(workspace.jobs) == 1


@pytest.mark.parametrize("status", [*WAITING, *MAY_WRITE])
def test_whatever_is_no_end_may_still_write_and_is_reattached_to(
    world: World, workspace: Workspace, stub: Stub, status: str
) -> None:
    backend = leaf.open_backend(world.opening)
    handle = backend.submit(world.spec)
    workspace.set(name_of(handle), status)
    world.beat(state="stopped", step=3)  # of a machine that was taken: Azure ML queues the same job again
    found = backend.status(handle)
    assert found.state is (JobState.PENDING if status in WAITING else JobState.RUNNING)
    assert status == "Running" or status in (found.detail or "")
    assert not backend.confirm_dead(handle)
    assert backend.submit(world.spec) == handle
    assert len(puts_of(stub)) == 1


def test_every_status_the_sdk_knows_is_read_on_purpose() -> None:
    from azure.ai.ml._restclient.arm_ml_service.models import JobStatus

    assert {one.value for one in JobStatus} - {*WAITING, *MAY_WRITE} == {"Completed", "Failed", "Canceled"}


@pytest.mark.parametrize(
    ("status", "beat", "state"),
    [
        ("Failed", {"state": "fenced"}, JobState.FENCED),
        ("Failed", {"state": "stopped"}, JobState.LOST),
        ("Failed", {"state": "failed", "detail": "ValueError: no such column"}, JobState.FAILED),
        ("Failed", {"state": "training"}, JobState.FAILED),
        ("Failed", None, JobState.FAILED),
        ("Canceled", {"state": "stopped"}, JobState.LOST),
        ("Canceled", {"state": "finished"}, JobState.SUCCEEDED),
        ("Canceled", {"state": "training"}, JobState.LOST),
        ("Canceled", None, JobState.LOST),
    ],
)
def test_the_heartbeat_tells_how_it_ended(
    world: World, workspace: Workspace, status: str, beat: dict[str, Any] | None, state: JobState
) -> None:
    backend = leaf.open_backend(world.opening)
    handle = backend.submit(world.spec)
    if beat:
        world.beat(**beat)
    workspace.set(name_of(handle), status)
    found = backend.status(handle)
    assert found.state is state
    assert found.detail == (beat or {}).get("detail", f"Azure ML says {status}; its studio has the reason")
    assert backend.confirm_dead(handle)
    done = state in (JobState.FENCED, JobState.SUCCEEDED)
    assert backend.submit(world.spec).reference["attempt"] == (1 if done else 2)


@pytest.mark.parametrize(
    ("status", "beat", "state"),
    [
        ("Failed", {"state": "training"}, JobState.PREEMPTED),
        ("Failed", {"state": "failed"}, JobState.FAILED),
        ("Failed", None, JobState.FAILED),
        ("Canceled", {"state": "training"}, JobState.PREEMPTED),
        ("Canceled", {"state": "stopped"}, JobState.PREEMPTED),
    ],
)
def test_a_spot_job_cut_off_without_a_word_was_preempted(
    world: World, workspace: Workspace, status: str, beat: dict[str, Any] | None, state: JobState
) -> None:
    backend = leaf.open_backend(world.opening)
    handle = backend.submit(replace(world.spec, spot=True))
    if beat:
        world.beat(**beat)
    workspace.set(name_of(handle), status)
    assert backend.status(handle).state is state


def test_an_end_only_the_heartbeat_tells_is_not_guessed_while_the_bucket_is_away(
    world: World, workspace: Workspace
) -> None:
    handle = leaf.open_backend(world.opening).submit(world.spec)
    world.beat(state="fenced")
    without = leaf.open_backend(world.held_by("w", store=DeadStore))
    assert without.status(handle).state is JobState.PENDING
    workspace.set(name_of(handle), "Failed")
    with pytest.raises(ComputeUnavailable, match="bucket"):
        without.status(handle)
    assert without.confirm_dead(handle)
    assert leaf.open_backend(world.opening).status(handle).state is JobState.FENCED


# What is asked for. --------------------------------------------------------------------------------------------------


def test_the_job_is_what_the_spec_asks_for(make_world: Callable[..., World], workspace: Workspace) -> None:
    world = make_world(machine="Standard_NC6s_v3", identity="1234", experiment="fx")
    handle = leaf.open_backend(world.opening).submit(world.spec)
    asked = workspace.properties(name_of(handle))
    assert asked["resources"]["instanceType"] == "Standard_NC6s_v3"
    assert (asked["queueSettings"]["jobTier"], asked["limits"]["timeout"]) == ("Standard", "PT2H")
    assert asked["identity"] == {"identityType": "Managed", "clientId": "1234"}
    assert (asked["experimentName"], asked["displayName"]) == ("fx", name_of(handle))
    assert workspace.environments[asked["environmentId"]]["properties"]["image"] == SETTINGS["image"]
    assert asked["tags"] == {"holdfast-site": "site-c", "holdfast-run": RUN, "holdfast-spot": "false"}
    assert "computeId" not in asked
    environ = asked["environmentVariables"]
    assert {name: environ[name] for name in SECRETS} == SECRETS
    assert (environ["HOLDFAST_RUN"], environ["HOLDFAST_EPOCH"]) == (RUN, str(EPOCH))
    assert environ["HOLDFAST_HEARTBEAT"] == f"object:{heartbeat_key(RUN, EPOCH, 1)}"
    assert handle.reference["job"] == leaf.CommandJobs(world.opening, AzureML.model_validate(SETTINGS)).job_name(
        world.spec.name, 1
    )


def test_the_submitters_own_git_folder_is_not_told(
    world: World, workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "clone"
    folder.mkdir()
    subprocess.run(["git", "init", "--quiet", "--initial-branch", "secret-plans", str(folder)], check=True)
    subprocess.run(["git", "-C", str(folder), "remote", "add", "origin", "https://git.example/secret"], check=True)
    monkeypatch.chdir(folder)
    handle = leaf.open_backend(world.opening).submit(world.spec)
    assert "secret" not in str(workspace.properties(name_of(handle))["properties"])


@pytest.mark.parametrize(
    ("settings", "spec", "found"),
    [
        ({}, {"spot": True}, (None, "Spot", None)),
        ({}, {"machine": "Standard_D4s_v5"}, (None, "Standard", "Standard_D4s_v5")),
        ({"machine": "A"}, {"machine": "B", "spot": True}, (None, "Spot", "B")),
        ({"compute": "gpus"}, {}, ("gpus", None, None)),
        ({"compute": "gpus", "spot_compute": "spot-gpus"}, {"spot": True}, ("spot-gpus", None, None)),
        ({"compute": "gpus", "spot_compute": "spot-gpus"}, {}, ("gpus", None, None)),
        ({"spot_compute": "spot-gpus"}, {}, (None, "Standard", None)),
    ],
)
def test_a_placement_is_a_cluster_or_a_tier_of_serverless(
    make_world: Callable[..., World],
    workspace: Workspace,
    settings: dict[str, Any],
    spec: dict[str, Any],
    found: tuple[str | None, str | None, str | None],
) -> None:
    world = make_world(**settings)
    handle = leaf.open_backend(world.opening).submit(replace(world.spec, **spec))
    asked = workspace.properties(name_of(handle))
    cluster = asked.get("computeId", "").rsplit("/", 1)[-1] or None
    tier, machine = asked.get("queueSettings", {}).get("jobTier"), asked.get("resources", {}).get("instanceType")
    assert (cluster, tier, machine) == found
    assert asked["tags"]["holdfast-spot"] == str(spec.get("spot", False)).lower()


@pytest.mark.parametrize("change", [{"machine": "Standard_NC6"}, {"spot": True}])
def test_what_a_cluster_cannot_do_is_refused_before_anything_is_made(
    make_world: Callable[..., World], stub: Stub, change: dict[str, Any]
) -> None:
    world = make_world(compute="gpus")
    backend = leaf.open_backend(world.opening)
    assert not backend.capabilities().spot
    with pytest.raises(JobNotStarted, match="gpus"):
        backend.submit(replace(world.spec, **change))
    assert stub.sent("PUT") == []
    assert list(world.store.list("runs/")) == []


def test_the_command_line_becomes_the_job_in_the_images_folder(
    make_world: Callable[..., World], workspace: Workspace, tmp_path: Path
) -> None:
    folder = tmp_path / "an image's folder"
    folder.mkdir()
    (folder / "train.sh").write_text('cat "$HOLDFAST_TOPOLOGY"; echo "$1"; echo "$CLOUD"; echo $$; exit 76')
    world = make_world(working_folder=str(folder))
    spec = replace(world.spec, command=("/bin/sh", "train.sh", "a 'b' $HOME"))
    spec = replace(spec, environment={**spec.environment, "CLOUD": 'line 1\nline "2"'})
    handle = leaf.open_backend(world.opening).submit(spec)
    asked = workspace.properties(name_of(handle))
    elsewhere = tmp_path / "wd"
    elsewhere.mkdir()
    process = subprocess.Popen(
        ["bash", "-c", asked["command"]],
        cwd=elsewhere,
        env={**asked["environmentVariables"], "PATH": "/usr/bin:/bin", "TMPDIR": str(tmp_path)},
        stdout=subprocess.PIPE,
        text=True,
    )
    output, _ = process.communicate(timeout=30)
    expected = f"{world.topology_text}a 'b' $HOME\nline 1\nline \"2\"\n{process.pid}\n"
    assert (output, process.returncode) == (expected, 76)


def test_names_are_the_buckets_own_and_never_cut_into_one_another(world: World) -> None:
    settings = AzureML.model_validate(SETTINGS)
    mine = leaf.CommandJobs(world.opening, settings)
    site = world.opening.site.model_copy(update={"bucket": "staging"})
    other = leaf.CommandJobs(replace(world.opening, site=site), settings)
    long = "r" * 300
    names = [
        mine.job_name("fx.e1", 1),
        mine.job_name("fx.e1", 2),
        mine.job_name("fx.e11", 1),
        other.job_name("fx.e1", 1),
        mine.job_name(f"{long}.e1", 1),
        mine.job_name(f"{long}.e2", 1),
    ]
    assert len(set(names)) == len(names)
    assert all(len(name) <= 100 for name in names)
    assert mine.job_name("fx.e1", 1) == names[0]


# One writer. ---------------------------------------------------------------------------------------------------------


def test_a_second_submitter_reattaches(world: World, workspace: Workspace, stub: Stub) -> None:
    first = leaf.open_backend(world.opening).submit(world.spec)
    backend = leaf.open_backend(world.held_by("worker-2"))
    assert backend.submit(world.spec) == first
    assert backend.find(world.spec.name) == first
    assert len(puts_of(stub)) == 1


@pytest.mark.parametrize("changed", [False, True])
def test_a_name_clash_reattaches_and_starts_nothing(
    world: World, workspace: Workspace, stub: Stub, changed: bool
) -> None:
    """A look that came before the other's job: the service decides, whether the definitions are the same or not."""
    first = leaf.open_backend(world.opening).submit(world.spec)
    workspace.set(name_of(first), "Running")
    if changed:
        world.opening.topology.path.write_text(world.topology_text + "\n")
    stub.fail("GET", arm_error(404, "UserError", "Job not found."))
    assert leaf.open_backend(world.opening).submit(world.spec) == first
    assert (len(workspace.jobs), len(puts_of(stub)), workspace.updates) == (1, 2, 0 if changed else 1)
    assert leaf.open_backend(world.opening).status(first).state is JobState.RUNNING


def test_a_submitter_that_died_before_the_put_leaves_its_name_to_whoever_comes(
    world: World, workspace: Workspace
) -> None:
    claim_attempt(world.store, world.spec, 1, holder="worker-1")
    other = leaf.open_backend(world.held_by("worker-2"))
    with pytest.raises(ComputeUnavailable, match="worker-1"):
        other.submit(world.spec)
    assert not workspace.jobs
    world.store.passes(CLAIM_SECONDS + 5)
    handle = other.submit(world.spec)
    assert handle.reference["attempt"] == 1
    # The claimant had only slept: what it sends now meets the job of its name.
    slept = leaf.CommandJobs(world.opening, AzureML.model_validate(SETTINGS))
    backend = leaf.ClaimedBackend(world.opening, slept)
    slept.create(name_of(handle), backend._order(world.spec, 1))
    assert (len(workspace.jobs), workspace.updates) == (1, 1)


def test_a_submitter_killed_between_the_put_and_its_return_is_reattached_to(
    world: World, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    backend = leaf.open_backend(world.opening)
    with monkeypatch.context() as patch:

        def killed(*_: Any) -> Any:
            raise Killed

        patch.setattr(leaf.ClaimedBackend, "_handle", killed)
        with pytest.raises(Killed):
            backend.submit(world.spec)
    assert len(workspace.jobs) == 1
    handle = leaf.open_backend(world.held_by("worker-2")).submit(world.spec)
    assert (handle.reference["attempt"], list(workspace.jobs)) == (1, [name_of(handle)])


def test_the_loser_of_a_race_waits_for_the_winners_job(world: World, workspace: Workspace, stub: Stub) -> None:
    claim_attempt(world.store, world.spec, 1, holder="worker-1")
    winner, sleep = leaf.open_backend(world.opening), world.clock.sleep

    def winner_gets_on(seconds: float) -> None:
        sleep(seconds)
        if not workspace.jobs:
            winner.submit(world.spec)

    world.clock.sleep = winner_gets_on  # type: ignore[method-assign]
    assert leaf.open_backend(world.held_by("worker-2")).submit(world.spec) == winner.find(world.spec.name)
    assert len(puts_of(stub)) == 1


def lose_answers_of_jobs(stub: Stub, times: int, answer: Answer | None) -> None:
    """The next PUTs of jobs are carried out and answered with this; None: the connection closes without an answer."""
    service, left = stub.service, [times]

    def losing(method: str, path: str, query: dict[str, str], body: Any) -> Answer | None:
        found = service(method, path, query, body)
        if method == "PUT" and "/jobs/" in path and left[0]:
            left[0] -= 1
            return answer
        return found

    stub.service = losing


@pytest.mark.parametrize("answer", [None, arm_error(503, "ServiceUnavailable")])
def test_an_answer_lost_after_the_job_was_made_is_asked_for_again_and_makes_nothing_twice(
    world: World, workspace: Workspace, stub: Stub, answer: Answer | None
) -> None:
    lose_answers_of_jobs(stub, 1, answer)
    leaf.open_backend(world.opening).submit(world.spec)
    assert (len(workspace.jobs), workspace.updates, len(puts_of(stub))) == (1, 1, 2)


def test_a_submit_without_any_answer_is_found_out_by_asking_again(
    world: World, workspace: Workspace, stub: Stub
) -> None:
    lose_answers_of_jobs(stub, 3, None)
    with pytest.raises(ComputeUnavailable):
        leaf.open_backend(world.opening).submit(world.spec)
    assert leaf.open_backend(world.held_by("worker-2")).submit(world.spec).reference["attempt"] == 1
    assert (len(workspace.jobs), len(puts_of(stub))) == (1, 3)


def test_a_closed_connection_is_not_a_failed_submit(world: World, workspace: Workspace, stub: Stub) -> None:
    stub.fail("PUT", None, effect=True)  # of the environment
    assert leaf.open_backend(world.opening).submit(world.spec).reference["attempt"] == 1
    assert len(workspace.jobs) == 1


# When the service does not answer, or refuses. -----------------------------------------------------------------------


@pytest.mark.parametrize("answer", [None, arm_error(503, "ServiceUnavailable"), arm_error(429, "TooManyRequests")])
def test_a_service_that_does_not_answer_is_unavailable_and_never_a_lost_job(
    world: World, workspace: Workspace, stub: Stub, answer: Any
) -> None:
    backend = leaf.open_backend(world.opening)
    handle = backend.submit(world.spec)
    workspace.set(name_of(handle), "Running")
    before = len(stub.sent("GET"))
    stub.fail("GET", answer, times=2)
    assert backend.status(handle).state is JobState.RUNNING  # the third try
    stub.fail("GET", answer, times=10)
    with pytest.raises(ComputeUnavailable):
        backend.status(handle)
    assert len(stub.sent("GET")) - before == 6
    assert not backend.confirm_dead(handle)
    stub.faults.clear()
    assert backend.status(handle).state is JobState.RUNNING


def test_nothing_listens_is_unavailable(world: World, free_port: int) -> None:
    backend = leaf.open_backend(world.held_by("w", client=lambda: client_of(f"http://127.0.0.1:{free_port}")))
    with pytest.raises(ComputeUnavailable):
        backend.submit(world.spec)


def test_every_client_of_the_sdk_has_the_limits_and_sends_no_telemetry() -> None:
    client = leaf.ml_client(AzureML.model_validate(SETTINGS), Token(), "AzureCloud")
    assert not client._operation_config.enable_telemetry
    services = [one for name, one in vars(client).items() if name.startswith("_service_client")]
    assert len(services) > 5
    for service in services:
        transport, retries = service._client._pipeline._transport, service._config.retry_policy
        assert (transport.connection_config.timeout, transport.connection_config.read_timeout) == (5, 20)
        assert (retries.total_retries, retries.timeout) == (2, 30)


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (arm_error(403, "AuthorizationFailed"), ComputeRefused),
        (arm_error(401, "InvalidAuthenticationToken"), ComputeRefused),
        (arm_error(400, "UserError", "The image name is not valid."), JobNotStarted),
    ],
)
def test_a_refusal_says_so_and_leaves_no_claim(world: World, stub: Stub, answer: Any, error: type[Exception]) -> None:
    stub.fail("PUT", answer)
    with pytest.raises(error, match="fx-volatility"):
        leaf.open_backend(world.opening).submit(world.spec)
    assert list(world.store.list("runs/")) == []


@pytest.mark.parametrize(
    "answer",
    [
        arm_error(
            400,
            "UserError",
            "The specified subscription has a Standard DSv2 family vCPU quota of 2 and is less than the requested job "
            "node count of 2 which maps to 4 vCPUs.",
        ),
        arm_error(400, "ClusterMinNodesExceedCoreQuota", "no"),
    ],
)
def test_a_quota_that_is_used_up_is_no_room_and_keeps_no_claim(world: World, stub: Stub, answer: Any) -> None:
    stub.fail("PUT", answer)
    with pytest.raises(NoCapacity):
        leaf.open_backend(world.opening).submit(world.spec)
    assert leaf.open_backend(world.held_by("worker-2")).submit(world.spec).reference["attempt"] == 1


def test_a_cluster_that_is_not_there_is_told(make_world: Callable[..., World]) -> None:
    world = make_world(compute="gone")
    with pytest.raises(JobNotStarted, match="Unknown compute target"):
        leaf.open_backend(world.opening).submit(world.spec)


@pytest.mark.parametrize(("attribute", "code"), [("workspace", "ResourceNotFound"), ("group", "ResourceGroupNotFound")])
def test_a_workspace_that_is_not_there_is_no_lost_job(
    world: World, workspace: Workspace, attribute: str, code: str
) -> None:
    backend = leaf.open_backend(world.opening)
    handle = backend.submit(world.spec)
    world.store.passes(CLAIM_SECONDS + 5)
    setattr(workspace, attribute, "renamed")
    with pytest.raises(JobNotStarted, match=code):
        backend.status(handle)


def test_a_job_someone_deleted_is_lost_once_its_claim_is_old(world: World, workspace: Workspace) -> None:
    backend = leaf.open_backend(world.opening)
    handle = backend.submit(world.spec)
    world.beat(state="training", step=3)
    workspace.jobs.clear()
    assert backend.status(handle).state is JobState.PENDING
    assert not backend.confirm_dead(handle)
    world.store.passes(CLAIM_SECONDS + 5)
    assert backend.status(handle).state is JobState.LOST
    assert backend.confirm_dead(handle)
    assert backend.submit(world.spec).reference["attempt"] == 2


def test_what_the_sdk_refuses_itself_is_no_job(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    from azure.ai.ml.exceptions import UserErrorException
    from azure.ai.ml.operations import JobOperations

    def refuse(*_: Any, **__: Any) -> Any:
        raise UserErrorException("not like this")

    monkeypatch.setattr(JobOperations, "create_or_update", refuse)
    with pytest.raises(JobNotStarted, match="not like this"):
        leaf.open_backend(world.opening).submit(world.spec)
    assert list(world.store.list("runs/")) == []


# To its end. ---------------------------------------------------------------------------------------------------------


def test_a_stop_asks_for_a_checkpoint_waits_for_it_and_then_cancels(
    world: World, workspace: Workspace, stub: Stub
) -> None:
    backend = leaf.open_backend(world.opening)
    handle = backend.submit(world.spec)
    workspace.set(name_of(handle), "Running")
    world.beat(state="training", step=9, checkpoint={"step": 5})
    sleep, cancels_before_checkpoint = world.clock.sleep, []

    def the_job_saves(seconds: float) -> None:
        sleep(seconds)
        if stub.sent("POST"):
            return
        if world.store.head(f"{heartbeat_key(RUN, EPOCH, 1)}.request"):
            cancels_before_checkpoint.append(len(stub.sent("POST")))
            world.beat(state="training", step=10, checkpoint={"step": 9})

    world.clock.sleep = the_job_saves  # type: ignore[method-assign]
    assert backend.stop(handle, grace_seconds=60).state is JobState.LOST
    assert cancels_before_checkpoint == [0]
    assert len(stub.sent("POST")) == 1
    assert backend.confirm_dead(handle)
    assert backend.stop(handle, grace_seconds=0).state is JobState.LOST
    assert len(stub.sent("POST")) == 1


def test_a_spot_job_that_was_asked_to_stop_was_not_preempted(world: World, workspace: Workspace) -> None:
    backend = leaf.open_backend(world.opening)
    handle = backend.submit(replace(world.spec, spot=True))
    workspace.set(name_of(handle), "Running")
    world.beat(state="training", step=9)
    assert backend.stop(handle, grace_seconds=0).state is JobState.LOST


@pytest.mark.slow
def test_a_cancel_that_does_not_come_through_leaves_a_job_that_may_write(world: World, workspace: Workspace) -> None:
    backend = leaf.open_backend(world.opening)
    handle = backend.submit(world.spec)
    workspace.set(name_of(handle), "Running")
    workspace.cancel_looks = None
    stopped = backend.stop(handle, grace_seconds=0)
    assert (stopped.state, stopped.detail) == (JobState.RUNNING, "Azure ML says CancelRequested")
    assert not backend.confirm_dead(handle)
    assert backend.submit(world.spec) == handle


def test_a_job_that_ended_before_its_cancel_is_no_error(world: World, workspace: Workspace, stub: Stub) -> None:
    backend = leaf.open_backend(world.opening)
    handle = backend.submit(world.spec)
    service = leaf.CommandJobs(world.opening, AzureML.model_validate(SETTINGS))
    workspace.set(name_of(handle), "Completed")
    service.halt(name_of(handle))
    service.halt("never-was")
    workspace.set(name_of(handle), "Running")
    stub.fail("POST", arm_error(409, "Conflict"))
    with pytest.raises(ComputeUnavailable):
        service.halt(name_of(handle))
    stub.fail("POST", arm_error(403, "AuthorizationFailed"))
    with pytest.raises(ComputeRefused, match="cancel/action"):
        service.halt(name_of(handle))


def test_a_checkpoint_is_asked_for_in_the_bucket(world: World) -> None:
    backend = leaf.open_backend(world.opening)
    handle = backend.submit(world.spec)
    backend.request_checkpoint(handle)
    assert world.store.get(f"{heartbeat_key(RUN, EPOCH, 1)}.request") == b""
    assert backend.capabilities().can_request_checkpoint


def test_links_lead_to_the_studio_and_the_log_is_there(world: World) -> None:
    backend = leaf.open_backend(world.opening)
    handle = backend.submit(world.spec)
    links = backend.links(handle)
    assert links["console"] == (
        f"https://ml.azure.com/runs/{name_of(handle)}"
        "?wsid=/subscriptions/0000/resourcegroups/training/workspaces/models"
    )
    assert links["logs"].startswith(links["console"])
    assert backend.log(handle) == ""


# Settings and login. -------------------------------------------------------------------------------------------------


def test_without_a_hook_the_connection_logs_in_at_its_own_cloud(world: World) -> None:
    extra = {"tenantId": "tenant", "cloud_environment": "AzureUSGovernment"}
    of = Connection(conn_id="c", conn_type="azure", login="app", password="secret", extra=extra)
    settings = AzureML.model_validate(SETTINGS)
    client = leaf.CommandJobs(world.held_by("w", client=None, connection=lambda: of), settings)._client()
    assert client.workspace_name == "models"
    assert client._base_url == "https://management.usgovcloudapi.net"
    assert type(client._credential).__name__ == "ClientSecretCredential"
    nowhere = of.model_copy(update={"extra": {"cloud_environment": "AzureMoon"}})
    with pytest.raises(ConfigError, match="AzureMoon"):
        leaf.CommandJobs(world.held_by("w", client=None, connection=lambda: nowhere), settings)._client()


def test_a_missing_sdk_names_the_extra(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "azure.ai.ml", None)
    with pytest.raises(ConfigError, match=r"holdfast\[azureml\]"):
        leaf.open_backend(world.opening)
    with pytest.raises(ConfigError, match=r"holdfast\[azureml\]"):
        leaf.ml_client(AzureML.model_validate(SETTINGS), Token(), "AzureCloud")


@pytest.mark.parametrize(
    ("compute", "says"),
    [
        ({"kind": "azure-ml"}, "azure_ml"),
        ({"kind": "azure-ml", "azure_ml": {**SETTINGS, "compute": "gpus", "machine": "A"}}, "machine A"),
        ({"kind": "azure-ml", "azure_ml": {**SETTINGS, "timeout_seconds": 0}}, "timeout_seconds"),
        ({"kind": "azure-ml", "azure_ml": {**SETTINGS, "cluster": "gpus"}}, "cluster"),
        ({"kind": "azure-ml", "azure_ml": {"workspace": "models"}}, "image"),
    ],
)
def test_settings_that_are_wrong_name_the_field(compute: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        Compute.model_validate(compute)


def test_the_stub_refuses_what_the_models_do_not_know() -> None:
    from azure.ai.ml._restclient.arm_ml_service import models

    good = {
        "jobType": "Command",
        "command": "true",
        "environmentId": "/e",
        "environmentVariables": {"A": "b"},
        "queueSettings": {"jobTier": "Spot"},
    }
    check_rest_fields(models.JobBase, {"properties": good})
    for wrong in (
        {**good, "comand": "true"},
        {**good, "status": "Running"},
        {**good, "environmentVariables": {"A": 1}},
        {**good, "queueSettings": {"jobTier": "Cheap"}},
        {**good, "resources": {"instanceType": 6}},
        {"jobType": "Command", "environmentId": "/e"},
    ):
        with pytest.raises(Wrong):
            check_rest_fields(models.JobBase, {"properties": wrong})
