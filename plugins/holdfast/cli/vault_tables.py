"""What `holdfast vault` shows a person."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Column, Table

from holdfast.cli.output import console
from holdfast.engine.pipeline.telling import size
from holdfast.errors import HoldfastError

if TYPE_CHECKING:
    from holdfast.engine.drill.restore_journal import RestoreDrillJournal
    from holdfast.engine.pipeline.vaults.backing_up import Made
    from holdfast.engine.pipeline.vaults.keeping import RecoveryPoint
    from holdfast.engine.pipeline.vaults.restoring import Shown
    from holdfast.engine.vault.airflow_state.drilling import AirflowDrillReport
    from holdfast.engine.vault.backups import Backup
    from holdfast.engine.vault.collect import CollectReport
    from holdfast.engine.vault.forget import ForgetPlan
    from holdfast.engine.vault.locks import LockReport, RenewReport
    from holdfast.engine.vault.mirror import MirrorReport
    from holdfast.engine.vault.published import PublishedRestore
    from holdfast.engine.vault.repair import RepairReport
    from holdfast.engine.vault.restore import RestoreReport
    from holdfast.engine.vault.verify import VerifyReport

_TIME = "%Y-%m-%d %H:%M:%SZ"
_FEW = 10


def say(text: str) -> None:
    console.print(text, markup=False)


def print_made(name: str, where: str, facts: Mapping[str, Any]) -> None:
    say(f"Vault {name} is made at {where}, repository {facts['repository']}")
    print_keys(facts)


def print_keys(facts: Mapping[str, Any]) -> None:
    table = Table("role", "key set", "who can open it")
    for role, found in facts["keysets"].items():
        who = ", ".join(f"{one['kind']} {one['key']}" for one in found["recipients"])
        table.add_row(role, found["keyset"][:12], who)
    console.print(table)
    say(f"Content is sealed to generation {max(facts['generations'])} of {len(facts['generations'])}")


def print_rotated(facts: Mapping[str, Any]) -> None:
    say(
        f"Vault {facts['vault']}: new key sets for {', '.join(facts['written'])}; "
        f"new content is sealed to generation {facts['generation']} (entry {facts['entry']})"
    )


def print_new_key(facts: Mapping[str, Any], *, offline: bool) -> None:
    say(f"Made {facts['file']}; name it in the topology as {facts['recipient']}")
    if offline:
        say("Keep the file offline, in two places. Who has it can open what was sealed for it.")


def print_backups(name: str, backups: Sequence[Backup]) -> None:
    # The id is what is typed elsewhere: it stays whole on a narrow terminal.
    whole = Column("backup", min_width=12)
    table = Table(whole, "source", "content of", "tier", "objects", "size", "added", "", title=f"Vault {name}")
    for one in backups:
        table.add_row(
            one.backup_id[:12],
            one.source,
            f"{one.taken_at:{_TIME}}",
            one.tier,
            str(one.objects),
            size(one.size_bytes),
            size(one.stored_bytes),
            "held" if one.held else "",
        )
    console.print(table)


def print_backup(found: Shown) -> None:
    one = found.backup
    print_backups(found.vault, [one])
    for field, value in one.origin.items():
        say(f"  {field}: {value}")
    table = Table("path", "size", "digest")
    for row in found.rows:
        table.add_row(row.path, size(row.size_bytes), row.digest[:23])
    console.print(table)
    if one.objects > len(found.rows):
        say(f"… and {one.objects - len(found.rows)} more; see --limit")


def print_made_backup(made: Made) -> None:
    backup, stored = made.report.backup, made.report.stored
    say(
        f"Backup {backup.backup_id[:12]} of {backup.source} in {made.vault}: {backup.objects} objects, "
        f"{size(backup.size_bytes)}; read {size(made.report.read_bytes)}, stored {size(stored.stored_bytes)} in "
        f"{stored.packs} packs"
    )
    for site, error in made.witnesses.items():
        say(f"  witness {site}: {'has it' if error is None else error}")
    for site, found in made.mirrors.items():
        if isinstance(found, HoldfastError):
            say(f"  mirror {site}: {found}")
        else:
            say(f"  mirror {site}: {found.copied} objects, {size(found.copied_bytes)} copied")


def print_mirrored(name: str, done: Mapping[str, MirrorReport | HoldfastError]) -> None:
    if not done:
        say(f"Vault {name} has no mirror")
    for site, found in done.items():
        if isinstance(found, HoldfastError):
            say(f"{site}: {found}")
            continue
        say(f"{site}: {found.copied} objects, {size(found.copied_bytes)} copied; {found.there} were there")
        for problem in found.problems:
            say(f"  {problem}")


def print_restored(report: RestoreReport) -> None:
    say(
        f"Restored {report.restored} objects, {size(report.restored_bytes)}, of backup {report.backup.backup_id[:12]} "
        f"({report.backup.source}, content of {report.backup.taken_at:{_TIME}}); each verified"
    )
    if report.kept:
        say(f"{report.kept} were there and right")
    for path, why in list(report.damaged.items())[:_FEW]:
        say(f"  {path}: {why}")
    if len(report.damaged) > _FEW:
        say(f"  … and {len(report.damaged) - _FEW} more that are damaged")
    for table in report.tables:
        if "metadata_location" in table:
            say(f"Table {table['root'] or '(the whole folder)'} is now read from {table['metadata_location']}")
    for root, why in report.not_moved.items():
        say(f"Table {root or '(the whole folder)'} still names its old place and cannot be read here: {why}")


def print_live(done: PublishedRestore) -> None:
    print_restored(done.restored)
    record = done.record
    made = "published" if done.made else "was published before"
    say(f"Snapshot {record.snapshot_id} of {record.dataset} {made} at {record.site} in epoch {record.epoch}")
    say("The other sites get it with the next sync: `holdfast sync run`")


def print_verified(name: str, report: VerifyReport) -> None:
    opened = "content opened" if report.content_opened else "digests compared: no reader's key at hand"
    read = "" if report.depth == "structure" else f"; {report.packs_read} read, {size(report.bytes_read)}, {opened}"
    say(f"Vault {name}, {report.depth}: {report.backups} backups, {report.objects} objects, {report.packs} packs{read}")
    for problem in report.problems:
        say(f"  {problem}")
    for backup, paths in report.affected.items():
        say(f"  cannot be restored from {backup[:12]}: {', '.join(paths[:_FEW])}{' …' if len(paths) > _FEW else ''}")
    say("Nothing is wrong" if report.is_good else f"{len(report.problems)} things are wrong")


def print_repaired(name: str, done: RepairReport) -> None:
    say(f"Vault {name}: {len(done.healed)} objects put back")
    for key, source in list(done.healed.items())[:_FEW]:
        say(f"  {key} from {source}")
    for line in done.lost:
        say(f"  lost: {line}")
    if done.verified is not None:
        print_verified(name, done.verified)


def print_locks(name: str, report: LockReport, renewed: RenewReport | None) -> None:
    if renewed is not None:
        say(f"{sum(renewed.extended.values())} locks lengthened, {renewed.enough} had enough left")
        for line in renewed.failed:
            say(f"  {line}")
    counted = ", ".join(f"{count} {kind}" for kind, count in sorted(report.counted.items()))
    say(f"Vault {name}: {counted or 'nothing'} must be locked")
    for line in report.sentences()[:50]:
        say(f"  {line}")
    say("Everything that counts is locked" if report.is_good else "Not everything that counts is locked")


def print_restore_drill(journal: RestoreDrillJournal, folder: Path) -> None:
    table = Table("claim", "", "measured", "objective", title=f"Restore drill {journal.drill_id}: {journal.verdict}")
    for claim in journal.claims:
        mark = {True: "holds", False: "does not hold", None: "unknown"}[claim.holds]
        table.add_row(claim.title, mark, claim.measured, claim.objective)
    console.print(table)
    if journal.error is not None:
        say(f"  {journal.error.get('what')}: {journal.error.get('found') or ''}")
    say(f"Evidence: {folder}; check it with `holdfast drill verify {folder}`")


def print_airflow_drill(report: AirflowDrillReport) -> None:
    table = Table("step", "", "seconds", "what was found", title=f"Airflow from backup {report.backup_id[:12]}")
    for step in report.steps:
        table.add_row(step.name, step.outcome, f"{step.seconds:.1f}", step.reason)
    console.print(table)
    rto = "unknown" if report.rto_seconds is None else f"{report.rto_seconds:.1f} s"
    rpo = "unknown" if report.rpo_seconds is None else f"{report.rpo_seconds:.1f} s"
    say(f"{'Passed' if report.passed else 'Did not pass'}: RTO {rto}, RPO {rpo}")


def print_forgotten(name: str, plan: ForgetPlan, *, would_free: int | None) -> None:
    table = Table("backup", "source", "content of", "", title=f"Vault {name}")
    for one, why in plan.kept:
        table.add_row(one.backup_id[:12], one.source, f"{one.taken_at:{_TIME}}", f"stays: {why}")
    for one in plan.forgotten:
        table.add_row(
            one.backup_id[:12], one.source, f"{one.taken_at:{_TIME}}", "forgotten" if would_free is None else "would go"
        )
    console.print(table)
    if would_free is not None:
        say(f"Collections would free {size(would_free)} then")


def print_collected(name: str, report: CollectReport, *, dry_run: bool) -> None:
    would = "would be" if dry_run else "are"
    say(
        f"Vault {name}: {report.live_backups} backups need {report.live_chunks} chunks; {report.dead_packs} packs "
        f"{would} nobody's and free {size(report.dead_bytes)}"
    )
    say(
        f"Removed {report.deleted_packs} packs, {size(report.deleted_bytes)}, and {report.deleted_entries} other "
        f"objects; {report.waiting_packs} packs wait until their grace is over"
    )
    if report.kept_locked:
        say(f"{len(report.kept_locked)} objects are locked and stay for now")


def print_points(points: Sequence[RecoveryPoint]) -> None:
    table = Table("vault", "what", "newest verified backup", "read", "age", "RPO", "")
    for point in points:
        age = "none" if point.age_seconds is None else f"{point.age_seconds:.0f} s"
        mark = {True: "met", False: "missed", None: "unknown"}[point.met]
        name = point.backup.backup_id[:12] if point.backup else "-"
        table.add_row(point.vault, point.subject, name, point.depth or "-", age, f"{point.rpo_seconds:.0f} s", mark)
    console.print(table)
    for error in {point.error for point in points if point.error}:
        say(f"  {error}")
