"""Large objects where a store has no parts to offer: read and written as one stream for each target that needs them.

A streamed put cannot be create-only. So nothing is written where anything lies, unless the key is named for the
object's digest and other bytes lie there; and a stream that turns out not to be the source's bytes breaks off at its
end, before the store has made an object of it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field

from holdfast.engine.objectstore.attribute_reading import preserved
from holdfast.engine.objectstore.checksums import NO_BYTES, Checksums
from holdfast.engine.objectstore.errors import BytesCorrupted, ObjectNotFound, PreconditionFailed
from holdfast.engine.objectstore.interface import OVERWRITE, ObjectReader, ObjectStore
from holdfast.engine.replication.copying import Done, Item, Receiver
from holdfast.engine.replication.landing import Landed, Need
from holdfast.engine.replication.streams import spare_key
from holdfast.engine.replication.verification import SourceCheck
from holdfast.engine.snapshot import keys
from holdfast.engine.snapshot.digest import Hasher
from holdfast.engine.snapshot.placement import is_replica
from holdfast.errors import HoldfastError


def copy_streamed(
    item: Item,
    source: ObjectStore,
    receivers: Sequence[Receiver],
    stores: Sequence[ObjectStore],
    folder: str,
    check: SourceCheck,
    preserve: Collection[str] = (),
) -> Done:
    """Copy one object under ``.versions/`` of each target that needs it.

    Args:
        item: the object, larger than is held in memory.
        source: where it is read, once for each target it is sent to.
        receivers: the targets.
        stores: theirs.
        folder: of the dataset under ``data/``.
        check: tells whether the bytes arrived as the source has them.
        preserve: see `Sync.preserve`.

    Raises:
        StoreUnavailable: the source did not answer.
    """
    copy = _Copy(item, source, check, folder, item.digest, preserve)
    active = [need for need in item.needs if receivers[need.target].active]
    try:
        later = [need for need in active if not copy.to_free_key(need, receivers[need.target], stores[need.target])]
        digest = copy.digest or copy.read()
        for need in later:
            copy.to_taken_key(need, receivers[need.target], stores[need.target], digest)
    except (PreconditionFailed, ObjectNotFound):
        return Done(item, None, copy.read_bytes)
    except _LeftOver as found:
        return Done(item, found.digest, copy.read_bytes, left_over=True)
    except BytesCorrupted as error:
        return Done(item, None, copy.read_bytes, wrong=error)
    return Done(item, digest, copy.read_bytes, landed=tuple(copy.landed))


class _LeftOver(HoldfastError):
    """The object came with a replication and is no data of the dataset."""

    def __init__(self, digest: str) -> None:
        super().__init__("the object came with a replication")
        self.digest = digest


@dataclass
class _Copy:
    """One object on its way to those that need it."""

    item: Item
    source: ObjectStore
    check: SourceCheck
    folder: str
    #: As it was known before, or as the first read that was right told it: all others must agree.
    digest: str | None
    preserve: Collection[str] = ()
    landed: list[tuple[int, Landed]] = field(default_factory=list)
    streams: list[_Pinned] = field(default_factory=list)

    @property
    def read_bytes(self) -> int:
        return sum(stream.hasher.size_bytes for stream in self.streams)

    def to_free_key(self, need: Need, receiver: Receiver, store: ObjectStore) -> bool:
        """Write it where nothing lies; ``False``: something does."""
        key = spare_key(self.folder, self.item)
        try:
            if _is_there(store, key):
                return False
        except HoldfastError as error:
            receiver.fail(error)
        else:
            self._write(key, need, receiver, store)
        return True

    def to_taken_key(self, need: Need, receiver: Receiver, store: ObjectStore, digest: str) -> None:
        """Have it at a target where bytes lie at its key already: they are its bytes, or it lies elsewhere."""
        named = keys.version_key(self.folder, self.item.path, digest)
        try:
            for key in dict.fromkeys((spare_key(self.folder, self.item), named)):
                if (version := receiver.landing.verifier.is_there_by_two_reads(key, digest)) is not None:
                    self.landed.append((need.target, Landed(key, version, "found", "read-back")))
                    return
        except HoldfastError as error:
            receiver.fail(error)
            return
        self._write(named, need, receiver, store)

    def read(self) -> str:
        """Read it for its digest alone."""
        stream = self._stream()
        for _ in stream:
            pass
        return stream.hasher.digest

    def _write(self, key: str, need: Need, receiver: Receiver, store: ObjectStore) -> None:
        """What the source does wrong is raised, what the target does wrong is the receiver's."""
        stream = self._stream()
        first = stream.reader()
        said = preserved(self.source, self.item.key, first.info.version, first.attributes, self.preserve)
        try:
            version = store.put(key, iter(stream), mode=OVERWRITE, attributes=receiver.landing.attributes(said))
            self.digest = stream.hasher.digest
            there = receiver.landing.verifier.is_there(key, self.digest)
        except HoldfastError as error:
            if stream.error is not None:
                raise stream.error from None
            receiver.fail(error)
            return
        if there is not None:
            self.landed.append((need.target, Landed(key, version, "copied", "read-back")))

    def _stream(self) -> _Pinned:
        self.streams.append(_Pinned(self.source, self.item, self.check, self.digest))
        return self.streams[-1]


class _Pinned:
    """The source's bytes, hashed as they pass, which break off at their end when they are not to land.

    ``error`` is why; it is the source's doing.
    """

    def __init__(self, source: ObjectStore, item: Item, check: SourceCheck, expected: str | None) -> None:
        self._source, self._item, self._check, self._expected = source, item, check, expected
        self.hasher = Hasher()
        self.error: HoldfastError | None = None
        self._reader: ObjectReader | None = None

    def reader(self) -> ObjectReader:
        """The open object, before its bytes pass."""
        if self._reader is None:
            try:
                self._reader = self._source.open(self._item.key, if_match=self._item.pin)
            except HoldfastError as error:
                self.error = error
                raise
        return self._reader

    def __iter__(self) -> Iterator[bytes]:
        try:
            reader = self.reader()
            total = NO_BYTES
            for chunk in self.hasher.through(reader):
                total += Checksums.of(chunk)
                yield chunk
            if self.hasher.size_bytes != self._item.size_bytes:
                raise PreconditionFailed("the object is of another size than listed", where=self._item.key)
            self._prove(total, is_replica(reader.metadata, self._item.relative))
        except HoldfastError as error:
            self.error = error
            raise

    def _prove(self, total: Checksums, replica: bool) -> None:
        item, digest = self._item, self.hasher.digest
        if self._expected is not None and digest != self._expected:
            raise self._wrong(self._expected, digest)
        if item.digest is not None:
            return
        if self._check.agrees(item.key, item.pin, sums=total) is False:
            raise self._wrong("the store's own checksum", digest)
        if replica and digest != item.before:
            raise _LeftOver(digest)

    def _wrong(self, expected: str, found: str) -> BytesCorrupted:
        return BytesCorrupted(
            "the object was read with other bytes than the store has",
            where=f"{self._source.name}: {self._item.key}",
            expected=expected,
            found=found,
            fix="Try again; if it stays so, have the store and the way to it checked",
        )


def _is_there(store: ObjectStore, key: str) -> bool:
    try:
        store.head(key)
    except ObjectNotFound:
        return False
    return True
