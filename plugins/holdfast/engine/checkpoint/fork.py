"""Fork a run into a new epoch: the create-only record that decides what the epoch's lineage is."""

from __future__ import annotations

from holdfast.clock import Clock
from holdfast.engine.checkpoint.elect import Election, ancestors_named
from holdfast.engine.checkpoint.format import manifest_prefix, run_root
from holdfast.engine.objectstore.interface import ObjectStore
from holdfast.engine.snapshot.errors import EpochUnknownHere
from holdfast.engine.snapshot.lineage import EpochFork, new_fork, read_fork, read_forks, write_fork


def fork_run(
    store: ObjectStore,
    run: str,
    *,
    epoch: int,
    parent_epoch: int | None,
    election: Election | None,
    site: str,
    plan_id: str,
    holder: str,
    reason: str,
    clock: Clock,
) -> EpochFork:
    """Say in this bucket that ``epoch`` goes on from the elected checkpoint (or, without one, from the start).

    Where nothing was elected, though the epoch before went on from a checkpoint, this one does so from the same: it
    may be replicated later, and until then the run is not silently started anew.

    Idempotent on the plan. Write it into every bucket that answers, the promoted site's first: an election in a
    bucket that lacks the newest fork refuses.

    Raises:
        Refused: another plan forked this epoch already.
    """
    forked_from, ancestors = _going_on_from(store, run, election)
    fork = new_fork(
        run,
        epoch=epoch,
        parent_epoch=parent_epoch,
        forked_from=forked_from,
        ancestors=ancestors,
        site=site,
        plan_id=plan_id,
        holder=holder,
        reason=reason,
        created_at=clock.now(),
    )
    return write_fork(store, run_root(run), fork)


def _going_on_from(store: ObjectStore, run: str, election: Election | None) -> tuple[str | None, tuple[str, ...]]:
    """What a new fork names: the checkpoint, and whom it descends from.

    Its own manifest names these too, but may be the very thing that is damaged when the epoch begins.
    """
    if election is None:
        return None, ()
    if election.manifest is not None:
        return election.digest, ancestors_named(election.manifest)
    before = read_fork(store, run_root(run), election.epoch)
    return (before.forked_from, before.ancestors) if before is not None else (None, ())


def begin_run(
    store: ObjectStore, run: str, *, epoch: int, site: str, plan_id: str, holder: str, clock: Clock
) -> EpochFork | None:
    """Make sure a job of this epoch knows where to begin: for a run that is new, from the start.

    Call it before submitting a job that no failover plan forked. A run that is new in a later epoch than the first
    gets a root fork; a run whose history this bucket holds without the epoch's fork is refused.

    Raises:
        EpochUnknownHere: the run has a history here but nobody said what this epoch forked from.
    """
    fork = read_fork(store, run_root(run), epoch)
    if fork is not None or epoch == 1:
        return fork
    history = next(iter(store.list(manifest_prefix(run))), None)
    if history is not None or read_forks(store, run_root(run)):
        raise EpochUnknownHere(
            "the run has a history in this bucket, but no fork record of this epoch",
            where=f"{store.name}: {run_root(run)}/epochs/{epoch:06d}.json",
            expected="a fork record, written by the plan that committed the epoch",
            found="nothing",
            fix="Run the plan's resume_training step, or start a new run under another name",
        )
    return fork_run(
        store,
        run,
        epoch=epoch,
        parent_epoch=None,
        election=None,
        site=site,
        plan_id=plan_id,
        holder=holder,
        reason="a new run",
        clock=clock,
    )


def copy_forks(source: ObjectStore, target: ObjectStore, run: str) -> None:
    """Bring the run's fork records to another bucket, oldest first. Raises Refused where they contradict."""
    known = {fork.epoch for fork in read_forks(target, run_root(run))}
    for fork in sorted(read_forks(source, run_root(run)), key=lambda fork: fork.epoch):
        if fork.epoch not in known:
            write_fork(target, run_root(run), fork)
