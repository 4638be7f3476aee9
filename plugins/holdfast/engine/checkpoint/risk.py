"""How much training a loss of the site would cost right now."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from holdfast.engine.checkpoint.elect import Allowed, newest
from holdfast.engine.checkpoint.errors import CheckpointUnreadable
from holdfast.engine.checkpoint.format import CheckpointManifest
from holdfast.engine.objectstore.errors import ObjectStoreError
from holdfast.engine.objectstore.interface import ObjectStore
from holdfast.engine.snapshot.errors import EpochUnknownHere


@dataclass(frozen=True, slots=True)
class WorkAtRisk:
    """Committed at the source and not yet at the target. ``seconds`` is None when the target has nothing to compare."""

    steps: int
    seconds: float | None
    source_step: int
    target_step: int


@dataclass(frozen=True, slots=True)
class TrainedTo:
    """How far a run has trained, saved or not: what its heartbeat tells.

    ``at`` is when ``step`` was done, by the clock of the machine that trains: the one that dates checkpoints too.
    """

    step: int
    at: datetime


@dataclass(frozen=True, slots=True)
class RunAtRisk:
    """What would be trained again if the source were lost now and this standby took over.

    ``steps`` = ``unsaved_steps`` (since the newest checkpoint) + ``unreplicated_steps`` (of it to the standby's).
    ``seconds`` is training time between the standby's newest checkpoint and the last step done. It is None when the
    standby has none, or did not answer: then ``steps`` is the whole run, and ``detail`` says why.
    """

    standby: str
    steps: int
    seconds: float | None
    unsaved_steps: int
    unreplicated_steps: int
    trained_step: int
    saved_step: int
    standby_step: int
    detail: str = ""


def work_at_risk(
    source: ObjectStore, target: ObjectStore, run: str, epoch: int, *, target_site: str | None = None
) -> WorkAtRisk:
    """Steps and seconds between the newest checkpoint here and the newest there, in one epoch's lineage.

    To this comes what was trained since the newest checkpoint at the source; `run_at_risk` adds it.

    Args:
        target_site: the target's name. With it, only what an election there would take counts: receipts are asked for.

    Raises:
        EpochUnknownHere: the source does not know this epoch. A target that does not has nothing of it.
    """
    here = newest(source, run, epoch=epoch)
    there: CheckpointManifest | None
    try:
        there = newest(target, run, epoch=epoch, site=target_site)
    except EpochUnknownHere:
        there = None
    source_step, target_step = (here.step if here else 0), (there.step if there else 0)
    seconds = (here.saved_at - there.saved_at).total_seconds() if here and there else None
    if source_step == target_step:
        seconds = 0.0
    return WorkAtRisk(
        max(0, source_step - target_step), None if seconds is None else max(0.0, seconds), source_step, target_step
    )


def run_at_risk(
    source: ObjectStore,
    standbys: Mapping[str, ObjectStore],
    run: str,
    *,
    epoch: int,
    trained: TrainedTo | None,
    allowed: Mapping[str, Allowed] | None = None,
) -> tuple[RunAtRisk, ...]:
    """What a loss of the source would cost, per standby, in the order given.

    A standby counts with what an election there would look at first: the newest checkpoint of the lineage with a
    receipt there. Its blobs are not read.

    Args:
        standbys: the standby sites' buckets by site name.
        trained: from the job's heartbeat, see `trained_to`; None: nothing beyond the newest checkpoint is known.
        allowed: per standby, what residency says, as for `elect`.

    Raises:
        EpochUnknownHere: the source does not know this epoch. A standby that does not has nothing of it.
        StoreUnavailable: the source does not answer. A standby that does not is reported with its reason.
    """
    saved = newest(source, run, epoch=epoch)
    done = _furthest(saved, trained)
    rules = allowed or {}
    return tuple(
        _standby_at_risk(site, store, run, epoch, saved, done, rules.get(site)) for site, store in standbys.items()
    )


def trained_to(heartbeat: Mapping[str, Any]) -> TrainedTo | None:
    """The last step of a job's heartbeat, None when it has done none yet.

    Raises:
        CheckpointUnreadable: the heartbeat's step or time is not one.
    """
    step, at = heartbeat.get("step"), heartbeat.get("step_at")
    if step is None or at is None:
        return None
    try:
        moment = at if isinstance(at, datetime) else datetime.fromisoformat(at)
    except (TypeError, ValueError):
        moment = None
    if not isinstance(step, int) or isinstance(step, bool) or step < 0 or moment is None or moment.tzinfo is None:
        raise CheckpointUnreadable(
            "the heartbeat does not say how far the run has trained",
            where="step, step_at",
            expected="a whole number of steps and an RFC 3339 time with its zone",
            found=f"{step!r}, {at!r}",
        )
    return TrainedTo(step, moment)


def _furthest(saved: CheckpointManifest | None, trained: TrainedTo | None) -> TrainedTo | None:
    """An old heartbeat, of a process that died before the newest checkpoint's, tells nothing more."""
    if saved is None or (trained is not None and trained.step > saved.step):
        return trained
    return TrainedTo(saved.step, saved.saved_at)


def _standby_at_risk(
    site: str,
    store: ObjectStore,
    run: str,
    epoch: int,
    saved: CheckpointManifest | None,
    done: TrainedTo | None,
    allowed: Allowed | None,
) -> RunAtRisk:
    there, detail = None, ""
    try:
        there = newest(store, run, epoch=epoch, site=site, allowed=allowed)
        if there is None and done is not None:
            detail = "no checkpoint there that could be resumed from"
    except EpochUnknownHere:
        detail = f"it does not know epoch {epoch}"
    except ObjectStoreError as error:
        detail = f"it did not answer: {error.what}"
    saved_step, there_step = (saved.step if saved else 0), (there.step if there else 0)
    trained_step = max(done.step if done else 0, saved_step, there_step)
    # A standby that is ahead of the source's newest (the source lost it) leaves only the unsaved part beyond itself.
    unsaved = trained_step - max(saved_step, there_step)
    unreplicated = max(0, saved_step - there_step)
    return RunAtRisk(
        standby=site,
        steps=unsaved + unreplicated,
        seconds=_seconds(there, done, detail),
        unsaved_steps=unsaved,
        unreplicated_steps=unreplicated,
        trained_step=trained_step,
        saved_step=saved_step,
        standby_step=there_step,
        detail=detail,
    )


def _seconds(there: CheckpointManifest | None, done: TrainedTo | None, detail: str) -> float | None:
    if there is None:
        return None if detail else 0.0
    if done is None or done.step <= there.step:
        return 0.0
    return max(0.0, (done.at - there.saved_at).total_seconds())
