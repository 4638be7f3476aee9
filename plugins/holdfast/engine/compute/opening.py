"""Open a site's backend: the only place that knows which kind to take."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from holdfast.clock import Clock
from holdfast.engine.compute.process import ProcessBackend
from holdfast.engine.config import Site, Topology
from holdfast.engine.config.environment_file import read_environment_file
from holdfast.engine.config.load import expand_variables

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


def open_backend(
    site_name: str, site: Site, *, topology: Topology, environ: Mapping[str, str], clock: Clock
) -> ProcessBackend:
    """The backend of a site.

    A job's environment is what a process needs of its machine, then the site's environment file, which is the site's
    own view of the network and its credentials. Without such a file the job gets the connections the topology's sites
    name and the variables its text refers to, and nothing else of the parent.

    Raises:
        ConfigError: the environment file cannot be read, or a variable in its path is not set.
    """
    inherited = {name: environ[name] for name in _MACHINE if name in environ}
    at, file = f"sites.{site_name}.compute", site.compute.environment_file
    own = _needed_by(topology, environ) if file is None else read_environment_file(_path(file, environ, at))
    folder = _path(site.compute.state_folder or _STATE_FOLDER, environ, at)
    return ProcessBackend(site_name, folder, environ={**inherited, **own}, cwd=topology.path.parent, clock=clock)


def _needed_by(topology: Topology, environ: Mapping[str, str]) -> dict[str, str]:
    names = {f"AIRFLOW_CONN_{site.connection.upper()}" for site in topology.sites.values()}
    if topology.path.is_file():
        names |= set(re.findall(r"\$\{([A-Za-z_][A-Za-z0-9_]*)", topology.path.read_text(encoding="utf-8")))
    return {name: environ[name] for name in names if name in environ}


def _path(text: str, environ: Mapping[str, str], where: str) -> Path:
    expanded = expand_variables(text, environ, where=where)
    home = Path(environ["HOME"]) if "HOME" in environ else Path.home()
    return (home / expanded[2:] if expanded.startswith("~/") else Path(expanded)).absolute()
