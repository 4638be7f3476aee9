"""A restore drill: the newest backup, restored into another cloud, checked, timed, removed again, and signed.

It measures how long it takes from the decision to a validated restore (RTO) and how old the restored content is (RPO).
A drill that failed or was broken off is signed as well, and what it restored is removed however it ends.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from holdfast import __version__
from holdfast.engine.config import Objectives
from holdfast.engine.drill.conclude import keep_evidence
from holdfast.engine.drill.errors import DrillError
from holdfast.engine.drill.evidence import load_or_create_key, write_evidence
from holdfast.engine.drill.golden import find_reference, golden_set
from holdfast.engine.drill.interrupts import DrillInterrupted, Interrupts, interrupts
from holdfast.engine.drill.lost_shares import about_shares, lost_sites, without
from holdfast.engine.drill.phases import new_drill_id
from holdfast.engine.drill.restore_checks import (
    Restored,
    check_expectations,
    check_model,
    check_tables,
    compare_content,
    verify_objects,
)
from holdfast.engine.drill.restore_claims import Measured, claims_of
from holdfast.engine.drill.restore_journal import RestoreDrillJournal, RestoreStatus
from holdfast.engine.drill.restore_subject import Subject, about_vault, choose_target, find_subject, place_of
from holdfast.engine.drill.scratch_prefix import remove_all, remove_left_behind, scratch_prefix
from holdfast.engine.objectstore.errors import ObjectStoreError
from holdfast.engine.objectstore.interface import ObjectStore
from holdfast.engine.recovery.interface import Progress, ProgressSink, Rooms, ignore_progress
from holdfast.engine.vault.backups import Backup, find_backup
from holdfast.engine.vault.content import recorded_content
from holdfast.engine.vault.tables import restore_tables
from holdfast.engine.vault.targets import PrefixTarget
from holdfast.engine.vault.tree import TreeRow
from holdfast.engine.vault.vault import Vault
from holdfast.errors import ConfigError, HoldfastError, Refused

_GIB = 1024**3
#: Failures before these phases are over touched nothing: nothing is known of the backup.
_BEFORE = ("open_vault", "find_backup", "choose_target")


def run_restore_drill(
    rooms: Rooms,
    subject: str,
    *,
    open_vault: Callable[[], Vault],
    vault_site: str,
    output: Path,
    group: str | None = None,
    source: str | None = None,
    backup: str | None = None,
    at: datetime | None = None,
    target_site: str | None = None,
    objectives: Objectives | None = None,
    drill_id: str | None = None,
    progress: ProgressSink = ignore_progress,
    share_sites: tuple[str, ...] = (),
) -> RestoreDrillJournal:
    """Restore a dataset's or model's backup into another cloud, check it, remove it, and sign what was measured.

    The evidence is written to ``output`` and kept in every bucket of the group that answers, however the drill ends.

    Args:
        subject: the dataset or model.
        open_vault: opens the vault with a reader's keys; it is part of the recovery time.
        vault_site: where the vault lies.
        group: whose objectives count; by default the first group that has the subject.
        source: name of the series of backups; by default the subject's.
        backup: which one, by its id; by default the newest.
        at: instead, the newest whose content is not newer than this.
        target_site: where to restore; by default the first site in another cloud that may hold the data.
        objectives: to be met; by default the group's.
        drill_id: as `new_drill_id` makes it.
        share_sites: of a vault of shares all its sites: those of one cloud are taken for lost (`lost_shares`).

    Raises:
        UnknownName, ConfigError: a name, the signing key or the output folder is wrong; nothing was done.
    """
    found = find_subject(rooms.topology, subject, group)
    rooms.topology.site(vault_site)
    key = load_or_create_key(rooms.environ)  # a key that cannot sign is told now, not after the restore
    _require_writable(output)
    drill_id = drill_id or new_drill_id(rooms.clock.now())
    run = _Run(
        rooms,
        found,
        drill_id,
        scratch_prefix(drill_id),
        open_vault,
        vault_site,
        (source or subject, backup, at),
        target_site,
        objectives or found.objectives,
        progress,
        share_sites,
    )
    with interrupts() as signals:
        try:
            _guarded(run, signals)
        finally:
            signals.held = True  # a second signal does not keep anything from being removed and signed
            run.clean_up()
            journal = run.journal()
            paths = write_evidence(journal.as_document(), output, key)
            kept = keep_evidence(rooms, found.group, drill_id, {path.name: path.read_bytes() for path in paths.all()})
            for site, outcome in kept.items():
                progress(Progress("evidence", "done" if outcome == "kept" else "failed", detail=f"{site}: {outcome}"))
    return journal


def _require_writable(folder: Path) -> None:
    """Raises ConfigError: evidence cannot be written there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ConfigError(
            "the evidence cannot be written here",
            where=str(folder),
            expected="a folder that can be written, or made",
            found=str(error.strerror),
            fix="Name another one; nothing was restored",
        ) from None


def _guarded(run: _Run, signals: Interrupts) -> None:
    """Run it, and note how it ended. What is nobody's fault outside is raised, after it was noted."""
    try:
        try:
            run.work()
        finally:
            signals.held = True
        run.status = "completed"
    except (KeyboardInterrupt, DrillInterrupted) as interruption:
        run.status = "interrupted"
        told = str(interruption) or "KeyboardInterrupt"
        run.error = DrillError("the drill was interrupted", where=run.drill_id, found=told)
    except HoldfastError as failure:
        by_rule = isinstance(failure, Refused) and run.stands_before_the_restore
        run.status, run.error = "aborted" if by_rule else "failed", failure
    except Exception as bug:
        run.status = "failed"
        run.error = DrillError("the drill met an error of its own", found=f"{type(bug).__name__}: {bug}")
        raise


def _tables_of(backup: Backup) -> list[Mapping[str, Any]]:
    """The tables a backup says it holds."""
    found = backup.origin.get("tables")
    return [one for one in found if isinstance(one, Mapping)] if isinstance(found, list) else []


class _Noting(PrefixTarget):
    """A prefix that remembers what was to be restored to it."""

    def __init__(self, store: ObjectStore, prefix: str) -> None:
        super().__init__(store, prefix)
        self.rows: dict[str, TreeRow] = {}

    def has(self, row: TreeRow) -> bool:
        self.rows[row.path] = row
        return super().has(row)


@dataclass
class _Run:
    """One drill in progress."""

    rooms: Rooms
    subject: Subject
    drill_id: str
    prefix: str
    open_vault: Callable[[], Vault]
    vault_site: str
    wanted: tuple[str, str | None, datetime | None]
    target_site: str | None
    objectives: Objectives
    progress: ProgressSink
    share_sites: tuple[str, ...] = ()
    #: Until something else is known: whatever ends it without a word.
    status: RestoreStatus = "interrupted"
    error: HoldfastError | None = None
    measured: Measured = field(default_factory=lambda: Measured())
    phases: list[dict[str, Any]] = field(default_factory=list)
    _vault: Vault | None = None
    _backup: Backup | None = None
    _store: ObjectStore | None = None
    _chosen: str | None = None
    _lost: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        clock = self.rooms.clock
        self._started_at, self._started = clock.now(), clock.monotonic()

    @property
    def stands_before_the_restore(self) -> bool:
        return not self.phases or self.phases[-1]["name"] in _BEFORE

    # -- the story ---------------------------------------------------------------------------------------------------

    def work(self) -> None:
        """From the vault's door to a restore that was checked."""
        with self._phase("open_vault"):
            vault = self._vault = self.open_vault()
        with self._phase("find_backup"):
            source, wanted, at = self.wanted
            backup = self._backup = find_backup(vault, wanted, source=source, at=at)
            self.measured.rpo_seconds = round((self._started_at - backup.taken_at).total_seconds(), 6)
        with self._phase("choose_target"):
            source_site = str(backup.origin.get("site"))
            if self.share_sites:
                self._lost = lost_sites(self.rooms.topology, self.share_sites, source_site)
                vault = without(vault, self._lost)
            self._chosen = choose_target(
                self.rooms.topology,
                self.subject,
                vault_site=self._lost[0] if self._lost else self.vault_site,
                source_site=source_site,
                wanted=self.target_site,
            )
            store = self._store = self.rooms.store(self._chosen)
        with self._phase("restore"):
            rows = self._restore(vault, backup, store)
        restored = Restored(store, self.prefix, rows)
        with self._phase("verify"):
            self.measured.verified = verify_objects(restored)
        with self._phase("validate"):
            self._validate(restored, backup)
        self.measured.rto_seconds = round(self.rooms.clock.monotonic() - self._started, 6)

    def _restore(self, vault: Vault, backup: Backup, store: ObjectStore) -> Mapping[str, TreeRow]:
        target = _Noting(store, self.prefix)
        site = self.rooms.topology.site(str(self._chosen))
        # Nobody but this drill reads a table here, so what its location is called does not matter, only that it fits.
        location = f"{site.cloud}://{site.bucket}/{self.prefix}"
        done = restore_tables(vault, backup, target, location=location)
        self.measured.restored = {
            "objects": done.restored,
            "bytes": done.restored_bytes,
            "read_bytes": done.read_bytes,
            "rewritten": [asdict(one) for one in done.rewritten],
        }
        return target.rows

    def _validate(self, restored: Restored, backup: Backup) -> None:
        if self.subject.kind == "model":
            asked = golden_set(self.rooms, self.subject.name)
            reference = None if asked is None else find_reference(self.rooms, self.subject.name, backup.origin, asked)
            self.measured.model = check_model(restored, asked, reference)
            return
        self.measured.tables = check_tables(restored, _tables_of(backup))
        self.measured.content = compare_content(restored, recorded_content(backup.origin))
        if self.subject.suite is not None:
            self.measured.expectations = check_expectations(restored, self.subject.suite)

    def clean_up(self) -> None:
        """Remove what was restored. Never raises for what the store does."""
        if self._store is None:
            self.measured.cleanup = {"removed_objects": 0, "clean": True, "left": [], "error": None}
            return
        with self._phase("clean_up"):
            done = remove_all(self._store, self.drill_id)
            self.measured.cleanup = {
                "removed_objects": done.removed,
                "clean": done.clean,
                "left": list(done.left),
                "error": done.error,
            }
            try:
                self.measured.cleanup["left_by_earlier_drills"] = list(
                    remove_left_behind(self._store, self.rooms.clock.now())
                )
            except ObjectStoreError as error:
                self.measured.cleanup["left_by_earlier_drills"] = str(error)

    @contextmanager
    def _phase(self, name: str) -> Iterator[None]:
        """Time a part of the story, and note how it ended."""
        clock = self.rooms.clock
        self.progress(Progress(name, "begun"))
        begun, started_at = clock.monotonic(), clock.now()
        phase: dict[str, Any] = {"name": name, "status": "interrupted", "started_at": started_at.isoformat()}
        self.phases.append(phase)
        try:
            yield
            phase["status"] = "done"
        except HoldfastError as error:
            phase |= {"status": "failed", "error": error.as_dict()}
            raise
        except Exception as bug:
            phase |= {"status": "failed", "error": {"error": type(bug).__name__, "what": str(bug)}}
            raise
        finally:
            phase["seconds"] = round(clock.monotonic() - begun, 6)
            detail = None if phase["status"] == "done" else str(phase.get("error", {}).get("what", ""))
            self.progress(Progress(name, "done" if phase["status"] == "done" else "failed", phase["seconds"], detail))

    # -- what is told ------------------------------------------------------------------------------------------------

    def journal(self) -> RestoreDrillJournal:
        """All that is known of it."""
        topology, clock = self.rooms.topology, self.rooms.clock
        origin = self._backup.origin if self._backup is not None else {}
        source = place_of(topology, str(origin["site"]) if "site" in origin else None)
        target = {**place_of(topology, self._chosen), "prefix": self.prefix}
        vault = {**place_of(topology, self.vault_site), **about_vault(self._vault, self._backup)}
        vault |= about_shares(topology, self.share_sites, self._lost)
        claims, left_out = claims_of(
            self.measured,
            self.subject,
            self.objectives,
            vault=vault,
            source=source,
            target=target,
            backup=self._backup.origin if self._backup is not None else None,
        )
        rto = {one["name"]: one["seconds"] for one in self.phases if one["name"] != "clean_up"}
        return RestoreDrillJournal(
            drill_id=self.drill_id,
            subject=self.subject.name,
            kind=self.subject.kind,
            group=self.subject.group,
            status=self.status,
            claims=claims,
            not_claimed=left_out,
            objectives=self.objectives.model_dump(mode="json"),
            rto_seconds={"total": self.measured.rto_seconds, **rto},
            rpo_seconds=self.measured.rpo_seconds,
            vault=vault,
            backup=self._backup.to_summary() if self._backup is not None else None,
            source=source,
            target=target,
            restored=self.measured.restored,
            verified=self.measured.verified,
            content=self.measured.content,
            expectations=self.measured.expectations,
            model=self.measured.model,
            tables=self.measured.tables,
            cleanup=self.measured.cleanup or {},
            cost=self._cost(),
            phases=self.phases,
            clock_source={
                "durations": "the monotonic clock of one host",
                "timestamps": "the host's wall clock, UTC",
                "age": "from the point in time the backup names, by its source's clock, to the start, by this host's",
            },
            versions={"holdfast": __version__, "python": platform.python_version(), "system": platform.platform()},
            error=self.error.as_dict() if self.error is not None else None,
            started_at=self._started_at,
            ended_at=clock.now(),
            run_by=self.rooms.holder,
        )

    def _cost(self) -> dict[str, Any]:
        read = (self.measured.restored or {}).get("read_bytes")
        sites = [site for site in self.share_sites if site not in (self._lost or ())] or [self.vault_site]
        price = max(self.rooms.topology.site(site).egress_cost_per_gib for site in sites)
        return {
            "egress_bytes": read,
            "egress_cost_per_gib": price,
            "egress_cost": None if read is None else round(read / _GIB * price, 9),
        }
