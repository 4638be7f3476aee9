"""Mirrors made right again from their vault."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from holdfast.engine.pipeline.vaults.backing_up import mirrors_of
from holdfast.engine.pipeline.vaults.locking import protector
from holdfast.engine.pipeline.vaults.opening import vault_store
from holdfast.engine.pipeline.vaults.residency import check_mirror
from holdfast.engine.pipeline.vaults.verifying import opened_to_verify
from holdfast.engine.runtime import Runtime
from holdfast.engine.vault.mirror import MirrorReport
from holdfast.engine.vault.repair import RepairOptions, RepairReport, repair_mirror
from holdfast.errors import HoldfastError


@dataclass(frozen=True)
class RepairedMirror:
    """What was done at one mirror.

    Args:
        repaired: what was written anew.
        copied: what it did not have yet.
    """

    repaired: RepairReport
    copied: MirrorReport


def mirrors_repaired(
    runtime: Runtime,
    vault: str,
    *,
    site: str | None = None,
    progress: Callable[[int, int], None] = lambda _done, _all: None,
) -> dict[str, RepairedMirror | HoldfastError]:
    """Read every mirror of a vault whole, and write anew what is missing or damaged there.

    With a reader's keys at hand content is opened; with a writer's only, digests are compared. One mirror that fails
    does not stop the others.

    Args:
        site: only the mirror there.

    Raises:
        ConfigError: there is no mirror at `site`.
        WrongKey, NoVault, HistoryDamaged: the vault itself cannot be opened.
    """
    sites = mirrors_of(runtime, vault, site)
    found = opened_to_verify(runtime, vault)
    done: dict[str, RepairedMirror | HoldfastError] = {}
    for mirror in sites:
        try:
            check_mirror(runtime, vault, mirror, found)
            store = vault_store(runtime, vault, site=mirror)
            options = RepairOptions(protect=protector(runtime, vault, store, site=mirror), progress=progress)
            done[mirror] = RepairedMirror(*repair_mirror(found, store, options))
        except HoldfastError as error:
            done[mirror] = error
    return done
