"""Take a run into an epoch whose plan did not: it had ended then, or nothing of it was at the new site yet."""

from __future__ import annotations

from holdfast.engine.authority.interface import EpochState
from holdfast.engine.checkpoint import elect, fork_run
from holdfast.engine.checkpoint.format import manifest_prefix, run_root
from holdfast.engine.objectstore.errors import ObjectNotFound
from holdfast.engine.objectstore.interface import ObjectStore
from holdfast.engine.recovery.errors import RecoveryError
from holdfast.engine.recovery.interface import Rooms
from holdfast.engine.recovery.plan import plan_folder
from holdfast.engine.recovery.residency import checkpoints_allowed
from holdfast.engine.recovery.subjects import published_runs
from holdfast.engine.snapshot.lineage import read_fork, read_forks
from holdfast.errors import HoldfastError


class RunLeftBehind(RecoveryError):
    """The run has a history, but no place in the group's epoch; asking again does not help."""


def fork_late(rooms: Rooms, group: str, job: str, run: str, state: EpochState) -> None:
    """Fork a run that the epoch's plan left out, once that plan has forked all that it takes.

    From then on nothing but the run's own starters decides where it goes on. They elect, at the active site, what the
    plan would have elected, and the fork is create-only under the plan's id: of two starters one decides. Nothing is
    done for a run that is forked, or has no history here.

    Raises:
        RunLeftBehind: it ended well before, or this bucket does not know the epoch it would be forked from.
        ObjectStoreError: the active site does not answer.
    """
    store, root = rooms.store(state.active_site), run_root(run)
    if state.epoch == 1 or read_fork(store, root, state.epoch) is not None:
        return
    forks = read_forks(store, root)
    if not forks and next(iter(store.list(manifest_prefix(run))), None) is None:
        return
    if state.plan_id is None or not _has_promoted(rooms, store, group, state):
        return
    facts = {"where": f"run {run} at {state.active_site}, epoch {state.epoch}"}
    again = "Start a new run under another name"
    if run in published_runs(store, rooms.topology.job(job).model, epoch=state.epoch):
        raise RunLeftBehind(
            "the run ended well before the group failed over",
            expected="a run that has no model yet",
            found="its model, published",
            fix=again,
            **facts,
        )
    parent = state.epoch - 1
    if parent > 1 and all(fork.epoch != parent for fork in forks):
        raise RunLeftBehind(
            "the run has no place in the epoch before, so nothing says what it would go on from",
            expected=f"the fork record of epoch {parent}",
            found=f"those of {', '.join(str(fork.epoch) for fork in forks) or 'no epoch'}",
            fix=again,
            **facts,
        )
    site = state.active_site
    found = elect(store, run, epoch=parent, site=site, allowed=checkpoints_allowed(rooms.topology, job, site))
    fork_run(
        store,
        run,
        epoch=state.epoch,
        parent_epoch=parent,
        election=found,
        site=site,
        plan_id=state.plan_id,
        holder=rooms.holder,
        reason="asked for after the failover, whose plan had not taken it",
        clock=rooms.clock,
    )


def _has_promoted(rooms: Rooms, here: ObjectStore, group: str, state: EpochState) -> bool:
    """Whether the epoch's plan has written all its forks: it recorded so here, or at another site that answers."""
    key = f"{plan_folder(group, state.plan_id or '')}/{state.epoch:06d}/promote.json"
    others = [site for site in rooms.topology.group(group).sites.all() if site != state.active_site]
    return _has(here, key) or any(_may_have(rooms, site, key) for site in others)


def _may_have(rooms: Rooms, site: str, key: str) -> bool:
    try:
        return _has(rooms.store(site), key)
    except HoldfastError:
        return False


def _has(store: ObjectStore, key: str) -> bool:
    try:
        store.head(key)
    except ObjectNotFound:
        return False
    return True
