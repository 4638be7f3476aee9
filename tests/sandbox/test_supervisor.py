"""The sandbox comes up, stays up, and goes down without a trace."""

from __future__ import annotations

import json

import boto3
import pytest
from azure.storage.blob import ContainerClient
from botocore.config import Config
from google.auth.credentials import AnonymousCredentials
from google.cloud import storage

from holdfast.sandbox import Sandbox

ALL = ("outside", "aws-eu-west-1", "gcp-europe-west1", "azure-westeurope")


def s3(environ: dict[str, str], **config: object) -> object:
    connection = json.loads(environ["AIRFLOW_CONN_HOLDFAST_AWS"])
    extra = connection["extra"]
    return boto3.client(
        "s3",
        endpoint_url=extra["endpoint_url"],
        region_name=extra["region_name"],
        aws_access_key_id=connection["login"],
        aws_secret_access_key=connection["password"],
        config=Config(**{**extra["config_kwargs"], **config}),
    )


@pytest.mark.parametrize("vantage", ALL)
def test_every_store_holds_its_bucket_from_every_vantage_point(sandbox: Sandbox, vantage: str) -> None:
    environ = sandbox.environment(vantage)
    client = s3(environ)
    client.put_object(Bucket="holdfast-eu-west-1", Key=f"from/{vantage}", Body=b"hello")
    assert client.get_object(Bucket="holdfast-eu-west-1", Key=f"from/{vantage}")["Body"].read() == b"hello"

    azure = json.loads(environ["AIRFLOW_CONN_HOLDFAST_AZURE"])
    container = ContainerClient(azure["host"], "holdfast-westeurope", credential=azure["password"])
    container.upload_blob(f"from/{vantage}", b"hello", overwrite=True)
    assert container.download_blob(f"from/{vantage}").readall() == b"hello"

    google = json.loads(environ["AIRFLOW_CONN_HOLDFAST_GCP"])["extra"]
    gcs = storage.Client(
        project=google["project"],
        credentials=AnonymousCredentials(),
        client_options={"api_endpoint": google["endpoint_url"]},
    )
    blob = gcs.bucket("holdfast-europe-west1").blob(f"from/{vantage}")
    blob.upload_from_string(b"hello")
    assert blob.download_as_bytes() == b"hello"
