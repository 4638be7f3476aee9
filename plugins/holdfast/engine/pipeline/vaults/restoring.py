"""Restoring: to a folder of this machine, below a prefix of a site, or into the live layout as a snapshot."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Any

from holdfast.engine.config import Connection
from holdfast.engine.config.references import TAKEN
from holdfast.engine.objectstore.connect import access_from_connection
from holdfast.engine.pipeline.checking import check_version
from holdfast.engine.pipeline.vaults.opening import opened, places_of, prefix_of, require_own
from holdfast.engine.pipeline.vaults.residency import data_of
from holdfast.engine.policy import RESTORE, check_hop, residency_for
from holdfast.engine.runtime import Runtime
from holdfast.engine.snapshot import keys, latest
from holdfast.engine.snapshot.documents import iso_utc
from holdfast.engine.vault.backup import Progress
from holdfast.engine.vault.backups import Backup, find_backup
from holdfast.engine.vault.paths import why_unsafe
from holdfast.engine.vault.published import PublishedRestore, restore_as_snapshot
from holdfast.engine.vault.reading import ChunkReader
from holdfast.engine.vault.restore import RestoreOptions, RestoreReport, Target
from holdfast.engine.vault.tables import Moves, plan_moves, restore_tables, table_location
from holdfast.engine.vault.targets import FolderTarget, PrefixTarget
from holdfast.engine.vault.tree import TreeRow
from holdfast.engine.vault.vault import Vault
from holdfast.errors import ConfigError, UnknownName


@dataclass(frozen=True)
class Shown:
    """One backup, and the first of the objects it holds."""

    vault: str
    backup: Backup
    rows: tuple[TreeRow, ...]

    def to_summary(self) -> dict[str, Any]:
        paths = [{"path": row.path, "size_bytes": row.size_bytes, "digest": row.digest} for row in self.rows]
        return {"vault": self.vault, **self.backup.to_summary(), "paths": paths}


def shown(
    runtime: Runtime,
    vault: str,
    *,
    backup: str | None = None,
    source: str | None = None,
    at: datetime | None = None,
    vault_site: str | None = None,
    limit: int = 50,
) -> Shown:
    """What a backup is of and what it holds, by the names alone: with a writer's keys.

    Args:
        backup, source, at, vault_site: as `restored`.
        limit: at most so many objects.

    Raises:
        UnknownBackup, Damaged, WrongKey.
    """
    found = opened(runtime, vault, "writer", site=vault_site)
    one = find_backup(found, backup, source=source, at=at)
    rows = ChunkReader(found, found.load_index().index).rows(one)
    return Shown(vault, one, tuple(islice(rows, limit)))


def restored(
    runtime: Runtime,
    vault: str,
    target: Target,
    *,
    backup: str | None = None,
    source: str | None = None,
    at: datetime | None = None,
    paths: Sequence[str] = (),
    patterns: Sequence[str] = (),
    keep_going: bool = False,
    vault_site: str | None = None,
    progress: Callable[[Progress], None] | None = None,
    admit: Callable[[Backup], None] = lambda _backup: None,
) -> RestoreReport:
    """Restore a backup. Iceberg tables in it are given the paths they have at the target; where one cannot be, it is
    restored as it was, and the report says so (`RestoreReport.not_moved`).

    Args:
        backup: a name, as `choose` takes it; by default the newest, of ``source`` and not newer than ``at``.
        vault_site: read from this mirror instead of the vault's own site.
        admit: asked before anything is written; what it raises ends the restore.

    Raises:
        UnknownBackup, UnsafePath, Damaged, Refused, WrongKey.
        RolledBack, HistoryDamaged: newer backups are known to be gone, and none was named.
    """
    found = opened(runtime, vault, "reader", site=vault_site)
    refuse_guess(found, backup, vault_site)
    wanted = find_backup(found, backup, source=source, at=at)
    admit(wanted)
    options = RestoreOptions(
        paths=tuple(paths),
        patterns=tuple(patterns),
        keep_going=keep_going,
        progress=progress or (lambda _seen: None),
    )
    location = getattr(target, "location", None)
    return restore_tables(found, wanted, target, location=location, options=options, strict=False)


def refuse_guess(vault: Vault, backup: str | None, vault_site: str | None) -> None:
    """Where newer backups are known to be gone, the newest that is left is not what somebody means by the newest.

    A mirror may lie behind its vault, and is what there is when the vault is lost.

    Raises HistoryDamaged, RolledBack: a backup has to be named.
    """
    if vault.alarm is not None and vault_site is None and backup in (None, "latest"):
        raise vault.alarm


def restored_live(
    runtime: Runtime,
    group: str,
    vault: str,
    *,
    backup: str | None = None,
    source: str | None = None,
    at: datetime | None = None,
    reason: str,
    folder: bool = False,
    vault_site: str | None = None,
    request: str | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> PublishedRestore:
    """Restore a dataset or model at the group's active site, and publish it there as the newest snapshot.

    Readers through snapshots see it at once; history is not rewritten. The other sites get it with the next sync. Its
    suite is run over it afterwards, where it has one, and the result kept: met or not, it stays published.

    Args:
        reason: why; it goes into the snapshot's labels.
        folder: also make the objects at the dataset's own keys those of the backup.
        vault_site: read from this mirror instead of the vault's own site.
        request: under what it was approved (`approve_restore`); none: nobody was asked.

    Raises:
        NeedsHuman, SelfApproval: the group asks for four eyes, and no second person approved; nothing was published.
        UnknownBackup, UnsafePath, Damaged, WrongKey: the vault; nothing was published.
        ConfigError: the vault is none of the group's, it is no backup of a dataset or model of the group, or where its
            tables would be is not known.
        TableDamaged: a table cannot be moved there; nothing was published.
        ResidencyRefused, NotActive, TargetChanged, Superseded: see `restore_as_snapshot`.
    """
    from holdfast.engine.pipeline.active import require_active
    from holdfast.engine.pipeline.vaults.approving import approval_of

    require_own(runtime, group, vault)
    found = opened(runtime, vault, "reader", site=vault_site)
    refuse_guess(found, backup, vault_site)
    wanted = live_candidate(runtime, group, found, backup=backup, source=source, at=at)
    state = require_active(runtime, group)
    approval = approval_of(runtime, group, vault, wanted, state, request=request)
    dataset = runtime.topology.datasets.get(wanted.source)
    path = _live_path(runtime, wanted)
    moves = Moves()
    if dataset is not None and dataset.sync.table == "iceberg":
        moves = plan_moves(found, wanted, location_of(runtime, state.active_site, keys.data_folder(path)))
    store = runtime.store(state.active_site, flow=group)
    done = restore_as_snapshot(
        found,
        wanted,
        store,
        site=state.active_site,
        epoch=state.epoch,
        clock=runtime.clock,
        dataset=wanted.source,
        path=path,
        active=lambda: require_active(runtime, group),
        residency=residency_for(runtime.topology, wanted.source),
        sites=runtime.topology.sites,
        labels={"restored_because": reason, **(approval.labels() if approval else {})},
        own_keys=dataset is None or dataset.sync.layout == "direct",
        restore_live=folder,
        options=RestoreOptions(progress=progress or (lambda _seen: None)),
        around=moves.around,
    )
    done.restored.rewritten, done.restored.tables = moves.done(), moves.tables()
    check_version(runtime, store, done.record)
    return done


def _live_path(runtime: Runtime, backup: Backup) -> str:
    """Where a dataset or model lies. What a backup says of itself, somebody with the writer's key may have said."""
    dataset = runtime.topology.datasets.get(backup.source)
    if dataset is not None:
        return dataset.path
    own = f"models/{backup.source}/"
    told = str(backup.origin.get("path"))
    return told if told.startswith(own) and why_unsafe(told) is None else f"{own}{backup.backup_id}"


def live_candidate(
    runtime: Runtime, group: str, vault: Vault, *, backup: str | None, source: str | None, at: datetime | None
) -> Backup:
    """The backup that would be restored into a group's live layout. Raises UnknownBackup, ConfigError."""
    from holdfast.engine.recovery.subjects import snapshot_subjects

    wanted = find_backup(vault, backup, source=source, at=at)
    known = snapshot_subjects(runtime.topology, group)
    if wanted.kind != "snapshot" or wanted.source not in known:
        raise ConfigError(
            "this is no backup of a dataset or model of the group",
            where=f"{vault.name}: {wanted.backup_id}",
            expected=f"a snapshot of {' or '.join(known) or '(nothing)'}",
            found=f"a {wanted.kind} of {wanted.source}",
            fix="Name its --source, or restore it to a folder or a prefix",
        )
    return wanted


@dataclass(frozen=True)
class RestoreQuestion:
    """What a person is asked before a live restore.

    Args:
        backup: a name that only the backup meant answers to.
        approved_by: who approved it, where that is recorded already.
    """

    backup: str
    text: str
    approved_by: str | None = None


def question(
    runtime: Runtime,
    group: str,
    vault: str,
    *,
    backup: str | None,
    source: str,
    at: datetime | None,
    reason: str,
    vault_site: str | None = None,
    asked_by: str | None = None,
    request: str | None = None,
) -> RestoreQuestion:
    """Which backup it would be, and what it would take the place of. Raises as `restored_live`; reads no content.

    Args:
        asked_by: who asks for it; none: nobody, a schedule does.
        request: under what it is to be approved (`approve_restore`).
    """
    from holdfast.engine.pipeline.active import require_active
    from holdfast.engine.pipeline.vaults.approving import recorded_approval

    require_own(runtime, group, vault)
    found = opened(runtime, vault, "writer", site=vault_site)
    wanted = live_candidate(runtime, group, found, backup=backup, source=source, at=at)
    state = require_active(runtime, group)
    newest = latest(runtime.store(state.active_site, flow=group), wanted.source, epoch=state.epoch)
    now = "nothing" if newest is None else f"snapshot {newest.snapshot_id} of {iso_utc(newest.taken_at)}"
    place = f"at {state.active_site} in epoch {state.epoch} in place of {now}"
    content = f"{wanted.objects} objects, {wanted.size_bytes} bytes, content of {iso_utc(wanted.taken_at)}"
    lines = [
        f"Reason: {reason}",
        f"Backup {wanted.handle} in {vault}: {content}",
        f"It would be published {place}, which stays and can be gone back to.",
    ]
    if asked_by:
        needed = ", so somebody else has to approve it (four eyes)" if runtime.topology.group(group).four_eyes else ""
        lines.append(f"Asked for by {asked_by}{needed}.")
    if found.alarm is not None:
        lines.append(f"Mind: {found.alarm}")
    approval = recorded_approval(runtime, group, vault, wanted, state, request=request)
    return RestoreQuestion(wanted.handle, "\n\n".join(lines), approval.approved_by if approval else None)


def live_summary(vault: str, done: PublishedRestore) -> dict[str, Any]:
    """For people and `--json`."""
    return {
        **restore_summary(vault, done.restored),
        "snapshot_id": done.record.snapshot_id,
        "dataset": done.record.dataset,
        "site": done.record.site,
        "epoch": done.record.epoch,
        "published": done.made,
        "own_keys": done.own_keys,
    }


def folder_target(folder: Path, *, overwrite: bool = False) -> Target:
    """A folder of this machine."""
    return FolderTarget(folder, overwrite=overwrite)


def site_target(runtime: Runtime, site: str, prefix: str) -> Target:
    """A prefix of a site's bucket.

    Raises:
        UnknownName: no such site.
        ConfigError: no prefix, or one that belongs to something alive.
    """
    runtime.topology.site(site)
    folder = prefix.strip("/")
    if why := _why_not(runtime, site, folder):
        raise ConfigError(
            "a backup is not restored to this prefix",
            where=f"{site}: {prefix or '(none)'}",
            expected="a folder of its own, e.g. `restored/…`; a training run goes to `runs/<run>`",
            found=why,
            fix="Live data is restored as a snapshot: `holdfast vault restore --live`",
        )
    return PrefixTarget(runtime.store(site), folder + "/", location=location_of(runtime, site, folder))


def _why_not(runtime: Runtime, site: str, folder: str) -> str | None:
    """Why nothing is restored to a folder of a site's bucket; ``None``: it may be."""
    if (reason := why_unsafe(folder)) is not None:
        return f"{folder!r}: {reason}"
    for name in runtime.topology.vaults:
        place = prefix_of(runtime, name)
        if site in places_of(runtime, name) and (_is_in(folder, place) or _is_in(place, folder)):
            return f"{folder!r}: the vault {name} lies in {place}"
    recovery = runtime.topology.airflow.recovery
    if recovery is not None and recovery.site == site:
        place = recovery.prefix
        if _is_in(folder, place) or _is_in(place, folder):
            return f"{folder!r}: the repository of Airflow's recovery lies in {place}"
    taken = next((one for one in TAKEN if _is_in(folder, one)), None)
    return None if taken is None else f"{folder!r}: what is alive reads {taken}"


def _is_in(folder: str, other: str) -> bool:
    return f"{folder}/".startswith(f"{other}/")


def location_of(runtime: Runtime, site: str, key: str) -> str | None:
    """A folder of a site's bucket as a table's location; ``None``: a part of it is not known here."""
    settings = runtime.topology.site(site)
    try:
        access = runtime.access(site)
        if isinstance(access, Connection):
            access = access_from_connection(settings, access)
        return table_location(settings, key, account=access.options.get("account_name"))
    except ConfigError:
        return None


def admitted_at(runtime: Runtime, site: str) -> Callable[[Backup], None]:
    """Refuses a backup whose content may not lie at a site. Its function raises ResidencyRefused."""

    def admit(backup: Backup) -> None:
        try:
            residency = residency_for(runtime.topology, data_of(runtime.topology, backup.source))
        except UnknownName:
            return  # a folder or a stream: no residency class is known of it
        check_hop(backup.source, residency, site, runtime.topology.sites, intent=RESTORE)

    return admit


def restore_summary(vault: str, report: RestoreReport) -> dict[str, Any]:
    """For people and `--json`."""
    return {
        "vault": vault,
        **report.backup.to_summary(),
        "restored": report.restored,
        "restored_bytes": report.restored_bytes,
        "kept": report.kept,
        "kept_bytes": report.kept_bytes,
        "read_bytes": report.read_bytes,
        "damaged": dict(report.damaged),
        "tables": [dict(table) for table in report.tables],
        "rewritten": [asdict(one) for one in report.rewritten],
    }
