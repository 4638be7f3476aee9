"""Verify what the ledger's sites hold, export by export, from where the last verification came to."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from holdfast.engine.audit.chain import read_checkpoint, verify_exports
from holdfast.engine.audit.export import open_ledger
from holdfast.engine.audit.manifest import CHECKPOINT
from holdfast.engine.audit.problems import Answer, Kind, Problem, tampered
from holdfast.engine.audit.remembered import verified_at
from holdfast.engine.audit.signing import cosigners, drill_keys
from holdfast.engine.runtime import Runtime

#: How long after its end an interval may be late before that is a finding.
LATE = timedelta(hours=26)
#: New exports that one run verifies at most.
_AT_ONCE = 24


@dataclass(frozen=True)
class Watched:
    """What a verification of the ledger found.

    Args:
        seals: the seals that were verified.
        site: where they were read.
    """

    answer: Answer
    seals: tuple[int, ...]
    site: str

    def to_json(self) -> dict[str, Any]:
        """For XCom."""
        return {"site": self.site, "seals": list(self.seals), **self.answer.to_json()}


def verify_ledger(runtime: Runtime, *, site: str | None = None) -> Watched:
    """Fetch the exports since the last verification, and verify them; what held is remembered on this machine.

    The keys that sign here must have signed them, and those of ``audit.keys.drills`` the drills' evidence.

    Args:
        site: where they are read; by default each site in turn, so that every copy is read now and then.

    Raises:
        ConfigError, ObjectStoreError, Tampered: the ledger's records are damaged.
    """
    ledger = open_ledger(runtime)
    memory = _Memory(verified_at(runtime.state_folder, ledger.origin))
    home = memory.file.parent
    home.mkdir(parents=True, exist_ok=True)
    sites = list(ledger.stores)
    chosen = site or sites[(memory.seal + 1) % len(sites)]
    keys = [signer.key for signer in cosigners(runtime)]
    first = max(memory.seal, 0)  # the last verified one again: it links what follows
    numbers = [number for number in ledger.numbers(chosen) if number >= first][: _AT_ONCE + 1]
    answer = Answer(f"{ledger.origin} at {chosen}")
    if memory.seal >= 0 and (not numbers or numbers[0] > memory.seal):
        answer.add(
            tampered("rolled-back", "the site lacks a seal that was verified before", chosen, memory.seal, numbers[:1])
        )
        return Watched(answer, (), chosen)
    if not numbers:
        answer.add(Problem(Kind.UNKNOWN, "nothing-sealed", "nothing was sealed yet", chosen))
        return Watched(answer, (), chosen)
    scratch = home / "scratch"
    shutil.rmtree(scratch, ignore_errors=True)
    try:
        folders = [
            ledger.fetch(ledger.record(number, chosen), scratch / f"{number:08d}", site=chosen) for number in numbers
        ]
        remembered = read_checkpoint(memory.file) if memory.file.exists() else None
        answer, _ = verify_exports(
            folders,
            trusted=keys,
            remembered=remembered,
            late_until=runtime.clock.now() - LATE,
            drill_keys=drill_keys(runtime),
        )
        if answer.verdict != "tampered":
            memory.keep(folders[-1] / CHECKPOINT, numbers[-1])
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return Watched(answer, tuple(numbers), chosen)


@dataclass
class _Memory:
    """The newest checkpoint that held, and its seal."""

    file: Path

    @property
    def seal(self) -> int:
        mark = self.file.with_suffix(".seal")
        return int(mark.read_text(encoding="ascii")) if mark.exists() and self.file.exists() else -1

    def keep(self, checkpoint: Path, seal: int) -> None:
        draft = self.file.with_suffix(".draft")
        draft.write_bytes(checkpoint.read_bytes())
        draft.replace(self.file)
        mark = self.file.with_suffix(".seal.draft")
        mark.write_text(str(seal), encoding="ascii")
        mark.replace(self.file.with_suffix(".seal"))
