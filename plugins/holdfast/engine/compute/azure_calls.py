"""What the Azure backends share: limits of a call, what an answer means, and credentials of a connection."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from typing import Any

from holdfast.engine.compute.errors import ComputeRefused, ComputeUnavailable, JobNotStarted, NoCapacity
from holdfast.engine.config import Connection
from holdfast.errors import ConfigError

#: Of one call: seconds to connect, seconds between bytes, and at most two more tries within half a minute. Given with
#: each call because a client that an Airflow hook made has the SDK's defaults: 300 s and ten tries.
LOOKING: dict[str, Any] = {
    "connection_timeout": 5,
    "read_timeout": 20,
    "retry_total": 2,
    "retry_connect": 2,
    "retry_read": 2,
    "retry_status": 2,
    "retry_backoff_factor": 0.3,
    "retry_backoff_max": 5,
    "timeout": 30,
}
#: Of a call that makes something: once. Whether it was made is found out by looking.
MAKING: dict[str, Any] = {**LOOKING, "retry_total": 0, "retry_connect": 0, "retry_read": 0, "retry_status": 0}

#: Seen in issue threads of users of Container Instances and Azure ML; no service documents a closed list.
_CAPACITY_CODES = frozenset(
    {
        "InsufficientCapacity",
        "ContainerGroupQuotaReached",
        "QuotaExceeded",
        "AllocationFailed",
        "OverconstrainedAllocationRequest",
        "SkuNotAvailable",
        "ClusterCoreQuotaReached",
        "AccountCoreQuotaReached",
        "LowPriorityCoreQuotaReached",
        "JobNodeCountExceedsCoreQuota",
        "ClusterMinNodesExceedCoreQuota",
    }
)
_CAPACITY_WORDS = re.compile(
    r"not available in the location|insufficient capacity|quota .{0,60}exceeded"
    r"|vcpu quota of \d+ and (?:is less than|cannot acc?omm?odate)",
    re.I,
)

#: Login server, ARM endpoint and Azure ML's name of the cloud per ``extra.cloud_environment``, as Airflow's Azure hooks
#: name them.
_CLOUDS = {
    "AzurePublicCloud": ("login.microsoftonline.com", "https://management.azure.com", "AzureCloud"),
    "AzureUSGovernment": ("login.microsoftonline.us", "https://management.usgovcloudapi.net", "AzureUSGovernment"),
    "AzureChinaCloud": ("login.chinacloudapi.cn", "https://management.chinacloudapi.cn", "AzureChinaCloud"),
}


def is_capacity(code: str | None, message: str | None) -> bool:
    """Whether an error says that there is no room, not that the request is wrong."""
    return (code or "").rstrip(".") in _CAPACITY_CODES or bool(_CAPACITY_WORDS.search(message or ""))


def error_code(error: Any) -> str:
    """The service's own code of an ``HttpResponseError``; empty when it gave none."""
    for told in (getattr(error, "error", None), getattr(error, "model", None)):  # Resource Manager's form, Batch's form
        if code := getattr(told, "code", None):
            return str(code)
    return ""


@contextlib.contextmanager
def answered(where: str, *, expected: str = "the service's consent") -> Iterator[None]:
    """Azure's exceptions as this package's.

    Args:
        where: site and job, for messages.
        expected: what a refusal misses.

    Raises:
        ComputeRefused: HTTP 401 or 403, or the login gave no token.
        NoCapacity: any answer that says there is no room.
        ComputeUnavailable: no answer, 408, 409, 429, 5xx: ask again.
        JobNotStarted: any other answer.
    """
    from azure.core.exceptions import AzureError, ClientAuthenticationError, HttpResponseError

    try:
        yield
    except HttpResponseError as error:
        status, code = error.status_code or 0, error_code(error)
        found = f"HTTP {status} {code}: {_first_line(error)}"[:400]
        if isinstance(error, ClientAuthenticationError) or status in (401, 403):
            raise ComputeRefused(
                "the service does not allow it", where=where, expected=expected, found=found
            ) from error
        if is_capacity(code, error.message):
            raise NoCapacity("there is no room for this job", where=where, found=found) from error
        if status < 400 or status in (408, 409, 429) or status >= 500:
            raise ComputeUnavailable("the service did not do it", where=where, found=found) from error
        raise JobNotStarted("the service refuses the request", where=where, found=found) from error
    except AzureError as error:
        raise ComputeUnavailable(
            "the service did not answer", where=where, found=f"{type(error).__name__}: {_first_line(error)}"[:400]
        ) from error


def management_endpoint(connection: Connection) -> str:
    """The Resource Manager of the connection's cloud. Raises ConfigError for an unknown ``cloud_environment``."""
    return _cloud(connection)[1]


def ml_cloud(connection: Connection) -> str:
    """The connection's cloud by Azure ML's name. Raises ConfigError for an unknown ``cloud_environment``."""
    return _cloud(connection)[2]


def credential(connection: Connection) -> Any:
    """A service principal's credential where the connection has one, else the machine's own identity.

    The fields are those of Airflow's Azure hooks: ``login``, ``password`` and ``extra.tenantId``; else
    ``extra.managed_identity_client_id`` and ``extra.workload_identity_tenant_id``.
    """
    from azure.identity import ClientSecretCredential, DefaultAzureCredential

    tenant = field(connection, "tenantId")
    authority = _cloud(connection)[0]
    if connection.login and connection.password and tenant:
        return ClientSecretCredential(str(tenant), connection.login, connection.password, authority=authority)
    return DefaultAzureCredential(
        authority=authority,
        managed_identity_client_id=field(connection, "managed_identity_client_id"),
        workload_identity_tenant_id=field(connection, "workload_identity_tenant_id"),
    )


def field(connection: Connection, name: str) -> Any:
    """A field of the connection's extra, under the prefix of old Airflow versions or without."""
    return connection.extra.get(name) or connection.extra.get(f"extra__{connection.conn_type}__{name}")


def _cloud(connection: Connection) -> tuple[str, str, str]:
    name = str(field(connection, "cloud_environment") or "AzurePublicCloud")
    if name not in _CLOUDS:
        raise ConfigError(
            "unknown Azure cloud",
            where=f"connection {connection.conn_id!r}: extra.cloud_environment",
            expected=", ".join(_CLOUDS),
            found=name,
        )
    return _CLOUDS[name]


def _first_line(error: Exception) -> str:
    lines = str(error).splitlines()
    return lines[0] if lines else ""
