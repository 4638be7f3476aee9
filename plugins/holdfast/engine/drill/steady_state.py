"""The steady-state hypothesis: what must hold before the fault and again after the plan.

A check that could not be made is ``None``: unknown, and never a pass.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from holdfast.engine.authority.interface import EpochState
from holdfast.engine.checkpoint import work_at_risk
from holdfast.engine.compute.interface import JobState
from holdfast.engine.recovery.expected import model_files
from holdfast.engine.recovery.interface import Rooms, Senses
from holdfast.engine.recovery.jobs import job_status
from holdfast.engine.recovery.subjects import current_run, snapshot_subjects
from holdfast.engine.replication import lag
from holdfast.engine.snapshot import latest, read_receipt
from holdfast.errors import HoldfastError

_ASK_SECONDS = 2.0
_ASK_FOR_SECONDS = 15.0
_LOOK_SECONDS = 0.2


@dataclass(frozen=True)
class Check:
    """One part of the hypothesis. ``ok`` is ``None`` when it could not be looked at."""

    name: str
    subject: str
    ok: bool | None
    detail: str
    measured: float | None = None


@dataclass(frozen=True)
class SteadyState:
    """All checks, once."""

    site: str
    epoch: int
    checks: tuple[Check, ...]

    @property
    def holds(self) -> bool | None:
        """False when a check failed, else ``None`` when one is unknown, else True. Nothing checked is unknown."""
        results = [check.ok for check in self.checks]
        if False in results:
            return False
        return None if None in results or not results else True

    def as_dict(self) -> dict[str, Any]:
        return {"site": self.site, "epoch": self.epoch, "holds": self.holds, "checks": [asdict(c) for c in self.checks]}

    def objections(self) -> list[str]:
        return [f"{c.name} of {c.subject}: {c.detail}" for c in self.checks if c.ok is not True]


def look(rooms: Rooms, senses: Senses, group: str, state: EpochState, *, training_may_have_ended: bool) -> SteadyState:
    """Make every check at once; a check that cannot be made is unknown.

    Args:
        training_may_have_ended: after the plan a run that ended well is as good as one that runs.
    """
    settings = rooms.topology.group(group)
    standbys = [s for s in (settings.sites.active, *settings.sites.standby) if s != state.active_site]
    away = [(subject, site) for subject in snapshot_subjects(rooms.topology, group) for site in standbys]
    checks: list[tuple[str, str, Callable[[], Check]]] = [
        ("authority_majority", group, partial(_majority, rooms, group)),
        *(("service_answers", s, partial(_service, rooms, senses, s, state)) for s in settings.services),
        *(
            ("replica_verified", f"{what} at {site}", partial(_replica, rooms, group, what, site, state))
            for what, site in away
        ),
        *(
            ("checkpoint_replicated", f"{job} at {site}", partial(_checkpoint, rooms, group, job, site, state))
            for job in settings.training
            for site in standbys
        ),
        *(
            ("training_alive", job, partial(_training, rooms, group, job, state, training_may_have_ended))
            for job in settings.training
        ),
    ]
    with ThreadPoolExecutor(8, "steady-state") as pool:
        looking = [(name, subject, pool.submit(check)) for name, subject, check in checks]
        return SteadyState(state.active_site, state.epoch, tuple(_settled(n, s, f.result) for n, s, f in looking))


def _settled(name: str, subject: str, result: Callable[[], Check]) -> Check:
    try:
        return result()
    except HoldfastError as error:
        return Check(name, subject, None, f"could not be looked at: {error}")


def _majority(rooms: Rooms, group: str) -> Check:
    views = rooms.authority(group).inspect(group)
    answer = sum(view.reachable for view in views)
    needed = len(rooms.topology.group(group).sites.all()) // 2 + 1 if len(views) > 1 else 1
    return Check(
        "authority_majority",
        group,
        answer >= needed,
        f"{answer} of {len(views)} acceptors answer, {needed} needed",
        float(answer),
    )


def _service(rooms: Rooms, senses: Senses, service: str, state: EpochState) -> Check:
    """The golden set through DNS, against answers computed here from the newest model."""
    clock = rooms.clock
    until = clock.monotonic() + _ASK_FOR_SECONDS
    model = rooms.topology.service(service).model
    store = rooms.store(state.active_site)
    record = latest(store, model, epoch=state.epoch)
    if record is None:
        return Check("service_answers", service, False, f"no {model} is published at {state.active_site}")
    expected = senses.reference(rooms, service, model_files(store, record))
    while True:
        answer = senses.ask(rooms, service, timeout_seconds=_ASK_SECONDS)
        wrong = answer.refused
        if answer.predictions is not None:
            if (answer.site, answer.epoch) != (state.active_site, state.epoch):
                wrong = f"answered by {answer.site} in epoch {answer.epoch}"
            elif expected is not None and answer.predictions != expected:
                wrong = "other answers than its newest model gives"
            elif expected is None:
                return Check(
                    "service_answers", service, None, "it answers; the right answers could not be computed here"
                )
            else:
                return Check(
                    "service_answers",
                    service,
                    True,
                    f"{len(expected)} golden answers equal, from {answer.site}",
                    answer.seconds,
                )
        if clock.monotonic() >= until:
            return Check("service_answers", service, False, wrong or "no answer")
        clock.sleep(_LOOK_SECONDS)


def _replica(rooms: Rooms, group: str, subject: str, site: str, state: EpochState) -> Check:
    source, target = rooms.store(state.active_site), rooms.store(site)
    name, where = "replica_verified", f"{subject} at {site}"
    record = latest(source, subject, epoch=state.epoch)
    if record is None:
        return Check(name, where, True, "nothing is published yet")
    behind = lag(source, target, subject, epoch=state.epoch, now=rooms.clock.now())
    rpo = rooms.topology.group(group).objectives.rpo_seconds
    there = latest(target, subject, epoch=state.epoch)
    if there is None:
        return Check(name, where, False, "no replica")
    if there.site != site and read_receipt(target, subject, there.snapshot_id, site) is None:
        return Check(name, where, False, "its newest replica was never read back", behind.seconds)
    return Check(
        name, where, behind.seconds <= rpo, f"{behind.seconds:.1f} s behind, objective {rpo:g} s", behind.seconds
    )


def _checkpoint(rooms: Rooms, group: str, job: str, site: str, state: EpochState) -> Check:
    source, target = rooms.store(state.active_site), rooms.store(site)
    name, where = "checkpoint_replicated", f"{job} at {site}"
    run = current_run(source, group, job, epoch=state.epoch)
    if run is None:
        return Check(name, where, None, "no run is known")
    risk = work_at_risk(source, target, run, state.epoch)
    if risk.target_step == 0 and risk.source_step > 0:
        return Check(name, where, False, f"no checkpoint there, step {risk.source_step} at the source")
    rpo = rooms.topology.group(group).objectives.rpo_seconds
    if risk.seconds is None:
        return Check(name, where, None, "how far it lies behind is unknown")
    return Check(name, where, risk.seconds <= rpo, f"{risk.steps} steps, {risk.seconds:.1f} s behind", risk.seconds)


def _published(rooms: Rooms, job: str, run: str, state: EpochState) -> bool:
    record = latest(rooms.store(state.active_site), rooms.topology.job(job).model, epoch=state.epoch)
    return record is not None and record.labels.get("run") == run


def _training(rooms: Rooms, group: str, job: str, state: EpochState, may_have_ended: bool) -> Check:
    run = current_run(rooms.store(state.active_site), group, job, epoch=state.epoch)
    if run is None:
        return Check("training_alive", job, False, "no run is known at the active site")
    status = job_status(rooms, state.active_site, run, state.epoch)
    if status is None and may_have_ended and _published(rooms, job, run, state):
        return Check("training_alive", job, True, f"{run} had ended before, its model is published")
    if status is None:
        return Check(
            "training_alive", job, False, f"no job of {run} in epoch {state.epoch} is known at {state.active_site}"
        )
    good = {JobState.RUNNING, JobState.SUCCEEDED} if may_have_ended else {JobState.RUNNING}
    return Check(
        "training_alive",
        job,
        status.state in good,
        f"{run}: {status.state} at step {status.step}",
        None if status.step is None else float(status.step),
    )
