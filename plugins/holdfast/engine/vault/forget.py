"""Forget: which backups stay (grandfather–father–son, legal holds), said in one entry; nothing is removed by it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from holdfast.engine.vault.append import append
from holdfast.engine.vault.backups import Backup, all_backups, choose
from holdfast.engine.vault.errors import Outdated
from holdfast.engine.vault.history import write_hint
from holdfast.engine.vault.log import LogEntry
from holdfast.engine.vault.vault import Vault
from holdfast.errors import ConfigError, Refused

#: A backup that comes later than this after its point in time was not made in time.
IN_TIME = timedelta(hours=36)
#: The period of each tier as a format of its point in time; a period keeps its newest backup.
_PERIODS = {"hourly": "%Y%m%d%H", "daily": "%Y%m%d", "weekly": "%G%V", "monthly": "%Y%m", "yearly": "%Y"}


@dataclass(frozen=True)
class Keep:
    """How many backups of each source stay.

    Args:
        last: the newest ones.
        hourly, daily, weekly, monthly, yearly: the newest of each of the last so many periods that have one, in UTC.
    """

    last: int = 0
    hourly: int = 0
    daily: int = 0
    weekly: int = 0
    monthly: int = 0
    yearly: int = 0

    def __post_init__(self) -> None:
        counts = (self.last, self.hourly, self.daily, self.weekly, self.monthly, self.yearly)
        if min(counts) < 0 or max(counts) == 0:
            raise ConfigError(
                "a retention that keeps nothing", where="keep", expected="at least one count above 0", found=str(self)
            )


@dataclass(frozen=True)
class ForgetPlan:
    """What stays and what goes, each with the reason."""

    kept: tuple[tuple[Backup, str], ...]
    forgotten: tuple[Backup, ...]


def plan_forget(backups: Sequence[Backup], keep: Keep) -> ForgetPlan:
    """Apply a retention to backups of any number of sources.

    Of each source the newest stays always, and the one that was made last: a client whose clock was wrong made them
    two. What came to the vault long after its point in time (`IN_TIME`) never takes the place of what came in time:
    else whoever has a writer's key could date back false backups until retention had forgotten all the good ones.

    What cannot be read stays: whose backup it is is not known. It is forgotten by its entry.

    Args:
        backups: with their times as the store says them (`all_backups`).
    """
    reasons = {backup.sequence: "cannot be read" for backup in backups if backup.unreadable is not None}
    readable = [backup for backup in backups if backup.unreadable is None]
    for source in sorted({backup.source for backup in readable}):
        of_source = sorted(
            (backup for backup in readable if backup.source == source),
            key=lambda backup: (backup.taken_at, backup.sequence),
            reverse=True,
        )
        for number, backup in enumerate(of_source[: max(1, keep.last)]):
            reasons.setdefault(backup.sequence, "newest" if number == 0 else "last")
        reasons.setdefault(max(backup.sequence for backup in of_source), "made last")
        in_time = [backup for backup in of_source if backup.committed_at - backup.taken_at <= IN_TIME]
        late = [backup for backup in of_source if backup.committed_at - backup.taken_at > IN_TIME]
        for tier, form in _PERIODS.items():
            taken: set[str] = set()
            for group in (in_time, late):
                periods: set[str] = set()
                for backup in group:
                    period = _period(backup.taken_at, form)
                    if len(periods) < getattr(keep, tier) and period not in periods | taken:
                        periods.add(period)
                        reasons.setdefault(backup.sequence, tier)
                taken |= {_period(backup.taken_at, form) for backup in group}
    for backup in backups:
        if backup.held:
            reasons[backup.sequence] = "legal hold"
    kept = tuple((backup, reasons[backup.sequence]) for backup in backups if backup.sequence in reasons)
    return ForgetPlan(kept, tuple(backup for backup in backups if backup.sequence not in reasons))


def _period(moment: datetime, form: str) -> str:
    return moment.strftime(form)


def forget(
    vault: Vault,
    keep: Keep | None = None,
    *,
    backups: Iterable[str] = (),
    source: str | None = None,
    spare_last: bool = False,
) -> tuple[Vault, ForgetPlan]:
    """Forget by a retention, or backups by name. Their bytes go when a collection has found them to be nobody's.

    Args:
        backups: names, as `choose` takes them: also of what cannot be read.
        source: only of this source.
        spare_last: refuse to forget by name the last backup of a source that can be read. A retention never does.

    Raises:
        UnknownBackup: no backup answers to a name, or several do.
        Refused: one of them is under a legal hold, or is the last of its source.
        RolledBack, NotEntitled.
    """
    vault.refuse_alarm()
    wanted = frozenset(backups)
    return vault.again(lambda fresh: _forget(fresh, keep, wanted, source, spare_last=spare_last))


def _forget(
    vault: Vault, keep: Keep | None, wanted: frozenset[str], source: str | None, *, spare_last: bool
) -> tuple[Vault, ForgetPlan]:
    backups = [backup for backup in all_backups(vault) if source is None or backup.source == source]
    if keep is not None:
        plan = plan_forget(backups, keep)
    else:
        plan = plan_forget_named(backups, wanted, where=vault.name, spare_last=spare_last)
    if not plan.forgotten:
        return vault, plan
    gone = {backup.sequence for backup in plan.forgotten}
    history = vault.history

    def seen(entry: LogEntry) -> None:
        nonlocal history
        history = history.after(entry)
        if spare_last and entry.kind == "forget":
            raise Outdated("others forgot backups meanwhile: which is the last of its source is looked at anew")
        held = gone & history.held
        if held and keep is not None:
            raise Outdated("a backup was put under a legal hold meanwhile: the retention is applied anew")
        if held:
            raise Refused("a backup was put under a legal hold meanwhile", where=vault.name, found=str(sorted(held)))

    entry = append(
        vault.store,
        vault.secrets,
        "forget",
        clock=vault.clock,
        tip=history.tip,
        describe=lambda _tip: (
            {
                "forgotten": sorted(gone),
                "state": history.state(backups=[number for number in history.backups if number not in gone]),
            },
            {"by": "retention" if keep is not None else "name"},
        ),
        seen=seen,
        signers=history.keys.signers,
    )
    vault = vault.at(history).commit(entry)
    write_hint(vault.store, vault.history)
    return vault, plan


def plan_forget_named(
    backups: Sequence[Backup], wanted: Iterable[str], *, where: str = "", spare_last: bool = False
) -> ForgetPlan:
    """Let exactly these go.

    Args:
        backups: oldest first.
        wanted: names, as `choose` takes them.
        where: whose they are; in messages.
        spare_last: see `forget`.

    Raises:
        UnknownBackup: no backup answers to a name, or several do.
        Refused: one is under a legal hold, or is the last of its source.
    """
    gone = {choose(backups, name, where).sequence for name in wanted}
    forgotten = tuple(backup for backup in backups if backup.sequence in gone)
    kept = tuple(backup for backup in backups if backup.sequence not in gone)
    held = [backup.handle for backup in forgotten if backup.held]
    if held:
        raise Refused(
            "a backup is under a legal hold",
            where=", ".join(held),
            fix="Release it first with `holdfast vault hold --release`",
        )
    left = {backup.source for backup in kept if backup.unreadable is None}
    last = sorted({backup.source for backup in forgotten if backup.unreadable is None} - left)
    if spare_last and last:
        raise Refused(
            "nothing would be left of a source",
            where=where,
            expected="at least one backup of each source that can be read",
            found=f"none of {', '.join(last)}",
            fix="Make a newer backup first; or say that the last is meant: `holdfast vault forget --last-too`",
        )
    return ForgetPlan(tuple((backup, "not named") for backup in kept), forgotten)


def hold(vault: Vault, backups: Iterable[Backup], *, held: bool) -> Vault:
    """Put backups under a legal hold, or release them. Raises NotEntitled."""
    vault.refuse_alarm()
    numbers = sorted(backup.sequence for backup in backups)
    return vault.again(lambda fresh: _hold(fresh, numbers, held=held))


def _hold(vault: Vault, numbers: list[int], *, held: bool) -> Vault:
    history = vault.history

    def check() -> None:
        missing = set(numbers) - history.backups.keys()
        if missing:
            raise ConfigError("a backup was forgotten meanwhile", where=vault.name, found=str(sorted(missing)))

    def seen(entry: LogEntry) -> None:
        nonlocal history
        history = history.after(entry)
        check()

    check()

    entry = append(
        vault.store,
        vault.secrets,
        "hold",
        clock=vault.clock,
        tip=history.tip,
        describe=lambda _tip: ({"backups": numbers, "held": held}, {}),
        seen=seen,
        signers=history.keys.signers,
    )
    return vault.at(history).commit(entry)
