"""What the Job of an attempt holds, and what the API stub refuses: both by the SDK's models."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from holdfast.engine.compute import JobNotStarted
from holdfast.engine.compute.kubernetes_job import job_manifest, label_value
from holdfast.engine.compute.remote import command_elsewhere
from holdfast.engine.config.compute import Kubernetes
from kubernetes_pod import expand
from kubernetes_schema import Invalid, check
from kubernetes_world import World


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    it = World(tmp_path)
    yield it
    it.server.stop()


def manifest(world: World, settings: dict[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
    (world.image / "topology.yaml").touch()
    return job_manifest(
        world.spec("0", **changes),
        2,
        settings=Kubernetes(**(world.settings | (settings or {}))),
        topology=world.image / "topology.yaml",
        has_environment=True,
        bucket="abcdef",
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
    assert command_elsewhere(words, tmp_path) == ("python", "-u", "jobs/train.py", "/opt/data", "--x")


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
