"""Failing a group over: the plan and who decides, the critical path in one task, then the training."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow.providers.standard.operators.hitl import ApprovalOperator

from holdfast.errors import ConfigError
from holdfast.operators.base import HoldfastOperator, failing_clearly, names_of, request_id
from holdfast.operators.training import NO_MACHINE_METRIC

if TYPE_CHECKING:
    from airflow.sdk import Context

    from holdfast.engine.recovery.plan import Plan
    from holdfast.engine.runtime import Runtime


class ApprovePlanOperator(HoldfastOperator, ApprovalOperator):
    """Makes a plan, looks at the source, and asks a person unless the rules may decide alone.

    The rules decide when the group's policy is ``automatic`` and nothing stands against it: the source is down by the
    rules, and the replicas lie behind by less than the RPO. Otherwise the task waits under *Required actions*, with
    the plan, the findings and the objections in its text. No answer within ``response_timeout`` is a rejection: the
    plan is aborted, everything downstream is skipped and nothing has changed.

    The answer is recorded with the plan, beside who started the run: that record, and not what a task returned, lets
    the plan go on. Where the group asks for four eyes the approval of whoever started the run fails the task, and the
    plan waits: cleared, the task asks again. A run that nobody started, a schedule's, may be approved by anybody.

    :param group: the protection group. (templated)
    :param reason: why, for the records. (templated)
    :param target: the site to activate; by default the first standby that is not active. (templated)
    :param verb: ``failover`` or ``switchover``. (templated)
    :param response_timeout: how long a person has to answer.
    :returns: ``plan_id``, ``approved``, ``approved_by`` (``None``: the rules), ``asked_by``, ``source``, ``target``,
        ``hash``.
    """

    template_fields: Sequence[str] = ("group", "reason", "target", "verb", "subject", "body")

    def __init__(
        self,
        *,
        group: str,
        reason: str,
        target: str | None = None,
        verb: str = "failover",
        response_timeout: timedelta = timedelta(hours=1),
        **kwargs: Any,
    ) -> None:
        if not isinstance(response_timeout, timedelta) or response_timeout <= timedelta(0):
            raise ConfigError(
                "the approval needs an end",
                where="ApprovePlanOperator: response_timeout",
                expected="a timedelta above 0",
                found=repr(response_timeout),
            )
        super().__init__(
            subject=f"Fail over {group}?", defaults=ApprovalOperator.REJECT, response_timeout=response_timeout, **kwargs
        )
        self.group = group
        self.reason = reason
        self.target = target
        self.verb = verb
        self.check_names(group=group, target=target)

    def execute(self, context: Context) -> Any:
        """Make the plan and let the rules decide; else wait for a person."""
        from holdfast.engine.pipeline import plan_or_ask

        with failing_clearly():
            runtime = self.hook.runtime
            asked = plan_or_ask(
                runtime,
                self.group,
                plan_id=request_id(context),
                verb=self.verb,
                target=self.target or None,
                reason=self.reason,
                asked_by=context["dag_run"].triggering_user_name,
            )
        if asked.question is None:
            self.log.info("Decided by %s: %s", asked.approved_by or "the rules", asked.plan.plan_id)
            return _decision(asked.plan, approved=True, approved_by=asked.approved_by)
        self.subject = f"{self.verb.capitalize()} {self.group} from {asked.plan.source} to {asked.plan.target}?"
        self.body = asked.question
        self.log.info("The rules may not decide alone:\n%s", asked.question)
        return ApprovalOperator.execute(self, context)

    def execute_complete(self, context: Context, event: dict[str, Any]) -> dict[str, Any]:
        """Take the answer: approval is recorded by name, rejection aborts the plan and skips what follows."""
        from holdfast.engine.pipeline import approve_plan
        from holdfast.engine.recovery import abort_plan, load_plan

        approved = event.get("chosen_options") == [self.APPROVE]
        names = names_of(event)
        who = next(iter(names), None)
        with failing_clearly():
            runtime = self.hook.runtime
            if approved:
                asked = approve_plan(runtime, self.group, request_id(context), names)
                plan, who = asked.plan, asked.approved_by
            else:
                plan = load_plan(runtime, self.group, request_id(context))
                abort_plan(runtime, plan, by=who or "nobody", reason="rejected" if who else "nobody answered in time")
        decision = _decision(plan, approved=approved, approved_by=who)
        # Airflow skips what follows a rejection by raising, so nothing comes after it.
        context["ti"].xcom_push(key="return_value", value=decision)
        ApprovalOperator.execute_complete(self, context, event)
        return decision


class FailOverOperator(HoldfastOperator):
    """Runs a plan from its decision to a verified answer of the service, in one task.

    One task, because a hop between tasks costs a second or two and each of these steps takes less. The steps are
    idempotent: a retry, or ``holdfast failover resume``, goes on where it stopped.

    :param group: the protection group. (templated)
    :param plan_id: the plan, made by `ApprovePlanOperator`, which recorded who decided it. (templated)
    :returns: ``plan_id``, ``epoch``, ``active_site``, ``seconds`` per step.
    """

    template_fields: Sequence[str] = ("group", "plan_id")

    def __init__(self, *, group: str, plan_id: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.group = group
        self.plan_id = plan_id
        self.check_names(group=group)

    def act(self, _context: Context, runtime: Runtime) -> dict[str, Any]:
        from holdfast.engine.pipeline import run_critical_path

        return run_critical_path(runtime, self.group, self.plan_id, say=self.log.info)


class ResumeTrainingOperator(HoldfastOperator):
    """Resumes the group's training at the new active site: the plan's last step, after the service answers.

    :param group: the protection group. (templated)
    :param plan_id: the plan. (templated)
    :returns: what each run resumed from, at which placement, and whether it stands still for want of a machine. That is
        also a warning in the log and counted as `NO_MACHINE_METRIC`.
    """

    template_fields: Sequence[str] = ("group", "plan_id")

    def __init__(self, *, group: str, plan_id: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.group = group
        self.plan_id = plan_id
        self.check_names(group=group)

    def act(self, _context: Context, runtime: Runtime) -> dict[str, Any]:
        from airflow.sdk.observability.stats import Stats

        from holdfast.engine.pipeline import finish_plan

        done = finish_plan(runtime, self.group, self.plan_id, say=self.log.info)
        for job in done["evidence"].get("jobs", []):
            if job.get("degraded"):
                Stats.incr(NO_MACHINE_METRIC, tags={"group": self.group, "job": job["job"]})
                self.log.warning("%s", job["detail"])
        return done


def _decision(plan: Plan, *, approved: bool, approved_by: str | None) -> dict[str, Any]:
    return {
        "plan_id": plan.plan_id,
        "approved": approved,
        "approved_by": approved_by,
        "asked_by": plan.asked_by,
        "source": plan.source,
        "target": plan.target,
        "hash": plan.hash,
    }
