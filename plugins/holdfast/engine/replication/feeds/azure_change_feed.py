"""Azure's change feed: a log of every blob's changes in the container ``$blobchangefeed`` of the account.

It is ordered per blob, names every change once, and is hours old: a segment is read once it is finalised and not later
than ``lastConsumable``. It is kept as long as the account's retention says; reading takes nothing away, so any number
of readers share it, each with a cursor of its own: the segment, and in it the chunk and record per shard.

Layout: `Change feed support <https://learn.microsoft.com/en-us/azure/storage/blobs/storage-blob-change-feed>`_.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, TypeVar

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from holdfast.engine.objectstore.errors import BucketNotFound, ObjectNotFound
from holdfast.engine.objectstore.interface import ObjectReader, ObjectStore
from holdfast.engine.replication.feeds import azure_events
from holdfast.engine.replication.feeds.errors import FeedDamaged, FeedRewound
from holdfast.engine.replication.feeds.gathered import Gathered, ScopedFeed
from holdfast.engine.replication.feeds.interface import Changes, Rejected, Scope
from holdfast.errors import ConfigError

_Model = TypeVar("_Model", bound=BaseModel)

#: The container the feed lies in.
CONTAINER = "$blobchangefeed"
_INDEX = "idx/segments/"
_SEGMENT = re.compile(rf"^{_INDEX}(\d{{4}})/(\d\d)/(\d\d)/(\d\d)(\d\d)/meta\.json$")


class _Position(BaseModel):
    """A cursor: a segment and how far each of its shards was read. A shard that is not named was not begun."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    segment: str
    done: bool = False
    #: Per shard the chunk and how many of its records were read; ``None``: to its end.
    shards: dict[str, tuple[str, int] | None] = Field(default_factory=dict)


class _Meta(BaseModel):
    """``meta/segments.json``."""

    last_consumable: AwareDatetime = Field(alias="lastConsumable")


class _Segment(BaseModel):
    """A segment's ``meta.json``."""

    status: str
    chunk_file_paths: tuple[str, ...] = Field(alias="chunkFilePaths")


class AzureChangeFeed(ScopedFeed):
    """The changes of one container of an account.

    Args:
        store: the container ``$blobchangefeed``.
        account: for messages.
        scope: container, prefix and folder that count.
    """

    def __init__(self, store: ObjectStore, account: str, scope: Scope) -> None:
        super().__init__(scope)
        self._store, self._account = store, account

    @property
    def name(self) -> str:
        return f"azure-changefeed://{self._account}/{self._scope.bucket}"

    def poll(self, cursor: str | None, limit: int) -> Changes:
        """Reads on from the cursor. Without one it answers with the feed's present end: a full listing follows."""
        consumable = self._consumable()
        if cursor is None:
            segments = [key for key, at in self._segments() if at <= consumable]
            end = _Position(segment=segments[-1], done=True) if segments else _Position(segment=_INDEX, done=True)
            return Changes((), end.model_dump_json(), complete=True, as_of=consumable)
        position, found = self._check(cursor), Gathered()
        for key, at in self._segments(start_after=position.segment if position.done else None):
            if key < position.segment:
                continue
            if at > consumable:
                break
            segment = self._read(key, _Segment)
            if segment.status != "Finalized":
                break
            before = position.shards if key == position.segment and not position.done else {}
            position = self._read_segment(key, segment, before, found, limit)
            if not position.done:
                break
        complete = position.done and found.events < limit
        return found.result(complete=complete, cursor=position.model_dump_json(), as_of=consumable)

    def _consumable(self) -> datetime:
        try:
            return self._read("meta/segments.json", _Meta).last_consumable
        except (ObjectNotFound, BucketNotFound) as error:
            raise ConfigError(
                "the account has no change feed",
                where=self.name,
                expected=f"meta/segments.json in the container {CONTAINER}",
                found=type(error).__name__,
                fix="Turn the blob change feed on for the storage account; its first segments take about an hour",
            ) from None

    def _segments(self, start_after: str | None = None) -> Iterator[tuple[str, datetime]]:
        """Segments and when they begin, oldest first, without the marker of the year 1601."""
        for info in self._store.list(_INDEX, start_after=start_after if start_after != _INDEX else None):
            if (match := _SEGMENT.match(info.key)) is not None and int(match[1]) > 1601:
                year, month, day, hour, minute = map(int, match.groups())
                yield info.key, datetime(year, month, day, hour, minute, tzinfo=UTC)

    def _check(self, cursor: str) -> _Position:
        try:
            position = _Position.model_validate_json(cursor)
        except ValidationError:
            raise FeedRewound(
                "the cursor is none of this feed's", where=self.name, found=cursor[:100], fix="List in full"
            ) from None
        oldest = next((key for key, _ in self._segments()), None)
        if position.segment != _INDEX and (oldest is None or oldest > position.segment):
            raise FeedRewound(
                "the change feed no longer holds the segment that was read last",
                where=self.name,
                expected=position.segment,
                found=f"the oldest is {oldest}",
                fix="List in full; keep the change feed longer than syncs may pause",
            )
        return position

    def _read_segment(
        self,
        key: str,
        segment: _Segment,
        before: dict[str, tuple[str, int] | None],
        found: Gathered,
        limit: int,
    ) -> _Position:
        shards = dict(before)
        for path in segment.chunk_file_paths:
            shard = path.removeprefix(f"{CONTAINER}/")
            if shard in shards and shards[shard] is None:
                continue
            if found.events >= limit:
                return _Position(segment=key, shards=shards)
            shards[shard] = self._read_shard(shard, shards.get(shard), found, limit)
            if shards[shard] is not None:
                return _Position(segment=key, shards=shards)
        return _Position(segment=key, done=True)

    def _read_shard(
        self, shard: str, begin: tuple[str, int] | None, found: Gathered, limit: int
    ) -> tuple[str, int] | None:
        """Reads on in a shard; where it stopped at the limit, ``None`` at its end."""
        first, skip = begin or ("", 0)
        for info in self._store.list(shard):
            if info.key < first:
                continue
            for number, record in enumerate(self._records(info.key)):
                if info.key == first and number < skip:
                    continue
                if found.events >= limit:
                    return info.key, number
                self._take(record, f"{info.key}#{number}", found)
        return None

    def _records(self, key: str) -> Iterator[Any]:
        import fastavro

        stream: Any = _Stream(self._store.open(key))
        try:
            yield from fastavro.reader(stream)
        except (ValueError, EOFError, TypeError, KeyError, IndexError, StopIteration) as error:
            raise FeedDamaged(
                "a file of the change feed cannot be read",
                where=f"{self._store.name}: {key}",
                expected="Avro",
                found=f"{type(error).__name__}: {error}"[:200],
                fix="List in full",
            ) from None

    def _take(self, record: Any, where: str, found: Gathered) -> None:
        try:
            changes = azure_events.parse(record, self._scope)
        except azure_events.NotUnderstood as error:
            found.rejected.append(Rejected(where, str(error), excerpt=str(record)[:200]))
            return
        found.changes += changes
        found.ignored += not changes

    def _read(self, key: str, model: type[_Model]) -> _Model:
        data = self._store.get(key)
        try:
            return model.model_validate_json(data)
        except ValidationError as error:
            raise FeedDamaged(
                "the change feed's index cannot be read",
                where=f"{self._store.name}: {key}",
                found=str(error)[:200],
                fix="List in full",
            ) from None


class _Stream:
    """An open read as a file of which so many bytes at a time are asked."""

    def __init__(self, reader: ObjectReader) -> None:
        self._chunks, self._held, self._at = iter(reader), memoryview(b""), 0

    def read(self, size: int = -1) -> bytes:
        if size < 0:
            return bytes(self._held[self._at :]) + b"".join(self._chunks)
        parts: list[bytes] = []
        while size > 0:
            if self._at == len(self._held):
                chunk = next(self._chunks, None)
                if chunk is None:
                    break
                self._held, self._at = memoryview(chunk), 0
                continue
            part = self._held[self._at : self._at + size]
            self._at += len(part)
            size -= len(part)
            parts.append(bytes(part))
        return b"".join(parts)
