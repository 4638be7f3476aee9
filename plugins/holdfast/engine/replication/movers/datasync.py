"""AWS DataSync, between two S3 buckets: other pairs need an agent on a machine of one's own.

The role that DataSync takes on to reach the buckets is ``datasync_role_arn`` in the extra of each site's connection.
What was copied is verified by Holdfast; DataSync's own verification is left at the files it transferred.
(`StartTaskExecution <https://docs.aws.amazon.com/datasync/latest/userguide/API_StartTaskExecution.html>`_)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from holdfast.engine.config import Cloud, Connection, Site
from holdfast.engine.replication.movers.interface import Hop, Moved, MoveFailed
from holdfast.errors import ConfigError

_ENDED = {"SUCCESS": "done", "ERROR": "failed"}
#: A filter is one string, patterns joined by ``|``.
_FILTER_BYTES = 102_400
_TIMEOUT_SECONDS = 30.0


class DataSync:
    """One hop by DataSync.

    Args:
        client: a DataSync client to use instead of one made from the source's connection.
    """

    name = "datasync"

    def __init__(self, hop: Hop, *, client: Any = None) -> None:
        self._hop, self._given = hop, client

    @staticmethod
    def unusable(hop: Hop) -> str | None:
        """Why it cannot serve this hop; ``None``: it can."""
        if (hop.source.cloud, hop.target.cloud) != (Cloud.AWS, Cloud.AWS):
            return f"without an agent it copies between S3 buckets only, not {hop.source.cloud} to {hop.target.cloud}"
        for connection in (hop.source_connection, hop.target_connection):
            if not connection.extra.get("datasync_role_arn"):
                return f"the connection {connection.conn_id!r} names no `datasync_role_arn` in its extra"
        return None

    def begin(self, names: Sequence[str]) -> str:
        hop = self._hop
        source = self._location(hop.source, hop.source_connection, hop.source_prefix())
        target = self._location(hop.target, hop.target_connection, hop.target_prefix())
        task = self._call(
            "create_task",
            SourceLocationArn=source,
            DestinationLocationArn=target,
            Options={
                "VerifyMode": "ONLY_FILES_TRANSFERRED",
                "OverwriteMode": "NEVER",
                "PreserveDeletedFiles": "PRESERVE",
                "TransferMode": "ALL",
            },
        )["TaskArn"]
        return str(self._call("start_task_execution", TaskArn=task, **_filter(names))["TaskExecutionArn"])

    def look(self, handle: str) -> Moved:
        answer = self._call("describe_task_execution", TaskExecutionArn=handle)
        status = str(answer["Status"])
        error = answer.get("Result", {}).get("ErrorDetail")
        state = _ENDED.get(status, "running")
        return Moved(state, f"{status}: {error}" if error else status)  # type: ignore[arg-type]

    def cancel(self, handle: str) -> None:
        self._call("cancel_task_execution", TaskExecutionArn=handle)

    def _location(self, site: Site, connection: Connection, prefix: str) -> str:
        role = connection.extra["datasync_role_arn"]
        answer = self._call(
            "create_location_s3",
            Subdirectory=prefix,
            S3BucketArn=f"arn:aws:s3:::{site.bucket}",
            S3Config={"BucketAccessRoleArn": role},
        )
        return str(answer["LocationArn"])

    def _call(self, operation: str, **arguments: Any) -> dict[str, Any]:
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            answer: dict[str, Any] = getattr(self._client(), operation)(**arguments)
        except ClientError as error:
            code = error.response.get("Error", {}).get("Code", "")
            if code in ("InvalidRequestException", "AccessDeniedException", "ValidationException"):
                raise ConfigError(
                    "DataSync refuses the request", where=f"datasync {operation}", found=f"{code}: {error}"
                ) from None
            raise MoveFailed("DataSync failed", where=f"datasync {operation}", found=f"{code}: {error}") from None
        except BotoCoreError as error:
            raise MoveFailed("DataSync does not answer", where=f"datasync {operation}", found=str(error)) from None
        return answer

    def _client(self) -> Any:
        if self._given is None:
            import boto3
            from botocore.config import Config

            connection = self._hop.source_connection
            self._given = boto3.client(
                "datasync",
                region_name=self._hop.source.region,
                endpoint_url=connection.extra.get("service_config", {}).get("datasync", {}).get("endpoint_url"),
                aws_access_key_id=connection.login,
                aws_secret_access_key=connection.password,
                config=Config(
                    connect_timeout=_TIMEOUT_SECONDS,
                    read_timeout=_TIMEOUT_SECONDS,
                    retries={"max_attempts": 3, "mode": "standard"},
                ),
            )
        return self._given


def _filter(names: Sequence[str]) -> dict[str, Any]:
    """The objects by name, where their names fit into a filter and hold nothing it would read as a pattern."""
    text = "|".join(f"/{name}" for name in names)
    if len(text.encode()) > _FILTER_BYTES or any(sign in name for name in names for sign in "|*\\"):
        return {}
    return {"Includes": [{"FilterType": "SIMPLE_PATTERN", "Value": text}]}
