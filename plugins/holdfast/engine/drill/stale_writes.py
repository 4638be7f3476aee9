"""The zombie: what the old site wrote after its epoch ended, and explicit attempts to write in that epoch.

A store cannot refuse a plain PUT by epoch, so a stale write may well land. It counts as accepted only when a reader
of the newest lineage would select it at any site, or when somebody acts on it. Every attempt goes through the code
that a real writer uses, with its guard taken away. Refused is only what was refused for its epoch; an attempt that
met nobody, or failed of something else, shows nothing and is unknown.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from functools import partial
from typing import Any

from holdfast.engine.authority.interface import EpochConflict
from holdfast.engine.checkpoint import AlwaysGranted, CheckpointManifest, Fenced
from holdfast.engine.checkpoint.commit import write_checkpoint
from holdfast.engine.checkpoint.elect import lineage
from holdfast.engine.checkpoint.format import blob_key, run_root
from holdfast.engine.drill.checkpoints import list_checkpoints
from holdfast.engine.drill.log import DrillState
from holdfast.engine.objectstore.interface import ObjectStore
from holdfast.engine.recovery.expected import model_files
from holdfast.engine.recovery.jobs import job_status
from holdfast.engine.snapshot import EpochUnknownHere, latest, put_snapshot, selectable, take_and_publish
from holdfast.engine.snapshot.lineage import require_fork
from holdfast.engine.traffic.interface import StaleTrafficEpoch
from holdfast.errors import HoldfastError

_ASK_SECONDS = 2.0
#: How long the old site, reachable again, may take to read the new epoch.
_LEARN_SECONDS = 15.0
_LOOK_SECONDS = 0.2
#: Refusals for the epoch. Any other error says nothing about stale writes.
_REFUSED_FOR_ITS_EPOCH = (EpochConflict, StaleTrafficEpoch, Fenced)

Probe = dict[str, Any]


def attempt_stale_writes(state: DrillState) -> dict[str, Any]:
    """Try everything a writer of the old epoch could, at the old site and at the new one."""
    plan, topology = state.plan, state.rooms.topology
    group = topology.group(plan.group)
    models = dict.fromkeys(topology.service(service).model for service in group.services)
    probes: list[Probe] = []
    for site in (plan.source, plan.target):
        probes += [_attempt("model snapshot", site, m, partial(_model, state, site, m)) for m in models]
        probes += [_attempt("dataset snapshot", site, d, partial(_dataset, state, site, d)) for d in group.datasets]
        probes += [_attempt("checkpoint", site, r, partial(_checkpoint, state, site, r)) for r in _runs(state)]
    for service in group.services:
        probes.append(_attempt("traffic switch", plan.source, service, partial(_switch, state, service)))
        probes.append(_attempt("prediction", plan.source, service, partial(_predict, state, service)))
    probes.append(_attempt("register advance", plan.source, plan.group, partial(_advance, state)))
    probes += _real_zombie(state)
    return {"probes": probes}


def judge_stale_writes(state: DrillState) -> dict[str, Any]:
    """How many of the attempts any reader of the newest lineage would select, or anybody acted on.

    Returns:
        ``attempted``, ``accepted`` (``None`` when a site could not be read: unknown is no zero) and the probes.
    """
    probes = [dict(probe) for probe in state.evidence("attempt_stale_writes").get("probes", [])]
    if not probes:
        return {"attempted": 0, "accepted": None, "probes": []}
    unknown = False
    for probe in probes:
        if not probe.get("written"):
            continue
        try:
            seen_at = [s for s in _readers(state) if _selected(state, s, probe)]
        except HoldfastError as error:
            probe["outcome"], unknown = f"unknown: {error}", True
            continue
        probe["accepted"] = len(probe["written"]) if seen_at else 0
        probe["outcome"] = f"selected at {', '.join(seen_at)}" if seen_at else "written, never selected"
    unknown = unknown or any(p.get("accepted") is None for p in probes)
    return {
        "attempted": sum(p["attempted"] for p in probes),
        "accepted": None if unknown else sum(p["accepted"] for p in probes),
        "probes": probes,
    }


def _attempt(kind: str, site: str, subject: str, work: Callable[[], Probe]) -> Probe:
    probe: Probe = {"kind": kind, "site": site, "subject": subject, "attempted": 1, "accepted": 0, "written": None}
    try:
        return {**probe, **work()}
    except _REFUSED_FOR_ITS_EPOCH as error:
        return {**probe, "outcome": f"refused: {error}"}
    except HoldfastError as error:
        return {**probe, "accepted": None, "outcome": f"unknown: {error}"}


def _model(state: DrillState, site: str, model: str) -> Probe:
    store = state.rooms.store(site)
    at_target = latest(state.rooms.store(state.plan.target), model, epoch=state.plan.epoch)
    files = model_files(state.rooms.store(state.plan.target), at_target) if at_target else {"probe": b"stale"}
    record = put_snapshot(
        store,
        dataset=model,
        files={**files, "stale.txt": state.drill_id.encode()},
        epoch=state.plan.expected_epoch,
        site=state.plan.source,
        labels={"probe": "stale-write", "drill": state.drill_id},
        clock=state.rooms.clock,
    )
    return {"written": [record.snapshot_id], "outcome": "written"}


def _dataset(state: DrillState, site: str, dataset: str) -> Probe:
    record = take_and_publish(
        state.rooms.store(site),
        dataset=dataset,
        path=state.rooms.topology.dataset(dataset).path,
        epoch=state.plan.expected_epoch,
        site=state.plan.source,
        clock=state.rooms.clock,
        labels={"probe": "stale-write", "drill": state.drill_id},
    )
    return {"written": [record.snapshot_id], "outcome": "written"}


def _runs(state: DrillState) -> list[str]:
    return [entry["run"] for entry in state.evidence("fail_over").get("promoted", {}).get("runs", [])]


def _checkpoint(state: DrillState, site: str, run: str) -> Probe:
    store = state.rooms.store(site)
    known = [m for m in list_checkpoints(store, run) if m.epoch == state.plan.expected_epoch]
    if not known:
        return {"attempted": 0, "outcome": "no checkpoint of the old epoch is here to go on from"}
    last = max(known, key=lambda m: m.step)
    step = max(m.step for m in list_checkpoints(store, run)) + 1_000
    # Built anew: a copy would keep the digest that the original has computed.
    stale = CheckpointManifest.model_validate(
        {
            **last.model_dump(),
            "step": step,
            "parent": last.digest,
            "saved_at": state.rooms.clock.now(),
            "write_id": uuid.uuid4().hex,
        }
    )
    blobs = {name: store.get(blob_key(run, ref.digest)) for name, ref in last.blobs.items()}
    written = write_checkpoint(store, stale, blobs, guard=AlwaysGranted())
    return {"written": [written.digest], "outcome": "written"}


def _switch(state: DrillState, service: str) -> Probe:
    state.rooms.traffic(service).switch(state.plan.source, epoch=state.plan.expected_epoch)
    return {"accepted": 1, "outcome": "the record was switched back"}


def _predict(state: DrillState, service: str) -> Probe:
    """Refused is the old site's own refusal, knowing the new epoch. Nobody there is no refusal."""
    clock, plan = state.rooms.clock, state.plan
    until = clock.monotonic() + _LEARN_SECONDS
    while True:
        answer = state.senses.ask_site(state.rooms, service, plan.source, timeout_seconds=_ASK_SECONDS)
        if answer.predictions is not None:
            return {"accepted": 1, "outcome": f"it answered in epoch {answer.epoch}"}
        if (answer.site, answer.epoch) == (plan.source, plan.epoch):
            return {"outcome": f"refused in epoch {answer.epoch}: {answer.refused}"}
        if clock.monotonic() >= until:
            found = f"site {answer.site}, epoch {answer.epoch}: {answer.refused}"
            return {"accepted": None, "outcome": f"unknown: no refusal by {plan.source} in epoch {plan.epoch}; {found}"}
        clock.sleep(_LOOK_SECONDS)


def _advance(state: DrillState) -> Probe:
    plan = state.plan
    state.rooms.authority(plan.group).advance(
        plan.group,
        expected_epoch=plan.expected_epoch,
        active_site=plan.source,
        plan_id=f"{state.drill_id}-stale",
        reason="stale-write probe of a drill",
    )
    return {"accepted": 1, "outcome": "the register moved"}


def _real_zombie(state: DrillState) -> list[Probe]:
    """The old trainer went on inside the cut site: the checkpoints it saved after the new epoch was committed."""
    committed_at = state.evidence("fail_over").get("committed_at")
    found = []
    for run in _runs(state):
        probe: Probe = {"kind": "the old trainer's own checkpoints", "site": state.plan.source, "subject": run}
        try:
            late = [
                m
                for m in list_checkpoints(state.rooms.store(state.plan.source), run)
                if m.epoch == state.plan.expected_epoch and m.saved_at.isoformat() > str(committed_at)
            ]
        except HoldfastError as error:
            found.append({**probe, "attempted": 0, "accepted": None, "written": None, "outcome": f"unknown: {error}"})
            continue
        found.append(
            {
                **probe,
                "attempted": len(late),
                "accepted": 0,
                "written": [m.digest for m in late],
                "outcome": "written" if late else f"it wrote none: {_old_job(state, run)}",
            }
        )
    return found


def _old_job(state: DrillState, run: str) -> str:
    status = job_status(state.rooms, state.plan.source, run, state.plan.expected_epoch)
    return "its job is not known" if status is None else f"its job is {status.state} at step {status.step}"


def _readers(state: DrillState) -> tuple[str, ...]:
    return state.rooms.topology.group(state.plan.group).sites.all()


def _selected(state: DrillState, site: str, probe: Probe) -> bool:
    """Whether a reader at this site, in the newest epoch, could select what was written, now or as a fallback.

    The whole lineage is walked: by now the new epoch has checkpoints of its own, and they come first.
    """
    store: ObjectStore = state.rooms.store(site)
    subject, epoch, written = probe["subject"], state.plan.epoch, set(probe["written"])
    try:
        if "snapshot" in probe["kind"]:
            return any(r.snapshot_id in written for r in selectable(store, subject, epoch=epoch))
        fork = require_fork(store, run_root(subject), epoch)
        chain = lineage(store, subject, epoch=epoch, fork=fork, passed=[])
        return any(located.manifest.digest in written for located in chain)
    except EpochUnknownHere:
        return False  # a site that does not know the epoch selects nothing
