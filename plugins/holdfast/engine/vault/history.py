"""What the log says now: the keys, the live backups, the indexes that count, the packs that were collected.

``init``, ``forget`` and ``collect`` entries are *anchors*: they name everything before them that still counts, with its
digest. What an anchor does not name may be removed; what it names, and everything after it, must be there.
Where an anchor lies and what it says is believed only once its signer is traced back to the repository's id (`keys`).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

from holdfast.engine.objectstore.errors import ObjectNotFound
from holdfast.engine.objectstore.interface import OVERWRITE, ObjectStore
from holdfast.engine.snapshot.documents import canonical
from holdfast.engine.vault import layout
from holdfast.engine.vault.entries import LAST_NUMBER
from holdfast.engine.vault.errors import HistoryDamaged, NoVault, UnknownFormat, WrongKey
from holdfast.engine.vault.keys import Keys, first_keys, keys_after, next_keys
from holdfast.engine.vault.log import FARTHEST, KINDS, LogEntry, check_follows, read_entry, sequences
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
    #: The newest anchor and what came after it, as it was loaded.
    since_anchor: tuple[LogEntry, ...] = field(default=(), repr=False)

    @property
    def keys_at(self) -> LogEntry:
        """The entry that set the keys last."""
        return self.key_entries[-1]

    def after(self, entry: LogEntry) -> History:
        """The history with one more entry. Raises HistoryDamaged: nobody who may wrote it, or it contradicts itself."""
        check_signer(entry, self.keys)
        if entry.kind == "backup":
            named = _indexes(entry.public["indexes"])
            new = {name: digest for name, digest in named.items() if name not in self.indexes}
            return replace(
                self, tip=entry, backups={**self.backups, entry.sequence: entry}, indexes={**self.indexes, **new}
            )
        if entry.kind == "keys":
            return replace(self, tip=entry, keys=next_keys(self.keys, entry), key_entries=(*self.key_entries, entry))
        if entry.kind == "hold":
            numbers = frozenset(entry.public["backups"]) & self.backups.keys()
            held = self.held | numbers if entry.public["held"] else self.held - numbers
            return replace(self, tip=entry, held=held)
        state = entry.public["state"]
        known = {number: found.digest for number, found in self.backups.items()}
        live = dict(map(tuple, state["live"]))
        if not live.items() <= known.items() or state["keys"] != self._key_digests():
            raise HistoryDamaged(
                "an anchor names backups or keys that the log before it does not",
                where=f"entry {entry.sequence}",
                fix="Whoever wrote it had not read the log; open the vault as of an entry before it",
            )
        return replace(
            self,
            tip=entry,
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
    store: ObjectStore, secrets: Secrets | None = None, *, hinted: bool = True, until: int | None = None
) -> History:
    """Read the log from its newest anchor on.

    Args:
        store: where the vault lies.
        secrets: of any role: the repository must be theirs; ``None`` reads whichever repository lies there.
        hinted: begin where the head says; else list every entry, also those that count no more (`History.stale`).
        until: read it as of this entry, whatever lies after it.

    Raises:
        NoVault: there is no log.
        HistoryDamaged: an entry that counts is missing, replaced or forged.
        WrongKey: the repository is another one than the secrets'.
    """
    hint = _hinted(store) if hinted else None
    if hint is not None and until is not None and hint > until:
        hint = None
    numbers = sequences(store, after=hint - 1 if hint else 0)
    numbers = [number for number in numbers if until is None or number <= until]
    if hint and (not numbers or numbers[0] != hint):
        return load_history(store, secrets, hinted=False, until=until)
    if not numbers:
        raise NoVault(
            "there is no vault here",
            where=store.name,
            expected=f"{layout.LOG}…",
            fix="Make one with `holdfast vault init`",
        )
    repository = read_entry(store, 1).repository if secrets is None else secrets.repository
    reading = _Reading(store, repository, numbers)
    anchored = reading.down_to_the_anchor()
    if anchored is None:
        if hint:  # it pointed past the newest anchor; it is only a hint
            return load_history(store, secrets, hinted=False, until=until)
        _check_repository(store, repository)
        raise reading.unknown or _missing(store, 1)
    return reading.up_from(anchored)


def _check_repository(store: ObjectStore, repository: bytes) -> None:
    """Raises WrongKey: the log that lies there is another repository's."""
    with suppress(HistoryDamaged):
        found = read_entry(store, 1).repository
        if found != repository:
            raise WrongKey(
                "the keys are another repository's", where=store.name, expected=found.hex(), found=repository.hex()
            )


@dataclass
class _Reading:
    """One reading of a log.

    Args:
        numbers: at which something lies, in order.
        found: what was read of it: an entry, or ``None`` for what is none.
        unknown: an entry of a later format that was met.
    """

    store: ObjectStore
    repository: bytes
    numbers: list[int]
    found: dict[int, LogEntry | UnknownFormat | None] = field(default_factory=dict)
    unknown: UnknownFormat | None = None

    def down_to_the_anchor(self) -> tuple[LogEntry, tuple[LogEntry, ...]] | None:
        """The newest anchor, with the entries that set the keys up to it; ``None``: there is none among these."""
        with ThreadPoolExecutor(_READERS) as pool:
            for start in range(len(self.numbers), 0, -_READERS):
                batch = self.numbers[max(0, start - _READERS) : start]
                read = dict(zip(batch, pool.map(self._read, batch), strict=True))
                self.found.update(read)
                for entry in (read[number] for number in reversed(batch)):
                    if isinstance(entry, UnknownFormat):
                        self.unknown = self.unknown or entry
                    elif entry is not None and entry.kind in ANCHORS:
                        key_entries = self._keys_to(entry)
                        if key_entries is not None:
                            return entry, key_entries
        return None

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
                _named(self.store, number, digest, self.repository) for number, digest in anchor.public["state"]["keys"]
            )
            return entries if keys_after(entries).entitle(anchor) else None
        except HistoryDamaged:
            return None

    def up_from(self, anchored: tuple[LogEntry, tuple[LogEntry, ...]]) -> History:
        """The history from an anchor to the newest entry. Raises HistoryDamaged."""
        anchor, key_entries = anchored
        history = self._at(anchor, key_entries)
        strays: list[int] = []
        since = [anchor]
        waiting: list[UnknownFormat] = []
        for number in (number for number in self.numbers if number > anchor.sequence):
            entry = self.found[number]
            if isinstance(entry, UnknownFormat):
                waiting.append(entry)
            elif entry is not None and history.keys.entitle(entry) and not self._is_a_leap(entry, history.tip):
                check_follows(entry, history.tip, self.store.name)
                history = history.after(entry)
                since.append(entry)
                continue
            strays.append(number)
        for unknown in waiting:
            if unknown.signer in history.keys.signers:
                raise unknown
        return replace(history, strays=tuple(strays), since_anchor=tuple(since))

    @staticmethod
    def _is_a_leap(entry: LogEntry, tip: LogEntry) -> bool:
        """It follows the newest entry, yet so far off that the numbers would soon be used up."""
        return entry.previous == tip.digest and entry.sequence - tip.sequence > FARTHEST

    def _at(self, anchor: LogEntry, key_entries: tuple[LogEntry, ...]) -> History:
        keys = keys_after(key_entries)
        if anchor.kind == "init":
            return History(self.repository, anchor, keys, key_entries)
        state = anchor.public["state"]
        with ThreadPoolExecutor(_READERS) as pool:
            named = list(pool.map(lambda one: _named(self.store, one[0], one[1], self.repository), state["live"]))
        for entry in named:
            if entry.kind != "backup":
                raise HistoryDamaged(
                    "an anchor names as a backup what is none",
                    where=f"{self.store.name}: entry {anchor.sequence}",
                    expected=f"entry {entry.sequence} of kind `backup`",
                    found=f"`{entry.kind}`",
                    fix="Open the vault as of an entry before it",
                )
        needed = {entry.sequence for entry in (*named, *key_entries)}
        return History(
            self.repository,
            anchor,
            keys,
            key_entries,
            backups={entry.sequence: entry for entry in named},
            indexes=_indexes(state["indexes"]),
            collected=_numbered(state["collected"]),
            dropped=_numbered(state["dropped"]),
            held=frozenset(state["held"]),
            stale=tuple(number for number in self.numbers if number < anchor.sequence and number not in needed),
        )


def _named(store: ObjectStore, number: int, digest: str, repository: bytes) -> LogEntry:
    """An entry an anchor names. Raises HistoryDamaged: it is missing or another."""
    entry = read_entry(store, number, repository, digest=digest)
    if entry.digest != digest:
        raise HistoryDamaged(
            "an entry of the log was replaced",
            where=f"{store.name}: entry {number}",
            expected=digest,
            found=entry.digest,
            fix="Restore it from a mirror",
        )
    return entry


def _missing(store: ObjectStore, number: int) -> HistoryDamaged:
    return HistoryDamaged(
        "an entry of the log is missing",
        where=f"{store.name}: {layout.entry_key(number)}",
        expected="the first entry, or one that names all before it",
        found="none that an administrator of this repository signed",
        fix="Somebody removed it: see `holdfast vault verify`, and restore it from a mirror",
    )


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
