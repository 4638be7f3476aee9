"""Batch jobs and tasks as their REST documentation tells of them; bodies are read strictly by the SDK's models."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from azure_stub import Answer, check_rest_fields

_PATH = re.compile(r"/(?:jobs(?:/(?P<job>[\w-]{1,64})(?P<tasks>/tasks(?:/(?P<task>[\w-]{1,64})(?P<rest>/.*)?)?)?)?)")
_TIME = "2026-01-01T00:00:00Z"


def batch_error(status: int, code: str) -> Answer:
    return Answer(status, {"code": code, "message": {"lang": "en-US", "value": f"{code} by the stub"}})


@dataclass
class Batch:
    """One account with one pool."""

    jobs: dict[str, dict[str, Any]] = field(default_factory=dict)
    tasks: dict[str, dict[str, Any]] = field(default_factory=dict)
    pool: dict[str, Any] = field(default_factory=lambda: {"id": "gpus", "currentDedicatedNodes": 1})
    closed: bool = False

    def __call__(self, method: str, path: str, query: dict[str, str], body: Any) -> Answer:
        if "api-version" not in query:
            return batch_error(400, "MissingRequiredQueryParameter")
        if path == f"/pools/{self.pool['id']}" and method == "GET":
            return Answer(200, self.pool)
        if path.startswith("/pools/"):
            return batch_error(404, "PoolNotFound")
        found = _PATH.fullmatch(path)
        if found is None:
            return batch_error(400, "InvalidUri")
        if found["job"] is None:
            return self._create_job(body)
        if found["job"] not in self.jobs:
            return batch_error(404, "JobNotFound")
        if not found["tasks"]:
            return Answer(200, self.jobs[found["job"]])
        if found["task"] is None:
            return self._create_task(body)
        return self._task(method, found["task"], found["rest"] or "")

    def move(self, task: str, state: str, **execution: Any) -> None:
        """Put a task into a state, as the service or its node would."""
        self.tasks[task]["state"] = state
        self.tasks[task]["executionInfo"] = {"retryCount": 0, "requeueCount": 0, **execution}

    def exit(self, task: str, code: int) -> None:
        failure = {"category": "usererror", "code": "FailureExitCode", "message": "it exited"}
        self.move(task, "completed", exitCode=code, **({"failureInfo": failure} if code else {}))

    def _create_job(self, body: Any) -> Answer:
        from azure.batch import models

        check_rest_fields(models.BatchJobCreateOptions, body)
        if body["id"] in self.jobs:
            return batch_error(409, "JobExists")
        self.jobs[body["id"]] = {**body, "state": "active"}
        return Answer(201)

    def _create_task(self, body: Any) -> Answer:
        from azure.batch import models

        check_rest_fields(models.BatchTaskCreateOptions, body)
        if self.closed:
            return batch_error(409, "JobCompleted")
        if body["id"].lower() in {name.lower() for name in self.tasks}:
            return batch_error(409, "TaskExists")
        self.tasks[body["id"]] = {**body, "state": "active", "creationTime": _TIME}
        return Answer(201)

    def _task(self, method: str, task: str, rest: str) -> Answer:
        if task not in self.tasks:
            return batch_error(404, "TaskNotFound")
        if method == "GET" and not rest:
            return Answer(200, self.tasks[task])
        if method == "POST" and rest == "/terminate":
            if self.tasks[task]["state"] == "completed":
                return batch_error(409, "TaskCompleted")
            failure = {"category": "usererror", "code": "TaskEnded", "message": "ended by user request"}
            self.move(task, "completed", failureInfo=failure)
            return Answer(204)
        if method == "GET" and rest == "/files/stdout.txt":
            return Answer(200, "step 1\nstep 2\n")
        return batch_error(405, "UnsupportedHttpVerb")
