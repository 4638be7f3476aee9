"""Forget: which backups stay (grandfather–father–son, legal holds), said in one entry; nothing is removed by it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from holdfast.engine.vault import layout
from holdfast.engine.vault.append import append
from holdfast.engine.vault.backups import Backup, live_backups, nameless_backup
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

    Args:
        backups: with `Backup.committed_at` as the store says it.
    """
    reasons: dict[int, str] = {}
    for source in sorted({backup.source for backup in backups}):
        of_source = sorted(
            (backup for backup in backups if backup.source == source),
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
    vault: Vault, keep: Keep | None = None, *, backups: Iterable[str] = (), source: str | None = None
) -> tuple[Vault, ForgetPlan]:
    """Forget by a retention, or backups by id. Their bytes go when a collection has found them to be nobody's.

    Raises:
        Refused: one of them is under a legal hold, or is the only one of its source.
        RolledBack, NotEntitled.
    """
    vault.refuse_alarm()
    wanted = frozenset(backups)
    return vault.again(lambda fresh: _forget(fresh, keep, wanted, source))


def _forget(vault: Vault, keep: Keep | None, wanted: frozenset[str], source: str | None) -> tuple[Vault, ForgetPlan]:
    named = live_backups(vault, source) if keep is not None else _named(vault, source)
    live = [_received(backup, at) for backup, at in _with_arrival(vault, named)]
    plan = plan_forget(live, keep) if keep is not None else plan_forget_named(live, wanted)
    if not plan.forgotten:
        return vault, plan
    gone = {backup.sequence for backup in plan.forgotten}
    history = vault.history

    def seen(entry: LogEntry) -> None:
        nonlocal history
        history = history.after(entry)
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


def _with_arrival(vault: Vault, backups: Sequence[Backup]) -> Iterator[tuple[Backup, datetime | None]]:
    times: dict[int, datetime] = {}
    for info in vault.store.list(layout.LOG):
        number = layout.sequence_of(info.key)
        if number is not None:
            times[number] = info.modified_at
    return ((backup, times.get(backup.sequence)) for backup in backups)


def _received(backup: Backup, at: datetime | None) -> Backup:
    """A backup with the times the store knows of: when it came, and a point in time that is not after that."""
    return backup if at is None else replace(backup, committed_at=at, taken_at=min(backup.taken_at, at))


def _named(vault: Vault, source: str | None) -> list[Backup]:
    """The live backups, also those of which only the name can be read: they are forgotten by it."""
    unreadable: dict[int, str] = {}
    live = live_backups(vault, source, unreadable=unreadable)
    return live + [nameless_backup(vault, number) for number in unreadable if source is None]


def plan_forget_named(live: Sequence[Backup], wanted: frozenset[str]) -> ForgetPlan:
    """Let exactly these go, by id. Raises ConfigError: one is not live. Refused: one is under a legal hold."""
    unknown = wanted - {backup.backup_id for backup in live}
    if unknown:
        raise ConfigError(
            "no live backup has this id", expected="ids of live backups", found=", ".join(sorted(unknown))
        )
    held = [backup.backup_id for backup in live if backup.backup_id in wanted and backup.held]
    if held:
        raise Refused(
            "a backup is under a legal hold",
            where=", ".join(held),
            fix="Release it first with `holdfast vault hold --release`",
        )
    return ForgetPlan(
        tuple((backup, "not named") for backup in live if backup.backup_id not in wanted),
        tuple(backup for backup in live if backup.backup_id in wanted),
    )


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
