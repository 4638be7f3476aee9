"""Buckets and objects: every operation both APIs are made of.

An operation that changes something is one function inside the database's transaction: it looks, checks
the preconditions, checks holds and retention, and writes. Of any number of racing requests each sees
what the one before it left.
"""

from __future__ import annotations

import fcntl
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from holdfast.errors import HoldfastError
from holdfast.sandbox.gcs.blobs import BlobStore, Content, Segment
from holdfast.sandbox.gcs.checksums import Checksums, combine_crc32c, decode_crc32c, encode_crc32c
from holdfast.sandbox.gcs.database import Database, Transaction
from holdfast.sandbox.gcs.errors import conflict, no_bucket, no_object, retained
from holdfast.sandbox.gcs.preconditions import Preconditions
from holdfast.sandbox.gcs.records import BucketRecord, ObjectRecord
from holdfast.sandbox.gcs.sessions import Sessions, forget_old_sessions

NO_PRECONDITIONS = Preconditions()


@dataclass(frozen=True)
class Body:
    """What an object is to consist of.

    Attributes:
        segments: its pieces in order; each either new content or content another object already uses.
        checksums: of the whole.
        component_count: number of components when it was composed.
    """

    segments: tuple[Segment, ...]
    checksums: Checksums
    component_count: int | None = None

    @classmethod
    def of(cls, content: Content) -> Body:
        """A body of one piece of new content."""
        return cls((Segment(content.blob_id, content.size_bytes, content.data),), content.checksums)

    @property
    def size_bytes(self) -> int:
        """Length of the whole."""
        return sum(segment.size_bytes for segment in self.segments)


@dataclass(frozen=True)
class Source:
    """An object to copy or compose from."""

    bucket: str
    name: str
    generation: int | None = None
    preconditions: Preconditions = NO_PRECONDITIONS


class FolderInUseError(HoldfastError):
    """The data folder belongs to a running server."""


class Storage:
    """The durable state of the server.

    Args:
        folder: where everything lies; created when absent.
        sync: sync to disk before acknowledging (see `Database`).
        clock: seconds since 1970.

    Raises:
        FolderInUseError: another server has the folder.
    """

    def __init__(self, folder: Path, *, sync: bool = True, clock: Callable[[], float] = time.time) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        # Held until the process ends, however it does: a second server would sweep this one's unfinished files.
        self._lock = (folder / "lock").open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise FolderInUseError(
                "another storage server has this data folder",
                where=str(folder),
                fix="Stop that server, or give this one its own --data folder.",
            ) from None
        self._clock = clock
        self.blobs = BlobStore(folder / "blobs", sync=sync)
        self.database = Database(folder / "metadata.sqlite", sync=sync, on_garbage=self.blobs.remove)
        self.sessions = Sessions(self.database, self.blobs)
        connection = self.database.reader()
        self.blobs.sweep(connection, keep=forget_old_sessions(connection, self.now_us()))

    def close(self) -> None:
        """Finish what is queued and let go of the folder."""
        self.database.close()
        self._lock.close()

    def now_us(self) -> int:
        """Now, in microseconds since 1970."""
        return int(self._clock() * 1_000_000)

    # Buckets

    async def create_bucket(self, name: str, project: str, fields: dict[str, Any]) -> BucketRecord:
        """Make a bucket; 409 when there is one of that name."""

        def change(tx: Transaction) -> BucketRecord:
            if tx.execute("SELECT 1 FROM bucket WHERE name = ?", (name,)).fetchone():
                raise conflict("Your previous request to create the named bucket succeeded and you already own it.")
            now = self.now_us()
            record = BucketRecord(name, project, tx.next_generation(now), 1, now, now, fields)
            tx.execute(
                "INSERT INTO bucket VALUES (?, ?, ?, ?, ?, ?, ?)",
                (name, project, record.generation, 1, now, now, json.dumps(fields)),
            )
            return record

        return await self.database.change(change)

    def bucket(self, name: str) -> BucketRecord:
        """The bucket of that name, or 404."""
        return _bucket(self.database.reader(), name)

    def list_buckets(self, project: str, prefix: str, after: str, limit: int) -> list[BucketRecord]:
        """Buckets of a project in order of name, from behind `after` on."""
        rows = self.database.reader().execute(
            "SELECT * FROM bucket WHERE project = ? AND name > ? AND substr(name, 1, ?) = ? ORDER BY name LIMIT ?",
            (project, after, len(prefix), prefix, limit),
        )
        return [BucketRecord.from_row(row) for row in rows]

    async def update_bucket(
        self, name: str, preconditions: Preconditions, update: Callable[[BucketRecord], dict[str, Any]]
    ) -> BucketRecord:
        """Replace a bucket's fields by what `update` makes of the bucket."""

        def change(tx: Transaction) -> BucketRecord:
            record = _bucket(tx, name)
            preconditions.check(None, record.metageneration)
            fields = update(record)
            tx.execute(
                "UPDATE bucket SET metageneration = metageneration + 1, updated_us = ?, fields = ? WHERE name = ?",
                (self.now_us(), json.dumps(fields), name),
            )
            return _bucket(tx, name)

        return await self.database.change(change)

    async def delete_bucket(self, name: str, preconditions: Preconditions) -> None:
        """Remove an empty bucket; 409 when it holds anything, noncurrent generations included."""

        def change(tx: Transaction) -> None:
            record = _bucket(tx, name)
            preconditions.check(None, record.metageneration)
            if tx.execute("SELECT 1 FROM object WHERE bucket = ? LIMIT 1", (name,)).fetchone():
                raise conflict("The bucket you tried to delete is not empty.", xml_code="BucketNotEmpty")
            tx.execute("DELETE FROM bucket WHERE name = ?", (name,))

        await self.database.change(change)

    # Objects

    def find(self, bucket: str, name: str, generation: int | None = None) -> ObjectRecord:
        """The live object, or the generation asked for; 404."""
        connection = self.database.reader()
        record = _object(connection, bucket, name, generation)
        if record is None:
            _bucket(connection, bucket)
            raise no_object(bucket, name)
        return record

    def segments(self, record: ObjectRecord) -> list[Segment]:
        """Where the content of an object lies. Pin it with `BlobStore.reading`, then ask `still_there`."""
        return _segments(self.database.reader(), record.id)

    def still_there(self, record: ObjectRecord) -> bool:
        """Whether this generation exists still."""
        row = self.database.reader().execute("SELECT 1 FROM object WHERE id = ?", (record.id,)).fetchone()
        return row is not None

    async def put(
        self, bucket: str, name: str, body: Body, fields: dict[str, Any], preconditions: Preconditions
    ) -> ObjectRecord:
        """Make a new live generation out of content that was received."""
        return await self.database.change(lambda tx: self.insert(tx, bucket, name, body, fields, preconditions))

    def check_put(self, bucket: str, name: str, preconditions: Preconditions) -> None:
        """Refuse early what `put` would refuse now; `put` decides."""
        connection = self.database.reader()
        record = _object(connection, bucket, name, None)
        _bucket(connection, bucket)
        preconditions.check(record.generation if record else None, record.metageneration if record else None)

    def insert(
        self, tx: Transaction, bucket: str, name: str, body: Body, fields: dict[str, Any], preconditions: Preconditions
    ) -> ObjectRecord:
        """`put` inside a transaction that does more."""
        owner = _bucket(tx, bucket)
        live = _object(tx, bucket, name, None)
        preconditions.check(live.generation if live else None, live.metageneration if live else None)
        now = self.now_us()
        if live is not None:
            _refuse_to_retire(live, owner, now)
            tx.execute("UPDATE object SET live = 0, deleted_us = ? WHERE id = ?", (now, live.id))
        fields = dict(fields)
        if owner.fields.get("defaultEventBasedHold") and "eventBasedHold" not in fields:
            fields["eventBasedHold"] = True
        fields.setdefault("storageClass", owner.fields.get("storageClass", "STANDARD"))
        generation = tx.next_generation(now)
        object_id = tx.execute(
            "INSERT INTO object (bucket, name, generation, metageneration, live, size_bytes, crc32c, md5,"
            " component_count, created_us, updated_us, fields) VALUES (?, ?, ?, 1, 1, ?, ?, ?, ?, ?, ?, ?)",
            (
                bucket,
                name,
                generation,
                body.size_bytes,
                body.checksums.crc32c,
                body.checksums.md5,
                body.component_count,
                now,
                now,
                json.dumps(fields),
            ),
        ).lastrowid
        for position, segment in enumerate(body.segments):
            tx.execute(
                "INSERT OR IGNORE INTO blob VALUES (?, ?, ?)", (segment.blob_id, segment.size_bytes, segment.data)
            )
            tx.execute("INSERT INTO segment VALUES (?, ?, ?)", (object_id, position, segment.blob_id))
        if live is not None and not owner.versioned:
            # Only now: the new generation may consist of the old one's content.
            _remove(tx, live)
        record = _object(tx, bucket, name, None)
        assert record is not None
        return record

    async def delete(self, bucket: str, name: str, generation: int | None, preconditions: Preconditions) -> None:
        """Delete the live object (noncurrent afterwards when the bucket is versioned), or one generation for good."""

        def change(tx: Transaction) -> None:
            owner = _bucket(tx, bucket)
            record = _object(tx, bucket, name, generation)
            if record is None:
                # A match on a generation cannot hold for what is not there; match 0 asks for just that.
                if preconditions.generation_match or preconditions.metageneration_match is not None:
                    preconditions.check(None, None)
                raise no_object(bucket, name)
            preconditions.check(record.generation, record.metageneration)
            now = self.now_us()
            if generation is None:
                self._retire(tx, owner, record, now)
            else:
                _refuse_when_protected(record, owner, now)
                _remove(tx, record)

        await self.database.change(change)

    async def update(
        self,
        bucket: str,
        name: str,
        generation: int | None,
        preconditions: Preconditions,
        update: Callable[[ObjectRecord], dict[str, Any]],
    ) -> ObjectRecord:
        """Replace an object's fields by what `update` makes of the object; its metageneration grows."""

        def change(tx: Transaction) -> ObjectRecord:
            record = _object(tx, bucket, name, generation)
            if record is None:
                _bucket(tx, bucket)
                raise no_object(bucket, name)
            preconditions.check(record.generation, record.metageneration)
            fields = update(record)
            now = self.now_us()
            released = record.fields.get("eventBasedHold") and not fields.get("eventBasedHold")
            tx.execute(
                "UPDATE object SET metageneration = metageneration + 1, updated_us = ?, hold_released_us = ?,"
                " fields = ? WHERE id = ?",
                (now, now if released else record.hold_released_us, json.dumps(fields), record.id),
            )
            return ObjectRecord.from_row(tx.execute("SELECT * FROM object WHERE id = ?", (record.id,)).fetchone())

        return await self.database.change(change)

    async def copy(
        self,
        source: Source,
        bucket: str,
        name: str,
        fields: dict[str, Any] | None,
        preconditions: Preconditions,
        *,
        remove_source: bool = False,
    ) -> ObjectRecord:
        """A new generation with the content of another object, which is shared and not copied.

        Args:
            source: what to copy, with its own preconditions.
            bucket: of the destination.
            name: of the destination.
            fields: metadata that replaces the source's; None keeps the source's.
            preconditions: on the destination.
            remove_source: delete the source in the same step (a move).
        """

        def change(tx: Transaction) -> ObjectRecord:
            found = _source(tx, source)
            kept = {key: value for key, value in found.fields.items() if key not in _NOT_COPIED}
            body = Body(tuple(_segments(tx, found.id)), found.checksums, found.component_count)
            record = self.insert(tx, bucket, name, body, kept if fields is None else fields, preconditions)
            if remove_source:
                self._retire(tx, _bucket(tx, source.bucket), found, self.now_us())
            return record

        return await self.database.change(change)

    async def compose(
        self,
        bucket: str,
        name: str,
        sources: list[Source],
        fields: dict[str, Any],
        preconditions: Preconditions,
        *,
        remove_sources: bool = False,
    ) -> ObjectRecord:
        """A new generation out of others' content in order; as in Google Cloud Storage it has no MD5."""

        def change(tx: Transaction) -> ObjectRecord:
            found = [_source(tx, source) for source in sources]
            crc32c = 0
            for record in found:
                crc32c = combine_crc32c(crc32c, decode_crc32c(record.checksums.crc32c), record.size_bytes)
            segments = [segment for record in found for segment in _segments(tx, record.id)]
            components = sum(record.component_count or 1 for record in found)
            inherited = {"contentType": found[0].fields["contentType"]} if "contentType" in found[0].fields else {}
            body = Body(tuple(segments), Checksums(encode_crc32c(crc32c), None), components)
            composed = self.insert(tx, bucket, name, body, {**inherited, **fields}, preconditions)
            if remove_sources:
                owner, now = _bucket(tx, bucket), self.now_us()
                for record in {record.id: record for record in found if record.name != name}.values():
                    self._retire(tx, owner, record, now)
            return composed

        return await self.database.change(change)

    def _retire(self, tx: Transaction, bucket: BucketRecord, record: ObjectRecord, now_us: int) -> None:
        """Take a live object out of the way: it becomes noncurrent or is removed."""
        _refuse_to_retire(record, bucket, now_us)
        if bucket.versioned and record.live:
            tx.execute("UPDATE object SET live = 0, deleted_us = ? WHERE id = ?", (now_us, record.id))
        else:
            _remove(tx, record)


# What belongs to a generation and is not taken over by a copy of it.
_NOT_COPIED = ("temporaryHold", "eventBasedHold", "retention", "storageClass")


def _bucket(connection: Any, name: str) -> BucketRecord:
    row = connection.execute("SELECT * FROM bucket WHERE name = ?", (name,)).fetchone()
    if row is None:
        raise no_bucket(name)
    return BucketRecord.from_row(row)


def _object(connection: Any, bucket: str, name: str, generation: int | None) -> ObjectRecord | None:
    if generation is None:
        found = connection.execute(
            "SELECT * FROM object WHERE bucket = ? AND name = ? AND live = 1", (bucket, name)
        ).fetchone()
    else:
        found = connection.execute(
            "SELECT * FROM object WHERE bucket = ? AND name = ? AND generation = ?", (bucket, name, generation)
        ).fetchone()
    return ObjectRecord.from_row(found) if found is not None else None


def _source(tx: Transaction, source: Source) -> ObjectRecord:
    record = _object(tx, source.bucket, source.name, source.generation)
    if record is None:
        _bucket(tx, source.bucket)
        raise no_object(source.bucket, source.name)
    source.preconditions.check(record.generation, record.metageneration)
    return record


def _segments(connection: Any, object_id: int) -> list[Segment]:
    rows = connection.execute(
        "SELECT blob.id, blob.size_bytes, blob.data FROM segment JOIN blob ON blob.id = segment.blob"
        " WHERE segment.object = ? ORDER BY segment.position",
        (object_id,),
    )
    return [Segment(row["id"], row["size_bytes"], row["data"]) for row in rows]


def _refuse_to_retire(record: ObjectRecord, bucket: BucketRecord, now_us: int) -> None:
    """A hold keeps a live object live; a retention policy lets it become noncurrent, but not vanish."""
    held = record.fields.get("temporaryHold") or record.fields.get("eventBasedHold")
    if held or not bucket.versioned:
        _refuse_when_protected(record, bucket, now_us)


def _refuse_when_protected(record: ObjectRecord, bucket: BucketRecord, now_us: int) -> None:
    reason = record.protection(bucket, now_us)
    if reason is not None:
        raise retained(reason)


def _remove(tx: Transaction, record: ObjectRecord) -> None:
    blobs = [row["blob"] for row in tx.execute("SELECT blob FROM segment WHERE object = ?", (record.id,))]
    tx.execute("DELETE FROM segment WHERE object = ?", (record.id,))
    tx.execute("DELETE FROM object WHERE id = ?", (record.id,))
    tx.drop_blobs(blobs)
