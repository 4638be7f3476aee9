"""Which objects of a vault are not locked as they should be, and the renewal of locks before they run out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum

from holdfast.engine.objectstore.errors import NotSupported, ObjectNotFound, ObjectStoreError
from holdfast.engine.objectstore.interface import ObjectStore
from holdfast.engine.vault import layout
from holdfast.engine.vault.locks._common import at_once, is_firmer
from holdfast.engine.vault.locks.interface import LockCapability, LockedObject, LockMode, ObjectLocks
from holdfast.engine.vault.locks.policy import LockPolicy, class_of
from holdfast.engine.vault.needed import counting_keys
from holdfast.engine.vault.vault import Vault

_CLASSES = (layout.PACKS, layout.INDEXES, layout.LOG, layout.LOG_COPIES, layout.KEYS)


class Wrong(StrEnum):
    """What is wrong with an object's lock."""

    NOT_LOCKED = "not locked"
    TOO_SHORT = "locked too short"
    LIFTABLE = "its lock can be lifted"
    HIDDEN = "there as an older version only"
    MISSING = "not there"


@dataclass(frozen=True, slots=True)
class LockProblem:
    """One object that is not locked as it should be.

    Args:
        site: of the witness it lies at, ``None``: of the vault itself.
        until: when its lock ends, ``None``: it has none.
        wanted: until when it should be locked at least.
    """

    key: str
    what: Wrong
    until: datetime | None
    wanted: datetime
    site: str | None = None

    def __str__(self) -> str:
        at = f"{self.site}: " if self.site else ""
        until = f"until {self.until.isoformat()}" if self.until else "no lock"
        return f"{at}{self.key}: {self.what}; expected {self.wanted.isoformat()} or later, found {until}"


@dataclass
class LockReport:
    """What was found.

    Args:
        capability: of the vault's bucket; of a witness's by its site in `witnesses`.
        counted: by class, how many objects must be locked.
        unlocked_tiers: tiers of packs that must be there and that the policy does not lock.
        uncounted: objects nothing depends on, locked or not.
        problems: what is not as it should be.
        unknown: what cannot be told, one sentence each.
        away: by site, why a witness did not say: trying again may help.
    """

    capability: LockCapability
    checked_at: datetime
    witnesses: dict[str, LockCapability] = field(default_factory=dict)
    counted: Counter[str] = field(default_factory=Counter)
    unlocked_tiers: list[str] = field(default_factory=list)
    uncounted: int = 0
    problems: list[LockProblem] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    away: dict[str, ObjectStoreError] = field(default_factory=dict)

    @property
    def is_good(self) -> bool:
        """Every bucket keeps locks, and everything that counts is locked. What is not known is not good."""
        return not self.away and self.is_good_where_told

    @property
    def is_good_where_told(self) -> bool:
        """The same but for witnesses that did not answer."""
        enforced = all(one.enforces for one in (self.capability, *self.witnesses.values()))
        return enforced and not self.problems and not self.unlocked_tiers and not self.unknown

    def sentences(self) -> list[str]:
        """What is not good, for people."""
        said = [
            f"{site or 'the vault'}: {one.backend} keeps no locks: {one.why}"
            for site, one in ((None, self.capability), *self.witnesses.items())
            if not one.enforces
        ]
        said += [f"the policy does not lock packs of the tier {tier}" for tier in self.unlocked_tiers]
        said += [f"{site}: the witness's locks cannot be told: {error}" for site, error in self.away.items()]
        return [*said, *self.unknown, *map(str, self.problems)]


def lock_report(
    vault: Vault,
    locks: ObjectLocks,
    policy: LockPolicy,
    *,
    witness_locks: Mapping[str, ObjectLocks] | None = None,
    now: datetime | None = None,
) -> LockReport:
    """Look at the lock of every object that counts, in every class, at the vault and at its witnesses.

    Changes nothing, and needs no more than to read.

    Args:
        locks: of the vault's store.
        witness_locks: by site. A witness whose locks are not given is reported as unknown.
        now: what is left of a lock is counted from here; by default the vault's clock.

    Raises:
        Damaged, HistoryDamaged: it cannot be told what counts.
    """
    now = now or vault.clock.now()
    report = LockReport(locks.capability(), now)
    for key, found in _to_look_at(vault, locks, policy, report):
        problem = _problem(key, found, policy, now)
        if problem is not None:
            report.problems.append(problem)
    for site, witness in vault.witnesses.items():
        of_site = (witness_locks or {}).get(site)
        if of_site is None:
            report.unknown.append(f"{site}: the witness's locks were not looked at")
            continue
        try:
            report.witnesses[site] = of_site.capability()
            counting = _counting_at(witness, vault.history.repository)
            report.counted["vault-witness"] += len(counting)
            if not counting:
                report.unknown.append(f"{site}: nothing of this vault was witnessed there")
            found_there = [_problem(key, _state(of_site, key), policy, now, site) for key in counting]
            report.problems.extend(problem for problem in found_there if problem is not None)
        except ObjectStoreError as error:
            if error.transient:
                report.away[site] = error
            else:
                report.unknown.append(f"{site}: the witness's locks cannot be told: {error}")
    return report


def _to_look_at(
    vault: Vault, locks: ObjectLocks, policy: LockPolicy, report: LockReport
) -> Iterator[tuple[str, LockedObject | None]]:
    """Every key that counts, with its version that counts; what is hidden comes as hidden, what is gone as ``None``."""
    counting = counting_keys(vault)
    tiers = {parsed[0] for key in counting if (parsed := layout.parse_pack_key(key)) is not None}
    report.unlocked_tiers = sorted(tiers - policy.tiers.keys())
    for prefix in _CLASSES:
        wanted = {key for key in counting if key.startswith(prefix)}
        report.counted[prefix.rstrip("/")] = len(wanted)
        best: dict[str, LockedObject] = {}
        for found in locks.objects(prefix):
            if found.key not in wanted:
                report.uncounted += 1
            elif found.key not in best or _counts_more(found, best[found.key]):
                best[found.key] = found
        for key in sorted(wanted):
            if policy.period(key) is not None:
                yield key, best.get(key)


def _counts_more(one: LockedObject, other: LockedObject) -> bool:
    """A locked version that is current is as it should be; one that is hidden tells that something was put over it."""
    return _rank(one) > _rank(other)


def _rank(found: LockedObject) -> tuple[bool, bool, bool]:
    return found.until is not None and not found.hidden, found.until is not None, not found.hidden


def _problem(
    key: str, found: LockedObject | None, policy: LockPolicy, now: datetime, site: str | None = None
) -> LockProblem | None:
    period = policy.period(key)
    assert period is not None
    wanted = now + policy.least * period
    if found is None:
        return LockProblem(key, Wrong.MISSING, None, wanted, site)
    what: Wrong | None = None
    if found.hidden:
        what = Wrong.HIDDEN
    elif found.until is None:
        what = Wrong.NOT_LOCKED
    elif found.until < wanted:
        what = Wrong.TOO_SHORT
    elif policy.mode is LockMode.COMPLIANCE and found.mode is not LockMode.COMPLIANCE:
        what = Wrong.LIFTABLE
    return None if what is None else LockProblem(key, what, found.until, wanted, site)


def _counting_at(store: ObjectStore, repository: bytes) -> list[str]:
    """What a roll-back is told by: the newest entry a site witnessed, and every change of the keys."""
    keys = [info.key for info in store.list(layout.witness_prefix(repository))]
    numbered = [key for key in keys if layout.sequence_of(key) is not None]
    return [*numbered[-1:], *(key for key in keys if layout.witnessed_keys(repository, key) is not None)]


def _state(locks: ObjectLocks, key: str) -> LockedObject | None:
    try:
        return locks.state(key)
    except ObjectNotFound:
        return None


@dataclass
class RenewReport:
    """What a renewal did.

    Args:
        extended: by class, how many locks were lengthened.
        enough: how many had enough left.
        failed: what could not be locked, one sentence each.
    """

    extended: Counter[str] = field(default_factory=Counter)
    enough: int = 0
    failed: list[str] = field(default_factory=list)

    @property
    def is_good(self) -> bool:
        return not self.failed


def renew_locks(
    vault: Vault,
    locks: ObjectLocks,
    policy: LockPolicy,
    *,
    witness_locks: Mapping[str, ObjectLocks] | None = None,
    now: datetime,
) -> RenewReport:
    """Lock everything that counts for its whole period again where less than the policy's least is left.

    What no live backup needs is not renewed, and can be collected when its lock has run out. Run it more often than the
    shortest period times (1 - least).

    Args:
        now: what the store says the time is (`collect.store_now`): a clock that is wrong would lock too short, or for
            years.

    Raises:
        NotSupported: the vault's bucket keeps no locks. (A witness's that keeps none is told in the report.)
        Damaged, HistoryDamaged: it cannot be told what counts.
    """
    _refuse_no_locks(locks)
    report = RenewReport()
    unused = LockReport(LockCapability("", enforces=False, why=""), now)
    due: list[tuple[ObjectLocks, str]] = []
    for key, found in _to_look_at(vault, locks, policy, unused):
        problem = _problem(key, found, policy, now)
        if problem is None:
            report.enough += 1
        elif problem.what in (Wrong.MISSING, Wrong.HIDDEN):
            report.failed.append(f"{locks.name}: {problem}")
        else:
            due.append((locks, key))
    for site, of_site in (witness_locks or {}).items():
        witness = vault.witnesses.get(site)
        if witness is None:
            continue
        try:
            _refuse_no_locks(of_site)
            for key in _counting_at(witness, vault.history.repository):
                if _problem(key, _state(of_site, key), policy, now) is None:
                    report.enough += 1
                else:
                    due.append((of_site, key))
        except ObjectStoreError as error:
            report.failed.append(f"witness {site}: {error}")
    _extend_all(due, policy, now, report)
    return report


def _extend_all(due: Iterable[tuple[ObjectLocks, str]], policy: LockPolicy, now: datetime, report: RenewReport) -> None:
    def extend(one: tuple[ObjectLocks, str]) -> str | None:
        locks, key = one
        period = policy.period(key) or timedelta()
        try:
            locks.extend(key, now + period, policy.mode)
            return None if is_firmer(locks.state(key), now + period, policy.mode) else f"{key} kept its old lock"
        except ObjectStoreError as error:
            return str(error)

    due = list(due)
    for (_, key), failed in zip(due, at_once(extend, due), strict=True):
        if failed is None:
            report.extended[class_of(key) or "other"] += 1
        else:
            report.failed.append(failed)


def _refuse_no_locks(locks: ObjectLocks) -> None:
    capability = locks.capability()
    if not capability.enforces:
        raise NotSupported(
            "the bucket keeps no locks",
            where=locks.name,
            expected="object locks, enabled for the bucket",
            found=capability.why,
        )


@dataclass
class RevealReport:
    """What `reveal_hidden` did.

    Args:
        keys: what is visible again.
        failed: what is not, one sentence each; one for all that this backend cannot put back.
    """

    keys: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)


def reveal_hidden(
    locks: ObjectLocks, prefixes: Iterable[str] = _CLASSES, *, only_deleted: bool = False
) -> RevealReport:
    """Make visible again what was deleted or overwritten behind a vault's back. Needs no key.

    Of several versions the oldest is put back, with the lock it had: what a vault writes, it writes once. Where it
    cannot be locked again, because its time is over, `lock_report` says so. One object that cannot be put back does not
    keep the others hidden.

    Args:
        only_deleted: leave alone what is there, whoever put it over an older version: a repair may have.
    """
    report = RevealReport()
    impossible: list[NotSupported] = []
    for prefix in prefixes:
        try:
            hidden = _hidden(locks, prefix, only_deleted=only_deleted)
        except ObjectStoreError as error:
            report.failed.append(f"{locks.name}: what is hidden there cannot be told: {error}")
            break
        for found in hidden:
            try:
                locks.reveal(found)
            except NotSupported as error:
                impossible.append(error)
                continue
            except ObjectStoreError as error:
                report.failed.append(f"{locks.name}: {found.key} stays hidden: {error}")
                continue
            if found.until is not None and found.mode is not None:
                with suppress(ObjectStoreError):
                    locks.extend(found.key, found.until, found.mode)
            report.keys.append(found.key)
    if impossible:
        report.failed.append(f"{locks.name}: {len(impossible)} objects stay hidden, the first: {impossible[0]}")
    return report


def _hidden(locks: ObjectLocks, prefix: str, *, only_deleted: bool) -> list[LockedObject]:
    """The oldest version of each object of which that is hidden."""
    oldest: dict[str, LockedObject] = {}
    there: set[str] = set()
    for found in locks.objects(prefix):
        if not found.hidden:
            there.add(found.key)
        if found.key not in oldest or _was_before(found, oldest[found.key]):
            oldest[found.key] = found
    return [found for key, found in oldest.items() if found.hidden and not (only_deleted and key in there)]


def _was_before(one: LockedObject, other: LockedObject) -> bool:
    """Stores tell whole seconds; of two in the same one, that which is locked was the vault's."""
    return (one.written_at, one.until is None) < (other.written_at, other.until is None)
