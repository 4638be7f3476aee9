"""Checking a snapshot that is not published yet: what breaks its suite never becomes a recovery point."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from holdfast.engine.objectstore.interface import ObjectStore
from holdfast.engine.replication.reports import ReadDraft
from holdfast.engine.runtime import Runtime
from holdfast.engine.snapshot import NotInSnapshot, ObjectDamaged, TakenSnapshot

if TYPE_CHECKING:
    import pyarrow as pa


Validate = Callable[[TakenSnapshot, ReadDraft], None]


def suite_of(runtime: Runtime, dataset: str, store: ObjectStore) -> Validate | None:
    """What checks a draft of this dataset against its Great Expectations suite; ``None``: it has none.

    What it finds, met or not, is kept in the store (`holdfast.engine.quality.results`), as evidence.

    The check raises ExpectationsNotMet, ConfigError (the suite cannot be read), NotInSnapshot (nothing to check) and
    ObjectDamaged (no Parquet).
    """
    suite = runtime.topology.dataset(dataset).expectations
    if suite is None:
        return None
    path = runtime.topology.beside(suite)

    def check(taken: TakenSnapshot, read: ReadDraft) -> None:
        from holdfast.engine.quality import evaluate, require_met  # Great Expectations takes seconds to import
        from holdfast.engine.quality.results import keep_result

        report = evaluate(draft_table(taken, read), path)
        keep_result(store, dataset, taken.manifest.digest, report, path.read_bytes(), runtime.clock.now())
        require_met(report)

    return check


def draft_table(taken: TakenSnapshot, read: ReadDraft) -> pa.Table:
    """All Parquet objects of a draft as one table, in path order.

    Raises:
        NotInSnapshot: it has no Parquet object.
        ObjectDamaged: an object is no Parquet.
    """
    import pyarrow as pa

    parts = [_parquet(taken, path, read(path)) for path in taken.manifest.paths if path.endswith(".parquet")]
    if not parts:
        raise NotInSnapshot(
            "the draft has no Parquet object to check",
            where=taken.dataset,
            expected="paths that end in .parquet",
            found=f"{taken.object_count} others",
            fix="Take the suite out of the topology, or correct the dataset's path",
        )
    return pa.concat_tables(parts, promote_options="default")


def _parquet(taken: TakenSnapshot, path: str, data: bytes) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.read_table(pa.BufferReader(data))
    except (pa.ArrowException, OSError) as error:
        raise ObjectDamaged(
            "the object is no Parquet",
            where=f"{taken.dataset}: {path}",
            expected="Parquet",
            found=str(error).splitlines()[0],
            fix="Correct the dataset at its origin",
        ) from None
