"""A dataset with writers at two sites: which two, whether they can be merged, and the merge."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

from holdfast.engine.authority.interface import EpochState
from holdfast.engine.config.sync import Sync
from holdfast.engine.pipeline.draft import suite_of
from holdfast.engine.pipeline.replicas import allowed_sites, require_site
from holdfast.engine.replication.merge import MergeJob, merge_dataset
from holdfast.engine.replication.reports import SyncProgress, SyncReport, SyncSite
from holdfast.engine.runtime import Runtime
from holdfast.errors import ConfigError


def merge(
    runtime: Runtime,
    group: str,
    dataset: str,
    state: EpochState,
    *,
    approve: str | None,
    progress: Callable[[SyncProgress], None] | None,
    stop: threading.Event | None,
    threads: int,
) -> SyncReport:
    """Merge what was written at the active site and at the other one, and publish it at every site of the group.

    Args:
        approve: the ``approval_id`` of a `MergeNeedsApproval`, from a person who looked.

    Raises:
        ConfigError: no winner, or a rule that cannot be followed at two sites; nothing was read.
        others: as `merge_dataset`.
    """
    topology, settings = runtime.topology, runtime.topology.dataset(dataset)
    winner, peer = require_mergeable(runtime, group, dataset, state)
    both = (state.active_site, peer)
    others = [site for site in topology.group(group).sites.all() if site not in both]
    source, there, *rest = (SyncSite(site, runtime.store(site, flow=group)) for site in (*both, *others))
    return merge_dataset(
        MergeJob(
            source=source,
            peer=there,
            targets=rest,
            dataset=dataset,
            folder=settings.path,
            policy=settings.sync,
            winner=winner,
            epoch=state.epoch,
            residency=topology.residency_of(dataset),
            topology_sites=topology.sites,
            clock=runtime.clock,
            validate=suite_of(runtime, dataset, source.store),
            progress=progress,
            threads=threads,
            stop=stop,
            approve=approve,
        )
    )


def require_mergeable(runtime: Runtime, group: str, dataset: str, state: EpochState) -> tuple[str, str]:
    """The winner and the active site's peer. Raises ConfigError when a run cannot merge them."""
    policy = runtime.topology.dataset(dataset).sync
    where = f"datasets.{dataset}.sync"
    if policy.winner is None:
        raise ConfigError(
            "a dataset with writers at two sites is not merged unless a site is named that wins",
            where=f"{where}.direction",
            expected="`winner` beside `active-active`, or `one-way`",
            found=f"`active-active` without `winner` in group {group}",
            fix=f"`holdfast sync conflicts --group {group} --dataset {dataset}` says what both sites changed; then "
            "name the site that wins (`winner: SITE`), or let one site write (docs/reference/sync.md)",
        )
    peer = peer_of(runtime, group, dataset, state)
    if policy.winner not in (state.active_site, peer):
        raise ConfigError(
            "the winner is neither of the two sites that are written to",
            where=f"{where}.winner",
            expected=f"{state.active_site} or {peer}",
            found=policy.winner,
            fix="Name both sites in `writers`, and one of them as `winner`",
        )
    found = [*_incomparable(policy), *_unmergeable(policy)]
    if found:
        raise ConfigError(
            "writers at two sites cannot be merged under these rules",
            where=where,
            expected="engine `own`, table `none`, no `rename`, no filters by age",
            found=" and ".join(found),
            fix="Let one site write (`direction: one-way`), or drop these rules (docs/reference/sync.md)",
        )
    return policy.winner, peer


def peer_of(
    runtime: Runtime,
    group: str,
    dataset: str,
    state: EpochState,
    *,
    named: str | None = None,
    winner: str | None = None,
) -> str:
    """The other site that is written to: as named, by the policy, or the only other one that is no witness.

    Args:
        winner: instead of the policy's.

    Raises:
        ConfigError: it is not clear which, or the active site is none of those that are written to.
    """
    policy, sites = runtime.topology.dataset(dataset).sync, runtime.topology.group(group).sites
    if named is not None and require_site(runtime, group, named) != state.active_site:
        return named
    if named is None and policy.writers and state.active_site not in policy.writers:
        raise ConfigError(
            "the active site is neither of the two that are written to",
            where=f"datasets.{dataset}.sync.writers",
            expected=" or ".join(policy.writers),
            found=f"{state.active_site} in epoch {state.epoch} of group {group}",
            fix="Fail over to one of them, or name the two sites whose writers go on",
        )
    allowed = allowed_sites(runtime, group, dataset)
    found = [site for site in policy.writers or sites.all() if site in allowed and site != state.active_site]
    found = [site for site in found if site not in sites.witness]
    rule = winner or policy.winner
    if named is None and rule in found:
        return str(rule)
    if named is None and len(found) == 1:
        return found[0]
    raise ConfigError(
        "which other site is meant is not clear",
        where=f"{dataset} of {group}",
        expected=f"one of {', '.join(found) or '(none)'}",
        found=named or "none named",
        fix="Name it with --peer, or both in the dataset's `sync.writers`",
    )


def require_comparable(runtime: Runtime, dataset: str) -> None:
    """Raises ConfigError for rules by which a folder at another site cannot be read as the dataset."""
    found = list(_incomparable(runtime.topology.dataset(dataset).sync))
    if found:
        raise ConfigError(
            "two sites' folders cannot be compared under these rules",
            where=f"datasets.{dataset}.sync",
            expected="no `rename`, and no filters by age",
            found=" and ".join(found),
        )


def _incomparable(policy: Sync) -> Iterator[str]:
    if policy.rename:
        yield "rename"
    if (policy.filters.youngest_seconds, policy.filters.oldest_seconds) != (None, None):
        yield "filters by age"


def _unmergeable(policy: Sync) -> Iterator[str]:
    if policy.table != "none":
        yield f"table `{policy.table}`, whose two logs of commits cannot be merged by path"
    if policy.engine != "own":
        yield f"engine `{policy.engine}`"
