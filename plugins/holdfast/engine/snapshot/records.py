"""Commit records: what makes a snapshot exist. Written last, create-only; nothing reads what has none."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Literal, Self

from pydantic import Field, ValidationError

from holdfast.engine.objectstore.errors import ObjectNotFound
from holdfast.engine.objectstore.interface import ObjectStore
from holdfast.engine.snapshot import keys
from holdfast.engine.snapshot.digest import digest_of
from holdfast.engine.snapshot.documents import Document, UtcTime, canonical
from holdfast.engine.snapshot.errors import CommitRecordDamaged, EpochUnknownHere
from holdfast.engine.snapshot.lineage import ancestry, require_fork


class CommitRecord(Document):
    """One snapshot. Its id is the digest of everything else in it, so a record proves itself."""

    format: Literal["holdfast.snapshot/1"] = "holdfast.snapshot/1"
    dataset: str
    snapshot_id: str = Field(pattern=r"^[0-9a-f]{32}$")
    epoch: int = Field(ge=1)
    parent: str | None = Field(description="Snapshot id; none: the first of its line.")
    write_id: str = Field(description="Tells the writer's own record from another's when an answer was lost.")
    manifest_digest: str
    object_count: int = Field(ge=0)
    size_bytes: int = Field(ge=0)
    taken_at: UtcTime = Field(description="The objects' point in time.")
    committed_at: UtcTime = Field(description="At least a microsecond after the parent's.")
    site: str = Field(description="Where it was taken.")
    path: str = Field(description="Folder under `data/`.")
    labels: dict[str, str] = Field(default_factory=dict)

    @classmethod
    def seal(cls, **fields: object) -> Self:
        """A record of these fields with the id they give."""
        draft = cls.model_validate({**fields, "snapshot_id": "0" * 32})
        return draft.model_copy(update={"snapshot_id": draft.content_id()})

    def content_id(self) -> str:
        """The id its content gives: 128 bits of BLAKE3 over its canonical JSON without ``snapshot_id``."""
        return digest_of(canonical(self.model_dump(mode="json", exclude={"snapshot_id"}))).partition(":")[2][:32]

    @property
    def key(self) -> str:
        return keys.record_key(self.dataset, self.committed_at, self.epoch, self.snapshot_id)


class Line(Document):
    """The commit records between a snapshot and its nearest ancestor in the same bucket, newest first.

    For a bucket that missed them: it has no bytes of them and they cannot be selected there, but what came before them
    is in the snapshot's ancestry by them. Each proves itself as any commit record does.
    """

    format: Literal["holdfast.line/1"] = "holdfast.line/1"
    dataset: str
    snapshot_id: str
    records: tuple[CommitRecord, ...]

    def ancestors(self, record: CommitRecord) -> Iterator[CommitRecord]:
        """The records as far as each is the parent of the one before, beginning with the snapshot's."""
        below = record
        for one in self.records:
            if one.snapshot_id != below.parent or one.content_id() != one.snapshot_id:
                return
            yield one
            below = one


def read_line(store: ObjectStore, record: CommitRecord) -> list[CommitRecord]:
    """The ancestors that this bucket missed just before a snapshot, newest first; none when it missed none."""
    try:
        line = Line.model_validate_json(store.get(keys.line_key(record.dataset, record.snapshot_id)))
    except (ObjectNotFound, ValidationError):
        return []
    return list(line.ancestors(record))


def record_keys(store: ObjectStore, dataset: str) -> list[keys.RecordKey]:
    """The keys of all commit records, oldest first: one listing, nothing is read."""
    found = (keys.parse_record_key(dataset, info.key) for info in store.list(keys.root(dataset) + "/"))
    return sorted(key for key in found if key is not None)


def records(store: ObjectStore, dataset: str) -> list[CommitRecord]:
    """All commit records in this bucket, oldest first, whatever their lineage. Raises CommitRecordDamaged."""
    return [read_record(store, key.key) for key in record_keys(store, dataset)]


def read_record(store: ObjectStore, key: str) -> CommitRecord:
    """One commit record, checked against its own id and key.

    Raises:
        ObjectNotFound: there is none.
        CommitRecordDamaged: it is not what was written.
    """
    return parse_record(store.get(key), key=key, where=f"{store.name}: {key}")


def parse_record(data: bytes, *, key: str, where: str) -> CommitRecord:
    """A commit record from its bytes. Raises CommitRecordDamaged."""
    fix = "Copy it from another site; its bytes are equal everywhere"
    try:
        record = CommitRecord.model_validate_json(data)
    except ValidationError as error:
        raise CommitRecordDamaged(
            "the commit record cannot be read",
            where=where,
            expected="a holdfast.snapshot/1 document",
            found=f"{error.error_count()} errors in {len(data)} bytes",
            fix=fix,
        ) from None
    if record.content_id() != record.snapshot_id or record.key != key:
        raise CommitRecordDamaged(
            "the commit record was changed after it was written",
            where=where,
            expected=f"content that gives the id {record.snapshot_id}",
            found=f"content that gives {record.content_id()}",
            fix=fix,
        )
    return record


def latest(store: ObjectStore, dataset: str, *, epoch: int) -> CommitRecord | None:
    """The newest snapshot that may be selected here.

    One listing and one or two reads. A snapshot of an epoch that is not in the ancestry of ``epoch`` is never chosen,
    however new it is.

    Args:
        epoch: the newest committed epoch of the group, from the authority.

    Returns:
        The record, or ``None`` when there is no selectable snapshot.

    Raises:
        EpochUnknownHere: there are snapshots, but this bucket does not know where ``epoch`` forked from.
        CommitRecordDamaged: the record that would be chosen is not what was written.
    """
    found = record_keys(store, dataset)
    if not found:
        return None
    fork = require_fork(store, keys.root(dataset), epoch)
    own = [key for key in found if key.epoch == epoch]
    if own:
        return read_record(store, own[-1].key)
    if fork is None or fork.forked_from is None:
        return None
    return read_record(store, _fork_point(store, dataset, found, epoch, fork.forked_from).key)


def selectable(store: ObjectStore, dataset: str, *, epoch: int) -> list[CommitRecord]:
    """Every snapshot that may be selected here, newest first; the ancestry as far as this bucket has it.

    Reads every one of them; `iter_selectable` reads as it goes. Raises: as `latest`.
    """
    return list(iter_selectable(store, dataset, epoch=epoch))


def iter_selectable(store: ObjectStore, dataset: str, *, epoch: int) -> Iterator[CommitRecord]:
    """As `selectable`, each record read only when it is asked for."""
    found = record_keys(store, dataset)
    if not found:
        return
    fork = require_fork(store, keys.root(dataset), epoch)
    own = [key for key in found if key.epoch == epoch]
    oldest: CommitRecord | None = None
    for key in reversed(own):
        record = _read_if_there(store, key.key)
        if record is not None:
            oldest = record
            yield record
    start = fork.forked_from if fork is not None else None
    if start is None:
        return
    by_id = {key.snapshot_id: key for key in found}
    if start not in by_id and not own:
        _fork_point(store, dataset, found, epoch, start)
    if start not in by_id:
        start = _before_the_fork(store, oldest, start)

    def load(snapshot_id: str) -> CommitRecord | None:
        key = by_id.get(snapshot_id)
        return None if key is None else _read_if_there(store, key.key)

    def parent(record: CommitRecord) -> str | None:
        if record.parent is None or record.parent in by_id:
            return record.parent
        missed = read_line(store, record)
        return missed[-1].parent if missed else None

    yield from ancestry(start, load, parent)


def _before_the_fork(store: ObjectStore, oldest: CommitRecord | None, start: str) -> str:
    """Where the ancestry goes on when this bucket missed the snapshot the epoch forked from."""
    missed = [] if oldest is None else read_line(store, oldest)
    if start not in [one.snapshot_id for one in missed]:
        return start
    return missed[-1].parent or start


def _read_if_there(store: ObjectStore, key: str) -> CommitRecord | None:
    """A record that was just listed; ``None`` when it was expired since."""
    try:
        return read_record(store, key)
    except ObjectNotFound:
        return None


def find_record(store: ObjectStore, dataset: str, snapshot_id: str) -> CommitRecord | None:
    """A snapshot by its id, ``None`` when it is not committed here."""
    for key in record_keys(store, dataset):
        if key.snapshot_id == snapshot_id:
            return read_record(store, key.key)
    return None


def is_committed(store: ObjectStore, record: CommitRecord) -> bool:
    """Whether exactly this snapshot is committed here. Raises CommitRecordDamaged."""
    try:
        return read_record(store, record.key).snapshot_id == record.snapshot_id
    except ObjectNotFound:
        return False


def commit_time(now: datetime, parent: keys.RecordKey | None) -> datetime:
    """A commit time that sorts after the parent's even when the clock went back."""
    return now if parent is None else max(now, parent.committed_at + timedelta(microseconds=1))


def _fork_point(
    store: ObjectStore, dataset: str, found: list[keys.RecordKey], epoch: int, wanted: str
) -> keys.RecordKey:
    for key in found:
        if key.snapshot_id == wanted:
            return key
    raise EpochUnknownHere(
        "the snapshot this epoch forked from is not here, so no ancestry can be followed",
        where=f"{store.name}: {keys.root(dataset)}",
        expected=f"the commit record of {wanted} (fork of epoch {epoch})",
        found=f"{len(found)} other snapshots",
        fix="Replicate the dataset's newest snapshot to this site",
    )
