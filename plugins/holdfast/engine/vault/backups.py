"""Live backups, opened: what an entry of the log says of one, and how one is found by name or time."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from holdfast.engine.snapshot.documents import iso_utc
from holdfast.engine.vault.errors import Damaged, UnknownBackup, WrongKey
from holdfast.engine.vault.log import LogEntry
from holdfast.engine.vault.tree import Segment
from holdfast.engine.vault.vault import Vault


@dataclass(frozen=True)
class Backup:
    """One backup.

    Args:
        backup_id: 32 hex digits.
        sequence: of its entry in the log.
        source: name of what was backed up; backups of one source form a series.
        kind: ``snapshot``, ``tree`` or ``stream``.
        taken_at: the point in time its content is of.
        committed_at: when it became a backup.
        tier: retention tier its new packs went to.
        objects, size_bytes: of its content.
        stored_bytes: what this backup added to the vault.
        origin: what the source says of itself: site, dataset, snapshot id, epoch, database …
        labels: short facts to carry along.
    """

    backup_id: str
    sequence: int
    source: str
    kind: str
    taken_at: datetime
    committed_at: datetime
    tier: str
    objects: int
    size_bytes: int
    stored_bytes: int
    segments: tuple[Segment, ...] = field(repr=False)
    origin: Mapping[str, Any] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    held: bool = False

    def to_summary(self) -> dict[str, Any]:
        """For people and `--json`."""
        return {
            "backup": self.backup_id,
            "entry": self.sequence,
            "source": self.source,
            "kind": self.kind,
            "taken_at": iso_utc(self.taken_at),
            "committed_at": iso_utc(self.committed_at),
            "tier": self.tier,
            "objects": self.objects,
            "size_bytes": self.size_bytes,
            "stored_bytes": self.stored_bytes,
            "held": self.held,
            "origin": dict(self.origin),
            "labels": dict(self.labels),
        }


def read_backup(vault: Vault, entry: LogEntry) -> Backup:
    """A backup by its entry. Raises Damaged, WrongKey."""
    body = entry.open_body(vault.secrets)
    return Backup(
        backup_id=entry.public["backup"],
        sequence=entry.sequence,
        source=body["source"],
        kind=body["kind"],
        taken_at=datetime.fromisoformat(body["taken_at"]),
        committed_at=entry.created_at,
        tier=entry.public["tier"],
        objects=int(body["objects"]),
        size_bytes=int(body["size_bytes"]),
        stored_bytes=int(body["stored_bytes"]),
        segments=tuple(Segment.from_list(found) for found in body["segments"]),
        origin=body["origin"],
        labels=body["labels"],
        held=entry.sequence in vault.history.held,
    )


def nameless_backup(vault: Vault, number: int) -> Backup:
    """A backup of which only the public part can be read."""
    entry = vault.history.backups[number]
    return Backup(
        backup_id=entry.public["backup"],
        sequence=number,
        source="",
        kind="",
        taken_at=entry.created_at,
        committed_at=entry.created_at,
        tier=entry.public["tier"],
        objects=0,
        size_bytes=0,
        stored_bytes=0,
        segments=(),
        held=number in vault.history.held,
    )


def live_backups(vault: Vault, source: str | None = None, *, unreadable: dict[int, str] | None = None) -> list[Backup]:
    """The live backups, oldest first; of one source where it is named.

    Args:
        unreadable: where given, what cannot be read is told there, by its entry, and left out: one backup that a
            broken writer, or somebody with its keys, made hinders no other.

    Raises:
        Damaged, WrongKey: one cannot be read.
    """
    found: list[Backup] = []
    for number, entry in sorted(vault.history.backups.items()):
        try:
            found.append(read_backup(vault, entry))
        except (Damaged, WrongKey) as error:
            if unreadable is None:
                raise
            unreadable[number] = str(error)
    return [backup for backup in found if source is None or backup.source == source]


def newest(backups: Iterable[Backup]) -> Backup | None:
    """The one with the newest point in time."""
    return max(backups, key=lambda backup: (backup.taken_at, backup.sequence), default=None)


def find_backup(
    vault: Vault, wanted: str | None = None, *, source: str | None = None, at: datetime | None = None
) -> Backup:
    """One live backup.

    Args:
        wanted: its id, or an unambiguous beginning of at least four digits; ``None`` or ``latest``: the newest.
        source: only of this source.
        at: the newest whose content is not newer than this.

    Raises:
        UnknownBackup: there is none, or several answer.
    """
    backups = live_backups(vault, source, unreadable={})
    if wanted not in (None, "latest"):
        named = [one for one in backups if one.backup_id.startswith(str(wanted)) and len(str(wanted)) >= 4]
        if len({one.backup_id for one in named}) == 1:
            named = named[:1]  # whoever named his backup like an older one does not get in its way
        if len(named) != 1:
            raise UnknownBackup(
                "no live backup answers to this name" if not named else "several backups begin like this",
                where=vault.name,
                expected="the id of one backup; `holdfast vault list` shows them",
                found=repr(wanted),
            )
        return named[0]
    if at is not None:
        backups = [one for one in backups if one.taken_at <= at]
    found = newest(backups)
    if found is None:
        of = f" of {source!r}" if source else ""
        raise UnknownBackup(
            f"there is no live backup{of}",
            where=vault.name,
            expected="one" if at is None else f"one not newer than {iso_utc(at)}",
            found="none",
            fix="`holdfast vault list` shows what there is",
        )
    return found
