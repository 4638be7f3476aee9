"""What `holdfast vault` shows a person."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.markup import escape
from rich.table import Column, Table

from holdfast.cli.output import console, errors
from holdfast.engine.pipeline.telling import size
from holdfast.errors import HoldfastError

if TYPE_CHECKING:
    from holdfast.engine.drill.airflow_journal import AirflowDrillJournal
    from holdfast.engine.drill.restore_journal import RestoreDrillJournal
    from holdfast.engine.pipeline.vaults.backing_up import Made
    from holdfast.engine.pipeline.vaults.keeping import RecoveryPoint
    from holdfast.engine.pipeline.vaults.mirror_repairing import RepairedMirror
    from holdfast.engine.pipeline.vaults.renewing import SiteLocks
    from holdfast.engine.pipeline.vaults.restoring import Shown
    from holdfast.engine.vault.backups import Backup
    from holdfast.engine.vault.collect import CollectReport
    from holdfast.engine.vault.erasure_repair import SharesReport
    from holdfast.engine.vault.forget import ForgetPlan
    from holdfast.engine.vault.mirror import MirrorReport
    from holdfast.engine.vault.published import PublishedRestore
    from holdfast.engine.vault.repair import RepairReport
    from holdfast.engine.vault.restore import RestoreReport
    from holdfast.engine.vault.verify import VerifyReport

_TIME = "%Y-%m-%d %H:%M:%SZ"
_FEW = 10
_FEW_LOCKS = 50


def say(text: str) -> None:
    console.print(text, markup=False)


def print_made(name: str, where: str, facts: Mapping[str, Any]) -> None:
    say(f"Vault {name} is made at {where}, repository {facts['repository']}")
    print_keys(facts)


def print_warnings(warnings: Iterable[str]) -> None:
    for warning in warnings:
        say(f"  warning: {warning}")


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
    whole, marks = Column("backup", min_width=12), Column("", no_wrap=True)
    columns = ("entry", whole, "source", "content of", "tier", "objects", "size", "added", marks)
    table = Table(*columns, title=f"Vault {name}")
    for one in backups:
        if one.unreadable is not None:
            table.add_row(str(one.sequence), one.backup_id[:12], "", "", one.tier, "", "", "", ", ".join(_marks(one)))
            continue
        table.add_row(
            str(one.sequence),
            one.backup_id[:12],
            one.source,
            f"{one.taken_at:{_TIME}}",
            one.tier,
            str(one.objects),
            size(one.size_bytes),
            size(one.stored_bytes),
            ", ".join(_marks(one)),
        )
    console.print(table)
    for one in backups:
        if one.claimed_at is not None:
            say(f"  entry {one.sequence} claims to be of {one.claimed_at:{_TIME}}, after it came: a clock ran ahead")
        if one.namesakes:
            say(f"  entry {one.sequence} has the same id as entry {', '.join(map(str, one.namesakes))}")


def _marks(one: Backup) -> Iterator[str]:
    if one.held:
        yield "held"
    if one.unreadable is not None:
        yield "unreadable"
    if one.claimed_at is not None:
        yield "clock ahead"
    if one.namesakes:
        yield "same id"


def warn_of_unreadable(unreadable: Mapping[int, str], vault: str) -> None:
    """Tell on stderr of backups that cannot be read."""
    for number, why in list(unreadable.items())[:_FEW]:
        warn(f"vault {vault}: the backup of entry {number} cannot be read: {why}")
    if unreadable:
        warn(
            f"vault {vault}: {len(unreadable)} backups cannot be read, and stay until they are forgotten by name: "
            f"`holdfast vault forget entry:{min(unreadable)}`"
        )


def warn(text: str) -> None:
    errors.print(f"holdfast: {text}", style="red", markup=False)


def warn_of_namesakes(one: Backup) -> None:
    """Tell on stderr which of several backups of one id is meant."""
    if one.namesakes:
        others = ", ".join(f"entry:{number}" for number in one.namesakes)
        warn(f"entry:{one.sequence} is meant; of the same id there is also {others}")


def unreadable_of(backups: Iterable[Backup]) -> dict[int, str]:
    """By entry, why some of them cannot be read."""
    return {one.sequence: one.unreadable for one in backups if one.unreadable is not None}


def print_backup(found: Shown) -> None:
    one = found.backup
    print_backups(found.vault, [one])
    for field, value in one.origin.items():
        say(f"  {field}: {value}")
    table = Table("path", "size", "digest")
    for row in found.rows:
        table.add_row(escape(row.path), size(row.size_bytes), row.digest[:23])
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
    print_warnings(made.warnings)


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
    for problem in (*report.problems, *report.degraded, *report.unknown):
        say(f"  {problem}")
    print_warnings(report.warnings)
    for backup, paths in report.affected.items():
        say(f"  cannot be restored from {backup[:12]}: {', '.join(paths[:_FEW])}{' …' if len(paths) > _FEW else ''}")
    if report.problems:
        say(f"{len(report.problems)} things are wrong")
    elif report.degraded:
        say("Everything restores, but would not survive what it should")
    else:
        say("Whether it is right could not be told; try again" if report.unknown else "Nothing is wrong")


def print_repaired(name: str, done: RepairReport) -> None:
    say(f"Vault {name}: {len(done.healed)} objects put back")
    for key, source in list(done.healed.items())[:_FEW]:
        say(f"  {key} from {source}")
    for line in done.hidden[:_FEW]:
        say(f"  {line}")
    for line in done.lost:
        say(f"  lost: {line}")
    if done.shares is not None:
        print_shares(done.shares)
    if done.verified is not None:
        print_verified(name, done.verified)


def print_repaired_mirrors(name: str, done: Mapping[str, RepairedMirror | HoldfastError]) -> None:
    if not done:
        say(f"Vault {name} has no mirror")
    for site, found in done.items():
        if isinstance(found, HoldfastError):
            say(f"{site}: {found}")
        else:
            say(f"{site}: {found.copied.copied} objects copied that it lacked")
            print_repaired(f"{name} at {site}", found.repaired)


def print_shares(done: SharesReport) -> None:
    say(f"{len(done.repaired)} shares and copies of {done.checked} objects written, {size(done.repaired_bytes)}")
    for one in done.repaired[:_FEW]:
        say(f"  {one}")
    for site in done.away:
        say(f"  {site} does not answer: run it again when it does")
    if done.unfinished:
        say(f"  {len(done.unfinished)} packs have too few shares: of a backup that runs or was broken off, or lost;")
        say("    of those a day old `holdfast vault gc` removes what nobody needs")
    for line in done.failed:
        say(f"  not repaired: {line}")


def print_locks(name: str, sites: Sequence[SiteLocks]) -> None:
    for one in sites:
        if one.renewed is not None:
            extended = sum(one.renewed.extended.values())
            say(f"{one.site}: {extended} locks lengthened, {one.renewed.enough} had enough left")
        if one.report is not None:
            counted = ", ".join(f"{count} {kind}" for kind, count in sorted(one.report.counted.items()))
            say(f"{one.site}: {counted or 'nothing'} must be locked")
        for line in one.sentences()[:_FEW_LOCKS]:
            say(f"  {line}")
        if len(one.sentences()) > _FEW_LOCKS:
            say(f"  … and {len(one.sentences()) - _FEW_LOCKS} more")
    good = all(one.is_good for one in sites)
    say(f"Vault {name}: {'everything' if good else 'not everything'} that counts is locked")


def print_restore_drill(journal: RestoreDrillJournal, folder: Path) -> None:
    table = Table("claim", "", "measured", "objective", title=f"Restore drill {journal.drill_id}: {journal.verdict}")
    for claim in journal.claims:
        mark = {True: "holds", False: "does not hold", None: "unknown"}[claim.holds]
        table.add_row(claim.title, mark, claim.measured, claim.objective)
    console.print(table)
    if journal.error is not None:
        say(f"  {journal.error.get('what')}: {journal.error.get('found') or ''}")
    say(f"Evidence: {folder}; check it with `holdfast drill verify {folder}`")


def print_airflow_drill(journal: AirflowDrillJournal, folder: Path) -> None:
    table = Table("step", "", "seconds", "what was found", title=f"Drill {journal.drill_id}: {journal.verdict}")
    for step in journal.steps:
        table.add_row(step["name"], step["outcome"], f"{step['seconds']:.1f}", escape(step["reason"]))
    console.print(table)
    for claim in journal.claims:
        if claim.holds is not True and claim.name not in {step["name"] for step in journal.steps}:
            say(f"  {claim.title}: {claim.measured}, {claim.objective} is wanted")
    if journal.error is not None:
        say(f"  {journal.error.get('what')}: {journal.error.get('found') or ''}")
    rto = "unknown" if journal.rto_seconds is None else f"{journal.rto_seconds:.1f} s"
    rpo = "unknown" if journal.rpo_seconds is None else f"{journal.rpo_seconds:.1f} s"
    say(f"{'Passed' if journal.green else 'Did not pass'}: RTO {rto}, RPO {rpo}")
    say(f"Evidence: {folder}; check it with `holdfast drill verify {folder}`")


def print_forgotten(name: str, plan: ForgetPlan, *, would_free: int | None) -> None:
    table = Table("entry", "backup", "source", "content of", "", title=f"Vault {name}")
    gone = "forgotten" if would_free is None else "would go"
    for one, what in [*((one, f"stays: {why}") for one, why in plan.kept), *((one, gone) for one in plan.forgotten)]:
        content = f"{one.taken_at:{_TIME}}" if one.unreadable is None else "unreadable"
        table.add_row(str(one.sequence), one.backup_id[:12], one.source, content, what)
    console.print(table)
    if would_free is not None:
        say(f"Collections would free {size(would_free)} then")


def print_collected(name: str, report: CollectReport, *, dry_run: bool) -> None:
    newly, removed = ("would newly be", "Would remove") if dry_run else ("are newly", "Removed")
    say(
        f"Vault {name}: {report.live_backups} backups need {report.live_chunks} chunks; {report.dead_packs} packs "
        f"{newly} nobody's: {size(report.dead_bytes)}, free when their grace is over"
    )
    say(
        f"{removed} {report.deleted_packs} packs whose grace is over, {size(report.deleted_bytes)}, and "
        f"{report.deleted_entries} other objects; {report.waiting_packs} packs wait until theirs is"
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
