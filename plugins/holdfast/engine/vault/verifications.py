"""What was verified when: signed, write-once notes beside the log, so that a recovery point can be called verified."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from holdfast.engine.objectstore.errors import ObjectNotFound
from holdfast.engine.objectstore.interface import CREATE
from holdfast.engine.snapshot.documents import canonical, iso_utc
from holdfast.engine.vault.entries import read_canonical
from holdfast.engine.vault.log import is_signed
from holdfast.engine.vault.parallel import each
from holdfast.engine.vault.secrets import Secrets, b64, unb64
from holdfast.engine.vault.vault import Vault
from holdfast.engine.vault.verify import Depth, VerifyReport

FORMAT = "holdfast.vault.verification/1"
PREFIX = "verified/"
#: So many notes count, the newest.
KEPT = 200
_READERS = 8
#: From the least to the greatest.
_DEPTHS = tuple(Depth)
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
    keys = (info.key for info in vault.store.list(PREFIX))
    wanted = (key for key in keys if depths is None or any(f"-{depth}-" in key for depth in depths))
    newest = sorted(wanted, reverse=True)
    found: list[Verification] = []
    # What nobody signed does not count: whoever can write there could hide all others behind it.
    for start in range(0, len(newest), KEPT):
        read = each(lambda key: _read_at(vault, key), newest[start : start + KEPT], threads=_READERS)
        found += [one for one in read if one is not None and (depths is None or one.depth in depths)]
        if len(found) >= KEPT:
            break
    return found[:KEPT]


def verified_by(vault: Vault, at_least: Depth = Depth.STRUCTURE) -> dict[int, Verification]:
    """By entry of a backup, the newest verification that covered it.

    Args:
        at_least: only those that read so much. A sample covers all backups, and opens of each what was due.
    """
    newest: dict[int, Verification] = {}
    for one in verifications(vault, depths=_from(at_least)):
        for number in one.backups:
            newest.setdefault(number, one)
    return newest


def _from(depth: Depth) -> frozenset[str]:
    """A depth, and those that read more."""
    return frozenset(_DEPTHS[_DEPTHS.index(depth) :])


def needless_notes(vault: Vault, before: datetime) -> list[str]:
    """Keys of notes that nobody misses: of each depth newer ones say the same of every live backup.

    The newest of those that read anything stays: with it the next sample begins.

    Args:
        before: newer ones stay, by the store's clock: they may be of backups this vault does not know of yet.
    """
    infos = sorted(vault.store.list(PREFIX), key=lambda info: info.key, reverse=True)
    needless: list[str] = []
    missing = {depth: set(vault.history.backups) for depth in _DEPTHS}
    sampled = False
    notes = each(lambda info: _read_at(vault, info.key), infos, threads=_READERS)
    for info, note in zip(infos, notes, strict=True):
        depths = [] if note is None else [depth for depth in _DEPTHS if note.depth in _from(depth)]
        news = {} if note is None else {depth: missing[depth] & note.backups for depth in depths}
        begins_a_sample = Depth.SAMPLE in depths and not sampled
        if info.modified_at < before and not begins_a_sample and not any(news.values()):
            needless.append(info.key)
            continue
        sampled = sampled or begins_a_sample
        for depth, numbers in news.items():
            missing[depth] -= numbers
    return needless


def _read_at(vault: Vault, key: str) -> Verification | None:
    try:
        return _read(vault, vault.store.get(key))
    except ObjectNotFound:
        return None


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
