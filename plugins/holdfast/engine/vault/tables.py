"""Tables in a vault: backed up at one version with exactly its files, restored with paths that work where they are.

Delta's paths are relative and need nothing. Iceberg's metadata is written anew for the new place: each file is first
read with the digest the backup has, then written in its new form, whose digest is recorded beside the old one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from holdfast.engine.config import Cloud, Site
from holdfast.engine.snapshot.digest import digest_of
from holdfast.engine.snapshot.opened import OpenSnapshot
from holdfast.engine.snapshot.tables import (
    Moved,
    PinnedTable,
    TableDamaged,
    iceberg,
    iceberg_roots,
    move_iceberg,
    pin_tables,
)
from holdfast.engine.vault.backups import Backup
from holdfast.engine.vault.errors import Damaged
from holdfast.engine.vault.paths import chosen
from holdfast.engine.vault.reading import ChunkReader
from holdfast.engine.vault.restore import RestoreOptions, RestoreReport, Rewritten, Target, restore_backup
from holdfast.engine.vault.sources import SnapshotSource
from holdfast.engine.vault.tree import TreeRow
from holdfast.engine.vault.vault import Vault
from holdfast.errors import ConfigError


def table_source(
    name: str,
    site: str,
    snapshot: OpenSnapshot,
    *,
    table: Literal["delta", "iceberg"],
    versions: Mapping[str, int] | None = None,
    notes: Mapping[str, Any] | None = None,
) -> SnapshotSource:
    """A source of the tables in a snapshot, each at one version, and of its files that belong to no table.

    Args:
        name, site, snapshot: as `SnapshotSource`.
        table: the format.
        versions: by a table's root the version to back up; by default the newest whole one.
        notes: further facts to record.

    Raises:
        TableDamaged: such a version is not there or not whole.
    """
    paths = snapshot.manifest.paths
    pinned = pin_tables(table, paths, snapshot.read, versions)
    inside = tuple(f"{one.root}/" if one.root else "" for one in pinned)
    others = {path for path in paths if not path.startswith(inside)}
    only = frozenset(others.union(*(one.files for one in pinned)))
    told = {"tables": [_described(one) for one in pinned], **(notes or {})}
    return SnapshotSource(name, site, snapshot, notes=told, only=only)


def _described(table: PinnedTable) -> dict[str, Any]:
    return {name: value for name, value in table.to_dict().items() if value is not None}


def table_location(site: Site, key: str, *, account: str | None = None) -> str:
    """The URI of a folder of a site's bucket, as table formats write it.

    Args:
        key: relative to the site's prefix.
        account: Azure's storage account, which the topology does not name.

    Raises:
        ConfigError: the account is not given.
    """
    path = "/".join(part for part in (site.prefix.strip("/"), key.strip("/")) if part)
    if site.cloud is Cloud.AWS:
        return f"s3://{site.bucket}/{path}"
    if site.cloud is Cloud.GCP:
        return f"gs://{site.bucket}/{path}"
    if site.cloud is Cloud.LOCAL:
        return f"file://{site.bucket.rstrip('/')}/{path}"
    if account is None:
        raise ConfigError(
            "the location of a table on Azure needs its storage account",
            where=f"{site.bucket}/{path}",
            expected="the account's name",
            found="none",
        )
    return f"abfss://{site.bucket}@{account}.dfs.core.windows.net/{path}"


def restore_tables(
    vault: Vault,
    backup: Backup,
    target: Target,
    *,
    location: str | None,
    options: RestoreOptions | None = None,
    strict: bool = True,
) -> RestoreReport:
    """Restore a backup so that the Iceberg tables in it can be read where they are restored to.

    A backup without one is restored as it is. The report names what was written anew, and where each table is.

    Args:
        vault: opened by a reader.
        target: where to; what is written anew is held in memory until it is written.
        location: URI of the folder the backup's paths are relative to, at the target, see `table_location`; ``None``:
            nobody knows it, and no table can be moved.
        strict: a table that cannot be moved ends it. Else that table is restored as it was, and the report says so.

    Raises:
        TableDamaged, ConfigError: a table's metadata cannot be moved; nothing was written.
        as `restore_backup`.
    """
    options = options or RestoreOptions()
    moving = plan_moves(vault, backup, location, options, strict=strict)
    report = restore_backup(vault, backup, moving.around(target), options)
    report.rewritten, report.tables = moving.done(), moving.tables()
    return report


def plan_moves(
    vault: Vault, backup: Backup, location: str | None, options: RestoreOptions | None = None, *, strict: bool = True
) -> Moves:
    """What of a backup must be written anew for another place. Reads the tables' metadata, with the digests it has.

    Args, raises: as `restore_tables`.
    """
    options = options or RestoreOptions()
    vault, loaded = vault.as_of_now([backup.sequence]).current_index()
    reader = ChunkReader(vault, loaded.index)
    rows: dict[str, TreeRow] = {}
    moves = Moves()
    try:
        if not reader.holds_any(backup, iceberg.MARK):
            return moves
        for row in reader.rows(backup):
            if chosen(row.path, paths=options.paths, patterns=options.patterns):
                rows[row.path] = row
    except Damaged:
        if strict or not options.keep_going:
            raise  # else the restore tells it
    for root in iceberg_roots(rows):
        try:
            there = _below(_known(location, root), root)
            moves.add(move_iceberg(root, rows, lambda path: reader.read_object(rows[path]), there))
        except (TableDamaged, Damaged, ConfigError) as error:
            if strict:
                raise
            moves.not_moved[root] = str(error)
    return moves


def _known(location: str | None, root: str) -> str:
    if location is None:
        raise ConfigError(
            "nobody knows where the table would be",
            where=root or "the backup's own folder",
            expected="a target whose URI is known: a site whose connection opens here, on Azure with its account",
            found="none",
            fix="Complete the site's connection, or restore to a folder",
        )
    return location.rstrip("/")


def _below(base: str, root: str) -> str:
    return f"{base}/{root}" if root else base


@dataclass
class Moves:
    """The tables of a backup at their new place.

    Args:
        moved: each table.
        not_moved: by root, why a table still names its old place.
        files: path → new bytes.
        rewritten: what was written so far, by path.
    """

    moved: list[Moved] = field(default_factory=list)
    not_moved: dict[str, str] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict, repr=False)
    rewritten: dict[str, Rewritten] = field(default_factory=dict)

    def add(self, moved: Moved) -> None:
        """One more table."""
        self.moved.append(moved)
        self.files.update(moved.files)

    def done(self) -> tuple[Rewritten, ...]:
        """What was written anew, in path order."""
        return tuple(self.rewritten[path] for path in sorted(self.rewritten))

    def around(self, target: Target) -> Target:
        """A target that is given the new form of what must be written anew."""
        return _Moving(target, self) if self.files else target

    def tables(self) -> tuple[Mapping[str, Any], ...]:
        """Where each table is."""
        moved = [
            {
                "format": "iceberg",
                "root": one.root,
                "location": one.location,
                "was": one.was,
                "metadata_location": f"{one.location}/{one.metadata_file[len(one.root) :].lstrip('/')}",
                "rewritten": len(one.files),
                "dropped_snapshots": one.dropped_snapshots,
            }
            for one in self.moved
        ]
        left = [{"format": "iceberg", "root": root, "not_moved": why} for root, why in self.not_moved.items()]
        return (*moved, *left)

    def row(self, row: TreeRow) -> TreeRow:
        """As the object is at its new place."""
        data = self.files.get(row.path)
        return row if data is None else replace(row, size_bytes=len(data), digest=digest_of(data))


@dataclass
class _Moving:
    """Stands before a target."""

    inner: Target
    moves: Moves

    @property
    def folds_case(self) -> bool:
        return self.inner.folds_case

    def has(self, row: TreeRow) -> bool:
        new = self.moves.row(row)
        there = self.inner.has(new)
        if there and row.path in self.moves.files:
            self._note(row, new)
        return there

    def write(self, row: TreeRow, pieces: Iterator[bytes]) -> None:
        data = self.moves.files.get(row.path)
        if data is None:
            self.inner.write(row, pieces)
            return
        for _ in pieces:
            pass  # to their end: then the original's digest was checked
        new = self.moves.row(row)
        self.inner.write(new, iter([data]))
        self._note(row, new)

    def finish(self) -> None:
        self.inner.finish()

    def _note(self, row: TreeRow, new: TreeRow) -> None:
        self.moves.rewritten[row.path] = Rewritten(row.path, row.digest, new.digest, row.size_bytes, new.size_bytes)
