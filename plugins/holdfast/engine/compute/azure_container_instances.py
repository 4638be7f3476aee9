"""Training jobs as container groups of Azure Container Instances: one group, of one container, per attempt.

Making a group is a PUT, which on an existing group is an update. So the name is looked for first and a claim decides
who makes it (see `claimed`); the body depends on nothing but the job, so a PUT that arrives twice changes nothing.

The topology's text reaches the container as a secret volume: a file in memory, never shown by the service's API. What
the job inherits from the site (connections, variables) goes in as secure values, which the API does not show either.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

from holdfast.engine.compute.azure_calls import (
    LOOKING,
    MAKING,
    answered,
    credential,
    error_code,
    is_capacity,
    management_endpoint,
)
from holdfast.engine.compute.claimed import ClaimedBackend, Order, Seen, limited_name
from holdfast.engine.compute.errors import JobNotStarted
from holdfast.engine.compute.interface import BackendCapabilities, JobState, TrainingBackend
from holdfast.engine.compute.opening import Opening
from holdfast.engine.compute.remote import ended_by_code
from holdfast.engine.compute.sdk import require_sdk
from holdfast.engine.config.compute import AzureContainerInstances

KIND = "azure-container-instances"
CONTAINER = "trainer"
_VOLUME, _FOLDER, _FILE = "topology", "/etc/holdfast-topology", "holdfast.yaml"
#: The service's limit of a container group's name.
_NAME_LIMIT = 63
_LOG_LINES = 1000
#: A group's own states without any of its container.
_ENDED_GROUPS = {
    "Succeeded": JobState.SUCCEEDED,
    "Failed": JobState.FAILED,
    "Stopped": JobState.LOST,
    "Terminated": JobState.LOST,
}
_NOTHING_THERE = frozenset({"", "ResourceNotFound", "ContainerGroupNotFound", "NotFound"})


def open_backend(opening: Opening) -> TrainingBackend:
    """The backend of a site with ``compute.kind: azure-container-instances``.

    Raises:
        ConfigError: the SDK is not installed.
    """
    require_sdk("azure.mgmt.containerinstance", kind=KIND, package="azure-mgmt-containerinstance")
    settings = opening.site.compute.azure_container_instances
    assert settings is not None  # the topology's own check
    return ClaimedBackend(opening, ContainerGroups(opening, settings))


class ContainerGroups:
    """The service behind `ClaimedBackend`.

    Args:
        opening: the site and its client or connection.
        settings: subscription, resource group, image, size, identity.
    """

    def __init__(self, opening: Opening, settings: AzureContainerInstances) -> None:
        self._opening = opening
        self._settings = settings
        self._made: Any = None
        self.job_name = limited_name(_NAME_LIMIT, opening.site)

    def capabilities(self) -> BackendCapabilities:
        """Spot is a group's priority. No notice before an eviction is documented beyond the container's SIGTERM."""
        return BackendCapabilities(
            KIND,
            preemption_notice_seconds=None,
            can_request_checkpoint=True,
            spot=True,
            region=self._opening.site.region,
        )

    def look(self, job: str) -> Seen | None:
        from azure.core.exceptions import ResourceNotFoundError

        with answered(self._where(job)):
            try:
                group = self._client().container_groups.get(self._settings.resource_group, job, **LOOKING)
            except ResourceNotFoundError as error:
                if error_code(error) in _NOTHING_THERE:
                    return None
                raise  # the resource group or the subscription is not there: nobody's job ended by that
        return seen(group)

    def create(self, job: str, order: Order) -> None:
        if order.machine is not None:
            raise JobNotStarted(
                "Container Instances have no machine types",
                where=self._where(job),
                expected="no `machine` in the placement; `cpus` and `memory_gib` in the site's compute",
                found=order.machine,
            )
        from azure.core.exceptions import HttpResponseError

        with answered(self._where(job), expected="Microsoft.ContainerInstance/containerGroups/write"):
            try:
                self._client().container_groups.begin_create_or_update(
                    self._settings.resource_group, job, self._body(order), polling=False, **MAKING
                )
            except HttpResponseError as error:
                # Another one's PUT of the same group is under way: the job is being made.
                if error.status_code == 409 and error_code(error) == "ContainerGroupTransitioning":
                    return
                raise

    def halt(self, job: str) -> None:
        """Stop, not delete: the group's events and state stay, and a stopped group costs nothing."""
        from azure.core.exceptions import ResourceNotFoundError

        with answered(self._where(job)):
            try:
                self._client().container_groups.stop(self._settings.resource_group, job, **LOOKING)
            except ResourceNotFoundError:
                return

    def log(self, job: str) -> str:
        from azure.core.exceptions import ResourceNotFoundError

        with answered(self._where(job)):
            try:
                logs = self._client().containers.list_logs(
                    self._settings.resource_group, job, CONTAINER, tail=_LOG_LINES, **LOOKING
                )
            except ResourceNotFoundError:
                return ""
        return logs.content or ""

    def links(self, job: str) -> Mapping[str, str]:
        group = (
            f"/subscriptions/{self._settings.subscription}/resourceGroups/{self._settings.resource_group}"
            f"/providers/Microsoft.ContainerInstance/containerGroups/{job}"
        )
        page = f"https://portal.azure.com/#resource{group}"
        return {"console": f"{page}/overview", "logs": f"{page}/containers"}

    def _body(self, order: Order) -> Any:
        from azure.mgmt.containerinstance import models

        settings = self._settings
        environment = [
            models.EnvironmentVariable(name=name, value=value)
            for name, value in sorted({**order.environment, "HOLDFAST_TOPOLOGY": f"{_FOLDER}/{_FILE}"}.items())
        ] + [models.EnvironmentVariable(name=name, secure_value=value) for name, value in sorted(order.secrets.items())]
        container = models.Container(
            name=CONTAINER,
            image=settings.image,
            command=list(order.command),
            environment_variables=environment,
            resources=models.ResourceRequirements(
                requests=models.ResourceRequests(cpu=settings.cpus, memory_in_gb=settings.memory_gib)
            ),
            volume_mounts=[models.VolumeMount(name=_VOLUME, mount_path=_FOLDER, read_only=True)],
        )
        secret = base64.b64encode(order.topology.encode()).decode()
        return models.ContainerGroup(
            location=self._opening.site.region,
            os_type="Linux",
            restart_policy="Never",
            priority="Spot" if order.spot else "Regular",
            containers=[container],
            volumes=[models.Volume(name=_VOLUME, secret={_FILE: secret})],
            identity=self._identity(models),
            tags={"holdfast-site": self._opening.site_name, "holdfast-run": order.environment["HOLDFAST_RUN"][:256]},
        )

    def _identity(self, models: Any) -> Any:
        if self._settings.identity is None:
            return None
        return models.ContainerGroupIdentity(
            type="UserAssigned", user_assigned_identities={self._settings.identity: models.UserAssignedIdentities()}
        )

    def _client(self) -> Any:
        if self._made is None:
            self._made = self._opening.client() if self._opening.client is not None else self._own_client()
        return self._made

    def _own_client(self) -> Any:
        from azure.mgmt.containerinstance import ContainerInstanceManagementClient

        connection = self._opening.connection()
        endpoint = management_endpoint(connection)
        return ContainerInstanceManagementClient(
            credential(connection),
            self._settings.subscription,
            base_url=endpoint,
            credential_scopes=[f"{endpoint}/.default"],
        )

    def _where(self, job: str) -> str:
        return f"{self._opening.site_name}: container group {self._settings.resource_group}/{job}"


def seen(group: Any) -> Seen:
    """What a container group's answer says of the job.

    The container's own state counts before the group's. A group whose provisioning failed never ran.
    """
    spot = group.priority == "Spot"
    now = _container_state(group)
    if now is not None and now.state == "Terminated":
        return _terminated(now, spot=spot)
    if now is not None and now.state == "Running":
        return Seen(JobState.RUNNING, alive=True, spot=spot)
    if group.provisioning_state == "Failed":
        return _failed(group, spot=spot)
    view = group.instance_view.state if group.instance_view is not None else None
    if view in _ENDED_GROUPS:
        return Seen(_ENDED_GROUPS[view], alive=False, detail=f"the group is {view}; no exit code is known", spot=spot)
    waiting = now.detail_status if now is not None else None
    return Seen(JobState.PENDING, alive=True, detail=waiting or f"provisioning: {group.provisioning_state}", spot=spot)


def _terminated(now: Any, *, spot: bool) -> Seen:
    if now.exit_code is None:
        return Seen(JobState.LOST, alive=False, detail=f"terminated: {now.detail_status or 'no exit code'}", spot=spot)
    # Out of memory is a SIGKILL too, and no fault of the machine: another one of the size kills it again.
    state = JobState.FAILED if "OOM" in (now.detail_status or "") else ended_by_code(now.exit_code)
    why = f"exit code {now.exit_code}" + (f": {now.detail_status}" if now.detail_status else "")
    return Seen(state, alive=False, detail=None if state is JobState.SUCCEEDED else why, spot=spot)


def _failed(group: Any, *, spot: bool) -> Seen:
    events = _events(group)
    told = "; ".join(f"{event.name}: {event.message}" for event in events)[:400] or "provisioning failed, no event"
    full = any(is_capacity(event.name, event.message) for event in events)
    return Seen(JobState.NO_CAPACITY if full else JobState.FAILED, alive=False, detail=told, spot=spot)


def _container_state(group: Any) -> Any:
    for container in group.containers or []:
        if container.name == CONTAINER and container.instance_view is not None:
            return container.instance_view.current_state
    return None


def _events(group: Any) -> list[Any]:
    views = [group.instance_view, *(container.instance_view for container in group.containers or [])]
    return [event for view in views if view is not None for event in view.events or []]
