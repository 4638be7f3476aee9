"""The parts of a sandbox: which processes, with which command, on which port."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import sys
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

from holdfast.sandbox.azurite import ACCOUNT, find_azurite, find_node
from holdfast.sandbox.layout import GCP_PROJECT, ZONE, ZONE_DNS_NAME, Paths, SandboxSite, World
from holdfast.sandbox.ports import HOST
from holdfast.sandbox.trails.names import trail_buckets
from holdfast.sandbox.trails.recording import recorded_folder

#: Names the part a process is, and the sandbox it belongs to.
PART_VARIABLE = "HOLDFAST_SANDBOX_PART"
AGENT_MODULE = "holdfast.engine.agent.__main__"


@dataclass(frozen=True)
class Part:
    """One process the keeper keeps running.

    Args:
        name: ``store.<site>``, ``service.<site>``, ``proxy.<site>``, ``trails``, ``dns-api`` or
            ``resolver``.
        probe: an HTTP path that answers once the part serves; ``None``: a connection is enough.
        provision: what must exist in it once it serves: ``{"kind": …, "bucket": …}``.
        data: the folder or file that holds its state, wiped when it is destroyed.
        environ: variables on top of the keeper's.
        destroyed: it must not run, and its data must be gone.
        settings: what its settings file holds; when that changes the part is started anew.
    """

    name: str
    kind: str
    site: str | None
    argv: tuple[str, ...]
    port: int
    probe: str | None = None
    provision: dict[str, str] | None = None
    data: str | None = None
    environ: dict[str, str] = field(default_factory=dict)
    destroyed: bool = False
    settings: str = ""

    @cached_property
    def revision(self) -> str:
        """Differs when a running process of this part no longer is what is asked for."""
        text = json.dumps([self.argv, self.port, self.environ, self.settings], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, document: dict[str, Any]) -> Part:
        return cls(**{**document, "argv": tuple(document["argv"])})


def port_names(world: World) -> list[str]:
    """Every port a sandbox of this world needs, in a fixed order."""
    names = ["dns-api", "resolver", "trails"]
    for site in world.sites:
        names += [f"store.{site.name}", f"service.{site.name}", f"proxy.{site.name}"]
        names += [f"{site.name}/{listener}" for listener in listeners(world, site.name)]
    return names


def listeners(world: World, site: str) -> dict[str, str]:
    """The listeners of a site's proxy, and the port name each leads to."""
    found = {"store": f"store.{site}", "service": f"service.{site}"}
    if site == world.dns_site:
        found["dns"] = "dns-api"
    if world.site(site).cloud == "aws":
        found["trail"] = "trails"
    for other in world.others(site):
        found[f"egress:{other.name}:store"] = f"{other.name}/store"
        found[f"egress:{other.name}:service"] = f"{other.name}/service"
        if other.cloud == "aws":
            found[f"egress:{other.name}:trail"] = f"{other.name}/trail"
    if world.dns_site is not None:
        found["egress:dns"] = "dns-api" if site == world.dns_site else f"{world.dns_site}/dns"
    return found


def installed(module: str) -> bool:
    """Whether a part's program is there."""
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


def proxy_settings(world: World, paths: Paths, ports: dict[str, int], site: str) -> dict[str, Any]:
    """What a site's proxy is told at its start."""
    return {
        "site": site,
        "control": ports[f"proxy.{site}"],
        "mode_file": str(paths.mode(site)),
        "recorded": str(recorded_folder(paths.state, site)),
        "listeners": {
            name: {"port": ports[f"{site}/{name}"], "upstream": ports[upstream]}
            for name, upstream in listeners(world, site).items()
        },
    }


def build_parts(
    world: World, paths: Paths, ports: dict[str, int], *, agents: bool, environments: dict[str, dict[str, str]]
) -> list[Part]:
    """All parts of a sandbox.

    Args:
        environments: per vantage what a process there gets; the services run in their site's.

    Raises:
        MissingTool: an emulator is not installed.
    """
    parts = []
    for site in world.sites:
        parts.append(_store(site, paths, ports))
        parts.append(
            _python(
                f"proxy.{site.name}",
                "proxy",
                site.name,
                "holdfast.sandbox.proxy",
                (str(paths.proxy(site.name)),),
                ports,
                probe="/mode",
                settings=json.dumps(proxy_settings(world, paths, ports, site.name), sort_keys=True),
            )
        )
    parts.append(
        _python("trails", "trails", None, "holdfast.sandbox.trails", (str(paths.state),), ports, probe="/trails")
    )
    if world.dns_site is not None:
        parts += _dns(world, paths, ports)
    if agents:
        parts += [_agent(site, ports, environments[site.name]) for site in world.sites if site.name in world.serving]
    return parts


def _python(
    name: str, kind: str, site: str | None, module: str, arguments: tuple[str, ...], ports: dict[str, int], **more: Any
) -> Part:
    return Part(name, kind, site, (sys.executable, "-m", module, *arguments), ports[name], **more)


def _store(site: SandboxSite, paths: Paths, ports: dict[str, int]) -> Part:
    name = f"store.{site.name}"
    port, data = ports[name], paths.data / site.name
    provision = {
        "kind": site.cloud,
        "bucket": site.bucket,
        "trails": " ".join(trail_buckets(site.cloud, site.bucket)),
        "region": site.region,
        "project": GCP_PROJECT,
    }
    if site.cloud == "aws":
        return _python(
            name,
            "store",
            site.name,
            "holdfast.sandbox.moto_server",
            ("-H", HOST, "-p", str(port)),
            ports,
            probe="/moto-api/",
            provision=provision,
        )
    if site.cloud == "azure":
        argv = (
            find_node(),
            str(find_azurite()),
            "-l",
            str(data),
            "--skipApiVersionCheck",
            "--disableTelemetry",
            "--blobHost",
            HOST,
            "--blobPort",
            str(port),
            "--silent",
        )
        return Part(name, "store", site.name, argv, port, probe=f"/{ACCOUNT}", provision=provision, data=str(data))
    return _python(
        name,
        "store",
        site.name,
        "holdfast.sandbox.gcs",
        ("--host", HOST, "--port", str(port), "--data", str(data)),
        ports,
        probe="/storage/v1/b?project=" + GCP_PROJECT,
        provision=provision,
        data=str(data),
    )


def _dns(world: World, paths: Paths, ports: dict[str, int]) -> list[Part]:
    zone = {
        "kind": "cloud-dns",
        "project": GCP_PROJECT,
        "zone": ZONE,
        "dns_name": ZONE_DNS_NAME,
        "hosts": " ".join(site.name for site in world.sites),
    }
    return [
        _python(
            "dns-api",
            "dns",
            None,
            "holdfast.sandbox.cloud_dns_api",
            ("--host", HOST, "--port", str(ports["dns-api"]), "--data", str(paths.zones)),
            ports,
            probe=f"/dns/v1/projects/{GCP_PROJECT}/managedZones",
            provision=zone,
        ),
        _python(
            "resolver",
            "dns",
            None,
            "holdfast.sandbox.resolver",
            ("--host", HOST, "--port", str(ports["resolver"]), "--data", str(paths.zones)),
            ports,
        ),
    ]


def _agent(site: SandboxSite, ports: dict[str, int], environment: dict[str, str]) -> Part:
    name = f"service.{site.name}"
    # A service that answers 503 because it is fenced is up: any answer will do.
    return _python(
        name,
        "service",
        site.name,
        "holdfast.engine.agent",
        ("--site", site.name),
        ports,
        probe="/health",
        environ={**environment, "HOLDFAST_AGENT_PORT": str(ports[name])},
    )


def mark(paths: Paths, part: str) -> str:
    """What a part's process carries in `PART_VARIABLE`, so that it is found when its pid was not written down."""
    return f"{paths.root}:{part}"


def base_environment() -> dict[str, str]:
    """What every part inherits: this environment, without proxies that would catch loopback traffic."""
    environ = {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy")}
    return {**environ, "PYTHONUNBUFFERED": "1", "NO_PROXY": "*", "no_proxy": "*"}
