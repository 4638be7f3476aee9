"""What of a group must be promoted: its datasets, its models and the runs that train them."""

from __future__ import annotations

from datetime import UTC, datetime

from holdfast.engine.config import Topology
from holdfast.engine.objectstore.interface import ObjectStore


def snapshot_subjects(topology: Topology, group: str) -> tuple[str, ...]:
    """The names of everything that is published as snapshots: datasets first, then models, each once."""
    settings = topology.group(group)
    served = [topology.service(name).model for name in settings.services]
    trained = [topology.job(name).model for name in settings.training]
    return tuple(dict.fromkeys((*settings.datasets, *served, *trained)))


def served_models(topology: Topology, group: str) -> tuple[str, ...]:
    """The models without which a service of the group cannot answer."""
    return tuple(dict.fromkeys(topology.service(name).model for name in topology.group(group).services))


def base_run(group: str, job: str) -> str:
    """The name of a job's first run; later ones are ``<base>.<UTC time>``."""
    return f"{group}-{job}"


def run_name(group: str, job: str, started_at: datetime) -> str:
    """The name of a run by when it was asked for: a job's newest run is the last in order of names."""
    return f"{base_run(group, job)}.{started_at.astimezone(UTC):%Y%m%dT%H%M%S%f}"


def runs_of(store: ObjectStore, group: str, job: str) -> tuple[str, ...]:
    """The job's runs this bucket holds anything of, oldest first."""
    base = base_run(group, job)
    names = {info.key.split("/")[1] for info in store.list(f"runs/{base}")}
    return tuple(sorted(name for name in names if name == base or name.startswith(f"{base}.")))


def current_run(store: ObjectStore, group: str, job: str) -> str | None:
    """The newest run of a job in this bucket: names carry their start, so the last in order is the newest."""
    runs = runs_of(store, group, job)
    return runs[-1] if runs else None
