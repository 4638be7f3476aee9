"""Replication of a dataset: all in one task, or planned, copied in mapped shards, and published."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from airflow.sdk import Asset, TriggerRule
from airflow.sdk.exceptions import AirflowRuntimeError

from holdfast.errors import ConfigError
from holdfast.operators.assets import dataset_asset, new_snapshot
from holdfast.operators.base import HoldfastOperator

if TYPE_CHECKING:
    from airflow.sdk import Context

    from holdfast.engine.replication.reports import MergeReport
    from holdfast.engine.replication.sync import SyncReport
    from holdfast.engine.runtime import Runtime

#: Where the newest announced snapshot is remembered, in the asset's state store.
WATERMARK = "newest_snapshot"
#: Airflow maps a task over 1,024 items at most unless it is told otherwise.
MOST_SHARDS = 1000
#: What of an attribute's losses goes into an XCom; the report of `holdfast sync run --json` has all.
_LOSSES = 5
#: Of what a merge overruled; all of it is in the log and in ``merge.json`` beside the snapshot.
_OVERRULED = 20


class DatasetOperator(HoldfastOperator):
    """Base of what is done with one dataset of a group, in the site where that is done.

    Its asset is an inlet, for the watermark in the asset's state store. The outlet is an alias: an event is added when
    there is a new snapshot, so what is scheduled on the asset does not run because nothing has changed.

    :param group: the protection group. (templated)
    :param dataset: the dataset. (templated)
    :param site: the site whose workers run it: the task goes to the queue the topology names for it, if it does.
    """

    template_fields: Sequence[str] = ("group", "dataset")

    def __init__(self, *, group: str, dataset: str, site: str | None = None, **kwargs: Any) -> None:
        topology_path = kwargs.get("topology_path")
        if site is not None and "queue" not in kwargs and (queue := queue_of(site, topology_path)) is not None:
            kwargs["queue"] = queue
        super().__init__(**kwargs)
        self.group = group
        self.dataset = dataset
        self.site = site
        self.check_names(group=group, dataset=dataset, site=site)

    def announce(self, context: Context, *, snapshot_id: str, **facts: Any) -> bool:
        """Add an asset event for a snapshot that was not announced before, with its id in the extra; whether it was.

        The watermark is a cache: without it, or on a retry, a snapshot is announced once more rather than never.
        """
        asset, alias = dataset_asset(self.dataset), new_snapshot(self.dataset)
        if alias not in self.outlets:
            return False
        known = _Watermark(self, context, asset)
        if context["ti"].try_number <= 1 and known.get() == snapshot_id:
            self.log.info("Snapshot %s of %s was announced before", snapshot_id, self.dataset)
            return False
        context["outlet_events"][alias].add(asset, extra={"snapshot_id": snapshot_id, "group": self.group, **facts})
        known.set(snapshot_id)
        return True


class ReplicateDatasetOperator(DatasetOperator):
    """Takes what lies at the active site, checks it against its suite, publishes it there and at every other site.

    Data that breaks its suite is not published anywhere. A site that fails does not stop the others; the task fails
    after them, and a retry goes on with what is missing. For sets that one worker can carry; for larger ones see
    `PlanReplicationOperator`.

    :returns: ``snapshot_id``, ``changed``, ``announced``, ``source``, ``read_bytes``, ``seconds``, ``targets``,
        ``deletes``; of a dataset with writers at two sites also ``merge``.
    """

    def __init__(self, *, group: str, dataset: str, **kwargs: Any) -> None:
        announce_new_snapshots(dataset, kwargs)
        super().__init__(group=group, dataset=dataset, **kwargs)

    def act(self, context: Context, runtime: Runtime) -> dict[str, Any]:
        from holdfast.engine.pipeline import sync
        from holdfast.engine.pipeline.telling import ProgressLines

        progress = ProgressLines(self.log.info, self.dataset, runtime.clock, every_seconds=30.0)
        report = sync.run(runtime, self.group, self.dataset, progress=progress)
        for one in report.merge.overruled if report.merge is not None else ():
            self.log.warning(
                "Overruled: %r, %s at %s (%s stays at %s)", one.path, one.what, one.site, one.digest, one.key
            )
        sync.require_synced(runtime, self.group, self.dataset, report)
        there = report.snapshot_id
        announced = there is not None and self.announce(context, snapshot_id=there, source=report.source_site)
        return {**_summary(report), "announced": announced, "deletes": self._clean(runtime)}

    def _clean(self, runtime: Runtime) -> list[dict[str, Any]]:
        """Deletes, where the policy has them on. One that waits for a person is no failure: the data is there."""
        from holdfast.engine.pipeline import removals

        cleaned = removals.clean(runtime, self.group, self.dataset)
        for one in cleaned:
            if one.refused is not None:
                self.log.warning("Nothing was removed at %s: %s", one.site, one.refused)
        return [asdict(one) for one in cleaned]


class PublishSnapshotOperator(ReplicateDatasetOperator):
    """Ends a sync that was copied in shards: proves that what was read stood together, checks it, publishes it.

    What the shards brought is noted at the targets and is not copied again; what they did not bring, because it moved
    or belongs last, is brought here. It runs also when there was nothing to copy.
    """

    def __init__(self, *, group: str, dataset: str, **kwargs: Any) -> None:
        kwargs.setdefault("trigger_rule", TriggerRule.NONE_FAILED)
        super().__init__(group=group, dataset=dataset, **kwargs)


class PlanReplicationOperator(DatasetOperator):
    """Plans a dataset's replication and stores the plan and its shards at the active site.

    :param shards: at most so many. What goes through XCom is a few numbers for each.
    :returns: one mapping per shard, for ``CopyShardOperator.partial(…).expand(shard=…)``: ``plan_id``, ``number``,
        ``objects``, ``size_bytes``.
    """

    def __init__(self, *, group: str, dataset: str, shards: int = 16, **kwargs: Any) -> None:
        super().__init__(group=group, dataset=dataset, **kwargs)
        self.shards = shards
        self.check_positive(shards=shards)
        if shards > MOST_SHARDS:
            raise ConfigError(
                "too many shards",
                where=f"task {self.task_id}: shards",
                expected=f"at most {MOST_SHARDS}: Airflow maps over no more",
                found=str(shards),
            )

    def act(self, _context: Context, runtime: Runtime) -> list[dict[str, Any]]:
        from holdfast.engine.pipeline import shards

        made = shards.plan_shards(runtime, self.group, self.dataset, shards=self.shards)
        self.log.info(
            "Plan %s: %d objects, %d bytes from %s, in %d shards",
            made.plan_id,
            made.copy_objects,
            made.copy_bytes,
            made.source_site,
            len(made.shards),
        )
        return [asdict(one) for one in made.shards]


class CopyShardOperator(DatasetOperator):
    """Copies one shard of a plan to the other sites; nothing is published. A retry copies what is not noted yet.

    With ``site`` it copies to that site alone and runs on its workers; without, to every site in one read.

    :param shard: one item of what `PlanReplicationOperator` returned. (templated)
    :returns: ``objects``, ``known_objects``, ``moved_objects``, ``read_bytes``, ``seconds``, ``targets``.
    """

    template_fields: Sequence[str] = ("group", "dataset", "shard")

    def __init__(self, *, group: str, dataset: str, shard: Mapping[str, Any], **kwargs: Any) -> None:
        super().__init__(group=group, dataset=dataset, **kwargs)
        self.shard = shard

    def act(self, _context: Context, runtime: Runtime) -> dict[str, Any]:
        from holdfast.engine.pipeline import shards
        from holdfast.engine.pipeline.telling import ProgressLines

        number = int(self.shard["number"])
        progress = ProgressLines(self.log.info, f"{self.dataset} shard {number}", runtime.clock, every_seconds=30.0)
        report = shards.copy(
            runtime,
            self.group,
            self.dataset,
            plan_id=str(self.shard["plan_id"]),
            number=number,
            sites=None if self.site is None else [self.site],
            progress=progress,
        )
        return {**asdict(report), "targets": [asdict(one) for one in report.targets]}


def announce_new_snapshots(dataset: str, arguments: dict[str, Any]) -> None:
    """Give a task's arguments the dataset's asset as inlet and its alias as outlet, unless they say otherwise.

    A templated name has none: Airflow wants to know a task's assets when it parses the DAG.
    """
    if "{{" not in dataset:
        arguments.setdefault("inlets", [dataset_asset(dataset)])
        arguments.setdefault("outlets", [new_snapshot(dataset)])


def queue_of(site: str, topology_path: str | None = None) -> str | None:
    """The queue of the workers that stand in a site; ``None``: the topology names none, any worker will do."""
    from pathlib import Path

    from holdfast.hooks.topology import topology_outline

    settings = topology_outline(Path(topology_path) if topology_path else None).sites.get(site)
    return settings.compute.queue if settings is not None else None


def _summary(report: SyncReport) -> dict[str, Any]:
    merged = {} if report.merge is None else {"merge": _merge_summary(report.merge)}
    return {
        **merged,
        "snapshot_id": report.snapshot_id,
        "changed": report.record is not None,
        "source": report.source_site,
        "read_bytes": report.read_bytes,
        "seconds": round(report.seconds, 3),
        "targets": [
            {
                "site": one.site,
                "copied_objects": one.copied_objects,
                "copied_bytes": one.copied_bytes,
                "carried_objects": one.carried_objects,
                "verified_objects": one.verified_objects,
                "refused": one.refused,
                "losses": list(one.losses[:_LOSSES]),
            }
            for one in report.targets
        ],
    }


def _merge_summary(merge: MergeReport) -> dict[str, Any]:
    return {
        "peer": merge.peer,
        "winner": merge.winner,
        "from_active_objects": merge.from_active_objects,
        "from_peer_objects": merge.from_peer_objects,
        "removed_objects": merge.removed_objects,
        "overruled_objects": len(merge.overruled),
        "overruled": [asdict(one) for one in merge.overruled[:_OVERRULED]],
    }


class _Watermark:
    """The newest announced snapshot in the asset's state store; it answers ``None`` wherever there is none."""

    def __init__(self, task: HoldfastOperator, context: Context, asset: Asset) -> None:
        self._task = task
        self._stores: Any = context.get("asset_state_store")
        self._asset = asset

    def get(self) -> object:
        if self._stores is None:
            return None
        try:
            return self._stores[self._asset].get(WATERMARK)
        except (AirflowRuntimeError, KeyError) as error:
            self._task.log.info("No watermark of %s: %s", self._asset.name, error)
            return None

    def set(self, snapshot_id: str) -> None:
        if self._stores is None:
            return
        try:
            self._stores[self._asset].set(WATERMARK, snapshot_id)
        except (AirflowRuntimeError, KeyError) as error:
            self._task.log.info("The watermark of %s was not kept: %s", self._asset.name, error)
