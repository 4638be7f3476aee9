"""The zones the emulated Cloud DNS holds: one JSON file, replaced in one step and flushed to disk on every change."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from holdfast.sandbox.files import read_json, write_json

_KEPT_CHANGES = 1000


@dataclass(frozen=True, slots=True)
class RecordSet:
    """All records of one name and type."""

    name: str
    type: str
    ttl: int
    rrdatas: tuple[str, ...]

    @property
    def key(self) -> tuple[str, str]:
        return self.name, self.type

    def as_dict(self) -> dict[str, Any]:
        return {
            "kind": "dns#resourceRecordSet",
            "name": self.name,
            "type": self.type,
            "ttl": self.ttl,
            "rrdatas": list(self.rrdatas),
            "signatureRrdatas": [],
        }

    @classmethod
    def from_dict(cls, body: dict[str, Any]) -> RecordSet:
        return cls(
            str(body["name"]).lower(),
            str(body["type"]).upper(),
            int(body.get("ttl", 0)),
            tuple(body.get("rrdatas", ())),
        )


@dataclass(frozen=True)
class Zone:
    """One managed zone: what its creator said of it, its records, its changes."""

    settings: dict[str, Any]
    records: dict[tuple[str, str], RecordSet] = field(default_factory=dict)
    changes: tuple[dict[str, Any], ...] = ()

    @property
    def dns_name(self) -> str:
        return str(self.settings["dnsName"])


Zones = dict[tuple[str, str], Zone]  # (project, zone name) → zone


class ZoneFile:
    """The zones on disk. The API writes them, the resolver only reads."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: tuple[int, int, int] | None = None
        self._zones: Zones = {}

    def read(self) -> Zones:
        """The zones as they are on disk now; a look at the file's times is enough to see that nothing changed."""
        try:
            stat = self._path.stat()
        except OSError:
            self._seen, self._zones = None, {}
            return self._zones
        seen = (stat.st_mtime_ns, stat.st_ino, stat.st_size)
        if seen != self._seen:
            self._zones = _decode(read_json(self._path) or {"zones": []})
            self._seen = seen
        return self._zones

    def write(self, zones: Zones) -> None:
        """Replace all zones, durably."""
        write_json(self._path, _encode(zones), durable=True)


def new_zone(settings: dict[str, Any], taken: Zones) -> Zone:
    """A zone with the records every zone has from the start."""
    number = next(n for n in itertools.count(1) if all(z.settings["id"] != str(n) for z in taken.values()))
    servers = [f"ns-cloud-a{n}.googledomains.com." for n in range(1, 5)]
    dns_name = settings["dnsName"]
    soa = f"{servers[0]} cloud-dns-hostmaster.google.com. 1 21600 3600 259200 300"
    records = [RecordSet(dns_name, "NS", 21600, tuple(servers)), RecordSet(dns_name, "SOA", 21600, (soa,))]
    full = {
        "kind": "dns#managedZone",
        "visibility": "public",
        "description": "",
        **settings,
        "id": str(number),
        "nameServers": servers,
        "creationTime": timestamp(),
    }
    return Zone(full, {record.key: record for record in records})


def apply_change(zone: Zone, additions: list[RecordSet], deletions: list[RecordSet]) -> tuple[Zone, dict[str, Any]]:
    """The zone after a change that was found valid, and the change as the API shows it."""
    records = dict(zone.records)
    for record in deletions:
        del records[record.key]
    for record in additions:
        records[record.key] = record
    number = int(zone.changes[-1]["id"]) + 1 if zone.changes else 1
    change = {
        "kind": "dns#change",
        "id": str(number),
        "startTime": timestamp(),
        "status": "done",
        "additions": [r.as_dict() for r in additions],
        "deletions": [r.as_dict() for r in deletions],
    }
    return replace(zone, records=records, changes=(*zone.changes, change)[-_KEPT_CHANGES:]), change


def timestamp() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _encode(zones: Zones) -> dict[str, Any]:
    return {
        "zones": [
            {
                "project": project,
                "settings": zone.settings,
                "changes": list(zone.changes),
                "records": [record.as_dict() for record in zone.records.values()],
            }
            for (project, _), zone in zones.items()
        ]
    }


def _decode(document: dict[str, Any]) -> Zones:
    zones = {}
    for one in document["zones"]:
        records = [RecordSet.from_dict(record) for record in one["records"]]
        zones[one["project"], one["settings"]["name"]] = Zone(
            one["settings"], {r.key: r for r in records}, tuple(one["changes"])
        )
    return zones
