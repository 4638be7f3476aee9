"""Restore a backup, or some of its paths: each chunk fetched once per batch, each object verified before it is there.

An object at the target that already has the right size and digest is left alone, so a restore that was broken off goes
on where it was.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Protocol

from holdfast.engine.memory import blocks_kept
from holdfast.engine.snapshot.digest import Hasher
from holdfast.engine.vault.backup import Progress
from holdfast.engine.vault.backups import Backup
from holdfast.engine.vault.errors import Damaged
from holdfast.engine.vault.paths import check_paths, chosen
from holdfast.engine.vault.reading import ChunkReader
from holdfast.engine.vault.tree import TreeRow, rows_of
from holdfast.engine.vault.vault import Vault
from holdfast.errors import ConfigError

#: Objects are restored in batches of about so many bytes, whose chunks are fetched together.
_BATCH_BYTES = 32 * 1024 * 1024
_BATCH_OBJECTS = 2048
_FETCHES = 4


class Target(Protocol):
    """Where objects are restored to."""

    @property
    def folds_case(self) -> bool:
        """It may take two paths that differ by case for one."""

    def has(self, row: TreeRow) -> bool:
        """Whether exactly this object is there already."""

    def write(self, row: TreeRow, pieces: Iterator[bytes]) -> None:
        """Write an object whole or not at all; the pieces end with an error when they are not authentic."""

    def finish(self) -> None:
        """After the last object."""


@dataclass(frozen=True)
class Rewritten:
    """An object that was written in another form than it was backed up in: a table's metadata, for its new place."""

    path: str
    digest: str
    new_digest: str
    size_bytes: int
    new_size_bytes: int


@dataclass(frozen=True)
class RestoreOptions:
    """What to restore.

    Args:
        paths: these, and what lies below them.
        patterns: what matches one of these shell patterns.
        progress: told now and then.
        keep_going: write what can be restored and report the rest, instead of stopping at the first damage.
    """

    paths: tuple[str, ...] = ()
    patterns: tuple[str, ...] = ()
    progress: Callable[[Progress], None] = lambda _progress: None
    keep_going: bool = False


@dataclass
class RestoreReport:
    """What a restore did.

    Args:
        restored: objects written and verified.
        kept: objects that were there already, verified.
        damaged: by path, why it could not be restored.
        read_bytes: what was read from the vault.
        wanted_bytes: of everything that was chosen.
        rewritten: objects whose bytes are not those of the backup; see `restore_tables`.
        tables: where each Iceberg table is now, and its newest metadata file; or why it still names its old place.
    """

    backup: Backup
    restored: int = 0
    restored_bytes: int = 0
    kept: int = 0
    kept_bytes: int = 0
    read_bytes: int = 0
    wanted_bytes: int = 0
    damaged: dict[str, str] = field(default_factory=dict)
    rewritten: tuple[Rewritten, ...] = ()
    tables: tuple[Mapping[str, Any], ...] = ()

    @property
    def not_moved(self) -> Mapping[str, str]:
        """By its root, why a table still names its old place and cannot be read at the new one."""
        return {str(one["root"]): str(one["not_moved"]) for one in self.tables if "not_moved" in one}

    @property
    def is_whole(self) -> bool:
        """Everything that was chosen is there, and every table in it can be read there."""
        return not self.damaged and not self.not_moved


def restore_backup(
    vault: Vault, backup: Backup, target: Target, options: RestoreOptions | None = None
) -> RestoreReport:
    """Restore a backup to a target.

    Raises:
        UnsafePath: a path may not be written there; nothing was.
        Damaged: something of the vault is missing or wrong; what was written is whole.
        ConfigError: no path is chosen.
        NotEntitled: the keys do not open content.
    """
    options = options or RestoreOptions()
    vault, loaded = vault.as_of_now([backup.sequence]).current_index()
    reader = ChunkReader(vault, loaded.index, names_content=False)
    report = RestoreReport(backup)
    rows = [
        row
        for row in _rows(reader, backup, options, report)
        if chosen(row.path, paths=options.paths, patterns=options.patterns)
    ]
    if not rows and backup.objects and not report.damaged:
        raise ConfigError(
            "the backup has no such path",
            where=f"{vault.name}: {backup.backup_id}",
            expected="paths of it; `holdfast vault show` lists them",
            found=", ".join((*options.paths, *options.patterns)),
        )
    check_paths((row.path for row in rows), folds_case=target.folds_case)
    report.wanted_bytes = sum(row.size_bytes for row in rows)
    with blocks_kept():
        for batch in _batches(rows):
            _restore_batch(reader, batch, target, options, report)
    target.finish()
    report.read_bytes = reader.read_bytes
    return report


def _rows(reader: ChunkReader, backup: Backup, options: RestoreOptions, report: RestoreReport) -> Iterator[TreeRow]:
    """The objects of a backup; where a part of its tree is damaged, those of the others, when it is to go on."""
    for part in backup.segments:
        try:
            table = reader.part(part)
        except Damaged as damaged:
            if not options.keep_going:
                raise
            report.damaged[part.describe()] = str(damaged)
            continue
        yield from rows_of(table)


def _batches(rows: list[TreeRow]) -> Iterator[list[TreeRow]]:
    batch: list[TreeRow] = []
    size = 0
    for row in rows:
        if batch and (size + row.size_bytes > _BATCH_BYTES or len(batch) >= _BATCH_OBJECTS):
            yield batch
            batch, size = [], 0
        batch.append(row)
        size += row.size_bytes
    if batch:
        yield batch


def _restore_batch(
    reader: ChunkReader, rows: list[TreeRow], target: Target, options: RestoreOptions, report: RestoreReport
) -> None:
    wanted: list[TreeRow] = []
    for row in rows:
        if target.has(row):
            report.kept += 1
            report.kept_bytes += row.size_bytes
        else:
            wanted.append(row)
    together = sum(row.size_bytes for row in wanted) <= _BATCH_BYTES
    fetched: dict[bytes, bytes | Damaged] = {}
    if together:
        size = sum(row.size_bytes for row in wanted)
        fetched = dict(reader.iter_many((name for row in wanted for name in row.chunks), most_bytes=size))
    for row in wanted:
        pieces = _pieces_of(row, fetched) if together else _pieces_ahead(row, reader)
        try:
            target.write(row, _verified(row, pieces))
        except Damaged as damaged:
            if not options.keep_going:
                raise
            report.damaged[row.path] = str(damaged)
            continue
        report.restored += 1
        report.restored_bytes += row.size_bytes
        done = report.restored + report.kept
        options.progress(Progress(done, report.restored_bytes + report.kept_bytes, 0, row.path, report.wanted_bytes))


def _pieces_of(row: TreeRow, fetched: dict[bytes, bytes | Damaged]) -> Iterator[bytes]:
    for name in row.chunks:
        data = fetched[name]
        if isinstance(data, Damaged):
            raise data
        yield data


def _pieces_ahead(row: TreeRow, reader: ChunkReader) -> Iterator[bytes]:
    """The chunks of a large object, a few groups of them fetched ahead."""
    groups: list[list[bytes]] = [[]]
    size = 0
    for name in row.chunks:
        size += reader.locate(name).plain_bytes
        groups[-1].append(name)
        if size >= _BATCH_BYTES // _FETCHES:
            groups.append([])
            size = 0
    with ThreadPoolExecutor(_FETCHES) as pool:
        waiting = [pool.submit(reader.read_many, group) for group in groups[:_FETCHES]]
        try:
            for number, group in enumerate(groups):
                data = waiting.pop(0).result()
                if number + _FETCHES < len(groups):
                    waiting.append(pool.submit(reader.read_many, groups[number + _FETCHES]))
                for name in group:
                    yield data[name]
        finally:
            for future in waiting:
                with suppress(Exception):
                    future.cancel()


def _verified(row: TreeRow, pieces: Iterator[bytes]) -> Iterator[bytes]:
    """The same pieces; at their end the object's size and digest were checked."""
    hasher = Hasher()
    for piece in pieces:
        hasher.update(piece)
        yield piece
    if hasher.size_bytes != row.size_bytes or hasher.digest != row.digest:
        raise Damaged(
            "an object's content is not what its backup names",
            where=row.path,
            expected=f"{row.size_bytes} bytes, {row.digest}",
            found=f"{hasher.size_bytes} bytes, {hasher.digest}",
        )
