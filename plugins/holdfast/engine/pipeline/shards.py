"""A sync spread over many workers: plan, shards in the active site's bucket, each copied anywhere; then one sync that
publishes.

What passes between workers is a shard's number. The objects lie in the bucket, and what landed is in the journals of
the targets, so a worker that died and one that runs twice do no harm.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from uuid import uuid4

from holdfast.engine.objectstore.interface import ObjectStore
from holdfast.engine.pipeline.active import require_active
from holdfast.engine.pipeline.engines import require_one_way
from holdfast.engine.pipeline.planning import plan
from holdfast.engine.pipeline.replicas import allowed_sites, datasets_of, require_site
from holdfast.engine.replication.errors import ReplicationError
from holdfast.engine.replication.plan import PlanDamaged, Shard, load_shard, split, store_shards
from holdfast.engine.replication.shard import ShardReport, copy_shard
from holdfast.engine.replication.sync import SyncProgress, SyncSite
from holdfast.engine.replication.target import Run
from holdfast.engine.runtime import Runtime
from holdfast.errors import HoldfastError


class PlanOutdated(ReplicationError):
    """The active site changed since the plan was made. Nothing was copied; make a new plan."""


class ShardNotCopied(HoldfastError):
    """Some target did not get the shard; the others did."""

    transient = True


@dataclass(frozen=True)
class ShardedPlan:
    """A stored plan and its shards, by what a worker needs to know of each."""

    plan_id: str
    source_site: str
    copy_objects: int
    copy_bytes: int
    shards: tuple[ShardHandle, ...]


@dataclass(frozen=True)
class ShardHandle:
    """A shard in the bucket."""

    plan_id: str
    number: int
    objects: int
    size_bytes: int


def plan_shards(runtime: Runtime, group: str, dataset: str, *, shards: int) -> ShardedPlan:
    """Plan a sync, store the plan, and share its copies out.

    Small metadata that is to be copied last is in no shard: the sync that publishes brings it.

    Args:
        shards: at most so many.

    Raises: as `planning.plan`; ConfigError for a dataset with writers at two sites.
    """
    require_one_way(runtime, group, dataset)
    made = plan(runtime, group, dataset).plan
    parts = [one for one in split(made.copies, shards=shards) if not one.barrier]
    if parts:
        store_shards(runtime.store(made.source_site, flow=group), dataset, made.plan_id, parts)
    handles = tuple(ShardHandle(made.plan_id, one.number, one.objects, one.size_bytes) for one in parts)
    return ShardedPlan(made.plan_id, made.source_site, made.copy_objects, made.copy_bytes, handles)


def copy(
    runtime: Runtime,
    group: str,
    dataset: str,
    *,
    plan_id: str,
    number: int,
    sites: Sequence[str] | None = None,
    progress: Callable[[SyncProgress], None] | None = None,
    stop: threading.Event | None = None,
    threads: int = 16,
) -> ShardReport:
    """Copy a shard to the group's other sites, or some of them; nothing is published.

    Args:
        sites: by default every site of the group that may hold the dataset.

    Raises:
        UnknownName, ConfigError, GroupNotInitialised, NoMajority, PlanDamaged: nothing was copied.
        PlanOutdated: another site is active by now.
        ShardNotCopied: some target failed; copy it again.
        Interrupted: ``stop`` was set.
    """
    datasets_of(runtime, group, dataset)
    require_one_way(runtime, group, dataset)
    topology, settings = runtime.topology, runtime.topology.dataset(dataset)
    state = require_active(runtime, group)
    wanted = allowed_sites(runtime, group, dataset) if sites is None else sites
    targets = [require_site(runtime, group, site) for site in wanted if site != state.active_site]
    source = runtime.store(state.active_site, flow=group)
    shard = _load(source, dataset, plan_id, number, state.active_site)
    report = copy_shard(
        Run(
            source=SyncSite(state.active_site, source),
            dataset=dataset,
            folder=settings.path,
            policy=settings.sync,
            epoch=state.epoch,
            residency=topology.residency_of(dataset),
            sites=topology.sites,
            clock=runtime.clock,
            run_id=uuid4().hex,
        ),
        [SyncSite(site, runtime.store(site, flow=group)) for site in targets],
        shard.rows,
        progress=progress,
        threads=threads,
        stop=stop,
    )
    failed = [f"{one.site}: {one.error or one.refused}" for one in report.targets if not one.ok]
    if failed:
        raise ShardNotCopied(
            "a shard did not get everywhere",
            where=f"{dataset}, shard {number} of plan {plan_id}",
            expected=f"its {report.objects} objects at {', '.join(targets)}",
            found="; ".join(failed),
            fix="Copy it again: what is noted is not copied twice",
        )
    return report


def _load(source: ObjectStore, dataset: str, plan_id: str, number: int, active_site: str) -> Shard:
    try:
        return load_shard(source, dataset, plan_id, number)
    except PlanDamaged as error:
        raise PlanOutdated(
            "the active site does not have this plan",
            where=f"{dataset} at {active_site}",
            expected=f"the shards of plan {plan_id}",
            found=error.what,
            fix="Make a new plan: the active site may have changed since",
        ) from error
