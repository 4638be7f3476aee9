"""What the log says now: the keys, the live backups, the indexes that count, the packs that were collected.

``init``, ``forget`` and ``collect`` entries are *anchors*: they name everything before them that still counts, with its
digest. What an anchor does not name may be removed; what it names, and everything after it, must be there.
Where an anchor lies and what it says is believed only once its signer is traced back to the repository's id (`keys`).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from holdfast.engine.objectstore.errors import ObjectNotFound
from holdfast.engine.objectstore.interface import OVERWRITE, ObjectStore
from holdfast.engine.snapshot.documents import canonical
from holdfast.engine.vault import layout
from holdfast.engine.vault.entries import LAST_NUMBER
from holdfast.engine.vault.errors import HistoryDamaged, NoVault, UnknownFormat, WrongKey
from holdfast.engine.vault.keys import Keys, first_keys, keys_after, next_keys
from holdfast.engine.vault.log import KINDS, LogEntry, forked, is_a_leap, missing_entry, read_entry, sequences
from holdfast.engine.vault.parallel import each
from holdfast.engine.vault.secrets import Secrets

ANCHORS = ("init", "forget", "collect")
_READERS = 8


@dataclass(frozen=True)
class History:
    """The repository as of one entry of its log."""

    repository: bytes
    tip: LogEntry
    keys: Keys
    #: Every entry that set the keys, from the first entry on.
    key_entries: tuple[LogEntry, ...]
    #: Live backups by the number of their entry, oldest first.
    backups: Mapping[int, LogEntry] = field(default_factory=dict)
    #: Digest by id, of every index that counts.
    indexes: Mapping[bytes, str] = field(default_factory=dict)
    #: Packs nothing may be read from or reused in any more: by id, the entry that said so.
    collected: Mapping[bytes, int] = field(default_factory=dict)
    #: Index objects that count no more and are still there: by id, the entry that said so.
    dropped: Mapping[bytes, int] = field(default_factory=dict)
    #: Backups nobody may forget.
    held: frozenset[int] = frozenset()
    #: Numbers of entries that are there and count no more.
    stale: tuple[int, ...] = ()
    #: Numbers from the newest anchor on at which something lies that is no entry.
    strays: tuple[int, ...] = ()
    #: The newest anchor and what came after it.
    recent: tuple[LogEntry, ...] = field(default=(), repr=False)

    @property
    def anchor_at(self) -> int:
        """Number of the newest anchor."""
        return self.recent[0].sequence

    @property
    def counting(self) -> tuple[int, ...]:
        """Numbers of the entries that must be there, in order."""
        return tuple(sorted(self.entries))

    @property
    def entries(self) -> Mapping[int, LogEntry]:
        """The entries that must be there, by number."""
        return {entry.sequence: entry for entry in (*self.backups.values(), *self.key_entries, *self.recent)}

    @property
    def keys_at(self) -> LogEntry:
        """The entry that set the keys last."""
        return self.key_entries[-1]

    def keys_before(self, number: int) -> Keys:
        """The keys an entry of this number had to be signed with; the first entry with its own."""
        first, *others = self.key_entries
        return keys_after((first, *(entry for entry in others if entry.sequence < number)))

    def after(self, entry: LogEntry) -> History:
        """The history with one more entry. Raises HistoryDamaged: nobody who may wrote it, or it contradicts itself."""
        check_signer(entry, self.keys)
        now = replace(self, tip=entry, recent=(*self.recent, entry))
        if entry.kind == "backup":
            named = _indexes(entry.public["indexes"])
            new = {name: digest for name, digest in named.items() if name not in self.indexes}
            return replace(now, backups={**self.backups, entry.sequence: entry}, indexes={**self.indexes, **new})
        if entry.kind == "keys":
            return replace(now, keys=next_keys(self.keys, entry), key_entries=(*self.key_entries, entry))
        if entry.kind == "hold":
            numbers = frozenset(entry.public["backups"]) & self.backups.keys()
            held = self.held | numbers if entry.public["held"] else self.held - numbers
            return replace(now, held=held)
        state = entry.public["state"]
        known = {number: found.digest for number, found in self.backups.items()}
        live = dict(map(tuple, state["live"]))
        if not live.items() <= known.items() or state["keys"] != self._key_digests():
            raise HistoryDamaged(
                "an anchor names backups or keys that the log before it does not",
                where=f"entry {entry.sequence}",
                fix="Whoever wrote it had not read the log",
            )
        return replace(
            now,
            recent=(entry,),
            backups={number: found for number, found in self.backups.items() if number in live},
            indexes=_indexes(state["indexes"]),
            collected=_numbered(state["collected"]),
            dropped=_numbered(state["dropped"]),
            held=frozenset(state["held"]),
        )

    def _key_digests(self) -> list[list[Any]]:
        return [[entry.sequence, entry.digest] for entry in self.key_entries]

    def state(
        self,
        *,
        backups: Iterable[int] | None = None,
        indexes: Mapping[bytes, str] | None = None,
        collected: Mapping[bytes, int] | None = None,
        dropped: Mapping[bytes, int] | None = None,
    ) -> dict[str, Any]:
        """What an anchor that follows this says still counts, with what it changes."""
        named = self.indexes if indexes is None else indexes
        live = self.backups if backups is None else {number: self.backups[number] for number in backups}
        return {
            "live": [[number, entry.digest] for number, entry in sorted(live.items())],
            "held": sorted(self.held & live.keys()),
            "keys": self._key_digests(),
            "indexes": [[name.hex(), digest] for name, digest in named.items()],
            "collected": _to_numbered(self.collected if collected is None else collected),
            "dropped": _to_numbered(self.dropped if dropped is None else dropped),
        }


def _indexes(found: Iterable[Any]) -> dict[bytes, str]:
    return {bytes.fromhex(name): digest for name, digest in found}


def _numbered(found: Iterable[Any]) -> dict[bytes, int]:
    return {bytes.fromhex(name): int(number) for name, number in found}


def _to_numbered(values: Mapping[bytes, int]) -> list[list[Any]]:
    return [[name.hex(), number] for name, number in sorted(values.items())]


def check_signer(entry: LogEntry, keys: Keys) -> None:
    """Raises HistoryDamaged: whoever signed it may not write entries of its kind."""
    if not keys.entitle(entry):
        raise HistoryDamaged(
            "an entry of the log was signed by somebody who may not write it",
            where=f"entry {entry.sequence}",
            expected=" or ".join(KINDS[entry.kind]),
            found=f"{keys.signers.get(entry.signer) or 'an unknown key'} for a `{entry.kind}` entry",
            fix="Somebody with write access to the store forged it; nothing of it was used",
        )


def load_history(
    store: ObjectStore,
    secrets: Secrets | None = None,
    *,
    hinted: bool = True,
    damage: list[HistoryDamaged] | None = None,
) -> History:
    """Read the log from its newest anchor on.

    Args:
        store: where the vault lies.
        secrets: of any role: the repository must be theirs; ``None`` reads whichever repository lies there.
        hinted: begin where the head says; else list every entry, also those that count no more (`History.stale`).
        damage: where given, what is missing or wrong is told there and passed over, so that the rest can be read.
            Nothing may be written to what was read so.

    Raises:
        NoVault: there is no log.
        HistoryDamaged: an entry that counts is missing, replaced or forged.
        WrongKey: the repository is another one than the secrets'.
    """
    hint = _hinted(store) if hinted else None
    numbers = sequences(store, after=hint - 1 if hint else 0)
    if hint and (not numbers or numbers[0] != hint):
        return load_history(store, secrets, hinted=False, damage=damage)
    if not numbers:
        raise NoVault(
            "there is no vault here",
            where=store.name,
            expected=f"{layout.LOG}…",
            fix="Make one with `holdfast vault init`",
        )
    repository = read_entry(store, 1).repository if secrets is None else secrets.repository
    reading = LogReading(store, repository, numbers, None if damage is None else [])
    anchored = reading.down_to_the_anchor()
    if anchored is None:
        if hint:  # it pointed past the newest anchor; it is only a hint
            return load_history(store, secrets, hinted=False, damage=damage)
        _check_repository(store, repository)
        raise reading.unknown or missing_entry(store, 1)
    history = reading.up_from(*anchored)
    if damage is not None:
        damage.extend(reading.damage or ())
    return history


def _check_repository(store: ObjectStore, repository: bytes) -> None:
    """Raises WrongKey: the log that lies there is another repository's. HistoryDamaged: its beginning is damaged."""
    found = read_entry(store, 1).repository
    if found != repository:
        raise WrongKey(
            "the keys are another repository's", where=store.name, expected=found.hex(), found=repository.hex()
        )


@dataclass
class LogReading:
    """One reading of a log.

    Args:
        numbers: at which something lies, in order.
        damage: where what is wrong is told; ``None``: it is raised.
        found: what was read: an entry, or ``None`` for what is none.
        unknown: an entry of a later format that was met.
    """

    store: ObjectStore
    repository: bytes
    numbers: list[int]
    damage: list[HistoryDamaged] | None
    found: dict[int, LogEntry | UnknownFormat | None] = field(default_factory=dict)
    unknown: UnknownFormat | None = None

    def down_to_the_anchor(self) -> tuple[LogEntry, tuple[LogEntry, ...]] | None:
        """The newest anchor, with the entries that set the keys up to it; ``None``: there is none among these."""
        for start in range(len(self.numbers), 0, -_READERS):
            batch = self.numbers[max(0, start - _READERS) : start]
            self.found.update(zip(batch, each(self._read, batch, threads=_READERS), strict=True))
            for entry in (self.found[number] for number in reversed(batch)):
                if isinstance(entry, UnknownFormat):
                    self.unknown = self.unknown or entry
                elif entry is not None and entry.kind in ANCHORS:
                    key_entries = self._keys_to(entry)
                    if key_entries is not None:
                        return entry, key_entries
        return None

    def up_from(self, anchor: LogEntry, key_entries: tuple[LogEntry, ...]) -> History:
        """The history from an anchor to the newest entry. Raises HistoryDamaged."""
        history, before = self._at(anchor, key_entries), None
        strays: list[int] = []
        later: list[UnknownFormat] = []
        for number in (number for number in self.numbers if number > anchor.sequence):
            entry = self.found[number]
            if isinstance(entry, UnknownFormat):
                later.append(entry)
            if not isinstance(entry, LogEntry) or not history.keys.entitle(entry) or is_a_leap(entry, history.tip):
                strays.append(number)
                continue
            if entry.previous != history.tip.digest:
                history = self._followed(entry, history, before) or self._broken(entry, history)
            try:
                history, before = history.after(entry), history
            except HistoryDamaged as damaged:
                self._tell(damaged)
        for unknown in later:
            if unknown.signer in history.keys.signers:
                raise unknown
        return replace(history, strays=tuple(strays))

    def _followed(self, entry: LogEntry, history: History, before: History | None) -> History | None:
        """The history with the other copy of its newest entry, where only that is the one ``entry`` follows."""
        if before is None:
            return None
        try:
            other = read_entry(self.store, history.tip.sequence, self.repository, digest=entry.previous)
        except HistoryDamaged:
            return None
        follows = other.previous == before.tip.digest and before.keys.entitle(other)
        return before.after(other) if follows else None

    def _broken(self, entry: LogEntry, history: History) -> History:
        gap = next((n for n in range(history.tip.sequence + 1, entry.sequence) if self.found.get(n) is None), None)
        self._tell(forked(entry, history.tip, self.store.name) if gap is None else missing_entry(self.store, gap))
        return history

    def _tell(self, error: HistoryDamaged) -> None:
        if self.damage is None:
            raise error
        self.damage.append(error)

    def _read(self, number: int) -> LogEntry | UnknownFormat | None:
        try:
            return read_entry(self.store, number, self.repository)
        except UnknownFormat as unknown:
            return unknown
        except HistoryDamaged:
            return None

    def _keys_to(self, anchor: LogEntry) -> tuple[LogEntry, ...] | None:
        """The entries that set the keys an anchor was signed under; ``None``: no administrator signed it."""
        try:
            if anchor.kind == "init":
                first_keys(anchor)
                return (anchor,)
            entries = tuple(
                read_entry(self.store, number, self.repository, digest=digest)
                for number, digest in anchor.public["state"]["keys"]
            )
            return entries if keys_after(entries).entitle(anchor) else None
        except HistoryDamaged:
            return None

    def _at(self, anchor: LogEntry, key_entries: tuple[LogEntry, ...]) -> History:
        keys = keys_after(key_entries)
        if anchor.kind == "init":
            return History(self.repository, anchor, keys, key_entries, recent=(anchor,))
        state = anchor.public["state"]
        live: dict[int, LogEntry] = {}
        for entry in each(self._named_backup, state["live"], threads=_READERS):
            if isinstance(entry, HistoryDamaged):
                self._tell(entry)
            else:
                live[entry.sequence] = entry
        needed = {number for number, _ in state["live"]} | {entry.sequence for entry in key_entries}
        return History(
            self.repository,
            anchor,
            keys,
            key_entries,
            backups=live,
            indexes=_indexes(state["indexes"]),
            collected=_numbered(state["collected"]),
            dropped=_numbered(state["dropped"]),
            held=frozenset(state["held"]),
            stale=tuple(number for number in self.numbers if number < anchor.sequence and number not in needed),
            recent=(anchor,),
        )

    def _named_backup(self, named: tuple[int, str]) -> LogEntry | HistoryDamaged:
        number, digest = named
        try:
            entry = read_entry(self.store, number, self.repository, digest=digest)
        except HistoryDamaged as damaged:
            return damaged
        if entry.kind != "backup":
            return HistoryDamaged(
                "an anchor names as a backup what is none", where=f"{self.store.name}: entry {number}", found=entry.kind
            )
        return entry


def _hinted(store: ObjectStore) -> int | None:
    """Where the newest anchor may be. Only a hint: whatever it says, nothing is missed."""
    try:
        number = json.loads(store.get(layout.HEAD))["anchor"]
        return number if type(number) is int and 0 < number <= LAST_NUMBER else None
    except (ObjectNotFound, ValueError, KeyError, TypeError, RecursionError):
        return None


def write_hint(store: ObjectStore, history: History) -> None:
    """Say where to begin reading; nothing depends on it."""
    anchor = history.tip.sequence if history.tip.kind in ANCHORS else None
    if anchor is not None:
        store.put(layout.HEAD, canonical({"anchor": anchor}), mode=OVERWRITE, content_type="application/json")
