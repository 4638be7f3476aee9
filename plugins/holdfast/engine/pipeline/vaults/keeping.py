"""Looking after a vault: what it holds, verification, retention, collection, legal holds, keys."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

from holdfast.engine.config import KeepBackups
from holdfast.engine.objectstore.interface import ObjectStore
from holdfast.engine.pipeline.vaults.backing_up import follow
from holdfast.engine.pipeline.vaults.locking import lock_policy, locks_at, protector, remover
from holdfast.engine.pipeline.vaults.opening import opened, prefix_of, recipients_of, unlocked, vault_store
from holdfast.engine.runtime import Runtime
from holdfast.engine.vault.backups import Backup, all_backups, choose, live_backups, newest
from holdfast.engine.vault.collect import CollectOptions, CollectReport, collect
from holdfast.engine.vault.erasure import ErasureStore
from holdfast.engine.vault.erasure_repair import repair as repair_shares
from holdfast.engine.vault.errors import Damaged, NoVault, WrongKey
from holdfast.engine.vault.forget import ForgetPlan, Keep, forget, hold, plan_forget, plan_forget_named
from holdfast.engine.vault.history import load_history
from holdfast.engine.vault.keysets import named_recipients, rotate_keys
from holdfast.engine.vault.locks.report import RevealReport, reveal_hidden
from holdfast.engine.vault.mirror import trim_mirror
from holdfast.engine.vault.needed import freed_bytes
from holdfast.engine.vault.repair import RepairOptions, RepairReport, repair_vault
from holdfast.engine.vault.secrets import ROLES, Secrets
from holdfast.engine.vault.vault import Vault
from holdfast.engine.vault.verifications import verified_by
from holdfast.engine.vault.verify import Depth
from holdfast.errors import ConfigError, HoldfastError, Refused

#: A backup's content may be so much newer than now by this machine's clock.
_SKEW_SECONDS = 300.0


@dataclass(frozen=True)
class RecoveryPoint:
    """The newest verified backup of one dataset or model, against what may be lost.

    Args:
        newest: the newest backup, verified or not.
        backup: the newest that a verification covered and found whole.
        verified_at, depth: when, and how much of it was read then.
        age_seconds: of the verified backup's content, now; ``None``: there is none.
        error: why it is not known.
        unreadable: by entry, why backups of the vault cannot be read; whose they are is not known.
    """

    vault: str
    subject: str
    newest: Backup | None
    backup: Backup | None
    age_seconds: float | None
    rpo_seconds: float
    verified_at: datetime | None = None
    depth: str | None = None
    error: str | None = None
    unreadable: Mapping[int, str] = field(default_factory=dict)

    @property
    def met(self) -> bool | None:
        """Whether less than the RPO would be lost; ``None``: not known."""
        if self.error is not None:
            return None
        return self.age_seconds is not None and -_SKEW_SECONDS <= self.age_seconds <= self.rpo_seconds

    def text(self) -> str:
        """How it stands, for a line."""
        if self.error is not None:
            return self.error
        if self.age_seconds is None:
            return "no verified backup"
        if self.age_seconds < -_SKEW_SECONDS:
            return f"its content is of {-self.age_seconds:.0f} s from now: some clock is wrong"
        return f"{self.age_seconds:.0f} s old, at most {self.rpo_seconds:.0f} s are allowed"


def listed(
    runtime: Runtime, vault: str, *, source: str | None = None, site: str | None = None
) -> tuple[Vault, list[Backup]]:
    """The vault, opened for reading names, and its live backups, newest first.

    Those that cannot be read (`Backup.unreadable`) are among them also where a source is named: they may be its.
    """
    found = opened(runtime, vault, "writer", site=site)
    backups = [one for one in all_backups(found) if source in (None, one.source) or one.unreadable is not None]
    return found, sorted(backups, key=lambda one: (one.taken_at, one.sequence), reverse=True)


def recovery_points(runtime: Runtime, group: str, vault: str, *, at_least: Depth | None = None) -> list[RecoveryPoint]:
    """How old the newest verified backup of each of a group's datasets and models is.

    A vault that cannot be read is told of.

    Args:
        at_least: how deep it was verified; by default the topology's `rpo_depth`.
    """
    hours = runtime.topology.vault(vault).rpo_hours
    depth = at_least or Depth(runtime.topology.vault(vault).rpo_depth)
    rpo = runtime.topology.group(group).objectives.rpo_seconds if hours is None else hours * 3600
    from holdfast.engine.recovery.subjects import snapshot_subjects

    subjects = snapshot_subjects(runtime.topology, group)
    try:
        found = opened(runtime, vault, "writer")
        if found.alarm is not None:
            raise found.alarm
        unreadable: dict[int, str] = {}
        backups = live_backups(found, unreadable=unreadable)
        proofs = verified_by(found, depth)
    except HoldfastError as error:
        return [RecoveryPoint(vault, subject, None, None, None, rpo, error=str(error)) for subject in subjects]
    now = runtime.clock.now()
    points = []
    for subject in subjects:
        of_subject = [one for one in backups if one.source == subject]
        best = newest(one for one in of_subject if one.sequence in proofs)
        proof = None if best is None else proofs[best.sequence]
        points.append(
            RecoveryPoint(
                vault,
                subject,
                newest(of_subject),
                best,
                None if best is None else (now - best.taken_at).total_seconds(),
                rpo,
                None if proof is None else proof.at,
                None if proof is None else proof.depth,
                unreadable=unreadable,
            )
        )
    return points


def keep_of(settings: KeepBackups) -> Keep:
    """A topology's retention as the engine takes it."""
    return Keep(**settings.model_dump())


def forgotten(
    runtime: Runtime,
    vault: str,
    *,
    backups: Sequence[str] = (),
    source: str | None = None,
    last_too: bool = False,
) -> ForgetPlan:
    """Forget by the topology's retention, or backups by name.

    Args:
        backups: names, as `choose` takes them.
        last_too: also the last backup of a source, where it is named.

    Raises:
        UnknownBackup: no backup answers to a name, or several do.
        Refused: a legal hold, or the last backup of a source.
    """
    found = opened(runtime, vault, "admin")
    if backups:
        plan = forget(found, backups=backups, source=source, spare_last=not last_too)[1]
    else:
        plan = forget(found, keep_of(runtime.topology.vault(vault).keep), source=source)[1]
    follow(runtime, vault)
    return plan


def would_forget(
    runtime: Runtime,
    vault: str,
    *,
    backups: Sequence[str] = (),
    source: str | None = None,
    last_too: bool = False,
) -> tuple[ForgetPlan, int]:
    """What `forgotten` would let go, and the bytes collections would free then. Changes nothing. Raises the same."""
    found = opened(runtime, vault, "writer")
    live = [one for one in all_backups(found) if source in (None, one.source)]
    if backups:
        plan = plan_forget_named(live, backups, where=found.name, spare_last=not last_too)
    else:
        plan = plan_forget(live, keep_of(runtime.topology.vault(vault).keep))
    return plan, freed_bytes(found, (backup.sequence for backup in plan.forgotten))


def collected(runtime: Runtime, vault: str, *, dry_run: bool = False, repack: bool = True) -> CollectReport:
    """Collect what is nobody's, and bring the mirrors up to it; they lose what was collected when their grace is over.

    With the reader's keys at hand packs of which little is needed are written anew.
    """
    grace = timedelta(hours=runtime.topology.vault(vault).grace_hours)
    reader: Secrets | None = None
    if repack and not dry_run:
        try:
            reader = unlocked(runtime, vault, "reader")
        except (WrongKey, ConfigError):
            reader = None
    found = opened(runtime, vault, "admin")
    options = CollectOptions(grace=grace, dry_run=dry_run, reader=reader, remove=remover(runtime, vault, found.store))
    report = collect(found, options)[1]
    if not dry_run:
        follow(runtime, vault)
        for site in runtime.topology.vault(vault).mirrors:
            mirror = opened(runtime, vault, "admin", site=site)
            trim_mirror(mirror, grace=grace, remove=remover(runtime, vault, mirror.store, site=site))
    return report


def repaired(
    runtime: Runtime,
    vault: str,
    *,
    accept_loss: bool = False,
    mirror: str | None = None,
    depth: Depth = Depth.FULL,
    progress: Callable[[int, int], None] = lambda _done, _all: None,
) -> RepairReport:
    """Put back what is missing or damaged: from copies, from packs' own tables, from a mirror; shares from shares.

    In a bucket with locks what was deleted is only hidden, and made visible again first. Nothing is removed.

    Args:
        accept_loss: where entries of the log are nowhere any more, go on with what is left.
        mirror: a site; by default every mirror of the vault that opens. Where a loss is to be accepted, before the
            others.
        depth: how packs and shares are looked at; only a full read finds every damaged one.

    Raises:
        HistoryDamaged: two histories, and the witnesses do not say which is right.
        NotEntitled: a loss is to be accepted, and the keys are not an administrator's.
        Refused: a loss is to be accepted, and a mirror cannot be read.
    """
    settings = runtime.topology.vault(vault)
    shared = vault_store(runtime, vault)
    revealed = _revealed(runtime, vault)
    shares = None
    if isinstance(shared, ErasureStore):
        shares = repair_shares(shared, deep=depth is Depth.FULL)
    others: dict[str, ObjectStore] = {}
    newest_at: dict[str, int] = {}
    away: dict[str, HoldfastError] = {}
    sites = settings.mirrors if mirror is None else (mirror,)
    for site in dict.fromkeys((*sites, *settings.mirrors) if accept_loss else sites):
        store = vault_store(runtime, vault, site=site)
        try:
            newest_at[site] = load_history(store).tip.sequence
        except HoldfastError as error:
            if site == mirror:
                raise
            away[site] = error
            continue
        others[site] = store
    if accept_loss and away:
        raise Refused(
            "a loss is not accepted while a mirror cannot be read: it may have what is missing here",
            where=f"vault {vault}",
            expected="every mirror to answer",
            found="; ".join(f"{site}: {error}" for site, error in away.items()),
            fix="Bring the mirror back, or take it out of the topology if it is gone for good",
        )
    try:
        found = opened(runtime, vault, "admin")
    except (Damaged, NoVault) as error:
        if not others and revealed.failed:
            raise Damaged(
                "the vault does not open, and what was deleted from its bucket stays hidden",
                where=f"vault {vault}",
                found=str(error),
                fix="; ".join(revealed.failed),
            ) from error
        if not others:
            raise
        at = max(others, key=lambda site: newest_at[site])
        found = replace(
            opened(runtime, vault, "admin", site=at), store=shared, protect=protector(runtime, vault, shared)
        )
    options = RepairOptions(
        depth=depth,
        accept_loss=accept_loss,
        reader=_reader_at_hand(runtime, vault, [shared, *others.values()]),
        protect=found.protect,
        progress=progress,
    )
    report = repair_vault(found, tuple(others.values()), options)
    report.healed = {**dict.fromkeys(revealed.keys, "a hidden version of it"), **report.healed}
    report.hidden = revealed.failed
    report.shares = shares
    return report


def _revealed(runtime: Runtime, vault: str) -> RevealReport:
    """Make what was deleted behind the vault's back visible again, at each site by itself."""
    done = RevealReport()
    if lock_policy(runtime, vault) is not None:
        settings = runtime.topology.vault(vault)
        for site in settings.shares.sites if settings.shares is not None else (settings.site,):
            found = reveal_hidden(locks_at(runtime, site, below=prefix_of(runtime, vault)), only_deleted=True)
            done.keys += found.keys
            done.failed += found.failed
    return done


def _reader_at_hand(runtime: Runtime, vault: str, stores: Iterable[ObjectStore]) -> Secrets | None:
    """The reader's secrets, where this machine can open them; they are the same in each copy of the vault."""
    for store in stores:
        with suppress(WrongKey, ConfigError, Damaged):
            return unlocked(runtime, vault, "reader", store=store)
    return None


def held(runtime: Runtime, vault: str, backups: Iterable[str], *, release: bool = False) -> list[Backup]:
    """Put backups under a legal hold, or release them. Raises UnknownBackup: as `forgotten`."""
    found = opened(runtime, vault, "admin")
    live = all_backups(found)
    wanted = [choose(live, name, found.name) for name in backups]
    after = hold(found, wanted, held=not release)
    follow(runtime, vault)
    numbers = {backup.sequence for backup in wanted}
    return [backup for backup in all_backups(after) if backup.sequence in numbers]


def rotated(
    runtime: Runtime,
    vault: str,
    roles: Sequence[str],
    *,
    new_generation: bool = False,
    new_signer: bool = False,
    new_admin: bool = False,
) -> dict[str, Any]:
    """Write the key sets of some roles anew, for the recipients the topology names now.

    The old ones must still be openable with one of them.

    Raises:
        WrongKey, ConfigError.
    """
    unknown = set(roles) - set(ROLES)
    if unknown:
        raise ConfigError("unknown role", expected=", ".join(ROLES), found=", ".join(sorted(unknown)))
    store = vault_store(runtime, vault)
    renewed = {"reader": new_generation, "writer": new_signer, "admin": new_admin}
    wanted = {*roles, *(role for role, is_new in renewed.items() if is_new)}
    secrets = {role: unlocked(runtime, vault, role, store=store) for role in wanted - {"admin"}}
    after, written = rotate_keys(
        opened(runtime, vault, "admin"),
        {role: recipients_of(runtime, vault, role) for role in sorted(wanted)},
        writer=secrets.get("writer"),
        reader=secrets.get("reader"),
        new_generation=new_generation,
        new_signer=new_signer,
        new_admin=new_admin,
    )
    follow(runtime, vault)
    keys = after.history.keys
    return {
        "vault": vault,
        "written": sorted(written),
        "generation": keys.generation,
        "keysets": dict(keys.keysets),
        "entry": after.history.tip.sequence,
    }


def key_facts(runtime: Runtime, vault: str) -> dict[str, Any]:
    """Who can open what, without opening anything."""
    store = vault_store(runtime, vault)
    history = load_history(store)
    sets = {
        role: {
            "keyset": keyset,
            "recipients": [{"kind": kind, "key": key} for kind, key in named_recipients(store, role)],
        }
        for role, keyset in history.keys.keysets.items()
    }
    return {
        "vault": vault,
        "repository": history.repository.hex(),
        "generations": sorted(history.keys.recipients),
        "keysets": sets,
    }
