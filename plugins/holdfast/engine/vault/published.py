"""Restore a backup into a site's live layout: its objects create-only, then a snapshot of them that readers select.

An object lands at the dataset's own key where that is free, else under ``.versions/``; nothing that lies there is
replaced. Each is read back before the snapshot names it. What lies in the folder and is not of the backup is noted in
the placement, so that the next `take` does not mistake it for data written after the restore. Broken off, it goes on.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from holdfast.clock import Clock
from holdfast.engine.config import Residency, Site
from holdfast.engine.objectstore.errors import ObjectExists
from holdfast.engine.objectstore.interface import CREATE, OVERWRITE, ObjectInfo, ObjectStore, ObjectVersion, PutMode
from holdfast.engine.objectstore.parts import part_store
from holdfast.engine.policy import RESTORE, check_hop
from holdfast.engine.snapshot import (
    CommitRecord,
    Manifest,
    ManifestEntry,
    TakenSnapshot,
    keys,
    latest,
    open_snapshot,
    publish,
    read_forks,
    restore,
)
from holdfast.engine.snapshot import (
    RestoreReport as LiveReport,
)
from holdfast.engine.snapshot.documents import iso_utc
from holdfast.engine.snapshot.placement import Placed, leftover, placed_at, replica_metadata
from holdfast.engine.snapshot.removals import check_before_commit
from holdfast.engine.vault.backups import Backup
from holdfast.engine.vault.creating import WHOLE_BYTES, digest_at, write_object
from holdfast.engine.vault.errors import NotActive, TargetChanged, TargetDamaged, UnsafePath
from holdfast.engine.vault.paths import why_unsafe
from holdfast.engine.vault.restore import RestoreOptions, RestoreReport, Target, restore_backup
from holdfast.engine.vault.tree import TreeRow
from holdfast.engine.vault.vault import Vault
from holdfast.errors import ConfigError

#: Labels of a snapshot that was restored.
RESTORED_FROM = "restored_from"
RESTORED_VAULT = "restored_vault"
RESTORED_SNAPSHOT = "restored_snapshot"
RESTORED_TAKEN_AT = "restored_taken_at"
_LABELS = (RESTORED_FROM, RESTORED_VAULT, RESTORED_SNAPSHOT, RESTORED_TAKEN_AT)


class Standing(Protocol):
    """Who is active, as the authority says; its `EpochState` is one."""

    @property
    def epoch(self) -> int: ...
    @property
    def active_site(self) -> str: ...


@dataclass(frozen=True)
class PublishedRestore:
    """What a restore into the live layout did.

    Args:
        record: the snapshot that has the backup's content now.
        restored: objects, written and kept.
        own_keys: objects that lie at the dataset's own keys; the others lie under ``.versions/``.
        made: whether the snapshot is of this call; else an earlier call had made it, and nothing changed since.
        live: what was done to the folder, where that was asked for.
    """

    record: CommitRecord
    restored: RestoreReport
    own_keys: int
    made: bool
    live: LiveReport | None = None


def restore_as_snapshot(
    vault: Vault,
    backup: Backup,
    store: ObjectStore,
    *,
    site: str,
    epoch: int,
    clock: Clock,
    dataset: str | None = None,
    path: str | None = None,
    active: Callable[[], Standing] | None = None,
    residency: Residency | None = None,
    sites: Mapping[str, Site] | None = None,
    labels: Mapping[str, str] | None = None,
    own_keys: bool = True,
    restore_live: bool = False,
    options: RestoreOptions | None = None,
    around: Callable[[Target], Target] = lambda target: target,
) -> PublishedRestore:
    """Restore a whole backup into a site's live layout, and publish it there as the dataset's newest snapshot.

    Args:
        vault: opened by a reader.
        store: the site's; what lies in it is not replaced.
        site: must be the active one.
        epoch: in which it is active.
        dataset: under which name it is published; by default the one the backup was taken of.
        path: folder under ``data/``; by default the one the backup was taken of.
        active: asked which site is active in which epoch, before the first byte and again before the snapshot is
            committed. Without it only the site's own bucket can tell that the epoch is a past one.
        residency: where bytes of this class may lie; ``None``: anywhere. Asked before anything else.
        sites: of the topology, by name; needed with ``residency``.
        labels: further ones; the backup's own snapshot's are kept.
        own_keys: objects may lie at the dataset's own keys; else all go under ``.versions/`` (``layout: staged``).
        restore_live: afterwards make the objects at the own keys those of the snapshot, see `snapshot.restore`.
        options: only `progress` counts: a snapshot is of the whole backup or is not made.
        around: what is put around the target, e.g. to write table metadata anew.

    Raises:
        ResidencyRefused: the bytes may not lie at this site; nothing was read.
        NotActive: another site is active, or the epoch is a past one; nothing was published.
        UnsafePath, Damaged, NotEntitled: see `restore_backup`; nothing was published.
        EpochUnknownHere: the dataset has snapshots here, and this bucket does not know the epoch's beginning.
        TargetChanged: somebody wrote at a key just then; run it again.
        TargetDamaged: what was written reads back as other bytes; nothing was published.
        Superseded: somebody else published meanwhile; run it again.
    """
    dataset = keys.check_name(dataset or _of(backup, "dataset", "`--dataset`"))
    path = path or _of(backup, "path", "`--into`")
    check_hop(dataset, residency, site, sites or {}, intent=RESTORE)
    if (reason := why_unsafe(path)) is not None:
        raise UnsafePath(
            "the dataset cannot lie in this folder",
            where=repr(path),
            expected="a relative path below data/",
            found=reason,
            fix="Name another one; nothing was written",
        )
    options = options or RestoreOptions()
    if options.paths or options.patterns:
        raise ConfigError(
            "a snapshot is restored whole",
            where=f"{vault.name}: {backup.backup_id}",
            expected="no paths and no patterns",
            found=", ".join((*options.paths, *options.patterns)),
            fix="Restore single paths to a folder or another prefix",
        )
    _require_standing(store, dataset, site, epoch, active)
    previous = latest(store, dataset, epoch=epoch)
    target = LayoutTarget(store, path, run_id=uuid.uuid4().hex, own_keys=own_keys)
    report = restore_backup(vault, backup, around(target), replace(options, keep_going=False))
    rows, landed = target.rows()
    told = {**_labels(vault, backup), **(labels or {})}
    if previous is not None and _is_it(store, previous, rows, backup, path, epoch):
        record, made = previous, False
    else:
        record, made = _publish(store, dataset, path, rows, landed, previous, told, site, epoch, clock, active), True
    live = restore(store, record) if restore_live else None
    own = sum(1 for row in landed if row.key == keys.object_key(path, row.path))
    return PublishedRestore(record, report, own, made, live)


def _of(backup: Backup, name: str, option: str) -> str:
    found = backup.origin.get(name)
    if not isinstance(found, str):
        raise ConfigError(
            f"the backup does not say its {name}",
            where=backup.backup_id,
            expected=f"a backup of a snapshot, or {option}",
            found=f"a backup of kind {backup.kind}",
        )
    return found


def _labels(vault: Vault, backup: Backup) -> dict[str, str]:
    told = backup.origin.get("labels")
    inherited = told if isinstance(told, Mapping) else {}
    snapshot = backup.origin.get("snapshot")
    return {
        **{str(name): str(value) for name, value in inherited.items() if name not in _LABELS},
        RESTORED_FROM: backup.backup_id,
        RESTORED_VAULT: vault.name,
        RESTORED_TAKEN_AT: iso_utc(backup.taken_at),
        **({RESTORED_SNAPSHOT: str(snapshot)} if snapshot else {}),
    }


def _require_standing(
    store: ObjectStore, dataset: str, site: str, epoch: int, active: Callable[[], Standing] | None
) -> None:
    """Raises NotActive."""
    fix = "`holdfast authority show` names the active site; restore there"
    if active is not None:
        now = active()
        if (now.active_site, now.epoch) != (site, epoch):
            raise NotActive(
                "the site is not the active one of this epoch; nothing was published",
                where=f"{dataset} at {site}",
                expected=f"{now.active_site} in epoch {now.epoch}",
                found=f"{site} in epoch {epoch}",
                fix=fix,
            )
    newest = max((fork.epoch for fork in read_forks(store, keys.root(dataset))), default=1)
    if newest > epoch:
        raise NotActive(
            "the epoch is a past one; nothing was published",
            where=f"{store.name}: {keys.root(dataset)}",
            expected=f"epoch {newest}, or a later one",
            found=f"epoch {epoch}",
            fix=fix,
        )


def _publish(
    store: ObjectStore,
    dataset: str,
    path: str,
    rows: list[Placed],
    landed: list[Placed],
    previous: CommitRecord | None,
    labels: Mapping[str, str],
    site: str,
    epoch: int,
    clock: Clock,
    active: Callable[[], Standing] | None,
) -> CommitRecord:
    manifest = Manifest.build(_entry(row) for row in landed)
    displaced = len(rows) > len(landed) or any(row.key != keys.object_key(path, row.path) for row in landed)
    taken = TakenSnapshot(
        dataset=dataset,
        path=path,
        manifest=manifest,
        taken_at=clock.now(),
        hashed_objects=len(landed),
        hashed_bytes=manifest.size_bytes,
        placement=tuple(rows) if displaced else (),
    )

    def prepare(record: CommitRecord) -> None:
        check_before_commit(store, record, (str(row.key) for row in landed))
        _require_standing(store, dataset, site, epoch, active)

    return publish(
        store,
        taken,
        epoch=epoch,
        site=site,
        parent=None if previous is None else previous.snapshot_id,
        clock=clock,
        labels=labels,
        prepare=prepare,
    )


def _entry(row: Placed) -> ManifestEntry:
    assert row.digest is not None
    assert row.size_bytes is not None
    assert row.modified_at is not None
    return ManifestEntry(row.path, row.size_bytes, row.digest, row.version, row.e_tag, row.modified_at)


def _is_it(
    store: ObjectStore, previous: CommitRecord, rows: list[Placed], backup: Backup, path: str, epoch: int
) -> bool:
    """Whether the newest snapshot is what an earlier call made of this backup, and the folder is as it was then."""
    if (previous.labels.get(RESTORED_FROM), previous.path, previous.epoch) != (backup.backup_id, path, epoch):
        return False

    def told(found: list[Placed]) -> set[tuple[Any, ...]]:
        return {(row.path, row.key, row.digest, row.e_tag, row.other_e_tag) for row in found}

    return told(rows) == told(list(open_snapshot(store, previous).placed.values()))


@dataclass
class LayoutTarget:
    """A dataset's folder in a site's live layout.

    Args:
        path: the folder under ``data/``.
        run_id: marks objects at own keys until a snapshot names them, so that they are not taken for new data.
        own_keys: objects may lie at their own keys.
    """

    store: ObjectStore
    path: str
    run_id: str
    own_keys: bool = True
    folds_case: bool = False
    _before: dict[str, ObjectInfo] = field(default_factory=dict, repr=False)
    _landed: dict[str, tuple[str, str, ObjectVersion | None]] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        self._before = {info.key: info for info in self.store.list(keys.data_folder(self.path) + "/")}
        # A store without metadata cannot mark what is not published yet.
        self._direct = self.own_keys and self.store.capabilities().metadata is True
        # Without parts a large object cannot be created where others may write; a key named for its digest is its own.
        self._large_direct = self._direct and part_store(self.store) is not None

    def has(self, row: TreeRow) -> bool:
        if row.path.split("/", 1)[0] == keys.VERSIONS:
            raise UnsafePath(
                "the backup holds a path that belongs to the layout itself",
                where=repr(row.path),
                expected=f"no path below {keys.VERSIONS}/",
                found="one",
                fix="Restore it to a folder or another prefix; nothing was published",
            )
        for key in self._candidates(row):
            info = self._before.get(key)
            if info is None or info.size_bytes != row.size_bytes:
                continue
            if digest_at(self.store, key, info.version) == row.digest:
                self._landed[row.path] = key, row.digest, info.version
                return True
        return False

    def write(self, row: TreeRow, pieces: Iterator[bytes]) -> None:
        own, spare = self._candidates(row)
        small = row.size_bytes <= WHOLE_BYTES
        content: Iterator[bytes] | list[bytes] = [b"".join(pieces)] if small else pieces
        if own not in self._before and (self._direct if small else self._large_direct):
            try:
                self._put(row, own, iter(content), CREATE, replica_metadata(self.run_id, row.path))
            except ObjectExists:
                if self._is_there(row, own):
                    return
                if not small:
                    raise self._changed(own) from None
            else:
                return
        try:
            # What lies at a key that is named for another digest than it has is nobody's.
            self._put(row, spare, iter(content), OVERWRITE if spare in self._before else CREATE)
        except ObjectExists:
            if not self._is_there(row, spare):
                raise self._changed(spare) from None

    def finish(self) -> None:
        return None

    def rows(self) -> tuple[list[Placed], list[Placed]]:
        """Where everything lies now, as a placement has it: with what is in the folder besides, and without.

        Raises:
            TargetChanged: an object that was restored is not there any more.
        """
        folder = keys.data_folder(self.path) + "/"
        now = {info.key: info for info in self.store.list(folder)}
        landed = []
        for path, (key, digest, version) in sorted(self._landed.items()):
            info, own = now.get(key), keys.object_key(self.path, path)
            if info is None or (version is not None and _differ(info.version, version)):
                raise self._changed(key)
            # A listing of S3 or GCS names no version; by it an overwritten object can still be read.
            row = placed_at(info, path, digest, self._before.get(own) if key != own else None)
            landed.append(replace(row, version=row.version or (version.version if version else None)))
        members = {keys.object_key(self.path, row.path) for row in landed}
        extra = [
            leftover(info, key.removeprefix(folder))
            for key, info in self._before.items()
            if key not in members and not self._is_marker(info) and not key.startswith(f"{folder}{keys.VERSIONS}/")
        ]
        return [*landed, *extra], landed

    def _is_marker(self, info: ObjectInfo) -> bool:
        return info.key.endswith("/") and info.size_bytes == 0

    def _candidates(self, row: TreeRow) -> tuple[str, str]:
        return keys.object_key(self.path, row.path), keys.version_key(self.path, row.path, row.digest)

    def _put(
        self, row: TreeRow, key: str, pieces: Iterator[bytes], mode: PutMode, metadata: Mapping[str, str] | None = None
    ) -> None:
        version = write_object(self.store, key, row.size_bytes, pieces, mode=mode, metadata=metadata)
        found = digest_at(self.store, key)
        if found != row.digest:
            self._withdraw(key, version)
            raise TargetDamaged(
                "bytes written here read back as other bytes",
                where=f"{self.store.name}: {key}",
                expected=row.digest,
                found=found or "nothing",
                fix="Have this store and the way to it checked; nothing was published",
            )
        self._landed[row.path] = key, row.digest, version

    def _withdraw(self, key: str, version: ObjectVersion) -> None:
        """Take back what came out wrong, if it is this that lies there."""
        now = next((info for info in self.store.list(key) if info.key == key), None)
        if now is not None and not _differ(now.version, version):
            self.store.delete(key)

    def _is_there(self, row: TreeRow, key: str) -> bool:
        if digest_at(self.store, key) != row.digest:
            return False
        self._landed[row.path] = key, row.digest, None
        return True

    def _changed(self, key: str) -> TargetChanged:
        return TargetChanged(
            "somebody else writes at this key; nothing of his was touched and nothing was published",
            where=f"{self.store.name}: {key}",
            expected="a key that stays as it was",
            found="another object",
            fix="Run it again: what was restored is not restored twice",
        )


def _differ(one: ObjectVersion, other: ObjectVersion) -> bool:
    """Whether two are known to name different states."""
    if one.e_tag is not None and other.e_tag is not None:
        return one.e_tag != other.e_tag
    return one.version is not None and other.version is not None and one.version != other.version


__all__ = [
    "RESTORED_FROM",
    "RESTORED_SNAPSHOT",
    "RESTORED_TAKEN_AT",
    "RESTORED_VAULT",
    "LayoutTarget",
    "PublishedRestore",
    "Standing",
    "restore_as_snapshot",
]
