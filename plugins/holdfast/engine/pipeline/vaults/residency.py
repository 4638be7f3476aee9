"""Whether a vault's content may lie at a site: asked by class of what its backups are of."""

from __future__ import annotations

from typing import TYPE_CHECKING

from holdfast.engine.config import Topology
from holdfast.engine.policy import BACK_UP, check_hop, residency_for
from holdfast.errors import HoldfastError, UnknownName

if TYPE_CHECKING:
    from holdfast.engine.runtime import Runtime
    from holdfast.engine.vault.vault import Vault


def data_of(topology: Topology, source: str) -> str:
    """The dataset or model whose residency class a backup's source has: of a run the data it is trained on."""
    from holdfast.engine.recovery.subjects import job_of_run

    run = source.removeprefix("runs/")
    owner = job_of_run(topology, run) if run != source else None
    return source if owner is None else topology.job(owner[1]).dataset


def check_mirror(runtime: Runtime, name: str, site: str, vault: Vault | None = None) -> None:
    """Whether everything that a vault holds backups of may lie at a mirror. Nothing is asked where no class is.

    A class may have been tightened, or the mirror added, since the backups were made.

    Args:
        vault: as somebody opened it; by default it is opened with the writer's key. Without one all data of the
            vault's groups may be in it.

    Raises:
        ResidencyRefused: something of it may not; nothing was copied.
    """
    topology = runtime.topology
    if not topology.residency:
        return
    for source in sorted(_sources(runtime, name, vault)):
        try:
            residency = residency_for(topology, data_of(topology, source))
        except UnknownName:
            continue  # a folder or a stream: no residency class is known of it
        origin = topology.vault(name).site
        check_hop(source, residency, site, topology.sites, intent=BACK_UP, source=origin)


def _sources(runtime: Runtime, name: str, vault: Vault | None) -> set[str]:
    from holdfast.engine.pipeline.vaults.opening import opened
    from holdfast.engine.vault.backups import live_backups

    try:
        return {backup.source for backup in live_backups(vault or opened(runtime, name, "writer"), unreadable={})}
    except HoldfastError:
        topology = runtime.topology
        groups = [group for group in topology.groups.values() if name in group.vaults]
        return {subject for group in groups for subject in group.datasets}
