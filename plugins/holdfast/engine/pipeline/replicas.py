"""Looking at a dataset's replicas: where each stands, whether its bytes are whole, what differs. Nothing is written."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import islice
from typing import Literal, TypeVar

from holdfast.engine.authority.interface import EpochState
from holdfast.engine.config import Group
from holdfast.engine.objectstore.interface import ObjectStore
from holdfast.engine.objectstore.parts import part_store
from holdfast.engine.pipeline.active import require_active
from holdfast.engine.policy import decide
from holdfast.engine.recovery.protection import read_note
from holdfast.engine.replication import lag
from holdfast.engine.runtime import Runtime
from holdfast.engine.snapshot import (
    CommitRecord,
    Diff,
    EpochUnknownHere,
    PointInTime,
    VerifyReport,
    diff,
    iter_selectable,
    latest,
    load_manifest,
    point_in_time,
    read_receipt,
    verify,
)
from holdfast.engine.snapshot.keys import data_folder
from holdfast.engine.snapshot.records import read_record, record_keys
from holdfast.errors import ConfigError, HoldfastError

Role = Literal["active", "standby", "witness"]
_T = TypeVar("_T")


class NoSnapshot(ConfigError):
    """The site has no snapshot of the dataset, or not the one that was named."""


@dataclass(frozen=True, slots=True)
class SiteStatus:
    """Where one site stands with one dataset. What could not be found out is ``None``, and ``error`` says why.

    ``lag_seconds``, ``lag_objects``, ``lag_bytes`` and ``missing_snapshots`` count committed snapshots the site lacks.
    ``behind_seconds`` is how long ago the site was last known to hold everything the active site had committed: what
    may be lost if the active site were gone now. ``point_in_time`` says whether the snapshot's bytes stay readable
    whatever writers do to the dataset's folder. ``unfinished_uploads`` are objects of which parts are there: a sync
    under way, or one that was cut off and will go on.
    """

    site: str
    role: Role
    snapshot_id: str | None = None
    taken_at: datetime | None = None
    objects: int | None = None
    size_bytes: int | None = None
    lag_seconds: float | None = None
    lag_objects: int | None = None
    lag_bytes: int | None = None
    missing_snapshots: int | None = None
    behind_seconds: float | None = None
    verified_at: datetime | None = None
    point_in_time: PointInTime | None = None
    unfinished_uploads: int | None = None
    error: str | None = None


@dataclass(frozen=True, slots=True)
class DatasetStatus:
    """A dataset of a group at all its sites."""

    group: str
    dataset: str
    epoch: int
    active_site: str
    sites: tuple[SiteStatus, ...]


@dataclass(frozen=True, slots=True)
class SiteVerification:
    """What reading a whole replica back found; ``error``: it could not be read, which is no proof of anything."""

    site: str
    snapshot_id: str | None
    report: VerifyReport | None
    error: str | None = None

    @property
    def ok(self) -> bool:
        return self.report is not None and self.report.ok


def datasets_of(runtime: Runtime, group: str, dataset: str | None = None) -> tuple[str, ...]:
    """The dataset that is named, or all of the group's.

    Raises:
        UnknownName: there is no such group or dataset.
        ConfigError: the group does not protect this dataset.
    """
    settings = runtime.topology.group(group)
    if dataset is None:
        return settings.datasets
    runtime.topology.dataset(dataset)
    if dataset not in settings.datasets:
        raise ConfigError(
            "the group does not protect this dataset",
            where=f"group {group}",
            expected=f"one of {', '.join(settings.datasets) or '(none)'}",
            found=repr(dataset),
        )
    return (dataset,)


def status(runtime: Runtime, group: str, dataset: str) -> DatasetStatus:
    """Where every site of a group stands with a dataset. A site that does not answer is part of the answer.

    Raises:
        UnknownName, ConfigError: see `datasets_of`.
        GroupNotInitialised, NoMajority: nobody knows which site is active.
    """
    datasets_of(runtime, group, dataset)
    state = require_active(runtime, group)
    sites = runtime.topology.group(group).sites.all()
    return DatasetStatus(
        group=group,
        dataset=dataset,
        epoch=state.epoch,
        active_site=state.active_site,
        sites=_at_each(sites, lambda site: _site_status(runtime, group, dataset, site, state)),
    )


def lag_seconds(runtime: Runtime, group: str, dataset: str, site: str) -> float | None:
    """How long ago a site was last known to hold everything the active site had committed of a dataset.

    Only the site itself and the register are asked, so it can be told while the active site is down.

    Returns:
        seconds; 0 at the active site; ``None``: unknown, the site never was complete in this epoch.

    Raises:
        UnknownName, ConfigError: there is no such dataset in the group, or the site is none of its sites.
        GroupNotInitialised, NoMajority: nobody knows which site is active.
        StoreUnavailable: the site does not answer.
    """
    datasets_of(runtime, group, dataset)
    require_site(runtime, group, site)
    state = require_active(runtime, group)
    return _behind(runtime, group, dataset, site, state)


def verify_site(
    runtime: Runtime, group: str, dataset: str, site: str, *, snapshot_id: str | None = None
) -> SiteVerification:
    """Read every byte of a snapshot back at a site and hash it.

    Args:
        snapshot_id: which one; by default the newest that may be selected there.

    Raises:
        NoSnapshot: the site does not have it.
        ManifestDamaged: the manifest itself is missing or wrong.
        StoreUnavailable: the site did not answer; nothing was found out.
    """
    datasets_of(runtime, group, dataset)
    require_site(runtime, group, site)
    state = require_active(runtime, group)
    store = runtime.store(site)
    record = record_at(store, dataset, site, state.epoch, snapshot_id)
    return SiteVerification(site, record.snapshot_id, verify(store, record))


def verify_everywhere(
    runtime: Runtime, group: str, dataset: str, *, snapshot_id: str | None = None
) -> tuple[SiteVerification, ...]:
    """As `verify_site`, at every site that may hold the dataset; one that cannot be read is told, never passed over."""

    def at(site: str) -> SiteVerification:
        try:
            return verify_site(runtime, group, dataset, site, snapshot_id=snapshot_id)
        except HoldfastError as error:
            return SiteVerification(site, snapshot_id, None, str(error))

    return tuple(at(site) for site in allowed_sites(runtime, group, dataset))


def snapshots(
    runtime: Runtime, group: str, dataset: str, *, site: str | None = None, limit: int | None = None
) -> tuple[CommitRecord, ...]:
    """The snapshots that may be selected at a site, newest first.

    Args:
        site: by default the active one.
        limit: read at most so many.

    Raises: as `status`, and StoreUnavailable.
    """
    datasets_of(runtime, group, dataset)
    state = require_active(runtime, group)
    place = state.active_site if site is None else require_site(runtime, group, site)
    return tuple(islice(iter_selectable(runtime.store(place), dataset, epoch=state.epoch), limit))


def compare(
    runtime: Runtime,
    group: str,
    dataset: str,
    *,
    left: tuple[str | None, str | None] = (None, None),
    right: tuple[str | None, str | None] = (None, None),
) -> Diff:
    """What the left snapshot has over the right one, by path and digest; only manifests are read.

    Args:
        left: site and snapshot id; by default the active site and the newest there.
        right: the same; by default the first other site and the newest there.

    Raises:
        NoSnapshot: a site does not have the snapshot.
    """
    datasets_of(runtime, group, dataset)
    state = require_active(runtime, group)
    others = [site for site in runtime.topology.group(group).sites.all() if site != state.active_site]
    here = require_site(runtime, group, left[0] or state.active_site)
    there = require_site(runtime, group, right[0] or (state.active_site if right[1] else others[0]))
    manifests = [
        load_manifest(runtime.store(site), record_at(runtime.store(site), dataset, site, state.epoch, wanted))
        for site, wanted in ((here, left[1]), (there, right[1]))
    ]
    return diff(manifests[0], manifests[1])


def record_at(store: ObjectStore, dataset: str, site: str, epoch: int, snapshot_id: str | None) -> CommitRecord:
    """A snapshot at a site: the one whose id begins so, else the newest. Raises NoSnapshot."""
    if snapshot_id is None:
        found = _latest_known(store, dataset, epoch)
    else:
        begins = [key for key in record_keys(store, dataset) if key.snapshot_id.startswith(snapshot_id)]
        found = read_record(store, begins[0].key) if len(begins) == 1 and snapshot_id else None
    if found is not None:
        return found
    raise NoSnapshot(
        "the site does not have this snapshot" if snapshot_id else "the site has no snapshot that may be selected",
        where=f"{dataset} at {site}",
        expected=snapshot_id or "a committed snapshot",
        found="none",
        fix="`holdfast sync snapshots` lists what is there, `holdfast sync run` brings the newest",
    )


def require_site(runtime: Runtime, group: str, site: str) -> str:
    """The site, if it is one of the group's. Raises UnknownName, ConfigError."""
    runtime.topology.site(site)
    sites = runtime.topology.group(group).sites.all()
    if site not in sites:
        raise ConfigError(
            "the site is none of the group's", where=f"group {group}", expected=f"one of {', '.join(sites)}", found=site
        )
    return site


def allowed_sites(runtime: Runtime, group: str, dataset: str) -> tuple[str, ...]:
    """The group's sites where the dataset's residency allows a copy."""
    residency, topology = runtime.topology.residency_of(dataset), runtime.topology
    sites = topology.group(group).sites.all()
    if residency is None:
        return sites
    return tuple(s for s in sites if decide(dataset, residency, s, topology.sites, preview=True).allowed)


def role_of(settings: Group, site: str, active_site: str) -> Role:
    """What a site is now: the authority says who is active, the topology who else is a witness."""
    if site == active_site:
        return "active"
    return "witness" if site in settings.sites.witness else "standby"


def _at_each(sites: tuple[str, ...], look: Callable[[str], _T]) -> tuple[_T, ...]:
    with ThreadPoolExecutor(max(1, len(sites)), "replicas") as pool:
        return tuple(pool.map(look, sites))


def _site_status(runtime: Runtime, group: str, dataset: str, site: str, state: EpochState) -> SiteStatus:
    role = role_of(runtime.topology.group(group), site, state.active_site)
    try:
        store = runtime.store(site)
        record = _latest_known(store, dataset, state.epoch)
        receipt = read_receipt(store, dataset, record.snapshot_id, site) if record is not None else None
        behind = _behind(runtime, group, dataset, site, state)
        guarantee = point_in_time(store, record) if record is not None else None
        unfinished = _unfinished_uploads(store, runtime.topology.dataset(dataset).path)
    except HoldfastError as error:
        return SiteStatus(site, role, error=str(error))
    found = SiteStatus(
        site=site,
        role=role,
        snapshot_id=record.snapshot_id if record else None,
        taken_at=record.taken_at if record else None,
        objects=record.object_count if record else None,
        size_bytes=record.size_bytes if record else None,
        behind_seconds=behind,
        verified_at=receipt.verified_at if receipt else None,
        point_in_time=guarantee,
        unfinished_uploads=unfinished,
    )
    return _with_lag(runtime, dataset, found, state)


def _with_lag(runtime: Runtime, dataset: str, found: SiteStatus, state: EpochState) -> SiteStatus:
    if found.role == "active":
        return replace(found, lag_seconds=0.0, lag_objects=0, lag_bytes=0, missing_snapshots=0)
    try:
        source, target = runtime.store(state.active_site), runtime.store(found.site)
        behind = lag(source, target, dataset, epoch=state.epoch, now=runtime.clock.now())
    except HoldfastError as error:
        return replace(found, error=f"its lag is unknown: {error}")
    return replace(
        found,
        lag_seconds=behind.seconds,
        lag_objects=behind.objects,
        lag_bytes=behind.bytes,
        missing_snapshots=behind.missing_snapshots,
    )


def _behind(runtime: Runtime, group: str, dataset: str, site: str, state: EpochState) -> float | None:
    if site == state.active_site:
        return 0.0
    store = runtime.store(site)
    note = read_note(store, group, dataset, site)
    if note is None:
        next(iter(store.list("health/")), None)  # a site that does not answer is an error, not a site without a note
        return None
    if note.epoch != state.epoch:
        return None
    return max(0.0, (runtime.clock.now() - note.as_of).total_seconds())


def _unfinished_uploads(store: ObjectStore, path: str) -> int | None:
    parts = part_store(store)
    return None if parts is None else sum(1 for _ in parts.uploads(data_folder(path) + "/"))


def _latest_known(store: ObjectStore, dataset: str, epoch: int) -> CommitRecord | None:
    try:
        return latest(store, dataset, epoch=epoch)
    except EpochUnknownHere:
        return None
