"""Airflow's REST API in this process, as strict as its own OpenAPI document: what a real server cannot be made to do.

Paths, parameters and answers are checked against the document that Airflow ships; anything else is a failed test.
"""

from __future__ import annotations

import functools
import importlib.util
import json
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import yaml
from jsonschema import Draft202012Validator

PASSWORD = "a canary of a password"
_COLLECTIONS = {
    "/api/v2/dags/{dag_id}/dagRuns/{dag_run_id}/hitlDetails": "hitl_details",
    "/api/v2/dags/{dag_id}/dagVersions": "dag_versions",
}


@functools.cache
def _document() -> dict[str, Any]:
    found = importlib.util.find_spec("airflow")
    assert found is not None
    assert found.submodule_search_locations
    path = Path(found.submodule_search_locations[0], "api_fastapi/core_api/openapi/v2-rest-api-generated.yaml")
    loaded = yaml.load(path.read_text(), Loader=yaml.CSafeLoader)
    assert isinstance(loaded, dict)
    return loaded


@functools.cache
def _validator(schema: str) -> Draft202012Validator:
    return Draft202012Validator(
        {"$ref": f"#/components/schemas/{schema}", "components": _document()["components"]},
        format_checker=Draft202012Validator.FORMAT_CHECKER,
    )


def row(
    row_id: int, when: datetime, event: str = "patch_pool", *, dag_id: str | None = None, **more: Any
) -> dict[str, Any]:
    """One row as the API gives it."""
    return {
        "event_log_id": row_id,
        "when": when.astimezone(UTC).isoformat().replace("+00:00", "Z"),
        "dag_id": dag_id,
        "task_id": None,
        "run_id": None,
        "map_index": None,
        "try_number": None,
        "event": event,
        "logical_date": None,
        "owner": "boss",
        "extra": json.dumps({"method": "PATCH"}),
        "dag_display_name": None,
        "task_display_name": None,
        **more,
    }


@dataclass
class StubAirflow:
    """The API over a table in memory.

    Args:
        rows: by id; the list hides those in ``hidden``.
        before: called with each authorised request; what it returns is the answer, what it raises happened.
    """

    rows: dict[int, dict[str, Any]] = field(default_factory=dict)
    hidden: set[int] = field(default_factory=set)
    before: Callable[[httpx.Request], httpx.Response | None] = lambda _request: None
    tokens: set[str] = field(default_factory=lambda: {"given"})
    calls: list[str] = field(default_factory=list)
    logins: int = 0
    #: ``[api] maximum_page_limit``.
    page_limit: int = 100
    versions: list[dict[str, Any]] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def transport(self) -> httpx.MockTransport:
        return httpx.MockTransport(self._answer)

    def add(self, when: datetime, *, row_id: int | None = None, hide: bool = False, **more: Any) -> int:
        new = row_id or max(self.rows, default=0) + 1
        self.rows[new] = row(new, when, **more)
        if hide:
            self.hidden.add(new)
        return new

    def _answer(self, request: httpx.Request) -> httpx.Response:
        with self._lock:
            self.calls.append(f"{request.method} {request.url.path}")
            if request.url.path == "/auth/token":
                return self._login(request)
            if request.headers.get("Authorization", "").removeprefix("Bearer ") not in self.tokens:
                return httpx.Response(401, json={"detail": "Invalid JWT token"})
            special = self.before(request)
            return special if special is not None else self._found(request)

    def _login(self, request: httpx.Request) -> httpx.Response:
        body = json.loads(request.content)
        if body != {"username": "boss", "password": PASSWORD}:
            return httpx.Response(401, json={"detail": "Invalid credentials"})
        self.logins += 1
        self.tokens = {f"token-{self.logins}"}
        return httpx.Response(201, json={"access_token": f"token-{self.logins}"})

    def _found(self, request: httpx.Request) -> httpx.Response:
        template, operation = _operation(request)
        allowed = {one["name"]: one.get("schema", {}) for one in operation["parameters"] if one["in"] == "query"}
        given = dict(request.url.params)
        assert set(given) <= set(allowed), f"unknown parameters of {template}: {set(given) - set(allowed)}"
        limit, offset = int(given.get("limit", 50)), int(given.get("offset", 0))
        limit = min(limit, self.page_limit)
        if template == "/api/v2/eventLogs/{event_log_id}":
            found = self.rows.get(int(request.url.path.rpartition("/")[2]))
            if found is None:
                return httpx.Response(404, json={"detail": "The Event Log was not found"})
            return _valid(operation, found)
        if template == "/api/v2/eventLogs":
            assert given["order_by"] == "-event_log_id"
            shown = sorted(set(self.rows) - self.hidden, reverse=True)
            page = [self.rows[one] for one in shown[offset : offset + limit]]
            return _valid(operation, {"event_logs": page, "total_entries": len(shown)})
        entries = self.versions if template.endswith("/dagVersions") else []
        page = entries[offset : offset + limit]
        return _valid(operation, {_COLLECTIONS[template]: page, "total_entries": len(entries)})


def _operation(request: httpx.Request) -> tuple[str, dict[str, Any]]:
    asked = request.url.path.split("/")
    for template, operations in _document()["paths"].items():
        parts = template.split("/")
        if len(parts) == len(asked) and all(p in (a,) or p.startswith("{") for p, a in zip(parts, asked, strict=True)):
            return template, operations[request.method.lower()]
    raise AssertionError(f"Airflow has no {request.method} {request.url.path}")


def _valid(operation: Mapping[str, Any], body: Any) -> httpx.Response:
    schema = operation["responses"]["200"]["content"]["application/json"]["schema"]["$ref"].rpartition("/")[2]
    text = json.dumps(body, separators=(",", ":"))
    _check(schema, text)
    return httpx.Response(200, content=text.encode())


@functools.lru_cache(maxsize=4096)
def _check(schema: str, text: str) -> None:
    _validator(schema).validate(json.loads(text))
