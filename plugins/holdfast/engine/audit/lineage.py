"""Lineage as OpenLineage run events, made from what was published: snapshots, models, checkpoints, checks of data.

Nothing is emitted while work is done, so nothing can get lost when an emitter fails: the events follow from the
immutable records that lie in the buckets, and are the same whenever they are made. The source of Holdfast's own events
gives them beside the records of a window (`holdfast.engine.audit.sources.holdfast`), as JSON lines. Facets of our own
begin with ``holdfast_``.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from holdfast import __version__
from holdfast.engine.config import Topology
from holdfast.engine.quality.results import QualityResult
from holdfast.engine.snapshot.records import CommitRecord

PRODUCER = f"urn:holdfast:{__version__}"
_FACET = "urn:holdfast:facet:1:"
_SPACE = uuid.UUID("6a3c9b53-9f0b-5b39-8a2b-6d6a8f7f5f0e")


@dataclass(frozen=True)
class Checks:
    """What is known of the checks of a version of a dataset.

    Args:
        results: of its bytes, of any suite.
        unreadable: how many more there are that cannot be read.
    """

    results: tuple[QualityResult, ...] = ()
    unreadable: int = 0


@dataclass(frozen=True)
class Lineage:
    """The events of a topology.

    Args:
        topology: says what models are trained on, and which dataset has a suite.
    """

    topology: Topology

    @property
    def namespace(self) -> str:
        """Of jobs and datasets: the ledger's name."""
        audit = self.topology.audit
        return f"holdfast://{audit.origin if audit else 'local'}"

    def suite_of(self, dataset: str) -> str | None:
        """The suite of a dataset, as the topology names its file; ``None``: it has none, or is a model."""
        settings = self.topology.datasets.get(dataset)
        return str(settings.expectations) if settings is not None and settings.expectations else None

    def line(self, record: CommitRecord, checks: Checks) -> bytes:
        """The event of one snapshot, as a line of JSON."""
        suite = self.suite_of(record.dataset)
        event = run_event(record, self.namespace, checks, trained_on=self._trained_on(record), suite=suite)
        return (json.dumps(event, sort_keys=True) + "\n").encode()

    def _trained_on(self, record: CommitRecord) -> str | None:
        """The dataset of the job that published a model; of several jobs, the one whose run it was."""
        jobs = {name: job for name, job in self.topology.training.items() if job.model == record.dataset}
        run = record.labels.get("run", "")
        named = [job for name, job in jobs.items() if name in run] or list(jobs.values())
        return named[0].dataset if named else None


def run_event(
    record: CommitRecord,
    namespace: str,
    checks: Checks | None = None,
    *,
    trained_on: str | None = None,
    suite: str | None = None,
) -> dict[str, Any]:
    """The COMPLETE event of what published a snapshot, as JSON-able OpenLineage.

    The run's id follows from the snapshot's: made again, it is the same event.

    Args:
        namespace: of its jobs and datasets.
        checks: what suites said of it.
        trained_on: of a model the name of its dataset.
        suite: that is to check it; then it is told when there is no result.
    """
    from openlineage.client.event_v2 import Job, OutputDataset, Run, RunEvent, RunState
    from openlineage.client.generated.dataset_version_dataset import DatasetVersionDatasetFacet
    from openlineage.client.serde import Serde

    output = OutputDataset(
        namespace=namespace,
        name=record.dataset,
        facets={
            "version": DatasetVersionDatasetFacet(datasetVersion=record.snapshot_id),
            "holdfast_snapshot": _facet(
                "SnapshotDatasetFacet",
                snapshotId=record.snapshot_id,
                parent=record.parent,
                manifestDigest=record.manifest_digest,
                epoch=record.epoch,
                site=record.site,
                objectCount=record.object_count,
                sizeBytes=record.size_bytes,
                takenAt=record.taken_at.isoformat(),
            ),
            **_quality(checks or Checks(), suite),
        },
    )
    event = RunEvent(
        eventType=RunState.COMPLETE,
        eventTime=record.committed_at.isoformat(),
        producer=PRODUCER,
        run=Run(
            runId=str(uuid.uuid5(_SPACE, f"{namespace}/{record.dataset}/{record.snapshot_id}")),
            facets={
                "holdfast_epoch": _facet("EpochRunFacet", epoch=record.epoch, site=record.site),
                **_checkpoint(record.labels),
            },
        ),
        job=Job(namespace=namespace, name=_job(record)),
        inputs=_inputs(record, namespace, trained_on),
        outputs=[output],
    )
    found: dict[str, Any] = Serde.to_dict(event)
    return found


def _job(record: CommitRecord) -> str:
    run = record.labels.get("run")
    return f"train.{run}" if run else f"publish.{record.dataset}"


def _checkpoint(labels: Mapping[str, str]) -> dict[str, Any]:
    """Of a model the checkpoint it was made of."""
    if not {"run", "step", "model_digest"} <= set(labels):
        return {}
    facet = _facet(
        "CheckpointRunFacet", run=labels["run"], step=_number(labels["step"]), modelDigest=labels["model_digest"]
    )
    return {"holdfast_checkpoint": facet}


def _number(label: str) -> int | str:
    """A label may say anything."""
    return int(label) if label.isascii() and label.isdecimal() and len(label) < 19 else label


def _inputs(record: CommitRecord, namespace: str, trained_on: str | None) -> list[Any]:
    """Of a model the version of the data it was trained on."""
    from openlineage.client.event_v2 import InputDataset
    from openlineage.client.generated.dataset_version_dataset import DatasetVersionDatasetFacet

    snapshot = record.labels.get("dataset_snapshot")
    if snapshot is None or trained_on is None:
        return []
    version = DatasetVersionDatasetFacet(datasetVersion=snapshot)
    return [InputDataset(namespace=namespace, name=trained_on, facets={"version": version})]


def _quality(checks: Checks, suite: str | None) -> dict[str, Any]:
    """Great Expectations' results: the newest of these bytes, or that there is none where there should be."""
    from openlineage.client.generated.data_quality_assertions_dataset import (
        Assertion,
        DataQualityAssertionsDatasetFacet,
    )

    newest = max(checks.results, key=lambda one: one.checked_at, default=None)
    if newest is None:
        if suite is None and not checks.unreadable:
            return {}
        result = "unreadable" if checks.unreadable else "none"
        return {"holdfast_quality": _facet("QualityDatasetFacet", result=result, suite=suite)}
    found = [
        Assertion(assertion=one.expectation, success=one.success, column=one.column) for one in newest.expectations
    ]
    return {
        "dataQualityAssertions": DataQualityAssertionsDatasetFacet(assertions=found),
        "holdfast_quality": _facet(
            "QualityDatasetFacet",
            result="met" if newest.ok else "not met",
            suite=newest.suite,
            suiteSha256=newest.suite_sha256,
            ok=newest.ok,
            rows=newest.rows,
        ),
    }


def _facet(name: str, **fields: Any) -> Any:
    """A facet of our own."""
    import attr
    from openlineage.client.generated.base import BaseFacet

    made: Any = attr.make_class(name, {field: attr.ib() for field in fields}, bases=(BaseFacet,))
    made._get_schema = staticmethod(lambda: f"{_FACET}{name}")
    return made(**fields, producer=PRODUCER)
