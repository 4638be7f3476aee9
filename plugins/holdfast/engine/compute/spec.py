"""From the topology to a job: its command and the environment contract."""

from __future__ import annotations

import sys
from collections.abc import Mapping

from holdfast.engine.compute.interface import JobSpec
from holdfast.engine.compute.placement import ANYWHERE, check_placement, check_recovery
from holdfast.engine.config import Topology
from holdfast.engine.config.compute import Placement

#: What of a starter's own environment reaches the job.
PASSED_ON = ("HOLDFAST_STEPS", "HOLDFAST_STEP_SECONDS", "HOLDFAST_SELF_TEST", "HOLDFAST_PREEMPTION")


def job_spec(
    topology: Topology,
    group: str,
    job: str,
    *,
    run: str,
    epoch: int,
    site: str,
    dataset_snapshot: str | None,
    environ: Mapping[str, str],
    placement: Placement | None = None,
    after: int | None = None,
    resume_from: str | None = None,
) -> JobSpec:
    """The job of a group's run in an epoch at a site.

    Args:
        run: the run's name, by custom ``<group>-<job>`` and, for later runs, ``<group>-<job>.<time>``.
        dataset_snapshot: what to train on; None: the newest at the site.
        environ: ``HOLDFAST_STEPS`` and ``HOLDFAST_STEP_SECONDS`` in it stand instead of the job's own, e.g. for a
            short first model; ``HOLDFAST_SELF_TEST`` and ``HOLDFAST_PREEMPTION`` are handed on. Nothing else is taken.
        placement: which machine, see `next_placement`; None: as the site's compute says.
        after: see `JobSpec.after`.
        resume_from: the digest of the checkpoint elected for it; None: it starts anew, or that is not known.

    Raises:
        UnknownName: the topology has no such group, job or site; the job's recovery names no strategy.
        ConfigError: the placement is at another site, or the recovery strategy is no use for the job's placements.
    """
    topology.group(group)
    topology.site(site)
    settings = topology.job(job)
    check_recovery(topology, job)
    chosen = placement or ANYWHERE
    check_placement(chosen, site)
    contract = {
        "HOLDFAST_TOPOLOGY": str(topology.path),
        "HOLDFAST_SITE": site,
        "HOLDFAST_GROUP": group,
        "HOLDFAST_JOB": job,
        "HOLDFAST_RUN": run,
        "HOLDFAST_EPOCH": str(epoch),
    }
    if dataset_snapshot is not None:
        contract["HOLDFAST_DATASET_SNAPSHOT"] = dataset_snapshot
    if resume_from is not None:
        contract["HOLDFAST_RESUME_FROM"] = resume_from
    contract |= {name: environ[name] for name in PASSED_ON if environ.get(name)}
    command = _command(topology, settings.command)
    return JobSpec(run, epoch, site, command, contract, machine=chosen.machine, spot=chosen.spot, after=after)


def _command(topology: Topology, words: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(_word(topology, word) for word in words)


def _word(topology: Topology, word: str) -> str:
    if word == "{python}":
        return sys.executable
    if word.startswith(("-", "/")) or not topology.beside(word).is_file():
        return word
    return str(topology.beside(word))
