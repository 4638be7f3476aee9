"""A thin SageMaker, for what moto does not do: it keeps a client's requests off the network and answers itself.

Every request is the real SDK's, as it would go over the wire, and is checked against botocore's own model of the
service: unknown and missing members, types, lengths, patterns and enumerations. Answers go back through the SDK's
parser. What the service *does* is this file's idea of the documentation, not Amazon's code.
"""

from __future__ import annotations

import io
import json
import re
from datetime import UTC, datetime
from typing import Any

import boto3
from botocore.awsrequest import AWSResponse
from botocore.config import Config
from botocore.model import ServiceModel, Shape

from holdfast.engine.compute.sagemaker import Clients

Answer = tuple[int, dict[str, Any]]


class SageMakerService:
    """Jobs by name. A test says what becomes of one with `becomes`, and what goes wrong with `fails`."""

    def __init__(self) -> None:
        self.jobs: dict[str, dict[str, Any]] = {}
        self.requests: list[tuple[str, dict[str, Any]]] = []
        self.log: dict[str, list[str]] = {}
        #: Jobs a list does not show yet.
        self.unlisted: set[str] = set()
        #: Whether an answer is lost after the service has done what was asked.
        self.loses_answer_of = ""
        self._failures: dict[str, list[tuple[str, str, int]]] = {}
        self.page_size = 100

    def clients(self) -> Clients:
        def client(service: str) -> Any:
            made = boto3.client(
                service,
                region_name="eu-west-1",
                aws_access_key_id="a",
                aws_secret_access_key="b",
                config=Config(retries={"total_max_attempts": 1}),
            )
            model = made.meta.service_model
            made.meta.events.register(f"before-send.{service}.*", lambda request, **_: self._answer(model, request))
            return made

        return Clients(client("sagemaker"), client("logs"))

    def becomes(self, name: str, status: str, secondary: str = "", *, reason: str = "") -> None:
        self.jobs[name] |= {"TrainingJobStatus": status, "SecondaryStatus": secondary or status}
        if reason:
            self.jobs[name]["FailureReason"] = reason

    def fails(self, operation: str, code: str, message: str = "", *, http: int = 400, times: int = 1) -> None:
        self._failures.setdefault(operation, []).extend([(code, message, http)] * times)

    def created(self) -> list[dict[str, Any]]:
        return [asked for operation, asked in self.requests if operation == "CreateTrainingJob"]

    def _answer(self, model: ServiceModel, request: Any) -> AWSResponse:
        operation = request.headers["X-Amz-Target"].decode().rpartition(".")[2]
        asked = json.loads(request.body)
        _check(model.operation_model(operation).input_shape, asked, operation)
        self.requests.append((operation, asked))
        failures = self._failures.get(operation)
        if failures:
            code, message, http = failures.pop(0)
            status, answer = http, {"__type": code, "message": message}
        else:
            status, answer = getattr(self, f"_{operation}")(asked)
        if self.loses_answer_of == operation:
            self.loses_answer_of = ""
            raise ConnectionResetError("the answer was lost")
        body = json.dumps(answer).encode()
        return AWSResponse(request.url, status, {"content-type": "application/x-amz-json-1.1"}, _Raw(body))

    def _CreateTrainingJob(self, asked: dict[str, Any]) -> Answer:
        name = asked["TrainingJobName"]
        if name in self.jobs:
            return _error("ResourceInUse", "Job name must be unique within an AWS account and region")
        self.jobs[name] = {
            "TrainingJobName": name,
            "TrainingJobArn": f"arn:aws:sagemaker:eu-west-1:123456789012:training-job/{name}",
            "TrainingJobStatus": "InProgress",
            "SecondaryStatus": "Starting",
            "StoppingCondition": asked["StoppingCondition"],
            "EnableManagedSpotTraining": asked.get("EnableManagedSpotTraining", False),
            "CreationTime": datetime(2026, 1, 1, tzinfo=UTC).timestamp(),
        }
        return 200, {"TrainingJobArn": self.jobs[name]["TrainingJobArn"]}

    def _DescribeTrainingJob(self, asked: dict[str, Any]) -> Answer:
        job = self.jobs.get(asked["TrainingJobName"])
        return _error("ValidationException", "Requested resource not found.") if job is None else (200, job)

    def _ListTrainingJobs(self, asked: dict[str, Any]) -> Answer:
        names = sorted(one for one in self.jobs if asked["NameContains"] in one and one not in self.unlisted)
        start = int(asked.get("NextToken", 0))
        page = names[start : start + self.page_size]
        fields = ("TrainingJobName", "TrainingJobArn", "TrainingJobStatus", "CreationTime")
        answer: dict[str, Any] = {
            "TrainingJobSummaries": [{key: self.jobs[name][key] for key in fields} for name in page]
        }
        if start + self.page_size < len(names):
            answer["NextToken"] = str(start + self.page_size)
        return 200, answer

    def _StopTrainingJob(self, asked: dict[str, Any]) -> Answer:
        job = self.jobs[asked["TrainingJobName"]]
        if job["TrainingJobStatus"] in ("Completed", "Failed", "Stopped"):
            return _error("ValidationException", f"The request was rejected: status {job['TrainingJobStatus']}")
        self.becomes(asked["TrainingJobName"], "Stopping")
        return 200, {}

    def _DescribeLogStreams(self, asked: dict[str, Any]) -> Answer:
        prefix = asked["logStreamNamePrefix"]
        found = [one for one in self.log if one.startswith(prefix)]
        return 200, {"logStreams": [{"logStreamName": one, "lastEventTimestamp": 1} for one in found]}

    def _GetLogEvents(self, asked: dict[str, Any]) -> Answer:
        lines = self.log[asked["logStreamName"]]
        return 200, {"events": [{"timestamp": 1, "message": line, "ingestionTime": 1} for line in lines]}


class _Raw(io.BytesIO):
    def stream(self, **_: Any) -> Any:
        yield self.read()


def _error(code: str, message: str) -> Answer:
    return 400, {"__type": code, "message": message}


def _check(shape: Shape, value: Any, where: str) -> None:
    """One value against the service model, stricter than the SDK, which leaves lengths and patterns to the service."""
    kind, limits = shape.type_name, shape.metadata
    if kind == "structure":
        unknown = set(value) - set(shape.members)
        missing = set(shape.required_members) - set(value)
        assert not unknown, f"{where}: unknown members {unknown}"
        assert not missing, f"{where}: missing members {missing}"
        for name, one in value.items():
            _check(shape.members[name], one, f"{where}.{name}")
        return
    if kind == "map":
        assert isinstance(value, dict), where
        for key, one in value.items():
            _check(shape.key, key, f"{where} key")
            _check(shape.value, one, f"{where}.{key}")
    elif kind == "list":
        assert isinstance(value, list), where
        for one in value:
            _check(shape.member, one, f"{where}[]")
    elif kind == "boolean":
        assert isinstance(value, bool), where
        return
    elif kind in ("integer", "long"):
        assert isinstance(value, int), where
        assert limits.get("min", value) <= value <= limits.get("max", value), f"{where}: {value}"
        return
    else:
        assert isinstance(value, str), where
        assert not shape.enum or value in shape.enum, f"{where}: {value} is none of the model's values"
        pattern = limits.get("pattern", r"[\S\s]*").replace(r"\p{L}\p{Z}\p{N}", r"\w\s")
        assert re.fullmatch(pattern, value), f"{where}: {value!r} does not match {pattern}"
    assert limits.get("min", 0) <= len(value) <= limits.get("max", len(value)), f"{where}: length {len(value)}"
