"""What of a group must be promoted: its datasets, its models and the runs that train them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime

from pydantic import ValidationError

from holdfast.engine.checkpoint.errors import CheckpointUnreadable
from holdfast.engine.checkpoint.format import manifest_prefix, parse_manifest, parse_manifest_key, run_root
from holdfast.engine.compute.attempts import AttemptRecord
from holdfast.engine.config import Topology
from holdfast.engine.objectstore.errors import ObjectNotFound
from holdfast.engine.objectstore.interface import ObjectInfo, ObjectStore
from holdfast.engine.snapshot import iter_selectable
from holdfast.engine.snapshot.lineage import fork_key

_STARTED = re.compile(r"\.(\d{8}T\d{12})")
_ATTEMPT = re.compile(r"\d{6,}\.\d{6,}\.json")


def snapshot_subjects(topology: Topology, group: str) -> tuple[str, ...]:
    """The names of everything that is published as snapshots: datasets first, then models, each once."""
    settings = topology.group(group)
    served = [topology.service(name).model for name in settings.services]
    trained = [topology.job(name).model for name in settings.training]
    return tuple(dict.fromkeys((*settings.datasets, *served, *trained)))


def served_models(topology: Topology, group: str) -> tuple[str, ...]:
    """The models without which a service of the group cannot answer."""
    return tuple(dict.fromkeys(topology.service(name).model for name in topology.group(group).services))


def published_runs(store: ObjectStore, model: str, *, epoch: int) -> frozenset[str]:
    """The runs that ended well: those whose model may be selected here in an epoch. Raises EpochUnknownHere."""
    found = (record.labels.get("run") for record in iter_selectable(store, model, epoch=epoch))
    return frozenset(run for run in found if run is not None)


def base_run(group: str, job: str) -> str:
    """The name of a job's first run; later ones are ``<base>.<UTC time>``."""
    return f"{group}-{job}"


def job_of_run(topology: Topology, run: str) -> tuple[str, str] | None:
    """The group and the job a run is of, ``None`` when it is none of the topology's.

    The job with the longest name that fits: ``desk-fit-two`` is the first run of ``fit-two``, not one of ``fit``.
    """
    found = [(name, job) for name, group in topology.groups.items() for job in group.training]
    fitting = [one for one in found if run.startswith(base_run(*one))]
    return max(fitting, key=lambda one: len(base_run(*one)), default=None)


def run_name(group: str, job: str, started_at: datetime) -> str:
    """The name of a run by when it was asked for. Whoever asks for one at the same time means the same run."""
    return f"{base_run(group, job)}.{started_at.astimezone(UTC):%Y%m%dT%H%M%S%f}"


@dataclass(frozen=True, slots=True)
class RunTraces:
    """A run of a job and what one bucket lists of it.

    Args:
        objects: of its folder, by key; of its blobs one.
        began_at: when it was asked for, as its own name, its first attempt or its first checkpoint says.
    """

    run: str
    objects: tuple[ObjectInfo, ...]
    began_at: datetime

    @property
    def ran(self) -> bool:
        """Whether there is more than attempts: an attempt alone may not have run."""
        return any(not info.key.startswith(f"{run_root(self.run)}/attempts/") for info in self.objects)

    @property
    def has_checkpoints(self) -> bool:
        return any(parse_manifest_key(info.key) is not None for info in self.objects)

    def attempts_in(self, epoch: int) -> bool:
        """Whether an attempt was asked for in an epoch."""
        prefix = f"{run_root(self.run)}/attempts/{epoch:06d}."
        return any(info.key.startswith(prefix) for info in self.objects)

    def goes_on_in(self, epoch: int) -> bool:
        """Whether it has a place in an epoch: in the first every run has, later those that were forked."""
        key = fork_key(run_root(self.run), epoch)
        return epoch == 1 or any(info.key == key for info in self.objects)


def traces_of(store: ObjectStore, group: str, job: str) -> tuple[RunTraces, ...]:
    """Everything this bucket lists of a job's runs, in the order in which they were begun, whatever they are called."""
    base = base_run(group, job)
    found: dict[str, list[ObjectInfo]] = {}
    for info in store.list(f"runs/{base}"):
        _, name, *inside = info.key.split("/")
        if name != base and not name.startswith(f"{base}."):
            continue
        objects = found.setdefault(name, [])
        blobs = f"{run_root(name)}/blobs/"
        if inside[:1] != ["blobs"] or not objects or not objects[-1].key.startswith(blobs):
            objects.append(info)
    traces = [RunTraces(name, tuple(objects), _began(store, base, name, objects)) for name, objects in found.items()]
    return tuple(sorted(traces, key=lambda one: (one.began_at, one.run)))


def runs_of(store: ObjectStore, group: str, job: str) -> tuple[str, ...]:
    """The job's runs this bucket holds anything of, oldest first. An attempt alone is nothing: it may not have run."""
    return tuple(one.run for one in traces_of(store, group, job) if one.ran)


def of_epoch(runs: Iterable[RunTraces], epoch: int) -> tuple[RunTraces, ...]:
    """The runs an epoch goes on with, oldest first.

    A run that only a lost site had is none of a later epoch: when that site is back, it does not stand in front of the
    run that was resumed elsewhere. Where the bucket knows no run of the epoch at all it is behind, and the newest is
    returned; an election then refuses.
    """
    ran = tuple(one for one in runs if one.ran)
    return tuple(one for one in ran if one.goes_on_in(epoch)) or ran[-1:]


def current_run(store: ObjectStore, group: str, job: str, *, epoch: int) -> str | None:
    """The newest run of a job in this bucket that an epoch goes on with, see `of_epoch`; the one begun last."""
    known = of_epoch(traces_of(store, group, job), epoch)
    return known[-1].run if known else None


def _began(store: ObjectStore, base: str, run: str, objects: list[ObjectInfo]) -> datetime:
    """When a run was asked for: its name says it where nobody gave it another one, else its oldest record."""
    named = _STARTED.fullmatch(run.removeprefix(base))
    if named is not None:
        try:
            return datetime.strptime(named[1], "%Y%m%dT%H%M%S%f").replace(tzinfo=UTC)
        except ValueError:
            pass  # digits that are no time
    attempts, checkpoints = f"{run_root(run)}/attempts/", manifest_prefix(run)
    keys = sorted(info.key for info in objects)
    asked = [key for key in keys if key.startswith(attempts) and _ATTEMPT.fullmatch(key.removeprefix(attempts))]
    saved = [key for key in keys if key.startswith(checkpoints) and parse_manifest_key(key) is not None]
    try:
        if asked:
            return AttemptRecord.model_validate_json(store.get(asked[0])).written_at
        if saved:
            return parse_manifest(store.get(saved[0]), where=saved[0]).saved_at
    except (CheckpointUnreadable, ObjectNotFound, ValidationError):
        pass  # what is wrong with it is told where it is wanted
    return min(info.modified_at for info in objects)
