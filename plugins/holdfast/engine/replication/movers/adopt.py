"""Take over what a transfer service staged at a target: read back, compared with the source, noted for the sync.

A service's word counts for nothing here. Each staged object is read and hashed at the target; its bytes are the
source's when the source's own checksum of the pinned version says so, and where the source tells none the object is
read there, too. What passes is noted in the journal, and the ordinary sync publishes it as if it had copied it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from holdfast.engine.objectstore.checksums import NO_BYTES, Checksums
from holdfast.engine.objectstore.errors import ObjectNotFound, PreconditionFailed
from holdfast.engine.objectstore.interface import ByteRange, ObjectInfo, ObjectStore, ObjectVersion
from holdfast.engine.replication import journal
from holdfast.engine.replication.reports import SyncSite
from holdfast.engine.replication.target import Run
from holdfast.engine.replication.verification import SourceCheck
from holdfast.engine.snapshot.digest import Hasher, hash_stream
from holdfast.engine.snapshot.placement import is_replica
from holdfast.engine.snapshot.threads import in_threads


@dataclass(frozen=True)
class Adopted:
    """What of a transfer may be published. The sync copies the rest itself."""

    objects: int
    size_bytes: int
    #: Not staged, or marked at the source as having come with a replication.
    missing: int
    #: Staged with other bytes than the source has now.
    wrong: int


def adopt(run: Run, target: SyncSite, rows: pa.Table, staging: str, *, threads: int = 16) -> Adopted:
    """Verify what was staged and note it at the target.

    Args:
        rows: objects of the source with ``path``, ``key``, ``size_bytes``, ``version``, ``e_tag``, ``modified_at``.
        staging: key prefix at the target, with the slash.

    Raises:
        StoreUnavailable: the source or the target did not answer.
    """
    check = SourceCheck(run.source.store)

    def look(row: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        return _look(run, target.store, check, row, staging)

    found = list(in_threads(look, rows.to_pylist(), threads=threads, name="holdfast-adopt"))
    good = [row for state, row in found if state == "good"]
    notes = journal.RunJournal(target.store, run.dataset, run.run_id, run.clock)
    notes.begin()
    notes.add(pa.table({name: [row[name] for row in good] for name in journal.COPIED.names}, schema=journal.COPIED))
    notes.flush()
    return Adopted(
        objects=len(good),
        size_bytes=sum(row["size_bytes"] for row in good),
        missing=sum(1 for state, _ in found if state == "missing"),
        wrong=sum(1 for state, _ in found if state == "wrong"),
    )


def _look(
    run: Run, store: ObjectStore, check: SourceCheck, row: dict[str, Any], staging: str
) -> tuple[str, dict[str, Any]]:
    key = staging + row["key"].removeprefix(run.prefix)
    pin = ObjectVersion(row["e_tag"], row["version"])
    try:
        info, digest, sums = _hashed(store, key)
    except ObjectNotFound:
        return "missing", row
    if _came_with_a_replication(run, row):
        return "missing", row
    if info.size_bytes != row["size_bytes"] or not _is_the_sources(run, check, row["key"], pin, digest, sums):
        return "wrong", row
    noted = {
        **{name: row[name] for name in ("path", "key", "size_bytes", "version", "e_tag", "modified_at")},
        "digest": digest,
        "target_key": key,
        "target_version": info.version.version,
        "target_e_tag": info.version.e_tag,
        "proof": "read-back",
    }
    return "good", noted


def _came_with_a_replication(run: Run, row: dict[str, Any]) -> bool:
    """Whether the source's own object carries the mark of a replica: no new data by its mark, and only the sync knows
    whether it is of a snapshot."""
    try:
        first = ByteRange(0, 1) if row["size_bytes"] else None
        reader = run.source.store.open(row["key"], byte_range=first)
        return is_replica(reader.metadata, row["key"].removeprefix(run.prefix))
    except ObjectNotFound:
        return True  # it is gone: the sync sees what is there now


def _hashed(store: ObjectStore, key: str) -> tuple[ObjectInfo, str, Checksums]:
    """One read for the digest and for the checksums clouds have."""
    reader = store.open(key)
    hasher, sums = Hasher(), NO_BYTES
    for chunk in reader:
        hasher.update(chunk)
        sums = sums + Checksums.of(chunk)
    return reader.info, hasher.digest, sums


def _is_the_sources(run: Run, check: SourceCheck, key: str, pin: ObjectVersion, digest: str, sums: Checksums) -> bool:
    try:
        told = check.agrees(key, pin, sums=sums)
        if told is not None:
            return told
        return hash_stream(run.source.store.open(key, if_match=pin)).digest == digest
    except (PreconditionFailed, ObjectNotFound):
        return False  # it moved: the sync takes it as it is now
