"""Jobs of a cluster, against an API stub that checks bodies by the SDK's models and runs the command as a process."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from engine.checkpoint.worlds import OrderedFaults
from holdfast.clock import FakeClock
from holdfast.engine.compute import (
    AlreadyRuns,
    ComputeRefused,
    ComputeUnavailable,
    JobHandle,
    JobNotStarted,
    JobState,
    NoCapacity,
    UnknownHandle,
)
from holdfast.engine.compute.beats import key_of
from holdfast.engine.compute.kubernetes import KubernetesBackend
from holdfast.engine.config.compute import Kubernetes
from holdfast.engine.objectstore import memory_store
from holdfast.errors import ConfigError
from kubernetes_world import RUN, World, begun, ended


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    it = World(tmp_path)
    yield it
    it.server.stop()


# -- how a job ends ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("what", "state"),
    [("0", JobState.SUCCEEDED), ("76", JobState.FENCED), ("75", JobState.LOST), ("3", JobState.FAILED)],
)
def test_the_exit_code_tells_how_a_job_ended(world: World, what: str, state: JobState) -> None:
    backend = world.backend()
    handle = backend.submit(world.spec(what))
    status = ended(backend, handle)
    assert (status.state, status.step, status.total_steps) == (state, 7, 9)
    assert backend.confirm_dead(handle)
    assert backend.log(handle) == f"the trainer says {what}\n"


def test_a_failure_says_its_code_and_the_end_of_its_log(world: World) -> None:
    backend = world.backend()
    detail = ended(backend, backend.submit(world.spec("3"))).detail
    assert "exit code 3" in detail
    assert "the trainer says 3" in detail


def test_one_the_kernel_killed_is_lost(world: World) -> None:
    backend = world.backend()
    handle = backend.submit(world.spec("until-told"))
    begun(backend, handle)
    world.server.kill(*world.pods())
    assert ended(backend, handle).state is JobState.LOST


def test_an_eviction_is_a_preemption_and_the_next_submit_is_a_new_attempt(world: World) -> None:
    backend = world.backend()
    handle = backend.submit(world.spec("until-told"))
    begun(backend, handle)
    world.server.evict(*world.pods(), grace_seconds=20)
    status = ended(backend, handle)
    assert status.state is JobState.PREEMPTED
    assert "TerminationByKubelet" in status.detail
    again = backend.submit(world.spec("0"))
    assert (handle.reference["attempt"], again.reference["attempt"]) == (1, 2)
    assert ended(backend, again).state is JobState.SUCCEEDED


def test_how_a_job_ended_is_known_from_its_heartbeat_when_its_pod_is_gone(world: World) -> None:
    backend = world.backend()
    handle = backend.submit(world.spec("until-told"))
    begun(backend, handle)
    stopped = backend.stop(handle, grace_seconds=20)
    assert (stopped.state, world.pods()) == (JobState.STOPPED, [])
    assert world.backend().status(handle).state is JobState.STOPPED


def test_one_that_saved_and_left_unasked_lost_its_machine(world: World) -> None:
    backend = world.backend(spot_node_selector={"cloud.google.com/gke-spot": "true"})
    handle = backend.submit(world.spec("until-told", spot=True))
    begun(backend, handle)
    # A spare node that goes takes its pods off the cluster's books, unlike the Job.
    (pod,) = world.pods()
    backend._api.delete_pod(pod, world.server.objects["pods"][pod]["metadata"]["uid"], grace_seconds=20)
    assert ended(backend, handle).state is JobState.PREEMPTED
    assert not world.pods()


def test_an_end_the_submitter_does_not_know_of_is_found_and_not_started_again(world: World) -> None:
    backend = world.backend()
    first = backend.submit(world.spec("3", after=0))
    assert ended(backend, first).state is JobState.FAILED
    assert backend.submit(world.spec("3", after=0)) == first
    second = backend.submit(world.spec("until-told", after=1))
    assert (first.attempt, second.attempt) == (1, 2)
    assert backend.submit(world.spec("until-told", after=1)) == second
    assert backend.submit(world.spec("3", after=0)) == second


# -- never two writers ------------------------------------------------------------------------------------------


def test_of_many_submitters_one_starts_the_job_and_all_get_it(world: World) -> None:
    handles: list[JobHandle] = []
    barrier = threading.Barrier(5)

    def submit(backend: KubernetesBackend) -> None:
        barrier.wait()
        handles.append(backend.submit(world.spec("until-told")))

    threads = [threading.Thread(target=submit, args=(world.backend(),)) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(handles) == 5
    assert len({str(handle.reference) for handle in handles}) == 1
    assert (len(world.jobs()), len(world.pods())) == (1, 1)


def test_a_create_whose_answer_was_lost_is_found_again(world: World) -> None:
    world.server.lose_answers = 1
    handle = world.backend().submit(world.spec("until-told"))
    assert (len(world.jobs()), handle.reference["attempt"]) == (1, 1)


def test_a_submitter_that_died_before_its_handle_was_stored_left_a_job_to_reattach_to(world: World) -> None:
    world.backend().submit(world.spec("until-told"))
    second = world.backend().submit(world.spec("until-told"))
    assert second == world.backend().find(f"{RUN}.e3")
    assert len(world.pods()) == 1


def test_one_that_died_between_the_job_and_its_secret_is_completed_by_the_next(world: World) -> None:
    backend = world.backend()
    handle = backend.submit(world.spec("0"))
    ended(backend, handle)
    job = world.server.objects["jobs"].pop(world.jobs()[0])
    world.server.objects["pods"].clear()
    world.server.objects["secrets"].clear()
    (world.bucket / key_of(handle)).unlink()
    world.server.create("jobs", {key: job[key] for key in ("apiVersion", "kind", "metadata", "spec")})
    found = backend.find(f"{RUN}.e3")
    waiting = backend.status(found)
    assert (waiting.state, "CreateContainerConfigError" in waiting.detail) == (JobState.PENDING, True)
    assert ended(backend, backend.submit(world.spec("0"))).state is JobState.SUCCEEDED


@pytest.mark.parametrize("what", ["0", "76"])
def test_a_job_that_is_over_for_good_is_not_started_again(world: World, what: str) -> None:
    backend = world.backend()
    handle = backend.submit(world.spec(what))
    ended(backend, handle)
    assert backend.submit(world.spec(what)) == handle
    assert len(world.jobs()) == 1


def test_a_pod_on_a_silent_node_is_not_known_dead_and_no_second_writer_starts(world: World) -> None:
    backend = world.backend()
    handle = backend.submit(world.spec("until-told"))
    begun(backend, handle)
    world.server.node_answers = False
    world.clock = FakeClock()
    status = world.backend().stop(handle, grace_seconds=5)
    assert status.state is JobState.RUNNING
    assert not backend.confirm_dead(handle)
    # Even when somebody deletes the Job and leaves its pod behind.
    world.server.objects["jobs"].clear()
    assert backend.status(handle).state is JobState.RUNNING
    assert not backend.confirm_dead(handle)
    with pytest.raises(AlreadyRuns, match="not known to be dead"):
        backend.submit(world.spec("0"))
    assert len(world.pods()) == 1


def test_a_deleted_job_is_lost_and_its_number_is_not_used_again(world: World) -> None:
    backend = world.backend()
    handle = backend.submit(world.spec("3"))
    ended(backend, handle)
    world.server.objects["jobs"].clear()
    world.server.objects["pods"].clear()
    assert backend.status(handle).state is JobState.LOST
    assert backend.confirm_dead(handle)
    assert backend.find(f"{RUN}.e3") is None
    assert backend.submit(world.spec("0")).reference["attempt"] == 2


def test_anothers_job_of_the_same_name_is_refused_and_left_alone(world: World) -> None:
    backend = world.backend()
    handle = backend.submit(world.spec("until-told"))
    job = world.server.objects["jobs"][str(handle.reference["job"])]
    begun(backend, handle)
    backend.stop(handle, grace_seconds=20)
    job["metadata"].update(labels={}, annotations={})
    (world.bucket / key_of(handle)).unlink()
    with pytest.raises(JobNotStarted, match="another Job has the name"):
        backend.submit(world.spec("0"))


def test_an_image_that_cannot_be_fails_the_job_and_is_stopped_before_the_next(world: World) -> None:
    backend = world.backend()
    world.server.cannot_begin = "InvalidImageName"
    first = backend.submit(world.spec("0", after=0))
    failed = backend.status(first)
    assert (failed.state, "InvalidImageName" in str(failed.detail)) == (JobState.FAILED, True)
    assert backend.submit(world.spec("0", after=0)) == first
    world.server.cannot_begin = ""
    second = backend.submit(world.spec("0", after=1))
    assert second.attempt == 2
    assert ended(backend, second).state is JobState.SUCCEEDED
    assert backend.confirm_dead(first)
    assert len(world.server.processes) == 1


@pytest.mark.parametrize(
    ("reason", "waited_seconds", "state"),
    [
        ("ErrImagePull", 590, JobState.PENDING),
        ("ErrImagePull", 610, JobState.FAILED),
        ("ImagePullBackOff", 610, JobState.FAILED),
        ("CreateContainerConfigError", 110, JobState.PENDING),
        ("CreateContainerConfigError", 130, JobState.FAILED),
        ("ContainerCreating", 9999, JobState.PENDING),
    ],
)
def test_a_registry_that_is_away_for_long_ends_the_job(
    world: World, reason: str, waited_seconds: int, state: JobState
) -> None:
    world.server.cannot_begin = reason
    handle = world.backend().submit(world.spec("0"))
    world.clock = FakeClock(datetime.now(UTC) + timedelta(seconds=waited_seconds))
    assert world.backend().status(handle).state is state


def test_two_installations_in_one_namespace_leave_each_others_jobs_alone(world: World) -> None:
    mine = world.backend()
    first = mine.submit(world.spec("until-told"))
    begun(mine, first)
    world.bucket_name, world.store = "staging", memory_store()
    other = world.backend()
    assert other.find(first.name) is None
    second = other.submit(world.spec("0"))
    assert second.reference["uid"] != first.reference["uid"]
    assert second.attempt == 1
    assert ended(other, second).state is JobState.SUCCEEDED
    assert mine.status(first).state is JobState.RUNNING


# -- stopping ---------------------------------------------------------------------------------------------------


def test_stop_gives_the_job_its_grace_to_leave(world: World) -> None:
    backend = world.backend()
    handle = backend.submit(world.spec("until-told"))
    begun(backend, handle)
    assert backend.stop(handle, grace_seconds=20).state is JobState.STOPPED
    assert backend.confirm_dead(handle)


def test_stop_kills_what_does_not_leave(world: World) -> None:
    backend = world.backend()
    handle = backend.submit(world.spec("stubborn"))
    begun(backend, handle)
    assert backend.stop(handle, grace_seconds=0).state is JobState.LOST
    assert backend.confirm_dead(handle)


def test_stop_of_one_that_never_began_keeps_it_from_beginning(world: World) -> None:
    backend = world.backend(kueue_queue="gpus")
    handle = backend.submit(world.spec("0"))
    assert not backend.confirm_dead(handle)
    backend.stop(handle, grace_seconds=1)
    assert backend.confirm_dead(handle)
    assert world.jobs() == []


def test_a_bucket_that_is_down_ends_no_job_and_hides_none(world: World) -> None:
    backend = world.backend()
    handle = backend.submit(world.spec("until-told"))
    begun(backend, handle)
    world.store = OrderedFaults(world.store)
    world.store.down = True
    assert backend.status(handle).state is JobState.RUNNING
    with pytest.raises(ComputeUnavailable, match="bucket"):
        backend.submit(world.spec("until-told"))
    world.store.down = False
    assert backend.stop(handle, grace_seconds=20).state is JobState.STOPPED


def test_a_checkpoint_is_asked_for_beside_the_heartbeat(world: World) -> None:
    backend = world.backend()
    handle = backend.submit(world.spec("until-told"))
    backend.request_checkpoint(handle)
    assert world.store.get(f"{key_of(handle)}.request") == b""


# -- waiting ----------------------------------------------------------------------------------------------------


def test_one_without_room_is_pending_and_says_what_the_scheduler_says(world: World) -> None:
    world.server.schedulable = False
    backend = world.backend()
    handle = backend.submit(world.spec("0"))
    status = backend.status(handle)
    assert (status.state, "Insufficient nvidia.com/gpu" in status.detail) == (JobState.PENDING, True)
    assert backend.log(handle) == ""
    world.server.schedule()
    assert ended(backend, handle).state is JobState.SUCCEEDED


def test_kueue_gets_a_suspended_job_of_its_queue(world: World) -> None:
    backend = world.backend(kueue_queue="gpus")
    handle = backend.submit(world.spec("0"))
    (job,) = world.server.objects["jobs"].values()
    assert job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "gpus"
    status = backend.status(handle)
    assert (status.state, "gpus" in status.detail, world.pods()) == (JobState.PENDING, True, [])
    assert backend.submit(world.spec("0")) == handle
    world.server.admit(str(handle.reference["job"]))
    assert ended(backend, handle).state is JobState.SUCCEEDED


# -- when the API does not answer -------------------------------------------------------------------------------


def test_a_cluster_that_cannot_be_reached_is_unavailable_and_the_job_is_not_lost(world: World) -> None:
    handle = world.backend().submit(world.spec("until-told"))
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        world.url = f"http://127.0.0.1:{closed.getsockname()[1]}"
        world.clock = FakeClock()
        backend = world.backend()
        for ask in (backend.status, backend.confirm_dead, backend.log, lambda _: backend.submit(world.spec("0"))):
            with pytest.raises(ComputeUnavailable):
                ask(handle)


@pytest.mark.parametrize("code", [429, 500, 503])
def test_a_passing_failure_is_tried_again_and_a_lasting_one_is_unavailable(world: World, code: int) -> None:
    world.clock = FakeClock()
    backend = world.backend()
    world.server.failures = [code, code]
    assert backend.find("none.e1") is None
    world.server.failures = [code] * 10
    with pytest.raises(ComputeUnavailable, match=str(code)):
        backend.find("none.e1")
    assert len(world.server.failures) == 5


@pytest.mark.parametrize(("code", "error"), [(401, ComputeRefused), (403, ComputeRefused), (422, JobNotStarted)])
def test_a_refusal_is_not_tried_again(world: World, code: int, error: type[Exception]) -> None:
    backend = world.backend()
    world.server.failures = [code, 500]
    with pytest.raises(error, match=str(code)):
        backend.find("none.e1")
    assert world.server.failures == [500]


def test_a_namespace_that_is_not_there_starts_nothing(world: World) -> None:
    with pytest.raises(JobNotStarted):
        world.backend(namespace="elsewhere").submit(world.spec("0"))


def test_a_used_up_quota_is_no_capacity() -> None:
    from kubernetes.client.exceptions import ApiException

    from holdfast.engine.compute.kubernetes_api import _failure

    error = ApiException(status=403)
    error.body = json.dumps({"message": 'jobs "x" is forbidden: exceeded quota: jobs, requested: count/jobs.batch=1'})
    assert isinstance(_failure(error, "here"), NoCapacity)


def test_a_secret_that_may_not_be_made_leaves_no_job_behind(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = world.backend()

    def refuse(_body: object) -> None:
        raise ComputeRefused("no")

    monkeypatch.setattr(backend._api, "create_secret", refuse)
    with pytest.raises(ComputeRefused):
        backend.submit(world.spec("0"))
    assert (world.jobs(), world.pods()) == ([], [])


# -- what the container gets ------------------------------------------------------------------------------------


def test_the_container_gets_the_contract_the_sites_environment_and_the_topologys_text(world: World) -> None:
    backend = world.backend()
    handle = backend.submit(world.spec("0"))
    ended(backend, handle)
    beat = backend.heartbeat(handle)
    environ = beat["environ"]
    assert environ["HOLDFAST_HEARTBEAT"] == f"object:{key_of(handle)}"
    assert environ["HOLDFAST_RUN"] == RUN
    assert environ["ODD"] == "$(PATH) $$ $"
    assert environ["TOKEN"] == "a$(HOSTNAME)b"
    assert beat["topology"] == (world.image / "topology.yaml").read_text()


def test_the_sites_environment_is_in_a_secret_the_job_owns_and_nowhere_else(world: World) -> None:
    handle = world.backend().submit(world.spec("until-told"))
    (secret,) = world.server.objects["secrets"].values()
    assert secret["metadata"]["ownerReferences"][0]["uid"] == handle.reference["uid"]
    assert "TOKEN" in secret["stringData"]
    assert "HOSTNAME" not in json.dumps(world.server.objects["jobs"])


def test_without_an_environment_of_its_own_no_secret_is_made(world: World) -> None:
    world.environment_file = None
    world.server.schedulable = False
    world.backend().submit(world.spec("0"))
    assert world.server.objects["secrets"] == {}


def test_spot_and_its_notice_are_told_where_there_are_nodes_for_it(world: World) -> None:
    assert not world.backend().capabilities().spot
    told = world.backend(spot_node_selector={"cloud.google.com/gke-spot": "true"}).capabilities()
    assert (told.spot, told.preemption_notice_seconds, told.region) == (True, 15.0, "europe-west4")


def test_a_handle_of_another_backend_is_unknown(world: World) -> None:
    with pytest.raises(UnknownHandle):
        world.backend().status(JobHandle("process", "here", f"{RUN}.e3", {}))


def test_a_login_that_is_not_there_is_an_error_of_the_settings(tmp_path: Path) -> None:
    from holdfast.engine.compute.kubernetes import own_client

    with pytest.raises(ConfigError, match="login"):
        own_client(Kubernetes(image="i", kubeconfig=str(tmp_path / "none")))
