"""Training jobs as tasks of an Azure Batch pool: one task per attempt.

A task's id is unique in its Batch job and a second one is refused (409 TaskExists), so the service itself decides who
makes an attempt; the claims (see `claimed`) only number them. A task is not retried by Batch, but one whose node is
taken or rebooted is queued again by it, as the same task: the attempt goes on from its newest checkpoint.

Batch has no secrets: whoever may read the task reads its environment. Give the pool an identity and leave keys out of
the site's environment file.
"""

from __future__ import annotations

import base64
import contextlib
import shlex
from collections import deque
from collections.abc import Mapping
from typing import Any

from holdfast.engine.compute.azure_calls import LOOKING, MAKING, answered, credential, error_code, is_capacity
from holdfast.engine.compute.claimed import ClaimedBackend, Order, Seen, limited_name
from holdfast.engine.compute.errors import JobNotStarted, NoCapacity
from holdfast.engine.compute.interface import BackendCapabilities, JobState, TrainingBackend
from holdfast.engine.compute.opening import Opening
from holdfast.engine.compute.remote import ended_by_code
from holdfast.engine.compute.sdk import require_sdk
from holdfast.engine.config.compute import AzureBatch

KIND = "azure-batch"
#: The service's limit of a task's id.
_ID_LIMIT = 64
_TOPOLOGY = "HOLDFAST_TOPOLOGY_BASE64"
#: Batch runs a command line without a shell, and a task has no file of its own before it runs.
_START = (
    'export HOLDFAST_TOPOLOGY="$AZ_BATCH_TASK_DIR/holdfast.yaml"'
    f' && printf %s "${_TOPOLOGY}" | base64 -d > "$HOLDFAST_TOPOLOGY" && exec "$@"'
)
_NOT_THERE = frozenset({"TaskNotFound", "JobNotFound"})
_CLOSED_JOB = frozenset({"JobCompleted", "JobTerminating", "JobBeingDeleted", "JobDisabled", "JobBeingTerminated"})
_LOG_CHUNKS = 16


def open_backend(opening: Opening) -> TrainingBackend:
    """The backend of a site with ``compute.kind: azure-batch``. Raises ConfigError: the SDK is not installed."""
    require_sdk("azure.batch", kind=KIND, package="azure-batch")
    settings = opening.site.compute.azure_batch
    assert settings is not None  # the topology's own check
    return ClaimedBackend(opening, BatchTasks(opening, settings))


class BatchTasks:
    """The service behind `ClaimedBackend`.

    Args:
        opening: the site and its client or connection.
        settings: account, pool, Batch job, image.
    """

    def __init__(self, opening: Opening, settings: AzureBatch) -> None:
        self._opening = opening
        self._settings = settings
        self._made: Any = None
        self.job_name = limited_name(_ID_LIMIT, opening.site)

    def capabilities(self) -> BackendCapabilities:
        """Machine and spot are properties of the pool, so `JobSpec.spot` means nothing here."""
        return BackendCapabilities(
            KIND, preemption_notice_seconds=None, can_request_checkpoint=True, region=self._opening.site.region
        )

    def look(self, job: str) -> Seen | None:
        from azure.core.exceptions import ResourceNotFoundError

        with answered(self._where(job)):
            try:
                task = self._client().get_task(self._settings.job, job, **LOOKING)
            except ResourceNotFoundError as error:
                if error_code(error) in _NOT_THERE:
                    return None
                raise
        return seen(task)

    def create(self, job: str, order: Order) -> None:
        if order.machine is not None:
            raise JobNotStarted(
                "a Batch task takes the machines of its pool",
                where=self._where(job),
                expected="no `machine` in the placement; another pool in the site's compute",
                found=order.machine,
            )
        from azure.core.exceptions import ResourceExistsError

        with answered(self._where(job), expected="the right to add tasks to the Batch account"):
            self._require_room(job)
            self._ensure_job()
            try:
                self._client().create_task(self._settings.job, self._task(job, order), **MAKING)
            except ResourceExistsError as error:
                if error_code(error) in _CLOSED_JOB:
                    raise JobNotStarted(
                        "the Batch job takes no tasks any more",
                        where=self._where(job),
                        expected="an active Batch job",
                        found=error_code(error),
                        fix="Name another one in compute.azure_batch.job",
                    ) from error
                if error_code(error) != "TaskExists":
                    raise

    def halt(self, job: str) -> None:
        from azure.core.exceptions import ResourceExistsError, ResourceNotFoundError

        with answered(self._where(job)):
            try:
                self._client().terminate_task(self._settings.job, job, **LOOKING)
            except ResourceNotFoundError as error:
                if error_code(error) not in _NOT_THERE:
                    raise
            except ResourceExistsError as error:
                if error_code(error) != "TaskCompleted":
                    raise

    def log(self, job: str) -> str:
        """The end of the task's ``stdout.txt``, which lies on the node and goes with it."""
        from azure.core.exceptions import ResourceExistsError, ResourceNotFoundError

        with answered(self._where(job)):
            try:
                chunks = self._client().download_task_file(self._settings.job, job, "stdout.txt", **LOOKING)
                return b"".join(deque(chunks, maxlen=_LOG_CHUNKS)).decode(errors="replace")
            except (ResourceNotFoundError, ResourceExistsError):  # no such file yet, or its node is gone
                return ""

    def links(self, job: str) -> Mapping[str, str]:  # noqa: ARG002
        """None: a portal's address needs the account's resource id, which the Batch service does not tell."""
        return {}

    def _require_room(self, job: str) -> None:
        """Raises NoCapacity when the pool has no node and its last resize says that there is none to be had."""
        pool = self._client().get_pool(self._settings.pool, **LOOKING)
        nodes = (pool.current_dedicated_nodes or 0) + (pool.current_low_priority_nodes or 0)
        errors = [error for error in pool.resize_errors or [] if is_capacity(error.code, error.message)]
        if nodes == 0 and errors:
            raise NoCapacity(
                "the pool has no node and gets none",
                where=self._where(job),
                found=f"pool {self._settings.pool}: {errors[0].code}",
            )

    def _ensure_job(self) -> None:
        from azure.batch import models
        from azure.core.exceptions import ResourceExistsError, ResourceNotFoundError

        with contextlib.suppress(ResourceNotFoundError):
            self._client().get_job(self._settings.job, **LOOKING)
            return
        made = models.BatchJobCreateOptions(
            id=self._settings.job, pool_info=models.BatchPoolInfo(pool_id=self._settings.pool)
        )
        with contextlib.suppress(ResourceExistsError):
            self._client().create_job(made, **MAKING)

    def _task(self, job: str, order: Order) -> Any:
        from azure.batch import models

        environment = {
            **order.secrets,
            **order.environment,
            _TOPOLOGY: base64.b64encode(order.topology.encode()).decode(),
        }
        image = self._settings.image
        return models.BatchTaskCreateOptions(
            id=job,
            command_line=shlex.join(["/bin/sh", "-c", _START, "holdfast", *order.command]),
            environment_settings=[models.EnvironmentSetting(name=n, value=v) for n, v in sorted(environment.items())],
            container_settings=models.BatchTaskContainerSettings(
                image_name=image, working_directory=models.ContainerWorkingDirectory.CONTAINER_IMAGE_DEFAULT
            )
            if image
            else None,
            constraints=models.BatchTaskConstraints(max_task_retry_count=0),
        )

    def _client(self) -> Any:
        if self._made is None:
            self._made = self._opening.client() if self._opening.client is not None else self._own_client()
        return self._made

    def _own_client(self) -> Any:
        from azure.batch import BatchClient
        from azure.core.credentials import AzureNamedKeyCredential

        connection = self._opening.connection()
        account = connection.login if connection.conn_type == "azure_batch" else None
        if account and connection.password:  # as Airflow's hook reads it: account name and key
            return BatchClient(self._settings.account_url, AzureNamedKeyCredential(account, connection.password))
        return BatchClient(self._settings.account_url, credential(connection))

    def _where(self, job: str) -> str:
        return f"{self._opening.site_name}: Batch task {self._settings.job}/{job}"


def seen(task: Any) -> Seen:
    """What a task's answer says of the job."""
    state = str(getattr(task.state, "value", task.state)).lower()
    ran = task.execution_info
    if state == "running":
        return Seen(JobState.RUNNING, alive=True)
    if state != "completed":
        again = f"; queued again {ran.requeue_count} times" if ran is not None and ran.requeue_count else ""
        return Seen(JobState.PENDING, alive=True, detail=f"the task is {state}{again}")
    failure = ran.failure_info if ran is not None else None
    why = f"{failure.code}: {failure.message}" if failure is not None else None
    if ran is not None and ran.exit_code is not None:
        ended = ended_by_code(ran.exit_code)
        told = f"exit code {ran.exit_code}" + (f"; {why}" if why else "")
        return Seen(ended, alive=False, detail=None if ended is JobState.SUCCEEDED else told)
    category = str(getattr(getattr(failure, "category", None), "value", getattr(failure, "category", ""))).lower()
    # TaskEnded: terminated before it had an exit code. A server error is Batch's own, not the job's.
    lost = failure is None or failure.code == "TaskEnded" or category == "servererror"
    return Seen(JobState.LOST if lost else JobState.FAILED, alive=False, detail=why or "completed without an exit code")
