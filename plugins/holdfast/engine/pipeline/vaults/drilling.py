"""Restore drills of a group's datasets and models, from the vaults the topology names."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from holdfast.engine.config import Objectives
from holdfast.engine.drill.restore_drill import run_restore_drill
from holdfast.engine.drill.restore_journal import RestoreDrillJournal
from holdfast.engine.pipeline.vaults.backing_up import subjects_of
from holdfast.engine.pipeline.vaults.opening import opened, require_own
from holdfast.engine.recovery.interface import ProgressSink, ignore_progress
from holdfast.engine.runtime import Runtime


def drill_restore(
    runtime: Runtime,
    group: str,
    subject: str,
    vault: str,
    *,
    output: Path,
    backup: str | None = None,
    at: datetime | None = None,
    target_site: str | None = None,
    vault_site: str | None = None,
    drill_id: str | None = None,
    progress: ProgressSink = ignore_progress,
) -> RestoreDrillJournal:
    """Restore the newest backup of a dataset or model into another cloud, check it, remove it, and sign the measures.

    Args:
        output: folder of the evidence; it is kept in the group's buckets as well.
        backup: its id; by default the newest, not newer than ``at``.
        target_site: where to restore; by default the first site in another cloud that may hold the data. Of a vault of
            shares: in another than the source's, whose shares are not read.
        vault_site: read from this mirror instead of the vault's own site.
        drill_id: as `new_drill_id` makes it.

    Raises:
        UnknownName, ConfigError: a name or the signing key is wrong; nothing was done and nothing is written.
    """
    require_own(runtime, group, vault)
    subjects_of(runtime, group, subject)
    settings = runtime.topology.vault(vault)
    return run_restore_drill(
        runtime,
        subject,
        open_vault=lambda: opened(runtime, vault, "reader", site=vault_site),
        vault_site=vault_site or settings.site,
        output=output,
        group=group,
        backup=backup,
        at=at,
        target_site=target_site,
        objectives=objectives_of(runtime, group, vault),
        drill_id=drill_id,
        progress=progress,
        share_sites=settings.shares.sites if settings.shares is not None else (),
    )


def objectives_of(runtime: Runtime, group: str, vault: str) -> Objectives:
    """What a restore must meet: the group's RTO, and as RPO the vault's own where it has one (`rpo_hours`)."""
    own = runtime.topology.group(group).objectives
    hours = runtime.topology.vault(vault).rpo_hours
    return own if hours is None else own.model_copy(update={"rpo_seconds": hours * 3600})
