"""The log: numbered, signed, hash-chained entries, one per change of the repository.

``log/<n>.json`` is written create-only after everything it names. Whoever appends must have read every entry before it,
so two changes are never made without one knowing of the other: a backup that reused a pack that was collected meanwhile
learns it when its entry does not fit, whatever any clock says.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from holdfast.clock import Clock
from holdfast.engine.objectstore.errors import ObjectNotFound
from holdfast.engine.objectstore.interface import ObjectStore
from holdfast.engine.snapshot.documents import canonical, iso_utc
from holdfast.engine.snapshot.once import create_or_read
from holdfast.engine.vault import layout
from holdfast.engine.vault.crypto import seal, unseal
from holdfast.engine.vault.errors import Damaged, HistoryDamaged, NotEntitled, Outdated, RolledBack
from holdfast.engine.vault.secrets import Secrets, b64, unb64, verifier_of

FORMAT = "holdfast.vault.log/1"
BODY_KIND = b"E"
#: What each kind of entry takes: the roles that may sign it.
KINDS: Mapping[str, tuple[str, ...]] = {
    "init": ("admin",),
    "keys": ("admin",),
    "backup": ("writer", "admin"),
    "hold": ("admin",),
    "forget": ("admin",),
    "collect": ("admin",),
}
_FIELDS = ("format", "repository", "sequence", "previous", "kind", "created_at", "write_id", "public", "body", "signer")


@dataclass(frozen=True)
class LogEntry:
    """One entry as it was read.

    Args:
        previous: digest of the entry before it, ``None`` for the first.
        public: what anybody may know; its fields depend on the kind.
        body: sealed with the metadata key, ``None`` where there is none.
        signer: the Ed25519 public key that signed it.
        digest: SHA-256 of its bytes, as the next entry and the witnesses name it.
    """

    sequence: int
    previous: str | None
    kind: str
    created_at: datetime
    write_id: str
    public: Mapping[str, Any]
    body: bytes | None
    signer: bytes
    digest: str
    data: bytes

    def open_body(self, secrets: Secrets) -> dict[str, Any]:
        """What only those with the metadata key know. Raises Damaged, WrongKey."""
        if self.body is None:
            return {}
        where = f"entry {self.sequence} of the log"
        found: dict[str, Any] = json.loads(
            unseal(secrets.metadata_key, BODY_KIND, secrets.repository, self.body, where)
        )
        return found


def digest_of_entry(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def parse_entry(data: bytes, where: str, *, repository: bytes | None = None) -> LogEntry:
    """Read an entry and check its form and signature, not yet whether its signer might write it.

    Raises:
        HistoryDamaged: it is no entry of this format and repository, or was changed after it was signed.
    """
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    def wrong(what: str, expected: str, found: str) -> HistoryDamaged:
        return HistoryDamaged(
            what,
            where=where,
            expected=expected,
            found=found,
            fix="`holdfast vault verify` compares the copies, the mirrors and the witnesses",
        )

    try:
        found = json.loads(data)
        signature = unb64(found["signature"])
        signer = unb64(found["signer"])
        signed = {name: found[name] for name in _FIELDS}
        if set(found) != {*_FIELDS, "signature"}:
            raise ValueError(f"fields {sorted(set(found) - {*_FIELDS, 'signature'})}")
        body = None if found["body"] is None else unb64(found["body"])
        created_at = datetime.fromisoformat(found["created_at"])
        sequence, kind = int(found["sequence"]), str(found["kind"])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise wrong("the entry cannot be read", f"JSON of {FORMAT}", f"{type(error).__name__}: {error}") from None
    if found["format"] != FORMAT:
        raise wrong("the entry is of another format", FORMAT, str(found["format"]))
    if repository is not None and found["repository"] != repository.hex():
        raise wrong("the entry is another repository's", repository.hex(), str(found["repository"]))
    try:
        Ed25519PublicKey.from_public_bytes(signer).verify(signature, canonical(signed))
    except (InvalidSignature, ValueError):
        raise wrong("the entry was changed after it was signed", "a valid signature", "another") from None
    return LogEntry(
        sequence=sequence,
        previous=found["previous"],
        kind=kind,
        created_at=created_at,
        write_id=found["write_id"],
        public=found["public"],
        body=body,
        signer=signer,
        digest=digest_of_entry(data),
        data=data,
    )


def make_entry(
    secrets: Secrets,
    *,
    sequence: int,
    previous: str | None,
    kind: str,
    created_at: datetime,
    write_id: str,
    public: Mapping[str, Any],
    body: Mapping[str, Any] | None,
) -> bytes:
    """A signed entry's bytes.

    Raises:
        NotEntitled: these secrets' role may not sign an entry of this kind.
    """
    signer = secrets.signer
    if signer is None or secrets.signing is None or secrets.role not in KINDS[kind]:
        raise NotEntitled(
            f"these keys may not write a `{kind}` entry",
            expected=f"the keys of {' or '.join(KINDS[kind])}",
            found=f"the keys of a {secrets.role}",
            fix="Unlock the vault with a recipient of that key set",
        )
    sealed = None if body is None else seal(secrets.metadata_key, BODY_KIND, secrets.repository, canonical(dict(body)))
    fields = {
        "format": FORMAT,
        "repository": secrets.repository.hex(),
        "sequence": sequence,
        "previous": previous,
        "kind": kind,
        "created_at": iso_utc(created_at),
        "write_id": write_id,
        "public": dict(public),
        "body": None if sealed is None else b64(sealed),
        "signer": b64(verifier_of(secrets.signing)),
    }
    return canonical({**fields, "signature": b64(signer.sign(canonical(fields)))})


def read_entry(
    store: ObjectStore, sequence: int, repository: bytes | None = None, *, digest: str | None = None
) -> LogEntry:
    """One entry, from its copy where the first is gone, damaged or another than the one wanted.

    Args:
        digest: of the entry that must lie there, where it is known.

    Raises:
        HistoryDamaged: neither can be used.
    """
    error: Damaged | None = None
    for key in (layout.entry_key(sequence), layout.entry_copy_key(sequence)):
        where = f"{store.name}: {key}"
        try:
            entry = parse_entry(store.get(key), where, repository=repository)
        except HistoryDamaged as damaged:
            error = error or damaged
            continue
        except ObjectNotFound:
            continue
        if entry.sequence != sequence:
            error = error or HistoryDamaged(
                "the entry lies at another's place", where=where, expected=str(sequence), found=str(entry.sequence)
            )
        elif digest is not None and entry.digest != digest:
            error = error or HistoryDamaged(
                "an entry of the log was replaced",
                where=where,
                expected=digest,
                found=entry.digest,
                fix="Put it back from a mirror: `holdfast vault verify --repair`",
            )
        else:
            return entry
    raise error or missing_entry(store, sequence)


def missing_entry(store: ObjectStore, sequence: int) -> HistoryDamaged:
    """The error where an entry that counts is not there."""
    return HistoryDamaged(
        "an entry of the log is missing",
        where=f"{store.name}: {layout.entry_key(sequence)}",
        expected=f"entry {sequence} or its copy",
        found="neither",
        fix="Somebody removed it: put it back from a mirror with `holdfast vault verify --repair`",
    )


def sequences(store: ObjectStore, *, after: int = 0) -> list[int]:
    """The numbers of the entries that are there, copies counted, in order."""
    return sorted({*_listed(store, layout.LOG, after), *_listed(store, layout.LOG_COPIES, after)})


def _listed(store: ObjectStore, prefix: str, after: int) -> set[int]:
    key = f"{prefix}{after:012d}.json" if after else None
    numbers = (layout.sequence_of(info.key) for info in store.list(prefix, start_after=key))
    return {number for number in numbers if number is not None and number > after}


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
    those of whoever takes the number before it does.

    Args:
        tip: the newest entry the caller knows.
        describe: given the entry it will follow, its public part and its body.
        seen: told of each entry the caller does not know yet, in order.
        signers: who may sign as of ``tip``: an entry nobody will believe is not written.

    Raises:
        StoreUnavailable: it is not known whether it was written; the same ``write_id`` is never written twice.
        Outdated: what the caller knew is too old to append to.
        RolledBack: what the caller knew is there no more, and nothing newer.
        NotEntitled: the keys were changed meanwhile, and these sign no more.
    """
    write_id = uuid.uuid4().hex
    refused = False
    while True:
        before = tip
        tip, signers = _catch_up(store, secrets, tip, seen, signers)
        if refused and tip is before:
            raise _outdated(store, "an entry in the way that no listing shows")
        _check_may_sign(secrets, kind, signers, store.name)
        public, body = describe(tip)
        sequence = 1 if tip is None else tip.sequence + 1
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
            _check_newest(store, entry)
            create_or_read(store, layout.entry_copy_key(sequence), data, content_type="application/json")
            return entry
        refused = True


def _catch_up(
    store: ObjectStore,
    secrets: Secrets,
    tip: LogEntry | None,
    seen: Callable[[LogEntry], None],
    signers: Mapping[bytes, str] | None,
) -> tuple[LogEntry | None, Mapping[bytes, str] | None]:
    """Read what was written since ``tip``; give the new tip, with both its copies there, and who may sign after it."""
    known = tip.sequence if tip is not None else 0
    after = max(known - 1, 0)
    first, copies = _listed(store, layout.LOG, after), _listed(store, layout.LOG_COPIES, after)
    newer = sorted(number for number in first | copies if number > known)
    if tip is not None and known not in first | copies:
        if newer:
            raise _outdated(store, f"entry {newer[-1]}, and entry {known} removed")
        raise RolledBack(
            "the newest entry this knew is gone",
            where=f"{store.name}: {layout.entry_key(known)}",
            expected=tip.digest,
            found="neither it nor a newer one",
            fix="Somebody removed it, or put an older state back; nothing was written. "
            "Put the entries back from a mirror with `holdfast vault verify --repair`",
        )
    for number in newer:
        if number != known + 1:
            raise _outdated(store, f"entry {newer[-1]}, and entry {known + 1} removed")
        entry = read_entry(store, number, None if tip is None else secrets.repository)  # to init: somebody else's
        if entry.previous != (None if tip is None else tip.digest):
            raise _outdated(store, f"entry {number}, which follows another")
        seen(entry)
        if entry.kind == "keys":
            signers = {unb64(key): role for key, role in entry.public["keys"]["signers"]}
        tip, known = entry, number
    if tip is not None:
        for there, key in ((first, layout.entry_key(known)), (copies, layout.entry_copy_key(known))):
            if known not in there:
                create_or_read(store, key, tip.data, content_type="application/json")
    return tip, signers


def _check_may_sign(secrets: Secrets, kind: str, signers: Mapping[bytes, str] | None, name: str) -> None:
    if signers is None or secrets.signing is None:
        return
    role = signers.get(verifier_of(secrets.signing))
    if role is None or role not in KINDS[kind]:
        raise NotEntitled(
            "the repository's keys were changed: these sign no entry any more",
            where=name,
            expected=f"the keys of {' or '.join(KINDS[kind])} as they are now",
            found=f"those of a {secrets.role} as they were",
            fix="Unlock the vault again; nothing was written",
        )


def _check_newest(store: ObjectStore, entry: LogEntry) -> None:
    """That an entry just written is one of the log, and does not fill a hole that a collection left.

    Old entries are removed once a newer one has taken their place. A writer that slept through that finds its number
    free again; but then there are newer entries that do not follow its own, and nobody will ever believe it.

    Raises Outdated.
    """
    newer = sequences(store, after=entry.sequence)
    if not newer:
        return
    if newer[0] == entry.sequence + 1 and read_entry(store, newer[0]).previous == entry.digest:
        return
    raise _outdated(store, f"entry {newer[-1]}; entry {entry.sequence} came too late and counts for nothing")


def _outdated(store: ObjectStore, found: str) -> Outdated:
    return Outdated(
        "the log went on and was shortened while this ran",
        where=store.name,
        expected="every entry since this began",
        found=found,
        fix="Run it again",
    )


def check_follows(entry: LogEntry, tip: LogEntry | None, name: str) -> None:
    """Raises HistoryDamaged: it does not chain to the entry before it."""
    if entry.previous != (None if tip is None else tip.digest):
        raise forked(entry, tip, name)


def forked(entry: LogEntry, tip: LogEntry | None, name: str) -> HistoryDamaged:
    """The error where an entry does not chain to the one before it."""
    return HistoryDamaged(
        "the log is forked: an entry does not follow the one before it",
        where=f"{name}: entry {entry.sequence}",
        expected=f"previous {None if tip is None else tip.digest}",
        found=str(entry.previous),
        fix="An entry was replaced. `holdfast vault verify` says which, against the witnesses and mirrors",
    )
