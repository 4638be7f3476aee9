"""The log: numbered, signed, hash-chained entries, one per change of the repository.

``log/<n>.json`` is written create-only after everything it names. Whoever appends must have read every entry before it
(`append`), so two changes are never made without one knowing of the other: a backup that reused a pack that was
collected meanwhile learns it when its entry does not fit, whatever any clock says.

An object at a number that is no entry counts for nothing and hinders nobody: who may put objects into the bucket, or
has a key that was replaced, can fill the log with rubbish, and it is passed over.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Any

from pydantic import ValidationError

from holdfast.engine.objectstore.errors import ObjectNotFound
from holdfast.engine.objectstore.interface import ByteRange, ObjectStore
from holdfast.engine.snapshot.documents import canonical, iso_utc
from holdfast.engine.vault import layout
from holdfast.engine.vault.crypto import seal, unseal
from holdfast.engine.vault.entries import BODIES, LAST_NUMBER, EntryForm, read_canonical
from holdfast.engine.vault.errors import Damaged, HistoryDamaged, NotEntitled, UnknownFormat
from holdfast.engine.vault.secrets import Secrets, b64, unb64
from holdfast.errors import ConfigError

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
#: An entry's number is at most so far from the one before it: between the two lies only what is no entry.
FARTHEST = 1_000_000
#: Nothing larger is an entry: no more of it is read.
MOST_BYTES = 64 * 1024 * 1024
_LATER = re.compile(r"^holdfast\.vault\.log/[0-9]{1,4}\Z")
_SIGNED = b"holdfast vault 1|log entry|"


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
    repository: bytes

    def open_body(self, secrets: Secrets) -> dict[str, Any]:
        """What only those with the metadata key know. Raises Damaged, WrongKey."""
        if self.body is None:
            return {}
        where = f"entry {self.sequence} of the log"
        plain = unseal(secrets.metadata_key, BODY_KIND, secrets.repository, self.body, where)
        try:
            found = read_canonical(plain)
            BODIES[self.kind].validate_python(found)
        except ValueError as error:
            raise Damaged(
                "an entry's body says what none may say",
                where=where,
                expected=f"the body of a `{self.kind}` entry",
                found=_brief(error),
                fix="Its writer is broken, or somebody has its keys; forget this backup by its entry",
            ) from None
        return found


def digest_of_entry(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def parse_entry(data: bytes, where: str, *, repository: bytes | None = None) -> LogEntry:
    """Read an entry and check its form and signature, not yet whether its signer might write it.

    Raises:
        HistoryDamaged: it is no entry of this format and repository, or was changed after it was signed.
    """
    entry = _parsed(data, where)
    if repository is not None and entry.repository != repository:
        raise _wrong("the entry is another repository's", where, repository.hex(), entry.repository.hex())
    return entry


def _wrong(what: str, where: str, expected: str, found: str) -> HistoryDamaged:
    return HistoryDamaged(
        what,
        where=where,
        expected=expected,
        found=found,
        fix="`holdfast vault verify` compares the copies, the mirrors and the witnesses",
    )


@lru_cache(maxsize=2048)
def _parsed(data: bytes, where: str) -> LogEntry:
    """What these bytes say. Whoever opens a vault, refreshes it and appends to it reads the same entries each time."""
    try:
        if len(data) > MOST_BYTES:
            raise ValueError(f"more than {MOST_BYTES} bytes")
        found = read_canonical(data)
        if found.get("format") != FORMAT:
            raise _of_another_format(found, where)
        EntryForm.model_validate(found)
    except ValueError as error:
        raise _wrong("the entry cannot be read", where, f"{FORMAT}", _brief(error)) from None
    signer = unb64(found["signer"])
    if not _is_signed_by(signer, found):
        raise _wrong("the entry was changed after it was signed", where, "a valid signature", "another")
    return LogEntry(
        sequence=found["sequence"],
        previous=found["previous"],
        kind=found["kind"],
        created_at=datetime.fromisoformat(found["created_at"]),
        write_id=found["write_id"],
        public=found["public"],
        body=None if found["body"] is None else unb64(found["body"]),
        signer=signer,
        digest=digest_of_entry(data),
        data=data,
        repository=bytes.fromhex(found["repository"]),
    )


def _of_another_format(found: Mapping[str, Any], where: str) -> HistoryDamaged:
    """Who signed an entry and for which repository lies in the same place in every format there will be."""
    try:
        signer, form = unb64(found["signer"]), str(found["format"])
        if _LATER.match(form) and _is_signed_by(signer, found):
            return UnknownFormat(signer, where=where, expected=FORMAT, found=form)
    except (ValueError, KeyError, TypeError):
        pass
    return HistoryDamaged("this is no entry of a log", where=where, expected=FORMAT)


def _is_signed_by(signer: bytes, found: Mapping[str, Any]) -> bool:
    signed = {name: value for name, value in found.items() if name != "signature"}
    return is_signed(signer, unb64(found["signature"]), _SIGNED + canonical(signed))


def is_signed(signer: bytes, signature: bytes, data: bytes) -> bool:
    """Whether an Ed25519 signature is this key's over these bytes."""
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        Ed25519PublicKey.from_public_bytes(signer).verify(signature, data)
    except (InvalidSignature, ValueError):
        return False
    return True


def _brief(error: ValueError) -> str:
    """What was wrong, without the values."""
    if isinstance(error, ValidationError):
        first = error.errors(include_input=False, include_url=False)[0]
        return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"[:300]
    return f"{type(error).__name__}: {error}"[:300]


def may_write(signers: Mapping[bytes, str], entry: LogEntry) -> bool:
    """Whether an entry's signer is one who may write one of its kind."""
    return signers.get(entry.signer) in KINDS[entry.kind]


def is_a_leap(entry: LogEntry, tip: LogEntry) -> bool:
    """It lies so far from the newest entry that the numbers would soon be used up: it counts for nothing."""
    return entry.sequence - tip.sequence > FARTHEST


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
    if sequence > LAST_NUMBER:
        raise HistoryDamaged("the log is full", expected=f"at most entry {LAST_NUMBER}", found=str(sequence))
    if secrets.signing is None or secrets.role not in KINDS[kind]:
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
        "signer": b64(secrets.verifier),
    }
    data = canonical({**fields, "signature": b64(secrets.sign(_SIGNED + canonical(fields)))})
    if len(data) > MOST_BYTES:
        raise ConfigError(
            "this would be too large for an entry of the log",
            expected=f"at most {MOST_BYTES} bytes",
            found=f"{len(data)} bytes",
            fix="Back up fewer objects at once",
        )
    return data


def get_bounded(store: ObjectStore, key: str) -> bytes:
    """An object of the log, or so much of it that it is seen to be none. Raises ObjectNotFound."""
    return store.get(key, byte_range=ByteRange(0, MOST_BYTES + 1))


def read_entry(
    store: ObjectStore, sequence: int, repository: bytes | None = None, *, digest: str | None = None
) -> LogEntry:
    """One entry, from its copy where the first is gone, damaged or another than the one wanted.

    Args:
        digest: of the entry that must lie there, where it is known.

    Raises:
        HistoryDamaged: neither can be used.
        UnknownFormat: it is of a later format.
    """
    error: HistoryDamaged | None = None
    for key in (layout.entry_key(sequence), layout.entry_copy_key(sequence)):
        where = f"{store.name}: {key}"
        try:
            entry = parse_entry(get_bounded(store, key), where, repository=repository)
        except HistoryDamaged as damaged:
            error = damaged if error is None or isinstance(damaged, UnknownFormat) else error
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


def listed(store: ObjectStore, prefix: str, after: int = 0) -> set[int]:
    """The numbers below `log/` or `log-copies/` at which something lies."""
    key = f"{prefix}{after:012d}.json" if after else None
    numbers = (layout.sequence_of(info.key) for info in store.list(prefix, start_after=key))
    return {number for number in numbers if number is not None and number > after}


def sequences(store: ObjectStore, *, after: int = 0) -> list[int]:
    """The numbers at which something lies, copies counted, in order."""
    return sorted({*listed(store, layout.LOG, after), *listed(store, layout.LOG_COPIES, after)})


def forked(entry: LogEntry, tip: LogEntry | None, name: str) -> HistoryDamaged:
    """The error where an entry does not chain to the one before it."""
    return HistoryDamaged(
        "the log is forked: an entry does not follow the one before it",
        where=f"{name}: entry {entry.sequence}",
        expected=f"previous {None if tip is None else tip.digest}",
        found=str(entry.previous),
        fix="An entry was removed or replaced. `holdfast vault verify` says which, against the witnesses and mirrors",
    )
