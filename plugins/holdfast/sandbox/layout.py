"""What a topology asks of the sandbox, and where its files and ports lie.

The topology is read raw here: its ``${…}`` name variables that only exist once the sandbox has chosen its ports.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from holdfast.errors import ConfigError, UnknownName

STATE_VARIABLE = "HOLDFAST_STATE"
TOPOLOGY_VARIABLE = "HOLDFAST_TOPOLOGY"
CLOUDS = ("aws", "gcp", "azure")
GCP_PROJECT = "holdfast-sandbox"
ZONE, ZONE_DNS_NAME = "holdfast-sandbox", "holdfast.test."


@dataclass(frozen=True, slots=True)
class SandboxSite:
    """What the sandbox needs to know of a site."""

    name: str
    cloud: str
    region: str
    bucket: str
    connection: str

    @property
    def variable(self) -> str:
        """The name as part of an environment variable."""
        return self.name.upper().replace("-", "_")


@dataclass(frozen=True, slots=True)
class World:
    """The sites a sandbox emulates.

    Args:
        dns_site: the one whose cloud hosts the traffic records.
        dns_connections: the connections that lead there.
        serving: the sites some protection group names; only these have a service to run.
        ledger: the origin of the audit ledger, if there is one.
    """

    topology: Path
    sites: tuple[SandboxSite, ...]
    dns_site: str | None
    dns_connections: tuple[str, ...]
    serving: frozenset[str]
    ledger: str | None = None

    def site(self, name: str) -> SandboxSite:
        """The site of this name. Raises UnknownName."""
        for site in self.sites:
            if site.name == name:
                return site
        raise UnknownName(
            "the sandbox has no such site",
            where=str(self.topology),
            expected=f"one of {', '.join(s.name for s in self.sites)}",
            found=repr(name),
        )

    def others(self, name: str) -> tuple[SandboxSite, ...]:
        return tuple(site for site in self.sites if site.name != name)


class Paths:
    """Everything the sandbox writes, all under one folder."""

    def __init__(self, state: Path) -> None:
        self.state = state
        self.env = state / "env"
        self.logs = state / "logs"
        self.root = state / "sandbox"
        self.lock = self.root / "lock"
        self.sandbox = self.root / "sandbox.json"
        self.parts = self.root / "parts.json"
        self.keeper = self.root / "keeper.json"
        self.run = self.root / "run"
        self.proxies = self.root / "proxies"
        self.data = self.root / "data"
        self.zones = self.data / "cloud-dns.json"

    def log(self, part: str) -> Path:
        return self.logs / f"{part}.log"

    def mode(self, site: str) -> Path:
        return self.proxies / f"{site}.mode.json"

    def proxy(self, site: str) -> Path:
        return self.proxies / f"{site}.json"


def default_state(environ: Mapping[str, str] = os.environ) -> Path:
    """The state folder: ``$HOLDFAST_STATE``, else ``~/.holdfast``."""
    return Path(environ.get(STATE_VARIABLE) or "~/.holdfast").expanduser().resolve()


def find_topology(
    given: Path | str | None, *, saved: str | None = None, environ: Mapping[str, str] = os.environ
) -> Path:
    """The topology file: as given, else ``$HOLDFAST_TOPOLOGY``, else the saved one, else ``include/holdfast.yaml``.

    The last is looked for in the current folder, then beside the source.
    """
    named = given or environ.get(TOPOLOGY_VARIABLE) or saved
    if named:
        return Path(named).expanduser().resolve()
    here = Path("include/holdfast.yaml")
    beside = Path(__file__).resolve().parents[3] / here
    return (here if here.exists() or not beside.exists() else beside).resolve()


def read_world(file: Path) -> World:
    """Read sites, buckets and connections from a topology.

    Raises:
        ConfigError: the file cannot be read, or asks for what the sandbox does not have.
    """
    document = _read(file)
    sites = tuple(_site(file, str(name), body) for name, body in _mapping(document, "sites", file).items())
    if not sites:
        raise ConfigError("no sites to emulate", where=f"{file}: sites", expected="at least one", found="none")
    connections = [site.connection for site in sites]
    for connection in connections:
        if connections.count(connection) > 1:
            raise ConfigError(
                "two sites share one connection",
                where=f"{file}: sites",
                expected="a connection per site, each emulated cloud has its own address",
                found=repr(connection),
            )
    dns_site, dns_connections = _dns(document, file, sites)
    ledger = _mapping(document, "audit", file).get("origin")
    return World(file, sites, dns_site, dns_connections, _serving(document, file), ledger)


def _read(file: Path) -> dict[str, Any]:
    try:
        document = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            "the topology cannot be read",
            where=str(file),
            expected="a readable UTF-8 file",
            found=str(error),
            fix=f"Name it with {TOPOLOGY_VARIABLE} or --topology",
        ) from None
    except yaml.YAMLError as error:
        raise ConfigError("the topology is no YAML", where=str(file), found=" ".join(str(error).split())) from None
    if not isinstance(document, dict):
        raise ConfigError("the topology is not a mapping", where=str(file), found=type(document).__name__)
    return document


def _mapping(document: dict[str, Any], key: str, file: Path) -> dict[str, Any]:
    value = document.get(key) or {}
    if not isinstance(value, dict):
        raise ConfigError(
            "not a mapping", where=f"{file}: {key}", expected="names and their settings", found=type(value).__name__
        )
    return value


def _site(file: Path, name: str, body: Any) -> SandboxSite:
    where = f"{file}: sites.{name}"
    if not isinstance(body, dict):
        raise ConfigError("not a mapping", where=where, expected="a site", found=type(body).__name__)
    for field in ("cloud", "region", "bucket", "connection"):
        if not isinstance(body.get(field), str) or "${" in body[field]:
            raise ConfigError(
                "the sandbox needs a plain value here",
                where=f"{where}.{field}",
                expected="a text",
                found=repr(body.get(field)),
            )
    if body["cloud"] not in CLOUDS:
        raise ConfigError(
            "the sandbox cannot emulate this cloud",
            where=f"{where}.cloud",
            expected=f"one of {', '.join(CLOUDS)}",
            found=repr(body["cloud"]),
        )
    return SandboxSite(name, body["cloud"], body["region"], body["bucket"], body["connection"])


def _dns(document: dict[str, Any], file: Path, sites: tuple[SandboxSite, ...]) -> tuple[str | None, tuple[str, ...]]:
    """The site that hosts Cloud DNS, and the connections that lead to it."""
    hosts: list[str] = []
    connections: list[str] = []
    for service in _mapping(document, "services", file).values():
        record = service.get("record") if isinstance(service, dict) else None
        if isinstance(record, dict) and record.get("provider") == "cloud-dns":
            hosts.append(str(record.get("site")))
            if isinstance(record.get("connection"), str):
                connections.append(record["connection"])
    hosts += [site.name for site in sites if site.cloud == "gcp"]
    known = {site.name for site in sites}
    return next((host for host in hosts if host in known), None), tuple(dict.fromkeys(connections))


def _serving(document: dict[str, Any], file: Path) -> frozenset[str]:
    """The sites that groups name, in whatever role."""
    found: set[str] = set()
    for group in _mapping(document, "groups", file).values():
        roles = group.get("sites") if isinstance(group, dict) else None
        for named in roles.values() if isinstance(roles, dict) else ():
            found.update([named] if isinstance(named, str) else named or ())
    return frozenset(found)
