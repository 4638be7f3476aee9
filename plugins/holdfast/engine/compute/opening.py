"""Open a site's backend: the only place that knows which kind to take."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from holdfast.clock import Clock
from holdfast.engine.compute.interface import TrainingBackend
from holdfast.engine.compute.process import ProcessBackend
from holdfast.engine.config import Connection, Site, Topology
from holdfast.engine.config.environment_file import read_environment_file
from holdfast.engine.config.load import expand_variables
from holdfast.engine.objectstore.interface import ObjectStore

#: What a process needs of its machine, whoever starts it.
_MACHINE = (
    "PATH",
    "HOME",
    "USER",
    "LOGNAME",
    "LANG",
    "LC_ALL",
    "TZ",
    "TMPDIR",
    "LD_LIBRARY_PATH",
    "PYTHONPATH",
    "VIRTUAL_ENV",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "HOLDFAST_STATE",
    "OMP_NUM_THREADS",
)
_STATE_FOLDER = "${HOLDFAST_STATE:-~/.holdfast}/jobs"


#: The leaf of each kind: a module of this package with ``open_backend(opening) -> TrainingBackend``.
_LEAVES = {
    "kubernetes": "kubernetes",
    "sagemaker": "sagemaker",
    "vertex": "vertex",
    "azure-container-instances": "azure_container_instances",
    "azure-batch": "azure_batch",
    "azure-ml": "azure_ml",
}


@dataclass(frozen=True)
class Opening:
    """What a backend of another machine is made of.

    Args:
        site_name, site: where it is.
        environ: what every job gets beneath its own environment: the topology's connections and variables, or the
            site's environment file.
        topology: whose file the jobs get the text of.
        store: opens the site's bucket, where heartbeats and claims lie.
        connection: the compute service's connection.
        client: the service's SDK client as an Airflow hook made it; None: the leaf makes one from the connection.
        holder: who claims attempts.
        clock: for waiting.
    """

    site_name: str
    site: Site
    environ: Mapping[str, str]
    topology: Topology
    store: Callable[[], ObjectStore]
    connection: Callable[[], Connection]
    client: Callable[[], Any] | None
    holder: str
    clock: Clock


def open_backend(
    site_name: str,
    site: Site,
    *,
    topology: Topology,
    environ: Mapping[str, str],
    clock: Clock,
    store: Callable[[], ObjectStore],
    connection: Callable[[], Connection],
    client: Callable[[], Any] | None = None,
    holder: str = "",
) -> TrainingBackend:
    """The backend of a site.

    A job's environment is what a process needs of its machine, then the site's environment file, which is the site's
    own view of the network and its credentials. Without such a file the job gets the connections the topology's sites
    name and the variables its text refers to, and nothing else of the parent. A job of another machine gets no
    variables of this one.

    Raises:
        ConfigError: the environment file cannot be read, or a variable in its path is not set.
    """
    at, file = f"sites.{site_name}.compute", site.compute.environment_file
    own = _needed_by(topology, environ) if file is None else read_environment_file(_path(file, environ, at))
    if site.compute.kind in _LEAVES:
        leaf = importlib.import_module(f"holdfast.engine.compute.{_LEAVES[site.compute.kind]}")
        opening = Opening(site_name, site, own, topology, store, connection, client, holder, clock)
        backend: TrainingBackend = leaf.open_backend(opening)
        return backend
    inherited = {name: environ[name] for name in _MACHINE if name in environ}
    folder = _path(site.compute.state_folder or _STATE_FOLDER, environ, at)
    return ProcessBackend(
        site_name, folder, environ={**inherited, **own}, cwd=topology.path.parent, clock=clock, store=store
    )


def _needed_by(topology: Topology, environ: Mapping[str, str]) -> dict[str, str]:
    names = {f"AIRFLOW_CONN_{site.connection.upper()}" for site in topology.sites.values()}
    if topology.path.is_file():
        names |= set(re.findall(r"\$\{([A-Za-z_][A-Za-z0-9_]*)", topology.path.read_text(encoding="utf-8")))
    return {name: environ[name] for name in names if name in environ}


def _path(text: str, environ: Mapping[str, str], where: str) -> Path:
    expanded = expand_variables(text, environ, where=where)
    home = Path(environ["HOME"]) if "HOME" in environ else Path.home()
    return (home / expanded[2:] if expanded.startswith("~/") else Path(expanded)).absolute()
