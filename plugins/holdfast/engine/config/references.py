"""What must hold across the parts of a topology: names that refer, roles that differ, rules of safety."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from holdfast.engine.config.models import Group, Site, Topology


#: Folders of a site's bucket that something alive reads, or that a restore drill empties; nobody else's lie there.
TAKEN = (
    *("approvals", "authority", "costs", "data", "decisions", "evidence", "feeds", "health", "ledger"),
    *("plans", "receipts"),
    *(
        "ledger-subjects",
        "quality",
        "restore-drills",
        "snapshots",
        "sync-plans",
        "tombstones",
        "uploads",
        "vault",
        "vault-witness",
    ),
)


def broken_references(topology: Topology) -> list[str]:
    """Every broken reference, each as ``path: expected …; found …``."""
    return [
        *_groups(topology),
        *_runs(topology),
        *_datasets(topology),
        *_jobs(topology),
        *_services(topology),
        *_vaults(topology),
        *_airflow(topology),
        *_audit(topology),
        *_cost(topology),
    ]


def _missing(path: str, name: str, known: Iterable[str]) -> str:
    return f"{path}: expected one of {', '.join(sorted(known)) or '(none defined)'}; found {name!r}"


def _groups(topology: Topology) -> Iterator[str]:
    for name, group in topology.groups.items():
        at = f"groups.{name}"
        yield from (_missing(f"{at}.sites", s, topology.sites) for s in group.sites.all() if s not in topology.sites)
        for kind in ("datasets", "training", "services", "vaults"):
            known = getattr(topology, kind)
            yield from (_missing(f"{at}.{kind}", n, known) for n in getattr(group, kind) if n not in known)
        yield from _roles(at, group)


def _runs(topology: Topology) -> Iterator[str]:
    """A job's runs lie under ``<group>-<job>`` in the bucket, so no two pairs may read the same."""
    owners: dict[str, str] = {}
    for name, group in topology.groups.items():
        for job in group.training:
            base, here = f"{name}-{job}", f"job {job} of group {name}"
            other = owners.setdefault(base, here)
            if other != here:
                yield (
                    f"groups.{name}.training: expected a run name of its own for every job; found {base!r} for {here} "
                    f"and for {other}: rename one of them"
                )


def _roles(at: str, group: Group) -> Iterator[str]:
    sites = group.sites.all()
    repeated = sorted({s for s in sites if sites.count(s) > 1})
    if repeated:
        yield f"{at}.sites: expected each site in one role; found {', '.join(repeated)} more than once"
    elif group.decision == "automatic" and len(sites) < 3:
        yield (
            f"{at}.decision: expected at least three sites for `automatic` (two clouds without a witness cannot tell "
            f"a dead site from a cut network); found {len(sites)}"
        )
    elif len(sites) % 2 == 0:
        yield f"{at}.sites: expected an odd number of sites, the register needs a majority; found {len(sites)}"


def _datasets(topology: Topology) -> Iterator[str]:
    for name, dataset in topology.datasets.items():
        if dataset.residency is not None and dataset.residency not in topology.residency:
            yield _missing(f"datasets.{name}.residency", dataset.residency, topology.residency)
        if dataset.sync.winner is not None and dataset.sync.winner not in topology.sites:
            yield _missing(f"datasets.{name}.sync.winner", dataset.sync.winner, topology.sites)
        for site in dataset.sync.writers:
            if site not in topology.sites:
                yield _missing(f"datasets.{name}.sync.writers", site, topology.sites)
        for site in sorted(dataset.sync.storage_class.keys() - topology.sites.keys()):
            yield _missing(f"datasets.{name}.sync.storage_class", site, topology.sites)


def _jobs(topology: Topology) -> Iterator[str]:
    for name, job in topology.training.items():
        if job.dataset not in topology.datasets:
            yield _missing(f"training.{name}.dataset", job.dataset, topology.datasets)
        for number, placement in enumerate(job.placements):
            if placement.site is not None and placement.site not in topology.sites:
                yield _missing(f"training.{name}.placements.{number}.site", placement.site, topology.sites)


def _services(topology: Topology) -> Iterator[str]:
    for name, service in topology.services.items():
        at = f"services.{name}"
        if service.record.site not in topology.sites:
            yield _missing(f"{at}.record.site", service.record.site, topology.sites)
        for field, sites in (("endpoints", service.endpoints), ("record.values", service.record.values)):
            yield from (_missing(f"{at}.{field}", s, topology.sites) for s in sites if s not in topology.sites)
        for group_name, group in topology.groups.items():
            if name not in group.services:
                continue
            for site in (group.sites.active, *group.sites.standby):
                if site not in service.endpoints:
                    yield f"{at}.endpoints: expected a URL for {site} (in group {group_name}); found none"
                if site not in service.record.values:
                    yield f"{at}.record.values: expected a value for {site} (in group {group_name}); found none"


def _vaults(topology: Topology) -> Iterator[str]:
    places: dict[tuple[str, str], str] = {}
    for name, vault in topology.vaults.items():
        at = f"vaults.{name}"
        shares = vault.shares.sites if vault.shares is not None else ()
        named = {"site": (vault.site,), "mirrors": vault.mirrors, "shares": shares, "witnesses": vault.witnesses}
        for field, sites in named.items():
            yield from (_missing(f"{at}.{field}", site, topology.sites) for site in sites if site not in topology.sites)
        if vault.prefix is not None and vault.prefix.partition("/")[0] in {*TAKEN, "runs"} - {"vault"}:
            yield f"{at}.prefix: expected a folder that nothing else reads; found {vault.prefix!r}"
        for site in vault.places:
            other = places.setdefault((site, vault.prefix or f"vault/{name}"), name)
            if other != name:
                yield f"{at}.prefix: expected a folder of its own at {site}; found {vault.prefix!r}, which is {other}'s"


def _airflow(topology: Topology) -> Iterator[str]:
    readers = {text: name for name, vault in topology.vaults.items() for text in vault.keys.reader}
    for name, vault in topology.vaults.items():
        for text in vault.airflow_escrow:
            if text in readers:
                yield (
                    f"vaults.{name}.airflow_escrow: expected somebody who reads no vault, for each gets the "
                    f"database; found {text!r}, a reader of {readers[text]}"
                )
    recovery = topology.airflow.recovery
    if recovery is None:
        return
    if recovery.site not in topology.sites:
        yield _missing("airflow.recovery.site", recovery.site, topology.sites)
    if recovery.prefix.partition("/")[0] in (*TAKEN, "runs"):
        yield f"airflow.recovery.prefix: expected a folder that nothing else reads; found {recovery.prefix!r}"
    for name, vault in topology.vaults.items():
        own, other = f"{recovery.prefix}/", f"{vault.prefix or f'vault/{name}'}/"
        if recovery.site in vault.places and (own.startswith(other) or other.startswith(own)):
            yield (
                f"airflow.recovery.prefix: expected a folder of its own at {recovery.site}; found {recovery.prefix!r}, "
                f"which is vault {name}'s"
            )


def _audit(topology: Topology) -> Iterator[str]:
    audit = topology.audit
    if audit is None:
        return
    yield from (_missing("audit.sites", site, topology.sites) for site in audit.sites if site not in topology.sites)
    known = [topology.sites[site] for site in audit.sites if site in topology.sites]
    if len(set(audit.sites)) != len(audit.sites):
        yield "audit.sites: expected each site once"
    elif len(known) == len(audit.sites) and len({cloud_of(site) for site in known}) < 2:
        yield "audit.sites: expected sites of two clouds at least, so that the ledger outlives one"
    for name, source in audit.sources.items():
        sites = getattr(source, "sites", None) or (getattr(source, "site", None),)
        yield from (
            _missing(f"audit.sources.{name}", site, topology.sites)
            for site in sites
            if site is not None and site not in topology.sites
        )


def cloud_of(site: Site) -> str:
    """What is lost together: a cloud, or a folder."""
    return site.bucket if site.cloud == "local" else str(site.cloud)


def _cost(topology: Topology) -> Iterator[str]:
    cost = topology.cost
    if cost is None:
        return
    sites = {f"cost.exports.{name}.site": export.site for name, export in cost.exports.items()}
    sites |= {f"cost.apis.{name}": name for name in cost.apis}
    sites |= {f"cost.rules.{at}.site": rule.site for at, rule in enumerate(cost.rules) if rule.site is not None}
    sites |= {f"cost.locked.{at}.site": one.site for at, one in enumerate(cost.locked)}
    if cost.runs_at is not None:
        sites["cost.runs_at"] = cost.runs_at
    yield from (_missing(path, site, topology.sites) for path, site in sites.items() if site not in topology.sites)
    groups = {f"cost.rules.{at}.group": rule.group for at, rule in enumerate(cost.rules)}
    groups |= {f"cost.rto_options.{name}": name for name in cost.rto_options}
    yield from (_missing(path, name, topology.groups) for path, name in groups.items() if name not in topology.groups)
    places: dict[tuple[str, str], str] = {}
    for name, export in cost.exports.items():
        other = places.setdefault((export.bucket, export.prefix.strip("/")), name)
        if other != name:
            yield f"cost.exports.{name}.prefix: expected a folder of its own; found that of {other}, read twice"
