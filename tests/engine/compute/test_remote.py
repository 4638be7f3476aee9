"""What the backends of other machines share: heartbeats read as they are, names, SDKs that are not there."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from azure_world import World
from compute_world import opening
from holdfast.engine.compute import (
    JobState,
    azure_batch,
    azure_container_instances,
    azure_ml,
    kubernetes,
    sagemaker,
    vertex,
)
from holdfast.engine.compute.claimed import limited_name
from holdfast.engine.compute.remote import status_of
from holdfast.errors import ConfigError


@pytest.mark.parametrize("at", ["yesterday", "", 7, None, {}, "0001-01-01T00:00:00+23:59"])
def test_a_heartbeat_without_a_readable_time_is_one_without_a_time(at: Any) -> None:
    status = status_of(JobState.RUNNING, {"at": at, "step": 3, "total_steps": "nine"}, None)
    assert (status.heartbeat_at, status.step, status.total_steps) == (None, 3, None)


def test_two_installations_name_their_jobs_apart(tmp_path: Path) -> None:
    site = World(tmp_path, {}, lambda: None).opening.site
    others = [site.model_copy(update=change) for change in ({"bucket": "staging"}, {"prefix": "staging/"})]
    names = {limited_name(63, one)("fx.e1", 1) for one in (site, *others)}
    assert len(names) == 3
    assert all(len(name) <= 63 for name in names)
    assert limited_name(63, site)("r" * 200 + ".e1", 1) != limited_name(63, others[0])("r" * 200 + ".e1", 1)


MISSING = [
    (kubernetes, "kubernetes", {"image": "i"}, "kubernetes", "holdfast[jobs]"),
    (
        sagemaker,
        "sagemaker",
        {"image": "i", "role_arn": "r", "machine": "m", "output_path": "s3://b/o"},
        "boto3",
        "jobs",
    ),
    (vertex, "vertex", {"project": "p", "image": "i", "machine": "m"}, "google.cloud.aiplatform_v1", "aiplatform"),
    (azure_batch, "azure-batch", {"account_url": "https://a.b", "pool": "p"}, "azure.batch", "azure-batch"),
    (
        azure_container_instances,
        "azure-container-instances",
        {"subscription": "s", "resource_group": "g", "image": "i"},
        "azure.mgmt.containerinstance",
        "azure-mgmt-containerinstance",
    ),
    (
        azure_ml,
        "azure-ml",
        {"subscription": "s", "resource_group": "g", "workspace": "w", "image": "i"},
        "azure.ai.ml",
        "holdfast[azureml]",
    ),
]


@pytest.mark.parametrize(("leaf", "kind", "settings", "module", "said"), MISSING, ids=[one[1] for one in MISSING])
def test_an_sdk_that_is_not_installed_is_a_clear_error(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    leaf: Any,
    kind: str,
    settings: dict[str, Any],
    module: str,
    said: str,
) -> None:
    opened = opening(tmp_path, kind, settings)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ConfigError, match="not installed") as refused:
        leaf.open_backend(opened)
    assert said in str(refused.value)
    assert kind in str(refused.value)
