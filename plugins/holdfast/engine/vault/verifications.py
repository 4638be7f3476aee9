"""What was verified when: signed, write-once notes beside the log, so that a recovery point can be called verified."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from holdfast.engine.objectstore.errors import ObjectNotFound
from holdfast.engine.objectstore.interface import CREATE
from holdfast.engine.snapshot.documents import canonical, iso_utc
from holdfast.engine.vault.entries import read_canonical
from holdfast.engine.vault.log import is_signed
from holdfast.engine.vault.secrets import Secrets, b64, unb64
from holdfast.engine.vault.vault import Vault
from holdfast.engine.vault.verify import VerifyReport

FORMAT = "holdfast.vault.verification/1"
PREFIX = "verified/"
#: Notes that are kept; older ones are removed by whoever may.
KEPT = 200
_TIME = "%Y%m%dT%H%M%S.%fZ"


@dataclass(frozen=True)
class Verification:
    """One verification that found nothing wrong.

    Args:
        backups: numbers of the entries of the backups it covered.
        depth: how much was read.
    """

    at: datetime
    depth: str
    backups: frozenset[int]
    packs_read: int
    bytes_read: int


def note_verification(
    vault: Vault, report: VerifyReport, backups: frozenset[int], writer: Secrets, *, at: datetime | None = None
) -> None:
    """Note a verification that found nothing wrong.

    Args:
        backups: numbers of the entries it covered.
        writer: signs the note; a reader has no key to sign with.
        at: when it began: what a sample covers ends there. By default now.

    Raises:
        NotEntitled: these secrets do not sign.
        ValueError: something was wrong.
    """
    if not report.is_good:
        raise ValueError("a verification that found something wrong is no proof")
    now = at or vault.clock.now()
    fields = {
        "format": FORMAT,
        "repository": vault.secrets.repository.hex(),
        "at": iso_utc(now),
        "depth": str(report.depth),
        "backups": sorted(backups),
        "packs_read": report.packs_read,
        "bytes_read": report.bytes_read,
        "signer": b64(writer.verifier),
    }
    signature = b64(writer.sign(_signed(fields)))
    key = f"{PREFIX}{now.strftime(_TIME)}-{report.depth}-{signature[:8].translate(str.maketrans('+/=', 'xyz'))}.json"
    vault.store.put(key, canonical({**fields, "signature": signature}), mode=CREATE, content_type="application/json")


def verifications(vault: Vault, *, depths: frozenset[str] | None = None) -> list[Verification]:
    """The notes, newest first. What none of the repository's keys signed is passed over.

    Args:
        depths: only of these; each backup is looked at, and those notes are many.
    """
    found: list[Verification] = []
    keys = (info.key for info in vault.store.list(PREFIX))
    wanted = (key for key in keys if depths is None or any(f"-{depth}-" in key for depth in depths))
    for key in sorted(wanted, reverse=True)[:KEPT]:
        try:
            one = _read(vault, vault.store.get(key))
        except ObjectNotFound:
            continue
        if one is not None:
            found.append(one)
    return found


def verified_by(vault: Vault) -> dict[int, Verification]:
    """By entry of a backup, the newest verification that covered it."""
    newest: dict[int, Verification] = {}
    for one in verifications(vault):
        for number in one.backups:
            newest.setdefault(number, one)
    return newest


def _signed(fields: dict[str, object]) -> bytes:
    return b"holdfast vault verification\0" + canonical(fields)


def _read(vault: Vault, data: bytes) -> Verification | None:
    try:
        fields = read_canonical(data)
        signature, signer = unb64(fields.pop("signature")), unb64(fields["signer"])
        known = signer in vault.history.keys.signers and fields["repository"] == vault.history.repository.hex()
        if not known or fields["format"] != FORMAT or not is_signed(signer, signature, _signed(fields)):
            return None
        return Verification(
            datetime.fromisoformat(fields["at"]),
            str(fields["depth"]),
            frozenset(int(number) for number in fields["backups"]),
            int(fields["packs_read"]),
            int(fields["bytes_read"]),
        )
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
