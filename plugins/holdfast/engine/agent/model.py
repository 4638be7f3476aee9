"""The model a site serves: the newest snapshot selectable in its epoch, from its own bucket, checked, kept loaded."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from holdfast.engine.agent.predictor import LOADERS, Loader, Predictor, load_predictor
from holdfast.engine.objectstore.interface import ObjectStore
from holdfast.engine.snapshot import CommitRecord, latest, open_snapshot


@dataclass(frozen=True, slots=True)
class ModelVersion:
    """Which model: the snapshot it came in and the digest it is known by."""

    name: str
    snapshot_id: str
    digest: str


class ModelSource(Protocol):
    """Where models come from."""

    def newest(self, epoch: int) -> ModelVersion | None:
        """The version to serve in this epoch, ``None`` when none is published. Raises HoldfastError."""

    def files(self, version: ModelVersion) -> Mapping[str, bytes]:
        """Its files, whole and checked. Raises HoldfastError."""


class SnapshotModelSource:
    """Models as snapshots in one bucket."""

    def __init__(self, store: ObjectStore, model: str) -> None:
        self._store = store
        self._model = model
        self._records: dict[str, CommitRecord] = {}

    def newest(self, epoch: int) -> ModelVersion | None:
        record = latest(self._store, self._model, epoch=epoch)
        if record is None:
            return None
        self._records = {record.snapshot_id: record}
        digest = record.labels.get("model_digest", record.manifest_digest)
        return ModelVersion(self._model, record.snapshot_id, digest)

    def files(self, version: ModelVersion) -> Mapping[str, bytes]:
        opened = open_snapshot(self._store, self._records[version.snapshot_id])
        return {path: opened.read(path) for path in opened.manifest.paths}


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model ready to answer, and the epoch it was selected in."""

    version: ModelVersion
    predictor: Predictor
    epoch: int


class ModelHolder:
    """Keeps the selected model loaded. A standby holds it too, so that a promotion need not load anything."""

    def __init__(self, source: ModelSource, *, loaders: Mapping[str, Loader] = LOADERS) -> None:
        self._source = source
        self._loaders = loaders
        self._lock = threading.Lock()
        self._loaded: Loaded | None = None

    def refresh(self, epoch: int) -> Loaded | None:
        """Select anew, load if it is another one, and return what is held.

        A model selected in another epoch stays loaded when this one cannot be selected, but `for_epoch` does not give
        it out. Raises HoldfastError when selecting or loading fails.
        """
        version = self._source.newest(epoch)
        held = self._loaded
        if version is None:
            fresh = None
        elif held is not None and held.version == version:
            fresh = Loaded(version, held.predictor, epoch)
        else:
            fresh = Loaded(version, load_predictor(self._source.files(version), self._loaders), epoch)
        with self._lock:
            self._loaded = fresh
        return fresh

    def for_epoch(self, epoch: int | None) -> Loaded | None:
        """The model selected in this epoch; one of another epoch's lineage is never given out."""
        with self._lock:
            return self._loaded if self._loaded is not None and self._loaded.epoch == epoch else None
