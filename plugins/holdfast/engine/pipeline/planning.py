"""What a sync of a group's dataset would do: looked at, reckoned, stored in the active site's bucket; nothing moves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from holdfast.engine.authority.interface import EpochState
from holdfast.engine.objectstore.errors import ObjectStoreError
from holdfast.engine.objectstore.interface import ObjectStore
from holdfast.engine.objectstore.listing import list_table
from holdfast.engine.pipeline.active import require_active
from holdfast.engine.pipeline.replicas import datasets_of
from holdfast.engine.replication.holding import cannot_hold
from holdfast.engine.replication.plan import Action, SyncPlan, plan_sync, rows_of, store_plan
from holdfast.engine.replication.reports import Refusal
from holdfast.engine.replication.source import refusals
from holdfast.engine.replication.sync import SyncReport
from holdfast.engine.runtime import Runtime
from holdfast.engine.snapshot import CommitRecord, EpochUnknownHere, latest, load_manifest
from holdfast.engine.snapshot.keys import data_folder
from holdfast.engine.snapshot.placement import locate_table
from holdfast.errors import HoldfastError

if TYPE_CHECKING:
    import pyarrow as pa

#: A run that moved less says nothing about how fast the way is.
_ENOUGH_BYTES, _ENOUGH_OBJECTS = 1_000_000, 100


class Rate(BaseModel):
    """How fast the last sync that moved anything much brought objects to a target. Overwritten; only estimates use it.

    A run goes to all its targets in one read, so this is what one target saw, not what the way to it can bear.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    source: str
    target: str
    bytes_per_second: float = Field(gt=0)
    objects_per_second: float = Field(gt=0)
    measured_at: datetime


@dataclass(frozen=True)
class PlannedSync:
    """A plan, and the sites it cannot speak of because they did not answer."""

    plan: SyncPlan
    unreachable: Mapping[str, str] = field(default_factory=dict)
    stored: bool = False
    #: What a sync would leave out of the snapshot, the first thousand.
    refused_objects: tuple[Refusal, ...] = ()
    #: What a site cannot hold for its name, by site: it would stay without the snapshot.
    not_held: Mapping[str, tuple[Refusal, ...]] = field(default_factory=dict)


def plan(runtime: Runtime, group: str, dataset: str, *, store: bool = True) -> PlannedSync:
    """Compare what lies at the active site now with what each other site has, and say what a sync would do.

    Args:
        store: keep the plan at the active site under ``sync-plans/<dataset>/<plan id>/``.

    Raises:
        UnknownName, ConfigError, GroupNotInitialised, NoMajority: nothing was looked at.
        PathsCollide: renames bring two objects to one path.
        StoreUnavailable: the active site did not answer.
    """
    datasets_of(runtime, group, dataset)
    state = require_active(runtime, group)
    topology, settings = runtime.topology, runtime.topology.dataset(dataset)
    source = runtime.store(state.active_site, flow=group)
    previous = latest(source, dataset, epoch=state.epoch)
    bases, rates, unreachable = _look_at_targets(runtime, group, dataset, state)
    made = plan_sync(
        list_table(source, data_folder(settings.path) + "/"),
        None if previous is None else _placement(source, previous),
        bases,
        dataset=dataset,
        folder=settings.path,
        policy=settings.sync,
        residency=topology.residency_of(dataset),
        topology_sites=topology.sites,
        source_site=state.active_site,
        now=runtime.clock.now(),
        measured_bytes_per_second={site: rate.bytes_per_second for site, rate in rates.items()},
        measured_objects_per_second={site: rate.objects_per_second for site, rate in rates.items()},
        versions_identify=source.capabilities().pinned_reads is True,
        based_on=previous.snapshot_id if previous is not None else None,
    )
    if store:
        store_plan(source, made)
    refused = refusals(rows_of(made.changes, Action.REFUSE), data_folder(settings.path) + "/")
    not_held = {site: found for site in bases if (found := _not_held(runtime, group, made, site))}
    return PlannedSync(made, unreachable, stored=store, refused_objects=refused, not_held=not_held)


def _not_held(runtime: Runtime, group: str, made: SyncPlan, site: str) -> tuple[Refusal, ...]:
    can = runtime.store(site, flow=group).capabilities()
    return cannot_hold(
        rows_of(made.actions(site), Action.COPY)["path"],
        folder=made.folder,
        site_prefix=runtime.topology.site(site).prefix,
        own_keys=runtime.topology.dataset(made.dataset).sync.layout == "direct" and can.metadata is True,
        is_folder=can.backend == "local",
    )


def note_rates(runtime: Runtime, dataset: str, report: SyncReport) -> None:
    """Remember, at each target that got enough to tell, how fast it came. A site that does not take it has none."""
    for one in report.targets:
        if not one.ok or report.seconds <= 0:
            continue
        if one.copied_bytes < _ENOUGH_BYTES and one.copied_objects < _ENOUGH_OBJECTS:
            continue
        rate = Rate(
            source=report.source_site,
            target=one.site,
            bytes_per_second=max(one.copied_bytes, 1) / report.seconds,
            objects_per_second=max(one.copied_objects, 1) / report.seconds,
            measured_at=runtime.clock.now(),
        )
        try:
            runtime.store(one.site).put(
                _rate_key(dataset, report.source_site, one.site), rate.model_dump_json().encode()
            )
        except ObjectStoreError:
            continue


def _look_at_targets(
    runtime: Runtime, group: str, dataset: str, state: EpochState
) -> tuple[dict[str, pa.Table | None], dict[str, Rate], dict[str, str]]:
    """Per target what its newest snapshot has and how fast it was reached; and who did not answer."""
    bases: dict[str, pa.Table | None] = {}
    rates: dict[str, Rate] = {}
    unreachable: dict[str, str] = {}
    for site in runtime.topology.group(group).sites.all():
        if site == state.active_site:
            continue
        store = runtime.store(site, flow=group)
        try:
            bases[site] = _base(store, dataset, state.epoch)
            rate = _rate(store, dataset, state.active_site, site)
        except HoldfastError as error:
            unreachable[site] = str(error)
            bases.pop(site, None)
            continue
        if rate is not None:
            rates[site] = rate
    return bases, rates, unreachable


def _base(store: ObjectStore, dataset: str, epoch: int) -> pa.Table | None:
    try:
        record = latest(store, dataset, epoch=epoch)
    except EpochUnknownHere:
        return None
    return None if record is None else _placement(store, record)


def _placement(store: ObjectStore, record: CommitRecord) -> pa.Table:
    return locate_table(store, record, load_manifest(store, record))


def _rate(store: ObjectStore, dataset: str, source: str, target: str) -> Rate | None:
    key = _rate_key(dataset, source, target)
    if not any(info.key == key for info in store.list(key)):
        return None
    try:
        return Rate.model_validate_json(store.get(key))
    except ValidationError:
        return None


def _rate_key(dataset: str, source: str, target: str) -> str:
    return f"health/rates/{dataset}/{source}.{target}.json"
