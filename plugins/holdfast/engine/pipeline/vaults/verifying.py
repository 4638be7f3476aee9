"""A vault or a mirror of it verified, and what was found whole noted by whoever may sign it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from holdfast.engine.pipeline.vaults.advice import advice_on
from holdfast.engine.pipeline.vaults.opening import opened, unlocked
from holdfast.engine.runtime import Runtime
from holdfast.engine.snapshot.documents import iso_utc
from holdfast.engine.vault.errors import HistoryDamaged, WrongKey
from holdfast.engine.vault.mirror import on_one_line
from holdfast.engine.vault.vault import Vault
from holdfast.engine.vault.verifications import note_verification, verifications
from holdfast.engine.vault.verify import Depth, VerifyOptions, VerifyReport, verify_vault
from holdfast.errors import ConfigError, HoldfastError


@dataclass(frozen=True)
class Proof:
    """What a verification found whole, for whoever may sign it.

    Args:
        at: when it began.
        backups: numbers of the entries it covered.
    """

    at: datetime
    depth: str
    backups: frozenset[int]
    packs_read: int
    bytes_read: int

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {**self.__dict__, "at": iso_utc(self.at), "backups": sorted(self.backups)}

    @classmethod
    def from_dict(cls, found: Mapping[str, Any]) -> Proof:
        return cls(**{**found, "at": datetime.fromisoformat(found["at"]), "backups": frozenset(found["backups"])})


def noted(runtime: Runtime, vault: str, proof: Proof, *, site: str | None = None) -> None:
    """Sign what a verification found whole, at the vault or at a mirror of it. Needs the writer's key alone.

    Raises WrongKey, NoVault, ConfigError, HistoryDamaged.
    """
    found = opened(runtime, vault, "writer", site=site)
    report = VerifyReport(Depth(proof.depth), packs_read=proof.packs_read, bytes_read=proof.bytes_read)
    note_verification(found, report, proof.backups, found.secrets, at=min(proof.at, runtime.clock.now()))


def opened_to_verify(runtime: Runtime, vault: str, site: str | None = None) -> Vault:
    """A vault or a mirror of it, by the reader's keys where they are at hand, else by the writer's. Raises WrongKey."""
    try:
        return opened(runtime, vault, "reader", site=site)
    except (WrongKey, ConfigError):
        return opened(runtime, vault, "writer", site=site)


def verified(
    runtime: Runtime,
    vault: str,
    depth: Depth,
    *,
    last: datetime | None = None,
    site: str | None = None,
    options: VerifyOptions | None = None,
    prove: Callable[[Proof], object] | None = None,
) -> VerifyReport:
    """Verify a vault or a mirror of it, and note it there where nothing is wrong.

    With a reader's keys at hand content is opened; with a writer's only, digests are compared.

    Args:
        last: when the last sample was begun; by default the notes say, of a mirror its own.
        site: of a mirror. It is held against the vault, where that can be read, else against the witnesses.
        prove: told what was found whole instead of its being noted: the reader's key then suffices. See `noted`.

    Raises:
        ConfigError: ``last`` is later than the last sample.
    """
    given = options or VerifyOptions()
    began = runtime.clock.now()
    found = opened_to_verify(runtime, vault, site)
    beside = VerifyReport(depth)
    if site is not None:
        found = _beside_its_vault(runtime, vault, found, beside)
    cycle = timedelta(days=runtime.topology.vault(vault).verify_days)
    noted_last = last_sample(found)
    if last is not None and last > (noted_last or began):
        raise ConfigError(
            "a sample cannot begin after the last one: what was due between would not be read",
            where="--last",
            expected=f"{iso_utc(noted_last or began)} or earlier",
            found=iso_utc(last),
        )
    options = VerifyOptions(depth=depth, cycle=cycle, now=began, last=last or noted_last, progress=given.progress)
    report = verify_vault(found, options)
    if site is None:
        report.warnings.extend(advice_on(runtime.topology, vault))
    if site is not None and report.problems and not beside.problems:
        report.warnings.append(
            f"what the vault has whole, `holdfast vault mirror --repair --to {site}` writes anew at this mirror"
        )
    report.problems[:0] = beside.problems
    report.warnings[:0] = beside.warnings
    covered = frozenset(found.history.backups)
    if report.is_good and prove is not None:
        prove(Proof(began, str(depth), covered, report.packs_read, report.bytes_read))
    elif report.is_good:
        try:
            writer = unlocked(runtime, vault, "writer", store=found.store)
        except (WrongKey, ConfigError) as error:
            report.warnings.append(f"what was found whole is not noted, the writer's key is not at hand: {error}")
        else:
            note_verification(found, report, covered, writer, at=began)
    return report


def _beside_its_vault(runtime: Runtime, vault: str, mirror: Vault, report: VerifyReport) -> Vault:
    """A mirror, held against its vault: what the one knows and the other not yet, witnesses would call a rollback.

    Where the vault cannot be read, or is not right itself, the witnesses say whether the mirror is.
    """
    try:
        own = opened_to_verify(runtime, vault, None)
    except HoldfastError as error:
        report.warnings.append(f"the mirror was held against the witnesses only, the vault cannot be read: {error}")
        return mirror
    if own.alarm is not None:
        return mirror
    try:
        history = on_one_line(own.store, mirror.store)
    except HistoryDamaged as damaged:
        report.problems.append(str(damaged))
        return mirror
    behind = history.tip.sequence - mirror.history.tip.sequence
    if behind > 0:
        report.warnings.append(
            f"the mirror lies {behind} entries behind the vault: bring it up to it with `holdfast vault mirror`"
        )
    return replace(mirror, witnesses={}).reload()


def last_sample(found: Vault) -> datetime | None:
    """When a sample or everything was last begun to be read, ``None``: never."""
    read = frozenset({Depth.SAMPLE.value, Depth.FULL.value})
    return next((one.at for one in verifications(found, depths=read)), None)
