"""What the log says now: the keys, the live backups, the indexes that count, the packs that were collected.

``init``, ``forget`` and ``collect`` entries are *anchors*: they name everything before them that still counts, with its
digest. What an anchor does not name may be removed; what it names, and everything after it, must be there.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from holdfast.engine.objectstore.errors import ObjectNotFound
from holdfast.engine.objectstore.interface import OVERWRITE, ObjectStore
from holdfast.engine.snapshot.documents import canonical
from holdfast.engine.vault import layout
from holdfast.engine.vault.errors import HistoryDamaged, NoVault, WrongKey
from holdfast.engine.vault.log import KINDS, LogEntry, forked, missing_entry, read_entry, sequences
from holdfast.engine.vault.parallel import each
from holdfast.engine.vault.secrets import Secrets, unb64

ANCHORS = ("init", "forget", "collect")
_READERS = 8


@dataclass(frozen=True)
class Keys:
    """The public side of the repository's keys.

    Args:
        recipients: by generation, the X25519 public keys content is sealed to; writers use the newest.
        signers: by Ed25519 public key, the role it signs for.
        keysets: by role, the ids of its key objects.
    """

    recipients: Mapping[int, bytes]
    signers: Mapping[bytes, str]
    keysets: Mapping[str, str]

    def to_public(self) -> dict[str, Any]:
        from holdfast.engine.vault.secrets import b64

        return {
            "recipients": {str(number): b64(key) for number, key in sorted(self.recipients.items())},
            "signers": [[b64(key), role] for key, role in sorted(self.signers.items())],
            "keysets": dict(self.keysets),
        }

    @classmethod
    def from_public(cls, found: Mapping[str, Any]) -> Keys:
        return cls(
            recipients={int(number): unb64(key) for number, key in found["recipients"].items()},
            signers={unb64(key): role for key, role in found["signers"]},
            keysets=dict(found["keysets"]),
        )

    @property
    def generation(self) -> int:
        """The one new packs are sealed to."""
        return max(self.recipients)


@dataclass(frozen=True)
class History:
    """The repository as of one entry of its log."""

    repository: bytes
    tip: LogEntry
    keys: Keys
    keys_at: LogEntry
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
    #: Number of the newest anchor.
    anchor_at: int = 1
    #: The older entries it names, its digests by number: live backups and the keys as of then.
    anchored: Mapping[int, str] = field(default_factory=dict)

    @property
    def counting(self) -> tuple[int, ...]:
        """Numbers of the entries that must be there, in order."""
        return tuple(sorted({*self.anchored, *range(self.anchor_at, self.tip.sequence + 1)}))

    def after(self, entry: LogEntry) -> History:
        """The history with one more entry."""
        check_signer(entry, self.keys)
        if entry.kind == "backup":
            indexes = {**self.indexes, **_indexes(entry.public["indexes"])}
            return replace(self, tip=entry, backups={**self.backups, entry.sequence: entry}, indexes=indexes)
        if entry.kind == "keys":
            return replace(self, tip=entry, keys=Keys.from_public(entry.public["keys"]), keys_at=entry)
        if entry.kind == "hold":
            numbers = frozenset(int(number) for number in entry.public["backups"])
            held = self.held | numbers if entry.public["held"] else self.held - numbers
            return replace(self, tip=entry, held=held)
        state = entry.public["state"]
        live = {int(number) for number, _ in state["live"]}
        return replace(
            self,
            tip=entry,
            backups={number: found for number, found in self.backups.items() if number in live},
            indexes=_indexes(state["indexes"]),
            collected=_numbered(state["collected"]),
            dropped=_numbered(state["dropped"]),
            held=frozenset(state["held"]),
            anchor_at=entry.sequence,
            anchored=_anchored(state),
        )

    def state(
        self,
        *,
        backups: Iterable[int] | None = None,
        indexes: Mapping[bytes, str] | None = None,
        collected: Mapping[bytes, int] | None = None,
        dropped: Mapping[bytes, int] | None = None,
    ) -> dict[str, Any]:
        """What an anchor that follows this says still counts, with what it changes."""
        live = self.backups if backups is None else {number: self.backups[number] for number in backups}
        return {
            "live": [[number, entry.digest] for number, entry in sorted(live.items())],
            "held": sorted(self.held & live.keys()),
            "keys": [self.keys_at.sequence, self.keys_at.digest],
            "indexes": [
                [name.hex(), digest] for name, digest in sorted((self.indexes if indexes is None else indexes).items())
            ],
            "collected": _to_numbered(self.collected if collected is None else collected),
            "dropped": _to_numbered(self.dropped if dropped is None else dropped),
        }


def _anchored(state: Mapping[str, Any]) -> dict[int, str]:
    return {int(number): digest for number, digest in [*state["live"], state["keys"]]}


def _indexes(found: Iterable[Any]) -> dict[bytes, str]:
    return {bytes.fromhex(name): digest for name, digest in found}


def _numbered(found: Iterable[Any]) -> dict[bytes, int]:
    return {bytes.fromhex(name): int(number) for name, number in found}


def _to_numbered(values: Mapping[bytes, int]) -> list[list[Any]]:
    return [[name.hex(), number] for name, number in sorted(values.items())]


def check_signer(entry: LogEntry, keys: Keys) -> None:
    """Raises HistoryDamaged: whoever signed it may not write entries of its kind."""
    role = keys.signers.get(entry.signer)
    if role is None or role not in KINDS.get(entry.kind, ()):
        raise HistoryDamaged(
            "an entry of the log was signed by somebody who may not write it",
            where=f"entry {entry.sequence}",
            expected=f"{' or '.join(KINDS.get(entry.kind, ())) or 'a known kind'}",
            found=f"{role or 'an unknown key'} for a `{entry.kind}` entry",
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
        secrets: of any role: the repository must be theirs; ``None`` reads what anybody may.
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
    found = _Damage(None if damage is None else [])
    newest = _down_to_the_anchor(store, numbers, found)
    if newest is None:
        if hint:  # it pointed past the newest anchor; it is only a hint
            return load_history(store, secrets, hinted=False, damage=damage)
        raise (found.told or [missing_entry(store, 1)])[-1]
    anchor, *newer = newest
    repository = bytes.fromhex(json.loads(anchor.data)["repository"])
    if secrets is not None and repository != secrets.repository:
        raise WrongKey(
            "the keys are another repository's",
            where=store.name,
            expected=repository.hex(),
            found=secrets.repository.hex(),
        )
    older = [number for number in numbers if number < anchor.sequence]
    history = _at_anchor(store, anchor, repository, secrets, older, found)
    for entry in newer:
        with found:
            history = history.after(entry)
    if damage is not None:
        damage.extend(found.told or ())
    return history


@dataclass
class _Damage:
    """What is wrong with a log: raised, or told and passed over. As a context: whatever its body raises of the kind."""

    told: list[HistoryDamaged] | None

    def found(self, error: HistoryDamaged) -> None:
        if self.told is None:
            raise error
        self.told.append(error)

    def __enter__(self) -> None:
        return None

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> bool:
        if self.told is None or not isinstance(error, HistoryDamaged):
            return False
        self.told.append(error)
        return True


def _down_to_the_anchor(store: ObjectStore, numbers: list[int], damage: _Damage) -> list[LogEntry] | None:
    """The newest anchor and all entries after it, in order; ``None``: there is no anchor among these.

    Raises HistoryDamaged: one of them is missing or does not follow the one before.
    """
    found: list[LogEntry] = []
    above: int | None = None
    for start in range(len(numbers), 0, -_READERS):
        batch = numbers[max(0, start - _READERS) : start]
        entries = each(partial(_read_or_error, store), batch, threads=_READERS)
        for number, read in reversed(list(zip(batch, entries, strict=True))):
            if above is not None and number + 1 != above:
                damage.found(missing_entry(store, number + 1))
            above = number
            entry = _that_precedes(store, found[-1], read) if found else read
            if isinstance(entry, HistoryDamaged):
                damage.found(entry)
                continue
            found.append(entry)
            if entry.kind in ANCHORS:
                return found[::-1]
    return None


def _read_or_error(store: ObjectStore, number: int) -> LogEntry | HistoryDamaged:
    """An error is kept: it matters only where the entry does."""
    try:
        return read_entry(store, number)
    except HistoryDamaged as damaged:
        return damaged


def _that_precedes(store: ObjectStore, newer: LogEntry, read: LogEntry | HistoryDamaged) -> LogEntry | HistoryDamaged:
    """The entry itself, its copy where only that is the one the newer follows, or what is wrong."""
    if isinstance(read, HistoryDamaged) or newer.sequence != read.sequence + 1 or newer.previous == read.digest:
        return read
    try:
        return read_entry(store, read.sequence, digest=newer.previous)
    except HistoryDamaged:
        return forked(newer, read, store.name)


def _at_anchor(
    store: ObjectStore,
    anchor: LogEntry,
    repository: bytes,
    secrets: Secrets | None,
    older: list[int],
    damage: _Damage,
) -> History:
    if anchor.kind == "init":
        keys = Keys.from_public(anchor.public["keys"])
        _check_root(anchor, keys, secrets, store.name)
        check_signer(anchor, keys)
        return History(repository, anchor, keys, anchor)
    state = anchor.public["state"]
    keys_at = read_entry(store, int(state["keys"][0]), digest=state["keys"][1])
    keys = Keys.from_public(keys_at.public["keys"])
    _check_root(keys_at, keys, secrets, store.name)
    check_signer(keys_at, keys)
    check_signer(anchor, keys)
    wanted = sorted((int(number), digest) for number, digest in state["live"])
    live: dict[int, LogEntry] = {}
    for entry in each(partial(_wanted_or_error, store), wanted, threads=_READERS):
        if isinstance(entry, HistoryDamaged):
            damage.found(entry)
        else:
            live[entry.sequence] = entry
    anchored = _anchored(state)
    return History(
        repository,
        anchor,
        keys,
        keys_at,
        backups=live,
        indexes=_indexes(state["indexes"]),
        collected=_numbered(state["collected"]),
        dropped=_numbered(state["dropped"]),
        held=frozenset(state["held"]),
        stale=tuple(number for number in older if number not in anchored),
        anchor_at=anchor.sequence,
        anchored=anchored,
    )


def _wanted_or_error(store: ObjectStore, wanted: tuple[int, str]) -> LogEntry | HistoryDamaged:
    try:
        return read_entry(store, wanted[0], digest=wanted[1])
    except HistoryDamaged as damaged:
        return damaged


def _check_root(entry: LogEntry, keys: Keys, secrets: Secrets | None, name: str) -> None:
    """The public keys must be those that were sealed beside them: else the store's operator could put in his own."""
    if secrets is None:
        return
    if entry.open_body(secrets).get("keys") != keys.to_public():
        raise HistoryDamaged(
            "the repository's public keys are not those that were sealed",
            where=f"{name}: entry {entry.sequence}",
            fix="Somebody replaced the beginning of the log; restore it from a mirror",
        )


def _hinted(store: ObjectStore) -> int | None:
    """Where the newest anchor may be. Only a hint: whatever it says, nothing is missed."""
    try:
        number = json.loads(store.get(layout.HEAD))["anchor"]
        return number if type(number) is int and 0 < number < 10**12 else None
    except (ObjectNotFound, ValueError, KeyError, TypeError, RecursionError):
        return None


def write_hint(store: ObjectStore, history: History) -> None:
    """Say where to begin reading; nothing depends on it."""
    anchor = history.tip.sequence if history.tip.kind in ANCHORS else None
    if anchor is not None:
        store.put(layout.HEAD, canonical({"anchor": anchor}), mode=OVERWRITE, content_type="application/json")
