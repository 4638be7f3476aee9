"""Recovery points: what of the ending epoch the target holds whole and verified."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from holdfast.engine.checkpoint import elect
from holdfast.engine.checkpoint.verify import is_there, without_its_size
from holdfast.engine.config.writers import is_written
from holdfast.engine.objectstore.interface import ObjectStore
from holdfast.engine.recovery.errors import NoRecoveryPoint
from holdfast.engine.recovery.interface import Rooms
from holdfast.engine.recovery.plan import Plan
from holdfast.engine.recovery.residency import checkpoints_allowed, require_allowed
from holdfast.engine.recovery.subjects import served_models, snapshot_subjects
from holdfast.engine.recovery.unfinished import RunPoint, run_point, runs_to_take
from holdfast.engine.snapshot import CommitRecord, keys, load_manifest, read_receipt, selectable, verify
from holdfast.engine.snapshot.placement import locate, same_version

#: Up to this size every byte is read again before a promotion; above, the replica's receipt counts.
READ_AGAIN_BYTES = 256 * 1024 * 1024


@dataclass(frozen=True)
class SnapshotPoint:
    """The snapshot a dataset or model goes on from; ``None`` when the target holds none of it."""

    subject: str
    record: CommitRecord | None
    verified_by: str | None
    passed_over: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class RecoveryPoints:
    """What the target would be promoted to: ``runs`` are resumed, ``left`` only forked."""

    snapshots: tuple[SnapshotPoint, ...]
    runs: tuple[RunPoint, ...]
    left: tuple[RunPoint, ...] = ()

    def snapshot(self, subject: str) -> SnapshotPoint | None:
        return next((p for p in self.snapshots if p.subject == subject), None)


def find_points(rooms: Rooms, plan: Plan, pool: ThreadPoolExecutor) -> RecoveryPoints:
    """Elect, at the target, the newest verified point of everything the group protects.

    Raises:
        NoRecoveryPoint: a dataset or a served model has none there.
        ResidencyRefused: something of the group may not lie there; nothing was elected.
    """
    require_allowed(rooms.topology, plan.group, plan.target)
    topology, store = rooms.topology, rooms.store(plan.target)
    subjects = snapshot_subjects(topology, plan.group)
    needed = {*topology.group(plan.group).datasets, *served_models(topology, plan.group)}
    snapshots = [
        pool.submit(_snapshot_point, store, plan, s, live=is_written(topology, plan.group, s, plan.target))
        for s in subjects
    ]
    looked = [pool.submit(runs_to_take, rooms, plan, job) for job in topology.group(plan.group).training]
    runs = [pool.submit(run_point, rooms, plan, taken) for future in looked for taken in future.result()]
    found = [future.result() for future in runs]
    points = RecoveryPoints(
        tuple(f.result() for f in snapshots),
        tuple(p for p in found if p.left is None),
        tuple(p for p in found if p.left is not None),
    )
    for point in points.snapshots:
        if point.record is None and point.subject in needed:
            raise NoRecoveryPoint(
                f"{plan.target} holds no verified snapshot of {point.subject}",
                where=f"group {plan.group}",
                expected="a replica with a receipt, whole",
                found="; ".join(f"{i}: {why}" for i, why in point.passed_over) or "no snapshot of its lineage",
                fix="Replicate it first, or choose another target",
            )
    return points


def _snapshot_point(store: ObjectStore, plan: Plan, subject: str, *, live: bool) -> SnapshotPoint:
    passed: list[tuple[str, str]] = []
    for record in selectable(store, subject, epoch=plan.expected_epoch):
        how, why_not = _verified(store, record, plan.target, live=live)
        if how is not None:
            return SnapshotPoint(subject, record, how, tuple(passed))
        passed.append((record.snapshot_id, why_not))
    return SnapshotPoint(subject, None, None, tuple(passed))


def _verified(store: ObjectStore, record: CommitRecord, site: str, *, live: bool) -> tuple[str | None, str]:
    """How a snapshot is known to be whole, or why it is not.

    Args:
        live: the target has writers of its own. What they changed at own keys since is no damage: an older snapshot
            would have lost it too, and with it everything that was brought here since then.
    """
    if record.site != site and read_receipt(store, record.dataset, record.snapshot_id, site) is None:
        return None, "no receipt: it was never read back here"
    if record.size_bytes > READ_AGAIN_BYTES:
        return "receipt", ""
    report = verify(store, record)
    wrong = (*report.missing, *report.corrupt)
    if not wrong:
        return "every byte read again", ""
    if live and _changed_by_writers(store, record, wrong):
        return f"every byte read again, but for {len(wrong)} objects its own writers changed since", ""
    return None, "damaged: an object is missing or has another digest"


def _changed_by_writers(store: ObjectStore, record: CommitRecord, paths: Sequence[str]) -> bool:
    """Whether each of these objects lay at its own key, and is another one there now, or none."""
    placed = locate(store, record, load_manifest(store, record))
    listed = {info.key: info for info in store.list(keys.data_folder(record.path) + "/")}
    for path in paths:
        own, place = keys.object_key(record.path, path), placed[path]
        pin, there = place.object_version, listed.get(own)
        if place.key != own or pin is None or (there is not None and same_version(there.version, pin)):
            return False
    return True


def still_there(rooms: Rooms, plan: Plan, point: RunPoint) -> RunPoint:
    """The point, or another one where its checkpoint is gone from the target since it was elected.

    It is elected ahead, while the old site's writer may still hold its lease: that writer's retention at the target
    keeps the newest, which by then need not be the elected one. Ask when the fence is over, and fork at once.
    """
    store, manifest = rooms.store(plan.target), point.election.manifest
    if manifest is None or (is_there(store, manifest) and not without_its_size(store, point.run, [manifest])):
        return point
    allowed = checkpoints_allowed(rooms.topology, point.job, plan.target)
    # A run that cannot go on here keeps no group from being promoted; its new fork names what it waits for.
    election = elect(store, point.run, epoch=plan.expected_epoch, site=plan.target, allowed=allowed, or_nothing=True)
    return replace(point, election=election)
