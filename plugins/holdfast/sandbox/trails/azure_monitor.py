"""The trail of an emulated Azure: resource logs of the blob service, as a diagnostic setting appends them to blobs.

https://learn.microsoft.com/azure/storage/blobs/monitor-blob-storage-reference: one append blob per category and hour,
``…/y=/m=/d=/h=/m=00/PT1H.json``, one JSON document a line.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from datetime import datetime
from http.client import responses
from typing import Any

from holdfast.sandbox.azurite import ACCOUNT
from holdfast.sandbox.layout import SandboxSite
from holdfast.sandbox.trails.azure_calls import azure_operation
from holdfast.sandbox.trails.emulator import Emulator
from holdfast.sandbox.trails.exchanges import Exchange
from holdfast.sandbox.trails.names import AZURE_CONTAINERS, AZURE_RESOURCE, MARK


class AzureMonitor:
    """Delivers one site's resource logs."""

    def __init__(self, site: SandboxSite, emulator: Emulator) -> None:
        self._site = site
        self._emulator = emulator

    def plan(self, exchanges: Sequence[Exchange], _state: dict[str, Any], _now: datetime) -> dict[str, Any]:
        """How long each blob is before: what is appended behind that was appended by this delivery."""
        blobs = sorted({_place(exchange, category) for exchange, _, category in _operations(exchanges)})
        return {"lengths": [[*place, self._emulator.azure_length(*place) or 0] for place in blobs]}

    def deliver(
        self, exchanges: Sequence[Exchange], plan: dict[str, Any], state: dict[str, Any]
    ) -> tuple[dict[str, Any], int, int]:
        """Append what is not there yet. Doing it again appends nothing twice.

        Returns:
            The state behind it, how many events, how many objects.
        """
        lines: dict[tuple[str, str], list[bytes]] = defaultdict(list)
        for exchange, operation, category in _operations(exchanges):
            record = _record(exchange, operation, category, self._site)
            lines[_place(exchange, category)].append(json.dumps(record, separators=(",", ":")).encode() + b"\n")
        before = {(container, blob): length for container, blob, length in plan["lengths"]}
        for place, records in lines.items():
            data = b"".join(records)
            length = self._emulator.azure_length(*place) or 0
            done = length - before[place]
            # A blob that is shorter than it was has been lost with its store: all of this delivery is missing.
            rest = data[done:] if 0 <= done <= len(data) else data
            self._emulator.azure_append(*place, rest, length)
        return state, sum(map(len, lines.values())), len(lines)


def _operations(exchanges: Sequence[Exchange]) -> Iterator[tuple[Exchange, str, str]]:
    for whole in exchanges:
        for exchange in whole.inner():
            operation, category = azure_operation(exchange)
            yield exchange, operation or "Unknown", category


def _place(exchange: Exchange, category: str) -> tuple[str, str]:
    """Container and blob of a record."""
    at = exchange.at
    return AZURE_CONTAINERS[category], f"resourceId={AZURE_RESOURCE}/{at:y=%Y/m=%m/d=%d/h=%H}/m=00/PT1H.json"


def _record(exchange: Exchange, operation: str, category: str, site: SandboxSite) -> dict[str, Any]:
    status = responses.get(exchange.status, "")
    text = "Success" if not exchange.failed else exchange.answer.get("x-ms-error-code") or exchange.error or status
    took_ms = exchange.took_us // 1000
    return {
        "time": exchange.at.strftime("%Y-%m-%dT%H:%M:%S.%f") + "0Z",
        "resourceId": AZURE_RESOURCE,
        "category": category,
        "operationName": operation,
        "operationVersion": exchange.headers.get("x-ms-version", ""),
        "schemaVersion": "1.0",
        "statusCode": exchange.status,
        "statusText": text or "NetworkError",
        "durationMs": took_ms,
        "callerIpAddress": exchange.peer,
        "correlationId": exchange.answer.get("x-ms-request-id") or exchange.id,
        "identity": _identity(exchange),
        "location": site.region,
        "properties": {
            "accountName": ACCOUNT,
            "userAgentHeader": exchange.headers.get("user-agent", ""),
            "clientRequestId": exchange.headers.get("x-ms-client-request-id", ""),
            "etag": exchange.answer.get("etag", ""),
            "serviceType": "blob",
            "objectKey": "/" + "/".join(exchange.segments),
            "requestBodySize": exchange.sent_bytes,
            "responseBodySize": exchange.received_bytes,
            "serverLatencyMs": took_ms,
            MARK: True,
            "holdfastSandboxId": exchange.id,
            "holdfastSandboxEnd": exchange.end,
        },
        "uri": f"http://{exchange.headers.get('host', '')}{exchange.target}",
        "protocol": "HTTP",
        "resourceType": "Microsoft.Storage/storageAccounts/blobServices",
    }


def _identity(exchange: Exchange) -> dict[str, str]:
    kinds = {"shared-key": "AccountKey", "sas": "SAS", "bearer": "OAuth", "anonymous": "Anonymous"}
    return {"type": kinds.get(exchange.caller["kind"], "Unknown")}
