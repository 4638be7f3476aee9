"""One round of a sync's copying: small objects by many threads, large ones in parts beside them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from functools import partial

import pyarrow as pa
import pyarrow.compute as pc

from holdfast.engine.objectstore.attribute_reading import tells_class_and_tags
from holdfast.engine.objectstore.parts import part_store
from holdfast.engine.replication.copying import Crew, Feed, Item, SmallCopier
from holdfast.engine.replication.errors import Interrupted
from holdfast.engine.replication.large import Job, PartWork, common_part_bytes
from holdfast.engine.replication.several import AT_ONCE, SeveralCopier
from holdfast.engine.replication.streamed import copy_streamed
from holdfast.engine.replication.streams import Origin, Stream
from holdfast.engine.replication.target import Run, Target
from holdfast.engine.replication.work import Items, Outcome, waves

#: Larger objects go in parts.
PARTS_ABOVE_BYTES = 16 * 1024 * 1024

#: Told after some objects: how many, and how many bytes.
Tell = Callable[[int, int], None]


class Rounds:
    """Copies tables of work.

    Args:
        targets: at their places; a table of work names them by number.
        threads: small objects in flight.
        stop: when set, no more work is begun.
    """

    def __init__(self, run: Run, targets: Sequence[Target], *, threads: int, stop: threading.Event | None) -> None:
        self._run, self._targets, self._threads, self._stop = run, targets, threads, stop
        self._preserve = run.policy.preserve
        self._small = SmallCopier(run.source.store, targets, run.clock, preserve=self._preserve)
        self._several = SeveralCopier(
            run.source.store, targets, self._small, preserves=bool(self._preserve), at_once=threads
        )
        if self._preserve and not tells_class_and_tags(run.source.store):
            for target in targets:
                target.lose("storage class, tags: the source's store, as it is opened here, does not tell them")
        self._reads = part_store(run.source.store)
        self._items = Items(run.prefix, len(targets))

    def copy(self, work: pa.Table, tell: Tell) -> list[Outcome]:
        """Copy everything in the table, wave after wave.

        Raises:
            Interrupted: somebody said stop.
            StoreUnavailable: the source did not answer.
        """
        return [self._wave(wave, tell) for wave in waves(work)]

    def _wave(self, work: pa.Table, tell: Tell) -> Outcome:
        big = self._goes_in_parts(work)
        together = pc.and_not(self._several.serves(work), big)
        alone = pc.invert(pc.or_(big, together))
        groups = [work.filter(which) for which in (together, alone, big)]
        outcome = Outcome(pa.concat_tables(groups).combine_chunks())
        few, small, large = (group.num_rows for group in groups)
        crew = Crew(self._stop)
        if few:
            workers = min(-(-self._threads // AT_ONCE), -(-few // AT_ONCE))
            feed = Feed(outcome.work.slice(0, few), self._items.make, workers, 4 * AT_ONCE)
            crew.start(partial(self._work_together, feed, crew), workers, "holdfast-several")
        if small:
            rest = Feed(outcome.work.slice(few, small), self._made_from(few), self._threads)
            crew.start(partial(self._work_small, rest, crew), min(self._threads, small), "holdfast-sync")
        if large:
            items = self._items.make(outcome.work.slice(few + small), few + small)
            parts = PartWork([self._job(item) for item in items], crew)
            crew.start(parts.work, parts.workers, "holdfast-parts")

        def seen(done: list) -> None:  # type: ignore[type-arg]
            outcome.take(done, self._targets)
            tell(len(done), sum(one.item.size_bytes for one in done))

        crew.wait(seen)
        return outcome

    def _made_from(self, start: int) -> Callable[[pa.Table, int], list[Item]]:
        """Makes items of rows of a table that begins at row ``start`` of the work."""
        return lambda rows, at: self._items.make(rows, start + at)

    def _goes_in_parts(self, work: pa.Table) -> pa.ChunkedArray:
        big = pc.greater(work["size_bytes"], PARTS_ABOVE_BYTES)
        if self._reads is None or any(target.parts is None for target in self._targets):
            return pc.and_(big, False)
        return pc.and_(big, pc.or_(pc.is_valid(work["e_tag"]), pc.is_valid(work["version"])))

    def _work_together(self, feed: Feed, crew: Crew) -> None:
        while items := feed.next():
            self._several.copy(items, crew.report, lambda: crew.ended)
            if crew.ended:
                return

    def _work_small(self, feed: Feed, crew: Crew) -> None:
        stores = [target.store for target in self._targets]
        while items := feed.next():
            for item in items:
                if crew.ended:
                    return
                if item.size_bytes > PARTS_ABOVE_BYTES:
                    done = copy_streamed(
                        item,
                        self._run.source.store,
                        self._targets,
                        stores,
                        self._run.folder,
                        self._small.check,
                        self._preserve,
                    )
                else:
                    done = self._small.copy(item)
                crew.report(done)

    def _job(self, item: Item) -> Job:
        assert self._reads is not None
        parts = [self._targets[need.target].parts for need in item.needs]
        part_bytes = common_part_bytes(item.size_bytes, [one.limits for one in parts if one is not None])
        return Job(
            item,
            part_bytes,
            self._streams,
            self._run.source.store,
            self._reads,
            self._small.check,
            self._run.clock,
            preserve=self._preserve,
        )

    def _streams(self, item: Item, part_bytes: int) -> list[Stream]:
        run = self._run
        origin = Origin(run.dataset, run.folder, run.source.site)
        found = []
        for need in item.needs:
            target = self._targets[need.target]
            if target.active and target.parts is not None:
                found.append(
                    Stream(
                        origin=origin,
                        item=item,
                        need=need,
                        receiver=target,
                        store=target.store,
                        parts=target.parts,
                        part_bytes=part_bytes,
                        clock=run.clock,
                        notes=target.notes,
                    )
                )
        return found


def check_stop(stop: threading.Event | None) -> None:
    """Raises Interrupted when somebody said stop."""
    if stop is not None and stop.is_set():
        raise Interrupted(
            "the sync was stopped",
            found="nothing was published by it",
            fix="Run it again: what has landed is not copied twice",
        )
