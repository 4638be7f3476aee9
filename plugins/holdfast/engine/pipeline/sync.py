"""Bringing a dataset from a group's active site to all its others: checked, published whole, noted, resumable.

The command line, the operators and the DAGs all come through here. Which site is the source, and in which epoch, the
authority says each time.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime

from holdfast.engine.authority.interface import EpochState
from holdfast.engine.pipeline.active import require_active
from holdfast.engine.pipeline.draft import suite_of
from holdfast.engine.pipeline.engines import stage
from holdfast.engine.pipeline.feeding import Fed, account, keeping, look_by_feed
from holdfast.engine.pipeline.merging import merge
from holdfast.engine.pipeline.planning import note_rates
from holdfast.engine.pipeline.replicas import allowed_sites, datasets_of, role_of
from holdfast.engine.recovery.protection import note_complete
from holdfast.engine.replication import ResidencyRefused
from holdfast.engine.replication.errors import Interrupted
from holdfast.engine.replication.sync import SyncProgress, SyncReport, SyncSite, sync_dataset
from holdfast.engine.runtime import Runtime
from holdfast.errors import HoldfastError

Tell = Callable[[SyncProgress], None]
#: Objects in flight per run; the sites' own limits may allow fewer.
THREADS = 16


class SyncInterrupted(HoldfastError):
    """Somebody stopped the sync. What was copied stays, and the next run goes on from there."""

    exit_code = 130
    transient = True


class NotSynced(HoldfastError):
    """Some site could not be brought up to date; the others were."""

    transient = True


def run(
    runtime: Runtime,
    group: str,
    dataset: str,
    *,
    progress: Tell | None = None,
    stop: threading.Event | None = None,
    approve: str | None = None,
) -> SyncReport:
    """Take what lies at the active site now, check it, publish it there and bring it to every other site, verified.

    A site that fails or refuses is in the report and does not stop the others; `require_synced` makes it an error.
    Of a dataset with writers at two sites it is what both made of it (`merging`).

    Args:
        approve: lets a merge drop exactly the objects that a `MergeNeedsApproval` named.
        progress: told from the calling thread.
        stop: when set, the run ends soon, and raises.

    Raises:
        UnknownName, ConfigError, GroupNotInitialised, NoMajority: nothing was read.
        ExpectationsNotMet: the data breaks its suite; nothing was published anywhere.
        SyncInterrupted: ``stop`` was set.
        NoCommonSnapshot, MergeNeedsApproval: two written sites cannot be merged now; nothing was published.
        SnapshotError, StoreUnavailable: the source could not be read or written, or of two written sites one.
    """
    datasets_of(runtime, group, dataset)
    state = require_active(runtime, group)
    as_of = runtime.clock.now()  # before looking: what is written while it is copied is not covered
    try:
        if runtime.topology.dataset(dataset).sync.direction == "active-active":
            fed = None  # both folders are listed: a feed says nothing of the other site
            report = merge(
                runtime, group, dataset, state, approve=approve, progress=progress, stop=stop, threads=THREADS
            )
        else:
            stage(runtime, group, dataset, state, stop=stop)
            fed = look_by_feed(runtime, group, dataset, state.active_site)
            report = _sync(runtime, group, dataset, state, fed, keeping(fed, runtime, progress), stop)
    except Interrupted as error:
        raise _interrupted(group, dataset) from error
    if fed is not None and fed.seen.why_full is None:
        as_of = fed.seen.last_full_at  # what a feed missed, or has not told yet, shows in a full listing only
    account(runtime, fed, report.snapshot_id)
    note_rates(runtime, dataset, report)
    return _noted(runtime, group, dataset, state, report, as_of)


def require_synced(runtime: Runtime, group: str, dataset: str, report: SyncReport) -> SyncReport:
    """The report, when every site has what it may have. A witness that may not hold the data is as it should be.

    Raises:
        NotSynced: a site failed; run it again.
        ResidencyRefused: a site that may become active may not hold the data: no retry mends that.
    """
    failed = [f"{one.site}: {one.error}" for one in report.targets if one.error is not None]
    if failed:
        raise NotSynced(
            "some sites do not have the newest snapshot",
            where=f"{dataset} of {group}",
            expected="a verified replica at every site",
            found="; ".join(failed),
            fix="Bring the site back and run it again: what is there is not copied twice",
        )
    settings, allowed = runtime.topology.group(group), allowed_sites(runtime, group, dataset)
    refused = [
        f"{one.site}: {one.refused}"
        for one in report.targets
        if one.refused is not None
        and (one.site in allowed or role_of(settings, one.site, report.source_site) != "witness")
    ]
    if refused:
        raise ResidencyRefused(
            "a rule forbids that a site gets the data",
            where=f"{dataset} of {group}",
            expected="every site that may become active to hold it",
            found="; ".join(refused),
            fix="Read the refusal: a jurisdiction is the topology's matter, a newer epoch the authority's",
        )
    return report


def _sync(
    runtime: Runtime,
    group: str,
    dataset: str,
    state: EpochState,
    fed: Fed | None,
    progress: Tell | None,
    stop: threading.Event | None,
) -> SyncReport:
    topology = runtime.topology
    settings = topology.dataset(dataset)
    others = [site for site in topology.group(group).sites.all() if site != state.active_site]
    return sync_dataset(
        SyncSite(state.active_site, runtime.store(state.active_site, flow=group)),
        [SyncSite(site, runtime.store(site, flow=group)) for site in others],
        dataset=dataset,
        folder=settings.path,
        policy=settings.sync,
        epoch=state.epoch,
        residency=topology.residency_of(dataset),
        topology_sites=topology.sites,
        clock=runtime.clock,
        changes=None if fed is None else fed.seen.as_changes(),
        validate=suite_of(runtime, dataset, runtime.store(state.active_site, flow=group)),
        progress=progress,
        threads=THREADS,
        stop=stop,
    )


def _noted(
    runtime: Runtime, group: str, dataset: str, state: EpochState, report: SyncReport, as_of: datetime
) -> SyncReport:
    """The report, with a note at each site that is served since when it is complete.

    The note is what a plan knows of the lag when the source is gone; a site that cannot take it is not served.
    """
    targets = []
    for one in report.targets:
        if one.ok:
            try:
                note_complete(runtime, group, state, dataset, one.site, report.snapshot_id, as_of)
            except HoldfastError as error:
                one = replace(one, error=str(error))
        targets.append(one)
    return replace(report, targets=tuple(targets))


def _interrupted(group: str, dataset: str) -> SyncInterrupted:
    return SyncInterrupted(
        "the sync was stopped",
        where=f"{dataset} of {group}",
        fix=f"`holdfast sync run --group {group} --dataset {dataset}` goes on: what is copied is not copied twice, "
        "and nothing half done is visible",
    )
