"""Batch tasks by the real SDK, against a local server that reads bodies by the SDK's models. None ran on Azure."""

from __future__ import annotations

import base64
import shlex
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from azure_batch_stub import Batch, batch_error
from azure_stub import Stub, Wrong, check_rest_fields, serving
from azure_world import SECRETS, World
from holdfast.engine.compute import ComputeRefused, ComputeUnavailable, JobNotStarted, JobState, NoCapacity
from holdfast.engine.compute import azure_batch as leaf
from holdfast.engine.compute.interface import JobHandle
from holdfast.engine.config import Connection

SETTINGS = {"account_url": "https://a.westeurope.batch.azure.com", "pool": "gpus", "image": "registry/trainer:1"}
COMPUTE = {"kind": "azure-batch", "azure_batch": SETTINGS}


def client_of(url: str) -> Any:
    from azure.batch import BatchClient
    from azure.core.credentials import AzureNamedKeyCredential

    return BatchClient(url, AzureNamedKeyCredential("account", base64.b64encode(b"key").decode()))


@pytest.fixture
def batch() -> Batch:
    return Batch()


@pytest.fixture
def stub(batch: Batch) -> Stub:
    return Stub(batch)


@pytest.fixture
def world(stub: Stub, tmp_path: Path) -> Iterator[World]:
    with serving(stub) as url:
        yield World(tmp_path, COMPUTE, lambda: client_of(url))


def name_of(handle: JobHandle) -> str:
    return str(handle.reference["job"])


def test_a_task_waits_runs_and_succeeds(world: World, batch: Batch) -> None:
    backend = leaf.open_backend(world.opening)
    handle = backend.submit(world.spec)
    assert backend.status(handle).state is JobState.PENDING
    batch.move(name_of(handle), "running")
    world.beat(state="training", step=7)
    assert (backend.status(handle).state, backend.status(handle).step) == (JobState.RUNNING, 7)
    assert not backend.confirm_dead(handle)
    batch.exit(name_of(handle), 0)
    assert backend.status(handle).state is JobState.SUCCEEDED
    assert backend.confirm_dead(handle)
    assert backend.submit(world.spec) == handle
    assert list(batch.jobs) == ["holdfast"]


@pytest.mark.parametrize(
    ("code", "state"),
    [(76, JobState.FENCED), (75, JobState.LOST), (1, JobState.FAILED), (137, JobState.LOST)],
)
def test_an_exit_code_tells_how_it_ended(world: World, batch: Batch, code: int, state: JobState) -> None:
    backend = leaf.open_backend(world.opening)
    handle = backend.submit(world.spec)
    batch.exit(name_of(handle), code)
    assert backend.status(handle).state is state
    again = backend.submit(world.spec)
    assert again.reference["attempt"] == (1 if state is JobState.FENCED else 2)


def test_the_command_line_leaves_the_topology_in_a_file_and_becomes_the_job(
    world: World, batch: Batch, tmp_path: Path
) -> None:
    spec = replace(
        world.spec, command=("/bin/sh", "-c", 'cat "$HOLDFAST_TOPOLOGY"; echo "$1"; exit 76', "job", "a 'b'")
    )
    handle = leaf.open_backend(world.opening).submit(spec)
    task = batch.tasks[name_of(handle)]
    environ = {setting["name"]: setting["value"] for setting in task["environmentSettings"]}
    assert {name: environ[name] for name in SECRETS} == SECRETS
    assert (task["constraints"]["maxTaskRetryCount"], task["containerSettings"]["imageName"]) == (0, SETTINGS["image"])
    ran = subprocess.run(
        shlex.split(task["commandLine"]),
        env={**environ, "PATH": "/usr/bin:/bin", "AZ_BATCH_TASK_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert (ran.stdout, ran.returncode) == (f"{world.topology_text}a 'b'\n", 76)


def test_a_second_submitter_and_a_task_that_exists_reattach(world: World, batch: Batch, stub: Stub) -> None:
    backend = leaf.open_backend(world.opening)
    first = backend.submit(world.spec)
    assert leaf.open_backend(world.held_by("worker-2")).submit(world.spec) == first
    # A look that came before the other's task, and a claim of one's own: the service decides.
    stub.fail("GET", batch_error(404, "TaskNotFound"))
    assert leaf.open_backend(world.opening).submit(world.spec) == first
    assert len(batch.tasks) == 1


def test_a_lost_answer_is_found_out_by_asking_again(world: World, batch: Batch, stub: Stub) -> None:
    batch.jobs["holdfast"] = {"id": "holdfast"}
    stub.fail("POST", None, effect=True)
    with pytest.raises(ComputeUnavailable):
        leaf.open_backend(world.opening).submit(world.spec)
    assert leaf.open_backend(world.held_by("worker-2")).submit(world.spec).reference["attempt"] == 1
    assert len(batch.tasks) == 1


def test_a_pool_that_gets_no_node_has_no_room_and_nothing_is_queued_there(world: World, batch: Batch) -> None:
    batch.pool |= {"currentDedicatedNodes": 0, "resizeErrors": [{"code": "AccountCoreQuotaReached", "message": "full"}]}
    with pytest.raises(NoCapacity, match="AccountCoreQuotaReached"):
        leaf.open_backend(world.opening).submit(world.spec)
    assert batch.tasks == {}
    batch.pool["currentDedicatedNodes"] = 1
    assert leaf.open_backend(world.held_by("w2")).submit(world.spec).reference["attempt"] == 1


@pytest.mark.parametrize("answer", [None, batch_error(503, "ServerBusy"), batch_error(429, "TooManyRequests")])
def test_a_service_that_does_not_answer_is_unavailable_and_never_a_lost_job(
    world: World, batch: Batch, stub: Stub, answer: Any
) -> None:
    backend = leaf.open_backend(world.opening)
    handle = backend.submit(world.spec)
    stub.fail("GET", answer, times=10)
    with pytest.raises(ComputeUnavailable):
        backend.status(handle)
    assert len(stub.faults) >= 7  # the tries are bounded
    assert not backend.confirm_dead(handle)
    stub.faults.clear()
    assert backend.status(handle).state is JobState.PENDING


def test_a_refusal_a_closed_job_and_a_missing_pool_say_so(world: World, batch: Batch, stub: Stub) -> None:
    backend = leaf.open_backend(world.opening)
    stub.fail("POST", batch_error(403, "AuthorizationPermissionMismatch"))
    with pytest.raises(ComputeRefused):
        backend.submit(world.spec)
    batch.closed = True
    with pytest.raises(JobNotStarted, match="JobCompleted"):
        backend.submit(world.spec)
    batch.pool["id"] = "other"
    with pytest.raises(JobNotStarted, match="PoolNotFound"):
        backend.submit(world.spec)


def test_a_stop_terminates_the_task(world: World, batch: Batch) -> None:
    backend = leaf.open_backend(world.opening)
    handle = backend.submit(world.spec)
    batch.move(name_of(handle), "running")
    stopped = backend.stop(handle, grace_seconds=0)
    assert stopped.state is JobState.LOST
    assert "TaskEnded" in (stopped.detail or "")
    assert backend.confirm_dead(handle)
    assert backend.stop(handle, grace_seconds=0).state is JobState.LOST


def test_a_task_queued_again_after_its_node_was_taken_is_the_same_attempt(world: World, batch: Batch) -> None:
    backend = leaf.open_backend(world.opening)
    handle = backend.submit(world.spec)
    batch.move(name_of(handle), "active", requeueCount=1)
    assert backend.status(handle).state is JobState.PENDING
    assert backend.submit(world.spec) == handle


def test_a_machine_type_is_refused(world: World, stub: Stub) -> None:
    with pytest.raises(JobNotStarted, match="pool"):
        leaf.open_backend(world.opening).submit(replace(world.spec, machine="Standard_NC6"))
    assert stub.sent("POST") == []


def test_the_log_is_the_end_of_standard_output(world: World) -> None:
    backend = leaf.open_backend(world.opening)
    assert backend.log(backend.submit(world.spec), last_bytes=7) == "step 2\n"


def test_without_a_hook_the_connection_logs_in(world: World) -> None:
    key = base64.b64encode(b"key").decode()
    by_key = Connection(conn_id="c", conn_type="azure_batch", login="account", password=key)
    by_principal = Connection(
        conn_id="c", conn_type="azure", login="app", password="secret", extra={"tenantId": "tenant"}
    )
    for connection, policy in ((by_key, "BatchSharedKeyAuthPolicy"), (by_principal, "BearerTokenCredentialPolicy")):
        opening = world.held_by("w", client=None, connection=lambda found=connection: found)
        settings = opening.site.compute.azure_batch
        assert settings is not None
        config = leaf.BatchTasks(opening, settings)._client()._config
        assert (config.endpoint, type(config.authentication_policy).__name__) == (SETTINGS["account_url"], policy)


def test_the_stub_refuses_what_the_models_do_not_know() -> None:
    from azure.batch import models

    good = {"id": "t", "commandLine": "true", "environmentSettings": [{"name": "A", "value": "b"}]}
    check_rest_fields(models.BatchTaskCreateOptions, good)
    for wrong in (
        {**good, "commandline": "true"},
        {"id": "t"},
        {**good, "environmentSettings": [{"name": "A", "secret": "b"}]},
        {**good, "constraints": {"maxTaskRetryCount": "0"}},
        {**good, "id": 1},
    ):
        with pytest.raises(Wrong):
            check_rest_fields(models.BatchTaskCreateOptions, wrong)
