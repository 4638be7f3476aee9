"""Backups in Airflow: made, verified, kept, restored."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal

from airflow.providers.standard.operators.hitl import ApprovalOperator
from airflow.sdk.exceptions import AirflowFailException

from holdfast.errors import ConfigError
from holdfast.operators.assets import BACKED_UP, vault_asset
from holdfast.operators.base import HoldfastOperator, failing_clearly

if TYPE_CHECKING:
    from airflow.sdk import Context

    from holdfast.engine.runtime import Runtime
    from holdfast.engine.vault.backup import Progress

_DEPTHS = ("structure", "sample", "full")


class VaultOperator(HoldfastOperator):
    """What the tasks of a vault share: its name, checked when the DAG is parsed.

    :param vault: a vault of the topology. (templated)
    """

    template_fields: Sequence[str] = ("vault",)

    def __init__(self, *, vault: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.vault = vault
        self.check_names(vault=vault)


class GroupsOfVaultOperator(VaultOperator):
    """Names the protection groups whose backups lie in a vault, to be mapped over.

    :returns: their names.
    """

    def act(self, _context: Context, runtime: Runtime) -> list[str]:
        runtime.topology.vault(self.vault)
        return [name for name, group in runtime.topology.groups.items() if self.vault in group.vaults]


class BackUpGroupOperator(VaultOperator):
    """Backs up the newest snapshots of a group's datasets and models into one vault, and brings its mirrors up to it.

    One that fails does not stop the others; the task fails after them, and a retry stores only what is missing. With
    `BACKED_UP` as an outlet the vault's asset gets an event with the new backups.

    :param group: the protection group. (templated)
    :param tier: retention tier of what is new. (templated)
    :returns: ``backups``: per dataset and model what was made.
    """

    template_fields: Sequence[str] = ("vault", "group", "tier")

    def __init__(self, *, group: str, vault: str, tier: str = "daily", **kwargs: Any) -> None:
        super().__init__(vault=vault, **kwargs)
        self.group = group
        self.tier = tier
        self.check_names(group=group)

    def act(self, context: Context, runtime: Runtime) -> dict[str, Any]:
        from holdfast.engine.pipeline.vaults import backing_up
        from holdfast.errors import HoldfastError

        made: list[dict[str, Any]] = []
        failed: list[HoldfastError] = []
        for subject in backing_up.subjects_of(runtime, self.group):
            try:
                done = backing_up.back_up_subject(
                    runtime,
                    self.group,
                    subject,
                    self.vault,
                    tier=self.tier,
                    labels={"dag_run": str(context["run_id"])[:200]},
                    progress=_Lines(self, subject),
                )
                made.append(done.to_summary())
                done.require_mirrored()
            except HoldfastError as error:
                self.log.error("%s: %s", subject, error)
                failed.append(error)
        if made and BACKED_UP in self.outlets:
            backups = {one["source"]: one["backup"] for one in made}
            extra: dict[str, Any] = {"group": self.group, "backups": backups}
            context["outlet_events"][BACKED_UP].add(vault_asset(self.vault), extra=extra)
        if failed:
            raise failed[0]
        return {"group": self.group, "vault": self.vault, "backups": made}


class VerifyBackupsOperator(VaultOperator):
    """Verifies a vault; fails when something is wrong, with what cannot be restored for it.

    :param depth: ``structure``, ``sample`` (the packs due since the last sample) or ``full``. (templated)
    :param mirror: verify this mirror instead of the vault itself. (templated)
    :returns: what was read.
    """

    template_fields: Sequence[str] = ("vault", "depth", "mirror")

    def __init__(
        self,
        *,
        vault: str,
        depth: Literal["structure", "sample", "full"] | str = "sample",
        mirror: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(vault=vault, **kwargs)
        self.depth = depth
        self.mirror = mirror
        if "{{" not in depth and depth not in _DEPTHS:
            raise ConfigError(
                "unknown depth", where=f"task {self.task_id}: depth", expected=", ".join(_DEPTHS), found=repr(depth)
            )

    def act(self, _context: Context, runtime: Runtime) -> dict[str, Any]:
        from holdfast.engine.pipeline.vaults import keeping
        from holdfast.engine.vault.verify import Depth

        report = keeping.verified(
            runtime,
            self.vault,
            Depth(self.depth),
            site=self.mirror or None,
        )
        for problem in report.problems:
            self.log.error("%s", problem)
        for backup, paths in report.affected.items():
            self.log.error("Backup %s cannot restore %d objects: %s", backup, len(paths), ", ".join(paths[:20]))
        if not report.is_good:
            raise AirflowFailException(
                f"vault {self.vault}: {len(report.problems)} things are wrong, the first: {report.problems[0]}"
            )
        return {
            "vault": self.vault,
            "depth": self.depth,
            "backups": report.backups,
            "objects": report.objects,
            "packs": report.packs,
            "packs_read": report.packs_read,
            "bytes_read": report.bytes_read,
            "content_opened": report.content_opened,
        }


class RetainBackupsOperator(VaultOperator):
    """Forgets what the topology's ``keep`` does not keep, and collects what is nobody's.

    :returns: what was forgotten and what was freed.
    """

    def act(self, _context: Context, runtime: Runtime) -> dict[str, Any]:
        from holdfast.engine.pipeline.vaults import keeping

        plan = keeping.forgotten(runtime, self.vault)
        report = keeping.collected(runtime, self.vault)
        for number, why in report.unreadable.items():
            self.log.error("The backup of entry %d cannot be read, and stays until it is named: %s", number, why)
        return {
            "vault": self.vault,
            "kept": len(plan.kept),
            "forgotten": [one.backup_id for one in plan.forgotten],
            "dead_packs": report.dead_packs,
            "dead_bytes": report.dead_bytes,
            "deleted_packs": report.deleted_packs,
            "deleted_bytes": report.deleted_bytes,
            "waiting_packs": report.waiting_packs,
            "kept_locked": len(report.kept_locked),
            "unreadable": sorted(report.unreadable),
        }


class CheckRecoveryPointsOperator(VaultOperator):
    """Fails when the newest verified backup of one of a group's datasets or models is older than it may be.

    That is the vault's ``rpo_hours``, else the group's RPO; verified means at least as deep as its ``rpo_depth``. What
    cannot be told counts as missed.

    :param group: the protection group. (templated)
    :returns: per dataset and model the newest verified backup and its age.
    """

    template_fields: Sequence[str] = ("vault", "group")

    def __init__(self, *, group: str, vault: str, **kwargs: Any) -> None:
        super().__init__(vault=vault, **kwargs)
        self.group = group
        self.check_names(group=group)

    def act(self, _context: Context, runtime: Runtime) -> list[dict[str, Any]]:
        from holdfast.engine.pipeline.vaults import keeping

        points = keeping.recovery_points(runtime, self.group, self.vault)
        missed = [f"{point.subject}: {point.text()}" for point in points if not point.met]
        if missed:
            raise AirflowFailException(f"vault {self.vault}, group {self.group}: {'; '.join(missed)}")
        return [
            {
                "subject": point.subject,
                "backup": point.backup.backup_id if point.backup else None,
                "age_seconds": point.age_seconds,
                "rpo_seconds": point.rpo_seconds,
                "depth": point.depth,
            }
            for point in points
        ]


class RestoreBackupOperator(VaultOperator):
    """Restores a backup below a prefix of a site, verified. Nothing that is there is overwritten.

    :param site: the site. (templated)
    :param prefix: in its bucket; not below ``data/``, where live data lies. (templated)
    :param backup: its id, or its entry as ``entry:17``; empty: the newest of ``source``. (templated)
    :param source: dataset, model or name. (templated)
    :param at: the newest whose content is not newer than this time (ISO 8601); empty: now. (templated)
    :param paths: only these and what lies below them, separated by commas; empty: everything. (templated)
    :param mirror: read from this mirror of the vault; empty: from the vault. (templated)
    :returns: what was restored.
    """

    template_fields: Sequence[str] = ("vault", "site", "prefix", "backup", "source", "at", "paths", "mirror")

    def __init__(
        self,
        *,
        vault: str,
        site: str,
        prefix: str,
        backup: str = "",
        source: str = "",
        at: str = "",
        paths: str = "",
        mirror: str = "",
        **kwargs: Any,
    ) -> None:
        super().__init__(vault=vault, **kwargs)
        self.site = site
        self.prefix = prefix
        self.backup = backup
        self.source = source
        self.at = at
        self.paths = paths
        self.mirror = mirror
        self.check_names(site=site)

    def act(self, _context: Context, runtime: Runtime) -> dict[str, Any]:
        from holdfast.engine.pipeline.vaults import restoring

        report = restoring.restored(
            runtime,
            self.vault,
            restoring.site_target(runtime, self.site, self.prefix),
            backup=self.backup or None,
            source=self.source or None,
            at=_moment(self.at, self.task_id),
            paths=[one.strip() for one in self.paths.split(",") if one.strip()],
            vault_site=self.mirror or None,
            progress=_Lines(self, "restore"),
            admit=restoring.admitted_at(runtime, self.site),
        )
        return restoring.restore_summary(self.vault, report)


class BackUpAirflowOperator(VaultOperator):
    """Backs up Airflow's own metadata database and what a dump of it lacks.

    Airflow gives tasks no way to its database, on purpose; so the worker needs a direct URL of its own.

    :param url_variable: the worker's environment variable that holds the database's URL.
    :param tier: retention tier of what is new. (templated)
    :returns: what was made.
    """

    template_fields: Sequence[str] = ("vault", "tier")

    def __init__(
        self, *, vault: str, url_variable: str = "HOLDFAST_AIRFLOW_DATABASE", tier: str = "daily", **kwargs: Any
    ) -> None:
        super().__init__(vault=vault, **kwargs)
        self.url_variable = url_variable
        self.tier = tier

    def act(self, context: Context, runtime: Runtime) -> dict[str, Any]:
        from holdfast.engine.pipeline.vaults.airflow import back_up_airflow

        url = runtime.environ.get(self.url_variable)
        if not url:
            raise ConfigError(
                "the metadata database is not named",
                where=f"${self.url_variable} of the worker",
                expected="its URL, as SQLAlchemy writes it, with a role that may read it",
                found="nothing",
                fix="docs/how-to/back-up-airflow.md",
            )
        made = back_up_airflow(
            runtime, self.vault, url=url, tier=self.tier, progress=_Lines(self, "airflow"), say=self.log.warning
        )
        made.require_mirrored()
        if BACKED_UP in self.outlets:
            extra: dict[str, Any] = {"group": None, "backups": {"airflow": made.report.backup.backup_id}}
            context["outlet_events"][BACKED_UP].add(vault_asset(self.vault), extra=extra)
        return made.to_summary()


class RestoreDrillOperator(VaultOperator):
    """Restores a backup of a dataset or model into another cloud, checks and times it, removes it, signs what it saw.

    Fails unless every claim holds; the evidence is written in any case.

    :param group: the protection group. (templated)
    :param subject: dataset or model; empty: the group's first dataset. (templated)
    :param target: where to restore; empty: the first site in another cloud. (templated)
    :returns: the verdict, RTO and RPO, and where the evidence lies.
    """

    template_fields: Sequence[str] = ("vault", "group", "subject", "target")

    def __init__(self, *, vault: str, group: str, subject: str = "", target: str = "", **kwargs: Any) -> None:
        super().__init__(vault=vault, **kwargs)
        self.group = group
        self.subject = subject
        self.target = target
        self.check_names(group=group, target=target or None)

    def act(self, _context: Context, runtime: Runtime) -> dict[str, Any]:
        from holdfast.engine.drill.phases import new_drill_id
        from holdfast.engine.pipeline.vaults.drilling import drill_restore

        drill_id = new_drill_id(runtime.clock.now())
        folder = self.hook.evidence_folder() / drill_id
        journal = drill_restore(
            runtime,
            self.group,
            self.subject or next(iter(runtime.topology.group(self.group).datasets), ""),
            self.vault,
            output=folder,
            target_site=self.target or None,
            drill_id=drill_id,
            progress=lambda seen: self.log.info("%s: %s %s", seen.step, seen.phase, seen.detail or ""),
        )
        for claim in journal.claims:
            holds = "unknown" if claim.holds is None else "holds" if claim.holds else "does not hold"
            self.log.info("%s: %s; measured %s, objective %s", claim.title, holds, claim.measured, claim.objective)
        if not journal.green:
            raise AirflowFailException(f"restore drill {drill_id}: {journal.verdict}; evidence in {folder}")
        return {
            "drill_id": drill_id,
            "verdict": journal.verdict,
            "rto_seconds": journal.rto_seconds,
            "rpo_seconds": journal.rpo_seconds,
            "evidence": str(folder),
        }


class RestoreLiveOperator(VaultOperator):
    """Restores a dataset or model at the group's active site, and publishes it there as the newest snapshot.

    :param group: the protection group. (templated)
    :param source: dataset or model. (templated)
    :param backup: its id, or its entry as ``entry:17``; empty: the newest. (templated)
    :param at: the newest whose content is not newer than this time (ISO 8601); empty: now. (templated)
    :param reason: why; it goes into the snapshot's labels. (templated)
    :param mirror: read from this mirror of the vault; empty: from the vault. (templated)
    :returns: what was restored, and the snapshot.
    """

    template_fields: Sequence[str] = ("vault", "group", "source", "backup", "at", "reason", "mirror")

    def __init__(
        self,
        *,
        vault: str,
        group: str,
        source: str,
        reason: str,
        backup: str = "",
        at: str = "",
        mirror: str = "",
        **kwargs: Any,
    ) -> None:
        super().__init__(vault=vault, **kwargs)
        self.group = group
        self.source = source
        self.reason = reason
        self.backup = backup
        self.at = at
        self.mirror = mirror
        self.check_names(group=group)

    def act(self, _context: Context, runtime: Runtime) -> dict[str, Any]:
        from holdfast.engine.pipeline.vaults import restoring

        done = restoring.restored_live(
            runtime,
            self.group,
            self.vault,
            backup=self.backup or None,
            source=self.source,
            at=_moment(self.at, self.task_id),
            reason=self.reason,
            vault_site=self.mirror or None,
            progress=_Lines(self, self.source),
        )
        return restoring.live_summary(self.vault, done)


class ApproveRestoreOperator(HoldfastOperator, ApprovalOperator):
    """Asks a person before a live restore; says which backup it would be, and what it would take the place of.

    No answer within ``response_timeout`` is a rejection: what follows is skipped and nothing has changed.

    :param vault: the vault. (templated)
    :param group: the protection group. (templated)
    :param source: dataset or model. (templated)
    :param backup: its id, or its entry as ``entry:17``; empty: the newest. (templated)
    :param at: the newest whose content is not newer than this time (ISO 8601); empty: now. (templated)
    :param reason: why. (templated)
    :param mirror: look at this mirror of the vault; empty: at the vault. (templated)
    :param response_timeout: how long a person has to answer.
    :returns: ``backup``, so that exactly the approved one is restored, and ``approved_by``.
    """

    template_fields: Sequence[str] = ("vault", "group", "source", "backup", "at", "reason", "mirror", "subject", "body")

    def __init__(
        self,
        *,
        vault: str,
        group: str,
        source: str,
        reason: str,
        backup: str = "",
        at: str = "",
        mirror: str = "",
        response_timeout: timedelta = timedelta(hours=1),
        **kwargs: Any,
    ) -> None:
        super().__init__(
            subject="Restore live?", defaults=ApprovalOperator.REJECT, response_timeout=response_timeout, **kwargs
        )
        self.vault = vault
        self.group = group
        self.source = source
        self.reason = reason
        self.backup = backup
        self.at = at
        self.mirror = mirror
        self.check_names(vault=vault, group=group)

    def execute(self, context: Context) -> Any:
        """Find the backup and wait for a person."""
        from holdfast.engine.pipeline.vaults import restoring

        with failing_clearly():
            asked = restoring.question(
                self.hook.runtime,
                self.group,
                self.vault,
                backup=self.backup or None,
                source=self.source,
                at=_moment(self.at, self.task_id),
                reason=self.reason,
                vault_site=self.mirror or None,
            )
        context["ti"].xcom_push(key="backup", value=asked.backup)
        self.subject = f"Restore {self.source} of {self.group} from a backup?"
        self.body = asked.text
        return ApprovalOperator.execute(self, context)

    def execute_complete(self, context: Context, event: dict[str, Any]) -> dict[str, Any]:
        """Take the answer: a rejection skips what follows."""
        user = event.get("responded_by_user") or {}
        decision = {
            "backup": context["ti"].xcom_pull(task_ids=self.task_id, key="backup"),
            "approved": event.get("chosen_options") == [self.APPROVE],
            "approved_by": user.get("name") or user.get("id"),
        }
        # Airflow skips what follows a rejection by raising, so nothing comes after it.
        context["ti"].xcom_push(key="return_value", value=decision)
        ApprovalOperator.execute_complete(self, context, event)
        return decision


def _moment(text: str, task_id: str) -> datetime | None:
    if not text:
        return None
    from datetime import UTC

    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise ConfigError(
            "the time cannot be read", where=f"task {task_id}: at", expected="ISO 8601", found=repr(text)
        ) from None
    return found if found.tzinfo is not None else found.replace(tzinfo=UTC)


class _Lines:
    """Progress in the task's log, now and then."""

    def __init__(self, task: HoldfastOperator, title: str, every_seconds: float = 30.0) -> None:
        import time

        self._task, self._title, self._every, self._now = task, title, every_seconds, time.monotonic
        self._told = time.monotonic()

    def __call__(self, seen: Progress) -> None:
        if self._now() - self._told >= self._every:
            self._told = self._now()
            self._task.log.info("%s: %d objects, %d bytes so far", self._title, seen.objects, seen.size_bytes)
