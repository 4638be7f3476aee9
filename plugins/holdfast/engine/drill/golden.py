"""A model's answers to its golden set: recorded with a backup, asked again of what a restore brings back."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ValidationError

from holdfast.engine.recovery.interface import Rooms
from holdfast.engine.recovery.senses import golden_instances
from holdfast.engine.snapshot import OpenSnapshot, find_record, open_snapshot
from holdfast.engine.snapshot.digest import digest_of
from holdfast.engine.snapshot.documents import canonical
from holdfast.errors import HoldfastError

#: Where a backup's `origin` keeps them.
ANSWERS = "answers"
#: Answers are single-precision numbers; another processor may round the last bits otherwise.
TOLERANCE = 1e-6
#: Why a model gives none: it is unusable, its library is not here, or (a ValueError of xgboost's) it is another model's
#: golden set.
_NO_ANSWERS = (HoldfastError, ImportError, ValueError)


@dataclass(frozen=True)
class GoldenSet:
    """Questions, and the digest they are known by."""

    instances: tuple[tuple[float, ...], ...]

    @property
    def digest(self) -> str:
        return digest_of(canonical([list(one) for one in self.instances]))


@dataclass(frozen=True)
class Reference:
    """The answers a restored model must give.

    Args:
        predictions: ``None``: not known.
        how: where they are from, or why they are not known.
    """

    predictions: tuple[float, ...] | None
    how: str


def golden_set(rooms: Rooms, model: str) -> GoldenSet | None:
    """The golden set of the services that answer with a model; ``None`` when none names one. Raises ConfigError."""
    for name, service in sorted(rooms.topology.services.items()):
        if service.model == model and service.golden_set is not None:
            return GoldenSet(tuple(tuple(float(x) for x in one) for one in golden_instances(rooms, name)))
    return None


def answers_to_record(rooms: Rooms, model: str, snapshot: OpenSnapshot) -> dict[str, Any]:
    """What a backup of a model records for later drills: pass it as `SnapshotSource.notes`.

    Empty when the model has no golden set, or its library is not installed here: the backup is made all the same.
    """
    asked = golden_set(rooms, model)
    if asked is None:
        return {}
    try:
        predictions = answers_of(_files(snapshot), asked)
    except _NO_ANSWERS:
        return {}
    return {ANSWERS: {"golden_set": asked.digest, "predictions": list(predictions)}}


def answers_of(files: Mapping[str, bytes], asked: GoldenSet) -> tuple[float, ...]:
    """What the model of these files answers, computed in this process.

    Raises:
        ModelUnusable, ImportError, ValueError: it gives no answers here.
    """
    from holdfast.engine.agent.predictor import load_predictor

    return tuple(load_predictor(files).predict(asked.instances))


def find_reference(rooms: Rooms, model: str, origin: Mapping[str, Any], asked: GoldenSet) -> Reference:
    """The answers recorded with the backup; else those of the same snapshot where a site still has it."""
    recorded = _recorded(origin)
    if recorded is not None and recorded.golden_set == asked.digest:
        return Reference(recorded.predictions, "recorded with the backup")
    why = "the golden set is another than the backup's" if recorded else "the backup recorded none"
    snapshot_id = origin.get("snapshot")
    for site in sorted(rooms.topology.sites) if snapshot_id else ():
        try:
            store = rooms.store(site)
            record = find_record(store, model, str(snapshot_id))
            if record is not None:
                answers = answers_of(_files(open_snapshot(store, record)), asked)
                return Reference(answers, f"computed from the snapshot at {site}; {why}")
        except _NO_ANSWERS:
            continue
    return Reference(None, f"{why}, and no site that answers has its snapshot")


class _Recorded(BaseModel):
    golden_set: str
    predictions: tuple[float, ...]


def _recorded(origin: Mapping[str, Any]) -> _Recorded | None:
    """``None``: nothing was recorded, or nothing of this form. Whoever has a writer's key could record it."""
    try:
        return _Recorded.model_validate(origin.get(ANSWERS))
    except ValidationError:
        return None


def largest_difference(one: Sequence[float], other: Sequence[float]) -> float | None:
    """The largest relative difference; ``None``: they are not as many, or one of them is no number."""
    if len(one) != len(other) or not all(math.isfinite(x) for x in (*one, *other)):
        return None
    return max((abs(a - b) / max(abs(a), abs(b), 1e-12) for a, b in zip(one, other, strict=True)), default=0.0)


def _files(snapshot: OpenSnapshot) -> dict[str, bytes]:
    return {path: snapshot.read(path) for path in snapshot.manifest.paths}
