"""Backups: by source where the writer's key is at hand, else only that something lies there."""

from __future__ import annotations

from collections.abc import Iterator

from holdfast.engine.audit.residency.judging import Found
from holdfast.engine.audit.residency.report import CopyKind
from holdfast.engine.audit.residency.walk import Unread, dataset_of_run
from holdfast.engine.config import Topology
from holdfast.engine.pipeline.vaults.opening import opened, store_below
from holdfast.engine.policy import BACK_UP, Kind
from holdfast.engine.runtime import Runtime
from holdfast.engine.vault.backups import Backup, live_backups
from holdfast.engine.vault.layout import KEYS, PACKS
from holdfast.errors import HoldfastError


def backups_at(runtime: Runtime, name: str, site: str, unread: Unread) -> Iterator[Found]:
    """What one site holds of a vault; nothing where the vault was never made.

    Raises:
        HoldfastError: the site cannot be listed.
    """
    below = store_below(runtime, name, site)
    packs = [info.size_bytes for info in below.list(PACKS)]
    if not packs and next(iter(below.list(KEYS)), None) is None:
        return
    shares = runtime.topology.vault(name).shares
    unreadable: dict[int, str] = {}
    try:
        # Of shares each site has its part of everything; a mirror may be behind, so it is asked itself.
        vault = opened(runtime, name, "writer", site=None if shares is not None else site)
        backups = live_backups(vault, unreadable=unreadable)
    except HoldfastError as error:
        unread(f"vault {name}", f"which sources it holds is not known: {error}")
        yield Found(CopyKind.PACKS, name, "packs", site, None, BACK_UP, sum(packs), len(packs))
        return
    by_source: dict[str, list[Backup]] = {}
    for backup in backups:
        by_source.setdefault(backup.source, []).append(backup)
    for source, ones in sorted(by_source.items()):
        yield _of_source(runtime.topology, name, site, source, ones)
    for number, why in sorted(unreadable.items()):
        unread(f"vault {name}, entry {number}", why)
    if (rest := sum(packs) - sum(backup.stored_bytes for backup in backups)) > 0 and packs:
        yield _rest(runtime.topology, name, site, rest, len(packs))


def _of_source(topology: Topology, vault: str, site: str, source: str, backups: list[Backup]) -> Found:
    run = source.removeprefix("runs/")
    owner = dataset_of_run(topology, run) if run != source else None
    data = owner[1] if owner is not None else source
    return Found(
        CopyKind.BACKUP,
        source,
        f"{len(backups)} backups in vault {vault}",
        site,
        data,
        BACK_UP,
        sum(backup.stored_bytes for backup in backups),
        sum(backup.objects for backup in backups),
        source=str(origin) if (origin := backups[0].origin.get("site")) else None,
        arrived_at=min(backup.committed_at for backup in backups),
        kinds=(Kind.BACKUP,),
        names=tuple(dict.fromkeys((source, run, data))),
    )


def _rest(topology: Topology, vault: str, site: str, size_bytes: int, packs: int) -> Found:
    """Bytes that no live backup accounts for: of backups that were forgotten and not collected yet, mostly."""
    groups = [group for group in topology.groups.values() if vault in group.vaults]
    trained = {topology.job(job).dataset for group in groups for job in group.training}
    subjects = sorted(trained.union(*(group.datasets for group in groups)))
    what = f"what live backups do not account for, of {packs} packs"
    return Found(
        CopyKind.PACKS, vault, what, site, None, BACK_UP, size_bytes, kinds=(Kind.BACKUP,), one_of=tuple(subjects)
    )
