"""An emulated Cloud DNS v1 API: managed zones, record sets and changes, durable on disk.

Routes, query parameters and bodies are judged by Google's own description of the API. What the API has and this does
not answers 501; nothing is quietly ignored. It resolves nothing itself: `holdfast.sandbox.resolver` does.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dns.exception
import dns.name
import dns.rdata
import dns.rdataclass
import dns.rdatatype
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from holdfast.sandbox.discovery import Discovery, Method
from holdfast.sandbox.zones import RecordSet, Zone, ZoneFile, apply_change, new_zone

_METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE"]
_PAGE = 100
#: Zone settings that mean something here; the API's others are for DNSSEC, private and forwarding zones.
_ZONE_SETTINGS = {"name", "dnsName", "description", "labels", "visibility", "kind"}


@dataclass
class ApiError(Exception):
    """An answer in Google's error form."""

    status: int
    reason: str
    message: str

    def response(self) -> JSONResponse:
        inner = {"domain": "global", "reason": self.reason, "message": self.message}
        return JSONResponse({"error": {"code": self.status, "message": self.message, "errors": [inner]}}, self.status)


@dataclass(frozen=True)
class Call:
    """One request, understood: its path and query parameters and its body."""

    path: dict[str, str]
    query: dict[str, str]
    body: dict[str, Any]


class CloudDns:
    """The API over a zone file."""

    def __init__(self, file: ZoneFile) -> None:
        self._file = file
        self._discovery = Discovery("dns.v1")
        self._handlers: dict[str, Callable[[Call], dict[str, Any] | None]] = {
            "dns.managedZones.create": self._create_zone,
            "dns.managedZones.get": lambda call: self._zone(call).settings,
            "dns.managedZones.list": self._list_zones,
            "dns.managedZones.delete": self._delete_zone,
            "dns.resourceRecordSets.list": self._list_records,
            "dns.resourceRecordSets.get": self._get_record,
            "dns.changes.create": self._create_change,
            "dns.changes.get": self._get_change,
            "dns.changes.list": self._list_changes,
        }

    async def handle(self, request: Request) -> Response:
        """Answer one request. Nothing is awaited between reading and writing the zones, so changes are atomic."""
        raw = await request.body()
        try:
            method, call = self._understand(request, raw)
            handler = self._handlers.get(method.id)
            if handler is None:
                raise ApiError(501, "notImplemented", f"{method.id} exists in Cloud DNS, but not in this emulator")
            answer = handler(call)
        except ApiError as error:
            return error.response()
        return Response(status_code=204) if answer is None else JSONResponse(answer)

    def _understand(self, request: Request, raw: bytes) -> tuple[Method, Call]:
        path = request.scope["raw_path"].decode("latin-1").partition("?")[0].lstrip("/")
        found = self._discovery.route(request.method, path)
        if found is None:
            raise ApiError(404, "notFound", f"{request.method} /{path} is no method of Cloud DNS v1")
        method, path_parameters = found
        query = dict(request.query_params)
        body: Any = {}
        if method.request is not None:
            try:
                body = json.loads(raw or b"{}")
            except ValueError:
                raise ApiError(400, "parseError", "Invalid JSON payload received.") from None
        problems = self._discovery.query_problems(method, query)
        if method.request is not None:
            problems += self._discovery.body_problems(method.request, body)
        if problems:
            raise ApiError(400, "badRequest", "\n".join(problems))
        return method, Call(path_parameters, query, body)

    # -- zones -------------------------------------------------------------------------------------------------------

    def _zone(self, call: Call) -> Zone:
        zone = self._file.read().get((call.path["project"], call.path["managedZone"]))
        if zone is None:
            name = call.path["managedZone"]
            raise ApiError(404, "notFound", f"The 'parameters.managedZone' resource named '{name}' does not exist.")
        return zone

    def _store(self, call: Call, name: str, zone: Zone | None) -> None:
        zones = dict(self._file.read())
        if zone is None:
            del zones[call.path["project"], name]
        else:
            zones[call.path["project"], name] = zone
        self._file.write(zones)

    def _create_zone(self, call: Call) -> dict[str, Any]:
        body, zones = call.body, self._file.read()
        for needed in ("name", "dnsName", "description"):
            if needed not in body:
                raise ApiError(
                    400, "required", f"The 'entity.managedZone.{needed}' parameter is required but was missing."
                )
        unknown = sorted(set(body) - _ZONE_SETTINGS)
        if unknown or body.get("visibility", "public") != "public":
            raise ApiError(
                501, "notImplemented", f"this emulator has plain public zones only, not {unknown or 'private'}"
            )
        if not body["dnsName"].endswith("."):
            raise ApiError(400, "invalid", f"Invalid value for 'entity.managedZone.dnsName': '{body['dnsName']}'")
        if (call.path["project"], body["name"]) in zones:
            raise ApiError(
                409, "alreadyExists", f"The resource 'entity.managedZone' named '{body['name']}' already exists"
            )
        zone = new_zone({**body, "dnsName": body["dnsName"].lower()}, zones)
        self._store(call, body["name"], zone)
        return zone.settings

    def _delete_zone(self, call: Call) -> None:
        zone = self._zone(call)
        if any(record.type not in ("NS", "SOA") for record in zone.records.values()):
            raise ApiError(
                400,
                "containerNotEmpty",
                f"The resource named '{call.path['managedZone']}' cannot be deleted "
                "because it contains one or more 'resource records'.",
            )
        self._store(call, call.path["managedZone"], None)

    def _list_zones(self, call: Call) -> dict[str, Any]:
        wanted = call.query.get("dnsName")
        zones = [
            zone.settings
            for (project, _), zone in sorted(self._file.read().items())
            if project == call.path["project"] and wanted in (None, zone.dns_name)
        ]
        return _page(call, zones, "managedZones", "dns#managedZonesListResponse")

    # -- records -----------------------------------------------------------------------------------------------------

    def _list_records(self, call: Call) -> dict[str, Any]:
        if "filter" in call.query:
            raise ApiError(501, "notImplemented", "this emulator has no filter")
        name, kind = call.query.get("name"), call.query.get("type")
        if kind is not None and name is None:
            raise ApiError(400, "required", "The 'parameters.name' parameter is required but was missing.")
        records = [
            record.as_dict()
            for _, record in sorted(self._zone(call).records.items())
            if name in (None, record.name) and kind in (None, record.type)
        ]
        return _page(call, records, "rrsets", "dns#resourceRecordSetsListResponse")

    def _get_record(self, call: Call) -> dict[str, Any]:
        key = call.path["name"].lower(), call.path["type"].upper()
        record = self._zone(call).records.get(key)
        if record is None:
            raise ApiError(
                404, "notFound", f"The 'parameters.name' resource named '{key[0]} ({key[1]})' does not exist."
            )
        return record.as_dict()

    # -- changes -----------------------------------------------------------------------------------------------------

    def _create_change(self, call: Call) -> dict[str, Any]:
        zone = self._zone(call)
        additions = _records(call.body, "additions", zone)
        deletions = _records(call.body, "deletions", zone)
        if not additions and not deletions:
            raise ApiError(400, "required", "The 'entity.change' parameter is required but was missing.")
        left = dict(zone.records)
        for index, record in enumerate(deletions):
            at = f"entity.change.deletions[{index}]"
            held = left.pop(record.key, None)
            if held is None:
                raise ApiError(
                    404, "notFound", f"The '{at}' resource named '{record.name} ({record.type})' does not exist."
                )
            if (held.ttl, sorted(held.rrdatas)) != (record.ttl, sorted(record.rrdatas)):
                raise ApiError(412, "conditionNotMet", f"Precondition not met for '{at}'")
        for index, record in enumerate(additions):
            at = f"entity.change.additions[{index}]"
            if record.key in left:
                raise ApiError(
                    409, "alreadyExists", f"The resource '{at}' named '{record.name} ({record.type})' already exists"
                )
            left[record.key] = record
        _check_whole(left, zone)
        changed, change = apply_change(zone, additions, deletions)
        self._store(call, call.path["managedZone"], changed)
        # Cloud DNS answers before its name servers know; a client that does not ask again would not notice here either.
        return {**change, "status": "pending"}

    def _get_change(self, call: Call) -> dict[str, Any]:
        for change in self._zone(call).changes:
            if change["id"] == call.path["changeId"]:
                return change
        raise ApiError(
            404, "notFound", f"The 'parameters.changeId' resource named '{call.path['changeId']}' does not exist."
        )

    def _list_changes(self, call: Call) -> dict[str, Any]:
        changes = list(self._zone(call).changes)
        if call.query.get("sortOrder", "descending") == "descending":
            changes.reverse()
        return _page(call, changes, "changes", "dns#changesListResponse")


def _records(body: dict[str, Any], kind: str, zone: Zone) -> list[RecordSet]:
    found = []
    for index, one in enumerate(body.get(kind, ())):
        at = f"entity.change.{kind}[{index}]"
        if "routingPolicy" in one:
            raise ApiError(501, "notImplemented", f"this emulator has no routing policies ('{at}.routingPolicy')")
        for needed in ("name", "type", "rrdatas"):
            if not one.get(needed):
                raise ApiError(400, "required", f"The '{at}.{needed}' parameter is required but was missing.")
        record = RecordSet.from_dict(one)
        if not record.name.endswith("." + zone.dns_name) and record.name != zone.dns_name:
            raise ApiError(400, "invalid", f"Invalid value for '{at}.name': '{record.name}'")
        if record.ttl < 0:
            raise ApiError(400, "invalid", f"Invalid value for '{at}.ttl': '{record.ttl}'")
        _check_values(record, at)
        found.append(record)
    return found


def _check_values(record: RecordSet, at: str) -> None:
    try:
        dns.name.from_text(record.name)
        kind = dns.rdatatype.from_text(record.type)
    except (dns.exception.DNSException, ValueError):
        raise ApiError(400, "invalid", f"Invalid value for '{at}': '{record.name} {record.type}'") from None
    for index, value in enumerate(record.rrdatas):
        try:
            dns.rdata.from_text(dns.rdataclass.IN, kind, value, relativize=False, origin=dns.name.root)
        except (dns.exception.DNSException, ValueError):
            raise ApiError(400, "invalid", f"Invalid value for '{at}.rrdata[{index}]': '{value}'") from None


def _check_whole(records: dict[tuple[str, str], RecordSet], zone: Zone) -> None:
    """What must hold of a zone after a change: its own records stay, and an alias stands alone (RFC 1034 §3.6.2)."""
    for kind in ("SOA", "NS"):
        if (zone.dns_name, kind) not in records:
            raise ApiError(
                400,
                "invalidZoneApex",
                f"The resource record set 'entity.change.deletions' is invalid because "
                f"the zone's {kind} record is needed at its apex.",
            )
    aliases = {name for name, kind in records if kind == "CNAME"}
    for name, kind in records:
        if kind != "CNAME" and name in aliases:
            raise ApiError(
                400,
                "cnameResourceRecordSetConflict",
                f"The resource record set '{name}' is invalid because "
                "the DNS name has a resource record set of type CNAME and of another type.",
            )


def _page(call: Call, items: list[dict[str, Any]], field: str, kind: str) -> dict[str, Any]:
    size = min(int(call.query.get("maxResults", _PAGE)), 1000)
    token = call.query.get("pageToken", "0")
    if size < 1 or not token.isdigit():
        raise ApiError(400, "invalid", "Invalid value for 'parameters.maxResults' or 'parameters.pageToken'")
    end = int(token) + size
    answer: dict[str, Any] = {"kind": kind, field: items[int(token) : end]}
    return {**answer, "nextPageToken": str(end)} if end < len(items) else answer


def application(data: Path) -> Starlette:
    """The API as an ASGI application over the zone file at ``data``."""
    api = CloudDns(ZoneFile(data))
    return Starlette(routes=[Route("/{path:path}", api.handle, methods=_METHODS)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--data", type=Path, required=True, help="the zone file")
    arguments = parser.parse_args()
    uvicorn.run(
        application(arguments.data),
        host=arguments.host,
        port=arguments.port,
        log_level="warning",
        timeout_graceful_shutdown=1,
    )


if __name__ == "__main__":
    main()
