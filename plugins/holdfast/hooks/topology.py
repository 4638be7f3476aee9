"""Where Airflow's side finds the topology, and the cheap view of it that DAG files read while they are parsed."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path

from holdfast.engine.config import Topology, load_topology
from holdfast.engine.config.load import TOPOLOGY_VARIABLE
from holdfast.errors import ConfigError

#: Taken for a variable that is not set while a DAG file is parsed: valid as text and as a number.
_PLACEHOLDER = "1"


def topology_file() -> Path:
    """``[holdfast] topology``, else ``$HOLDFAST_TOPOLOGY``, else ``include/holdfast.yaml`` beside the DAGs folder."""
    from airflow.sdk.configuration import conf

    configured = conf.get("holdfast", "topology", fallback="") or os.environ.get(TOPOLOGY_VARIABLE)
    if configured:
        return Path(configured).expanduser()
    dags = conf.get("core", "dags_folder", fallback="")
    beside = Path(dags).parent / "include" / "holdfast.yaml" if dags else None
    return beside if beside is not None and beside.exists() else Path("include/holdfast.yaml")


def topology_outline(path: Path | None = None) -> Topology:
    """Names and objectives for a DAG file: the topology, read once per change of its file.

    A DAG file is parsed by the dag-processor, which may lack the variables a worker has (ports, resolvers). They do
    not shape a DAG, so here an unset one is a placeholder; operators read the topology strictly when they run. A file
    that is missing or malformed is an error here already: Airflow shows it as the DAG's import error.

    Raises:
        ConfigError: the file cannot be read or is not valid.
    """
    file = path or topology_file()
    changed = file.stat().st_mtime_ns if file.exists() else 0
    return _outline(file, changed)


@lru_cache(maxsize=8)
def _outline(file: Path, _changed: int) -> Topology:
    return load_topology(file, _Lenient(os.environ))


def queue_of(topology: Topology, role: str, vault: str | None) -> str | None:
    """The queue of a task that needs one role's key of a vault; ``None``: the default queue.

    Args:
        vault: ``None``: it is a parameter, so any of them.

    Raises:
        ConfigError: any of them, and their queues differ: a task has one queue, whatever its parameters.
    """
    known = topology.vaults.values() if vault is None else [topology.vault(vault)]
    queues = {getattr(one.queues, role) for one in known}
    if len(queues) > 1:
        raise ConfigError(
            "a task whose vault is a parameter cannot be on the queue of each",
            where=f"{topology.path}: vaults.….queues.{role}",
            expected="one queue for all vaults, or a task for each vault",
            found=", ".join(sorted(str(queue) for queue in queues)),
        )
    return next(iter(queues), None)


def vaults_by_dag(topology: Topology) -> list[tuple[str, list[str]]]:
    """What follows a DAG's id, and the vaults its form offers: all, or, where their queues differ, a DAG for each."""
    names = sorted(topology.vaults)
    if len({topology.vaults[name].queues for name in names}) <= 1:
        return [("", names)]
    return [(f".{name}", [name]) for name in names]


class _Lenient(Mapping[str, str]):
    """An environment in which every variable is set."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ

    def __getitem__(self, name: str) -> str:
        return self._environ.get(name, _PLACEHOLDER)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str)

    def __iter__(self) -> Iterator[str]:
        return iter(self._environ)

    def __len__(self) -> int:
        return len(self._environ)
