"""Clients of AWS made from a connection, and its refusals as `CannotTell`."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Any
from urllib.parse import urlsplit

from holdfast.engine.audit.posture.interface import CannotTell, NotThere
from holdfast.engine.config import Connection

#: Of one request; with its tries, a service that is away costs about half a minute.
_CONNECT_SECONDS = 3
_READ_SECONDS = 10
_TRIES = 4
_MISSING = (
    "404",
    "NoSuch",
    "NotFound",
    "ObjectLockConfigurationNotFoundError",
    "ReportNotPresent",
    "ServerSideEncryptionConfigurationNotFoundError",
)
_OURS = (".amazonaws.com", ".amazonaws.com.cn", ".api.aws")


class AwsApi:
    """The services the checks ask, each client made once.

    Args:
        connection: Airflow's AWS connection: login and password or the environment's credentials, then
            ``extra.role_arn`` with ``extra.assume_role_kwargs`` (e.g. ``ExternalId``) where one is assumed.
        region: of the site: its key and its trail are there, wherever the connection points.
        make: a function from a service's name to a boto3 client, instead of clients made from the connection.
    """

    def __init__(self, connection: Connection, region: str, *, make: Callable[[str], Any] | None = None) -> None:
        self._connection, self._region, self._make = connection, region, make
        self._clients: dict[str, Any] = {}
        extra = connection.extra
        self._shared_endpoint = extra.get("endpoint_url")
        self._endpoints = {
            name: settings["endpoint_url"]
            for name, settings in (extra.get("service_config") or {}).items()
            if isinstance(settings, dict) and settings.get("endpoint_url")
        }

    @property
    def asked_at(self) -> str | None:
        found = self._endpoints.get("s3") or self._shared_endpoint
        return str(found) if found and not _is_amazons(str(found)) else None

    def call(self, service: str, method: str, **arguments: Any) -> Any:
        """One request. Raises NotThere, CannotTell."""
        client = self._client(service)
        from botocore.exceptions import BotoCoreError, ClientError

        where = f"{service}:{method}"
        try:
            return getattr(client, method)(**arguments)
        except ClientError as error:
            raise _translated(error, where) from None
        except BotoCoreError as error:
            raise CannotTell("AWS does not answer", where=where, found=str(error)[:300]) from None

    def pages(self, service: str, method: str, key: str, **arguments: Any) -> Iterator[Any]:
        """The items of all pages. Raises as `call`."""
        client = self._client(service)
        if not client.can_paginate(method):
            yield from self.call(service, method, **arguments)[key]
            return
        from botocore.exceptions import BotoCoreError, ClientError

        where = f"{service}:{method}"
        try:
            for page in client.get_paginator(method).paginate(**arguments):
                yield from page.get(key, ())
        except ClientError as error:
            raise _translated(error, where) from None
        except BotoCoreError as error:
            raise CannotTell("AWS does not answer", where=where, found=str(error)[:300]) from None

    def _client(self, service: str) -> Any:
        if service not in self._clients:
            self._clients[service] = self._make(service) if self._make else self._made(service)
        return self._clients[service]

    def _made(self, service: str) -> Any:
        endpoint = self._endpoints.get(service) or self._shared_endpoint
        if endpoint is None and self.asked_at is not None:
            # Keys of an emulator are not shown to AWS.
            raise CannotTell(
                "the connection names an endpoint for S3 alone",
                where=f"connection {self._connection.conn_id!r}",
                expected=f"extra.service_config.{service}.endpoint_url or extra.endpoint_url beside it",
                found=self.asked_at,
            )
        return _client(service, self._region, endpoint, self._credentials)

    @cached_property
    def _credentials(self) -> dict[str, Any]:
        extra = self._connection.extra
        keys = {
            "aws_access_key_id": self._connection.login or extra.get("aws_access_key_id"),
            "aws_secret_access_key": self._connection.password or extra.get("aws_secret_access_key"),
            "aws_session_token": extra.get("aws_session_token"),
        }
        keys = {name: value or None for name, value in keys.items()}
        return self._assume(keys) if extra.get("role_arn") else keys

    def _assume(self, keys: dict[str, Any]) -> dict[str, Any]:
        from botocore.exceptions import BotoCoreError, ClientError

        extra = self._connection.extra
        endpoint = self._endpoints.get("sts") or self._shared_endpoint
        client = _client("sts", self._region, endpoint, keys)
        session = f"holdfast-posture-{uuid.uuid4().hex[:8]}"
        arguments = {"RoleSessionName": session, **(extra.get("assume_role_kwargs") or {})}
        try:
            found = client.assume_role(RoleArn=extra["role_arn"], **arguments)["Credentials"]
        except ClientError as error:
            raise _translated(error, f"sts:assume_role {extra['role_arn']}") from None
        except BotoCoreError as error:
            raise CannotTell("AWS does not answer", where="sts:assume_role", found=str(error)[:300]) from None
        return {
            "aws_access_key_id": found["AccessKeyId"],
            "aws_secret_access_key": found["SecretAccessKey"],
            "aws_session_token": found["SessionToken"],
        }


def _client(service: str, region: str, endpoint: str | None, keys: dict[str, Any]) -> Any:
    try:
        import boto3
        from botocore.config import Config
        from botocore.exceptions import BotoCoreError
    except ImportError as error:
        raise CannotTell("boto3 is not installed here", where=service, found=str(error)) from None
    config = Config(
        connect_timeout=_CONNECT_SECONDS,
        read_timeout=_READ_SECONDS,
        retries={"mode": "standard", "total_max_attempts": _TRIES},
    )
    try:
        return boto3.client(service, region_name=region, endpoint_url=endpoint, config=config, **keys)
    except (BotoCoreError, ValueError) as error:
        raise CannotTell("the connection makes no client", where=service, found=str(error)[:300]) from None


def _is_amazons(url: str) -> bool:
    return (urlsplit(url).hostname or "").endswith(_OURS)


def _translated(error: Any, where: str) -> CannotTell:
    told = error.response.get("Error", {})
    code = str(told.get("Code", ""))
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    found = f"HTTP {status} {code}: {str(told.get('Message', ''))[:300]}"
    if code == "NoSuchBucket":
        return CannotTell("the bucket does not exist", where=where, found=found)
    if code.startswith(_MISSING) or code.endswith("NotFoundException"):
        return NotThere("there is none", where=where, found=found)
    if status in (401, 403) or "AccessDenied" in code:
        return CannotTell("the credentials are wrong or not allowed to look", where=where, found=found)
    return CannotTell("AWS does not say", where=where, found=found)
