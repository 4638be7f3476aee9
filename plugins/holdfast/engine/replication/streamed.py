"""Large objects where a store has no parts to offer: read and written as one stream for each target that needs them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from holdfast.engine.objectstore.errors import ObjectNotFound, PreconditionFailed
from holdfast.engine.objectstore.interface import OVERWRITE, ObjectStore
from holdfast.engine.replication.copying import Done, Item, Receiver
from holdfast.engine.replication.landing import Landed
from holdfast.engine.replication.streams import spare_key
from holdfast.engine.snapshot.digest import Hasher
from holdfast.engine.snapshot.placement import is_replica
from holdfast.errors import HoldfastError


def copy_streamed(
    item: Item, source: ObjectStore, receivers: Sequence[Receiver], stores: Sequence[ObjectStore], folder: str
) -> Done:
    """Copy one object under ``.versions/`` of each target that needs it: a streamed put cannot be create-only.

    Raises:
        StoreUnavailable: the source did not answer.
    """
    streams = []
    landed: list[tuple[int, Landed]] = []
    try:
        for need in item.needs:
            if receivers[need.target].active:
                streams.append(_Pinned(source, item))
                there = _copied(item, streams[-1], receivers[need.target], stores[need.target], folder)
                if there is not None:
                    landed.append((need.target, there))
        if not any(stream.whole for stream in streams):
            streams.append(_Pinned(source, item))
            for _ in streams[-1]:
                pass
    except (PreconditionFailed, ObjectNotFound):
        return Done(item, None, _read(streams))
    digests = {stream.hasher.digest for stream in streams if stream.whole}
    if len(digests) > 1 or (item.digest is not None and digests != {item.digest}):
        return Done(item, None, _read(streams))
    digest = digests.pop()
    if streams[-1].is_left_over(digest):
        return Done(item, digest, _read(streams), left_over=True)
    return Done(item, digest, _read(streams), landed=tuple(landed))


def _read(streams: Sequence[_Pinned]) -> int:
    return sum(stream.hasher.size_bytes for stream in streams)


def _copied(item: Item, stream: _Pinned, receiver: Receiver, store: ObjectStore, folder: str) -> Landed | None:
    """One copy. What the source does wrong is raised, what the target does wrong is the receiver's."""
    key = spare_key(folder, item)
    try:
        version = store.put(key, iter(stream), mode=OVERWRITE)
        there = receiver.landing.verifier.is_there(key, stream.hasher.digest)
    except HoldfastError as error:
        if stream.error is not None:
            raise stream.error from None
        receiver.fail(error)
        return None
    return None if there is None else Landed(key, version, "copied", "read-back")


class _Pinned:
    """The source's bytes, hashed as they pass; ``error`` is what the source did wrong."""

    def __init__(self, source: ObjectStore, item: Item) -> None:
        self._source, self._item = source, item
        self.hasher = Hasher()
        self.error: HoldfastError | None = None
        #: Whether it was read to its end.
        self.whole = False
        self._replica = False

    def __iter__(self) -> Iterator[bytes]:
        try:
            reader = self._source.open(self._item.key, if_match=self._item.pin)
            self._replica = is_replica(reader.metadata, self._item.relative)
            yield from self.hasher.through(reader)
            if self.hasher.size_bytes != self._item.size_bytes:
                raise PreconditionFailed("the object is of another size than listed", where=self._item.key)
            self.whole = True
        except HoldfastError as error:
            self.error = error
            raise

    def is_left_over(self, digest: str) -> bool:
        """Whether it came with a replication and is no data of the dataset."""
        return self._item.digest is None and self._replica and digest != self._item.before
