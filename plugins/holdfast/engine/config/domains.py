"""What is lost together with a site."""

from __future__ import annotations

from holdfast.engine.config.models import Cloud, Topology


def domain_of(topology: Topology, site: str) -> str | None:
    """What is lost together with a site: its cloud; a local folder is a place of its own. ``None``: it is not known."""
    found = topology.sites.get(site)
    if found is None:
        return None
    return f"{found.cloud}:{site}" if found.cloud is Cloud.LOCAL else str(found.cloud)
