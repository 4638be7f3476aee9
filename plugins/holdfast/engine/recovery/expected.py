"""The answers a service must give after the switch, computed here from the recovery point of its model."""

from __future__ import annotations

from dataclasses import dataclass

from holdfast.engine.objectstore.interface import ObjectStore
from holdfast.engine.recovery.context import StepContext
from holdfast.engine.recovery.points import RecoveryPoints, find_points
from holdfast.engine.snapshot import CommitRecord, open_snapshot


@dataclass(frozen=True)
class Expected:
    """What a service is expected to answer to its golden set; ``predictions`` is ``None`` when that is unknown here."""

    service: str
    model: str
    snapshot_id: str | None
    predictions: tuple[float, ...] | None


def expect_answers(context: StepContext) -> dict[str, Expected]:
    """By service, what its golden set must be answered with at the target."""
    points: RecoveryPoints = (
        context.scratch.futures["points"].result()
        if "points" in context.scratch.futures
        else (find_points(context.rooms, context.plan, context.pool))
    )
    expected = {}
    for name in context.group.services:
        model = context.rooms.topology.service(name).model
        point = points.snapshot(model)
        record = point.record if point else None
        answers = (
            None
            if record is None
            else context.senses.reference(context.rooms, name, model_files(context.target, record))
        )
        expected[name] = Expected(name, model, record.snapshot_id if record else None, answers)
    return expected


def model_files(store: ObjectStore, record: CommitRecord) -> dict[str, bytes]:
    """The files of a model snapshot, each checked against its digest."""
    opened = open_snapshot(store, record)
    return {path: opened.read(path) for path in opened.manifest.paths}
