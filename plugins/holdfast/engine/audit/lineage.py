"""Lineage as OpenLineage run events, made from what was published: snapshots, models, checkpoints, checks of data.

Nothing is emitted while work is done, so nothing can get lost when an emitter fails: the events follow from the
immutable records that lie in the buckets, and are the same whenever they are made. They are documents of an export, one
file for each dataset and model, JSON lines. Facets of our own begin with ``holdfast_``.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any

from holdfast import __version__
from holdfast.engine.audit.interface import Document
from holdfast.engine.config import Topology
from holdfast.engine.objectstore.errors import ObjectStoreError
from holdfast.engine.quality.results import FOLDER, QualityResult
from holdfast.engine.recovery.subjects import snapshot_subjects
from holdfast.engine.runtime import Runtime
from holdfast.engine.snapshot.records import CommitRecord, read_record, record_keys

PRODUCER = f"urn:holdfast:{__version__}"
_FACET = "urn:holdfast:facet:1:"
_SPACE = uuid.UUID("6a3c9b53-9f0b-5b39-8a2b-6d6a8f7f5f0e")


def lineage_documents(runtime: Runtime, start: datetime, end: datetime) -> Iterator[Document]:
    """The events of everything that was published in a window, whichever site it was published at.

    A site that does not answer is left out: the same records lie at the others.
    """
    subjects = dict.fromkeys(
        subject for group in runtime.topology.groups for subject in snapshot_subjects(runtime.topology, group)
    )
    for subject in subjects:
        records, quality = _published(runtime, subject, start, end)
        if records:
            ordered = sorted(records.values(), key=lambda record: (record.committed_at, record.snapshot_id))
            lines = "".join(
                json.dumps(_event(runtime, record, quality.values()), sort_keys=True) + "\n" for record in ordered
            )
            yield Document(f"lineage/{subject}.jsonl", "application/x-ndjson", lines.encode())


def _published(
    runtime: Runtime, subject: str, start: datetime, end: datetime
) -> tuple[dict[str, CommitRecord], dict[str, QualityResult]]:
    """Commit records by id, and results of their checks by key, of all sites that answer."""
    records: dict[str, CommitRecord] = {}
    quality: dict[str, QualityResult] = {}
    for site in runtime.topology.sites:
        store = runtime.store(site, flow="audit")
        try:
            for key in record_keys(store, subject):
                if start <= key.committed_at < end and key.snapshot_id not in records:
                    records[key.snapshot_id] = read_record(store, key.key)
            for info in store.list(f"{FOLDER}/{subject}/"):
                quality[info.key] = QualityResult.model_validate_json(store.get(info.key))
        except ObjectStoreError:
            continue
    return records, quality


def _event(runtime: Runtime, record: CommitRecord, quality: Iterable[QualityResult]) -> dict[str, Any]:
    found = [one for one in quality if one.manifest_digest == record.manifest_digest]
    return run_event(record, origin_of(runtime), found, _trained_on(runtime.topology, record))


def origin_of(runtime: Runtime) -> str:
    """The namespace of jobs and datasets: the ledger's name."""
    audit = runtime.topology.audit
    return f"holdfast://{audit.origin if audit else 'local'}"


def _trained_on(topology: Topology, record: CommitRecord) -> str | None:
    """The dataset of the job that published a model; of several jobs, the one whose run it was."""
    jobs = {name: job for name, job in topology.training.items() if job.model == record.dataset}
    run = record.labels.get("run", "")
    named = [job for name, job in jobs.items() if name in run] or list(jobs.values())
    return named[0].dataset if named else None


def run_event(
    record: CommitRecord, namespace: str, quality: Iterable[QualityResult] = (), trained_on: str | None = None
) -> dict[str, Any]:
    """The COMPLETE event of what published a snapshot, as JSON-able OpenLineage.

    The run's id follows from the snapshot's: made again, it is the same event.

    Args:
        namespace: of its jobs and datasets.
        quality: what suites said of it.
        trained_on: of a model the name of its dataset.
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
            **_assertions(quality),
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
        "CheckpointRunFacet", run=labels["run"], step=int(labels["step"]), modelDigest=labels["model_digest"]
    )
    return {"holdfast_checkpoint": facet}


def _inputs(record: CommitRecord, namespace: str, trained_on: str | None) -> list[Any]:
    """Of a model the version of the data it was trained on."""
    from openlineage.client.event_v2 import InputDataset
    from openlineage.client.generated.dataset_version_dataset import DatasetVersionDatasetFacet

    snapshot = record.labels.get("dataset_snapshot")
    if snapshot is None or trained_on is None:
        return []
    version = DatasetVersionDatasetFacet(datasetVersion=snapshot)
    return [InputDataset(namespace=namespace, name=trained_on, facets={"version": version})]


def _assertions(quality: Iterable[QualityResult]) -> dict[str, Any]:
    """Great Expectations' results: the newest of these bytes."""
    from openlineage.client.generated.data_quality_assertions_dataset import (
        Assertion,
        DataQualityAssertionsDatasetFacet,
    )

    newest = max(quality, key=lambda one: one.checked_at, default=None)
    if newest is None:
        return {}
    found = [
        Assertion(assertion=one.expectation, success=one.success, column=one.column) for one in newest.expectations
    ]
    return {
        "dataQualityAssertions": DataQualityAssertionsDatasetFacet(assertions=found),
        "holdfast_quality": _facet(
            "QualityDatasetFacet", suite=newest.suite, suiteSha256=newest.suite_sha256, ok=newest.ok, rows=newest.rows
        ),
    }


def _facet(name: str, **fields: Any) -> Any:
    """A facet of our own."""
    import attr
    from openlineage.client.generated.base import BaseFacet

    made: Any = attr.make_class(name, {field: attr.ib() for field in fields}, bases=(BaseFacet,))
    made._get_schema = staticmethod(lambda: f"{_FACET}{name}")
    return made(**fields, producer=PRODUCER)
