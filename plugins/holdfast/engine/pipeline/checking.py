"""Checking what is published: each version of a dataset that has a suite gets a result, met or not."""

from __future__ import annotations

import logging
from hashlib import sha256

from holdfast.engine.objectstore.errors import ObjectNotFound
from holdfast.engine.objectstore.interface import ObjectStore
from holdfast.engine.runtime import Runtime
from holdfast.engine.snapshot import CommitRecord, open_table
from holdfast.errors import HoldfastError

log = logging.getLogger(__name__)


def check_version(runtime: Runtime, store: ObjectStore, record: CommitRecord) -> None:
    """Run the Great Expectations suite of a version that is published, and keep the result beside it.

    Nothing is done for a model, for a dataset without a suite, and where a result of this suite over these bytes is
    kept already. A suite that cannot be run here takes nothing back: the version stays without a result, as its lineage
    says.

    Args:
        store: of the site where it is published.
    """
    settings = runtime.topology.datasets.get(record.dataset)
    if settings is None or settings.expectations is None:
        return
    import pyarrow as pa

    from holdfast.engine.quality.results import key_of

    path = runtime.topology.beside(settings.expectations)
    try:
        suite = path.read_bytes()
        if _is_there(store, key_of(record.dataset, record.manifest_digest, sha256(suite).hexdigest())):
            return
        from holdfast.engine.quality import evaluate  # Great Expectations takes seconds to import
        from holdfast.engine.quality.results import keep_result

        report = evaluate(open_table(store, record), path)
        keep_result(store, record.dataset, record.manifest_digest, report, suite, runtime.clock.now())
    except (HoldfastError, pa.ArrowException, OSError) as error:
        log.warning("%s of %s has no quality result: %s", record.snapshot_id, record.dataset, error)


def _is_there(store: ObjectStore, key: str) -> bool:
    try:
        store.head(key)
    except ObjectNotFound:
        return False
    return True
