"""Append to the log: only who has read every entry before may, and who was too late learns it."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from typing import Any

from holdfast.clock import Clock
from holdfast.engine.objectstore.interface import ObjectStore
from holdfast.engine.snapshot.once import create_or_read
from holdfast.engine.vault import layout
from holdfast.engine.vault.errors import HistoryDamaged, NotEntitled, Outdated, UnknownFormat, VaultExists
from holdfast.engine.vault.history import load_history
from holdfast.engine.vault.keys import Keys
from holdfast.engine.vault.log import (
    FARTHEST,
    LogEntry,
    check_follows,
    make_entry,
    may_write,
    parse_entry,
    read_entry,
    sequences,
)
from holdfast.engine.vault.secrets import Secrets, verifier_of


def append(
    store: ObjectStore,
    secrets: Secrets,
    kind: str,
    *,
    clock: Clock,
    tip: LogEntry | None,
    signers: Mapping[bytes, str] | None,
    describe: Callable[[LogEntry | None], tuple[Mapping[str, Any], Mapping[str, Any] | None]],
    seen: Callable[[LogEntry], None] = lambda _entry: None,
) -> LogEntry:
    """Write the next entry.

    Where somebody else was first, his entry is read, told to ``seen`` (which may raise and so end it), and the next
    number is tried with a new description. What is no entry is passed over.

    Args:
        tip: the newest entry the caller knows, ``None`` to begin a log.
        signers: who may sign as of that entry, by public key the role.
        describe: given the entry it will follow, its public part and its body.
        seen: told of each entry the caller does not know yet.

    Raises:
        StoreUnavailable: it is not known whether it was written; the same ``write_id`` is never written twice.
        Outdated: what the caller knew is too old to append to.
        NotEntitled: these keys may not write it, or were replaced.
        VaultExists: a log is there already.
    """
    write_id = uuid.uuid4().hex
    sequence = 1 if tip is None else tip.sequence + 1
    while True:
        if signers is not None:
            check_current(secrets, signers, store.name)
        if tip is not None and sequence > tip.sequence + FARTHEST:
            raise HistoryDamaged(
                "the log was filled with what is no entry",
                where=f"{store.name}: {layout.LOG}",
                expected=f"fewer than {FARTHEST} such objects one after the other",
                found=f"no free number up to {sequence}",
                fix="Remove those objects, or mirror the vault to another place without them",
            )
        public, body = describe(tip)
        data = make_entry(
            secrets,
            sequence=sequence,
            previous=None if tip is None else tip.digest,
            kind=kind,
            created_at=clock.now(),
            write_id=write_id,
            public=public,
            body=body,
        )
        key = layout.entry_key(sequence)
        found = create_or_read(store, key, data, content_type="application/json")
        if found == data:
            entry = parse_entry(data, f"{store.name}: {key}", repository=secrets.repository)
            _check_it_counts(store, secrets, entry)
            create_or_read(store, layout.entry_copy_key(sequence), data, content_type="application/json")
            return entry
        if tip is None or signers is None:
            raise VaultExists(
                "there is a vault here already, or something else at its place",
                where=f"{store.name}: {key}",
                fix="Use it, or name another site or prefix",
            )
        other = _entry_of_somebody(store, sequence, secrets.repository, signers)
        if other is not None:
            check_follows(other, tip, store.name)
            seen(other)
            tip = other
            if other.kind == "keys":
                signers = Keys.from_public(other.public["keys"]).signers
        sequence += 1


def check_current(secrets: Secrets, signers: Mapping[bytes, str], name: str) -> None:
    """Raises NotEntitled: the keys these secrets sign with were replaced."""
    if secrets.signing is not None and signers.get(verifier_of(secrets.signing)) != secrets.role:
        raise NotEntitled(
            f"the {secrets.role}'s keys were replaced",
            where=name,
            expected=f"a key that signs for the {secrets.role} now",
            found="one that does no more",
            fix="Unlock the vault again",
        )


def _entry_of_somebody(
    store: ObjectStore, number: int, repository: bytes, signers: Mapping[bytes, str]
) -> LogEntry | None:
    """The entry that has this number; ``None``: what lies there is none."""
    try:
        entry = read_entry(store, number, repository)
    except UnknownFormat as unknown:
        if unknown.signer in signers:
            raise
        return None
    except HistoryDamaged:
        return None
    return entry if may_write(signers, entry) else None


def _check_it_counts(store: ObjectStore, secrets: Secrets, entry: LogEntry) -> None:
    """That an entry just written is one of the log, and does not fill a hole that a collection left.

    Old entries are removed once a newer one has taken their place. A writer that slept through that finds its number
    free again; but then there are newer entries that do not follow its own, and nobody will ever believe it.

    Raises Outdated.
    """
    if entry.kind == "init" or not sequences(store, after=entry.sequence):
        return
    try:
        history = load_history(store, secrets, hinted=False)
        if any(one.digest == entry.digest for one in history.since_anchor) or _reaches_back(
            store, history.since_anchor[0], entry
        ):
            return
        found = f"entry {history.tip.sequence}"
    except HistoryDamaged as damaged:
        found = str(damaged)
    raise Outdated(
        "the log went on and was shortened while this ran: its entry came too late and counts for nothing",
        where=f"{store.name}: entry {entry.sequence}",
        expected="no newer entry that does not follow it",
        found=found,
        fix="Run it again",
    )


def _reaches_back(store: ObjectStore, anchor: LogEntry, entry: LogEntry) -> bool:
    """Whether an anchor follows an entry, by the digests of those between."""
    if anchor.sequence <= entry.sequence:
        return False
    wanted = anchor.previous
    for number in reversed(sequences(store, after=entry.sequence - 1)):
        if number >= anchor.sequence:
            continue
        try:
            between = read_entry(store, number)
        except HistoryDamaged:
            continue
        if between.digest == wanted:
            if between.digest == entry.digest:
                return True
            wanted = between.previous
    return False
