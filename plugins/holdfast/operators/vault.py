"""Backups in Airflow: made, verified, kept. `vault_restore` has what restores them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from airflow.sdk.exceptions import AirflowFailException

from holdfast.errors import ConfigError, HoldfastError
from holdfast.hooks.topology import queue_of, topology_outline
from holdfast.operators.assets import BACKED_UP, vault_asset
from holdfast.operators.base import HoldfastOperator

if TYPE_CHECKING:
    from airflow.sdk import Context

    from holdfast.engine.runtime import Runtime
    from holdfast.engine.vault.backup import Progress

_DEPTHS = ("structure", "sample", "full")
#: Of what may be as many as objects, so many are logged.
_MOST_LINES = 200


class VaultOperator(HoldfastOperator):
    """What the tasks of a vault share: its name, checked when the DAG is parsed, and the queue of the role they need.

    A worker of that queue needs this role's key of the vault, and no other: ``vaults.….queues`` of the topology.

    :param vault: a vault of the topology. (templated)
    """

    template_fields: Sequence[str] = ("vault",)
    #: Whose key the task needs.
    role: ClassVar[Literal["writer", "reader", "admin"]] = "writer"

    def __init__(self, *, vault: str, **kwargs: Any) -> None:
        if kwargs.get("queue") is None:
            kwargs = {**kwargs, **self.on_queue(vault, topology_path=kwargs.get("topology_path"))}
        super().__init__(**kwargs)
        self.vault = vault
        self.check_names(vault=vault)

    @classmethod
    def on_queue(cls, vault: str, *, topology_path: str | None = None) -> dict[str, str]:
        """``queue=…`` for this task, nothing for the default queue. A mapped task has to be given it.

        :raises ConfigError: the vault is a template, and the vaults' queues differ.
        """
        topology = topology_outline(Path(topology_path) if topology_path else None)
        is_known = vault in topology.vaults
        if not is_known and "{{" not in vault:
            return {}  # refused with the names there are
        queue = queue_of(topology, cls.role, vault if is_known else None)
        return {} if queue is None else {"queue": queue}


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
        from contextlib import nullcontext

        from holdfast.engine.pipeline.vaults.backing_up import back_up_group

        made: list[dict[str, Any]] = []
        failed: list[HoldfastError] = []
        for one in back_up_group(
            runtime,
            self.group,
            vault=self.vault,
            tier=self.tier,
            labels={"dag_run": str(context["run_id"])[:200]},
            watch=lambda subject, _vault: nullcontext(ProgressLines(self, subject)),
        ):
            if one.made is not None:
                made.append(one.made.to_summary())
                for warning in one.made.warnings:
                    self.log.warning("%s: %s", one.subject, warning)
            if one.error is not None:
                self.log.error("%s: %s", one.subject, one.error)
                failed.append(one.error)
        if made and BACKED_UP in self.outlets:
            backups = {one["source"]: one["backup"] for one in made}
            extra: dict[str, Any] = {"group": self.group, "backups": backups}
            context["outlet_events"][BACKED_UP].add(vault_asset(self.vault), extra=extra)
        if failed:
            raise failed[0]
        return {"group": self.group, "vault": self.vault, "backups": made}


class VerifyBackupsOperator(VaultOperator):
    """Verifies a vault; fails when something is wrong, with what cannot be restored for it, or shares are missing.

    Where no witness answers, it is tried again.

    :param depth: ``structure``, ``sample`` (the packs due since the last sample) or ``full``. (templated)
    :param mirror: verify this mirror instead of the vault itself. (templated)
    :param note: sign what was found whole with the writer's key, where that is at hand. Else `NoteVerificationOperator`
        does it, on a worker that has it, and it is that which fails when only shares or a witness are missing.
    :returns: what was read, and as ``proof`` what was found whole.
    """

    template_fields: Sequence[str] = ("vault", "depth", "mirror")
    role = "reader"

    def __init__(
        self,
        *,
        vault: str,
        depth: Literal["structure", "sample", "full"] | str = "sample",
        mirror: str | None = None,
        note: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(vault=vault, **kwargs)
        self.depth = depth
        self.mirror = mirror
        self.note = note
        if "{{" not in depth and depth not in _DEPTHS:
            raise ConfigError(
                "unknown depth", where=f"task {self.task_id}: depth", expected=", ".join(_DEPTHS), found=repr(depth)
            )

    def act(self, _context: Context, runtime: Runtime) -> dict[str, Any]:
        from holdfast.engine.pipeline.vaults import verifying
        from holdfast.engine.vault.errors import NotTold
        from holdfast.engine.vault.verify import Depth

        proofs: list[verifying.Proof] = []
        report = verifying.verified(
            runtime,
            self.vault,
            Depth(self.depth),
            site=self.mirror or None,
            prove=None if self.note else proofs.append,
        )
        for problem in (*report.problems, *report.degraded, *report.unknown):
            self.log.error("%s", problem)
        for warning in report.warnings:
            self.log.warning("%s", warning)
        for backup, paths in report.affected.items():
            self.log.error("Backup %s cannot restore %d objects: %s", backup, len(paths), ", ".join(paths[:20]))
        wrong = [*report.problems, *(report.degraded if self.note else ())]
        if wrong:
            raise AirflowFailException(f"vault {self.vault}: {len(wrong)} things are wrong, the first: {wrong[0]}")
        if report.unknown:
            raise NotTold("no witness could be asked", where=f"vault {self.vault}", found="; ".join(report.unknown))
        return {
            "vault": self.vault,
            "depth": self.depth,
            "backups": report.backups,
            "objects": report.objects,
            "packs": report.packs,
            "packs_read": report.packs_read,
            "bytes_read": report.bytes_read,
            "content_opened": report.content_opened,
            "warnings": report.warnings,
            "degraded": report.degraded,
            "proof": proofs[0].to_dict() if proofs else None,
        }


class NoteVerificationOperator(VaultOperator):
    """Signs what a verification found whole, so that its backups count as verified: with a writer's key.

    Who verifies reads content, and signs nothing. Fails then when a part of what makes it survive the next loss is
    missing.

    :param verification: what `VerifyBackupsOperator` returned with ``note=False``. (templated)
    :param mirror: it was of this mirror. (templated)
    """

    template_fields: Sequence[str] = ("vault", "verification", "mirror")

    def __init__(self, *, vault: str, verification: Any, mirror: str | None = None, **kwargs: Any) -> None:
        super().__init__(vault=vault, **kwargs)
        self.verification = verification
        self.mirror = mirror

    def act(self, _context: Context, runtime: Runtime) -> None:
        from holdfast.engine.pipeline.vaults import verifying

        verifying.noted(
            runtime, self.vault, verifying.Proof.from_dict(self.verification["proof"]), site=self.mirror or None
        )
        degraded = self.verification["degraded"]
        if degraded:
            told = f"{len(degraded)} things are missing, the first: {degraded[0]}"
            raise AirflowFailException(f"vault {self.vault}: everything restores, but {told}")


class RetainBackupsOperator(VaultOperator):
    """Forgets what the topology's ``keep`` does not keep, and collects what is nobody's.

    With the administrator's key alone; packs of which little is needed are written anew only where the reader's key is
    at hand as well.

    :returns: what was forgotten and what was freed.
    """

    role = "admin"

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


class RenewLocksOperator(VaultOperator):
    """Locks everything that counts for its whole period again where too little is left, wherever the vault lies.

    Fails with what is not locked then: at the vault, its mirrors, its witnesses, the sites of its shares.

    :returns: per site what must be locked, and how many locks were lengthened.
    """

    def act(self, _context: Context, runtime: Runtime) -> dict[str, Any]:
        from holdfast.engine.pipeline.vaults import renewing

        sites = renewing.looked_at_locks(runtime, self.vault, renew=True)
        wrong = [line for one in sites for line in one.sentences()]
        for line in wrong[:_MOST_LINES]:
            self.log.error("%s", line)
        if wrong:
            bad = [one for one in sites if not one.is_good]
            if all(one.away for one in bad):
                raise bad[0].away[0]
            raise AirflowFailException(
                f"vault {self.vault}: {len(wrong)} things are not locked or cannot be told, the first: {wrong[0]}"
            )
        return {"vault": self.vault, "sites": {one.site: one.to_summary() for one in sites}}


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
            runtime, self.vault, url=url, tier=self.tier, progress=ProgressLines(self, "airflow"), say=self.log.warning
        )
        for warning in made.warnings:
            self.log.warning("airflow: %s", warning)
        made.require_mirrored()
        if BACKED_UP in self.outlets:
            extra: dict[str, Any] = {"group": None, "backups": {"airflow": made.report.backup.backup_id}}
            context["outlet_events"][BACKED_UP].add(vault_asset(self.vault), extra=extra)
        return made.to_summary()


class BaseBackupOfAirflowOperator(HoldfastOperator):
    """Makes a base backup of Airflow's cluster into the repository of ``airflow.recovery``, by pgBackRest.

    It runs beside the cluster: on the queue that ``airflow.recovery.queue`` names. It needs no key of a vault; those of
    the repository are in pgBackRest's own configuration there.

    :param kind: ``auto``, ``full``, ``diff`` or ``incr``. (templated)
    :returns: the backup.
    """

    template_fields: Sequence[str] = ("kind",)

    def __init__(self, *, kind: str = "auto", **kwargs: Any) -> None:
        path = kwargs.get("topology_path")
        recovery = topology_outline(Path(path) if path else None).airflow.recovery
        if recovery is not None and recovery.queue is not None:
            kwargs.setdefault("queue", recovery.queue)
        super().__init__(**kwargs)
        self.kind = kind

    def act(self, _context: Context, runtime: Runtime) -> dict[str, Any]:
        from holdfast.engine.pipeline.vaults.airflow_recovery import backed_up, kind_of

        made = backed_up(runtime, kind_of(self.kind))
        return {
            "backup": made.label,
            "type": made.kind,
            "complete_at": made.stopped_at.isoformat(),
            "size_bytes": made.size_bytes,
            "stored_bytes": made.stored_bytes,
        }


class ProgressLines:
    """Progress in the task's log, now and then."""

    def __init__(self, task: HoldfastOperator, title: str, every_seconds: float = 30.0) -> None:
        import time

        self._task, self._title, self._every, self._now = task, title, every_seconds, time.monotonic
        self._told = time.monotonic()

    def __call__(self, seen: Progress) -> None:
        if self._now() - self._told >= self._every:
            self._told = self._now()
            self._task.log.info("%s: %d objects, %d bytes so far", self._title, seen.objects, seen.size_bytes)
