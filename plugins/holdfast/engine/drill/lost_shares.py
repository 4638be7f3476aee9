"""Which shares a drill does without: those of the cloud whose loss it plays.

A vault of shares lies in the source's cloud too, and maybe in all there are, so no place is in another cloud than all
of it. What it promises is that any one cloud may be lost; so one is taken for lost, and nothing is read from it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from holdfast.engine.config import Topology
from holdfast.engine.config.domains import domain_of
from holdfast.engine.drill.restore_journal import Claim
from holdfast.engine.drill.restore_subject import another_cloud, place_of
from holdfast.engine.vault.erasure import ErasureStore
from holdfast.engine.vault.vault import Vault


def lost_sites(topology: Topology, share_sites: Sequence[str], source_site: str) -> tuple[str, ...]:
    """The sites of the shares in the source's cloud; where it has none, those in the first share's."""
    source = domain_of(topology, source_site)
    there = [site for site in share_sites if domain_of(topology, site) == source]
    lost = source if there else domain_of(topology, share_sites[0])
    return tuple(site for site in share_sites if domain_of(topology, site) == lost)


def without(vault: Vault, sites: Sequence[str]) -> Vault:
    """The same vault, from which nothing of these sites is read any more."""
    return replace(vault, store=vault.store.without(sites)) if isinstance(vault.store, ErasureStore) else vault


def about_shares(topology: Topology, share_sites: Sequence[str], lost: Sequence[str] | None) -> dict[str, Any]:
    """For the journal: where the shares lie, and which were taken for lost; ``None``: that was not decided."""
    if not share_sites:
        return {}
    places = [place_of(topology, site) for site in share_sites]
    return {"shares": places, "left_out": None if lost is None else list(lost)}


def restored_without(vault: Mapping[str, Any], source: Mapping[str, Any], target: Mapping[str, Any]) -> Claim:
    """That it was restored to another cloud than the lost one and the source's, from what lies elsewhere."""
    left_out = vault["left_out"]
    lost = [place for place in vault["shares"] if place["site"] in (left_out or ())]
    cloud = lost[0]["cloud"] if lost else None
    return Claim(
        name="another_cloud",
        title="Restored into another cloud, with one taken for lost",
        objective=f"not {source.get('cloud') or 'unknown'}, and nothing from or to {cloud or 'unknown'}",
        measured=f"{target.get('cloud') or 'unknown'}, without the shares at {', '.join(left_out or ()) or 'unknown'}",
        holds=another_cloud(target, source, *lost) if lost else None,
    )
