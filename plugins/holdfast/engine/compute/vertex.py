"""Custom jobs of Vertex AI.

Vertex AI gives a job its id itself and takes any number of jobs of one display name. So a claim in the site's bucket
(`claims`) decides who starts an attempt, and labels find the job again: from another process, or after a crash between
the submit and whatever should have been noted.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from holdfast.engine.compute import remote, vertex_job
from holdfast.engine.compute.beats import Beats, bucket_answers
from holdfast.engine.compute.claims import Claims, Turn
from holdfast.engine.compute.errors import (
    ComputeRefused,
    ComputeUnavailable,
    JobNotStarted,
    NoCapacity,
    UnknownHandle,
)
from holdfast.engine.compute.interface import (
    BackendCapabilities,
    ComputeError,
    JobHandle,
    JobSpec,
    JobStatus,
)
from holdfast.engine.compute.opening import Opening
from holdfast.engine.compute.sdk import require_sdk
from holdfast.engine.compute.stops import Stops
from holdfast.engine.config import Connection
from holdfast.engine.objectstore.gcp_login import gcp_credentials
from holdfast.errors import ConfigError

KIND = "vertex"
_TIMEOUT_SECONDS = 20.0
_POLL_SECONDS = 5.0
_CLAIM_SECONDS = 180.0
_SCOPES = ("https://www.googleapis.com/auth/cloud-platform",)


@dataclass(frozen=True, slots=True)
class _Job:
    """What the service shows of one attempt."""

    resource: str
    attempt: int
    state: str
    error_code: int
    error: str
    started: bool
    spot: bool

    @property
    def ended(self) -> bool:
        return self.state in vertex_job.TERMINAL


class VertexBackend:
    """Custom jobs of one site in Vertex AI.

    Args:
        opening: the site, its bucket, its connection. Its client is a ``JobServiceClient`` of the site's region; none:
            made from the connection.
        claim_seconds: after which a claim whose job the service never showed is spent.
        nonce: tells one submit from another of the same holder.
    """

    def __init__(
        self,
        opening: Opening,
        *,
        claim_seconds: float = _CLAIM_SECONDS,
        nonce: Callable[[], str] = lambda: uuid.uuid4().hex,
    ) -> None:
        settings = opening.site.compute.vertex
        if settings is None:
            raise JobNotStarted("the site has no Vertex AI settings", where=f"sites.{opening.site_name}.compute")
        self._opening, self._settings = opening, settings
        self._claim_seconds, self._nonce = claim_seconds, nonce
        self._beats = Beats(opening.store)
        self._stops = Stops(opening.store)
        self._service: Any = None

    def submit(self, spec: JobSpec) -> JobHandle:
        """Reattach to what lives or is done; else take the turn of the next attempt and create it."""
        jobs = self._jobs(spec.name)
        standing = self._standing(spec, jobs)
        if standing is not None:
            return standing
        claims = self._claims()
        with bucket_answers(spec.name):
            turn = claims.take(spec, max(spec.after or 0, *(job.attempt for job in jobs), 0))
        job = self._create(spec, claims, turn)
        with bucket_answers(spec.name):
            overtaken = claims.newest(spec) > turn.attempt
        if overtaken:
            self._cancel(spec.name, job)
            raise ComputeUnavailable(
                "another submitter took this turn for spent; this job was cancelled",
                where=self._where(spec.name),
                expected=f"no claim after attempt {turn.attempt}",
                found="a newer one",
                fix="Submit again: it then finds the other's job",
            )
        return self._handle(spec.name, job)

    def find(self, name: str) -> JobHandle | None:
        """The newest attempt that lives, as `submit` reattaches to it; else the newest."""
        jobs = self._jobs(name)
        living = [job for job in jobs if not job.ended]
        return self._handle(name, (living or jobs)[-1]) if jobs else None

    def status(self, handle: JobHandle) -> JobStatus:
        """What Vertex AI says of the attempt; its heartbeat tells the steps, and the end where the service does not."""
        job = self._get(handle)
        beat = self._beats.read(handle, needed=job.ended and job.state != "SUCCEEDED")
        state, detail = vertex_job.state_of(job.state, job.error_code, job.error, beat, started=job.started)
        state = self._stops.read(handle, state, spot=job.spot and job.state != "EXPIRED")
        return remote.status_of(state, beat, detail)

    def request_checkpoint(self, handle: JobHandle) -> None:
        self._resource(handle)
        self._beats.request_checkpoint(handle)

    def stop(self, handle: JobHandle, *, grace_seconds: float) -> JobStatus:
        """CancelCustomJob, which is best effort; waits for the grace. The job may still be RUNNING after it."""
        job = self._get(handle)
        if not job.ended:
            self._stops.note(handle)
            self._cancel(handle.name, job)
        deadline = self._opening.clock.monotonic() + grace_seconds
        while not self._get(handle).ended:
            left = deadline - self._opening.clock.monotonic()
            if left <= 0:
                break
            self._opening.clock.sleep(min(_POLL_SECONDS, left))
        return self.status(handle)

    def confirm_dead(self, handle: JobHandle) -> bool:
        """Only a terminal state proves it; a service that does not answer proves nothing."""
        try:
            return self._get(handle).ended
        except ComputeUnavailable:
            return False

    def capabilities(self) -> BackendCapabilities:
        return BackendCapabilities(
            kind=KIND,
            # Vertex AI documents no notice of its own; the machine beneath has 30 s, which may not reach the container.
            preemption_notice_seconds=None,
            can_request_checkpoint=True,
            spot=True,
            region=self._region(),
        )

    def log(self, handle: JobHandle, *, last_bytes: int = 8192) -> str:  # noqa: ARG002
        """Empty: the output is in Cloud Logging, which this backend does not read; `links` leads there."""
        self._resource(handle)
        return ""

    def heartbeat(self, handle: JobHandle) -> dict[str, Any] | None:
        self._resource(handle)
        return self._beats.read(handle, needed=True)

    def links(self, handle: JobHandle) -> Mapping[str, str]:
        project, number = self._settings.project, self._resource(handle).rpartition("/")[2]
        console = "https://console.cloud.google.com"
        query = f"resource.type%3D%22ml_job%22%20resource.labels.job_id%3D%22{number}%22"
        return {
            "console": f"{console}/vertex-ai/locations/{self._region()}/training/{number}/cpu?project={project}",
            "logs": f"{console}/logs/query;query={query}?project={project}",
        }

    # -----------------------------------------------------------------------------------------------------------

    def _standing(self, spec: JobSpec, jobs: list[_Job]) -> JobHandle | None:
        """The attempt to reattach to: the newest that lives, else the newest that is done for good, or is meant.

        An older one that lives beside it was started by a submitter that lost its turn, and goes.
        """
        living = [job for job in jobs if not job.ended]
        for older in living[:-1]:
            if older.state != "CANCELLING":
                self._cancel(spec.name, older)
        if living:
            return self._handle(spec.name, living[-1])
        if not jobs:
            return None
        newest = self._handle(spec.name, jobs[-1])
        return newest if spec.means(newest.attempt) or spec.finds(newest.attempt, self.status(newest).state) else None

    def _create(self, spec: JobSpec, claims: Claims, turn: Turn) -> _Job:
        try:
            asked = self._asked(spec, turn.attempt)
            if claims.is_over(turn):
                raise ComputeUnavailable(
                    "this process was held up longer than its turn; nothing was started",
                    where=self._where(spec.name),
                    expected=f"a submit within {self._claim_seconds / 2:g} s",
                    fix="Submit again",
                )
            return _job(self._call(spec.name, "create_custom_job", parent=self._parent(), custom_job=asked))
        except (NoCapacity, ComputeRefused, JobNotStarted):
            # The service's own answer: nothing was started, so nobody needs to wait for this attempt's job.
            with bucket_answers(spec.name):
                claims.give_back(spec, turn)
            raise

    def _asked(self, spec: JobSpec, attempt: int) -> Any:
        from google.cloud.aiplatform_v1 import CustomJob

        asked = vertex_job.request(self._opening, self._settings, spec, self._label(spec.name), attempt)
        try:
            return CustomJob(asked)
        except (KeyError, TypeError, ValueError) as error:
            raise JobNotStarted(
                "a setting is none that Vertex AI knows",
                where=f"sites.{self._opening.site_name}.compute.vertex",
                expected="values of the API, e.g. accelerator: NVIDIA_TESLA_T4",
                found=str(error),
            ) from None

    def _cancel(self, name: str, job: _Job) -> None:
        try:
            self._call(name, "cancel_custom_job", name=job.resource)
        except JobNotStarted:
            # Refused because it has ended meanwhile, or not: whoever stops looks at its state.
            return

    def _jobs(self, name: str) -> list[_Job]:
        """All attempts the service shows, oldest first."""
        condition = f'labels.{vertex_job.JOB_LABEL}="{self._label(name)}"'
        request = {"parent": self._parent(), "filter": condition, "page_size": 100}
        found = self._call(name, "list_custom_jobs", request=request)
        return sorted((_job(one) for one in found), key=lambda job: job.attempt)

    def _get(self, handle: JobHandle) -> _Job:
        return _job(self._call(handle.name, "get_custom_job", name=self._resource(handle)))

    def _handle(self, name: str, job: _Job) -> JobHandle:
        return JobHandle(
            KIND,
            self._opening.site_name,
            name,
            {"job": job.resource, "attempt": job.attempt, "region": self._region()},
        )

    def _resource(self, handle: JobHandle) -> str:
        resource = handle.reference.get("job")
        if handle.backend != KIND or not isinstance(resource, str):
            raise UnknownHandle(
                "this is no handle of a Vertex AI job",
                where=self._where(handle.name),
                expected=f"a handle of {KIND} with its job",
                found=f"one of {handle.backend}",
            )
        return resource

    def _claims(self) -> Claims:
        return Claims(
            self._opening.store(),
            holder=lambda: f"{self._opening.holder}/{self._nonce()}",
            claim_seconds=self._claim_seconds,
            clock=self._opening.clock,
        )

    def _label(self, name: str) -> str:
        return vertex_job.job_label(name, f"{self._opening.site.bucket}/{self._opening.site.prefix}")

    def _parent(self) -> str:
        return f"projects/{self._settings.project}/locations/{self._region()}"

    def _region(self) -> str:
        return self._opening.site.region

    def _where(self, name: str) -> str:
        return f"{self._opening.site_name}: Vertex AI job {name}"

    def _call(self, job: str, method: str, /, **arguments: Any) -> Any:
        """One call, one attempt: the caller asks again, and knows when that is safe. A listing comes whole."""
        from google.api_core.exceptions import GoogleAPICallError, RetryError
        from google.auth.exceptions import GoogleAuthError, TransportError

        where = self._where(job)
        try:
            answer = getattr(self._open(), method)(**arguments, timeout=_TIMEOUT_SECONDS, retry=None)
            return list(answer) if method == "list_custom_jobs" else answer
        except GoogleAPICallError as error:
            raise _meaning(error, method, where) from error
        except (RetryError, TransportError, OSError) as error:
            raise ComputeUnavailable("Vertex AI did not answer", where=where, found=str(error)[:300]) from error
        except GoogleAuthError as error:
            raise ComputeRefused("no credentials for Vertex AI", where=where, found=str(error)[:300]) from error

    def _open(self) -> Any:
        if self._service is None:
            given = self._opening.client
            self._service = made(self._opening.connection(), self._region()) if given is None else given()
        return self._service


def _job(found: Any) -> _Job:
    attempt = found.labels.get(vertex_job.ATTEMPT_LABEL, "0")
    return _Job(
        resource=found.name,
        attempt=int(attempt) if attempt.isdecimal() else 0,
        state=found.state.name.removeprefix("JOB_STATE_"),
        error_code=int(found.error.code),
        error=str(found.error.message),
        started=found.start_time is not None,
        spot=found.job_spec.scheduling.strategy.name == "SPOT",
    )


def _meaning(error: Any, method: str, where: str) -> ComputeError:
    """What an error answer of the service means."""
    from google.api_core import exceptions as google

    found, creating = f"{type(error).__name__}: {error.message}"[:500], method == "create_custom_job"
    if isinstance(error, google.TooManyRequests):
        if creating and "per minute" not in str(error.message).lower():
            return NoCapacity("Vertex AI has no such machine for this project now", where=where, found=found)
        return ComputeUnavailable("Vertex AI throttles", where=where, found=found)
    if isinstance(error, (google.Forbidden, google.Unauthorized)):
        return ComputeRefused(
            "Vertex AI does not allow it", where=where, expected=f"the right to {method}", found=found
        )
    if isinstance(error, google.NotFound) and method in ("get_custom_job", "cancel_custom_job"):
        return UnknownHandle("Vertex AI has no such job", where=where, found=found)
    if isinstance(error, (google.BadRequest, google.NotFound)):
        return JobNotStarted("Vertex AI refuses the request", where=where, found=found)
    if isinstance(error, (google.ServerError, google.Aborted, google.Cancelled)):
        return ComputeUnavailable("Vertex AI did not do it", where=where, found=found)
    return ComputeError("Vertex AI answers with an error", where=where, found=found)


def made(connection: Connection, region: str) -> Any:
    """The ``JobServiceClient`` of a connection for a region.

    ``extra.keyfile_dict``, ``extra.key_path`` or the environment's default credentials are used.

    Raises:
        ComputeRefused: the credentials cannot be used.
    """
    from google.api_core.client_options import ClientOptions
    from google.cloud.aiplatform_v1 import JobServiceClient

    try:
        credentials = gcp_credentials(connection, _SCOPES)
    except ConfigError as error:
        raise ComputeRefused(error.what, where=error.where, expected=error.expected, found=error.found) from None
    options = ClientOptions(api_endpoint=f"{region}-aiplatform.googleapis.com")
    return JobServiceClient(credentials=credentials, client_options=options)


def open_backend(opening: Opening) -> VertexBackend:
    """The backend of a site of kind ``vertex``. Raises ConfigError: the SDK is not installed."""
    require_sdk("google.cloud.aiplatform_v1", kind=KIND, package="google-cloud-aiplatform")
    return VertexBackend(opening)
