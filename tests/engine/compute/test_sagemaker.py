"""SageMaker: one writer per job whatever is lost on the way, and every end of a job read for what it was.

The requests are the real SDK's, checked against its model of the service (tests/sagemaker_service.py).
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from compute_world import CREDENTIAL, RUN, beat, job, opening
from holdfast.clock import FakeClock
from holdfast.engine.compute import (
    ComputeRefused,
    ComputeUnavailable,
    JobHandle,
    JobNotStarted,
    JobState,
    NoCapacity,
    UnknownHandle,
)
from holdfast.engine.compute.sagemaker import SageMakerBackend, open_backend
from holdfast.engine.objectstore import memory_store
from holdfast.engine.objectstore.errors import StoreUnavailable
from holdfast.engine.objectstore.interface import ObjectStore
from sagemaker_service import SageMakerService

SETTINGS = {
    "image": "123456789012.dkr.ecr.eu-west-1.amazonaws.com/trainer:1",
    "role_arn": "arn:aws:iam::123456789012:role/trainer",
    "machine": "ml.m5.xlarge",
    "output_path": "s3://b/output",
}


@pytest.fixture
def service() -> SageMakerService:
    return SageMakerService()


@pytest.fixture
def bucket() -> ObjectStore:
    return memory_store("site-a")


@pytest.fixture
def backend(tmp_path: Path, service: SageMakerService, bucket: ObjectStore) -> SageMakerBackend:
    return at(tmp_path, service, bucket)


def at(folder: Path, service: SageMakerService, bucket: ObjectStore, **more: Any) -> SageMakerBackend:
    settings = {**SETTINGS, **more.pop("settings", {})}
    return open_backend(opening(folder, "sagemaker", settings, client=service.clients, store=bucket, **more))


def name(handle: JobHandle) -> str:
    return str(handle.reference["training_job"])


def test_a_job_runs_and_succeeds(
    tmp_path: Path, backend: SageMakerBackend, service: SageMakerService, bucket: ObjectStore
) -> None:
    handle = backend.submit(job(tmp_path))
    assert backend.status(handle).state is JobState.PENDING
    service.becomes(name(handle), "InProgress", "Training")
    beat(bucket, handle, "training", step=12)
    status = backend.status(handle)
    assert (status.state, status.step, status.total_steps) == (JobState.RUNNING, 12, 100)
    assert not backend.confirm_dead(handle)
    service.becomes(name(handle), "Completed")
    assert backend.status(handle).state is JobState.SUCCEEDED
    assert backend.confirm_dead(handle)
    assert backend.submit(job(tmp_path)) == handle
    assert len(service.created()) == 1


@pytest.mark.parametrize(
    ("status", "secondary", "reason", "beaten", "state"),
    [
        ("Failed", "Failed", "AlgorithmError: , exit code: 76", None, JobState.FENCED),
        ("Failed", "Failed", "AlgorithmError: , exit code: 75", None, JobState.LOST),
        ("Failed", "Failed", "AlgorithmError: , exit code: 1", "fenced", JobState.FAILED),
        ("Failed", "Failed", "AlgorithmError: , exit code: 137", None, JobState.LOST),
        ("Failed", "Failed", "AlgorithmError: see the log", "fenced", JobState.FENCED),
        ("Failed", "Failed", "AlgorithmError: see the log", None, JobState.FAILED),
        ("Failed", "Failed", "InternalServerError: We encountered an internal error", None, JobState.LOST),
        ("Failed", "Failed", "CapacityError: Unable to provision requested ML compute", None, JobState.NO_CAPACITY),
        ("Failed", "Interrupted", "", None, JobState.PREEMPTED),
        ("Stopped", "Interrupted", "", "stopped", JobState.PREEMPTED),
        ("Stopped", "Interrupted", "", "finished", JobState.SUCCEEDED),
        ("Failed", "Failed", "The spot instance was interrupted, exit code: 143", None, JobState.PREEMPTED),
        ("Stopped", "Stopped", "", "stopped", JobState.LOST),
        ("Stopped", "Stopped", "", "training", JobState.LOST),
        ("Stopped", "MaxRuntimeExceeded", "", None, JobState.LOST),
        ("Stopped", "MaxWaitTimeExceeded", "", None, JobState.NO_CAPACITY),
        ("Stopped", "MaxWaitTimeExceeded", "", "training", JobState.LOST),
        ("InProgress", "Interrupted", "", None, JobState.PENDING),
        ("Stopping", "Stopping", "", "stopped", JobState.RUNNING),
    ],
)
def test_every_end_is_read_for_what_it_was(
    tmp_path: Path,
    backend: SageMakerBackend,
    service: SageMakerService,
    bucket: ObjectStore,
    status: str,
    secondary: str,
    reason: str,
    beaten: str | None,
    state: JobState,
) -> None:
    handle = backend.submit(job(tmp_path))
    if beaten:
        beat(bucket, handle, beaten)
    service.becomes(name(handle), status, secondary, reason=reason)
    assert backend.status(handle).state is state


@pytest.mark.parametrize(
    ("reason", "attempt"), [("AlgorithmError: , exit code: 1", 2), ("AlgorithmError: , exit code: 76", 1)]
)
def test_a_failed_job_is_started_again_and_a_fenced_one_never(
    tmp_path: Path, backend: SageMakerBackend, service: SageMakerService, reason: str, attempt: int
) -> None:
    first = backend.submit(job(tmp_path))
    service.becomes(name(first), "Failed", reason=reason)
    assert backend.submit(job(tmp_path)).reference["attempt"] == attempt
    assert len(service.created()) == attempt


def test_the_crash_between_submit_and_persist_reattaches(
    tmp_path: Path, service: SageMakerService, bucket: ObjectStore
) -> None:
    service.loses_answer_of = "CreateTrainingJob"
    with pytest.raises(ComputeUnavailable):
        at(tmp_path, service, bucket).submit(job(tmp_path))
    again = at(tmp_path, service, bucket, holder="another").submit(job(tmp_path))
    assert again.reference["attempt"] == 1
    assert len(service.jobs) == 1


def test_a_name_clash_reattaches_even_where_the_list_is_behind(
    tmp_path: Path, backend: SageMakerBackend, service: SageMakerService
) -> None:
    handle = backend.submit(job(tmp_path))
    service.unlisted = {name(handle)}
    assert backend.submit(job(tmp_path)) == handle
    service.becomes(name(handle), "Failed", reason="AlgorithmError: , exit code: 1")
    assert backend.submit(job(tmp_path)).reference["attempt"] == 2
    assert len(service.jobs) == 2


def test_an_end_the_submitter_does_not_know_of_is_found_and_not_started_again(
    tmp_path: Path, backend: SageMakerBackend, service: SageMakerService
) -> None:
    first = backend.submit(job(tmp_path, after=0))
    service.becomes(name(first), "Failed", reason="AlgorithmError: , exit code: 1")
    assert backend.submit(job(tmp_path, after=0)) == first
    second = backend.submit(job(tmp_path, after=1))
    assert (first.attempt, second.attempt) == (1, 2)
    assert backend.submit(job(tmp_path, after=1)) == second
    assert backend.submit(job(tmp_path, after=0)) == second


def test_the_number_of_an_attempt_that_ended_is_not_used_again(tmp_path: Path, backend: SageMakerBackend) -> None:
    assert backend.submit(job(tmp_path, after=2)).attempt == 3


def test_the_newest_of_many_attempts_is_found_over_pages(
    tmp_path: Path, backend: SageMakerBackend, service: SageMakerService
) -> None:
    service.page_size = 3
    for _ in range(11):
        handle = backend.submit(job(tmp_path))
        service.becomes(name(handle), "Failed", reason="AlgorithmError: , exit code: 1")
    found = backend.find(job(tmp_path).name)
    assert found is not None
    assert found.reference["attempt"] == 11


def test_jobs_of_other_epochs_and_buckets_are_not_this_one(
    tmp_path: Path, backend: SageMakerBackend, service: SageMakerService
) -> None:
    handles = {name(backend.submit(job(tmp_path, epoch=epoch))) for epoch in (1, 11, 111)}
    assert len(handles) == 3
    assert backend.find(f"{RUN}.e1111") is None
    one = backend.find(f"{RUN}.e1")
    assert one is not None
    assert name(one) in handles


def test_no_capacity_is_told_and_the_next_submit_tries_again(
    tmp_path: Path, backend: SageMakerBackend, service: SageMakerService
) -> None:
    service.fails("CreateTrainingJob", "ResourceLimitExceeded", "limit for ml.m5.xlarge is 2 Instances, 2 in use")
    with pytest.raises(NoCapacity):
        backend.submit(job(tmp_path))
    handle = backend.submit(job(tmp_path))
    service.becomes(name(handle), "Failed", reason="CapacityError: Unable to provision requested ML compute capacity")
    assert backend.status(handle).state is JobState.NO_CAPACITY
    assert backend.submit(job(tmp_path)).reference["attempt"] == 2


@pytest.mark.parametrize(
    ("code", "message", "http", "error"),
    [
        ("ThrottlingException", "Rate exceeded", 400, ComputeUnavailable),
        ("ServiceUnavailable", "", 503, ComputeUnavailable),
        ("AccessDeniedException", "not authorized", 400, ComputeRefused),
        ("UnrecognizedClientException", "invalid token", 400, ComputeRefused),
        ("ResourceLimitExceeded", "The limit 'ml.p4 for training job usage' is 0 Instances", 400, ComputeRefused),
        ("ValidationException", "Could not assume role", 400, JobNotStarted),
    ],
)
def test_an_error_of_the_service_has_one_meaning(
    tmp_path: Path,
    backend: SageMakerBackend,
    service: SageMakerService,
    code: str,
    message: str,
    http: int,
    error: type[Exception],
) -> None:
    service.fails("CreateTrainingJob", code, message, http=http)
    with pytest.raises(error):
        backend.submit(job(tmp_path))
    assert not service.jobs


def test_a_service_that_cannot_be_reached_is_unavailable_and_nothing_is_dead(
    tmp_path: Path, backend: SageMakerBackend
) -> None:
    handle = backend.submit(job(tmp_path))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))  # bound, never listening: a connection is refused
        nowhere = {
            "login": "a",
            "password": "b",
            "extra": {"endpoint_url": f"http://127.0.0.1:{free.getsockname()[1]}"},
        }
        cut_off = open_backend(opening(tmp_path, "sagemaker", SETTINGS, connection=nowhere))
        with pytest.raises(ComputeUnavailable):
            cut_off.submit(job(tmp_path))
        with pytest.raises(ComputeUnavailable):
            cut_off.status(handle)
        assert cut_off.confirm_dead(handle) is False


def test_a_bucket_that_does_not_answer_never_decides_how_a_job_ended(
    tmp_path: Path, backend: SageMakerBackend, service: SageMakerService, bucket: ObjectStore
) -> None:
    handle = backend.submit(job(tmp_path))

    class Away:
        def get(self, key: str, **_: Any) -> bytes:
            raise StoreUnavailable("the bucket does not answer", where=key)

    away = at(tmp_path, service, Away())  # type: ignore[arg-type]
    service.becomes(name(handle), "InProgress", "Training")
    assert away.status(handle).state is JobState.RUNNING
    service.becomes(name(handle), "Stopped")
    with pytest.raises(ComputeUnavailable):
        away.status(handle)
    beat(bucket, handle, "fenced")
    assert backend.status(handle).state is JobState.FENCED


def test_stop_waits_for_the_grace_and_says_that_the_job_still_runs(
    tmp_path: Path, service: SageMakerService, bucket: ObjectStore
) -> None:
    clock = FakeClock()
    backend = at(tmp_path, service, bucket, clock=clock)
    handle = backend.submit(job(tmp_path))
    before = clock.monotonic()
    assert backend.stop(handle, grace_seconds=30).state is JobState.RUNNING
    assert clock.monotonic() - before == 30
    assert not backend.confirm_dead(handle)
    beat(bucket, handle, "stopped")
    service.becomes(name(handle), "Stopped")
    assert backend.stop(handle, grace_seconds=30).state is JobState.STOPPED
    assert at(tmp_path, service, bucket).status(handle).state is JobState.STOPPED
    assert backend.confirm_dead(handle)


@pytest.mark.parametrize(("secondary", "state"), [("", JobState.PREEMPTED), ("MaxRuntimeExceeded", JobState.LOST)])
def test_a_spot_job_that_saved_and_left_unasked_was_preempted(
    tmp_path: Path,
    backend: SageMakerBackend,
    service: SageMakerService,
    bucket: ObjectStore,
    secondary: str,
    state: JobState,
) -> None:
    handle = backend.submit(job(tmp_path, spot=True))
    beat(bucket, handle, "stopped")
    service.becomes(name(handle), "Stopped", secondary)
    assert backend.status(handle).state is state


def test_a_checkpoint_is_asked_for_beside_the_heartbeat(
    tmp_path: Path, backend: SageMakerBackend, bucket: ObjectStore
) -> None:
    backend.request_checkpoint(backend.submit(job(tmp_path)))
    assert bucket.head(f"runs/{RUN}/heartbeats/000003.000001.json.request").size_bytes == 0


def test_spot_machine_and_network_reach_the_service(
    tmp_path: Path, service: SageMakerService, bucket: ObjectStore
) -> None:
    settings = {"max_wait_seconds": 60, "subnets": ["subnet-1"], "security_groups": ["sg-1"]}
    at(tmp_path, service, bucket, settings=settings).submit(job(tmp_path, spot=True, machine="ml.g5.xlarge"))
    (asked,) = service.created()
    assert asked["EnableManagedSpotTraining"] is True
    assert asked["StoppingCondition"] == {"MaxRuntimeInSeconds": 86_400, "MaxWaitTimeInSeconds": 86_400}
    assert asked["ResourceConfig"]["InstanceType"] == "ml.g5.xlarge"
    assert asked["VpcConfig"] == {"Subnets": ["subnet-1"], "SecurityGroupIds": ["sg-1"]}
    assert {"Key": "holdfast:run", "Value": RUN} in asked["Tags"]


def test_the_container_gets_command_topology_and_long_values(
    tmp_path: Path, backend: SageMakerBackend, service: SageMakerService
) -> None:
    """The image's entry point runs here as a process, with the environment the service was given."""
    backend.submit(job(tmp_path))
    (asked,) = service.created()
    image = tmp_path / "image"
    image.mkdir()
    (image / "train.py").write_text(
        "import os, pathlib, sys\n"
        "assert sys.argv[1:] == ['--flag'], sys.argv\n"
        "assert '\"site-a\"' in pathlib.Path(os.environ['HOLDFAST_TOPOLOGY']).read_text()\n"
        f"print(len(os.environ['{CREDENTIAL}']), os.environ['HOLDFAST_HEARTBEAT'])\n"
        "sys.exit(76)\n"
    )
    ended = subprocess.run(
        [sys.executable, *asked["AlgorithmSpecification"]["ContainerEntrypoint"][1:]],
        env={**asked["Environment"], "PYTHONPATH": os.pathsep.join(sys.path), "TMPDIR": str(tmp_path)},
        cwd=image,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert ended.returncode == 76, ended.stderr
    assert int(ended.stdout.split()[0]) > 700
    assert ended.stdout.split()[1] == f"object:runs/{RUN}/heartbeats/000003.000001.json"


def test_an_environment_that_does_not_fit_is_refused_before_anything_starts(
    tmp_path: Path, service: SageMakerService, bucket: ObjectStore
) -> None:
    backend = at(tmp_path, service, bucket, environ={f"NAME_{number}": "v" for number in range(101)})
    with pytest.raises(JobNotStarted, match="too large"):
        backend.submit(job(tmp_path))
    assert not service.jobs


def test_the_log_is_the_end_of_the_newest_stream(
    tmp_path: Path, backend: SageMakerBackend, service: SageMakerService
) -> None:
    handle = backend.submit(job(tmp_path))
    assert backend.log(handle) == ""
    service.log[f"{name(handle)}/algo-1-1"] = ["first", "last"]
    assert backend.log(handle, last_bytes=5) == "last\n"
    service.fails("DescribeLogStreams", "ResourceNotFoundException", "The specified log group does not exist.")
    assert backend.log(handle) == ""


def test_a_handle_of_nothing_is_unknown(backend: SageMakerBackend) -> None:
    with pytest.raises(UnknownHandle):
        backend.status(JobHandle("sagemaker", "site-a", f"{RUN}.e3", {"training_job": "gone-a1", "attempt": 1}))
    with pytest.raises(UnknownHandle):
        backend.status(JobHandle("process", "site-a", f"{RUN}.e3", {"pid": 1}))


def test_links_name_the_job(tmp_path: Path, backend: SageMakerBackend) -> None:
    handle = backend.submit(job(tmp_path))
    links = backend.links(handle)
    assert links["console"].endswith(f"#/jobs/{name(handle)}")
    assert "$252Faws$252Fsagemaker$252FTrainingJobs" in links["logs"]
