"""What a vault's description lacks of what makes it safe: it works without, and somebody should know."""

from __future__ import annotations

from holdfast.engine.config import Topology, Vault
from holdfast.engine.config.domains import domain_of

#: Days between two runs of Airflow's presets.
_PRESETS = {"@hourly": 1 / 24, "@daily": 1.0, "@midnight": 1.0, "@weekly": 7.0, "@monthly": 31.0, "@yearly": 366.0}


def advice_on(topology: Topology, vault: str) -> list[str]:
    """Whether two clouds besides the vault's own witness it, and its locks are renewed before they end.

    Cron expressions other than Airflow's presets are not judged.

    Returns:
        One sentence for each thing that lacks.

    Raises:
        UnknownName: there is no such vault.
    """
    settings = topology.vault(vault)
    return [*_on_witnesses(topology, vault, settings), *_on_locks(vault, settings)]


def _on_locks(vault: str, settings: Vault) -> list[str]:
    if not settings.lock_days:
        return []
    shortest, schedule = min(settings.lock_days.values()), settings.verify_schedule
    if schedule is None:
        return [f"locks of vault {vault} end after {shortest} days, and no `verify_schedule` has them renewed before"]
    every = _PRESETS.get(schedule)
    if every is None or every <= shortest / 2:
        return []
    said = f"locks of vault {vault} end after {shortest} days and are renewed {schedule}, when less than half is left"
    return [f"{said}: some end before. Lengthen `lock_days`, or have `verify_schedule` run more often"]


def _on_witnesses(topology: Topology, vault: str, settings: Vault) -> list[str]:
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
