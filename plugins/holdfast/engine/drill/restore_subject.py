"""What a restore drill is of, and where it may restore it: another cloud than the vault's and the source's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from holdfast.engine.config import Objectives, Topology
from holdfast.engine.config.domains import domain_of
from holdfast.engine.policy import DRILL_RESTORE, ResidencyRefused, check_hop, residency_for
from holdfast.engine.recovery.subjects import snapshot_subjects
from holdfast.engine.vault.backups import Backup
from holdfast.engine.vault.vault import Vault
from holdfast.errors import Refused, UnknownName


class NoPlaceForDrill(Refused):
    """No site is in another cloud than the vault's and the source's and may hold the data; nothing was restored."""


@dataclass(frozen=True)
class Subject:
    """A dataset or model of a group."""

    name: str
    kind: Literal["dataset", "model"]
    group: str
    objectives: Objectives
    #: A dataset's suite of expectations.
    suite: Path | None


def find_subject(topology: Topology, name: str, group: str | None = None) -> Subject:
    """A dataset or model by its name.

    Args:
        group: which group's; by default the first that has it.

    Raises:
        UnknownName: no group has it.
    """
    groups = [group] if group is not None else sorted(topology.groups)
    for one in groups:
        if name not in snapshot_subjects(topology, one):
            continue
        dataset = topology.datasets.get(name)
        suite = topology.beside(dataset.expectations) if dataset is not None and dataset.expectations else None
        kind: Literal["dataset", "model"] = "model" if dataset is None else "dataset"
        return Subject(name, kind, one, topology.group(one).objectives, suite)
    known = sorted({subject for one in groups for subject in snapshot_subjects(topology, one)})
    raise UnknownName(
        "no group has such a dataset or model",
        where=str(topology.path),
        expected=f"one of {', '.join(known) or '(none defined)'}",
        found=repr(name),
    )


def choose_target(
    topology: Topology, subject: Subject, *, vault_site: str, source_site: str, wanted: str | None
) -> str:
    """The site a drill restores at.

    Args:
        wanted: this one, if it may be; by default the first that may, the group's own first.

    Raises:
        NoPlaceForDrill: none may.
        UnknownName: there is no such site.
    """
    topology.site(vault_site)
    taken = {domain_of(topology, site) for site in (vault_site, source_site)}
    own = topology.group(subject.group).sites.all()
    candidates = [wanted] if wanted is not None else [*own, *(s for s in sorted(topology.sites) if s not in own)]
    residency = residency_for(topology, subject.name)
    refused = []
    for site in candidates:
        topology.site(site)
        if domain_of(topology, site) in taken:
            refused.append(f"{site}: in the same cloud as the vault or the source")
            continue
        try:
            check_hop(subject.name, residency, site, topology.sites, intent=DRILL_RESTORE, source=vault_site)
        except ResidencyRefused as error:
            refused.append(f"{site}: {error.what}, {error.found}")
            continue
        return site
    raise NoPlaceForDrill(
        "there is no place for this drill",
        where=f"{subject.name}: vault at {vault_site}, source {source_site}",
        expected="a site in another cloud than both, where the data may lie",
        found="; ".join(refused),
        fix="Add a site in a third cloud to the topology, or mirror the vault to another one",
    )


def place_of(topology: Topology, site: str | None) -> dict[str, Any]:
    """A site with its cloud and jurisdiction; what the topology does not have is ``None``."""
    found = topology.sites.get(site) if site is not None else None
    return {
        "site": site,
        "cloud": None if site is None else domain_of(topology, site),
        "jurisdiction": None if found is None else found.jurisdiction,
    }


def about_vault(vault: Vault | None, backup: Backup | None) -> dict[str, Any]:
    """A vault with the entry of a backup in its log, and what its witnesses say of it; ``None``: not opened."""
    if vault is None:
        return {"name": None, "repository": None}
    entry = vault.history.backups.get(backup.sequence) if backup is not None else None
    return {
        "name": vault.name,
        "repository": vault.history.repository.hex(),
        "entry": entry.sequence if entry is not None else None,
        "entry_digest": entry.digest if entry is not None else None,
        "newest_entry": vault.history.tip.sequence,
        "alarm": str(vault.alarm) if vault.alarm is not None else None,
        "witnesses": [
            {"site": one.site, "sequence": one.sequence, "digest": one.digest, "unknown": one.unknown}
            for one in vault.witnessed
        ],
    }


def another_cloud(target: Mapping[str, Any], *others: Mapping[str, Any]) -> bool | None:
    """Whether a place is in none of the others' clouds; ``None``: one of them is not known."""
    clouds = [one.get("cloud") for one in (target, *others)]
    return None if None in clouds else clouds[0] not in clouds[1:]
