"""Google's and Azure's settings on loopback, as documents by path; what is not written down here is answered 404.

Strict: a request needs the bearer token and, where the API has one, its version. What the services *do* is this file's
idea of their documentation.
"""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from azure_stub import Answer, arm_error
from holdfast.clock import FakeClock
from holdfast.engine.audit.posture import Posture, check_posture
from holdfast.engine.config import Connection, Topology
from holdfast.engine.runtime import Runtime

NOW = datetime(2026, 11, 1, tzinfo=UTC)
SUBSCRIPTION, GROUP, ACCOUNT, CONTAINER = "5c", "g", "account", "vault"
ACCOUNT_ID = (
    f"/subscriptions/{SUBSCRIPTION}/resourceGroups/{GROUP}/providers/Microsoft.Storage/storageAccounts/{ACCOUNT}"
)
PRINCIPAL = "0b1e"
TOKEN = "x." + base64.urlsafe_b64encode(json.dumps({"oid": PRINCIPAL}).encode()).decode().rstrip("=") + ".y"


@dataclass
class Documents:
    """Documents by path. ``pages`` cuts every list of this many entries; ``refused`` paths are answered 403."""

    documents: dict[str, Any]
    link: str = "nextLink"
    page_size: int = 1
    refused: set[str] = field(default_factory=set)
    url: str = ""
    asked: list[str] = field(default_factory=list)

    def __call__(self, method: str, path: str, query: dict[str, str], body: Any) -> Answer:
        self.asked.append(path)
        if any(path.startswith(one) for one in self.refused):
            return arm_error(403, "AuthorizationFailed", f"no right to {path}")
        if path not in self.documents:
            return arm_error(404, "NotFound", path)
        found = self.documents[path]
        if not isinstance(found, dict):
            return Answer(200, found)
        return Answer(200, self._page(found, path, query))

    def _page(self, found: dict[str, Any], path: str, query: dict[str, str]) -> dict[str, Any]:
        paged = next((name for name, value in found.items() if isinstance(value, list) and name in _PAGED), None)
        if paged is None:
            return found
        start = int(query.get("pageToken") or query.get("$skiptoken") or 0)
        page = {**found, paged: found[paged][start : start + self.page_size]}
        if start + self.page_size < len(found[paged]):
            if self.link == "nextPageToken":
                page["nextPageToken"] = str(start + self.page_size)
            else:
                version = f"api-version={query['api-version']}&" if "api-version" in query else ""
                page[self.link] = f"{self.url}{path}?{version}$skiptoken={start + self.page_size}"
        return page


_PAGED = {"value", "accounts", "sinks", "users", "activities"}


def run(connection: Connection, site: dict[str, Any], check_id: str, **topology: Any) -> Posture:
    """One check of one site, at `NOW`, with a clock that sleeps at once."""
    role = topology.pop("role", None)
    document = {"version": 1, "sites": {"site-a": site}, "groups": {}, **topology}

    class Connections:
        def get(self, conn_id: str) -> Connection:
            return connection

    runtime = Runtime(Topology.model_validate(document), Connections(), clock=FakeClock(NOW), environ={})
    return check_posture(runtime, check_ids=[check_id], role=role)


def vault_at(site: str) -> dict[str, Any]:
    """A topology's vault that locks what it writes."""
    key = {"writer": ["env:A"], "reader": ["env:A"], "admin": ["env:A"]}
    return {"backups": {"site": site, "keys": key, "lock_days": {"daily": 1}}}
