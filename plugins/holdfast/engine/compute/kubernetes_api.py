"""The calls to a cluster's API: each with a timeout, tried again within a budget, each failure one of ours."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from itertools import count
from typing import Any

from holdfast.clock import Clock
from holdfast.engine.compute.errors import ComputeRefused, ComputeUnavailable, JobNotStarted, NoCapacity
from holdfast.engine.compute.interface import ComputeError
from holdfast.engine.objectstore.retry import RetryPolicy

#: To connect, and to wait for more of an answer.
REQUEST_TIMEOUT_SECONDS = (5.0, 20.0)
RETRY = RetryPolicy(attempts=5, budget_seconds=30.0, first_delay_seconds=0.25, longest_delay_seconds=4.0)
Body = dict[str, Any]


class ClusterApi:
    """The few calls the backend makes in one namespace. All of them may be sent twice without harm.

    Args:
        connect: makes the ``kubernetes.client.ApiClient`` at the first call.
        namespace: the jobs' namespace.
        where: the site, for messages.
        clock: measures the retry budget and sleeps.
        rng: draws the pauses between tries.

    Every method raises ComputeUnavailable (no answer, throttled, 5xx), ComputeRefused (401, 403), NoCapacity (a quota
    of the namespace is used up) or JobNotStarted (what was sent is refused).
    """

    def __init__(
        self,
        connect: Callable[[], Any],
        *,
        namespace: str,
        where: str,
        clock: Clock,
        rng: random.Random,
        retry: RetryPolicy = RETRY,
    ) -> None:
        self._connect = connect
        self._namespace = namespace
        self._where = f"{where}: namespace {namespace}"
        self._clock = clock
        self._rng = rng
        self._retry = retry
        self._client: Any = None

    def jobs(self, selector: str) -> list[Any]:
        """The V1Jobs with these labels."""
        return list(self._call(self._batch().list_namespaced_job, label_selector=selector).items)

    def job(self, name: str) -> Any | None:
        """The V1Job of this name, None when there is none."""
        return self._call(self._batch().read_namespaced_job, name, none_at=(404,))

    def create_job(self, body: Body) -> Any | None:
        """The new V1Job; None when one of this name is there (409), perhaps by this very call, its answer lost."""
        return self._call(self._batch().create_namespaced_job, body=body, none_at=(409,))

    def delete_job(self, name: str, uid: str) -> None:
        """Delete the Job after its pods. One of another uid stays."""
        body = {"propagationPolicy": "Foreground", "preconditions": {"uid": uid}}
        self._call(self._batch().delete_namespaced_job, name, body=body, none_at=(404, 409))

    def pods(self, selector: str) -> list[Any]:
        """The V1Pods with these labels."""
        return list(self._call(self._core().list_namespaced_pod, label_selector=selector).items)

    def delete_pod(self, name: str, uid: str, *, grace_seconds: int) -> None:
        """SIGTERM to the pod's containers, SIGKILL after the grace. One of another uid stays."""
        body = {"gracePeriodSeconds": grace_seconds, "preconditions": {"uid": uid}}
        self._call(self._core().delete_namespaced_pod, name, body=body, none_at=(404, 409))

    def create_secret(self, body: Body) -> None:
        """Make the Secret, unless it is there."""
        self._call(self._core().create_namespaced_secret, body=body, none_at=(409,))

    def log(self, pod: str, container: str, *, lines: int) -> bytes:
        """The last lines a container wrote; nothing when it has not begun (400) or is gone (404)."""
        answer = self._call(
            self._core().read_namespaced_pod_log,
            pod,
            container=container,
            tail_lines=lines,
            _preload_content=False,
            none_at=(400, 404),
        )
        return b"" if answer is None else bytes(answer.data)

    # -----------------------------------------------------------------------------------------------------------

    def _batch(self) -> Any:
        from kubernetes.client import BatchV1Api

        return BatchV1Api(self._connected())

    def _core(self) -> Any:
        from kubernetes.client import CoreV1Api

        return CoreV1Api(self._connected())

    def _connected(self) -> Any:
        if self._client is None:
            client = self._connect()
            # urllib3's own retries would wait for several timeouts within one of our tries.
            client.rest_client.pool_manager.connection_pool_kw["retries"] = False
            self._client = client
        return self._client

    def _call(self, method: Callable[..., Any], *arguments: str, none_at: tuple[int, ...] = (), **options: Any) -> Any:
        """Send a request. ``none_at``: the HTTP statuses that are no failure and answer None."""
        begun = self._clock.monotonic()
        positional = (*arguments, self._namespace)
        for tried in count(1):
            failure = None
            try:
                return method(*positional, **options, _request_timeout=REQUEST_TIMEOUT_SECONDS)
            except Exception as error:
                if getattr(error, "status", None) in none_at:
                    return None
                failure = _failure(error, self._where)
                if failure is None:
                    raise
            spent = self._clock.monotonic() - begun
            if not isinstance(failure, ComputeUnavailable) or tried >= self._retry.attempts:
                raise failure
            if spent >= self._retry.budget_seconds:
                raise failure
            longest = min(self._retry.first_delay_seconds * 2 ** (tried - 1), self._retry.longest_delay_seconds)
            self._clock.sleep(self._rng.uniform(0, longest))
        raise AssertionError("unreachable")


def _failure(error: Exception, where: str) -> ComputeError | None:
    """What an exception of the client means; None: it is not one of its, but a fault of ours."""
    from kubernetes.client.exceptions import ApiException
    from kubernetes.config import ConfigException
    from urllib3.exceptions import HTTPError

    if isinstance(error, ConfigException):
        return ComputeRefused("the cluster's login failed", where=where, found=str(error)[:300])
    if isinstance(error, (HTTPError, OSError)):
        found = f"{type(error).__name__}: {str(error)[:300]}"
        return ComputeUnavailable("the cluster's API does not answer", where=where, found=found)
    if not isinstance(error, ApiException):
        return None
    status, message = int(error.status or 0), _message(error)
    found = f"{status} {message}"
    if status in (0, 408, 429) or status >= 500:
        return ComputeUnavailable("the cluster's API does not answer", where=where, found=found)
    if status == 403 and "exceeded quota" in message:
        return NoCapacity("the namespace's quota is used up", where=where, found=found)
    if status in (401, 403):
        fix = "Give the login the role in docs/how-to/train-on-kubernetes.md"
        return ComputeRefused("the cluster does not allow it", where=where, found=found, fix=fix)
    if status == 404:
        return JobNotStarted("the cluster does not have it", where=where, expected="the namespace", found=found)
    return JobNotStarted("the cluster refuses the job", where=where, found=found)


def _message(error: Any) -> str:
    """The message of the API's Status object, else the reason."""
    try:
        return str(json.loads(error.body)["message"])[:500]
    except (TypeError, ValueError, KeyError):
        return str(error.reason)[:500]
