"""Restoring: to a folder of this machine, or below a prefix of a site."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from holdfast.engine.config.residency import check_hop, residency_for
from holdfast.engine.pipeline.vaults.opening import opened
from holdfast.engine.recovery.subjects import base_run
from holdfast.engine.runtime import Runtime
from holdfast.engine.vault.backup import Progress
from holdfast.engine.vault.backups import Backup, find_backup
from holdfast.engine.vault.restore import RestoreOptions, RestoreReport, Target, restore_backup
from holdfast.engine.vault.targets import FolderTarget, PrefixTarget
from holdfast.errors import ConfigError, UnknownName

#: Folders of a site's bucket that something alive reads.
_TAKEN = frozenset(
    {
        *("authority", "data", "evidence", "health", "ledger", "receipts", "snapshots", "sync-plans", "tombstones"),
        *("uploads", "vault", "vault-witness"),
    }
)


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
    """Restore a backup.

    Args:
        backup: its id; by default the newest, of ``source`` and not newer than ``at``.
        vault_site: read from this mirror instead of the vault's own site.
        admit: asked before anything is written; what it raises ends the restore.

    Raises:
        UnknownBackup, UnsafePath, Damaged, Refused, WrongKey.
    """
    found = opened(runtime, vault, "reader", site=vault_site)
    wanted = find_backup(found, backup, source=source, at=at)
    admit(wanted)
    options = RestoreOptions(
        paths=tuple(paths),
        patterns=tuple(patterns),
        keep_going=keep_going,
        progress=progress or (lambda _seen: None),
    )
    return restore_backup(found, wanted, target, options)


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
    folder = prefix.strip("/").partition("/")[0]
    if not folder or folder in _TAKEN:
        raise ConfigError(
            "a backup is not restored to this prefix",
            where=f"{site}: {prefix or '(none)'}",
            expected="a folder of its own, e.g. `restored/…`; a training run goes to `runs/<run>`",
            found=repr(folder),
            fix="Live data is restored as a snapshot: `holdfast vault restore --live`",
        )
    return PrefixTarget(runtime.store(site), prefix.strip("/") + "/")


def admitted_at(runtime: Runtime, site: str) -> Callable[[Backup], None]:
    """Refuses a backup whose content may not lie at a site. Its function raises ResidencyRefused."""

    def admit(backup: Backup) -> None:
        try:
            residency = residency_for(runtime.topology, _data_of(runtime, backup))
        except UnknownName:
            return  # a folder or a stream: no residency class is known of it
        check_hop(backup.source, residency, site, runtime.topology.sites)

    return admit


def _data_of(runtime: Runtime, backup: Backup) -> str:
    """The dataset or model whose residency class a backup has: of a run the data it is trained on."""
    run = backup.source.removeprefix("runs/")
    if run != backup.source:
        for name, group in runtime.topology.groups.items():
            for job in group.training:
                if run.startswith(base_run(name, job)):
                    return runtime.topology.job(job).dataset
    return backup.source


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
    }
