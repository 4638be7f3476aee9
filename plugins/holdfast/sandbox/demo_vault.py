"""The demo's backup, and a restore drill of it into a third cloud."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from holdfast.engine.drill.evidence import Verification, load_or_create_key, verify_evidence
from holdfast.engine.drill.restore_journal import RestoreDrillJournal
from holdfast.engine.pipeline.vaults.backing_up import Made, back_up_subject
from holdfast.engine.pipeline.vaults.drilling import drill_restore
from holdfast.engine.pipeline.vaults.opening import made, vaults_of
from holdfast.engine.runtime import Runtime
from holdfast.engine.vault.errors import VaultExists

#: Where the restore drill's evidence lies below the demo's output.
FOLDER = "restore-drill"
_CHECKS = (("objects_verified", "objects read back"), ("rows_equal", "rows"), ("expectations_met", "expectations"))


@dataclass(frozen=True)
class VaultFigures:
    """What was backed up and restored.

    Args:
        backup_seconds: from the snapshot to the backup, its witnesses and its mirrors.
        verification: of the drill's evidence.
    """

    made: Made
    backup_seconds: float
    journal: RestoreDrillJournal
    verification: Verification

    @property
    def passed(self) -> bool:
        return self.verification.verdict == "pass"


def back_up_and_drill(
    runtime: Runtime, group: str, output: Path, *, say: Callable[[str], object] = lambda _line: None
) -> VaultFigures:
    """Back the group's first dataset up into its vault, and restore it where neither it nor the vault lies.

    Args:
        output: the demo's; the evidence goes into a folder of it.

    Raises:
        KeyboardInterrupt: somebody stopped the drill.
        HoldfastError: the backup failed, or the evidence does not verify.
    """
    vault = vaults_of(runtime, group)[0]
    dataset = runtime.topology.group(group).datasets[0]
    with suppress(VaultExists):
        made(runtime, vault)
    began = runtime.clock.monotonic()
    backup = back_up_subject(runtime, group, dataset, vault).require_mirrored()
    seconds = runtime.clock.monotonic() - began
    found = backup.report.backup
    say(f"{dataset}: {found.size_bytes:,} bytes backed up to {runtime.topology.vault(vault).site} in {seconds:.1f} s")
    folder = output / FOLDER
    journal = drill_restore(runtime, group, dataset, vault, output=folder)
    if journal.status == "interrupted":
        raise KeyboardInterrupt
    say(
        f"restored at {journal.target['site']}, checked and removed again: {journal.verdict}"
        + (f" ({journal.error['what']})" if journal.error else "")
    )
    verified = verify_evidence(folder, public_key=load_or_create_key(runtime.environ).public_key())
    return VaultFigures(backup, seconds, journal, verified)


def vault_rows(figures: VaultFigures) -> Iterator[tuple[str, str, str, bool | None]]:
    """Claim, objective, measured value and verdict, for the demo's table."""
    backup, journal = figures.made.report.backup, figures.journal
    claims = {claim.name: claim for claim in journal.claims}
    stored = figures.made.report.stored.stored_bytes
    yield (
        f"Backup of {journal.subject}",
        f"at {journal.vault['site']}",
        f"{backup.size_bytes:,} B, {stored:,} B stored, {figures.backup_seconds:.2f} s",
        True,
    )
    read = (journal.restored or {}).get("read_bytes")
    measured = "unknown" if read is None else f"{read:,} B read"
    apart = claims["another_cloud"].holds
    yield f"Restored at {journal.target['site'] or 'no site'}", "another cloud", measured, apart
    for name, title in _CHECKS:
        if name in claims:
            claim = claims[name]
            yield f"  {title}", claim.objective, claim.measured, claim.holds
    for name, title in (("rto_met", "Restore RTO"), ("rpo_met", "Backup RPO")):
        claim = claims[name]
        yield title, claim.objective, claim.measured, claim.holds
    yield "Restore drill", "pass", journal.verdict, figures.passed
