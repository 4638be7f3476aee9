"""Read objects once and land them at every target that lacks them: many at a time, with bounded memory.

Small objects are in memory whole, under a budget; large ones go in parts (`large`). What a read finds moved is left
for the next look at the source.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Protocol

import pyarrow as pa

from holdfast.clock import Clock
from holdfast.engine.objectstore.attribute_reading import preserved
from holdfast.engine.objectstore.attributes import Attributes
from holdfast.engine.objectstore.errors import BytesCorrupted, ObjectNotFound, PreconditionFailed, StoreUnavailable
from holdfast.engine.objectstore.interface import ObjectReader, ObjectStore, ObjectVersion
from holdfast.engine.replication.errors import Interrupted, SourceDamaged
from holdfast.engine.replication.landing import Landed, Landing, Need
from holdfast.engine.replication.verification import SourceCheck, is_md5, md5_tag
from holdfast.engine.snapshot.digest import digest_of
from holdfast.engine.snapshot.placement import is_replica, same_version
from holdfast.errors import HoldfastError

#: So many bytes of whole objects are in memory at once, whatever the number of threads.
BUDGET_BYTES = 64 * 1024 * 1024
#: Objects below this are not worth counting against the budget.
_UNCOUNTED_BYTES = 512 * 1024
#: How often one object is read when its bytes come short or wrong.
READS = 4
_BACKOFF_SECONDS = 0.2
_BATCH = 32
#: Outcomes are handed on so often: a few at a time cost much more each.
_TICK_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class Item:
    """One object to be read, and who needs it."""

    #: Row in the table of work.
    index: int
    path: str
    key: str
    #: Its path in the source's folder, which a rename may have changed.
    relative: str
    size_bytes: int
    pin: ObjectVersion | None
    #: ``None``: not known, it is new or has changed.
    digest: str | None
    #: What the path had before.
    before: str | None
    needs: tuple[Need, ...]


@dataclass(frozen=True, slots=True)
class Done:
    """What became of an item."""

    item: Item
    #: ``None``: it moved under the read.
    digest: str | None
    read_bytes: int = 0
    #: It came with a replication and is no data of the dataset.
    left_over: bool = False
    landed: tuple[tuple[int, Landed], ...] = ()
    #: As the read told it.
    version: str | None = None
    #: It was read wrong; the next round tries again, and when there is none left this is raised.
    wrong: HoldfastError | None = None


@dataclass(frozen=True, slots=True)
class Read:
    """An object's bytes in memory."""

    item: Item
    data: bytes
    digest: str
    attributes: Attributes
    #: Of this object so far, those included that were read for nothing.
    read_bytes: int
    #: Whether the targets' answers will tell if they are the source's.
    told: bool
    #: As the read told it.
    version: str | None
    #: They are not what the source has.
    wrong: bool

    @property
    def size_bytes(self) -> int:
        """Of these bytes."""
        return len(self.data)

    @property
    def sent(self) -> tuple[bytes, str, Attributes, str | None]:
        """What a landing is told beside path and need."""
        pin = self.item.pin
        return self.data, self.digest, self.attributes, pin.e_tag if pin is not None else None


class Receiver(Protocol):
    """A target as the copy sees it."""

    landing: Landing

    @property
    def active(self) -> bool:
        """Whether it still takes part."""

    def fail(self, error: HoldfastError) -> None:
        """It does not take part any more."""


class Budget:
    """So many bytes at once, first come first served."""

    def __init__(self, size_bytes: int) -> None:
        self._all = self._free = size_bytes
        self._changed = threading.Condition()

    @contextmanager
    def taken(self, size_bytes: int) -> Iterator[None]:
        size_bytes = min(size_bytes, self._all)
        with self._changed:
            self._changed.wait_for(lambda: self._free >= size_bytes)
            self._free -= size_bytes
        try:
            yield
        finally:
            with self._changed:
                self._free += size_bytes
                self._changed.notify_all()


class SmallCopier:
    """Copies single objects through memory. Safe to use from many threads.

    Args:
        preserve: of storage class and tags what is asked for beside each GET; see `Sync.preserve`.
    """

    def __init__(
        self, source: ObjectStore, receivers: Sequence[Receiver], clock: Clock, *, preserve: Collection[str] = ()
    ) -> None:
        self._source, self._receivers, self._clock, self._preserve = source, receivers, clock, preserve
        self._budget = Budget(BUDGET_BYTES)
        self.check = SourceCheck(source)
        #: Where all stores name objects by their MD5, the targets' answers tell whether the source was read right.
        self._answers_tell = [one.landing.names_by_md5 for one in receivers]

    def copy(self, item: Item) -> Done:
        """Read an object and land it wherever it is needed. Raises StoreUnavailable: the source did not answer."""
        found = self._found(item) if item.digest is not None else ()
        if found and len(found) == len(item.needs):
            return Done(item, item.digest, landed=found)
        item = replace(item, needs=_without(item.needs, found)) if found else item
        if item.size_bytes <= _UNCOUNTED_BYTES:
            done = self._copy(item)
        else:
            with self._budget.taken(item.size_bytes):
                done = self._copy(item)
        return replace(done, landed=(*found, *done.landed)) if found else done

    def _found(self, item: Item) -> tuple[tuple[int, Landed], ...]:
        """The targets that have it already, found without reading the source."""
        found = []
        for need in item.needs:
            receiver = self._receivers[need.target]
            if receiver.active and item.digest is not None:
                try:
                    there = receiver.landing.find(item.path, need, item.digest, item.size_bytes)
                except HoldfastError as error:
                    receiver.fail(error)
                else:
                    if there is not None:
                        found.append((need.target, there))
        return tuple(found)

    def _copy(self, item: Item) -> Done:
        read = 0
        for attempt in range(READS):
            if attempt:
                self._clock.sleep(_BACKOFF_SECONDS * 2**attempt)
            try:
                size_bytes = item.size_bytes
                reader = self._source.open(
                    item.key, if_match=item.pin, chunk_bytes=max(1, size_bytes), size_bytes=size_bytes
                )
                found = self.read(item, reader, read)
                if isinstance(found, Done):
                    return found
                read += found.size_bytes
                done = self._brought(found)
            except (PreconditionFailed, ObjectNotFound):
                return Done(item, None, read)
            except StoreUnavailable:
                if attempt == READS - 1:
                    raise
                continue
            if done is not None:
                return done
        return Done(item, None, read, wrong=self._wrong(item))

    def read(self, item: Item, reader: ObjectReader, before: int = 0, *, asks: bool = True) -> Read | Done:
        """Take an object's bytes and judge them.

        Args:
            before: bytes of it that were read already, for nothing.
            asks: whether the source may be asked about them. Else they are wrong unless its ETag is their MD5.

        Raises:
            PreconditionFailed, ObjectNotFound: it moved.
            StoreUnavailable: the source did not answer.
        """
        if item.pin is not None and not same_version(reader.info.version, item.pin):
            return Done(item, None, before)  # a store that ignores the pin
        chunks = list(reader)
        data = chunks[0] if len(chunks) == 1 else b"".join(chunks)
        size_bytes, attributes = before + len(data), reader.attributes
        if len(data) != item.size_bytes:
            return Read(item, data, "", attributes, size_bytes, False, None, wrong=True)
        digest = digest_of(data)
        marked = item.digest is None and attributes.metadata and is_replica(attributes.metadata, item.relative)
        if marked and digest != item.before:
            return Done(item, digest, size_bytes, left_over=True)
        told = item.digest is None and self._is_told_by_answers(item)
        if item.digest is not None:
            wrong = digest != item.digest
        elif not told and not asks:
            wrong = item.pin is None or md5_tag(data) != item.pin.e_tag
        else:
            wrong = not told and self.check.agrees(item.key, item.pin, data=data) is False
        if self._preserve and item.needs and not wrong:
            attributes = preserved(self._source, item.key, reader.info.version, attributes, self._preserve)
        version = reader.info.version.version
        return Read(item, data, digest, attributes, size_bytes, told, version, wrong=wrong)

    def _brought(self, read: Read) -> Done | None:
        """``None``: these are not the bytes the source has."""
        if read.wrong:
            return None
        return self.landed(read, self._land(read))

    def landed(self, read: Read, landed: tuple[tuple[int, Landed], ...]) -> Done | None:
        """The outcome of what was landed; ``None``: these were not the bytes the source has."""
        if read.told and not self._proven(read.item, read.data, landed):
            return None
        return Done(read.item, read.digest, read.read_bytes, landed=landed, version=read.version)

    def _is_told_by_answers(self, item: Item) -> bool:
        return (
            bool(item.needs)
            and item.pin is not None
            and is_md5(item.pin.e_tag)
            and all(self._answers_tell[need.target] for need in item.needs)
        )

    def _proven(self, item: Item, data: bytes, landed: tuple[tuple[int, Landed], ...]) -> bool:
        """Where the check was left to the targets' answers: whether one of them has what the source has."""
        if item.pin is None or any(one.version.e_tag == item.pin.e_tag for _, one in landed):
            return True
        if self.check.agrees(item.key, item.pin, data=data) is not False:
            return True
        for target, one in landed:
            if one.how == "copied":
                try:
                    self._receivers[target].landing.withdraw(one)
                except HoldfastError as error:
                    self._receivers[target].fail(error)
        return False

    def _land(self, read: Read) -> tuple[tuple[int, Landed], ...]:
        landed = []
        for need in read.item.needs:
            receiver = self._receivers[need.target]
            if receiver.active:
                try:
                    landed.append((need.target, receiver.landing.land(read.item.path, need, *read.sent)))
                except HoldfastError as error:
                    receiver.fail(error)
        return tuple(landed)

    def _wrong(self, item: Item) -> HoldfastError:
        if item.digest is not None:
            return SourceDamaged(
                "the source's bytes are not the snapshot's, though their version is the same",
                where=f"{self._source.name}: {item.key}",
                expected=item.digest,
                found=f"something else in {READS} reads",
                fix="Verify the snapshot at its source; if it is damaged there, write the object anew",
            )
        return BytesCorrupted(
            "the object could not be read as the store has it",
            where=f"{self._source.name}: {item.key}",
            expected=f"{item.size_bytes} bytes with the store's own checksum",
            found=f"something else in {READS} reads",
            fix="Try again; if it stays so, have the store and the way to it checked",
        )


def _without(needs: tuple[Need, ...], found: tuple[tuple[int, Landed], ...]) -> tuple[Need, ...]:
    served = {target for target, _ in found}
    return tuple(need for need in needs if need.target not in served)


class Crew:
    """Threads that do one kind of work until it is done, one of them fails, or somebody says stop."""

    def __init__(self, stop: threading.Event | None) -> None:
        self._stop = stop
        self._ended = threading.Event()
        self._error: BaseException | None = None
        self._done: deque[Done] = deque()
        self._threads: list[threading.Thread] = []

    @property
    def ended(self) -> bool:
        """Whether no more work is to be begun."""
        return self._ended.is_set() or (self._stop is not None and self._stop.is_set())

    def report(self, done: Done) -> None:
        """Hand in an outcome; it is taken by the thread that waits."""
        self._done.append(done)

    def start(self, work: Callable[[], None], threads: int, name: str) -> None:
        """Have a function run in so many threads."""

        def run() -> None:
            try:
                work()
            except BaseException as error:  # it is raised in the thread that waits
                self._error = self._error or error
                self._ended.set()

        for number in range(threads):
            thread = threading.Thread(target=run, name=f"{name}-{number}", daemon=True)
            self._threads.append(thread)
            thread.start()

    def wait(self, seen: Callable[[list[Done]], None]) -> None:
        """Hand on outcomes until all threads have ended.

        Raises:
            Interrupted: somebody said stop.
        """
        try:
            for thread in self._threads:
                while thread.is_alive():
                    thread.join(_TICK_SECONDS)
                    self._drain(seen)
        except BaseException:
            self._ended.set()
            for thread in self._threads:
                thread.join()
            raise
        self._drain(seen)
        if self._error is not None:
            raise self._error
        if self._stop is not None and self._stop.is_set():
            raise Interrupted(
                "the sync was stopped",
                found="nothing was published by it",
                fix="Run it again: what has landed is not copied twice",
            )

    def _drain(self, seen: Callable[[list[Done]], None]) -> None:
        found = []
        while self._done:
            found.append(self._done.popleft())
        if found:
            seen(found)


class Feed:
    """Rows of a table of work, handed out in batches to whoever asks next."""

    def __init__(
        self, work: pa.Table, make: Callable[[pa.Table, int], list[Item]], threads: int, most: int = _BATCH
    ) -> None:
        self._work, self._make, self._threads, self._most = work, make, threads, most
        self._lock = threading.Lock()
        self._position = 0

    def next(self) -> list[Item]:
        """The next items; an empty list: there are no more."""
        with self._lock:
            start, left = self._position, self._work.num_rows - self._position
            count = min(left, max(1, min(self._most, left // (self._threads * 2))))
            self._position += count
        return self._make(self._work.slice(start, count), start) if count else []
