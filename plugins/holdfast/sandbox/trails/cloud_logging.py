"""The trail of an emulated Google Cloud: audit log entries as a Cloud Logging sink writes them to a bucket.

https://cloud.google.com/logging/docs/export/storage: one object per log, hour and shard, ``S0`` upwards, and ``A0``
upwards for what arrives after an hour's objects were written. Here every delivery writes a shard; there it is hourly.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from holdfast.sandbox.layout import GCP_PROJECT, SandboxSite
from holdfast.sandbox.trails.emulator import Emulator
from holdfast.sandbox.trails.exchanges import Exchange
from holdfast.sandbox.trails.gcs_calls import GcpCall, gcp_calls
from holdfast.sandbox.trails.names import MARK, trail_buckets

#: HTTP status → google.rpc.Code.
_CODES = {400: 3, 401: 16, 403: 7, 404: 5, 409: 10, 412: 9, 429: 8, 500: 13, 501: 12, 503: 14, 0: 2}
_SERVICES = {"store": "storage.googleapis.com", "dns": "dns.googleapis.com"}


class CloudLogging:
    """Delivers one site's entries."""

    def __init__(self, site: SandboxSite, emulator: Emulator) -> None:
        self._site = site
        self._emulator = emulator
        self._bucket = trail_buckets("gcp", site.bucket)[0]

    def plan(self, exchanges: Sequence[Exchange], state: dict[str, Any], now: datetime) -> dict[str, Any]:
        """The object each hour's entries go to."""
        shards: dict[str, dict[str, int]] = state.get("shards", {})
        names = {}
        for group in {_group(exchange, call) for exchange, call in _calls(exchanges)}:
            seen = shards.get(group, {})
            kind = "A" if seen.get("closed") else "S"
            names[group] = f"{group}_{kind}{seen.get(kind, 0)}.json"
        return {"names": names, "at": now.isoformat()}

    def deliver(
        self, exchanges: Sequence[Exchange], plan: dict[str, Any], state: dict[str, Any]
    ) -> tuple[dict[str, Any], int, int]:
        """Write each object whole. Doing it again writes the same bytes.

        Returns:
            The state behind it, how many events, how many objects.
        """
        at = datetime.fromisoformat(plan["at"])
        lines: dict[str, list[bytes]] = defaultdict(list)
        for exchange, call in _calls(exchanges):
            entry = _entry(exchange, call, self._site, at)
            lines[_group(exchange, call)].append(json.dumps(entry, separators=(",", ":"), sort_keys=True).encode())
        for group, entries in lines.items():
            self._emulator.put_gcs(self._bucket, plan["names"][group], b"\n".join(entries) + b"\n")
        shards = _counted(state.get("shards", {}), plan["names"], at)
        return {**state, "shards": shards}, sum(map(len, lines.values())), len(lines)


def _calls(exchanges: Sequence[Exchange]) -> Iterator[tuple[Exchange, GcpCall]]:
    for whole in exchanges:
        if whole.path.startswith("/_holdfast/"):
            continue
        for exchange in whole.inner():
            for call in gcp_calls(exchange):
                yield exchange, call


def _group(exchange: Exchange, call: GcpCall) -> str:
    """The folder and the hour an entry belongs to."""
    log = "activity" if call.is_admin else "data_access"
    at = exchange.at
    return f"cloudaudit.googleapis.com/{log}/{at:%Y/%m/%d}/{at:%H}:00:00_{at:%H}:59:59"


def _counted(shards: dict[str, Any], names: dict[str, str], at: datetime) -> dict[str, Any]:
    """The next shard of each hour; an hour that was over when it was delivered to is closed."""
    found = {group: dict(seen) for group, seen in shards.items()}
    for group, name in names.items():
        kind = name.removeprefix(f"{group}_")[0]
        seen = found.setdefault(group, {})
        seen[kind] = seen.get(kind, 0) + 1
    for group, seen in found.items():
        folder, _, hour = group.rpartition("/")
        start = datetime.strptime("/".join(folder.split("/")[-3:]) + hour[:2], "%Y/%m/%d%H").replace(tzinfo=UTC)
        if start + timedelta(hours=1) <= at:
            seen["closed"] = 1
    return found


def _entry(exchange: Exchange, call: GcpCall, site: SandboxSite, received: datetime) -> dict[str, Any]:
    log = "activity" if call.is_admin else "data_access"
    resource = _resource_name(exchange, call)
    timestamp = exchange.at.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    return {
        # Unique with its timestamp; a copy is two entries of one request.
        "insertId": exchange.id.replace("-", "")[:20] + ("" if call.method != "storage.objects.get" else "g"),
        "labels": {MARK: "true", "end": exchange.end},
        "logName": f"projects/{GCP_PROJECT}/logs/cloudaudit.googleapis.com%2F{log}",
        "protoPayload": {
            "@type": "type.googleapis.com/google.cloud.audit.AuditLog",
            "authenticationInfo": _caller(exchange),
            "authorizationInfo": [
                {
                    "granted": exchange.status not in (401, 403),
                    "permission": call.method,
                    "resource": resource,
                    "resourceAttributes": {},
                }
            ],
            "methodName": call.method,
            "metadata": {
                MARK: True,
                "httpStatus": exchange.status,
                "requestBytes": exchange.sent_bytes,
                "responseBytes": exchange.received_bytes,
            },
            "requestMetadata": {
                "callerIp": exchange.peer.rpartition(":")[0],
                "callerSuppliedUserAgent": exchange.headers.get("user-agent", ""),
                "destinationAttributes": {},
                "requestAttributes": {"auth": {}, "time": timestamp},
            },
            "resourceLocation": {"currentLocations": [site.region]},
            "resourceName": resource,
            "serviceName": _SERVICES[exchange.listener],
            "status": _status(exchange),
        },
        "receiveTimestamp": received.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        "resource": _resource(exchange, call, site),
        "severity": "ERROR" if exchange.failed else ("NOTICE" if call.is_admin else "INFO"),
        "timestamp": timestamp,
    }


def _caller(exchange: Exchange) -> dict[str, Any]:
    """Whom a token belongs to cannot be seen from outside; that there was one can."""
    name = exchange.caller.get("id")
    if name is not None:
        return {"principalEmail": name}
    return {} if exchange.caller["kind"] == "anonymous" else {"principalSubject": f"{exchange.caller['kind']}-token"}


def _resource_name(exchange: Exchange, call: GcpCall) -> str:
    if exchange.listener == "dns":
        return f"projects/{GCP_PROJECT}/managedZones" + (f"/{call.bucket}" if call.bucket else "")
    if call.bucket is None:
        return f"projects/{GCP_PROJECT}"
    return f"projects/_/buckets/{call.bucket}" + (f"/objects/{call.name}" if call.name else "")


def _resource(exchange: Exchange, call: GcpCall, site: SandboxSite) -> dict[str, Any]:
    if exchange.listener == "dns":
        labels = {"location": "global", "project_id": GCP_PROJECT, "zone_name": call.bucket or ""}
        return {"labels": labels, "type": "dns_managed_zone"}
    labels = {"bucket_name": call.bucket or "", "location": site.region, "project_id": GCP_PROJECT}
    return {"labels": labels, "type": "gcs_bucket"}


def _status(exchange: Exchange) -> dict[str, Any]:
    if not exchange.failed:
        return {}
    message = exchange.error or ("no answer was seen" if exchange.status == 0 else f"status {exchange.status}")
    return {"code": _CODES.get(exchange.status, 2), "message": message}
