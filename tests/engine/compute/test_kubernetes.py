"""Jobs of a cluster, against an API stub that checks bodies by the SDK's models and runs the command as a process."""

from __future__ import annotations

import json
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from holdfast.clock import FakeClock, SystemClock
from holdfast.engine.compute import (
    AlreadyRuns,
    ComputeRefused,
    ComputeUnavailable,
    JobHandle,
    JobNotStarted,
    JobSpec,
    JobState,
    NoCapacity,
    UnknownHandle,
    open_backend,
)
from holdfast.engine.compute.kubernetes import KubernetesBackend
from holdfast.engine.compute.kubernetes_job import container_command, job_manifest, label_value
from holdfast.engine.config import load_topology
from holdfast.engine.config.compute import Kubernetes
from holdfast.engine.objectstore import local_store
from holdfast.errors import ConfigError
from kubernetes_pod import expand
from kubernetes_schema import Invalid, check
from kubernetes_server import KubernetesServer

TRAINER = '''
"""Beats once, then does what its argument says."""
import json, os, pathlib, signal, sys, time

what = sys.argv[1]
told = []
signal.signal(signal.SIGTERM, lambda *_: told.append(1))
topology = pathlib.Path(os.environ["HOLDFAST_TOPOLOGY"]).read_text()
beat = pathlib.Path(os.environ["BUCKET"], os.environ["HOLDFAST_HEARTBEAT"].removeprefix("object:"))


def write(state):
    beat.parent.mkdir(parents=True, exist_ok=True)
    facts = {"state": state, "step": 7, "total_steps": 9, "at": "2026-01-01T00:00:00.000000Z"}
    beat.with_suffix(".new").write_text(json.dumps(facts | {"environ": dict(os.environ), "topology": topology}))
    beat.with_suffix(".new").replace(beat)


write("training")
print("the trainer says", what, flush=True)
if what == "until-told":
    while not told:
        time.sleep(0.02)
    write("stopped")
    sys.exit(75)
while what == "stubborn":
    time.sleep(0.02)
sys.exit(int(what))
'''
RUN = "Market_Data.volatility.2026-01-01"


class World:
    """A cluster, a site and its bucket."""

    def __init__(self, folder: Path) -> None:
        self.image, self.bucket = folder / "image", folder / "bucket"
        self.image.mkdir()
        self.bucket.mkdir()
        (self.image / "train.py").write_text(TRAINER)
        (folder / "site.env").write_text(f"BUCKET={self.bucket}\nTOKEN='a$(HOSTNAME)b'\n")
        self.server = KubernetesServer(self.image, folder / "pods")
        self.environment_file: str | None = str(folder / "site.env")
        self.settings: dict[str, Any] = {"image": "trainer:1", "requests": {"cpu": "500m", "memory": "1Gi"}}
        self.clock: Any = SystemClock()
        self.url = self.server.url
        self.store = local_store("bucket", self.bucket)

    def backend(self, **settings: Any) -> KubernetesBackend:
        compute = {
            "kind": "kubernetes",
            "environment_file": self.environment_file,
            "kubernetes": self.settings | settings,
        }
        site = {
            "cloud": "gcp",
            "region": "europe-west4",
            "jurisdiction": "EU",
            "connection": "c",
            "bucket": "b",
            "compute": compute,
        }
        path = self.image / "topology.yaml"
        path.write_text(json.dumps({"version": 1, "sites": {"here": site}, "groups": {}}))
        topology = load_topology(path, {})
        backend = open_backend(
            "here",
            topology.site("here"),
            topology=topology,
            environ={},
            clock=self.clock,
            store=lambda: self.store,
            connection=lambda: pytest.fail("a client is given"),
            client=self.client,
        )
        assert isinstance(backend, KubernetesBackend)
        return backend

    def client(self) -> Any:
        from kubernetes import client

        configuration = client.Configuration()
        configuration.host = self.url
        return client.ApiClient(configuration)

    def spec(self, what: str, **changes: Any) -> JobSpec:
        contract = {"HOLDFAST_TOPOLOGY": str(self.image / "topology.yaml"), "HOLDFAST_RUN": RUN, "ODD": "$(PATH) $$ $"}
        spec = JobSpec(RUN, 3, "here", (sys.executable, "-u", str(self.image / "train.py"), what), contract)
        return replace(spec, **changes)

    def pods(self) -> list[str]:
        return list(self.server.objects["pods"])

    def jobs(self) -> list[str]:
        return list(self.server.objects["jobs"])


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    it = World(tmp_path)
    yield it
    it.server.stop()


def until(what: Callable[[], Any]) -> Any:
    """Wait for what another process does."""
    deadline = time.monotonic() + 60
    while not (found := what()):
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(0.02)
    return found


def ended(backend: KubernetesBackend, handle: JobHandle) -> Any:
    return until(
        lambda: (status := backend.status(handle)).state not in (JobState.PENDING, JobState.RUNNING) and status
    )


def begun(backend: KubernetesBackend, handle: JobHandle) -> None:
    until(lambda: backend.heartbeat(handle))


# -- how a job ends ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("what", "state"),
    [("0", JobState.SUCCEEDED), ("76", JobState.FENCED), ("75", JobState.STOPPED), ("3", JobState.FAILED)],
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
    assert backend.status(handle).state is JobState.STOPPED


# -- never two writers ------------------------------------------------------------------------------------------


def test_of_many_submitters_one_starts_the_job_and_all_get_it(world: World) -> None:
    handles: list[JobHandle] = []
    barrier = threading.Barrier(5)

    def submit() -> None:
        backend = world.backend_of_its_own()
        barrier.wait()
        handles.append(backend.submit(world.spec("until-told")))

    backend = world.backend()
    world.backend_of_its_own = lambda: type(backend)(backend._opening, backend._settings, _another_api(world, backend))
    threads = [threading.Thread(target=submit) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(handles) == 5
    assert len({str(handle.reference) for handle in handles}) == 1
    assert (len(world.jobs()), len(world.pods())) == (1, 1)


def _another_api(world: World, backend: KubernetesBackend) -> Any:
    import random

    from holdfast.engine.compute.kubernetes_api import ClusterApi

    return ClusterApi(world.client, namespace="default", where="here", clock=backend._clock, rng=random.Random(1))


def test_a_create_whose_answer_was_lost_is_found_again(world: World) -> None:
    world.server.lose_answers = 1
    handle = world.backend().submit(world.spec("until-told"))
    assert (len(world.jobs()), handle.reference["attempt"]) == (1, 1)


def test_a_submitter_that_died_before_its_handle_was_stored_left_a_job_to_reattach_to(world: World) -> None:
    first = world.backend().submit(world.spec("until-told"))
    del first
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
    (world.bucket / str(handle.reference["heartbeat"])).unlink()
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
    (world.bucket / str(handle.reference["heartbeat"])).unlink()
    with pytest.raises(JobNotStarted, match="another Job has the name"):
        backend.submit(world.spec("0"))


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


def test_a_checkpoint_is_asked_for_beside_the_heartbeat(world: World) -> None:
    backend = world.backend()
    handle = backend.submit(world.spec("until-told"))
    backend.request_checkpoint(handle)
    assert world.store.get(f"{handle.reference['heartbeat']}.request") == b""


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
    assert environ["HOLDFAST_HEARTBEAT"] == f"object:{handle.reference['heartbeat']}"
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


def manifest(world: World, settings: dict[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
    (world.image / "topology.yaml").touch()
    return job_manifest(
        world.spec("0", **changes),
        2,
        settings=Kubernetes(**(world.settings | (settings or {}))),
        topology=world.image / "topology.yaml",
        has_environment=True,
    )


def test_the_settings_of_a_site_are_in_the_job(world: World) -> None:
    made = manifest(
        world,
        {
            "service_account": "trainer",
            "node_selector": {"pool": "gpu"},
            "spot_node_selector": {"kubernetes.azure.com/scalesetpriority": "spot"},
            "limits": {"nvidia.com/gpu": "1"},
            "secrets": ("keys",),
            "active_deadline_seconds": 60,
        },
        spot=True,
        machine="n1-standard-4",
    )
    job = check(made, "V1Job")
    pod = job.spec.template.spec
    assert (job.spec.backoff_limit, job.spec.active_deadline_seconds, pod.restart_policy) == (0, 60, "Never")
    assert pod.service_account_name == "trainer"
    assert pod.node_selector == {
        "pool": "gpu",
        "kubernetes.azure.com/scalesetpriority": "spot",
        "node.kubernetes.io/instance-type": "n1-standard-4",
    }
    assert [toleration.key for toleration in pod.tolerations] == ["kubernetes.azure.com/scalesetpriority"]
    assert pod.containers[0].resources.limits == {"nvidia.com/gpu": "1"}
    assert [source.secret_ref.name for source in pod.containers[0].env_from] == [made["metadata"]["name"], "keys"]


def test_names_are_safe_and_the_exact_ones_are_kept(world: World) -> None:
    long = "Größe " + "x" * 150
    made = check(manifest(world, run=long), "V1Job")
    assert made.metadata.annotations["holdfast.io/run-name"] == long
    assert label_value("a" * 70 + "b") != label_value("a" * 70 + "c")
    assert made.metadata.name != check(manifest(world, run=long + "y"), "V1Job").metadata.name


def test_spot_without_nodes_for_it_is_refused(world: World) -> None:
    with pytest.raises(JobNotStarted, match="spot_node_selector"):
        manifest(world, spot=True)


def test_a_topology_too_long_for_an_annotation_is_refused(world: World) -> None:
    (world.image / "topology.yaml").write_text("#" * 256 * 1024)
    with pytest.raises(JobNotStarted, match="bytes"):
        manifest(world)


def test_a_command_names_the_images_interpreter_and_files(tmp_path: Path) -> None:
    words = (sys.executable, "-u", str(tmp_path / "jobs" / "train.py"), "/opt/data", "--x")
    assert container_command(words, tmp_path) == ("python", "-u", "jobs/train.py", "/opt/data", "--x")


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


# -- the stub itself --------------------------------------------------------------------------------------------


def test_the_stub_refuses_a_field_the_model_does_not_have(world: World) -> None:
    from kubernetes.client import ApiException, BatchV1Api

    made = manifest(world)
    made["spec"]["template"]["spec"]["containers"][0]["enviroment"] = []
    with pytest.raises(ApiException) as caught:
        BatchV1Api(world.client()).create_namespaced_job("default", made)
    assert (caught.value.status, "containers[0].enviroment" in caught.value.body) == (400, True)
    assert world.jobs() == []


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda job: job["spec"].update(backoffLimit="0"), "expected int"),
        (lambda job: job["spec"].pop("template"), "template"),
        (lambda job: job["metadata"].update(name="Upper"), "DNS-1123"),
        (lambda job: job["metadata"]["labels"].update(x="a b"), "label value"),
        (lambda job: job["spec"]["template"]["spec"].update(restartPolicy="Always"), "restartPolicy"),
        (lambda job: job["spec"]["template"]["spec"].pop("volumes"), "no volume"),
    ],
)
def test_the_stub_refuses_what_the_api_server_would(world: World, change: Callable[[Any], Any], match: str) -> None:
    made = manifest(world)
    check(made, "V1Job")
    change(made)
    with pytest.raises(Invalid, match=match):
        check(made, "V1Job")


def test_the_stub_puts_variables_in_as_the_kubelet_does() -> None:
    assert expand("$(A) $(B) $$(A) $$ $", {"A": "1"}) == "1 $(B) $(A) $ $"
