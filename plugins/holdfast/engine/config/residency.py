"""Where bytes may lie, decided from the topology before one of them moves."""

from __future__ import annotations

from collections.abc import Mapping

from holdfast.engine.config.models import Residency, Site, Topology
from holdfast.errors import Refused, UnknownName


class ResidencyRefused(Refused):
    """The bytes may not lie in the target's jurisdiction. Nothing was copied."""


def residency_for(topology: Topology, dataset: str) -> Residency | None:
    """The residency class of a dataset, or of the data a model is trained on. ``None``: may lie anywhere.

    Raises:
        UnknownName: neither a dataset nor a model of the topology.
    """
    if dataset in topology.datasets:
        return topology.residency_of(dataset)
    classes = [topology.residency_of(job.dataset) for job in topology.training.values() if job.model == dataset]
    if not classes:
        if any(service.model == dataset for service in topology.services.values()):
            return None
        known = {*topology.datasets, *(job.model for job in topology.training.values())}
        raise UnknownName(
            "neither a dataset nor a model of the topology",
            where=str(topology.path),
            expected=f"one of {', '.join(sorted(known)) or '(none defined)'}",
            found=repr(dataset),
        )
    bound = [found for found in classes if found is not None]
    if not bound:
        return None
    # Trained on several datasets: only where every one of them may lie.
    common = [place for place in bound[0].jurisdictions if all(place in other.jurisdictions for other in bound)]
    return bound[0].model_copy(update={"jurisdictions": tuple(common)})


def check_hop(dataset: str, residency: Residency | None, target: str, sites: Mapping[str, Site]) -> None:
    """Whether bytes of this class may be written at a site. Raises ResidencyRefused."""
    if residency is None:
        return
    site = sites.get(target)
    jurisdiction = site.jurisdiction if site is not None else None
    if jurisdiction not in residency.jurisdictions:
        raise ResidencyRefused(
            "the data may not lie in this site's jurisdiction; nothing was copied",
            where=f"{dataset} → {target}",
            expected=f"one of {', '.join(residency.jurisdictions) or '(no jurisdiction at all)'}",
            found=jurisdiction or "a site the topology does not have",
            fix="Choose another target, or have the dataset's residency class changed by who answers for it",
        )
