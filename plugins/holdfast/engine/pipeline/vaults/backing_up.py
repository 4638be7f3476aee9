"""Backing up: datasets, models and runs of a group, folders, commands; into each of the group's vaults."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

from holdfast.engine.pipeline.vaults.locking import protector
from holdfast.engine.pipeline.vaults.opening import opened, places_of, require_own, vault_store, vaults_of
from holdfast.engine.pipeline.vaults.residency import check_mirror
from holdfast.engine.policy import BACK_UP, check_hop, residency_for
from holdfast.engine.runtime import Runtime
from holdfast.engine.snapshot import OpenSnapshot, open_snapshot
from holdfast.engine.vault.backup import BackupOptions, BackupReport, Progress, back_up
from holdfast.engine.vault.erasure import ErasureStore
from holdfast.engine.vault.errors import Damaged
from holdfast.engine.vault.mirror import MirrorReport, mirror_vault
from holdfast.engine.vault.prefix_source import PrefixSource
from holdfast.engine.vault.sources import SnapshotSource, Source
from holdfast.engine.vault.tables import table_source
from holdfast.engine.vault.vault import Vault
from holdfast.engine.vault.verifications import note_verification
from holdfast.engine.vault.verify import VerifyOptions, verify_vault
from holdfast.errors import ConfigError, HoldfastError

Tell = Callable[[Progress], None]
#: Models are finished files that change as a whole.
_MODEL_CHUNK_BYTES = 1024 * 1024
#: Checkpoints' blobs change as a whole or not at all.
_RUN_CHUNK_BYTES = 2 * 1024 * 1024


class NotMirrored(HoldfastError):
    """It is done at the vault, but a mirror could not be brought up to it."""

    transient = True


class NotWhole(Damaged):
    """The backup is made, but a look at the vault found something wrong. Another backup stores anew what it can."""

    transient = True


@dataclass(frozen=True)
class Made:
    """One backup that was made, for people and `--json`.

    Args:
        mirrors: by site, what was copied there, or why nothing was.
        witnesses: by site, ``None`` or why it could not witness the backup.
        problems: what a look at its structure found wrong, once it was made.
        unfinished: what stands, but is not locked or not written at every site of the shares.
    """

    vault: str
    report: BackupReport = field(repr=False)
    mirrors: Mapping[str, MirrorReport | HoldfastError] = field(default_factory=dict)
    witnesses: Mapping[str, str | None] = field(default_factory=dict)
    problems: tuple[str, ...] = ()
    unfinished: tuple[str, ...] = ()

    @property
    def warnings(self) -> tuple[str, ...]:
        """What somebody should know of it, one sentence each."""
        return (*self.report.damaged, *self.problems, *self.unfinished)

    def to_summary(self) -> dict[str, Any]:
        stored = self.report.stored
        return {
            "vault": self.vault,
            **self.report.backup.to_summary(),
            "read_objects": self.report.read_objects,
            "read_bytes": self.report.read_bytes,
            "new_chunks": stored.new_chunks,
            "new_bytes": stored.new_bytes,
            "reused_bytes": stored.reused_bytes,
            "stored_bytes": stored.stored_bytes,
            "packs": stored.packs,
            "witnesses": dict(self.witnesses),
            "mirrors": {
                site: {"error": str(found)}
                if isinstance(found, HoldfastError)
                else {"copied": found.copied, "copied_bytes": found.copied_bytes, "problems": found.problems}
                for site, found in self.mirrors.items()
            },
            "warnings": list(self.warnings),
        }

    def require_mirrored(self) -> Made:
        """That it lies wherever it belongs.

        Raises:
            NotWhole: a look at the vault found something wrong.
            NotMirrored: a mirror lacks it, or a witness does not know it.
        """
        failed = [f"mirror {why}" for why in _not_followed(self.mirrors)]
        failed += [f"witness {site}: {error}" for site, error in self.witnesses.items() if error is not None]
        where = f"vault {self.vault}, backup {self.report.backup.backup_id}"
        if self.problems:
            raise NotWhole(
                "the backup is made, but something is wrong with the vault",
                where=where,
                expected="everything it needs to be there",
                found="; ".join((*self.problems, *failed)),
                fix=f"`holdfast vault verify --repair --vault {self.vault}` puts back what another copy or a mirror "
                "still has; chunks that nobody has any more the next backup stores anew, where its source has them",
            )
        if failed:
            raise NotMirrored(
                "the backup is made, but not everywhere it belongs",
                where=where,
                expected="every mirror and witness to have it",
                found="; ".join(failed),
                fix=f"When the site answers again: `holdfast vault mirror --vault {self.vault}`",
            )
        return self


def subjects_of(runtime: Runtime, group: str, subject: str | None = None) -> tuple[str, ...]:
    """The dataset or model that is named, or all of the group's.

    Raises:
        UnknownName: no such group.
        ConfigError: the group has no such dataset or model.
    """
    from holdfast.engine.recovery.subjects import snapshot_subjects

    found = snapshot_subjects(runtime.topology, group)
    if subject is None:
        return found
    if subject not in found:
        raise ConfigError(
            "the group has no such dataset or model",
            where=f"group {group}",
            expected=f"one of {', '.join(found) or '(none)'}",
            found=repr(subject),
        )
    return (subject,)


@dataclass(frozen=True)
class Attempt:
    """One dataset or model of a group and one vault: what was made, and why it is not, or not everywhere."""

    subject: str
    vault: str
    made: Made | None
    error: HoldfastError | None


def back_up_group(
    runtime: Runtime,
    group: str,
    *,
    vault: str | None = None,
    subject: str | None = None,
    site: str | None = None,
    snapshot: str | None = None,
    tier: str = "daily",
    labels: Mapping[str, str] | None = None,
    watch: Callable[[str, str], AbstractContextManager[Tell]] = lambda _subject, _vault: nullcontext(
        lambda _seen: None
    ),
) -> Iterator[Attempt]:
    """Back up a group's datasets and models into its vaults in turn; one that fails does not stop the others.

    Args:
        vault: only into this one of the group's.
        subject: only this dataset or model.
        site, snapshot, tier, labels: as `back_up_subject`.
        watch: given a subject and a vault, around the backup: what is told its progress.

    Raises:
        UnknownName, ConfigError: a name is wrong; nothing was read.
    """
    into, subjects = vaults_of(runtime, group, vault), subjects_of(runtime, group, subject)
    for one in into:
        for what in subjects:
            made: Made | None = None
            error: HoldfastError | None = None
            try:
                with watch(what, one) as progress:
                    made = back_up_subject(
                        runtime,
                        group,
                        what,
                        one,
                        site=site,
                        snapshot=snapshot,
                        tier=tier,
                        labels=labels,
                        progress=progress,
                    )
                made.require_mirrored()
            except HoldfastError as failure:
                error = failure
            yield Attempt(what, one, made, error)


def back_up_subject(
    runtime: Runtime,
    group: str,
    subject: str,
    vault: str,
    *,
    site: str | None = None,
    snapshot: str | None = None,
    tier: str = "daily",
    labels: Mapping[str, str] | None = None,
    progress: Tell | None = None,
) -> Made:
    """Back up a snapshot of a dataset or model.

    Args:
        site: where it is read; by default the active site.
        snapshot: its id, or how it begins; by default the newest that may be selected there.

    Raises:
        UnknownName, ConfigError, GroupNotInitialised, NoMajority, NoSnapshot: nothing was read.
        ResidencyRefused: the vault or a mirror lies where the data may not.
        RolledBack, WrongKey: the vault.
        ObjectDamaged, SourceChanged: the source; no backup was made.
    """
    from holdfast.engine.pipeline.active import require_active
    from holdfast.engine.pipeline.replicas import record_at

    require_own(runtime, group, vault)
    subjects_of(runtime, group, subject)
    state = require_active(runtime, group)
    here = site or state.active_site
    _check_residency(runtime, subject, vault, here)
    store = runtime.store(here, flow=group)
    record = record_at(store, subject, here, state.epoch, snapshot)
    source = _snapshot_source(runtime, subject, here, open_snapshot(store, record))
    datasets = runtime.topology.datasets
    chunk = datasets[subject].backup_chunk_kib * 1024 if subject in datasets else _MODEL_CHUNK_BYTES
    return back_up_source(
        runtime,
        vault,
        source,
        tier=tier,
        chunk_bytes=chunk,
        labels={"group": group, **(labels or {})},
        progress=progress,
    )


def _snapshot_source(runtime: Runtime, subject: str, site: str, snapshot: OpenSnapshot) -> SnapshotSource:
    """A snapshot, with what a restore drill will want to know of it; of lake tables their newest version alone."""
    dataset = runtime.topology.datasets.get(subject)
    if dataset is None:
        from holdfast.engine.drill.golden import answers_to_record

        return SnapshotSource(subject, site, snapshot, notes=answers_to_record(runtime, subject, snapshot))
    if dataset.sync.table == "none":
        return SnapshotSource(subject, site, snapshot)
    return table_source(subject, site, snapshot, table=dataset.sync.table)


def back_up_run(
    runtime: Runtime,
    group: str,
    run: str,
    vault: str,
    *,
    site: str | None = None,
    tier: str = "daily",
    progress: Tell | None = None,
) -> Made:
    """Back up a training run: its checkpoints, epochs and attempts. Restored below ``runs/`` it can go on there.

    Args:
        site: where it is read; by default the active site.

    Raises:
        ConfigError: no job of the group has such a run, or the site has none of it.
        Others: as `back_up_subject`.
    """
    from holdfast.engine.checkpoint.format import run_root
    from holdfast.engine.pipeline.active import require_active
    from holdfast.engine.recovery.subjects import base_run, job_of_run

    require_own(runtime, group, vault)
    topology = runtime.topology
    owner = job_of_run(topology, run)
    if owner is None or owner[0] != group:
        raise ConfigError(
            "no job of the group has such a run",
            where=f"group {group}",
            expected=" or ".join(f"{base_run(group, job)}…" for job in topology.group(group).training) or "no run",
            found=repr(run),
        )
    here = site or require_active(runtime, group).active_site
    _check_residency(runtime, topology.job(owner[1]).dataset, vault, here, resource=f"runs/{run}")
    store = runtime.store(here, flow=group)
    prefix = f"{run_root(run)}/"
    if next(iter(store.list(f"{prefix}checkpoints/")), None) is None:
        raise ConfigError(
            "the site has no checkpoint of the run",
            where=f"{store.name}: {prefix}",
            expected="at least one checkpoint",
            found="none",
            fix="`holdfast train status` says where the run is",
        )
    source = PrefixSource(prefix[:-1], here, store, prefix, runtime.clock.now(), naming=("checkpoints/",))
    return back_up_source(
        runtime, vault, source, tier=tier, chunk_bytes=_RUN_CHUNK_BYTES, labels={"group": group}, progress=progress
    )


def back_up_source(
    runtime: Runtime,
    vault: str,
    source: Source,
    *,
    tier: str = "daily",
    chunk_bytes: int = 256 * 1024,
    labels: Mapping[str, str] | None = None,
    progress: Tell | None = None,
    full: bool = False,
) -> Made:
    """Back up any source, and bring the mirrors up to it. A mirror that fails is told of in what is returned."""
    options = BackupOptions(
        tier=tier,
        chunk_bytes=chunk_bytes,
        labels=dict(labels or {}),
        progress=progress or (lambda _seen: None),
        full=full,
    )
    report = back_up(opened(runtime, vault, "writer"), source, options)
    checked = verify_vault(report.vault, VerifyOptions(backups=(report.backup,)))
    if checked.is_good:
        note_verification(report.vault, checked, frozenset([report.backup.sequence]), report.vault.secrets)
    witnesses = {witness.site: witness.unknown for witness in report.witnessed}
    return Made(
        vault,
        report,
        mirror_everywhere(runtime, vault, known=report.vault),
        witnesses,
        tuple(checked.problems),
        tuple(unfinished_in(report.vault)),
    )


def unfinished_in(vault: Vault) -> list[str]:
    """What was written through a vault and could not be locked, or not be written at every site of its shares."""
    lines = [f"not locked, `holdfast vault locks --renew` locks it: {error}" for error in vault.unprotected]
    if isinstance(vault.store, ErasureStore):
        by_kind: dict[tuple[str, str], list[str]] = {}
        for one in vault.store.incomplete:
            by_kind.setdefault((one.site, one.what), []).append(one.key)
        lines += [
            f"{site}: {len(keys)} objects {what}, the first {keys[0]}; "
            f"`holdfast vault {'locks --renew' if 'locked' in what else 'verify --repair'}` makes up for it"
            for (site, what), keys in by_kind.items()
        ]
    return lines


def mirror_everywhere(
    runtime: Runtime, vault: str, *, site: str | None = None, known: Vault | None = None
) -> dict[str, MirrorReport | HoldfastError]:
    """Bring every mirror of a vault up to it; one that fails, or may not have it all, does not stop the others.

    Args:
        site: only the mirror there. Raises ConfigError: there is none.
        known: the vault, where it is open already.
    """
    done: dict[str, MirrorReport | HoldfastError] = {}
    for at in mirrors_of(runtime, vault, site):
        try:
            check_mirror(runtime, vault, at, known)
            mirror = vault_store(runtime, vault, site=at)
            done[at] = mirror_vault(
                vault_store(runtime, vault), mirror, protect=protector(runtime, vault, mirror, site=at)
            )
        except HoldfastError as error:
            done[at] = error
    return done


def mirrors_of(runtime: Runtime, vault: str, site: str | None = None) -> tuple[str, ...]:
    """The sites of a vault's mirrors, or the one of them that is named. Raises ConfigError: it is none of them."""
    mirrors = tuple(runtime.topology.vault(vault).mirrors)
    if site is None:
        return mirrors
    if site not in mirrors:
        raise ConfigError(
            "the vault has no mirror at this site",
            where=f"vaults.{vault}.mirrors",
            expected=f"one of {', '.join(mirrors) or '(none)'}",
            found=repr(site),
        )
    return (site,)


def _not_followed(mirrors: Mapping[str, MirrorReport | HoldfastError]) -> list[str]:
    """Which mirrors lie behind, each with why."""
    return [
        f"{site}: {found if isinstance(found, HoldfastError) else found.problems[0]}"
        for site, found in mirrors.items()
        if isinstance(found, HoldfastError) or found.problems
    ]


def follow(runtime: Runtime, vault: str) -> None:
    """Bring the mirrors up to what was just changed: a mirror that knows less opens with older keys, or not at all.

    Raises NotMirrored: it stands at the vault, and a mirror does not know it.
    """
    failed = _not_followed(mirror_everywhere(runtime, vault))
    if failed:
        raise NotMirrored(
            "it is done at the vault, but a mirror does not know it",
            where=f"vault {vault}",
            expected="every mirror to follow",
            found="; ".join(failed),
            fix=f"When the site answers again: `holdfast vault mirror --vault {vault}`",
        )


def _check_residency(runtime: Runtime, subject: str, vault: str, source: str, *, resource: str | None = None) -> None:
    residency, sites = residency_for(runtime.topology, subject), runtime.topology.sites
    for site in places_of(runtime, vault):
        check_hop(subject, residency, site, sites, intent=BACK_UP, source=source, resource=resource)
