"""Vertex AI: one writer per job although the service takes two of a name, and every end read for what it was.

The real SDK speaks gRPC to tests/vertex_service.py, whose messages are the API's own types.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from compute_world import CREDENTIAL, RUN, Bucket, beat, job, opening
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
from holdfast.engine.compute.remote import claim_attempt
from holdfast.engine.compute.vertex import VertexBackend
from holdfast.engine.objectstore.errors import StoreUnavailable
from holdfast.engine.objectstore.interface import ObjectStore
from vertex_service import VertexService

SETTINGS = {"project": "p", "image": "europe-docker.pkg.dev/p/r/trainer:1", "machine": "n1-standard-4"}
CLAIM_SECONDS = 180


@pytest.fixture
def service() -> Iterator[VertexService]:
    service = VertexService()
    service.start()
    yield service
    service.stop()


@pytest.fixture
def bucket() -> Bucket:
    return Bucket()


@pytest.fixture
def backend(tmp_path: Path, service: VertexService, bucket: Bucket) -> VertexBackend:
    return at(tmp_path, service, bucket)


def at(folder: Path, service: VertexService, bucket: Any, **more: Any) -> VertexBackend:
    settings = {**SETTINGS, **more.pop("settings", {})}
    opened = opening(folder, "vertex", settings, client=service.client, store=bucket, **more)
    return VertexBackend(opened, claim_seconds=CLAIM_SECONDS)


def name(handle: JobHandle) -> str:
    return str(handle.reference["job"])


def test_a_job_runs_and_succeeds(
    tmp_path: Path, backend: VertexBackend, service: VertexService, bucket: ObjectStore
) -> None:
    handle = backend.submit(job(tmp_path))
    assert backend.status(handle).state is JobState.PENDING
    service.becomes(name(handle), "RUNNING")
    beat(bucket, handle, "training", step=12)
    status = backend.status(handle)
    assert (status.state, status.step, status.total_steps) == (JobState.RUNNING, 12, 100)
    assert not backend.confirm_dead(handle)
    assert backend.find(job(tmp_path).name) == handle
    service.becomes(name(handle), "SUCCEEDED")
    assert backend.status(handle).state is JobState.SUCCEEDED
    assert backend.confirm_dead(handle)
    assert backend.submit(job(tmp_path)) == handle
    assert len(service.jobs) == 1


@pytest.mark.parametrize(
    ("state", "code", "message", "started", "beaten", "expected"),
    [
        ("FAILED", 3, "workerpool0-0 exited with a non-zero status of 76.", True, None, JobState.FENCED),
        ("FAILED", 3, "workerpool0-0 exited with a non-zero status of 75.", True, None, JobState.LOST),
        ("FAILED", 3, "workerpool0-0 exited with a non-zero status of 1.", True, "fenced", JobState.FAILED),
        ("FAILED", 3, "Replica exited with a non-zero status code 137", True, None, JobState.LOST),
        ("FAILED", 3, "see the log", True, "fenced", JobState.FENCED),
        ("FAILED", 3, "see the log", True, None, JobState.FAILED),
        ("FAILED", 13, "Internal error occurred", True, "training", JobState.LOST),
        ("FAILED", 8, "Resources are insufficient in region", False, None, JobState.NO_CAPACITY),
        ("FAILED", 8, "the replica ran out of memory", True, "training", JobState.FAILED),
        ("FAILED", 14, "the spot VM was preempted", True, "stopped", JobState.PREEMPTED),
        ("FAILED", 14, "the spot VM was preempted", True, "finished", JobState.SUCCEEDED),
        ("CANCELLED", 0, "", True, "stopped", JobState.LOST),
        ("CANCELLED", 0, "", True, "training", JobState.LOST),
        ("EXPIRED", 0, "", True, None, JobState.LOST),
        ("CANCELLING", 0, "", True, "stopped", JobState.RUNNING),
        ("PAUSED", 0, "", True, None, JobState.PENDING),
    ],
)
def test_every_end_is_read_for_what_it_was(
    tmp_path: Path,
    backend: VertexBackend,
    service: VertexService,
    bucket: ObjectStore,
    state: str,
    code: int,
    message: str,
    started: bool,
    beaten: str | None,
    expected: JobState,
) -> None:
    handle = backend.submit(job(tmp_path))
    if beaten:
        beat(bucket, handle, beaten)
    service.becomes(name(handle), state, code=code, message=message, started=started)
    assert backend.status(handle).state is expected


@pytest.mark.parametrize(("exit_code", "attempts"), [(1, 2), (76, 1)])
def test_a_failed_job_is_started_again_and_a_fenced_one_never(
    tmp_path: Path, backend: VertexBackend, service: VertexService, exit_code: int, attempts: int
) -> None:
    first = backend.submit(job(tmp_path))
    service.becomes(name(first), "FAILED", code=3, message=f"exited with a non-zero status of {exit_code}.")
    assert backend.submit(job(tmp_path)).reference["attempt"] == attempts
    assert len(service.jobs) == attempts


def test_an_end_the_submitter_does_not_know_of_is_found_and_not_started_again(
    tmp_path: Path, backend: VertexBackend, service: VertexService
) -> None:
    first = backend.submit(job(tmp_path, after=0))
    service.becomes(name(first), "FAILED", code=3, message="exited with a non-zero status of 1.")
    assert backend.submit(job(tmp_path, after=0)) == first
    second = backend.submit(job(tmp_path, after=1))
    assert (first.attempt, second.attempt) == (1, 2)
    assert backend.submit(job(tmp_path, after=1)) == second
    assert backend.submit(job(tmp_path, after=0)) == second


def test_the_number_of_an_attempt_that_ended_is_not_used_again(tmp_path: Path, backend: VertexBackend) -> None:
    assert backend.submit(job(tmp_path, after=2)).attempt == 3


def test_the_crash_between_submit_and_persist_reattaches(
    tmp_path: Path, service: VertexService, bucket: Bucket
) -> None:
    service.fails("CreateCustomJob", grpc.StatusCode.DEADLINE_EXCEEDED, after=True)
    with pytest.raises(ComputeUnavailable):
        at(tmp_path, service, bucket).submit(job(tmp_path))
    again = at(tmp_path, service, bucket, holder="another").submit(job(tmp_path))
    assert again.reference["attempt"] == 1
    assert len(service.jobs) == 1


@pytest.mark.parametrize("holder", ["submitter-1", "another"])
def test_a_job_the_list_does_not_show_yet_is_waited_for_also_by_who_started_it(
    tmp_path: Path, backend: VertexBackend, service: VertexService, bucket: Bucket, holder: str
) -> None:
    handle = backend.submit(job(tmp_path))
    service.unlisted = {name(handle)}
    with pytest.raises(ComputeUnavailable, match="another submitter has the turn"):
        at(tmp_path, service, bucket, holder=holder).submit(job(tmp_path))
    service.unlisted = set()
    assert at(tmp_path, service, bucket, holder=holder).submit(job(tmp_path)) == handle
    assert len(service.jobs) == 1


def test_a_claim_without_a_job_is_spent_by_the_stores_own_clock(
    tmp_path: Path, backend: VertexBackend, service: VertexService, bucket: Bucket
) -> None:
    claim_attempt(bucket, job(tmp_path), 1, holder="died before it submitted")  # type: ignore[arg-type]
    bucket.passes(CLAIM_SECONDS - 10)
    with pytest.raises(ComputeUnavailable):
        backend.submit(job(tmp_path))
    assert not service.jobs
    bucket.passes(20)
    assert backend.submit(job(tmp_path)).reference["attempt"] == 2


def test_of_two_submitters_at_once_one_starts_the_job(
    tmp_path: Path, backend: VertexBackend, service: VertexService, bucket: Bucket
) -> None:
    other: list[type[Exception]] = []

    def second() -> None:
        service.meanwhile = lambda: None
        with pytest.raises(ComputeUnavailable) as refused:
            at(tmp_path, service, bucket, holder="second").submit(job(tmp_path))
        other.append(refused.type)

    service.meanwhile = second
    assert backend.submit(job(tmp_path)).reference["attempt"] == 1
    assert other == [ComputeUnavailable]
    assert len(service.jobs) == 1


def test_a_submitter_that_was_overtaken_cancels_its_own_job(
    tmp_path: Path, backend: VertexBackend, service: VertexService, bucket: Bucket
) -> None:
    """It stood still between its last look and the service, longer than its turn."""
    faster: list[JobHandle] = []

    def second() -> None:
        service.meanwhile = lambda: None
        bucket.passes(CLAIM_SECONDS + 1)
        faster.append(at(tmp_path, service, bucket, holder="second").submit(job(tmp_path)))

    service.meanwhile = second
    with pytest.raises(ComputeUnavailable, match="cancelled"):
        backend.submit(job(tmp_path))
    states = {one.labels["holdfast_attempt"]: one.state.name for one in service.jobs.values()}
    assert states == {"1": "JOB_STATE_CANCELLING", "2": "JOB_STATE_QUEUED"}
    assert at(tmp_path, service, bucket).submit(job(tmp_path)) == faster[0]


def test_the_job_of_a_submitter_that_lost_its_turn_and_died_is_cancelled_by_the_next_submit(
    tmp_path: Path, backend: VertexBackend, service: VertexService, bucket: Bucket
) -> None:
    def second() -> None:
        service.meanwhile = lambda: None
        bucket.passes(CLAIM_SECONDS + 1)
        at(tmp_path, service, bucket, holder="second").submit(job(tmp_path))

    service.meanwhile = second
    service.fails("CancelCustomJob", grpc.StatusCode.UNAVAILABLE)
    with pytest.raises(ComputeUnavailable):
        backend.submit(job(tmp_path))
    assert at(tmp_path, service, bucket).submit(job(tmp_path)).reference["attempt"] == 2
    states = {one.labels["holdfast_attempt"]: one.state.name for one in service.jobs.values()}
    assert states == {"1": "JOB_STATE_CANCELLING", "2": "JOB_STATE_QUEUED"}


def test_of_an_older_attempt_that_lives_and_a_newer_that_ended_the_living_one_is_found(
    tmp_path: Path, backend: VertexBackend, service: VertexService
) -> None:
    first = backend.submit(job(tmp_path))
    service.unlisted.add(name(first))
    second = backend.submit(job(tmp_path, after=1))
    service.unlisted.clear()
    service.becomes(name(second), "CANCELLED")
    assert backend.find(job(tmp_path).name) == first == backend.submit(job(tmp_path))
    service.becomes(name(first), "CANCELLED")
    assert backend.find(job(tmp_path).name) == second


def test_a_submitter_held_up_beyond_its_turn_submits_nothing(
    tmp_path: Path, service: VertexService, bucket: Bucket
) -> None:
    clock = FakeClock()

    class Slow:
        def __getattr__(self, attribute: str) -> Any:
            return getattr(bucket, attribute)

        def put(self, key: str, data: Any, **more: Any) -> Any:
            clock.sleep(CLAIM_SECONDS)
            return bucket.put(key, data, **more)

    with pytest.raises(ComputeUnavailable, match="held up"):
        at(tmp_path, service, Slow(), clock=clock).submit(job(tmp_path))
    assert not service.jobs


def test_no_capacity_gives_the_turn_back_and_the_next_placement_is_taken(
    tmp_path: Path, backend: VertexBackend, service: VertexService
) -> None:
    service.fails("CreateCustomJob", grpc.StatusCode.RESOURCE_EXHAUSTED, "quota custom_model_training_cpus exceeded")
    with pytest.raises(NoCapacity):
        backend.submit(job(tmp_path, spot=True))
    handle = backend.submit(job(tmp_path, machine="n1-standard-8"))
    assert handle.reference["attempt"] == 2
    assert service.jobs[name(handle)].job_spec.worker_pool_specs[0].machine_spec.machine_type == "n1-standard-8"


@pytest.mark.parametrize(
    ("code", "message", "error"),
    [
        (grpc.StatusCode.UNAVAILABLE, "", ComputeUnavailable),
        (grpc.StatusCode.INTERNAL, "", ComputeUnavailable),
        (grpc.StatusCode.DEADLINE_EXCEEDED, "", ComputeUnavailable),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "Quota exceeded: requests per minute", ComputeUnavailable),
        (grpc.StatusCode.PERMISSION_DENIED, "", ComputeRefused),
        (grpc.StatusCode.UNAUTHENTICATED, "", ComputeRefused),
        (grpc.StatusCode.INVALID_ARGUMENT, "no such machine type", JobNotStarted),
    ],
)
def test_an_error_of_the_service_has_one_meaning(
    tmp_path: Path,
    backend: VertexBackend,
    service: VertexService,
    code: grpc.StatusCode,
    message: str,
    error: type[Exception],
) -> None:
    service.fails("CreateCustomJob", code, message)
    with pytest.raises(error):
        backend.submit(job(tmp_path))
    assert not service.jobs


def test_every_call_has_a_deadline(tmp_path: Path, backend: VertexBackend, service: VertexService) -> None:
    backend.stop(backend.submit(job(tmp_path)), grace_seconds=0)
    assert service.deadlines
    assert all(seconds is not None and seconds < 60 for seconds in service.deadlines)


def test_a_service_that_cannot_be_reached_is_unavailable_and_nothing_is_dead(
    tmp_path: Path, backend: VertexBackend, service: VertexService, bucket: Bucket
) -> None:
    handle = backend.submit(job(tmp_path))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))  # bound, never listening: a connection is refused
        service.port = free.getsockname()[1]
        cut_off = at(tmp_path, service, bucket)
        with pytest.raises(ComputeUnavailable):
            cut_off.submit(job(tmp_path))
        with pytest.raises(ComputeUnavailable):
            cut_off.status(handle)
        assert cut_off.confirm_dead(handle) is False


def test_a_bucket_that_does_not_answer_never_decides_how_a_job_ended(
    tmp_path: Path, backend: VertexBackend, service: VertexService
) -> None:
    handle = backend.submit(job(tmp_path))

    class Away:
        def get(self, key: str, **_: Any) -> bytes:
            raise StoreUnavailable("the bucket does not answer", where=key)

        def list(self, prefix: str) -> Iterator[Any]:
            raise StoreUnavailable("the bucket does not answer", where=prefix)

    away = at(tmp_path, service, Away())
    service.becomes(name(handle), "RUNNING")
    assert away.status(handle).state is JobState.RUNNING
    service.becomes(name(handle), "CANCELLED")
    with pytest.raises(ComputeUnavailable):
        away.status(handle)
    with pytest.raises(ComputeUnavailable):
        away.submit(job(tmp_path, epoch=4))
    assert len(service.jobs) == 1


def test_stop_waits_for_the_grace_and_says_that_the_job_still_runs(
    tmp_path: Path, service: VertexService, bucket: Bucket
) -> None:
    clock = FakeClock()
    backend = at(tmp_path, service, bucket, clock=clock)
    handle = backend.submit(job(tmp_path))
    before = clock.monotonic()
    assert backend.stop(handle, grace_seconds=30).state is JobState.RUNNING
    assert clock.monotonic() - before == 30
    assert not backend.confirm_dead(handle)
    beat(bucket, handle, "stopped")  # type: ignore[arg-type]
    service.becomes(name(handle), "CANCELLED")
    assert backend.stop(handle, grace_seconds=30).state is JobState.STOPPED
    assert at(tmp_path, service, bucket).status(handle).state is JobState.STOPPED


def test_a_spot_job_that_saved_and_left_unasked_was_preempted(
    tmp_path: Path, backend: VertexBackend, service: VertexService, bucket: ObjectStore
) -> None:
    handle = backend.submit(job(tmp_path, spot=True))
    beat(bucket, handle, "stopped")
    service.becomes(name(handle), "FAILED", code=3, message="workerpool0-0 exited with a non-zero status of 75.")
    assert backend.status(handle).state is JobState.PREEMPTED
    assert backend.confirm_dead(handle)


def test_attempts_over_several_pages_and_other_epochs(
    tmp_path: Path, backend: VertexBackend, service: VertexService
) -> None:
    service.page_size = 2
    backend.submit(job(tmp_path, epoch=33))
    for _ in range(5):
        handle = backend.submit(job(tmp_path))
        service.becomes(name(handle), "FAILED", code=3, message="exited with a non-zero status of 1.")
    found = backend.find(f"{RUN}.e3")
    assert found is not None
    assert found.reference["attempt"] == 5
    assert backend.find(f"{RUN}.e333") is None


def test_spot_accelerator_account_and_network_reach_the_service(
    tmp_path: Path, service: VertexService, bucket: Bucket
) -> None:
    settings = {
        "accelerator": "NVIDIA_TESLA_T4",
        "accelerators": 2,
        "service_account": "trainer@p.iam.gserviceaccount.com",
        "network": "projects/1/global/networks/n",
        "staging_bucket": "gs://staging/",
        "timeout_seconds": 600,
    }
    handle = at(tmp_path, service, bucket, settings=settings).submit(job(tmp_path, spot=True))
    asked = service.jobs[name(handle)].job_spec
    assert asked.scheduling.strategy.name == "SPOT"
    assert asked.scheduling.timeout.total_seconds() == 600
    assert asked.scheduling.disable_retries is True
    assert asked.worker_pool_specs[0].machine_spec.accelerator_type.name == "NVIDIA_TESLA_T4"
    assert asked.worker_pool_specs[0].machine_spec.accelerator_count == 2
    assert asked.service_account == "trainer@p.iam.gserviceaccount.com"
    assert asked.network == "projects/1/global/networks/n"
    assert asked.base_output_directory.output_uri_prefix == f"gs://staging/{RUN}.e3.a1"


def test_an_accelerator_vertex_ai_does_not_have_is_refused_and_the_turn_given_back(
    tmp_path: Path, service: VertexService, bucket: Bucket
) -> None:
    wrong = at(tmp_path, service, bucket, settings={"accelerator": "TESLA", "accelerators": 1})
    with pytest.raises(JobNotStarted, match="TESLA"):
        wrong.submit(job(tmp_path))
    assert at(tmp_path, service, bucket).submit(job(tmp_path)).reference["attempt"] == 2


def test_the_container_gets_command_topology_and_heartbeat(
    tmp_path: Path, backend: VertexBackend, service: VertexService
) -> None:
    """The image's entry point runs here as a process, with the environment the service was given."""
    handle = backend.submit(job(tmp_path))
    container = service.jobs[name(handle)].job_spec.worker_pool_specs[0].container_spec
    image = tmp_path / "image"
    image.mkdir()
    (image / "train.py").write_text(
        "import os, pathlib, sys\n"
        "assert '\"site-a\"' in pathlib.Path(os.environ['HOLDFAST_TOPOLOGY']).read_text()\n"
        f"print(len(os.environ['{CREDENTIAL}']), os.environ['HOLDFAST_HEARTBEAT'])\n"
        "sys.exit(75)\n"
    )
    ended = subprocess.run(
        [sys.executable, *list(container.command)[1:]],
        env={
            **{one.name: one.value for one in container.env},
            "PYTHONPATH": os.pathsep.join(sys.path),
            "TMPDIR": str(tmp_path),
        },
        cwd=image,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert ended.returncode == 75, ended.stderr
    assert int(ended.stdout.split()[0]) > 700
    assert ended.stdout.split()[1] == f"object:runs/{RUN}/heartbeats/000003.000001.json"


def test_a_handle_of_nothing_is_unknown(backend: VertexBackend) -> None:
    gone = {"job": "projects/p/locations/eu-west-1/customJobs/1", "attempt": 1}
    with pytest.raises(UnknownHandle):
        backend.status(JobHandle("vertex", "site-a", f"{RUN}.e3", gone))
    with pytest.raises(UnknownHandle):
        backend.status(JobHandle("process", "site-a", f"{RUN}.e3", {"pid": 1}))


def test_links_lead_to_the_job_and_its_log(tmp_path: Path, backend: VertexBackend) -> None:
    handle = backend.submit(job(tmp_path))
    links = backend.links(handle)
    assert "/training/1000/" in links["console"]
    assert "job_id%3D%221000%22" in links["logs"]
    assert backend.log(handle) == ""


def test_a_key_that_is_none_is_refused_without_being_shown(tmp_path: Path) -> None:
    connection = {"extra": {"keyfile_dict": '{"private_key": "SECRET"}'}}
    with pytest.raises(ComputeRefused) as refused:
        VertexBackend(opening(tmp_path, "vertex", SETTINGS, connection=connection)).submit(job(tmp_path))
    assert "SECRET" not in str(refused.value)
