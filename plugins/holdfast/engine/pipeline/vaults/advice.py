"""What a vault's description lacks of what makes it safe: it works without, and somebody should know."""

from __future__ import annotations

from holdfast.engine.config import Topology
from holdfast.engine.config.domains import domain_of


def advice_on(topology: Topology, vault: str) -> list[str]:
    """Whether two clouds besides the vault's own witness it; one sentence for each thing that lacks.

    Raises:
        UnknownName: there is no such vault.
    """
    settings = topology.vault(vault)
    if not settings.witnesses:
        none = (
            f"vault {vault} has no witness: that somebody puts it back to an older state would show nowhere. "
            "Name two sites in other clouds as its `witnesses`"
        )
        return [none]
    own = domain_of(topology, settings.site)
    inside = [site for site in settings.witnesses if domain_of(topology, site) == own]
    outside: dict[str, list[str]] = {}
    for site in settings.witnesses:
        if site not in inside:
            outside.setdefault(str(domain_of(topology, site)), []).append(site)
    said = [
        f"witness {site} of vault {vault} lies in the vault's own cloud ({own}): whoever takes that over can put both "
        "back to an older state"
        for site in inside
    ]
    if len(outside) == 1:
        [(cloud, sites)] = outside.items()
        said.append(
            f"vault {vault} is witnessed in one other cloud only ({cloud}: {', '.join(sites)}): while that is away or "
            "taken over, nobody can tell a rollback. Two are wanted"
        )
    return said
