"""Which class of residency binds a dataset or a model; `holdfast.engine.policy` decides by it."""

from __future__ import annotations

from holdfast.engine.config.models import Residency, ResidencyScope, Topology
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
    named = dict.fromkeys(name for found in bound if found.scope is not None for name in found.scope.classes)
    listed = [found for found in bound if found.jurisdictions]
    common = (
        [place for place in listed[0].jurisdictions if all(place in o.jurisdictions for o in listed)] if listed else []
    )
    return bound[0].within(ResidencyScope(topology, dataset, tuple(named)), jurisdictions=tuple(common))
