"""From the topology to a job: its command and the environment contract."""

from __future__ import annotations

import sys
from collections.abc import Mapping

from holdfast.engine.compute.interface import JobSpec
from holdfast.engine.config import Topology


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
) -> JobSpec:
    """The job of a group's run in an epoch at a site.

    Args:
        run: the run's name, by custom ``<group>-<job>`` and, for later runs, ``<group>-<job>.<time>``.
        dataset_snapshot: what to train on; None: the newest at the site.
        environ: ``HOLDFAST_STEPS`` and ``HOLDFAST_STEP_SECONDS`` in it stand instead of the job's own, e.g. for a
            short first model. Nothing else is taken from it.

    Raises:
        UnknownName: the topology has no such group, job or site.
    """
    topology.group(group)
    topology.site(site)
    settings = topology.job(job)
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
    contract |= {name: environ[name] for name in ("HOLDFAST_STEPS", "HOLDFAST_STEP_SECONDS") if environ.get(name)}
    return JobSpec(run, epoch, site, _command(topology, settings.command), contract)


def _command(topology: Topology, words: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(_word(topology, word) for word in words)


def _word(topology: Topology, word: str) -> str:
    if word == "{python}":
        return sys.executable
    if word.startswith(("-", "/")) or not topology.beside(word).is_file():
        return word
    return str(topology.beside(word))
