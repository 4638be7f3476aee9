"""What of a group must be promoted: its datasets, its models and the runs that train them."""

from __future__ import annotations

from datetime import UTC, datetime

from holdfast.engine.checkpoint.format import run_root
from holdfast.engine.config import Topology
from holdfast.engine.objectstore.interface import ObjectStore
from holdfast.engine.snapshot.lineage import read_fork


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
    """The job's runs this bucket holds anything of, oldest first. An attempt alone is nothing: it may not have run."""
    base = base_run(group, job)
    parts = (info.key.split("/") for info in store.list(f"runs/{base}"))
    names = {key[1] for key in parts if key[2:3] != ["attempts"]}
    return tuple(sorted(name for name in names if name == base or name.startswith(f"{base}.")))


def current_run(store: ObjectStore, group: str, job: str, *, epoch: int) -> str | None:
    """The newest run of a job in this bucket that an epoch goes on with; names carry their start.

    A run that only a lost site had is none of a later epoch: when that site is back, it does not stand in front of the
    run that was resumed elsewhere. Where the bucket knows no run of the epoch at all it is behind, and the newest is
    returned; an election then refuses.
    """
    runs = runs_of(store, group, job)
    known = (run for run in reversed(runs) if epoch == 1 or read_fork(store, run_root(run), epoch) is not None)
    return next(known, runs[-1] if runs else None)
