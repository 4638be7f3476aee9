"""Publish: manifest and placement first, the commit record last and create-only. Until then there is no snapshot."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from uuid import uuid4

from holdfast.clock import Clock
from holdfast.engine.objectstore.interface import OVERWRITE, ObjectStore
from holdfast.engine.snapshot import keys
from holdfast.engine.snapshot.digest import digest_of, hash_stream
from holdfast.engine.snapshot.documents import canonical
from holdfast.engine.snapshot.errors import DatasetEmpty, EpochUnknownHere, ObjectDamaged, SnapshotError, UnknownParent
from holdfast.engine.snapshot.lineage import new_fork, read_fork, write_fork
from holdfast.engine.snapshot.manifest import Manifest, ManifestEntry
from holdfast.engine.snapshot.once import create_or_read
from holdfast.engine.snapshot.placement import write_placement, write_placement_table
from holdfast.engine.snapshot.records import CommitRecord, commit_time, latest, parse_record, read_record, record_keys
from holdfast.engine.snapshot.succession import Turn, await_turn, check_line, claim
from holdfast.engine.snapshot.take import TakenSnapshot, take

#: Bigger files are streamed and never in memory whole.
WHOLE_BYTES = 8 * 1024 * 1024
_CHUNK_BYTES = 4 * 1024 * 1024


def publish(
    store: ObjectStore,
    taken: TakenSnapshot,
    *,
    epoch: int,
    site: str,
    parent: str | None,
    clock: Clock,
    write_id: str | None = None,
    labels: Mapping[str, str] | None = None,
    prepare: Callable[[CommitRecord], None] = lambda _: None,
) -> CommitRecord:
    """Make a taken snapshot exist.

    Calling it again with the same ``write_id`` after a crash or a lost answer returns the record that call made.

    Args:
        epoch: the epoch in which this site is active.
        site: this site's name.
        parent: id of the snapshot it follows, ``None`` for the first.
        labels: short facts to carry along.
        prepare: called with the sealed record before it is committed; what it raises ends the publication.

    Raises:
        EpochUnknownHere: the dataset has snapshots here but no fork record of this epoch.
        UnknownParent: the parent is not committed here.
        Superseded: the parent is not the newest selectable snapshot here any more; nothing was committed.
        LineSplit: another publisher committed on top of the same parent.
    """
    write_id = write_id or uuid4().hex
    found = record_keys(store, taken.dataset)
    earlier = _own_commit(store, taken, found, epoch, write_id)
    if earlier is not None:
        check_line(store, earlier)
        return earlier
    _require_epoch(store, taken, found, epoch, site, write_id, clock)
    parent_key = _parent_key(store, taken.dataset, found, parent)
    turn = await_turn(store, taken.dataset, epoch=epoch, parent=parent, write_id=write_id, clock=clock)
    moment = turn.not_before(commit_time(max(clock.now(), taken.taken_at), parent_key))
    record = _seal(taken, epoch, site, parent, write_id, labels, moment)
    put_manifest(store, record, taken.manifest.data)
    if taken.placement_table is not None:
        write_placement_table(store, record, site, taken.placement_table)
    elif taken.placement:
        write_placement(store, record, site, list(taken.placement))
    prepare(record)
    return commit_next(store, turn, record)


def commit_next(store: ObjectStore, turn: Turn, record: CommitRecord) -> CommitRecord:
    """Commit a record on top of its parent, if that still is the newest snapshot.

    Raises:
        Superseded: it is not; nothing was committed.
        LineSplit: it was committed, and so was another one on top of the same parent.
        CommitRecordDamaged, StoreUnavailable: as `commit`.
    """
    claim(store, turn, record)
    record = commit(store, record)
    check_line(store, record)
    return record


def seal_record(
    store: ObjectStore,
    taken: TakenSnapshot,
    *,
    epoch: int,
    site: str,
    parent: str | None,
    clock: Clock,
    write_id: str,
    labels: Mapping[str, str] | None = None,
) -> CommitRecord:
    """The commit record of a taken snapshot; nothing is committed yet.

    Args:
        store: a bucket that has the parent; the site's own, or a replica's when the source may only be read.

    Raises: as `publish`.
    """
    found = record_keys(store, taken.dataset)
    _require_epoch(store, taken, found, epoch, site, write_id, clock)
    moment = commit_time(max(clock.now(), taken.taken_at), _parent_key(store, taken.dataset, found, parent))
    return _seal(taken, epoch, site, parent, write_id, labels, moment)


def _seal(
    taken: TakenSnapshot,
    epoch: int,
    site: str,
    parent: str | None,
    write_id: str,
    labels: Mapping[str, str] | None,
    committed_at: datetime,
) -> CommitRecord:
    return CommitRecord.seal(
        dataset=taken.dataset,
        epoch=epoch,
        parent=parent,
        write_id=write_id,
        manifest_digest=taken.manifest.digest,
        object_count=taken.object_count,
        size_bytes=taken.size_bytes,
        taken_at=taken.taken_at,
        committed_at=committed_at,
        site=site,
        path=taken.path,
        labels=dict(labels or {}),
    )


def take_and_publish(
    store: ObjectStore,
    *,
    dataset: str,
    path: str,
    epoch: int,
    site: str,
    clock: Clock,
    threads: int = 8,
    labels: Mapping[str, str] | None = None,
    write_id: str | None = None,
) -> CommitRecord:
    """Take a dataset's next snapshot and publish it on top of the latest selectable one.

    Raises: as `take`, `publish` and `latest`.
    """
    previous = latest(store, dataset, epoch=epoch)
    taken = take(store, dataset=dataset, path=path, clock=clock, previous=previous, threads=threads)
    return publish(
        store,
        taken,
        epoch=epoch,
        site=site,
        parent=previous.snapshot_id if previous else None,
        clock=clock,
        write_id=write_id,
        labels=labels,
    )


def put_snapshot(
    store: ObjectStore,
    *,
    dataset: str,
    files: Mapping[str, bytes | Path],
    epoch: int,
    site: str,
    labels: Mapping[str, str],
    clock: Clock,
    path: str | None = None,
    write_id: str | None = None,
) -> CommitRecord:
    """Write files into a new immutable folder and publish them: for models and other finished things.

    Idempotent: when the latest snapshot already holds exactly these files and labels, it is returned.

    Args:
        dataset: the name, e.g. a model's.
        files: relative path → content, or a local file that is streamed.
        path: folder under ``data/``; by default ``models/<dataset>/<digest of the files>``.

    Raises:
        DatasetEmpty: no files.
        ObjectDamaged: other bytes lie in the immutable folder.
    """
    if not files:
        raise DatasetEmpty(
            "a snapshot of no files", where=f"{store.name}: {dataset}", expected="at least one file", found="none"
        )
    digests = {name: _digest_file(content) for name, content in files.items()}
    folder = path or f"models/{keys.check_name(dataset)}/{digest_of(canonical(digests)).partition(':')[2][:32]}"
    previous = latest(store, dataset, epoch=epoch)
    if previous is not None and (previous.path, previous.labels, previous.epoch) == (folder, dict(labels), epoch):
        return previous
    for name, content in sorted(files.items()):
        _put_file(store, keys.object_key(folder, name), content, digests[name])
    manifest = Manifest.build(_written(store, folder, digests))
    taken = TakenSnapshot(
        dataset=dataset,
        path=folder,
        manifest=manifest,
        taken_at=clock.now(),
        hashed_objects=len(digests),
        hashed_bytes=manifest.size_bytes,
    )
    return publish(
        store,
        taken,
        epoch=epoch,
        site=site,
        parent=previous.snapshot_id if previous else None,
        clock=clock,
        write_id=write_id,
        labels=labels,
    )


def put_manifest(store: ObjectStore, record: CommitRecord, data: bytes) -> None:
    """Write a manifest, create-only. Raises SnapshotError when other bytes lie there."""
    key = keys.manifest_key(record.dataset, record.snapshot_id)
    there = create_or_read(store, key, data, content_type="application/vnd.apache.parquet")
    if digest_of(there) != record.manifest_digest:
        raise SnapshotError(
            "other bytes lie where this snapshot's manifest belongs",
            where=f"{store.name}: {key}",
            expected=record.manifest_digest,
            found=digest_of(there),
            fix="Remove that object by hand if no commit record names it, then run again",
        )


def commit(store: ObjectStore, record: CommitRecord) -> CommitRecord:
    """Write the commit record: from here on the snapshot exists.

    Raises:
        CommitRecordDamaged: something else lies at its key.
        StoreUnavailable: it is not known whether it was written; call again.
    """
    data = create_or_read(store, record.key, record.to_json(), content_type="application/json")
    # Its id is the digest of its content, write id included: what parses under this key is this very record.
    return parse_record(data, key=record.key, where=f"{store.name}: {record.key}")


def _put_file(store: ObjectStore, key: str, content: bytes | Path, digest: str) -> None:
    """Write an immutable file. Raises ObjectDamaged when other bytes lie there."""
    if isinstance(content, bytes) or content.stat().st_size <= WHOLE_BYTES:
        found = digest_of(create_or_read(store, key, content if isinstance(content, bytes) else content.read_bytes()))
    else:
        if not any(info.key == key for info in store.list(key)):
            # The folder's name is the digest of what it holds: whoever else writes here writes the same bytes.
            store.put(key, _chunks(content), mode=OVERWRITE)
        found = hash_stream(store.open(key)).digest
    if found != digest:
        raise ObjectDamaged(
            "other bytes lie in an immutable folder",
            where=f"{store.name}: {key}",
            expected=digest,
            found=found,
            fix="Have the store checked; nothing may write there but Holdfast",
        )


def _written(store: ObjectStore, folder: str, digests: Mapping[str, str]) -> Iterator[ManifestEntry]:
    """The manifest of a folder whose files were just written and checked."""
    prefix = keys.data_folder(folder) + "/"
    listed = {info.key.removeprefix(prefix): info for info in store.list(prefix)}
    if missing := sorted(digests.keys() - listed.keys()):
        raise ObjectDamaged(
            "files that were just written are not in the folder",
            where=f"{store.name}: {prefix}",
            expected=", ".join(sorted(digests)),
            found=f"{', '.join(missing)} missing",
            fix="Try again; if it stays so, something else removes files here",
        )
    for name, digest in digests.items():
        info = listed[name]
        yield ManifestEntry(name, info.size_bytes, digest, info.version.version, info.version.e_tag, info.modified_at)


def _own_commit(
    store: ObjectStore, taken: TakenSnapshot, found: list[keys.RecordKey], epoch: int, write_id: str
) -> CommitRecord | None:
    """The record an earlier call with this write id made."""
    for key in reversed(found):
        if key.committed_at < taken.taken_at:
            return None  # a commit never sorts before the moment it is of
        if key.epoch == epoch:
            record = read_record(store, key.key)
            if record.write_id == write_id:
                return record
    return None


def _require_epoch(
    store: ObjectStore,
    taken: TakenSnapshot,
    found: list[keys.RecordKey],
    epoch: int,
    site: str,
    write_id: str,
    clock: Clock,
) -> None:
    root = keys.root(taken.dataset)
    if epoch <= 1 or read_fork(store, root, epoch) is not None:
        return
    if found:
        raise EpochUnknownHere(
            "the dataset has snapshots here, but this bucket does not know where the epoch forked from",
            where=f"{store.name}: {root}",
            expected=f"a fork record of epoch {epoch}",
            found=f"{len(found)} snapshots",
            fix="Run the plan's promote step for this site first",
        )
    # A dataset that begins in a later epoch begins with nothing.
    write_fork(
        store,
        root,
        new_fork(
            taken.dataset,
            epoch=epoch,
            parent_epoch=None,
            forked_from=None,
            site=site,
            plan_id=None,
            holder=site,
            reason="the dataset's first snapshot",
            created_at=clock.now(),
            write_id=write_id,
        ),
    )


def _parent_key(
    store: ObjectStore, dataset: str, found: list[keys.RecordKey], parent: str | None
) -> keys.RecordKey | None:
    if parent is None:
        return None
    for key in found:
        if key.snapshot_id == parent:
            return key
    raise UnknownParent(
        "the parent is not committed here",
        where=f"{store.name}: {keys.root(dataset)}",
        expected=f"a commit record of {parent}",
        found=f"{len(found)} others",
        fix="Take the snapshot again on top of what `latest` gives",
    )


def _digest_file(content: bytes | Path) -> str:
    return digest_of(content) if isinstance(content, bytes) else hash_stream(_chunks(content)).digest


def _chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            yield chunk
