"""Small objects, several at a time in one thread: their reads and writes are sent ahead, and answered in groups.

A thread that waits for each answer sleeps twice per object, and to wake it costs as much as everything it does about
the object; threads beside it only wait for the interpreter. Here the answers are there when they are looked at: while
one group's bytes are judged and sent on, the source works on the next group, and the targets on the one before.

While anything is on its way, nothing is waited for but answers: places among a site's limits are held until they are
taken (`objectstore.ahead`). Whatever does not go its ordinary way (an object that moved, an answer that was lost, a key
that was taken, bytes that must be read back) is left until nothing is on its way any more.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import pyarrow as pa
import pyarrow.compute as pc

from holdfast.engine.objectstore.ahead import AHEAD_BYTES, AheadStore, Pending, ahead_store
from holdfast.engine.objectstore.errors import ObjectNotFound, PreconditionFailed
from holdfast.engine.objectstore.interface import ObjectReader, ObjectStore, ObjectVersion
from holdfast.engine.replication.copying import Done, Item, Read, Receiver, SmallCopier
from holdfast.engine.replication.landing import Landed, Need, Own, PendingLanding
from holdfast.engine.replication.verification import MD5_TAG
from holdfast.errors import HoldfastError

#: Requests to one site on their way at a time, in one thread, at most.
AT_ONCE = 16


@dataclass
class _Sent:
    """Bytes on their way to one target."""

    need: Need
    landing: PendingLanding
    answered: bool = False
    #: What the store answered; ``None``: nothing that tells.
    version: ObjectVersion | None = None
    landed: Landed | None = None


@dataclass
class _Flight:
    """One object whose bytes are on their way to its targets."""

    read: Read
    sent: list[_Sent] = field(default_factory=list)
    #: What its targets do not take ahead.
    later: list[Need] = field(default_factory=list)

    @property
    def is_landed(self) -> bool:
        """Whether nothing more has to be asked about it."""
        return not self.later and all(one.landed is not None for one in self.sent)


class SeveralCopier:
    """Copies small objects, several at a time. Safe to use from many threads.

    Args:
        source: where they lie.
        receivers: the targets at their places.
        small: copies one object.
        preserves: whether more has to be asked of the source about each object than its bytes.
        at_once: objects on their way in one thread.
    """

    def __init__(
        self,
        source: ObjectStore,
        receivers: Sequence[Receiver],
        small: SmallCopier,
        *,
        preserves: bool,
        at_once: int = AT_ONCE,
    ) -> None:
        self._group = max(1, min(at_once, AT_ONCE) // 2)
        self._source, self._receivers, self._small, self._preserves = source, receivers, small, preserves

    @cached_property
    def _ahead(self) -> AheadStore | None:
        return ahead_store(self._source)

    def serves(self, work: pa.Table) -> pa.ChunkedArray:
        """Which rows of a table of work are brought this way.

        Those whose digest is not known yet, whose ETag is an MD5 (it tells without a question whether the bytes are the
        source's), and for which no target has to be looked through first.
        """
        digest, tag = pc.is_null(work["digest"]), pc.match_substring_regex(work["e_tag"], MD5_TAG)
        few = pc.and_(pc.and_(digest, pc.fill_null(tag, False)), pc.less_equal(work["size_bytes"], AHEAD_BYTES))
        few = pc.and_(few, self._ahead is not None and not self._preserves)
        for number, receiver in enumerate(self._receivers):
            need = work[f"need_{number}"]
            if not pc.any(need).as_py():
                continue
            if not receiver.landing.takes_ahead():
                few = pc.and_not(few, need)
                continue
            looked_for = pc.equal(work[f"own_{number}"], int(Own.MAYBE))
            has_some = pc.or_(looked_for, pc.is_valid(work[f"base_key_{number}"]))
            few = pc.and_not(few, pc.and_(need, has_some))
        return few

    def copy(self, items: Sequence[Item], report: Callable[[Done], None], ended: Callable[[], bool]) -> None:
        """Copy the objects and report what became of each.

        Args:
            ended: whether no more work is to be begun.

        Raises:
            StoreUnavailable: the source did not answer.
        """
        trip = _Trip(items, report, ended, [], [])
        self._travel(trip)
        for flight in trip.flights:
            done = self._small.landed(flight.read, self._landed(flight))
            if done is None:
                trip.rest.append(flight.read.item)
            else:
                report(done)
        for item in trip.rest:
            if ended():
                return
            report(self._small.copy(item))

    def _travel(self, trip: _Trip) -> None:
        """All groups, one behind the other; at its end nothing is on its way any more."""
        reads: list[Pending[ObjectReader]] = []
        before: list[_Flight] = []
        now: list[_Flight] = []
        groups = [trip.items[start : start + self._group] for start in range(0, len(trip.items), self._group)]
        try:
            reads = self._begin(groups[0], trip)
            for number, group in enumerate(groups):
                readers = _taken(group, reads)
                if number + 1 < len(groups) and not trip.ended():
                    reads = self._begin(groups[number + 1], trip)
                for item, reader in zip(group, readers, strict=False):
                    self._send(item, reader, now, trip)
                self._answered(before, trip)
                before, now = now, []
            self._answered(before, trip)
        except BaseException:
            _abandon(reads, [*before, *now])
            raise

    def _begin(self, items: Sequence[Item], trip: _Trip) -> list[Pending[ObjectReader]]:
        """Ask for the objects; those the source does not take now are left for the end."""
        pending: list[Pending[ObjectReader]] = []
        for item in items:
            one = None
            try:
                if self._ahead is not None:
                    one = self._ahead.begin_open(item.key, if_match=item.pin, size_bytes=item.size_bytes)
            except HoldfastError:
                one = None  # the ordinary call says what is wrong, or tries again
            except BaseException:
                _abandon(pending, [])
                raise
            if one is None:
                break
            pending.append(one)
        trip.rest += items[len(pending) :]
        return pending

    def _send(self, item: Item, reader: ObjectReader | Done | None, now: list[_Flight], trip: _Trip) -> None:
        """Judge an object's bytes and send them to every target that takes them ahead."""
        read = self._judged(item, reader)
        if isinstance(read, Done):
            trip.report(read)
        elif read is None or read.wrong:
            trip.rest.append(item)
        else:
            flight = _Flight(read)
            now.append(flight)
            for need in item.needs:
                receiver = self._receivers[need.target]
                if receiver.active:
                    self._send_to(receiver, need, flight)

    def _judged(self, item: Item, reader: ObjectReader | Done | None) -> Read | Done | None:
        if reader is None or isinstance(reader, Done):
            return reader
        try:
            return self._small.read(item, reader, asks=False)
        except (PreconditionFailed, ObjectNotFound):
            return Done(item, None)
        except HoldfastError:
            return None

    def _send_to(self, receiver: Receiver, need: Need, flight: _Flight) -> None:
        try:
            sent = receiver.landing.begin(flight.read.item.path, need, *flight.read.sent)
        except HoldfastError:
            sent = None
        if sent is None:
            flight.later.append(need)
        else:
            flight.sent.append(_Sent(need, sent))

    def _answered(self, flights: list[_Flight], trip: _Trip) -> None:
        """Take the answers to a group's writes; what they tell everything about is done with."""
        for flight in flights:
            for sent in flight.sent:
                try:
                    sent.answered = True
                    sent.version = sent.landing.pending.result()
                except HoldfastError:
                    continue
                sent.landed = self._receivers[sent.need.target].landing.told(sent.landing, sent.version)
            done = None
            if flight.is_landed and flight.sent:
                landed = tuple((one.need.target, one.landed) for one in flight.sent if one.landed is not None)
                done = self._small.landed(flight.read, landed)
            if done is None:
                trip.flights.append(flight)
            else:
                trip.report(done)

    def _landed(self, flight: _Flight) -> tuple[tuple[int, Landed], ...]:
        """Verify what was sent, and land what was not. Nothing is on its way any more."""
        landed, read = [], flight.read
        for need, sent in (*((one.need, one) for one in flight.sent), *((need, None) for need in flight.later)):
            receiver = self._receivers[need.target]
            if not receiver.active:
                continue
            try:
                if sent is None:
                    there = receiver.landing.land(read.item.path, need, *read.sent)
                else:
                    there = sent.landed or receiver.landing.end(sent.landing, sent.version)
            except HoldfastError as error:
                receiver.fail(error)
            else:
                landed.append((need.target, there))
        return tuple(landed)


@dataclass
class _Trip:
    """Objects on their way together, and what is left of them for the end."""

    items: Sequence[Item]
    report: Callable[[Done], None]
    ended: Callable[[], bool]
    #: To be verified, or landed.
    flights: list[_Flight]
    #: To be copied one by one.
    rest: list[Item]


def _taken(items: Sequence[Item], pending: list[Pending[ObjectReader]]) -> list[ObjectReader | Done | None]:
    """The answers to all reads; ``None``: to be asked again."""
    found: list[ObjectReader | Done | None] = []
    for item in items:
        if not pending:
            break
        one = pending.pop(0)
        try:
            found.append(one.result())
        except (PreconditionFailed, ObjectNotFound):
            found.append(Done(item, None))
        except HoldfastError:
            found.append(None)
    return found


def _abandon(reads: Sequence[Pending[ObjectReader]], flights: Sequence[_Flight]) -> None:
    """Something went wrong that is nobody's answer: no place may stay taken."""
    for one in reads:
        one.abandon()
    for flight in flights:
        for sent in flight.sent:
            if not sent.answered:
                sent.landing.pending.abandon()
