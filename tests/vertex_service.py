"""A JobService over gRPC on loopback, for the real SDK: requests and answers are the API's own messages.

It takes any number of jobs of one name, as Vertex AI does. The SDK's generated types parse every request, so a field
the API does not have cannot get here; what the service *does* is this file's idea of the documentation.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from concurrent import futures
from typing import Any

import grpc
from google.cloud.aiplatform_v1 import CustomJob, JobServiceClient, JobState
from google.cloud.aiplatform_v1.services.job_service.transports import JobServiceGrpcTransport
from google.cloud.aiplatform_v1.types import job_service
from google.protobuf import empty_pb2
from google.rpc import status_pb2

_SERVICE = "google.cloud.aiplatform.v1.JobService"
_FILTER = re.compile(r'labels\.([a-z_]+)="([a-z0-9_-]+)"')
_LABEL = re.compile(r"[a-z0-9_-]{0,63}")


class VertexService:
    """Jobs by resource name. `becomes` says what becomes of one, `fails` what goes wrong at the next call."""

    def __init__(self) -> None:
        self.jobs: dict[str, CustomJob] = {}
        self.unlisted: set[str] = set()
        self.deadlines: list[float] = []
        self.page_size = 100
        #: Runs before a create is done, as another process would meanwhile.
        self.meanwhile: Callable[[], None] = lambda: None
        self._failures: dict[str, list[tuple[grpc.StatusCode, str, bool]]] = {}
        self._server = grpc.server(futures.ThreadPoolExecutor(max_workers=4))
        methods = {
            "CreateCustomJob": (self._create, job_service.CreateCustomJobRequest, CustomJob),
            "GetCustomJob": (self._get, job_service.GetCustomJobRequest, CustomJob),
            "ListCustomJobs": (
                self._list,
                job_service.ListCustomJobsRequest,
                job_service.ListCustomJobsResponse,
            ),
            "CancelCustomJob": (self._cancel, job_service.CancelCustomJobRequest, None),
        }
        handlers = {
            name: grpc.unary_unary_rpc_method_handler(
                self._handler(name, act),
                request_deserializer=asked.deserialize,
                response_serializer=_empty if answer is None else answer.serialize,
            )
            for name, (act, asked, answer) in methods.items()
        }
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(_SERVICE, handlers),))
        self.port = self._server.add_insecure_port("127.0.0.1:0")
        self._channels: list[Any] = []

    def start(self) -> None:
        self._server.start()

    def stop(self) -> None:
        for channel in self._channels:
            channel.close()
        self._server.stop(None).wait()

    def client(self) -> JobServiceClient:
        channel = grpc.insecure_channel(f"127.0.0.1:{self.port}")
        self._channels.append(channel)
        return JobServiceClient(transport=JobServiceGrpcTransport(channel=channel))

    def becomes(self, name: str, state: str, *, code: int = 0, message: str = "", started: bool = True) -> None:
        job = self.jobs[name]
        job.state = JobState[f"JOB_STATE_{state}"]
        if started:
            job.start_time = {"seconds": 1}  # type: ignore[assignment]
        if code or message:
            job.error = status_pb2.Status(code=code, message=message)

    def fails(self, method: str, code: grpc.StatusCode, message: str = "", *, after: bool = False) -> None:
        """The next call of a method fails; ``after``: once the service has done what was asked."""
        self._failures.setdefault(method, []).append((code, message, after))

    def _handler(self, method: str, act: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
        def handle(request: Any, context: grpc.ServicerContext) -> Any:
            self.deadlines.append(context.time_remaining())
            failures = self._failures.get(method)
            code, message, after = failures.pop(0) if failures else (None, "", False)
            if code is not None and not after:
                context.abort(code, message)
            answer = act(request, context)
            if code is not None:
                context.abort(code, message)
            return answer

        return handle

    def _create(self, request: Any, context: grpc.ServicerContext) -> CustomJob:
        self.meanwhile()
        job = request.custom_job
        spec = job.job_spec.worker_pool_specs[0]
        wrong = [value for pair in job.labels.items() for value in pair if not _LABEL.fullmatch(value)]
        if wrong or not 1 <= len(job.display_name) <= 128 or len(spec.container_spec.env) > 100:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"labels {wrong}, name or environment")
        if not spec.container_spec.image_uri or not spec.machine_spec.machine_type or spec.replica_count != 1:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "worker pool")
        job.name = f"{request.parent}/customJobs/{1000 + len(self.jobs)}"
        job.state = JobState.JOB_STATE_QUEUED
        self.jobs[job.name] = job
        return job

    def _get(self, request: Any, context: grpc.ServicerContext) -> CustomJob:
        if request.name not in self.jobs:
            context.abort(grpc.StatusCode.NOT_FOUND, "CustomJob does not exist")
        return self.jobs[request.name]

    def _list(self, request: Any, context: grpc.ServicerContext) -> Any:
        found = _FILTER.fullmatch(request.filter)
        if found is None:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"filter {request.filter!r}")
        key, value = found[1], found[2]
        jobs = [
            job
            for name, job in self.jobs.items()
            if job.labels.get(key) == value and name.startswith(f"{request.parent}/") and name not in self.unlisted
        ]
        start = int(request.page_token or 0)
        end = start + min(self.page_size, request.page_size)
        return job_service.ListCustomJobsResponse(
            custom_jobs=jobs[start:end], next_page_token=str(end) if end < len(jobs) else ""
        )

    def _cancel(self, request: Any, context: grpc.ServicerContext) -> empty_pb2.Empty:
        if self._get(request, context).state in (JobState.JOB_STATE_SUCCEEDED, JobState.JOB_STATE_FAILED):
            context.abort(grpc.StatusCode.FAILED_PRECONDITION, "the job has ended")
        self.becomes(request.name, "CANCELLING", started=False)
        return empty_pb2.Empty()


def _empty(message: empty_pb2.Empty) -> bytes:
    return message.SerializeToString()
