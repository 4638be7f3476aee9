"""Large objects in parts: pinned ranges read side by side into buffers used again, hashed in order, put at each target.

However many the objects, only as many parts are in memory as there are workers, and no more than the budget, or one
part where that is larger (of an object above 234 GiB, where 10,000 parts are the most). The next object begins while
the last parts of the one before are on their way.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager

from holdfast.clock import Clock
from holdfast.engine.objectstore.attribute_reading import preserved
from holdfast.engine.objectstore.attributes import Attributes
from holdfast.engine.objectstore.checksums import NO_BYTES, Checksums
from holdfast.engine.objectstore.errors import BytesCorrupted, ObjectNotFound, PreconditionFailed, StoreUnavailable
from holdfast.engine.objectstore.interface import ByteRange, ObjectStore
from holdfast.engine.objectstore.parts import PartLimits, PartStore, part_bytes_for
from holdfast.engine.replication.copying import READS, Budget, Crew, Done, Item
from holdfast.engine.replication.landing import BACKOFF_SECONDS, Landed
from holdfast.engine.replication.streams import Stream
from holdfast.engine.replication.verification import SourceCheck
from holdfast.engine.snapshot.digest import Hasher
from holdfast.engine.snapshot.placement import is_replica
from holdfast.errors import HoldfastError

#: What the buffers of all parts in flight take together.
BUFFERS_BYTES = 24 * 1024 * 1024
#: Parts in flight at most.
MOST_WORKERS = 8

#: The part-wise sides an item's bytes go through, and what makes its streams once the size of a part is known.
MakeStreams = Callable[[Item, int], list[Stream]]


class _Stopped(Exception):
    """The object's copy has ended; its other parts are not to be waited for."""


class Job:
    """One object on its way. Its parts are worked on by many threads."""

    def __init__(
        self,
        item: Item,
        part_bytes: int,
        make_streams: MakeStreams,
        source: ObjectStore,
        reads: PartStore,
        check: SourceCheck,
        clock: Clock,
        *,
        preserve: Collection[str] = (),
    ) -> None:
        self.item, self.part_bytes, self._preserve = item, part_bytes, preserve
        self.count = max(1, math.ceil(item.size_bytes / part_bytes))
        self._make_streams, self._source, self._reads, self._check, self._clock = (
            make_streams,
            source,
            reads,
            check,
            clock,
        )
        self._changed = threading.Condition()
        self._prepared = False
        self._streams: list[Stream] = []
        self._attributes = Attributes()
        self._version: str | None = None
        self._hasher = Hasher()
        self._next = 1
        self._sums: list[Checksums] = [NO_BYTES] * self.count
        self._left = self.count
        self._moved = False
        self._error: BaseException | None = None
        self._read_bytes = 0

    def part(self, number: int, buffer: memoryview) -> Done | None:
        """Bring one part across; the last one to end brings the outcome.

        Raises whatever makes the whole sync fail; the other parts of the object end quietly then.
        """
        try:
            self._prepare()
            view = buffer[: min(self.part_bytes, self.item.size_bytes - (number - 1) * self.part_bytes)]
            sums = self._read(number, view)
            self._in_turn(number, lambda: self._hasher.update(view))
            self._sums[number - 1] = sums
            for stream in self._streams:
                self._put(stream, number, view, sums)
        except (PreconditionFailed, ObjectNotFound):
            self._end(moved=True)
        except _Stopped:
            pass
        except BaseException as error:
            self._end(error=error)
            raise
        with self._changed:
            self._left -= 1
            if self._left:
                return None
        return self._finish(buffer)

    def _prepare(self) -> None:
        """By the first part; the others wait for it."""
        with self._changed:
            self._go_on()
            if self._prepared:
                return
            self._ask()
            for stream in self._make_streams(self.item, self.part_bytes):
                try:
                    stream.begin(self._attributes)
                except HoldfastError as error:
                    stream.receiver.fail(error)
                self._streams.append(stream)
            self._prepared = True

    def _ask(self) -> None:
        """What the object says of itself, by a read of one byte."""
        try:
            first = self._source.open(self.item.key, byte_range=ByteRange(0, 1), if_match=self.item.pin)
        except StoreUnavailable:
            # A store that answers a range with the whole (some emulators do) tells its version by HEAD all the same.
            found = self._source.head(self.item.key).version
        else:
            self._attributes, found = first.attributes, first.info.version
        self._version = found.version
        if self.item.needs:
            self._attributes = preserved(self._source, self.item.key, found, self._attributes, self._preserve)

    def end(self, error: BaseException) -> None:
        """It comes to nothing: whoever waits for one of its parts stops waiting."""
        self._end(error=error)

    def _go_on(self) -> None:
        if self._moved or self._error is not None:
            raise _Stopped

    def _end(self, *, moved: bool = False, error: BaseException | None = None) -> None:
        with self._changed:
            self._moved = self._moved or moved
            self._error = self._error or error
            self._changed.notify_all()

    def _read(self, number: int, view: memoryview) -> Checksums:
        pin = self.item.pin
        assert pin is not None
        for attempt in range(READS):
            try:
                self._reads.read_into(self.item.key, (number - 1) * self.part_bytes, view, if_match=pin)
                break
            except StoreUnavailable:
                if attempt == READS - 1:
                    raise
            self._clock.sleep(BACKOFF_SECONDS * 2**attempt)
        return Checksums.of(view)

    def _in_turn(self, number: int, work: Callable[[], None]) -> None:
        """Do something part by part, in order."""
        with self._changed:
            self._changed.wait_for(lambda: self._next == number or self._moved or self._error is not None)
            self._go_on()
        work()
        with self._changed:
            self._next = number + 1
            self._read_bytes += min(self.part_bytes, self.item.size_bytes - (number - 1) * self.part_bytes)
            self._changed.notify_all()

    def _put(self, stream: Stream, number: int, view: memoryview, sums: Checksums) -> None:
        if not stream.parts.limits.in_order:
            if stream.open:
                stream.put(number, view, sums)
            return
        with self._changed:
            self._changed.wait_for(lambda: stream.turn == number or self._moved or self._error is not None)
            self._go_on()
        if stream.open:
            stream.put(number, view, sums)
        with self._changed:
            stream.turn = number + 1
            self._changed.notify_all()

    def _finish(self, buffer: memoryview) -> Done | None:
        if self._error is not None:
            return None
        digest, total = self._hasher.digest, sum(self._sums, NO_BYTES)
        if self._moved or (right := self._is_right(digest, total)) is None:
            self._drop()
            return Done(self.item, None, self._read_bytes)
        if self.item.digest is None and self._is_left_over(digest):
            self._drop()
            return Done(self.item, digest, self._read_bytes, left_over=True)
        if not right:
            self._tell_streams(Stream.keep_what_is_right)
            return Done(self.item, None, self._read_bytes, wrong=self._wrong(digest))
        landed = tuple(self._landed(digest, total, buffer))
        return Done(self.item, digest, self._read_bytes, landed=landed, version=self._version)

    def _is_right(self, digest: str, total: Checksums) -> bool | None:
        """Whether these are the source's bytes; ``None``: it has others now."""
        if self.item.digest is not None:
            return digest == self.item.digest
        try:
            return self._check.agrees(self.item.key, self.item.pin, sums=total) is not False
        except (PreconditionFailed, ObjectNotFound):
            return None

    def _is_left_over(self, digest: str) -> bool:
        metadata = self._attributes.metadata
        return bool(metadata) and is_replica(metadata, self.item.relative) and digest != self.item.before

    def _landed(self, digest: str, total: Checksums, buffer: memoryview) -> Iterator[tuple[int, Landed]]:
        for stream in self._streams:
            if stream.receiver.active:
                try:
                    landed = stream.finish(digest, total, buffer)
                except HoldfastError as error:
                    stream.receiver.fail(error)
                else:
                    if landed is not None:
                        yield stream.need.target, landed

    def _drop(self) -> None:
        self._tell_streams(Stream.drop)

    def _tell_streams(self, what: Callable[[Stream], None]) -> None:
        for stream in self._streams:
            if stream.receiver.active:
                try:
                    what(stream)
                except HoldfastError as error:
                    stream.receiver.fail(error)

    def _wrong(self, found: str) -> BytesCorrupted:
        return BytesCorrupted(
            "the object was read with other bytes than the store has",
            where=f"{self._source.name}: {self.item.key}",
            expected=self.item.digest or "the store's own checksum",
            found=found,
            fix="Try again; if it stays so, have the store and the way to it checked",
        )


class PartWork:
    """Parts of many objects, one after the other, for many workers."""

    def __init__(self, jobs: Sequence[Job], crew: Crew) -> None:
        self._jobs, self._crew = jobs, crew
        self._lock = threading.Lock()
        self._budget = Budget(BUFFERS_BYTES)
        self._job = 0
        self._number = 1

    @property
    def workers(self) -> int:
        """How many threads there is work for."""
        largest = max((job.part_bytes for job in self._jobs), default=1)
        parts = sum(job.count for job in self._jobs)
        return max(1, min(MOST_WORKERS, BUFFERS_BYTES // largest, parts))

    def work(self) -> None:
        """What one worker does. When it fails, nobody waits for its part: all jobs end with it."""
        try:
            self._work()
        except BaseException as error:
            for job in self._jobs:
                job.end(error)
            raise

    def _work(self) -> None:
        buffer = bytearray()
        while not self._crew.ended:
            with self._next() as task:
                if task is None:
                    return
                job, number = task
                size = min(job.part_bytes, job.item.size_bytes)
                if len(buffer) < size:
                    buffer = bytearray(size)
                done = job.part(number, memoryview(buffer)[:size])
            if done is not None:
                self._crew.report(done)

    @contextmanager
    def _next(self) -> Iterator[tuple[Job, int] | None]:
        with self._lock:
            if self._job == len(self._jobs):
                task, taken = None, None
            else:
                task = (self._jobs[self._job], self._number)
                # Under the lock, so that parts get their memory in order: the next to be hashed never waits for it.
                taken = self._budget.taken(task[0].part_bytes)
                taken.__enter__()
                self._number += 1
                if self._number > task[0].count:
                    self._job, self._number = self._job + 1, 1
        try:
            yield task
        finally:
            if taken is not None:
                taken.__exit__(None, None, None)


def common_part_bytes(size_bytes: int, limits: Sequence[PartLimits]) -> int:
    """The size of parts that suits several stores: a function of the object's size and their limits alone."""
    if not limits:
        return part_bytes_for(size_bytes, PartLimits(1, 1 << 40, 10_000, in_order=False))
    most = [one.most_parts for one in limits if one.most_parts is not None]
    return part_bytes_for(
        size_bytes,
        PartLimits(
            smallest_bytes=max(one.smallest_bytes for one in limits),
            largest_bytes=min(one.largest_bytes for one in limits),
            most_parts=min(most) if most else None,
            in_order=any(one.in_order for one in limits),
            multiple_bytes=math.lcm(*(one.multiple_bytes for one in limits)),
        ),
    )


__all__ = ["Job", "Landed", "MakeStreams", "PartWork", "common_part_bytes"]
