"""SageMaker against moto: another one's reading of the API than tests/sagemaker_service.py.

moto ends a training job as soon as it is created, lets a name be taken twice, and knows neither StopTrainingJob nor
the environment; those are shown against the stub.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from compute_world import job, opening
from holdfast.engine.compute import JobHandle, JobState, UnknownHandle
from holdfast.engine.compute.sagemaker import SageMakerBackend, open_backend

SETTINGS = {
    "image": "123456789012.dkr.ecr.eu-west-1.amazonaws.com/trainer:1",
    "role_arn": "arn:aws:iam::123456789012:role/trainer",
    "machine": "ml.m5.xlarge",
    "output_path": "s3://b/output",
}


@pytest.fixture(autouse=True)
def moto() -> Iterator[None]:
    from moto import mock_aws

    with mock_aws():
        yield


@pytest.fixture
def backend(tmp_path: Path) -> SageMakerBackend:
    """With the client the leaf makes itself, from the connection."""
    return open_backend(opening(tmp_path, "sagemaker", SETTINGS, connection={"login": "a", "password": "b"}))


def in_moto(handle: JobHandle) -> Any:
    from moto.sagemaker.models import sagemaker_backends

    return sagemaker_backends["123456789012"]["eu-west-1"].training_jobs[handle.reference["training_job"]]


def test_a_job_is_created_found_and_reattached(tmp_path: Path, backend: SageMakerBackend) -> None:
    assert backend.find(job(tmp_path).name) is None
    handle = backend.submit(job(tmp_path, spot=True))
    assert in_moto(handle).resource_config["InstanceType"] == "ml.m5.xlarge"
    assert backend.find(job(tmp_path).name) == handle
    assert backend.submit(job(tmp_path)) == handle
    assert backend.status(handle).state is JobState.SUCCEEDED
    assert backend.confirm_dead(handle)


def test_a_running_job_is_neither_dead_nor_started_again(tmp_path: Path, backend: SageMakerBackend) -> None:
    handle = backend.submit(job(tmp_path))
    in_moto(handle).training_job_status, in_moto(handle).secondary_status = "InProgress", "Training"
    assert backend.status(handle).state is JobState.RUNNING
    assert not backend.confirm_dead(handle)
    assert backend.submit(job(tmp_path)) == handle
    in_moto(handle).training_job_status = "Stopped"
    assert backend.submit(job(tmp_path)).reference["attempt"] == 2


def test_an_unknown_job_is_unknown_and_a_log_without_a_group_is_empty(
    tmp_path: Path, backend: SageMakerBackend
) -> None:
    handle = backend.submit(job(tmp_path))
    assert backend.log(handle) == ""
    with pytest.raises(UnknownHandle):
        backend.status(JobHandle("sagemaker", "site-a", handle.name, {"training_job": "other-a1", "attempt": 1}))
