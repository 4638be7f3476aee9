"""Google's Storage Transfer Service, into a Cloud Storage bucket from S3, Azure Blob or another bucket.

The project is ``project_id`` (or ``extra__google_cloud_platform__project``) in the extra of the target's connection.
From S3 it takes on the role ``transfer_role_arn`` of the source's connection, from Azure it uses the SAS token
``sas_token`` there: both are handed to the service, so keys of this machine are not.
(`TransferSpec <https://cloud.google.com/storage-transfer/docs/reference/rest/v1/TransferSpec>`_)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from holdfast.engine.config import Cloud
from holdfast.engine.replication.movers.interface import Hop, Moved, MoveFailed
from holdfast.errors import ConfigError

#: ``include_prefixes`` takes so many.
_MOST_PREFIXES = 1000
_TIMEOUT_SECONDS = 30.0
_PROJECT_KEYS = ("project_id", "project", "extra__google_cloud_platform__project")


class StorageTransfer:
    """One hop by the Storage Transfer Service.

    Args:
        client: a ``StorageTransferServiceClient`` to use instead of one made from the target's connection.
    """

    name = "storage-transfer"

    def __init__(self, hop: Hop, *, client: Any = None) -> None:
        self._hop, self._given = hop, client

    @staticmethod
    def unusable(hop: Hop) -> str | None:
        """Why it cannot serve this hop; ``None``: it can."""
        extra = hop.source_connection.extra
        if hop.target.cloud is not Cloud.GCP:
            return f"it writes into Cloud Storage only, not {hop.target.cloud}"
        if _project(hop) is None:
            return f"the connection {hop.target_connection.conn_id!r} names no `project_id` in its extra"
        if hop.source.cloud is Cloud.AWS and not extra.get("transfer_role_arn"):
            return f"the connection {hop.source_connection.conn_id!r} names no `transfer_role_arn` in its extra"
        if hop.source.cloud is Cloud.AZURE and not (hop.source_connection.login and extra.get("sas_token")):
            return f"the connection {hop.source_connection.conn_id!r} has no account and `sas_token`"
        if hop.source.cloud is Cloud.LOCAL:
            return "it does not read folders"
        return None

    def begin(self, names: Sequence[str]) -> str:
        job = {
            "project_id": _project(self._hop),
            "description": f"Holdfast: {self._hop.source_site} to {self._hop.target_site}",
            "status": "ENABLED",
            "transfer_spec": self._spec(names),
        }
        made = self._call(lambda client: client.create_transfer_job(request={"transfer_job": job}, **_LIMITS))
        request = {"job_name": made.name, "project_id": _project(self._hop)}
        operation = self._call(lambda client: client.run_transfer_job(request=request, **_LIMITS))
        return str(operation.operation.name)

    def look(self, handle: str) -> Moved:
        found = self._call(lambda client: client.get_operation({"name": handle}, **_LIMITS))
        if not found.done:
            return Moved("running", handle)
        if found.HasField("error"):
            return Moved("failed", str(found.error.message))
        return Moved("done", handle)

    def cancel(self, handle: str) -> None:
        self._call(lambda client: client.cancel_operation({"name": handle}, **_LIMITS))

    def _spec(self, names: Sequence[str]) -> dict[str, Any]:
        hop = self._hop
        spec: dict[str, Any] = {
            "gcs_data_sink": {"bucket_name": hop.target.bucket, "path": hop.target_prefix()},
            "transfer_options": {"overwrite_objects_already_existing_in_sink": False},
            # Left out where there are too many: then the whole folder is staged.
            "object_conditions": {"include_prefixes": list(names)} if len(names) <= _MOST_PREFIXES else {},
        }
        path = hop.source_prefix()
        if hop.source.cloud is Cloud.AWS:
            role = hop.source_connection.extra["transfer_role_arn"]
            spec["aws_s3_data_source"] = {"bucket_name": hop.source.bucket, "path": path, "role_arn": role}
        elif hop.source.cloud is Cloud.AZURE:
            spec["azure_blob_storage_data_source"] = {
                "storage_account": hop.source_connection.login,
                "container": hop.source.bucket,
                "path": path,
                "azure_credentials": {"sas_token": hop.source_connection.extra["sas_token"]},
            }
        else:
            spec["gcs_data_source"] = {"bucket_name": hop.source.bucket, "path": path}
        return spec

    def _call(self, ask: Callable[[Any], Any]) -> Any:
        from google.api_core.exceptions import ClientError, GoogleAPICallError, RetryError

        try:
            return ask(self._client())
        except ClientError as error:
            raise ConfigError("Storage Transfer refuses the request", where=self.name, found=str(error)) from None
        except (GoogleAPICallError, RetryError) as error:
            raise MoveFailed("Storage Transfer does not answer", where=self.name, found=str(error)) from None

    def _client(self) -> Any:
        if self._given is None:
            try:
                from google.cloud import storage_transfer_v1
            except ImportError as error:
                raise ConfigError(
                    "Google's transfer client is not installed here",
                    where=self.name,
                    expected="google-cloud-storage-transfer",
                    found=str(error),
                ) from None
            self._given = storage_transfer_v1.StorageTransferServiceClient()
        return self._given


_LIMITS = {"timeout": _TIMEOUT_SECONDS}


def _project(hop: Hop) -> str | None:
    extra = hop.target_connection.extra
    return next((str(extra[key]) for key in _PROJECT_KEYS if extra.get(key)), None)
