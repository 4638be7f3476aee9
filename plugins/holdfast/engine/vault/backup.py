"""Back up a source into a vault: unchanged objects by what the last backup knew, the rest chunk by chunk.

Packs first, then their indexes, then the entry in the log; until that is written there is no backup. Killed anywhere,
it leaves packs that a collection removes after a while, and nothing to unlock.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from holdfast.engine.memory import blocks_kept
from holdfast.engine.snapshot.digest import Hasher
from holdfast.engine.snapshot.documents import iso_utc
from holdfast.engine.vault.append import append
from holdfast.engine.vault.backups import Backup, live_backups, newest, read_backup
from holdfast.engine.vault.chunking import TABLES, Chunker
from holdfast.engine.vault.errors import Damaged, SourceChanged, WrongKey
from holdfast.engine.vault.log import LogEntry
from holdfast.engine.vault.pack import PackClass
from holdfast.engine.vault.reading import ChunkReader
from holdfast.engine.vault.session import PACK_BYTES, Session, Stored
from holdfast.engine.vault.sources import Source, SourceObject
from holdfast.engine.vault.tree import Segment, TreeRow, TreeWriter, rows_of
from holdfast.engine.vault.vault import Vault
from holdfast.engine.vault.witness import Witness

#: An object up to this size is read whole, several of them ahead.
SMALL_BYTES = 1024 * 1024
_AHEAD = 16


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a backup or a restore is."""

    objects: int
    size_bytes: int
    stored_bytes: int
    path: str = ""
    #: Of everything, where it is known before the end.
    total_bytes: int | None = None


@dataclass(frozen=True)
class BackupOptions:
    """How to back up.

    Args:
        tier: retention tier.
        chunk_bytes: about how long a chunk is.
        labels: short facts to carry along.
        protect: told the key of each object that was written, to lock it, beside the vault's own.
        progress: told now and then.
        full: read everything, whatever the last backup knew.
    """

    tier: str = "daily"
    chunk_bytes: int = TABLES
    labels: Mapping[str, str] = field(default_factory=dict)
    protect: Callable[[str], None] = lambda _key: None
    progress: Callable[[Progress], None] = lambda _progress: None
    full: bool = False
    pack_bytes: int = PACK_BYTES


@dataclass(frozen=True)
class BackupReport:
    """What a backup did.

    Args:
        vault: as of after it.
        read_objects, read_bytes: what was read from the source; the rest had not changed.
        stored: what was new to the vault.
        witnessed: what each witness said.
    """

    vault: Vault
    backup: Backup
    read_objects: int
    read_bytes: int
    stored: Stored
    witnessed: tuple[Witness, ...]
    damaged: tuple[str, ...] = ()


def back_up(vault: Vault, source: Source, options: BackupOptions | None = None) -> BackupReport:
    """Make a backup.

    Raises:
        RolledBack: the vault lost what its witnesses saw; nothing was written.
        SourceFailed, SourceChanged, ObjectDamaged: the source; no backup was made.
        NotEntitled: the keys are a reader's.
        Outdated: the vault was collected or shortened meanwhile, again and again (a stream is read only once: the
            first time). It may be run again.
    """
    options = options or BackupOptions()
    vault.refuse_alarm()
    with blocks_kept():
        if source.kind == "stream":  # its producer runs once
            return _Run(vault, source, options).run()
        return vault.again(lambda fresh: _Run(fresh, source, options).run())


@dataclass
class _Run:
    vault: Vault
    source: Source
    options: BackupOptions
    objects: int = 0
    size_bytes: int = 0
    read_objects: int = 0
    read_bytes: int = 0

    def run(self) -> BackupReport:
        self.vault, loaded = self.vault.current_index(presence=True)
        self.vault.refuse_alarm()
        parent = None if self.options.full else newest(live_backups(self.vault, self.source.name))
        options = self.options
        with ExitStack() as stack:
            session = stack.enter_context(
                Session(
                    self.vault,
                    loaded.index,
                    options.tier,
                    self._written,
                    options.pack_bytes,
                    adopt=frozenset(loaded.rebuilt),
                )
            )
            chunker = Chunker(options.chunk_bytes, self.vault.secrets.chunk_seed)
            tree = TreeWriter(lambda data: session.add(PackClass.TREE, data))
            before = _Before(ChunkReader(self.vault, loaded.index), parent)
            for row in self._rows(stack, session, chunker, before):
                tree.add(row)
                self.objects += 1
                self.size_bytes += row.size_bytes
                options.progress(Progress(self.objects, self.size_bytes, session.stored.stored_bytes, row.path))
            segments = tree.finish()
            self.source.finish()
            indexes = session.finish()
            entry = self._commit(session, segments, indexes)
            vault = self.vault.commit(entry, options.protect)
            return BackupReport(
                vault,
                read_backup(vault, entry),
                self.read_objects,
                self.read_bytes,
                session.stored,
                vault.witnessed,
                (*loaded.damaged, *([before.damaged] if before.damaged else [])),
            )

    def _commit(self, session: Session, segments: list[Segment], indexes: list[tuple[bytes, str]]) -> LogEntry:
        backup_id = os.urandom(16).hex()
        source = self.source
        public = {
            "backup": backup_id,
            "tier": self.options.tier,
            "indexes": [[name.hex(), digest] for name, digest in indexes],
        }
        body: dict[str, Any] = {
            "source": source.name,
            "kind": source.kind,
            "taken_at": iso_utc(source.taken_at),
            "objects": self.objects,
            "size_bytes": self.size_bytes,
            "stored_bytes": session.stored.stored_bytes,
            "segments": [segment.to_list() for segment in segments],
            "origin": dict(source.origin),
            "labels": dict(self.options.labels),
        }
        history = self.vault.history

        def seen(entry: LogEntry) -> None:
            nonlocal history
            history = history.after(entry)
            session.check_collected(entry)

        entry = append(
            self.vault.store,
            self.vault.secrets,
            "backup",
            clock=self.vault.clock,
            tip=history.tip,
            describe=lambda _tip: (public, body),
            seen=seen,
            signers=history.keys.signers,
        )
        self.vault = self.vault.at(history)
        return entry

    def _written(self, key: str) -> None:
        self.vault.protect(key)
        self.options.protect(key)

    # -- objects -----------------------------------------------------------------------------------------------------

    def _rows(self, stack: ExitStack, session: Session, chunker: Chunker, before: _Before) -> Iterator[TreeRow]:
        """The rows of the new tree, in path order."""
        if not self.source.is_remote:
            for item in self.source.objects():
                yield self._unchanged(session, before, item) or self._stored(session, chunker, item, None)
            return
        pool = stack.enter_context(ThreadPoolExecutor(_AHEAD, thread_name_prefix="vault-read"))
        waiting: deque[tuple[SourceObject, TreeRow | None, Future[bytes] | None]] = deque()
        for item in self.source.objects():
            row = self._unchanged(session, before, item)
            small = row is None and item.size_bytes is not None and item.size_bytes <= SMALL_BYTES
            waiting.append((item, row, pool.submit(self._whole, item) if small else None))
            while len(waiting) > _AHEAD:
                yield self._next(session, chunker, waiting)
        while waiting:
            yield self._next(session, chunker, waiting)

    def _next(
        self,
        session: Session,
        chunker: Chunker,
        waiting: deque[tuple[SourceObject, TreeRow | None, Future[bytes] | None]],
    ) -> TreeRow:
        item, row, ahead = waiting.popleft()
        return row or self._stored(session, chunker, item, None if ahead is None else ahead.result())

    def _whole(self, item: SourceObject) -> bytes:
        return b"".join(map(bytes, self.source.read(item)))

    def _unchanged(self, session: Session, before: _Before, item: SourceObject) -> TreeRow | None:
        """The last backup's row, where its state is the same and all its chunks are still there."""
        found = before.row(item.path)
        if found is None:
            return None
        row, packs = found
        if item.state is None or row.state != item.state or -1 in packs:
            return None
        session.reuse_object(packs, len(row.chunks), row.size_bytes)
        return TreeRow(row.path, row.size_bytes, row.digest, item.modified_at, item.state, item.mode, row.chunks)

    def _stored(self, session: Session, chunker: Chunker, item: SourceObject, whole: bytes | None) -> TreeRow:
        hasher = Hasher()
        names: list[bytes] = []
        if whole is None and item.size_bytes is not None and item.size_bytes <= SMALL_BYTES:
            whole = self._whole(item)
        if whole is not None:
            hasher.update(whole)
            names.extend(session.add(PackClass.DATA, piece) for piece in chunker.cut(whole))
        else:
            pieces = hasher.through(self.source.read(item))
            names.extend(session.add(PackClass.DATA, piece) for piece in chunker.cut_stream(pieces))
        if item.digest is not None and hasher.digest != item.digest:
            raise SourceChanged(
                "an object's bytes are not those its snapshot names",
                where=item.path,
                expected=item.digest,
                found=hasher.digest,
                fix="Back up another site's replica of this snapshot",
            )
        self.read_objects += 1
        self.read_bytes += hasher.size_bytes
        return TreeRow(
            item.path, hasher.size_bytes, hasher.digest, item.modified_at, item.state, item.mode, tuple(names)
        )


class _Before:
    """The last backup's rows, asked for in path order. Where its tree is damaged, what follows counts as new."""

    def __init__(self, reader: ChunkReader, parent: Backup | None) -> None:
        self._rows = _with_packs(reader, parent) if parent is not None else iter(())
        self.damaged: str | None = None
        self._row = self._next()

    def _next(self) -> tuple[TreeRow, list[int]] | None:
        try:
            return next(self._rows, None)
        except (Damaged, WrongKey) as error:
            self.damaged = str(error)
            self._rows = iter(())
            return None

    def row(self, path: str) -> tuple[TreeRow, list[int]] | None:
        """The row of this path, with the numbers of the packs its chunks lie in; -1 for a chunk that is not there."""
        while self._row is not None and self._row[0].path < path:
            self._row = self._next()
        return self._row if self._row is not None and self._row[0].path == path else None


def _with_packs(reader: ChunkReader, backup: Backup) -> Iterator[tuple[TreeRow, list[int]]]:
    for part in backup.segments:
        rows = list(rows_of(reader.segment(part.chunk_id)))
        packs = reader.index.packs_of([name for row in rows for name in row.chunks])
        at = 0
        for row in rows:
            yield row, packs[at : at + len(row.chunks)]
            at += len(row.chunks)
