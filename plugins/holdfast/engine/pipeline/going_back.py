"""Going back: an earlier snapshot's content as the newest one, at the active site and then at the others."""

from __future__ import annotations

from dataclasses import dataclass

from holdfast.engine.authority.interface import EpochState
from holdfast.engine.config.writers import written_sites
from holdfast.engine.pipeline.active import require_active
from holdfast.engine.pipeline.checking import check_version
from holdfast.engine.pipeline.replicas import datasets_of, record_at
from holdfast.engine.recovery.protection import note_complete
from holdfast.engine.replication import ResidencyRefused, replicate
from holdfast.engine.replication.sync import TargetReport
from holdfast.engine.runtime import Runtime
from holdfast.engine.snapshot import CommitRecord, rollback
from holdfast.errors import ConfigError, HoldfastError


@dataclass(frozen=True)
class RollbackReport:
    """The snapshot that was made of the earlier one, and how it got to the other sites."""

    record: CommitRecord
    rolled_back_to: str
    targets: tuple[TargetReport, ...]


def roll_back(
    runtime: Runtime, group: str, dataset: str, *, to: str, reason: str, restore_live: bool = False
) -> RollbackReport:
    """Publish an earlier snapshot's content anew at the active site, then bring it to every other site.

    Nothing is rewritten and nothing is lost: the snapshot that is left stays, and can be gone back to in turn. The
    objects at their own keys stay as they are unless ``restore_live``; what a writer changes there afterwards is new
    data, and the next sync publishes it. Where no result of its suite is kept at the active site, the suite is run
    afterwards.

    Args:
        to: a snapshot's id at the active site, or how it begins.
        reason: why, for the new snapshot's labels.
        restore_live: also make the objects at their own keys those of the snapshot.

    Raises:
        UnknownName, ConfigError, GroupNotInitialised, NoMajority: nothing was done.
        NoSnapshot: the active site does not have it.
        ConfigError: no reason.
        SnapshotError: it may not be selected, its bytes are gone, or somebody else published meanwhile.
    """
    datasets_of(runtime, group, dataset)
    if not reason.strip():
        raise ConfigError("a rollback needs a reason", where="reason", expected="a sentence", found="nothing")
    state = require_active(runtime, group)
    stores = runtime.stores(runtime.topology.group(group).sites.all())
    wanted = record_at(stores[state.active_site], dataset, state.active_site, state.epoch, to)
    record = rollback(
        stores,
        dataset,
        to=wanted.snapshot_id,
        epoch=state.epoch,
        site=state.active_site,
        clock=runtime.clock,
        reason=reason,
        restore_live=restore_live,
    )
    others = [site for site in stores if site != state.active_site]
    targets = tuple(_bring(runtime, group, record, site, state) for site in others)
    check_version(runtime, stores[state.active_site], record)
    return RollbackReport(record, wanted.snapshot_id, targets)


def _bring(runtime: Runtime, group: str, record: CommitRecord, site: str, state: EpochState) -> TargetReport:
    """Bring one snapshot to one site: just this one, not what writers have made since."""
    if site in written_sites(runtime.topology, group, record.dataset):
        return TargetReport(site, error="it is written to as well, so the next `holdfast sync run` brings it, merged")
    as_of = runtime.clock.now()
    try:
        done = replicate(
            runtime.store(state.active_site),
            runtime.store(site),
            record=record,
            source_site=state.active_site,
            target_site=site,
            residency=runtime.topology.residency_of(record.dataset),
            topology_sites=runtime.topology.sites,
            clock=runtime.clock,
        )
        note_complete(runtime, group, state, record.dataset, site, record.snapshot_id, as_of)
    except ResidencyRefused as error:
        return TargetReport(site, refused=str(error))
    except HoldfastError as error:
        return TargetReport(site, error=str(error))
    return TargetReport(
        site=site,
        copied_objects=done.copied_objects,
        copied_bytes=done.copied_bytes,
        carried_objects=done.skipped_objects,
        verified_objects=done.verified_objects,
        receipt_key=done.receipt_key,
    )
