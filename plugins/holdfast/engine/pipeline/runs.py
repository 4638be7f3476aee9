"""Which run is meant, whose it is, and where its checkpoints may lie."""

from __future__ import annotations

import re
from dataclasses import dataclass

from holdfast.engine.checkpoint.format import run_root
from holdfast.engine.config import Topology
from holdfast.engine.objectstore.interface import ObjectStore
from holdfast.engine.recovery.subjects import base_run, current_run
from holdfast.errors import ConfigError

#: It is a folder's name, a part of keys and of job names.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9.-]{1,99}")


class NoRun(ConfigError):
    """There is no such run, or it cannot be told whose it is."""


@dataclass(frozen=True, slots=True)
class RunOf:
    """A run with the group and the job it belongs to."""

    group: str
    job: str
    run: str


def require_job(topology: Topology, group: str, job: str) -> None:
    """Raises UnknownName: no such group or job; ConfigError: the job is not the group's."""
    settings = topology.group(group)
    topology.job(job)
    if job not in settings.training:
        raise ConfigError(
            "the group does not have this training job",
            where=f"group {group}",
            expected=f"one of {', '.join(settings.training) or '(none)'}",
            found=job,
        )


def check_run_name(group: str, job: str, run: str) -> None:
    """Refuse a name that a failover would not find its run by.

    Raises:
        ConfigError: it is neither ``<group>-<job>`` nor ``<group>-<job>.<anything>``, or has other characters.
    """
    base = base_run(group, job)
    if not _NAME.fullmatch(run) or (run != base and not run.startswith(f"{base}.")):
        raise ConfigError(
            "a run of this job cannot have this name",
            where=f"run {run!r}",
            expected=f"{base} or {base}.<name>, of letters, digits, `.` and `-`, at most 100",
            found=repr(run),
            fix="A failover plan finds a job's runs by how their names begin",
        )


def owner_of(topology: Topology, run: str, *, group: str | None = None) -> RunOf:
    """Whose run this is, by its name: ``<group>-<job>`` or ``<group>-<job>.<time>``; else by the only job there is.

    Args:
        group: look among this group's jobs only.

    Raises:
        UnknownName: there is no such group.
        NoRun: no job, or more than one, can have it.
    """
    groups = [group] if group is not None else sorted(topology.groups)
    jobs = [(name, job) for name in groups for job in topology.group(name).training]
    named = [
        (name, job) for name, job in jobs if run == base_run(name, job) or run.startswith(base_run(name, job) + ".")
    ]
    # `desk-eu` may be a group beside `desk`: the longer name is the one that was meant.
    found = sorted(named, key=lambda one: len(base_run(*one)))[-1:] or (jobs if len(jobs) == 1 else [])
    if not found:
        raise NoRun(
            "it cannot be told which job this run is of",
            where=f"run {run}",
            expected=f"a name that begins with one of {', '.join(base_run(*one) for one in jobs) or '(no jobs)'}",
            found=repr(run),
            fix="Name its group with --group, or give the run's whole name",
        )
    return RunOf(*found[0], run)


def require_run(store: ObjectStore, group: str, job: str, run: str | None, *, epoch: int) -> str:
    """The run that is named, else the job's newest of this epoch in this bucket. Raises NoRun: there is none."""
    chosen = run or current_run(store, group, job, epoch=epoch)
    if chosen is None:
        raise NoRun(
            "the job has no run yet",
            where=f"{store.name}: {base_run(group, job)}",
            expected="a run's records",
            found="nothing",
            fix=f"Start one with `holdfast train run {group} {job}`",
        )
    return chosen


def is_known(store: ObjectStore, run: str) -> bool:
    """Whether this bucket holds anything of a run: a checkpoint, a fork record, a heartbeat."""
    return next(iter(store.list(f"{run_root(run)}/")), None) is not None


def sites_of(topology: Topology, group: str, *, active: str, site: str | None = None) -> tuple[str, ...]:
    """The sites that hold checkpoints of a group, the active one first; or the one that is named.

    Raises:
        ConfigError: the named site holds none.
    """
    settings = topology.group(group).sites
    holding = tuple(dict.fromkeys((active, settings.active, *settings.standby)))
    if site is None:
        return holding
    topology.site(site)
    if site not in holding:
        raise ConfigError(
            "the group keeps no checkpoints at this site",
            where=f"group {group}",
            expected=f"one of {', '.join(holding)}",
            found=site,
        )
    return (site,)
