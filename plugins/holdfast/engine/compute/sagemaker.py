"""Training jobs of Amazon SageMaker.

SageMaker takes a job's name once per account and region, for ever. So a name made of run, epoch and attempt decides who
starts an attempt: whoever comes second, or comes back after a crash, is refused the name and reattaches.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote

from holdfast.engine.compute import remote, sagemaker_job
from holdfast.engine.compute.beats import Beats
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
from holdfast.engine.config.compute import SageMaker

KIND = "sagemaker"
#: From SIGTERM to SIGKILL, by the service: of a stop, and of a spot machine that is taken.
NOTICE_SECONDS: Final = 120.0
_TIMEOUT_SECONDS = 10.0
_POLL_SECONDS = 5.0
#: How often another submitter may be a moment faster before this one leaves it to the next try.
_CLASHES = 5
_LOG_GROUP = "/aws/sagemaker/TrainingJobs"
_THROTTLED = ("Throttling", "TooManyRequests", "RequestLimitExceeded", "ServiceUnavailable", "InternalFailure")
_NO_RIGHT = (
    "AccessDenied",
    "UnrecognizedClient",
    "InvalidClientTokenId",
    "ExpiredToken",
    "SignatureDoesNotMatch",
    "IncompleteSignature",
    "OptInRequired",
)
_NOT_FOUND = ("not found", "could not find", "does not exist")
_TAKEN = ("already exists", "already in use", "must be unique")


@dataclass(frozen=True, slots=True)
class Clients:
    """boto3's clients of ``sagemaker`` and of CloudWatch's ``logs``, with bounded timeouts and retries."""

    training: Any
    logs: Any


class _NameTaken(Exception):
    """There is a job of this name."""


class SageMakerBackend:
    """Training jobs of one site in SageMaker.

    Args:
        opening: the site, its bucket, its connection. Its client is a `Clients`; none: made from the connection.
    """

    def __init__(self, opening: Opening) -> None:
        settings = opening.site.compute.sagemaker
        if settings is None:
            raise JobNotStarted("the site has no SageMaker settings", where=f"sites.{opening.site_name}.compute")
        self._opening = opening
        self._settings: SageMaker = settings
        self._beats = Beats(opening.store)
        self._stops = Stops(opening.store)
        self._clients: Clients | None = None

    def submit(self, spec: JobSpec) -> JobHandle:
        """Create the next attempt, or reattach. A name that is taken is looked at, never gone around."""
        taken = spec.after or 0
        for _ in range(_CLASHES):
            newest = self.find(spec.name)
            if newest is not None and self._found(spec, newest):
                return newest
            # The list may be a moment behind; a name that was just refused is not tried again.
            taken = max(taken, 0 if newest is None else newest.attempt)
            handle = self._handle(spec.name, taken + 1)
            if self._create(spec, handle) or self._found(spec, handle):
                return handle
            taken += 1
        raise ComputeUnavailable(
            "another submitter was faster each time",
            where=self._where(spec.name),
            expected="one submitter per job",
            found=f"{_CLASHES} names taken by attempts that had ended already",
        )

    def find(self, name: str) -> JobHandle | None:
        stem = self._stem(name)
        attempts: list[int] = []
        token: dict[str, str] = {}
        while True:
            answer = self._call(name, "list_training_jobs", NameContains=stem, MaxResults=100, **token)
            jobs = [str(one["TrainingJobName"]) for one in answer["TrainingJobSummaries"]]
            attempts += [number for job in jobs if (number := sagemaker_job.attempt_of(job, stem)) is not None]
            if not answer.get("NextToken"):
                return self._handle(name, max(attempts)) if attempts else None
            token = {"NextToken": answer["NextToken"]}

    def status(self, handle: JobHandle) -> JobStatus:
        """What SageMaker says of the attempt; its heartbeat tells the steps, and the end where SageMaker does not."""
        job = self._describe(handle)
        ended = job["TrainingJobStatus"] in sagemaker_job.TERMINAL
        beat = self._beats.read(handle, needed=ended and job["TrainingJobStatus"] != "Completed")
        state, detail = sagemaker_job.state_of(job, beat)
        state = self._stops.read(handle, state, spot=sagemaker_job.may_be_taken(job))
        return remote.status_of(state, beat, detail)

    def request_checkpoint(self, handle: JobHandle) -> None:
        self._beats.request_checkpoint(handle)

    def stop(self, handle: JobHandle, *, grace_seconds: float) -> JobStatus:
        """StopTrainingJob: SIGTERM, and SIGKILL after 120 s by the service, whatever the grace.

        Waits for the grace and returns how the job stands then: it may still be RUNNING.
        """
        if self._describe(handle)["TrainingJobStatus"] not in sagemaker_job.TERMINAL:
            self._stops.note(handle)
        self._call(handle.name, "stop_training_job", TrainingJobName=self._training_job(handle))
        deadline = self._opening.clock.monotonic() + grace_seconds
        while not self._has_ended(handle):
            left = deadline - self._opening.clock.monotonic()
            if left <= 0:
                break
            self._opening.clock.sleep(min(_POLL_SECONDS, left))
        return self.status(handle)

    def confirm_dead(self, handle: JobHandle) -> bool:
        """Only a terminal status proves it; a service that does not answer proves nothing."""
        try:
            return self._has_ended(handle)
        except ComputeUnavailable:
            return False

    def capabilities(self) -> BackendCapabilities:
        return BackendCapabilities(
            kind=KIND,
            preemption_notice_seconds=NOTICE_SECONDS,
            can_request_checkpoint=True,
            spot=True,
            region=self._region(),
        )

    def log(self, handle: JobHandle, *, last_bytes: int = 8192) -> str:
        """The end of the job's newest stream in CloudWatch; empty when it has none yet."""
        streams = self._call(
            handle.name,
            "describe_log_streams",
            service="logs",
            logGroupName=_LOG_GROUP,
            logStreamNamePrefix=f"{self._training_job(handle)}/",
        )
        found = (streams or {}).get("logStreams", [])
        if not found:
            return ""
        newest = max(found, key=lambda one: int(one.get("lastEventTimestamp", 0)))
        answer = self._call(
            handle.name,
            "get_log_events",
            service="logs",
            logGroupName=_LOG_GROUP,
            logStreamName=newest["logStreamName"],
            startFromHead=False,
            limit=1000,
        )
        text = "".join(f"{one['message']}\n" for one in (answer or {}).get("events", []))
        return text.encode()[-last_bytes:].decode(errors="replace")

    def heartbeat(self, handle: JobHandle) -> dict[str, Any] | None:
        return self._beats.read(handle, needed=True)

    def links(self, handle: JobHandle) -> Mapping[str, str]:
        region, job = self._region(), self._training_job(handle)
        console = f"https://{region}.console.aws.amazon.com"
        # CloudWatch's console wants its `%` as `$25`.
        group = quote(quote(_LOG_GROUP, safe=""), safe="").replace("%", "$")
        stream = quote(quote(f"{job}/", safe=""), safe="").replace("%", "$")
        return {
            "console": f"{console}/sagemaker/home?region={region}#/jobs/{job}",
            "logs": f"{console}/cloudwatch/home?region={region}"
            f"#logsV2:log-groups/log-group/{group}$3FlogStreamNameFilter$3D{stream}",
        }

    # -----------------------------------------------------------------------------------------------------------

    def _create(self, spec: JobSpec, handle: JobHandle) -> bool:
        """Whether the job was created now; False: there is one of this name."""
        attempt = int(handle.reference["attempt"])
        asked = sagemaker_job.request(self._opening, self._settings, spec, self._training_job(handle), attempt)
        try:
            self._call(spec.name, "create_training_job", **asked)
        except _NameTaken:
            return False
        return True

    def _found(self, spec: JobSpec, handle: JobHandle) -> bool:
        return spec.means(handle.attempt) or spec.finds(handle.attempt, self.status(handle).state)

    def _has_ended(self, handle: JobHandle) -> bool:
        return self._describe(handle)["TrainingJobStatus"] in sagemaker_job.TERMINAL

    def _describe(self, handle: JobHandle) -> Mapping[str, Any]:
        name = self._training_job(handle)
        job: Mapping[str, Any] | None = self._call(handle.name, "describe_training_job", TrainingJobName=name)
        if job is None:
            raise UnknownHandle(
                "SageMaker has no such training job",
                where=self._where(handle.name),
                expected=f"a job {name} in {self._region()}",
                found="none",
            )
        return job

    def _handle(self, name: str, attempt: int) -> JobHandle:
        return JobHandle(
            KIND,
            self._opening.site_name,
            name,
            {"training_job": f"{self._stem(name)}{attempt}", "attempt": attempt, "region": self._region()},
        )

    def _training_job(self, handle: JobHandle) -> str:
        name = handle.reference.get("training_job")
        if handle.backend != KIND or not isinstance(name, str):
            raise UnknownHandle(
                "this is no handle of a SageMaker job",
                where=self._where(handle.name),
                expected=f"a handle of {KIND} with its training_job",
                found=f"one of {handle.backend}",
            )
        return name

    def _stem(self, name: str) -> str:
        return sagemaker_job.name_stem(name, f"{self._opening.site.bucket}/{self._opening.site.prefix}")

    def _region(self) -> str:
        return self._opening.site.region

    def _where(self, name: str) -> str:
        return f"{self._opening.site_name}: SageMaker job {name}"

    def _call(self, name: str, operation: str, *, service: str = "training", **arguments: Any) -> Any:
        """One call. None: there is no such thing. Raises _NameTaken and the errors of the interface."""
        from botocore.exceptions import (
            BotoCoreError,
            ClientError,
            NoCredentialsError,
            ParamValidationError,
            PartialCredentialsError,
        )

        where = self._where(name)
        try:
            return getattr(getattr(self._open(), service), operation)(**arguments)
        except ClientError as error:
            return _answered(error.response, operation, where)
        except (NoCredentialsError, PartialCredentialsError) as error:
            raise ComputeRefused("no credentials for SageMaker", where=where, found=str(error)) from error
        except ParamValidationError as error:
            raise JobNotStarted("SageMaker cannot be asked this", where=where, found=str(error)) from error
        except (BotoCoreError, OSError) as error:
            raise ComputeUnavailable(
                "SageMaker did not answer",
                where=where,
                expected=f"an answer within {_TIMEOUT_SECONDS:g} s",
                found=f"{type(error).__name__}: {error}",
            ) from error

    def _open(self) -> Clients:
        if self._clients is None:
            given = self._opening.client
            self._clients = made(self._opening.connection(), self._region()) if given is None else given()
        return self._clients


def _answered(response: Mapping[str, Any], operation: str, where: str) -> None:
    """What an error answer of a service means. Returns where it means: nothing there, or nothing left to do."""
    code, message = str(response["Error"].get("Code", "")), str(response["Error"].get("Message", ""))
    http = int(response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    found, creating = f"{code}: {message}", operation == "create_training_job"
    if code.startswith(_THROTTLED) or http >= 500 or http == 429:
        raise ComputeUnavailable("SageMaker did not do it", where=where, found=found)
    if code.startswith(_NO_RIGHT) or http == 403:
        raise ComputeRefused(
            "SageMaker does not allow it", where=where, expected=f"the right to {operation}", found=found
        )
    if code == "ResourceLimitExceeded":
        if " is 0 " in message:
            raise ComputeRefused(
                "the account's quota of this machine is zero",
                where=where,
                found=found,
                fix="Ask AWS for more (Service Quotas), or name another machine",
            )
        raise NoCapacity("SageMaker has no such machine for this account now", where=where, found=found)
    if creating and "Capacity" in code:
        raise NoCapacity("SageMaker has no such machine now", where=where, found=found)
    if creating and (code == "ResourceInUse" or any(words in message.lower() for words in _TAKEN)):
        raise _NameTaken
    if creating:
        raise JobNotStarted("SageMaker refuses the job", where=where, found=found)
    if code.startswith("ResourceNotFound") or any(words in message.lower() for words in _NOT_FOUND):
        return
    # StopTrainingJob of a job that has ended is refused; that is what was wanted.
    if operation == "stop_training_job" and code == "ValidationException":
        return
    raise ComputeError("SageMaker answers with an error", where=where, found=found)


def made(connection: Connection, region: str) -> Clients:
    """The clients of a connection, with bounded timeouts; `retries` are botocore's own and few."""
    import boto3
    from botocore.config import Config

    extra = connection.extra
    config = Config(
        connect_timeout=_TIMEOUT_SECONDS,
        read_timeout=_TIMEOUT_SECONDS,
        # A create that is sent twice is refused its name the second time, and reattaches.
        retries={"mode": "standard", "total_max_attempts": 2},
    )

    def client(service: str) -> Any:
        return boto3.client(
            service,
            aws_access_key_id=connection.login or None,
            aws_secret_access_key=connection.password or None,
            aws_session_token=extra.get("aws_session_token"),
            region_name=region,
            endpoint_url=extra.get("service_config", {}).get(service, {}).get("endpoint_url")
            or extra.get("endpoint_url"),
            config=config,
        )

    return Clients(client("sagemaker"), client("logs"))


def open_backend(opening: Opening) -> SageMakerBackend:
    """The backend of a site of kind ``sagemaker``. Raises ConfigError: the SDK is not installed."""
    require_sdk("boto3", kind=KIND, package="boto3")
    return SageMakerBackend(opening)
