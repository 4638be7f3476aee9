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
from holdfast.engine.vault.errors import Damaged, HistoryDamaged, NotEntitled, Outdated
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
    except (ValueError, KeyError, TypeError, AttributeError) as error:
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


def read_entry(store: ObjectStore, sequence: int, repository: bytes | None = None) -> LogEntry:
    """One entry, from its copy where the first is gone or damaged.

    Raises:
        HistoryDamaged: neither can be used.
    """
    error: Damaged | None = None
    for key in (layout.entry_key(sequence), layout.entry_copy_key(sequence)):
        where = f"{store.name}: {key}"
        try:
            entry = parse_entry(store.get(key), where, repository=repository)
            if entry.sequence == sequence:
                return entry
            error = error or HistoryDamaged(
                "the entry lies at another's place", where=where, expected=str(sequence), found=str(entry.sequence)
            )
        except HistoryDamaged as damaged:
            error = error or damaged
        except ObjectNotFound:
            continue
    raise error or HistoryDamaged(
        "an entry of the log is missing",
        where=f"{store.name}: {layout.entry_key(sequence)}",
        expected=f"entry {sequence} or its copy",
        found="nothing",
        fix="Somebody removed it: see `holdfast vault verify`, and restore it from a mirror",
    )


def sequences(store: ObjectStore, *, after: int = 0) -> list[int]:
    """The numbers of the entries that are there, copies counted, in order."""
    found: set[int] = set()
    for prefix, key in ((layout.LOG, layout.entry_key(after)), (layout.LOG_COPIES, layout.entry_copy_key(after))):
        for info in store.list(prefix, start_after=key if after else None):
            number = layout.sequence_of(info.key)
            if number is not None and number > after:
                found.add(number)
    return sorted(found)


def append(
    store: ObjectStore,
    secrets: Secrets,
    kind: str,
    *,
    clock: Clock,
    tip: LogEntry | None,
    describe: Callable[[LogEntry | None], tuple[Mapping[str, Any], Mapping[str, Any] | None]],
    seen: Callable[[LogEntry], None] = lambda _entry: None,
) -> LogEntry:
    """Write the next entry.

    Where somebody else was first, his entry is read, told to ``seen`` (which may raise and so end it), and the next
    number is tried with a new description.

    Args:
        tip: the newest entry the caller knows.
        describe: given the entry it will follow, its public part and its body.
        seen: told of each entry the caller does not know yet.

    Raises:
        StoreUnavailable: it is not known whether it was written; the same ``write_id`` is never written twice.
        Outdated: what the caller knew is too old to append to.
    """
    write_id = uuid.uuid4().hex
    while True:
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
        found = create_or_read(store, layout.entry_key(sequence), data, content_type="application/json")
        repository = None if kind == "init" else secrets.repository
        entry = parse_entry(found, f"{store.name}: {layout.entry_key(sequence)}", repository=repository)
        if entry.write_id == write_id:
            _check_newest(store, entry)
            create_or_read(store, layout.entry_copy_key(sequence), found, content_type="application/json")
            return entry
        check_follows(entry, tip, store.name)
        seen(entry)
        tip = entry


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
    raise Outdated(
        "the log went on and was shortened while this ran: its entry came too late and counts for nothing",
        where=f"{store.name}: entry {entry.sequence}",
        expected="no newer entry",
        found=f"entry {newer[-1]}",
        fix="Run it again",
    )


def check_follows(entry: LogEntry, tip: LogEntry | None, name: str) -> None:
    """Raises HistoryDamaged: it does not chain to the entry before it."""
    previous = None if tip is None else tip.digest
    if entry.previous != previous:
        raise HistoryDamaged(
            "the log is forked: an entry does not follow the one before it",
            where=f"{name}: entry {entry.sequence}",
            expected=f"previous {previous}",
            found=str(entry.previous),
            fix="An entry was replaced. `holdfast vault verify` says which, against the witnesses and mirrors",
        )
