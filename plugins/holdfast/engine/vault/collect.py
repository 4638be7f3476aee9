"""Collect: remove what no live backup needs, in two phases, beside running backups.

First an entry of the log says which packs are nobody's: from then on no writer reuses them, because whoever commits has
read it. Later, judged by the store's own clock, their bytes go. Between the two a restore that began before still finds
them. Both can be broken off and run again.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from holdfast.engine.objectstore.errors import PermissionRefused
from holdfast.engine.objectstore.interface import ObjectInfo, ObjectStore
from holdfast.engine.snapshot.once import create_or_read
from holdfast.engine.vault import layout
from holdfast.engine.vault.ages import LogAges, removable_entries
from holdfast.engine.vault.append import append
from holdfast.engine.vault.erasure import ErasureStore
from holdfast.engine.vault.erasure_repair import unfinished_packs
from holdfast.engine.vault.errors import CollectedMeanwhile, Damaged
from holdfast.engine.vault.history import write_hint
from holdfast.engine.vault.index import ChunkIndex, IndexedPack, batches, encode_index
from holdfast.engine.vault.keysets import foreign_keysets
from holdfast.engine.vault.log import LogEntry
from holdfast.engine.vault.needed import needed_chunks
from holdfast.engine.vault.objects import create_new
from holdfast.engine.vault.pack import PackClass, PackInfo
from holdfast.engine.vault.reading import ChunkReader
from holdfast.engine.vault.running import Running, leftover_clocks, read_marks
from holdfast.engine.vault.secrets import Secrets
from holdfast.engine.vault.session import PACK_BYTES, Session
from holdfast.engine.vault.vault import PackPresence, Vault, index_digest, list_packs
from holdfast.engine.vault.verifications import needless_notes

#: Bytes of collected packs stay this long, for restores that began before.
GRACE = timedelta(hours=24)
#: Packs and indexes no entry names are left alone this long: their backup may still be running.
ORPHAN_AGE = timedelta(hours=24)
#: Indexes are written anew, as few large ones, when there are more of them.
_MOST_INDEXES = 32


@dataclass
class CollectReport:
    """What a collection found and did.

    Args:
        dead_packs: packs now said to be nobody's.
        dead_bytes: their size: what will be freed.
        deleted_packs, deleted_bytes: whose grace was over.
        deleted_entries: log entries, indexes, leftovers of broken-off runs and notes of verifications that count no
            more. Of a dry run all three are what it would delete.
        moved_bytes: what was written anew, out of packs of which little was needed.
        kept_locked: keys the store would not remove yet, because they are locked.
        unreadable: by entry, why live backups cannot be read: what only they name is nobody's.
    """

    live_backups: int = 0
    live_chunks: int = 0
    dead_packs: int = 0
    dead_bytes: int = 0
    deleted_packs: int = 0
    deleted_bytes: int = 0
    deleted_entries: int = 0
    waiting_packs: int = 0
    moved_bytes: int = 0
    kept_locked: list[str] = field(default_factory=list)
    unreadable: dict[int, str] = field(default_factory=dict)
    entry: int | None = None


@dataclass(frozen=True)
class CollectOptions:
    """How to collect.

    Args:
        grace: see `GRACE`.
        orphan_age: see `ORPHAN_AGE`.
        dry_run: only say what would go, by this machine's clock: to ask the store for its time is to write. What is
            locked is not told apart.
        reader: the reader's secrets; with them packs of which little is needed are written anew.
        sparse: such a pack's needed share is below this.
        protect: told the key of each object that was written, to lock it, beside the vault's own.
        pack_bytes: how large a pack grows that is written anew.
        remove: removes an object for good and refuses while it is locked, as `ObjectLocks.remove` does; by default the
            store's delete, which on a bucket with versions only hides.
    """

    grace: timedelta = GRACE
    orphan_age: timedelta = ORPHAN_AGE
    dry_run: bool = False
    reader: Secrets | None = None
    sparse: float = 0.5
    protect: Callable[[str], None] = lambda _key: None
    pack_bytes: int = PACK_BYTES
    remove: Callable[[str], None] | None = None


def store_now(store: ObjectStore) -> datetime:
    """What time the store itself says it is: nothing here goes by the clock of whoever collects."""
    key = f"{layout.CLOCK}{os.urandom(8).hex()}"
    create_new(store, key, b"what time is it")
    try:
        # By listing, as all it is compared with: Cloud Storage's HEAD tells whole seconds only.
        return next(iter(store.list(key))).modified_at
    finally:
        with suppress(PermissionRefused):
            store.delete(key)


def collect(vault: Vault, options: CollectOptions | None = None) -> tuple[Vault, CollectReport]:
    """Run a collection: say what is nobody's, and remove what was said to be long enough ago.

    Raises:
        RolledBack, NotEntitled.
        Damaged: a live backup's tree cannot be read: nothing is removed while it is not known what is needed.
        Outdated: others changed the vault again and again; run it again.
    """
    options = options or CollectOptions()
    vault.refuse_alarm()
    return vault.again(lambda known: _collect(known, options))


def _collect(vault: Vault, options: CollectOptions) -> tuple[Vault, CollectReport]:
    vault = vault.reload(hinted=False)
    vault.refuse_alarm()
    run = _Run(vault, options)
    return run.run(), run.report


@dataclass
class _Run:
    vault: Vault
    options: CollectOptions
    report: CollectReport = field(default_factory=CollectReport)

    def run(self) -> Vault:
        store, dry = self.vault.store, self.options.dry_run
        now = self.vault.clock.now() if dry else store_now(store)
        there = list_packs(store)
        named = ((layout.parse_index_key(info.key), info) for info in store.list(layout.INDEXES))
        indexes = {name: info for name, info in named if name is not None}
        running = read_marks(store, now, self.options.orphan_age)
        self._remove_collected(there, indexes, now)
        self._remove_leftovers(running, now)
        return self._say_dead(there, indexes, running.since)

    # -- phase 1: say ------------------------------------------------------------------------------------------------

    def _say_dead(
        self, there: dict[bytes, tuple[str, ObjectInfo]], indexes: dict[bytes, ObjectInfo], orphaned: datetime
    ) -> Vault:
        vault, report, history = self.vault, self.report, self.vault.history
        presence = PackPresence({pack_id: (tier, info.size_bytes) for pack_id, (tier, info) in there.items()})
        loaded = vault.load_index(presence)
        if loaded.damaged:
            raise Damaged(
                "nothing is collected while an index is damaged",
                where=vault.name,
                found=loaded.damaged[0],
                fix="Run `holdfast vault verify --repair` first",
            )
        live = self._live_bytes(loaded.index)
        lost = set(loaded.missing_packs)  # and nobody needs them, or this would have ended
        named = {info.pack_id for info in loaded.index.packs} | lost
        self._remove_unfinished(named, orphaned)
        dead = {
            pack_id
            for pack_id, (_, info) in there.items()
            if pack_id not in live
            and pack_id not in history.collected
            and (pack_id in named or info.modified_at < orphaned)
        }
        sparse = self._sparse(loaded.index, live)
        report.dead_packs = len(dead) + len(sparse)
        report.dead_bytes = sum(there[pack_id][1].size_bytes for pack_id in dead) + sum(
            info.size_bytes - live[info.pack_id] for info in sparse
        )
        gone = {pack_id for pack_id in history.collected if pack_id not in there}
        orphans = {
            name
            for name, info in indexes.items()
            if name not in history.indexes and name not in history.dropped and info.modified_at < orphaned
        }
        undropped = {name for name in history.dropped if name not in indexes}
        crowded = len(history.indexes) > _MOST_INDEXES
        if self.options.dry_run or not (dead or sparse or lost or gone or orphans or undropped or crowded):
            return vault
        new = dict(history.indexes)
        if dead or sparse or lost or crowded:
            moved = self._repack(loaded.index, sparse)
            without = dead | {info.pack_id for info in sparse}
            # Older first, and what was opened and checked just now before all: of several places a chunk is said to
            # lie at, the first is believed.
            new = {**moved, **self._write_indexes(loaded.index, without)}
        return self._append(dead | {info.pack_id for info in sparse}, gone, new, orphans, undropped)

    def _live_bytes(self, index: ChunkIndex) -> dict[bytes, int]:
        """By pack that live backups need, how much of it. Raises Damaged: it cannot be told, or is not all there."""
        try:
            needed = needed_chunks(self.vault, index)
        except Damaged as damaged:
            raise Damaged(
                "nothing is collected while something a live backup needs is missing or damaged: it may be put back",
                where=self.vault.name,
                found=str(damaged),
                fix="Put it back from a mirror with `holdfast vault verify --repair`, or forget the backups it affects",
            ) from None
        if needed.unreadable and not needed.backups:
            raise Damaged(
                "nothing is collected while no live backup can be read: what they need cannot be told",
                where=self.vault.name,
                expected="at least one that can be read",
                found=f"{len(needed.unreadable)} that cannot, the first: {next(iter(needed.unreadable.values()))}",
                fix="Make a backup first; forget what cannot be read by its entry, as `holdfast vault list` shows it",
            )
        self.report.live_backups = needed.backups
        self.report.live_chunks = len(needed.names)
        self.report.unreadable = needed.unreadable
        self._live = needed.names
        return needed.bytes_by_pack

    def _sparse(self, index: ChunkIndex, live: dict[bytes, int]) -> list[PackInfo]:
        """Packs worth rewriting: little of them is needed, and whoever collects may read them."""
        return [
            info
            for info, size in zip(index.packs, index.chunk_bytes, strict=True)
            if info.pack_id in live
            and live[info.pack_id] < self.options.sparse * size
            and (info.kind is PackClass.TREE or self.options.reader is not None)
        ]

    def _repack(self, index: ChunkIndex, sparse: list[PackInfo]) -> dict[bytes, str]:
        """Write what is needed of sparse packs into new ones. Returns their indexes."""
        if not sparse:
            return {}
        reader = ChunkReader(replace(self.vault, secrets=self.options.reader or self.vault.secrets), index)
        written: dict[bytes, str] = {}
        for tier in sorted({info.tier for info in sparse}):
            with Session(self.vault, ChunkIndex(()), tier, self._written, self.options.pack_bytes) as session:
                for info in sparse:
                    if info.tier != tier:
                        continue
                    number = index.pack_number(info.pack_id)
                    assert number is not None
                    wanted = [
                        chunk.chunk_id
                        for chunk in index.chunks_of(number)
                        if chunk.chunk_id in self._live and index.locate_pack(chunk.chunk_id) == number
                    ]
                    for name, data in reader.iter_many(wanted):
                        if isinstance(data, Damaged):
                            raise data
                        if session.add(info.kind, data) != name:
                            raise Damaged("a chunk changed its name", where=self.vault.name, expected=name.hex())
                written.update(session.finish())
                self.report.moved_bytes += session.stored.stored_bytes
        return written

    def _write_indexes(self, index: ChunkIndex, without: set[bytes]) -> dict[bytes, str]:
        """The same index in as few objects as go, without some packs."""
        kept = (
            IndexedPack(info, index.chunks_of(number))
            for number, info in enumerate(index.packs)
            if info.pack_id not in without
        )
        return dict(self._write_index(batch) for batch in batches(kept))

    def _write_index(self, packs: list[IndexedPack]) -> tuple[bytes, str]:
        secrets = self.vault.secrets
        index_id, data = encode_index(packs, secrets.metadata_key, secrets.repository)
        create_new(self.vault.store, layout.index_key(index_id), data)
        self._written(layout.index_key(index_id))
        return index_id, index_digest(data)

    def _written(self, key: str) -> None:
        self.vault.protect(key)
        self.options.protect(key)

    def _append(
        self, dead: set[bytes], gone: set[bytes], indexes: dict[bytes, str], orphans: set[bytes], undropped: set[bytes]
    ) -> Vault:
        vault = self.vault
        history = vault.history
        superseded = history.indexes.keys() - indexes.keys()

        def seen(_entry: LogEntry) -> None:
            # What it may have made needed was not looked at. What was just written is nobody's and goes later.
            raise CollectedMeanwhile(sorted(dead) or [bytes(16)])

        def describe(tip: LogEntry | None) -> tuple[dict[str, object], dict[str, object]]:
            number = (tip.sequence if tip else 0) + 1
            collected = {pack_id: at for pack_id, at in history.collected.items() if pack_id not in gone}
            dropped = {name: at for name, at in history.dropped.items() if name not in undropped}
            collected.update(dict.fromkeys(dead, number))
            dropped.update(dict.fromkeys(superseded | orphans, number))
            state = history.state(indexes=indexes, collected=collected, dropped=dropped)
            return {"state": state}, {"dead_bytes": self.report.dead_bytes}

        entry = append(
            vault.store,
            vault.secrets,
            "collect",
            clock=vault.clock,
            tip=history.tip,
            describe=describe,
            seen=seen,
            signers=history.keys.signers,
        )
        self.report.entry = entry.sequence
        vault = vault.commit(entry, self.options.protect)
        write_hint(vault.store, vault.history)
        return vault

    # -- phase 2: remove ---------------------------------------------------------------------------------------------

    def _remove_collected(
        self, there: dict[bytes, tuple[str, ObjectInfo]], indexes: dict[bytes, ObjectInfo], now: datetime
    ) -> None:
        history, report, grace = self.vault.history, self.report, self.options.grace
        ages = LogAges.read(self.vault.store, now, history)
        if not self.options.dry_run:
            self._complete_copies(ages)
        for pack_id, number in history.collected.items():
            if pack_id not in there:
                continue
            if not ages.is_over(number, grace):
                report.waiting_packs += 1
                continue
            tier, info = there[pack_id]
            if self._remove(layout.pack_key(tier, pack_id)):
                report.deleted_packs += 1
                report.deleted_bytes += info.size_bytes
                del there[pack_id]
        for name, number in history.dropped.items():
            gone = name in indexes and ages.is_over(number, grace) and self._remove(layout.index_key(name))
            if gone:
                report.deleted_entries += 1
                del indexes[name]
        for number in removable_entries(self.vault.store, history, ages, grace):
            for key in (layout.entry_key(number), layout.entry_copy_key(number)):
                report.deleted_entries += key in ages.keys and self._remove(key)

    def _complete_copies(self, ages: LogAges) -> None:
        """What a writer that died right after its entry left out, and nobody wrote since who would have made up for."""
        for number, entry in self.vault.history.entries.items():
            for key in (layout.entry_key(number), layout.entry_copy_key(number)):
                if key not in ages.keys:
                    create_or_read(self.vault.store, key, entry.data, content_type="application/json")
                    self._written(key)

    def _remove_leftovers(self, running: Running, now: datetime) -> None:
        store, before = self.vault.store, now - self.options.orphan_age
        keys = [*running.expired, *leftover_clocks(store, before), *foreign_keysets(store, self.vault.history, before)]
        keys += needless_notes(self.vault, before)
        for key in keys:
            self.report.deleted_entries += self._remove(key)

    def _remove_unfinished(self, named: set[bytes], orphaned: datetime) -> None:
        """Lone shares of writes that were broken off. Only now it is known that all that is needed is there."""
        if not isinstance(self.vault.store, ErasureStore):
            return
        for key, written_at in unfinished_packs(self.vault.store).items():
            name = layout.id_of(key)
            is_said = name is None or name in named or name in self.vault.history.collected
            if not is_said and written_at < orphaned:
                self.report.deleted_entries += self._remove(key)

    def _remove(self, key: str) -> bool:
        """Whether it is gone, or would be."""
        if self.options.dry_run:
            return True
        try:
            (self.options.remove or self.vault.store.delete)(key)
            return True
        except PermissionRefused:
            self.report.kept_locked.append(key)
            return False
