"""Whether a group's data, models and checkpoints may lie at a site at all: asked before any of it goes there."""

from __future__ import annotations

from collections.abc import Callable

from holdfast.engine.checkpoint import CheckpointManifest
from holdfast.engine.config import Topology
from holdfast.engine.policy import PROMOTE, RESUME, ResidencyRefused, check_hop, residency_for
from holdfast.engine.recovery.subjects import snapshot_subjects


def refusals(topology: Topology, group: str, site: str, *, preview: bool = False) -> tuple[ResidencyRefused, ...]:
    """Why parts of a group may not lie at a site: one refusal per dataset or model; empty when all of it may.

    A checkpoint is made from its job's dataset and is bound by that.

    Args:
        preview: nothing follows from it but a report, so the decision log does not have it.
    """
    trained_on = (topology.job(name).dataset for name in topology.group(group).training)
    found = []
    for subject in dict.fromkeys((*snapshot_subjects(topology, group), *trained_on)):
        try:
            residency = residency_for(topology, subject)
            check_hop(subject, residency, site, topology.sites, intent=PROMOTE, preview=preview)
        except ResidencyRefused as error:
            found.append(error)
    return tuple(found)


def require_allowed(topology: Topology, group: str, site: str) -> None:
    """Refuse to make a site active that may not hold all of the group. Raises ResidencyRefused."""
    found = refusals(topology, group, site)
    if found:
        raise ResidencyRefused(
            "this site may not hold all of the group, so it cannot become active",
            where=f"group {group} at {site}",
            expected="a site where everything of the group may lie",
            found="; ".join(f"{error.where}: expected {error.expected}, found {error.found}" for error in found),
            fix="Choose another target, or have the residency class changed by who answers for the data",
        )


def checkpoints_allowed(
    topology: Topology, job: str, site: str, *, preview: bool = False
) -> Callable[[CheckpointManifest], str | None]:
    """What an election at a site asks of each checkpoint of a job: None, or why it may not lie there.

    The class of a job's dataset is the topology's word of today: what was replicated before it was tightened lies
    there still, and is not resumed from.

    Args:
        preview: nothing follows from it but a report, so the decision log does not have it.
    """
    dataset = topology.job(job).dataset
    try:
        residency = residency_for(topology, dataset)
        check_hop(dataset, residency, site, topology.sites, intent=RESUME, preview=preview)
    except ResidencyRefused as error:
        reason = f"residency forbids it at {site}: expected {error.expected}, found {error.found}"
        return lambda _: reason
    return lambda _: None
