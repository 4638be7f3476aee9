"""Append to the log: only who has read every entry before may, and who was too late learns it."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from typing import Any

from holdfast.clock import Clock
from holdfast.engine.objectstore.interface import ObjectStore
from holdfast.engine.snapshot.once import create_or_read
from holdfast.engine.vault import layout
from holdfast.engine.vault.errors import (
    HistoryDamaged,
    NotEntitled,
    Outdated,
    RolledBack,
    UnknownFormat,
    VaultExists,
)
from holdfast.engine.vault.history import load_history
from holdfast.engine.vault.keys import Keys
from holdfast.engine.vault.log import (
    FARTHEST,
    LogEntry,
    is_a_leap,
    listed,
    make_entry,
    may_write,
    parse_entry,
    read_entry,
    sequences,
)
from holdfast.engine.vault.secrets import Secrets


def append(
    store: ObjectStore,
    secrets: Secrets,
    kind: str,
    *,
    clock: Clock,
    tip: LogEntry | None,
    describe: Callable[[LogEntry | None], tuple[Mapping[str, Any], Mapping[str, Any] | None]],
    seen: Callable[[LogEntry], None] = lambda _entry: None,
    signers: Mapping[bytes, str] | None = None,
) -> LogEntry:
    """Write the next entry.

    Entries the caller does not know yet are read first, and told to ``seen`` (which may raise and so end it). So are
    those of whoever takes the number before it does. What is no entry is passed over.

    Args:
        tip: the newest entry the caller knows, ``None`` to begin a log.
        describe: given the entry it will follow, its public part and its body.
        seen: told of each entry the caller does not know yet, in order.
        signers: who may sign as of ``tip``: an entry nobody will believe is not written.

    Raises:
        StoreUnavailable: it is not known whether it was written; the same ``write_id`` is never written twice.
        Outdated: what the caller knew is too old to append to.
        RolledBack: what the caller knew is there no more, and nothing newer.
        NotEntitled: these keys may not write it, or were replaced.
        VaultExists: a log is there already.
    """
    write_id = uuid.uuid4().hex
    signers = signers or {}
    refused = False
    while True:
        before = tip
        tip, signers, free = _catch_up(store, secrets, tip, seen, signers)
        if refused and tip is before:
            raise _outdated(store, "an entry in the way that no listing shows")
        if tip is not None:
            check_current(secrets, signers, store.name)
        public, body = describe(tip)
        data = make_entry(
            secrets,
            sequence=free,
            previous=None if tip is None else tip.digest,
            kind=kind,
            created_at=clock.now(),
            write_id=write_id,
            public=public,
            body=body,
        )
        key = layout.entry_key(free)
        found = create_or_read(store, key, data, content_type="application/json", at_most=len(data) + 1)
        if found == data:
            entry = parse_entry(data, f"{store.name}: {key}", repository=secrets.repository)
            _check_it_counts(store, secrets, entry)
            create_or_read(
                store, layout.entry_copy_key(free), data, content_type="application/json", at_most=len(data) + 1
            )
            return entry
        refused = True


def check_current(secrets: Secrets, signers: Mapping[bytes, str], name: str) -> None:
    """Raises NotEntitled: the keys these secrets sign with were replaced."""
    if secrets.signing is not None and signers.get(secrets.verifier) != secrets.role:
        raise NotEntitled(
            "the repository's keys were changed: these sign no entry any more",
            where=name,
            expected=f"a key that signs for the {secrets.role} now",
            found="one that does no more",
            fix="Unlock the vault again; nothing was written",
        )


def _catch_up(
    store: ObjectStore,
    secrets: Secrets,
    tip: LogEntry | None,
    seen: Callable[[LogEntry], None],
    signers: Mapping[bytes, str],
) -> tuple[LogEntry | None, Mapping[bytes, str], int]:
    """Read what was written since ``tip``.

    Returns:
        The new tip, with both its copies there; who may sign after it; and the number of the next entry.
    """
    if tip is None:
        refuse_existing(store)
        return None, signers, 1
    after = max(tip.sequence - 1, 0)
    first, copies = listed(store, layout.LOG, after), listed(store, layout.LOG_COPIES, after)
    newer = sorted(number for number in first | copies if number > tip.sequence)
    if tip.sequence not in first | copies:
        raise _gone(store, tip, newer)
    for number in newer:
        entry = _entry_of_somebody(store, number, secrets.repository, signers)
        if entry is None or is_a_leap(entry, tip):
            continue
        if entry.previous != tip.digest:
            raise _outdated(store, f"entry {number}, which follows another")
        seen(entry)
        if entry.kind == "keys":
            signers = Keys.from_public(entry.public["keys"]).signers
        tip = entry
    known = tip.sequence
    for there, key in ((first, layout.entry_key(known)), (copies, layout.entry_copy_key(known))):
        if known not in there:
            create_or_read(store, key, tip.data, content_type="application/json", at_most=1)
    return tip, signers, _free(store, known, first)


def refuse_existing(store: ObjectStore) -> None:
    """Raises VaultExists: there is a log, of whatever state."""
    there = sequences(store)
    if there:
        raise VaultExists(
            "there is a vault here already, or something else at its place",
            where=store.name,
            expected="nothing below log/",
            found=f"{len(there)} objects",
            fix="Use it, or name another site or prefix",
        )


def _gone(store: ObjectStore, tip: LogEntry, newer: list[int]) -> Outdated | RolledBack:
    if newer:
        return _outdated(store, f"entry {newer[-1]}, and entry {tip.sequence} removed")
    return RolledBack(
        "the newest entry this knew is gone",
        where=f"{store.name}: {layout.entry_key(tip.sequence)}",
        expected=tip.digest,
        found="neither it nor a newer one",
        fix="Somebody removed it, or put an older state back; nothing was written. "
        "Put the entries back from a mirror with `holdfast vault verify --repair`",
    )


def _free(store: ObjectStore, known: int, taken: set[int]) -> int:
    free = known + 1
    while free in taken:
        free += 1
    if free > known + FARTHEST:
        raise HistoryDamaged(
            "the log was filled with what is no entry",
            where=f"{store.name}: {layout.LOG}",
            expected=f"fewer than {FARTHEST} such objects one after the other",
            found=f"no free number up to {free}",
            fix="Remove those objects, or mirror the vault to another place",
        )
    return free


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
    if not sequences(store, after=entry.sequence):
        return
    try:
        history = load_history(store, secrets, hinted=False)
    except HistoryDamaged as damaged:
        raise _outdated(store, str(damaged)) from None
    if any(one.digest == entry.digest for one in history.recent) or _reaches_back(store, history.recent[0], entry):
        return
    raise _outdated(store, f"entry {history.tip.sequence}; entry {entry.sequence} came too late and counts for nothing")


def _outdated(store: ObjectStore, found: str) -> Outdated:
    return Outdated(
        "the log went on and was shortened while this ran",
        where=store.name,
        expected="every entry since this began",
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
