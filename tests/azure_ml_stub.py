"""A workspace's environments and jobs as their REST documentation tells of them.

Bodies are read strictly by the SDK's own models. A PUT of a job that is there starts nothing: it replaces the tags, and
is refused where anything else differs, in the words that users report (MicrosoftDocs/azure-docs#122250).
"""

from __future__ import annotations

import json
import re
import time
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from azure.core.credentials import AccessToken
from azure.core.pipeline.transport import RequestsTransport

from azure_stub import Answer, Wrong, arm_error, check_rest_fields

_PATH = re.compile(
    r"/subscriptions/(?P<subscription>[^/]+)/resourceGroups/(?P<group>[^/]+)"
    r"/providers/Microsoft\.MachineLearningServices/workspaces/(?P<workspace>[A-Za-z0-9][\w-]{2,32})"
    r"/(?:environments/(?P<environment>[\w.-]+)/versions/(?P<version>[\w.-]{1,64})"
    r"|jobs/(?P<job>[A-Za-z0-9][\w-]{0,254})(?P<cancel>/cancel)?)"
)
_MAY_CHANGE = ("tags", "displayName", "description", "isArchived", "properties")
ENDED = ("Completed", "Failed", "Canceled")


class Token:
    """A credential nobody asks about."""

    def get_token(self, *_: str, **__: Any) -> AccessToken:
        return AccessToken("token", int(time.time()) + 3600)


class Loopback(RequestsTransport):
    """Sends what is meant for Resource Manager to a local server, as it is."""

    def __init__(self, url: str, **settings: Any) -> None:
        super().__init__(**settings)
        self._url = url

    def send(self, request: Any, **settings: Any) -> Any:
        meant = request.url
        target = urlsplit(meant)
        assert (target.scheme, target.hostname) == ("https", "management.azure.com")
        request.url = f"{self._url}{target.path}?{target.query}"
        try:
            return super().send(request, **settings)
        finally:
            request.url = meant  # for the next try


@dataclass
class Workspace:
    """One workspace. ``cancel_looks`` looks after a cancel the job is Canceled; None: it never is."""

    jobs: dict[str, dict[str, Any]] = field(default_factory=dict)
    environments: dict[str, dict[str, Any]] = field(default_factory=dict)
    clusters: tuple[str, ...] = ("gpus", "spot-gpus")
    group: str = "training"
    workspace: str = "models"
    cancel_looks: int | None = 1
    updates: int = 0

    def __call__(self, method: str, path: str, query: dict[str, str], body: Any) -> Answer:
        found = _PATH.fullmatch(path)
        if found is None or not re.fullmatch(r"20\d\d-\d\d-\d\d(-preview)?", query.get("api-version", "")):
            return arm_error(400, "InvalidRequestUri", path)
        if found["group"] != self.group:
            return arm_error(404, "ResourceGroupNotFound", "Resource group could not be found.")
        if found["workspace"] != self.workspace:
            return arm_error(404, "ResourceNotFound", "The workspace was not found.")
        if found["environment"]:
            return self._put_environment(path, body) if method == "PUT" else arm_error(405, "MethodNotAllowed")
        job = found["job"]
        if method == "PUT" and not found["cancel"]:
            return self._put_job(job, path, body)
        if job not in self.jobs:
            return arm_error(404, "UserError", f"Job {job} not found.")
        if method == "POST" and found["cancel"]:
            return self._cancel(job)
        return self._get(job) if method == "GET" else arm_error(405, "MethodNotAllowed")

    # What a test does to a job in the place of the service. ---------------------------------------------------------

    def set(self, job: str, status: str) -> None:
        self.properties(job)["status"] = status

    def properties(self, job: str) -> dict[str, Any]:
        return self.jobs[job]["properties"]  # type: ignore[no-any-return]

    # -----------------------------------------------------------------------------------------------------------

    def _put_environment(self, path: str, body: Any) -> Answer:
        from azure.ai.ml._restclient.arm_ml_service import models

        check_rest_fields(models.EnvironmentVersion, body)
        if not body["properties"].get("image"):
            raise Wrong("properties.image: expected an image of an anonymous environment")
        status = 200 if path in self.environments else 201
        self.environments[path] = body
        return Answer(status, {**body, "id": path, "name": path.rsplit("/", 1)[-1]})

    def _put_job(self, job: str, path: str, body: Any) -> Answer:
        from azure.ai.ml._restclient.arm_ml_service import models

        check_rest_fields(models.JobBase, body)
        properties = body["properties"]
        if properties.get("jobType") != "Command":
            raise Wrong(f"properties.jobType: expected Command, found {properties.get('jobType')!r}")
        if properties["environmentId"] not in self.environments:
            return arm_error(400, "UserError", f"Environment {properties['environmentId']} not found.")
        cluster = properties.get("computeId", "")
        if cluster and cluster.rsplit("/", 1)[-1] not in self.clusters:
            return arm_error(400, "UserError", f"Unknown compute target {cluster}.")
        if job in self.jobs:
            return self._update(job, properties)
        self.jobs[job] = {"id": path, "name": job, "asked": json.loads(json.dumps(properties)), "looks": None}
        self.jobs[job]["properties"] = {**properties, "status": "NotStarted"}
        return Answer(201, self._shown(job))

    def _update(self, job: str, properties: dict[str, Any]) -> Answer:
        asked = self.jobs[job]["asked"]
        differ = sorted(
            name
            for name in {*asked, *properties} - set(_MAY_CHANGE)
            if json.dumps(asked.get(name), sort_keys=True) != json.dumps(properties.get(name), sort_keys=True)
        )
        if differ:
            return arm_error(
                400,
                "UserError",
                "A job with this name already exists. If you are trying to create a new job, use a different name. If "
                f"you are trying to update an existing job, the existing job's {', '.join(differ)} cannot be changed. "
                "Only description, tags, displayName, properties, and isArchived can be updated.",
            )
        self.updates += 1
        self.properties(job)["tags"] = properties.get("tags", {})
        return Answer(200, self._shown(job))

    def _get(self, job: str) -> Answer:
        looks = self.jobs[job]["looks"]
        if looks is not None and self.properties(job)["status"] == "CancelRequested":
            if looks == 0:
                self.set(job, "Canceled")
            self.jobs[job]["looks"] = looks - 1
        return Answer(200, self._shown(job))

    def _cancel(self, job: str) -> Answer:
        if self.properties(job)["status"] in ENDED:
            return arm_error(400, "UserError", "The run is in a terminal state.")
        self.set(job, "CancelRequested")
        self.jobs[job]["looks"] = self.cancel_looks
        return Answer(202, None, {"Location": "https://management.azure.com/operations/1", "Retry-After": "30"})

    def _shown(self, job: str) -> dict[str, Any]:
        kept = self.jobs[job]
        studio = {"jobServiceType": "Studio", "endpoint": f"https://ml.azure.com/runs/{job}"}
        properties = {**kept["properties"], "services": {"Studio": studio}}
        return {
            "id": kept["id"],
            "name": job,
            "type": "Microsoft.MachineLearningServices/workspaces/jobs",
            "properties": properties,
        }
