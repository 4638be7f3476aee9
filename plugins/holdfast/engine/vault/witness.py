"""Witnesses: the newest entry's digest at other sites, so that removing it or going back to an older state shows.

A witness is written create-only after the entry. One that lags behind proves nothing; one that is ahead of the
repository, or disagrees with it, is an alarm.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from holdfast.engine.objectstore.errors import ObjectStoreError
from holdfast.engine.objectstore.interface import ObjectStore
from holdfast.engine.snapshot.documents import canonical
from holdfast.engine.snapshot.once import create_or_read
from holdfast.engine.vault import layout
from holdfast.engine.vault.errors import HistoryDamaged, RolledBack
from holdfast.engine.vault.history import History
from holdfast.engine.vault.log import LogEntry, read_entry
from holdfast.engine.vault.secrets import Secrets, b64, unb64, verifier_of

FORMAT = "holdfast.vault.witness/1"


@dataclass(frozen=True)
class Witness:
    """What one site says of the newest entry.

    Args:
        sequence: its number, ``None`` when the site has seen none.
        digest: of the entry.
        unknown: why it cannot be told, ``None`` when it can.
    """

    site: str
    sequence: int | None = None
    digest: str | None = None
    unknown: str | None = None


def write_witness(stores: Mapping[str, ObjectStore], secrets: Secrets, entry: LogEntry) -> dict[str, str | None]:
    """Have every site witness an entry.

    Returns:
        By site, ``None`` or why it could not be written: an entry is not undone for it.
    """
    fields = {
        "format": FORMAT,
        "repository": secrets.repository.hex(),
        "sequence": entry.sequence,
        "digest": entry.digest,
    }
    assert secrets.signer is not None, "whoever wrote the entry can sign"
    assert secrets.signing is not None
    data = canonical(
        {
            **fields,
            "signer": b64(verifier_of(secrets.signing)),
            "signature": b64(secrets.signer.sign(canonical(fields))),
        }
    )
    told: dict[str, str | None] = {}
    for site, store in stores.items():
        try:
            found = create_or_read(store, layout.witness_key(secrets.repository, entry.sequence), data)
            told[site] = None if _digest_of(found) == entry.digest else "it has witnessed another entry of this number"
        except ObjectStoreError as error:
            told[site] = str(error)
    return told


def _digest_of(data: bytes) -> object:
    try:
        return json.loads(data)["digest"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None


def read_witness(site: str, store: ObjectStore, history: History) -> Witness:
    """The newest entry a site has witnessed. What was not signed by one of the repository's keys is passed over."""
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        found = [info.key for info in store.list(layout.witness_prefix(history.repository))]
        for key in reversed(found):
            try:
                read = json.loads(store.get(key))
                signer = unb64(read.pop("signer"))
                signature = unb64(read.pop("signature"))
                if history.keys.signers.get(signer) is None or read["format"] != FORMAT:
                    continue
                Ed25519PublicKey.from_public_bytes(signer).verify(signature, canonical(read))
                if read["repository"] == history.repository.hex():
                    return Witness(site, int(read["sequence"]), str(read["digest"]))
            except (ValueError, KeyError, TypeError, AttributeError, RecursionError, InvalidSignature):
                continue
        return Witness(site)
    except ObjectStoreError as error:
        return Witness(site, unknown=str(error))


def ask_witnesses(history: History, witnesses: Mapping[str, ObjectStore]) -> tuple[Witness, ...]:
    """What every site says."""
    return tuple(read_witness(site, witness, history) for site, witness in witnesses.items())


def check_witnesses(store: ObjectStore, history: History, told: Iterable[Witness]) -> None:
    """Compare the repository with what its witnesses saw.

    Args:
        history: read after the witnesses were asked: whatever they saw was in the log before.

    Raises:
        RolledBack: a witness saw a newer entry, or another one of the same number.
    """
    for witness in told:
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
        if witness.sequence not in history.counting:
            continue  # an anchor took its place: what lies there is nobody's, or nothing
        found = _digest_at(store, history, witness)
        if found != witness.digest:
            raise RolledBack(
                "the repository's log is not the one that was witnessed",
                where=f"{store.name}: entry {witness.sequence}",
                expected=f"{witness.digest}, which {witness.site} witnessed",
                found=found,
                fix="Somebody put another history in its place. Nothing was written; compare with a mirror",
            )


def _digest_at(store: ObjectStore, history: History, witness: Witness) -> str | None:
    """Of the entry the history has where a site witnessed one."""
    number = witness.sequence
    assert number is not None
    for entry in (history.tip, history.keys_at, history.backups.get(number)):
        if entry is not None and entry.sequence == number:
            return entry.digest
    try:
        return read_entry(store, number, history.repository, digest=witness.digest).digest
    except HistoryDamaged as damaged:
        return damaged.found
