"""Live backups, opened: what an entry of the log says of one, and how one is found by name or time."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

from holdfast.engine.snapshot.documents import iso_utc
from holdfast.engine.vault.ages import arrivals
from holdfast.engine.vault.errors import Damaged, UnknownBackup, WrongKey
from holdfast.engine.vault.log import LogEntry
from holdfast.engine.vault.tree import Segment
from holdfast.engine.vault.vault import Vault

_BY_ENTRY = re.compile(r"entry:([0-9]{1,12})")
#: Clocks that differ by no more than this are nothing to tell of.
_SKEW = timedelta(minutes=5)
#: So many of a name's answers are told.
_TOLD = 10


@dataclass(frozen=True)
class Backup:
    """One backup.

    Args:
        backup_id: 32 hex digits.
        sequence: of its entry in the log.
        source: name of what was backed up; backups of one source form a series.
        kind: ``snapshot``, ``tree`` or ``stream``.
        taken_at: the point in time its content is of: as its source says, but not after it came to the store.
        committed_at: when it came to the store, by the store's clock.
        tier: retention tier its new packs went to.
        objects, size_bytes: of its content.
        stored_bytes: what this backup added to the vault.
        origin: what the source says of itself: site, dataset, snapshot id, epoch, database …
        labels: short facts to carry along.
        claimed_at: the point in time its source claims, where that is well after it came: some clock ran ahead.
        namesakes: entries of other live backups of the same id.
        unreadable: why nothing but what the log itself says is known of it.
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
    claimed_at: datetime | None = None
    namesakes: tuple[int, ...] = ()
    unreadable: str | None = None

    @property
    def handle(self) -> str:
        """A name that only this one answers to."""
        return f"entry:{self.sequence}" if self.namesakes else self.backup_id

    def to_summary(self) -> dict[str, Any]:
        """For people and `--json`."""
        return {
            "backup": self.backup_id,
            "entry": self.sequence,
            "source": self.source,
            "kind": self.kind,
            "taken_at": iso_utc(self.taken_at),
            "claimed_at": None if self.claimed_at is None else iso_utc(self.claimed_at),
            "committed_at": iso_utc(self.committed_at),
            "tier": self.tier,
            "objects": self.objects,
            "size_bytes": self.size_bytes,
            "stored_bytes": self.stored_bytes,
            "held": self.held,
            "namesakes": list(self.namesakes),
            "unreadable": self.unreadable,
            "origin": dict(self.origin),
            "labels": dict(self.labels),
        }


def read_backup(vault: Vault, entry: LogEntry) -> Backup:
    """A backup by its entry, with the times its writer says. Raises Damaged, WrongKey."""
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


def _unreadable(vault: Vault, entry: LogEntry, why: str) -> Backup:
    """A backup of which only the public part can be read."""
    return Backup(
        backup_id=entry.public["backup"],
        sequence=entry.sequence,
        source="",
        kind="",
        taken_at=entry.created_at,
        committed_at=entry.created_at,
        tier=entry.public["tier"],
        objects=0,
        size_bytes=0,
        stored_bytes=0,
        segments=(),
        held=entry.sequence in vault.history.held,
        unreadable=why,
    )


def all_backups(vault: Vault) -> list[Backup]:
    """Every live backup, oldest entry first, also those that cannot be read (`Backup.unreadable`).

    No point in time is after the backup's arrival by the store's clock: a source whose clock ran ahead would be the
    newest for as long as it did.
    """
    history = vault.history
    came = arrivals(vault.store, history)
    by_id: dict[str, list[int]] = {}
    for number, entry in history.backups.items():
        by_id.setdefault(entry.public["backup"], []).append(number)
    found: list[Backup] = []
    for number, entry in sorted(history.backups.items()):
        try:
            backup = read_backup(vault, entry)
        except (Damaged, WrongKey) as error:
            backup = _unreadable(vault, entry, str(error))
        others = tuple(sorted(other for other in by_id[backup.backup_id] if other != number))
        found.append(replace(_received(backup, came.get(number)), namesakes=others))
    return found


def _received(backup: Backup, at: datetime | None) -> Backup:
    """A backup with the times the store knows of: when it came, and a point in time that is not after that."""
    if at is None:
        return backup
    claimed = backup.taken_at if backup.taken_at - at > _SKEW and backup.unreadable is None else None
    return replace(backup, committed_at=at, taken_at=min(backup.taken_at, at), claimed_at=claimed)


def live_backups(vault: Vault, source: str | None = None, *, unreadable: dict[int, str] | None = None) -> list[Backup]:
    """The live backups that can be read, oldest first; of one source where it is named.

    One that a broken writer, or somebody with its keys, made unreadable hinders no other.

    Args:
        unreadable: where given, why others cannot be read is told there, by entry.
    """
    backups = all_backups(vault)
    if unreadable is not None:
        unreadable.update((one.sequence, one.unreadable) for one in backups if one.unreadable is not None)
    return [one for one in backups if one.unreadable is None and (source is None or one.source == source)]


def newest(backups: Iterable[Backup]) -> Backup | None:
    """The one with the newest point in time."""
    return max(backups, key=lambda backup: (backup.taken_at, backup.sequence), default=None)


def choose(backups: Sequence[Backup], wanted: str, where: str, *, oldest: bool = False) -> Backup:
    """The one of some backups that answers to a name.

    Args:
        backups: oldest first.
        wanted: its id, an unambiguous beginning of at least four digits, or the number of its entry as ``entry:17``.
        where: whose they are; in messages.
        oldest: of several with one id, take the oldest.

    Raises:
        UnknownBackup: none answers, or several do.
    """
    number = _BY_ENTRY.fullmatch(wanted)
    if number is not None:
        named = [one for one in backups if one.sequence == int(number[1])]
    else:
        named = [one for one in backups if len(wanted) >= 4 and one.backup_id.startswith(wanted)]
    if oldest and len({one.backup_id for one in named}) == 1:
        named = named[:1]
    if len(named) == 1:
        return named[0]
    if not named:
        raise UnknownBackup(
            "no live backup answers to this name",
            where=where,
            expected="the id of one backup, or entry:NUMBER; `holdfast vault list` shows them",
            found=repr(wanted),
        )
    more = f" and {len(named) - _TOLD} more" if len(named) > _TOLD else ""
    raise UnknownBackup(
        f"several live backups answer to {wanted!r}",
        where=where,
        expected="one of them, named by its entry",
        found=", ".join(f"entry:{one.sequence} ({one.source or 'unreadable'})" for one in named[:_TOLD]) + more,
        fix="`holdfast vault list` shows which is which. Of two with one id the later was made by somebody who knew it",
    )


def find_backup(
    vault: Vault,
    wanted: str | None = None,
    *,
    source: str | None = None,
    at: datetime | None = None,
    fits: Callable[[Backup], bool] = lambda _backup: True,
) -> Backup:
    """One live backup, to read from.

    Args:
        wanted: see `choose`; ``None`` or ``latest``: the newest. Of several with one id it is the oldest: whoever gave
            his backup the id of another does not get in its way (`Backup.namesakes` tells of him).
        source: only of this source.
        at: the newest whose content is not newer than this.
        fits: the newest of which this is true.

    Raises:
        UnknownBackup: there is none, or several answer.
        Damaged: it cannot be read.
    """
    backups = [one for one in all_backups(vault) if source is None or one.source == source]
    readable = [one for one in backups if one.unreadable is None]
    if wanted is not None and wanted != "latest":
        try:
            named = choose(readable, wanted, vault.name, oldest=True)
        except UnknownBackup:
            named = choose(backups, wanted, vault.name)
        if named.unreadable is not None:
            raise Damaged(
                "the backup cannot be read",
                where=f"{vault.name}: entry {named.sequence}",
                found=named.unreadable,
                fix=f"Forget it with `holdfast vault forget entry:{named.sequence}`",
            )
        return named
    found = newest(one for one in readable if (at is None or one.taken_at <= at) and fits(one))
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
