"""Container groups by the real SDK, against a local server that reads bodies by the SDK's models.

Nothing here ran on Azure: how the service treats a body is its documentation's word.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from azure_container_stub import ContainerGroups
from azure_stub import Stub, arm_error, serving
from azure_world import EPOCH, RUN, SECRETS, DeadStore, World
from holdfast.engine.compute import (
    AlreadyRuns,
    ComputeRefused,
    ComputeUnavailable,
    JobNotStarted,
    JobState,
    NoCapacity,
    UnknownHandle,
)
from holdfast.engine.compute import azure_container_instances as leaf
from holdfast.engine.compute.claimed import CLAIM_SECONDS
from holdfast.engine.compute.interface import JobHandle
from holdfast.engine.compute.remote import claim_attempt, heartbeat_key
from holdfast.engine.config import Connection
from holdfast.errors import ConfigError

SETTINGS = {
    "subscription": "0000",
    "resource_group": "training",
    "image": "registry/trainer:1",
    "cpus": 2,
    "memory_gib": 4,
    "identity": "/subscriptions/0000/identities/trainer",
}
COMPUTE = {"kind": "azure-container-instances", "azure_container_instances": SETTINGS}


def client_of(url: str) -> Any:
    from azure.core.pipeline.policies import SansIOHTTPPolicy
    from azure.mgmt.containerinstance import ContainerInstanceManagementClient

    # A token may not travel without TLS; the stub asks for none.
    return ContainerInstanceManagementClient(
        object(),  # type: ignore[arg-type]
        "0000",
        base_url=url,
        authentication_policy=SansIOHTTPPolicy(),
    )


@pytest.fixture
def groups() -> ContainerGroups:
    return ContainerGroups()


@pytest.fixture
def stub(groups: ContainerGroups) -> Stub:
    return Stub(groups)


@pytest.fixture
def world(stub: Stub, tmp_path: Path) -> Iterator[World]:
    with serving(stub) as url:
        yield World(tmp_path, COMPUTE, lambda: client_of(url))


def name_of(handle: JobHandle) -> str:
    return str(handle.reference["job"])


def test_a_job_waits_runs_and_succeeds(world: World, groups: ContainerGroups) -> None:
    backend = leaf.open_backend(world.opening)
    handle = backend.submit(world.spec)
    assert backend.status(handle).state is JobState.PENDING
    groups.run(name_of(handle))
    world.beat(state="training", step=7, total_steps=40)
    running = backend.status(handle)
    assert (running.state, running.step, running.total_steps) == (JobState.RUNNING, 7, 40)
    assert not backend.confirm_dead(handle)
    groups.exit(name_of(handle), 0, "Completed")
    assert backend.status(handle).state is JobState.SUCCEEDED
    assert backend.confirm_dead(handle)
    assert backend.submit(world.spec) == handle


def test_the_group_is_what_the_job_asks_for(world: World, groups: ContainerGroups) -> None:
    handle = leaf.open_backend(world.opening).submit(world.spec)
    body = groups.groups[name_of(handle)]
    properties = body["properties"]
    (container,) = properties["containers"]
    assert (body["location"], properties["restartPolicy"], properties["priority"]) == ("westeurope", "Never", "Regular")
    assert body["identity"]["userAssignedIdentities"] == {SETTINGS["identity"]: {}}
    assert container["properties"]["command"] == ["python", "-u", "train.py", "--flag"]
    assert container["properties"]["resources"]["requests"] == {"cpu": 2.0, "memoryInGB": 4.0}
    environ = {variable["name"]: variable for variable in container["properties"]["environmentVariables"]}
    assert environ["HOLDFAST_HEARTBEAT"]["value"] == f"object:{heartbeat_key(RUN, EPOCH, 1)}"
    assert {name: environ[name]["secureValue"] for name in SECRETS} == SECRETS


def test_the_topologys_text_lies_where_the_container_is_told(world: World, groups: ContainerGroups) -> None:
    handle = leaf.open_backend(world.opening).submit(world.spec)
    properties = groups.groups[name_of(handle)]["properties"]
    (container,) = properties["containers"]
    (volume,), (mount,) = properties["volumes"], container["properties"]["volumeMounts"]
    told = next(v["value"] for v in container["properties"]["environmentVariables"] if v["name"] == "HOLDFAST_TOPOLOGY")
    folder, _, file = told.rpartition("/")
    assert (mount["name"], mount["mountPath"]) == (volume["name"], folder)
    assert base64.b64decode(volume["secret"][file]).decode() == world.topology_text


def test_spot_is_the_groups_priority(world: World, groups: ContainerGroups) -> None:
    handle = leaf.open_backend(world.opening).submit(replace(world.spec, spot=True))
    assert groups.groups[name_of(handle)]["properties"]["priority"] == "Spot"


@pytest.mark.parametrize(
    ("code", "state"),
    [(76, JobState.FENCED), (75, JobState.LOST), (1, JobState.FAILED), (137, JobState.LOST), (143, JobState.LOST)],
)
def test_an_exit_code_tells_how_it_ended(world: World, groups: ContainerGroups, code: int, state: JobState) -> None:
    backend = leaf.open_backend(world.opening)
    handle = backend.submit(world.spec)
    groups.exit(name_of(handle), code)
    status = backend.status(handle)
    assert status.state is state
    assert str(code) in (status.detail or "")


def test_a_fenced_job_is_not_started_again_and_a_stopped_one_is(world: World, groups: ContainerGroups) -> None:
    backend = leaf.open_backend(world.opening)
    first = backend.submit(world.spec)
    groups.exit(name_of(first), 75)
    second = backend.submit(world.spec)
    assert second.reference["attempt"] == 2
    assert backend.find(world.spec.name) == second
    groups.exit(name_of(second), 76)
    assert backend.submit(world.spec) == second
    assert len(groups.groups) == 2


def test_a_second_submitter_reattaches(world: World, groups: ContainerGroups, stub: Stub) -> None:
    first = leaf.open_backend(world.opening).submit(world.spec)
    second = leaf.open_backend(world.held_by("worker-2")).submit(world.spec)
    assert second == first
    assert len(stub.sent("PUT")) == 1


def test_the_loser_of_a_race_waits_for_the_winners_group(world: World, groups: ContainerGroups, stub: Stub) -> None:
    claim_attempt(world.store, world.spec, 1, holder="worker-1")
    winner, sleep = leaf.open_backend(world.opening), world.clock.sleep

    def winner_gets_on(seconds: float) -> None:
        sleep(seconds)
        if not groups.groups:
            winner.submit(world.spec)

    world.clock.sleep = winner_gets_on  # type: ignore[method-assign]
    loser = leaf.open_backend(world.held_by("worker-2")).submit(world.spec)
    assert loser == winner.find(world.spec.name)
    assert len(stub.sent("PUT")) == 1


def test_a_lost_answer_to_the_put_is_found_out_by_asking_again(
    world: World, groups: ContainerGroups, stub: Stub
) -> None:
    stub.fail("PUT", None, effect=True)
    backend = leaf.open_backend(world.opening)
    with pytest.raises(ComputeUnavailable):
        backend.submit(world.spec)
    assert leaf.open_backend(world.held_by("worker-2")).submit(world.spec).reference["attempt"] == 1
    assert (len(groups.groups), groups.updates, len(stub.sent("PUT"))) == (1, 0, 1)


@pytest.mark.parametrize("slow_seconds", [0, 3600, -3600])
def test_a_claim_without_a_group_is_left_to_its_claimant_until_it_is_old(
    world: World, groups: ContainerGroups, slow_seconds: int
) -> None:
    world.clock.advance(-slow_seconds)  # this machine's clock, which has no say in it
    claim_attempt(world.store, world.spec, 1, holder="worker-1")  # then it died
    other = leaf.open_backend(world.held_by("worker-2"))
    with pytest.raises(ComputeUnavailable, match="worker-1"):
        other.submit(world.spec)
    assert not groups.groups
    world.store.passes(CLAIM_SECONDS + 5)
    handle = other.submit(world.spec)
    # Under the name the claimant would use: if it only slept, its PUT meets this group.
    assert handle.reference["attempt"] == 1
    assert len(groups.groups) == 1


def test_no_room_when_it_is_asked_for_starts_nothing_and_keeps_no_claim(
    world: World, groups: ContainerGroups, stub: Stub
) -> None:
    message = "The requested resource is not available in the location 'westeurope' at this moment."
    stub.fail("PUT", arm_error(409, "ServiceUnavailable", message))
    with pytest.raises(NoCapacity, match="westeurope"):
        leaf.open_backend(world.opening).submit(world.spec)
    assert leaf.open_backend(world.held_by("worker-2")).submit(world.spec).reference["attempt"] == 1
    assert len(groups.groups) == 1


def test_an_end_the_submitter_does_not_know_of_is_found_and_not_started_again(
    world: World, groups: ContainerGroups
) -> None:
    backend = leaf.open_backend(world.opening)
    unknown, known = replace(world.spec, after=0), replace(world.spec, after=1)
    first = backend.submit(unknown)
    groups.run(name_of(first))
    groups.exit(name_of(first), 3)
    assert backend.submit(unknown) == first
    second = backend.submit(known)
    assert (first.attempt, second.attempt) == (1, 2)
    assert backend.submit(known) == second
    assert backend.submit(unknown) == second


@pytest.mark.parametrize("beats", [True, False])
def test_an_attempt_that_ended_and_is_gone_is_not_begun_again(
    world: World, groups: ContainerGroups, *, beats: bool
) -> None:
    backend = leaf.open_backend(world.opening)
    first = backend.submit(replace(world.spec, after=0))
    if beats:
        world.beat(state="training")
    del groups.groups[name_of(first)]
    assert backend.submit(replace(world.spec, after=1)).attempt == 2


def test_a_quota_that_is_used_up_is_no_room(world: World, stub: Stub) -> None:
    stub.fail("PUT", arm_error(409, "ContainerGroupQuotaReached", "quota 'StandardCores' exceeded in region"))
    with pytest.raises(NoCapacity):
        leaf.open_backend(world.opening).submit(world.spec)


def test_no_room_found_out_while_provisioning_is_no_room_and_the_next_submit_tries_again(
    world: World, groups: ContainerGroups
) -> None:
    backend = leaf.open_backend(world.opening)
    handle = backend.submit(world.spec)
    groups.fail_provisioning(name_of(handle), "InsufficientCapacity.", "not available in the location")
    assert backend.status(handle).state is JobState.NO_CAPACITY
    assert backend.confirm_dead(handle)
    assert backend.submit(world.spec).reference["attempt"] == 2


def test_provisioning_that_fails_otherwise_is_a_failed_job(world: World, groups: ContainerGroups) -> None:
    backend = leaf.open_backend(world.opening)
    handle = backend.submit(world.spec)
    groups.fail_provisioning(name_of(handle), "ImagePullFailed", "no such image")
    status = backend.status(handle)
    assert status.state is JobState.FAILED
    assert "no such image" in (status.detail or "")


@pytest.mark.parametrize("answer", [None, arm_error(503, "ServiceUnavailable"), arm_error(429, "TooManyRequests")])
def test_a_service_that_does_not_answer_is_unavailable_and_never_a_lost_job(
    world: World, groups: ContainerGroups, stub: Stub, answer: Any
) -> None:
    backend = leaf.open_backend(world.opening)
    handle = backend.submit(world.spec)
    groups.run(name_of(handle))
    before = len(stub.sent("GET"))
    stub.fail("GET", answer, times=10)
    with pytest.raises(ComputeUnavailable):
        backend.status(handle)
    assert len(stub.sent("GET")) - before <= 3  # the retries are bounded
    stub.fail("GET", answer, times=10)
    assert not backend.confirm_dead(handle)
    stub.faults.clear()
    assert backend.status(handle).state is JobState.RUNNING


def test_nothing_listens_is_unavailable(world: World, free_port: int) -> None:
    backend = leaf.open_backend(world.held_by("w", client=lambda: client_of(f"http://127.0.0.1:{free_port}")))
    with pytest.raises(ComputeUnavailable):
        backend.submit(world.spec)


def test_a_bucket_that_is_gone_hides_the_steps_and_not_the_job(world: World, groups: ContainerGroups) -> None:
    handle = leaf.open_backend(world.opening).submit(world.spec)
    groups.run(name_of(handle))
    without = leaf.open_backend(world.held_by("w", store=DeadStore))
    assert without.status(handle).state is JobState.RUNNING
    with pytest.raises(ComputeUnavailable):
        without.submit(world.spec)
    assert without.stop(handle, grace_seconds=5).state is JobState.STOPPED


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (arm_error(403, "AuthorizationFailed"), ComputeRefused),
        (arm_error(401, "InvalidAuthenticationToken"), ComputeRefused),
        (arm_error(400, "InvalidImageName"), JobNotStarted),
    ],
)
def test_a_refusal_says_so_and_leaves_no_claim(world: World, stub: Stub, answer: Any, error: type[Exception]) -> None:
    stub.fail("PUT", answer)
    with pytest.raises(error, match="fx-volatility"):
        leaf.open_backend(world.opening).submit(world.spec)
    assert list(world.store.list("runs/")) == []


def test_a_resource_group_that_is_not_there_is_no_lost_job(world: World, groups: ContainerGroups) -> None:
    backend = leaf.open_backend(world.opening)
    handle = backend.submit(world.spec)
    groups.resource_group = "renamed"
    with pytest.raises(JobNotStarted, match="ResourceGroupNotFound"):
        backend.status(handle)


def test_a_group_someone_deleted_is_lost_once_its_claim_is_old(world: World, groups: ContainerGroups) -> None:
    backend = leaf.open_backend(world.opening)
    handle = backend.submit(world.spec)
    world.beat(state="training", step=3)
    groups.groups.clear()
    world.clock.advance(3600)
    assert backend.status(handle).state is JobState.PENDING  # Resource Manager may be late to show it
    assert not backend.confirm_dead(handle)
    world.store.passes(CLAIM_SECONDS + 5)
    assert backend.status(handle).state is JobState.LOST
    assert backend.confirm_dead(handle)
    assert backend.submit(world.spec).reference["attempt"] == 2


def test_a_stop_asks_for_a_checkpoint_waits_for_it_and_then_ends_the_group(
    world: World, groups: ContainerGroups, stub: Stub
) -> None:
    backend = leaf.open_backend(world.opening)
    handle = backend.submit(world.spec)
    groups.run(name_of(handle))
    world.beat(state="training", step=9, checkpoint={"step": 5})
    sleep, stops_before_checkpoint = world.clock.sleep, []

    def the_job_saves(seconds: float) -> None:
        sleep(seconds)
        if world.store.head(f"{heartbeat_key(RUN, EPOCH, 1)}.request"):
            stops_before_checkpoint.append(len(stub.sent("POST")))
            world.beat(state="training", step=10, checkpoint={"step": 9})

    world.clock.sleep = the_job_saves  # type: ignore[method-assign]
    assert backend.stop(handle, grace_seconds=60).state is JobState.STOPPED
    assert stops_before_checkpoint == [0]
    assert len(stub.sent("POST")) == 1
    assert backend.confirm_dead(handle)
    assert name_of(handle) in groups.groups  # its events and state stay


def test_a_stop_waits_no_longer_for_a_checkpoint_than_the_grace(world: World, groups: ContainerGroups) -> None:
    backend = leaf.open_backend(world.opening)
    handle = backend.submit(world.spec)
    groups.run(name_of(handle))
    groups.code_on_stop = 137
    world.beat(state="training", step=9)
    began = world.clock.monotonic()
    assert backend.stop(handle, grace_seconds=30).state is JobState.LOST
    assert world.clock.monotonic() - began == pytest.approx(30, abs=2)


def test_a_spot_group_that_is_stopped_unasked_is_preempted(world: World, groups: ContainerGroups) -> None:
    backend = leaf.open_backend(world.opening)
    handle = backend.submit(replace(world.spec, spot=True))
    groups.run(name_of(handle))
    groups.evict(name_of(handle))
    assert backend.status(handle).state is JobState.PREEMPTED
    groups.code_on_stop = 137
    second = backend.submit(replace(world.spec, spot=True))
    groups.run(name_of(second))
    assert backend.stop(second, grace_seconds=0).state is JobState.LOST


def test_a_spot_group_that_saved_and_left_unasked_is_preempted(world: World, groups: ContainerGroups) -> None:
    backend = leaf.open_backend(world.opening)
    handle = backend.submit(replace(world.spec, spot=True))
    groups.exit(name_of(handle), 75)
    world.beat(state="stopped", step=5)
    assert backend.status(handle).state is JobState.PREEMPTED
    second = backend.submit(replace(world.spec, spot=True))
    groups.run(name_of(second))
    assert backend.stop(second, grace_seconds=0).state is JobState.STOPPED
    elsewhere = leaf.open_backend(world.held_by("worker-2"))
    assert elsewhere.status(second).state is JobState.STOPPED


def test_a_spot_group_that_ran_out_of_memory_failed_and_was_not_preempted(
    world: World, groups: ContainerGroups
) -> None:
    backend = leaf.open_backend(world.opening)
    handle = backend.submit(replace(world.spec, spot=True))
    groups.exit(name_of(handle), 137, "OOMKilled")
    assert backend.status(handle).state is JobState.FAILED


def test_a_machine_type_is_refused_before_anything_is_made(world: World, stub: Stub) -> None:
    with pytest.raises(JobNotStarted, match="cpus"):
        leaf.open_backend(world.opening).submit(replace(world.spec, machine="Standard_NC6"))
    assert stub.sent("PUT") == []


def test_a_group_that_ended_but_may_write_is_not_followed_by_a_second(world: World, monkeypatch: Any) -> None:
    from holdfast.engine.compute.claimed import Seen

    backend = leaf.open_backend(world.opening)
    backend.submit(world.spec)
    monkeypatch.setattr(leaf.ContainerGroups, "look", lambda *_: Seen(JobState.FAILED, alive=True))
    with pytest.raises(AlreadyRuns):
        backend.submit(world.spec)


def test_log_links_and_heartbeat(world: World) -> None:
    backend = leaf.open_backend(world.opening)
    handle = backend.submit(world.spec)
    assert backend.log(handle, last_bytes=7) == "step 2\n"
    assert name_of(handle) in backend.links(handle)["console"]
    assert backend.heartbeat(handle) is None
    world.beat(step=1)
    assert (backend.heartbeat(handle) or {})["step"] == 1


def test_a_handle_of_another_backend_is_unknown(world: World) -> None:
    with pytest.raises(UnknownHandle):
        leaf.open_backend(world.opening).status(JobHandle("process", "site-c", "fx.e1", {"folder": "/x"}))


def test_without_a_hook_the_connection_logs_in_at_its_own_cloud(world: World) -> None:
    extra = {"tenantId": "tenant", "cloud_environment": "AzureUSGovernment"}
    of = Connection(conn_id="c", conn_type="azure", login="app", password="secret", extra=extra)
    opening = world.held_by("w", client=None, connection=lambda: of)
    settings = opening.site.compute.azure_container_instances
    assert settings is not None
    client = leaf.ContainerGroups(opening, settings)._client()
    assert client._config.subscription_id == "0000"
    assert client._config.credential_scopes == ["https://management.usgovcloudapi.net/.default"]
    nowhere = of.model_copy(update={"extra": {"cloud_environment": "AzureMoon"}})
    with pytest.raises(ConfigError, match="AzureMoon"):
        leaf.ContainerGroups(world.held_by("w", client=None, connection=lambda: nowhere), settings)._client()


def test_the_stub_refuses_what_the_models_do_not_know() -> None:
    from azure.mgmt.containerinstance import models

    from azure_stub import Wrong, check_attribute_map

    container = {"name": "c", "properties": {"image": "i", "resources": {"requests": {"cpu": 1, "memoryInGB": 1}}}}
    good = {"properties": {"osType": "Linux", "containers": [container]}}
    check_attribute_map(models, "ContainerGroup", good)
    for wrong in (
        {**good, "restartPolicy": "Never"},
        {"properties": {**good["properties"], "restartpolicy": "Never"}},
        {"properties": {**good["properties"], "provisioningState": "Succeeded"}},
        {"properties": {"osType": "Linux"}},
        {"properties": {"osType": 1, "containers": [container]}},
    ):
        with pytest.raises(Wrong):
            check_attribute_map(models, "ContainerGroup", wrong)
