"""What this machine remembers of a ledger: the newest seal that it made or went on from, so that none is taken away."""

from __future__ import annotations

import shutil
from hashlib import sha256
from pathlib import Path

from holdfast.engine.audit.errors import Tampered
from holdfast.engine.audit.ledger import Ledger, SealRecord, parse_record
from holdfast.errors import UnknownName

_HEAD = "head.json"


def home_at(state: Path, origin: str) -> Path:
    """Where a machine keeps what belongs to a ledger, below its state folder."""
    return state / "audit" / sha256(origin.encode()).hexdigest()[:16]


def verified_at(state: Path, origin: str) -> Path:
    """The newest checkpoint of a ledger that `verify_ledger` found to hold; its seal lies beside it."""
    return state / "audit" / "verified" / f"{origin.replace('/', '_')}.checkpoint"


def require_goes_on(ledger: Ledger, newest: SealRecord | None, home: Path) -> None:
    """Raises Tampered: the ledger is older than the seal that is remembered, or another."""
    file = home / _HEAD
    if not file.exists():
        return
    known = parse_record(file.read_bytes(), str(file))
    where = ledger.stores[ledger.first].name
    lost = (
        f"Find out what happened to {ledger.first}; where the seal is lost for good with its cloud, remove {file}: the "
        "next export takes its number, and whoever has the lost one sees a fork"
    )
    if newest is None or newest.seal < known.seal:
        raise Tampered(
            "the ledger's first site lacks a seal that this machine made or went on from: it was rolled back",
            where=where,
            expected=f"seal {known.seal}, root {known.root}",
            found="none" if newest is None else f"seal {newest.seal}",
            fix=lost,
        )
    try:
        there = newest if newest.seal == known.seal else ledger.record(known.seal)
    except UnknownName:
        there = None  # removed since it was listed
    if there != known:
        raise Tampered(
            "the ledger has another seal than the one that this machine made or went on from: it was forked",
            where=where,
            expected=f"seal {known.seal}, root {known.root}",
            found=f"root {there.root}" if there else "none",
            fix=lost,
        )


def remember(record: SealRecord, home: Path) -> None:
    """Keep a seal as the newest of its ledger."""
    draft = home / f"{_HEAD}.draft"
    draft.write_bytes(record.to_json())
    draft.replace(home / _HEAD)


def forget_ledger(state: Path, origin: str) -> None:
    """Remove what is remembered of a ledger that is gone, e.g. a sandbox's."""
    shutil.rmtree(home_at(state, origin), ignore_errors=True)
    checkpoint = verified_at(state, origin)
    for file in (checkpoint, checkpoint.with_suffix(".seal")):
        file.unlink(missing_ok=True)
