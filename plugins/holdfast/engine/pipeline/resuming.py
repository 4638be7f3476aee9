"""Start a run again by hand: from which checkpoint, and why not from a newer one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from holdfast.engine.checkpoint import Election, elect
from holdfast.engine.compute import JobHandle, JobState, TrainingBackend
from holdfast.engine.compute.attempts import Attempts
from holdfast.engine.pipeline.active import require_active
from holdfast.engine.pipeline.runs import NoRun, is_known, require_job, require_run
from holdfast.engine.pipeline.training import start_training
from holdfast.engine.recovery.jobs import find_job
from holdfast.engine.recovery.placing import Say, say_nothing
from holdfast.engine.recovery.residency import checkpoints_allowed
from holdfast.engine.recovery.start_training import StartedJob
from holdfast.engine.runtime import Runtime


@dataclass(frozen=True, slots=True)
class Resumption:
    """A run that goes on, or goes on already.

    Args:
        election: what an election at the active site took just before. Whether the resume is bitwise only the job
            itself knows, whose environment counts: see `resumed_by`.
        was: how the job of this epoch stood before; ``None``: there was none.
        begun: whether this call made a new attempt.
    """

    started: StartedJob
    election: Election
    was: JobState | None
    begun: bool


def resume_training(
    runtime: Runtime, group: str, job: str, *, run: str | None = None, say: Say = say_nothing
) -> Resumption:
    """Start a run again at the active site, from what an election there takes. A job that runs is left alone.

    Whoever calls it knows how the run stands and wants it all the same: also one that failed by itself, or lost more
    machines than a run may. Its placements are asked from the first one on.

    Args:
        run: by default the job's newest.
        say: told what is asked of which placement.

    Raises:
        NoRun: there is no such run here: nothing of it was ever saved or started.
        EpochUnknownHere: the site does not know yet what this epoch goes on from.
        UnknownName, ConfigError, GroupNotInitialised, NoMajority, ResidencyRefused, TrainingMustWait,
            NoMachine: see `start_training`.
    """
    require_job(runtime.topology, group, job)
    state = require_active(runtime, group)
    site = state.active_site
    store = runtime.store(site)
    named = require_run(store, group, job, run, epoch=state.epoch)
    backend = runtime.backend(site)
    handle = find_job(backend, site, named, state.epoch)
    was = None if handle is None else backend.status(handle).state
    election = elect(
        store, named, epoch=state.epoch, site=site, allowed=checkpoints_allowed(runtime.topology, job, site)
    )
    if handle is None and not is_known(store, named):
        raise NoRun(
            "there is no such run to go on with",
            where=f"{store.name}: {named}",
            expected="a checkpoint, a fork record or a job of it",
            found="nothing",
            fix=f"Start it with `holdfast train run {group} {job} --run {named}`",
        )
    newest = Attempts(store, named, state.epoch, holder=runtime.holder).newest()
    known = newest.attempt if newest is not None else 1
    started = start_training(runtime, group, job, run=named, again_after=known, say=say)
    return Resumption(started, election, was, begun=started.submitted)


def resumed_by(backend: TrainingBackend, handle: JobHandle) -> dict[str, Any] | None:
    """What the job's own process says it resumed from: ``step``, ``resume``, ``differences``, ``passed_over`` and more.

    ``None`` until it has said so. A handle names one attempt, so this is never an earlier attempt's answer.
    """
    beat = backend.heartbeat(handle)
    found = beat.get("resumed") if beat is not None else None
    return found if isinstance(found, dict) else None
