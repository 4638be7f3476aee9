"""Witnesses: the newest entry's digest at other sites, so that removing it or going back to an older state shows.

A witness is written create-only after the entry. One that lags behind proves nothing; one that is ahead of the
repository, or disagrees with it, is an alarm. Of entries that changed the keys a witness keeps the whole: so a key that
was replaced cannot be brought back by whoever has it and may write to the repository.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Literal

from holdfast.engine.objectstore.errors import ObjectNotFound, ObjectStoreError
from holdfast.engine.objectstore.interface import ByteRange, ObjectStore
from holdfast.engine.snapshot.documents import canonical
from holdfast.engine.snapshot.once import create_or_read
from holdfast.engine.vault import layout
from holdfast.engine.vault.entries import EntryDigest, Form, Id, Key32, Number, Signature, read_canonical
from holdfast.engine.vault.errors import HistoryDamaged, RolledBack
from holdfast.engine.vault.history import History
from holdfast.engine.vault.keys import keys_after, next_keys
from holdfast.engine.vault.log import LogEntry, get_bounded, is_signed, parse_entry, read_entry
from holdfast.engine.vault.secrets import Secrets, b64, unb64

FORMAT = "holdfast.vault.witness/1"
_SIGNED = b"holdfast vault 1|witness|"
#: A witness is far smaller; no more is read.
_MOST_BYTES = 4096


class WitnessForm(Form):
    """What a site keeps of an entry."""

    format: Literal["holdfast.vault.witness/1"]
    repository: Id
    sequence: Number
    digest: EntryDigest
    signer: Key32
    signature: Signature


@dataclass(frozen=True)
class Witness:
    """What one site says of the newest entry.

    Args:
        sequence: its number, ``None`` when the site has seen none.
        digest: of the entry.
        unknown: why it cannot be told, ``None`` when it can.
        refuses: that is not for want of an answer: its bucket is gone, or says no. Trying again does not help.
        key_entries: number and digest of the entries that set the keys that it keeps.
        other_keys: those of them that the repository did not have when it was read.
    """

    site: str
    sequence: int | None = None
    digest: str | None = None
    unknown: str | None = None
    refuses: bool = False
    key_entries: frozenset[tuple[int, str]] = field(default=frozenset(), repr=False)
    other_keys: tuple[LogEntry, ...] = field(default=(), repr=False)

    def is_ahead_of(self, number: int) -> bool:
        """Whether it saw something after this entry."""
        return max((self.sequence or 0, *(entry.sequence for entry in self.other_keys))) > number


def write_witness(
    stores: Mapping[str, ObjectStore],
    secrets: Secrets,
    entry: LogEntry,
    *,
    key_entries: Iterable[LogEntry] = (),
    known: Iterable[Witness] = (),
) -> dict[str, str | None]:
    """Have every site witness an entry.

    Args:
        key_entries: all that set the keys so far; a site that lacks one gets it.
        known: what the sites said before.

    Returns:
        By site, ``None`` or why it could not be written: an entry is not undone for it.
    """
    fields = {
        "format": FORMAT,
        "repository": secrets.repository.hex(),
        "sequence": entry.sequence,
        "digest": entry.digest,
        "signer": b64(secrets.verifier),
    }
    data = canonical({**fields, "signature": b64(secrets.sign(_SIGNED + canonical(fields)))})
    has = {witness.site: witness.key_entries for witness in known}
    told: dict[str, str | None] = {}
    for site, store in stores.items():
        try:
            for one in key_entries:
                if (one.sequence, one.digest) not in has.get(site, frozenset()):
                    key = layout.witness_keys_key(secrets.repository, one.sequence, one.digest)
                    create_or_read(store, key, one.data)
            found = create_or_read(store, layout.witness_key(secrets.repository, entry.sequence), data)
            told[site] = None if _digest_of(found) == entry.digest else "it has witnessed another entry of this number"
        except ObjectStoreError as error:
            told[site] = str(error)
    return told


def _digest_of(data: bytes) -> object:
    try:
        return read_canonical(data).get("digest")
    except ValueError:
        return None


def read_witness(site: str, store: ObjectStore, history: History) -> Witness:
    """The newest entry a site has witnessed. What was not signed by one of the repository's keys is passed over."""
    try:
        found = [info.key for info in store.list(layout.witness_prefix(history.repository))]
        named = (layout.witnessed_keys(history.repository, key) for key in found)
        kept = frozenset(one for one in named if one is not None)
        others = _other_keys(store, history, kept)
        numbers = sorted((number for number in map(layout.sequence_of, found) if number is not None), reverse=True)
        for number in numbers:
            read = _read(store, history, number)
            if read is not None:
                return Witness(site, read.sequence, read.digest, key_entries=kept, other_keys=others)
        return Witness(site, key_entries=kept, other_keys=others)
    except ObjectStoreError as error:
        return Witness(site, unknown=str(error), refuses=not error.transient)


def _read(store: ObjectStore, history: History, number: int) -> WitnessForm | None:
    try:
        found = read_canonical(
            store.get(layout.witness_key(history.repository, number), byte_range=ByteRange(0, _MOST_BYTES))
        )
        read = WitnessForm.model_validate(found)
    except (ValueError, ObjectNotFound):
        return None
    signer = unb64(read.signer)
    if signer not in history.keys.signers or read.sequence != number or read.repository != history.repository.hex():
        return None
    signed = _SIGNED + canonical({name: value for name, value in found.items() if name != "signature"})
    return read if is_signed(signer, unb64(read.signature), signed) else None


def _other_keys(store: ObjectStore, history: History, kept: Iterable[tuple[int, str]]) -> tuple[LogEntry, ...]:
    """What a site keeps of the keys and the history has not; whether an administrator signed it is not looked at."""
    ours = {(entry.sequence, entry.digest) for entry in history.key_entries}
    found: list[LogEntry] = []
    for number, digest in sorted(set(kept) - ours):
        key = layout.witness_keys_key(history.repository, number, digest)
        try:
            entry = parse_entry(get_bounded(store, key), f"{store.name}: {key}", repository=history.repository)
        except (HistoryDamaged, ObjectNotFound):
            continue
        if (entry.sequence, entry.digest) == (number, digest):
            found.append(entry)
    return tuple(found)


def _keys_ahead(history: History, witness: Witness) -> LogEntry | None:
    """A change of the keys it keeps that was an administrator's, and is none of the repository's."""
    ours = {entry.digest for entry in history.key_entries}
    for entry in witness.other_keys:
        before = [one for one in history.key_entries if one.sequence < entry.sequence]
        if entry.digest in ours or not before:
            continue
        with suppress(HistoryDamaged):
            next_keys(keys_after(before), entry)
            return entry
    return None


def ask_witnesses(history: History, witnesses: Mapping[str, ObjectStore]) -> tuple[Witness, ...]:
    """What every site says."""
    return tuple(read_witness(site, witness, history) for site, witness in witnesses.items())


def check_witnesses(store: ObjectStore, history: History, told: Iterable[Witness]) -> None:
    """Compare the repository with what its witnesses saw.

    Args:
        history: read after the witnesses were asked: whatever they saw was in the log before.

    Raises:
        RolledBack: a witness saw a newer entry, or another one of the same number, or other keys.
    """
    for witness in told:
        ahead = _keys_ahead(history, witness)
        if ahead is not None:
            raise RolledBack(
                "the repository's keys are not those that were witnessed",
                where=f"{store.name}: entry {ahead.sequence}",
                expected=f"the keys that an administrator set in it, which {witness.site} witnessed",
                found=f"those of entry {history.keys_at.sequence}",
                fix="Somebody brought back keys that were replaced. Nothing was written; compare with a mirror",
            )
        if witness.sequence is None:
            continue
        if witness.sequence > history.tip.sequence:
            raise RolledBack(
                "the repository's newest entries are gone",
                where=store.name,
                expected=f"entry {witness.sequence}, which {witness.site} witnessed",
                found=f"entry {history.tip.sequence} as the newest",
                fix="Somebody removed backups or put an older state back; nothing was written. "
                "Put the entries back from a mirror with `holdfast vault verify --repair`",
            )
        found = _digest_at(store, history, witness.sequence, str(witness.digest))
        if found is not None and found != witness.digest:
            raise RolledBack(
                "the repository's log is not the one that was witnessed",
                where=f"{store.name}: entry {witness.sequence}",
                expected=f"{witness.digest}, which {witness.site} witnessed",
                found=found,
                fix="Somebody put another history in its place. Nothing was written; compare with a mirror",
            )


def _digest_at(store: ObjectStore, history: History, number: int, witnessed: str) -> str | None:
    """Of the entry the history has where a site witnessed one; ``None``: an anchor took its place."""
    for entry in (*history.recent, *history.key_entries, *history.backups.values()):
        if entry.sequence == number:
            return entry.digest
    if number < history.anchor_at:
        return None
    try:
        return read_entry(store, number, history.repository, digest=witnessed).digest
    except HistoryDamaged as damaged:
        return damaged.found or "nothing"
