"""How a run stands: what its job says, what is durable, and what a loss of the site would cost per standby."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from holdfast.clock import Clock
from holdfast.engine.authority.interface import EpochState
from holdfast.engine.checkpoint.elect import Allowed
from holdfast.engine.checkpoint.errors import CheckpointUnreadable
from holdfast.engine.checkpoint.risk import RunAtRisk, TrainedTo, run_at_risk, trained_to
from holdfast.engine.compute import JobHandle, JobStatus, TrainingBackend
from holdfast.engine.compute.attempts import Attempts
from holdfast.engine.config.compute import Placement
from holdfast.engine.pipeline.active import require_active
from holdfast.engine.pipeline.runs import NoRun, is_known, require_job, require_run, sites_of
from holdfast.engine.policy import COPY_CHECKPOINTS, ResidencyRefused, check_hop, residency_for
from holdfast.engine.recovery.jobs import find_job
from holdfast.engine.recovery.residency import checkpoints_allowed
from holdfast.engine.runtime import Runtime
from holdfast.errors import ConfigError, HoldfastError


@dataclass(frozen=True, slots=True)
class Beat:
    """What a job's heartbeat tells; what it does not tell is ``None``.

    Args:
        age_seconds: since it was written, by this machine's clock.
        saving: the back-pressure, as docs/formats/checkpoint.md has it.
        interval: the planned interval, as there; empty where it is not planned.
        retention: per site what is kept and what went, as there.
        resumed: what this process went on from, as there.
    """

    state: str | None = None
    at: datetime | None = None
    age_seconds: float | None = None
    step: int | None = None
    step_at: datetime | None = None
    total_steps: int | None = None
    loss: float | None = None
    permission: str | None = None
    checkpoint_step: int | None = None
    saving: Mapping[str, Any] = field(default_factory=dict)
    interval: Mapping[str, Any] = field(default_factory=dict)
    retention: Mapping[str, Any] = field(default_factory=dict)
    resumed: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class ToldAttempt:
    """One attempt of a run in this epoch.

    Args:
        placement: what of it is set: ``machine``, ``spot`` and so on.
        state: ``unknown``: its backend did not answer; ``not submitted``: it is only written down.
        reason: why it was asked for.
        detail: what its backend says.
    """

    attempt: int
    placement: Mapping[str, Any]
    state: str
    reason: str
    detail: str | None


@dataclass(frozen=True, slots=True)
class TrainingStatus:
    """How one run stands. What could not be found out is ``None``, and ``problems`` says why.

    Args:
        job_status: of the job in this epoch; ``None``: there is none.
        durable_step: of the newest checkpoint at the active site, which then counts as saved.
        at_risk: per standby that may hold checkpoints.
        refused_standbys: the others, and why.
        attempts: in this epoch, oldest first; of those that found no machine only the last round's.
    """

    group: str
    job: str
    run: str
    epoch: int
    active_site: str
    job_status: JobStatus | None
    beat: Beat | None
    durable_step: int | None
    at_risk: tuple[RunAtRisk, ...]
    refused_standbys: Mapping[str, str]
    attempts: tuple[ToldAttempt, ...] = ()
    problems: tuple[str, ...] = ()


def training_status(runtime: Runtime, group: str, job: str, *, run: str | None = None) -> TrainingStatus:
    """Look at a run; nothing is started or written.

    Args:
        run: by default the job's newest.

    Raises:
        UnknownName, ConfigError, NoRun: there is no such group, job or run.
        GroupNotInitialised, NoMajority: see `require_active`.
        StoreUnavailable: no run was named and the active site does not answer.
    """
    require_job(runtime.topology, group, job)
    state = require_active(runtime, group)
    named = run or require_run(runtime.store(state.active_site), group, job, None, epoch=state.epoch)
    problems: list[str] = []
    handle, status, beat = _look_at_job(runtime, state.active_site, named, state.epoch, problems)
    refused = refused_standbys(runtime, group, job, state.active_site)
    risks: tuple[RunAtRisk, ...] = ()
    durable: int | None = None
    try:
        if status is None and not problems:
            _require_known(runtime, state.active_site, named)
        risks, durable = _at_risk(runtime, group, job, named, state.epoch, state.active_site, refused, beat)
    except NoRun:
        raise
    except HoldfastError as error:
        problems.append(str(error))
    attempts = _attempts(runtime, named, state, handle, status, problems)
    return TrainingStatus(
        group,
        job,
        named,
        state.epoch,
        state.active_site,
        status,
        beat,
        durable,
        risks,
        refused,
        attempts,
        tuple(problems),
    )


def work_at_risk_of(runtime: Runtime, group: str, job: str, *, run: str | None = None) -> tuple[RunAtRisk, ...]:
    """What a loss of the active site would cost now, per standby that may hold checkpoints.

    Raises:
        CheckpointUnreadable: the heartbeat cannot be read; nothing is claimed then.
        as `training_status`; and whatever the active site's store or the job's backend says.
    """
    require_job(runtime.topology, group, job)
    state = require_active(runtime, group)
    named = run or require_run(runtime.store(state.active_site), group, job, None, epoch=state.epoch)
    backend = runtime.backend(state.active_site)
    handle = find_job(backend, state.active_site, named, state.epoch)
    beat = read_beat(backend, handle, clock=runtime.clock) if handle is not None else None
    if handle is None:
        _require_known(runtime, state.active_site, named)
    refused = refused_standbys(runtime, group, job, state.active_site)
    return _at_risk(runtime, group, job, named, state.epoch, state.active_site, refused, beat)[0]


def over_limits(
    risks: Sequence[RunAtRisk], *, max_steps: int | None = None, max_seconds: float | None = None
) -> tuple[str, ...]:
    """What of the work at risk is above a limit, one sentence each; empty when all of it is within.

    What is not known is never within: a standby that did not answer, or has nothing to resume from, is over. So is a
    run that no standby may hold.

    Args:
        max_steps: per standby; None: any number.
        max_seconds: of training, per standby; None: any time.
    """
    if not risks:
        return ("no standby holds this run's checkpoints",)
    over = []
    for one in risks:
        if one.seconds is None:
            over.append(f"{one.standby}: {one.detail}")
        elif max_steps is not None and one.steps > max_steps:
            over.append(f"{one.standby}: {one.steps} steps at risk, more than {max_steps}")
        elif max_seconds is not None and one.seconds > max_seconds:
            over.append(f"{one.standby}: {one.seconds:.1f} s at risk, more than {max_seconds:g} s")
    return tuple(over)


def read_beat(backend: TrainingBackend, handle: JobHandle, *, clock: Clock) -> Beat | None:
    """The job's heartbeat, ``None`` before its first.

    Raises:
        CheckpointUnreadable: a time in it is none.
        ComputeUnavailable, UnknownHandle: of the backend.
    """
    found = backend.heartbeat(handle)
    return None if found is None else _beat(found, clock)


def refused_standbys(runtime: Runtime, group: str, job: str, active: str) -> dict[str, str]:
    """The standbys that the residency of the job's data forbids, and why."""
    dataset = runtime.topology.job(job).dataset
    residency = residency_for(runtime.topology, dataset)
    refused = {}
    for site in _standbys(runtime, group, active):
        try:
            check_hop(
                dataset, residency, site, runtime.topology.sites, intent=COPY_CHECKPOINTS, source=active, preview=True
            )
        except ResidencyRefused as error:
            refused[site] = str(error)
    return refused


def _attempts(
    runtime: Runtime,
    run: str,
    state: EpochState,
    handle: JobHandle | None,
    status: JobStatus | None,
    problems: list[str],
) -> tuple[ToldAttempt, ...]:
    """The attempts as the bucket has them; the newest as its backend shows it until somebody writes its end down."""
    try:
        kept = Attempts(runtime.store(state.active_site), run, state.epoch, holder=runtime.holder)
        newest = kept.newest()
        end = None if newest is None else kept.end_of(newest.attempt)
    except HoldfastError as error:
        problems.append(str(error))
        return ()
    if newest is None:
        return ()
    before = [ToldAttempt(one.attempt, _set(one.placement), one.state, one.reason, one.detail) for one in newest.before]
    if end is not None:
        now, detail = str(end.state), end.detail
    elif handle is not None and 0 < handle.attempt <= newest.after:
        now, detail = "not submitted", None  # the job that is there is the one before it
    elif status is not None:
        now, detail = str(status.state), status.detail
    else:
        now, detail = "unknown" if problems else "not submitted", None
    return (*before, ToldAttempt(newest.attempt, _set(newest.placement), now, newest.reason, detail))


def _set(placement: Placement) -> dict[str, Any]:
    return placement.model_dump(mode="json", exclude_none=True)


def _require_known(runtime: Runtime, site: str, run: str) -> None:
    """A run without a job and without a trace has nothing at risk only because it is not there. Raises NoRun."""
    if not is_known(runtime.store(site), run):
        raise NoRun(
            "there is no such run",
            where=f"{site}: {run}",
            expected="a job, a checkpoint or a fork record of it",
            found="nothing",
        )


def _standbys(runtime: Runtime, group: str, active: str) -> list[str]:
    return [site for site in sites_of(runtime.topology, group, active=active) if site != active]


def _look_at_job(
    runtime: Runtime, site: str, run: str, epoch: int, problems: list[str]
) -> tuple[JobHandle | None, JobStatus | None, Beat | None]:
    try:
        backend = runtime.backend(site)
        handle = find_job(backend, site, run, epoch)
        if handle is None:
            return None, None, None
        status = backend.status(handle)
    except ConfigError:
        raise
    except HoldfastError as error:
        problems.append(str(error))
        return None, None, None
    try:
        return handle, status, read_beat(backend, handle, clock=runtime.clock)
    except HoldfastError as error:
        problems.append(str(error))
        return handle, status, None


def _at_risk(
    runtime: Runtime,
    group: str,
    job: str,
    run: str,
    epoch: int,
    active: str,
    refused: Mapping[str, str],
    beat: Beat | None,
) -> tuple[tuple[RunAtRisk, ...], int]:
    """Per standby what a loss would cost, and the newest step saved at the active site."""
    from holdfast.engine.checkpoint import newest

    standbys = [site for site in _standbys(runtime, group, active) if site not in refused]
    allowed: dict[str, Allowed] = {
        site: checkpoints_allowed(runtime.topology, job, site, preview=True) for site in standbys
    }
    store = runtime.store(active)
    risks = run_at_risk(store, runtime.stores(standbys), run, epoch=epoch, trained=_trained(beat, run), allowed=allowed)
    saved = newest(store, run, epoch=epoch)
    return risks, saved.step if saved is not None else 0


def _trained(beat: Beat | None, run: str) -> TrainedTo | None:
    return None if beat is None else trained_to({"run": run, "step": beat.step, "step_at": beat.step_at})


def _beat(found: Mapping[str, Any], clock: Clock) -> Beat:
    at, step_at = _moment(found, "at"), _moment(found, "step_at")
    checkpoint = found.get("checkpoint")
    resumed = found.get("resumed")
    return Beat(
        state=found.get("state"),
        at=at,
        age_seconds=None if at is None else max(0.0, (clock.now() - at).total_seconds()),
        step=found.get("step"),
        step_at=step_at,
        total_steps=found.get("total_steps"),
        loss=found.get("loss"),
        permission=found.get("permission"),
        checkpoint_step=checkpoint.get("step") if isinstance(checkpoint, dict) else None,
        saving=_section(found, "saving"),
        interval=_section(found, "interval"),
        retention=_section(found, "retention"),
        resumed=resumed if isinstance(resumed, dict) else None,
    )


def _section(found: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = found.get(name)
    return value if isinstance(value, dict) else {}


def _moment(found: Mapping[str, Any], name: str) -> datetime | None:
    value = found.get(name)
    if value is None:
        return None
    try:
        moment = datetime.fromisoformat(value)
    except (TypeError, ValueError):
        moment = None
    if moment is None or moment.tzinfo is None:
        raise CheckpointUnreadable(
            "the heartbeat's time is none",
            where=name,
            expected="an RFC 3339 time with its zone",
            found=repr(value),
        )
    return moment
