"""Which sites a dataset is written to by others than Holdfast."""

from __future__ import annotations

from holdfast.engine.config.models import Topology


def written_sites(topology: Topology, group: str, dataset: str) -> tuple[str, ...]:
    """The sites where what lies in the dataset's folder may be somebody's new data, whichever of them is active.

    There only a merge may publish: whoever else did would take what was written since for leftovers of the older
    state. None for a `one-way` dataset, whose only writers are at the active site.
    """
    policy, sites = topology.dataset(dataset).sync, topology.group(group).sites
    if policy.direction == "one-way":
        return ()
    return policy.writers or tuple(site for site in sites.all() if site not in sites.witness)


def is_written(topology: Topology, group: str, subject: str, site: str) -> bool:
    """Whether a dataset is written to at a site by others than Holdfast; models never are."""
    return subject in topology.datasets and site in written_sites(topology, group, subject)
