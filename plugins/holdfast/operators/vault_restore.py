"""Backups in Airflow: restored below a prefix, live after a person agreed, or for proof."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from airflow.providers.standard.operators.hitl import ApprovalOperator
from airflow.sdk.exceptions import AirflowFailException, TaskAwaitingInput

from holdfast.errors import ConfigError
from holdfast.operators.base import failing_clearly, names_of, request_id
from holdfast.operators.vault import ProgressLines, VaultOperator

if TYPE_CHECKING:
    from airflow.sdk import Context

    from holdfast.engine.runtime import Runtime


class RestoreBackupOperator(VaultOperator):
    """Restores a backup below a prefix of a site, verified. Nothing that is there is overwritten.

    Fails as well when an Iceberg table in it could not be given the paths it has there.

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
    role = "reader"

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
            progress=ProgressLines(self, "restore"),
            admit=restoring.admitted_at(runtime, self.site),
        )
        for root, why in report.not_moved.items():
            self.log.error("Table %s still names its old place: %s", root or "(the whole folder)", why)
        if report.not_moved:
            raise AirflowFailException(
                f"everything is restored, and {len(report.not_moved)} tables cannot be read at {self.site}"
            )
        return restoring.restore_summary(self.vault, report)


class _OfLiveRestore(VaultOperator):
    """What both tasks of a live restore are told."""

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

    def chosen(self) -> dict[str, Any]:
        """Which backup, of what, from where."""
        return {
            "backup": self.backup or None,
            "source": self.source,
            "at": _moment(self.at, self.task_id),
            "reason": self.reason,
            "vault_site": self.mirror or None,
        }


class RestoreLiveOperator(_OfLiveRestore):
    """Restores a dataset or model at the group's active site, and publishes it there as the newest snapshot.

    Where the group asks for four eyes, only what an `ApproveRestoreOperator` of the same run recorded is restored.

    :param group: the protection group. (templated)
    :param source: dataset or model. (templated)
    :param backup: its id, or its entry as ``entry:17``; empty: the newest. (templated)
    :param at: the newest whose content is not newer than this time (ISO 8601); empty: now. (templated)
    :param reason: why; it goes into the snapshot's labels. (templated)
    :param mirror: read from this mirror of the vault; empty: from the vault. (templated)
    :returns: what was restored, and the snapshot.
    """

    role = "reader"

    def act(self, context: Context, runtime: Runtime) -> dict[str, Any]:
        from holdfast.engine.pipeline.vaults import restoring

        done = restoring.restored_live(
            runtime,
            self.group,
            self.vault,
            **self.chosen(),
            request=request_id(context),
            progress=ProgressLines(self, self.source),
        )
        return restoring.live_summary(self.vault, done)


class ApproveRestoreOperator(_OfLiveRestore, ApprovalOperator):
    """Asks a person before a live restore; says which backup it would be, and what it would take the place of.

    No answer within ``response_timeout`` is a rejection: what follows is skipped and nothing has changed. An approval
    is recorded at the group's active site, beside who started the run. Where the group asks for four eyes, that of
    whoever started the run fails the task; cleared, it asks again.

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

    template_fields: Sequence[str] = (*_OfLiveRestore.template_fields, "subject", "body")

    def __init__(self, *, response_timeout: timedelta = timedelta(hours=1), **kwargs: Any) -> None:
        super().__init__(
            subject="Restore live?", defaults=ApprovalOperator.REJECT, response_timeout=response_timeout, **kwargs
        )

    def execute(self, context: Context) -> Any:
        """Find the backup and wait for a person, unless one answered and this is a retry."""
        from holdfast.engine.pipeline.vaults import restoring

        with failing_clearly():
            asked = restoring.question(
                self.hook.runtime,
                self.group,
                self.vault,
                **self.chosen(),
                asked_by=context["dag_run"].triggering_user_name,
                request=request_id(context),
            )
        if asked.approved_by is not None:
            self.log.info("Approved by %s: %s", asked.approved_by, asked.backup)
            return {"backup": asked.backup, "approved": True, "approved_by": asked.approved_by}
        self.subject = f"Restore {self.source} of {self.group} from a backup?"
        self.body = asked.text
        try:
            return ApprovalOperator.execute(self, context)
        except TaskAwaitingInput as waiting:
            # Kept with the waiting task itself: an XCom may be changed by people while the question is open.
            waiting.kwargs = {"backup": asked.backup}
            raise

    def execute_complete(  # type: ignore[override]  # `execute` gives the backup
        self, context: Context, event: dict[str, Any], backup: str
    ) -> dict[str, Any]:
        """Take the answer: an approval is recorded, a rejection skips what follows."""
        from holdfast.engine.pipeline.vaults import approving

        names = names_of(event)
        decision = {
            "backup": backup,
            "approved": event.get("chosen_options") == [self.APPROVE],
            "approved_by": next(iter(names), None),
        }
        if decision["approved"]:
            with failing_clearly():
                approval = approving.approve_restore(
                    self.hook.runtime,
                    self.group,
                    self.vault,
                    request=request_id(context),
                    backup=backup,
                    source=self.source,
                    reason=self.reason,
                    asked_by=context["dag_run"].triggering_user_name,
                    approver=names,
                    vault_site=self.mirror or None,
                )
            decision["approved_by"] = approval.approved_by
        # Airflow skips what follows a rejection by raising, so nothing comes after it.
        context["ti"].xcom_push(key="return_value", value=decision)
        ApprovalOperator.execute_complete(self, context, event)
        return decision


class RestoreDrillOperator(VaultOperator):
    """Restores a backup of a dataset or model into another cloud, checks and times it, removes it, signs what it saw.

    Fails unless every claim holds; the evidence is written in any case.

    :param group: the protection group. (templated)
    :param subject: dataset or model; empty: the group's first dataset. (templated)
    :param target: where to restore; empty: the first site in another cloud. (templated)
    :returns: the verdict, RTO and RPO, and where the evidence lies.
    """

    template_fields: Sequence[str] = ("vault", "group", "subject", "target")
    role = "reader"

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


def _moment(text: str, task_id: str) -> datetime | None:
    if not text:
        return None
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise ConfigError(
            "the time cannot be read", where=f"task {task_id}: at", expected="ISO 8601", found=repr(text)
        ) from None
    return found if found.tzinfo is not None else found.replace(tzinfo=UTC)
