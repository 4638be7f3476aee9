"""Training jobs as command jobs of an Azure Machine Learning workspace: one job per attempt.

A job's name is unique in its workspace for good. A PUT of a name that is there starts nothing: with the same
definition it is an update that changes nothing, with another it is refused. So the service decides who makes an
attempt; the claims (see `claimed`) only number them.

The SDK (``azure-ai-ml``) takes timeouts and retries of the *client*, not of a call: whoever makes one makes it here, by
`ml_client`. It repeats a PUT that got no answer, which by the above makes nothing twice.

Azure ML keeps no secrets in a job and tells no exit code: whoever may read the workspace's jobs reads their
environment, and how an attempt ended is in its heartbeat.
"""

from __future__ import annotations

import base64
import contextlib
import shlex
from collections.abc import Iterator, Mapping
from typing import Any

from holdfast.engine.compute.azure_calls import LOOKING, answered, credential, error_code, ml_cloud
from holdfast.engine.compute.claimed import ClaimedBackend, Order, Seen
from holdfast.engine.compute.errors import JobNotStarted
from holdfast.engine.compute.interface import BackendCapabilities, JobState, TrainingBackend
from holdfast.engine.compute.opening import Opening
from holdfast.engine.compute.remote import bucket_digest, service_name
from holdfast.engine.compute.sdk import require_sdk
from holdfast.engine.config.compute import AzureML

KIND = "azure-ml"
#: The service takes 255 characters; people read them in a table.
_NAME_LIMIT = 100
_TOPOLOGY = "HOLDFAST_TOPOLOGY_BASE64"
_SPOT_TAG = "holdfast-spot"
#: Azure ML runs a command line in bash, in a folder of its own whatever the image's is.
_START = (
    'export HOLDFAST_TOPOLOGY="$(mktemp -d)/holdfast.yaml"'
    f' && printf %s "${_TOPOLOGY}" | base64 -d > "$HOLDFAST_TOPOLOGY"'
)
#: Else the SDK asks git about the submitter's own folder, and tells the service of it.
_NO_GIT = {"mlflow.source.git.commit": "unknown", "mlflow.source.git.branch": "unknown"}
_WAITS = frozenset({"NotStarted", "Starting", "Provisioning", "Preparing", "Queued", "Scheduled", "Paused"})
#: What a 404 of the job itself says; others are of the workspace, the group or the subscription.
_NOT_THERE = frozenset({"", "UserError", "NotFound", "JobNotFound"})


def open_backend(opening: Opening) -> TrainingBackend:
    """The backend of a site with ``compute.kind: azure-ml``. Raises ConfigError: the SDK is not installed."""
    _require_sdk()
    settings = opening.site.compute.azure_ml
    assert settings is not None  # the topology's own check
    return ClaimedBackend(opening, CommandJobs(opening, settings))


class CommandJobs:
    """The service behind `ClaimedBackend`.

    Args:
        opening: the site and its client or connection.
        settings: workspace, image, compute.
    """

    def __init__(self, opening: Opening, settings: AzureML) -> None:
        self._opening = opening
        self._settings = settings
        self._made: Any = None

    def capabilities(self) -> BackendCapabilities:
        """Spot is a tier of serverless compute, or a cluster of its own. No notice before it is taken is documented."""
        return BackendCapabilities(
            KIND,
            preemption_notice_seconds=None,
            can_request_checkpoint=True,
            spot=self._settings.compute is None or self._settings.spot_compute is not None,
            region=self._opening.site.region,
        )

    def job_name(self, name: str, attempt: int) -> str:
        """With a digest of the bucket in it: two installations may share a workspace."""
        return service_name(f"{name}.{bucket_digest(self._opening.site)}", attempt, limit=_NAME_LIMIT)

    def look(self, job: str) -> Seen | None:
        from azure.core.exceptions import ResourceNotFoundError

        with _answered(self._where(job)):
            try:
                found = self._client().jobs.get(job)
            except ResourceNotFoundError as error:
                if error_code(error) in _NOT_THERE:
                    return None
                raise  # the workspace or its resource group is not there: nobody's job ended by that
        return seen(found)

    def create(self, job: str, order: Order) -> None:
        from azure.core.exceptions import HttpResponseError

        asked = self._asked(job, order)
        with _answered(self._where(job), expected="Microsoft.MachineLearningServices/workspaces/jobs/write"):
            try:
                self._client().jobs.create_or_update(asked, skip_validation=True)
            except HttpResponseError as error:
                # Refused because it is there already, defined by another version or another topology: it stays.
                if error.status_code in (400, 409) and self.look(job) is not None:
                    return
                raise

    def halt(self, job: str) -> None:
        from azure.core.exceptions import HttpResponseError, ResourceNotFoundError

        with _answered(self._where(job), expected="Microsoft.MachineLearningServices/workspaces/jobs/cancel/action"):
            try:
                self._client().jobs.begin_cancel(job, polling=False)
            except ResourceNotFoundError:
                return
            except HttpResponseError as error:
                if error.status_code in (400, 409) and not _is_alive(self.look(job)):
                    return
                raise

    def log(self, job: str) -> str:  # noqa: ARG002
        """Empty: the output is in the workspace's storage, which this backend does not read; `links` leads there."""
        return ""

    def links(self, job: str) -> Mapping[str, str]:
        settings = self._settings
        page = (
            f"https://ml.azure.com/runs/{job}?wsid=/subscriptions/{settings.subscription}"
            f"/resourcegroups/{settings.resource_group}/workspaces/{settings.workspace}"
        )
        return {"console": page, "logs": f"{page}#outputsAndLogs"}

    def _asked(self, job: str, order: Order) -> Any:
        """The job for the SDK; it depends on nothing but the order. Raises JobNotStarted."""
        from azure.ai.ml import command
        from azure.ai.ml.entities import Environment, ManagedIdentityConfiguration

        settings = self._settings
        run = order.environment.get("HOLDFAST_RUN", "")
        tags = {"holdfast-site": self._opening.site_name, "holdfast-run": run[:256], _SPOT_TAG: str(order.spot).lower()}
        placed = self._placed(job, order)
        with _answered(self._where(job)):
            return command(
                name=job,
                display_name=job,
                experiment_name=settings.experiment,
                command=command_line(order.command, settings.working_folder),
                environment=Environment(image=settings.image),
                environment_variables={
                    **order.secrets,
                    **order.environment,
                    _TOPOLOGY: base64.b64encode(order.topology.encode()).decode(),
                },
                identity=ManagedIdentityConfiguration(client_id=settings.identity) if settings.identity else None,
                timeout=settings.timeout_seconds,
                tags=tags,
                properties=dict(_NO_GIT),
                **placed,
            )

    def _placed(self, job: str, order: Order) -> dict[str, Any]:
        """Where it runs, as arguments of the SDK's ``command``: a cluster, or serverless compute."""
        settings = self._settings
        cluster = (settings.spot_compute or settings.compute) if order.spot else settings.compute
        if cluster is None:
            machine = order.machine or settings.machine
            return {"job_tier": "Spot" if order.spot else "Standard", **({"instance_type": machine} if machine else {})}
        if order.machine is not None:
            raise JobNotStarted(
                "a cluster has its own machines",
                where=self._where(job),
                expected="no `machine` in the placement, or serverless compute: no compute.azure_ml.compute",
                found=f"{order.machine} on {cluster}",
            )
        if order.spot and settings.spot_compute is None:
            raise JobNotStarted(
                "the cluster's machines are of one priority",
                where=self._where(job),
                expected="compute.azure_ml.spot_compute for a placement that asks for spot",
                found=f"only {cluster}",
            )
        return {"compute": cluster}

    def _client(self) -> Any:
        if self._made is None:
            self._made = self._opening.client() if self._opening.client is not None else self._own_client()
        return self._made

    def _own_client(self) -> Any:
        connection = self._opening.connection()
        return ml_client(self._settings, credential(connection), ml_cloud(connection))

    def _where(self, job: str) -> str:
        return f"{self._opening.site_name}: Azure ML job {self._settings.workspace}/{job}"


def ml_client(settings: AzureML, credential: Any, cloud: str, **more: Any) -> Any:
    """An ``MLClient`` of a workspace, whose every call has the limits of `azure_calls.LOOKING`; it sends no telemetry.

    Args:
        credential: an azure-identity credential.
        cloud: as Azure ML names it, see `azure_calls.ml_cloud`.
        more: arguments of the SDK's pipeline.

    Raises:
        ConfigError: the SDK is not installed.
    """
    _require_sdk()
    from azure.ai.ml import MLClient

    limits = {**LOOKING, **more}
    return MLClient(
        credential,
        settings.subscription,
        settings.resource_group,
        settings.workspace,
        cloud=cloud,
        enable_telemetry=False,
        show_progress=False,
        **limits,
    )


def _require_sdk() -> None:
    require_sdk("azure.ai.ml", kind=KIND, package="azure-ai-ml", extra="azureml")


def command_line(words: tuple[str, ...], folder: str | None) -> str:
    """What bash is given: the topology into a file, into the image's folder, then *become* the command."""
    start = f"{_START} && cd {shlex.quote(folder)}" if folder else _START
    return shlex.join(["/bin/sh", "-c", f'{start} && exec "$@"', "holdfast", *words])


def seen(job: Any) -> Seen:
    """What a job's answer says of it.

    Only Completed, Failed and Canceled are ends. NotResponding is not one by the service's own word, CancelRequested
    may last, and a status this does not know may be anything: all of them may still write.
    """
    status = str(getattr(job.status, "value", job.status) or "Unknown")
    spot = (job.tags or {}).get(_SPOT_TAG) == "true"
    if status == "Completed":
        return Seen(JobState.SUCCEEDED, alive=False, spot=spot)
    if status in ("Failed", "Canceled"):
        state = JobState.FAILED if status == "Failed" else JobState.LOST
        told = f"Azure ML says {status}; its studio has the reason"
        return Seen(state, alive=False, detail=told, tells_end=False, spot=spot)
    if status in _WAITS:
        return Seen(JobState.PENDING, alive=True, detail=f"Azure ML says {status}", spot=spot)
    detail = None if status == "Running" else f"Azure ML says {status}"
    return Seen(JobState.RUNNING, alive=True, detail=detail, spot=spot)


def _is_alive(found: Seen | None) -> bool:
    return found is not None and found.alive


@contextlib.contextmanager
def _answered(where: str, *, expected: str = "the service's consent") -> Iterator[None]:
    """As `answered`; what the SDK itself refuses, without asking the service, is JobNotStarted."""
    from azure.ai.ml.exceptions import MlException

    with answered(where, expected=expected):
        try:
            yield
        except MlException as error:
            raise JobNotStarted("the SDK refuses the job", where=where, found=str(error)[:400]) from error
