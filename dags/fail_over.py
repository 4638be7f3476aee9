"""Fail a protection group over to another site."""

from __future__ import annotations

from datetime import timedelta

import pendulum
from airflow.sdk import DAG, Param

from holdfast.hooks.topology import topology_outline
from holdfast.operators.recovery import ApprovePlanOperator, FailOverOperator, ResumeTrainingOperator

topology = topology_outline()
groups = sorted(topology.groups)
sites = sorted({site for g in topology.groups.values() for site in (g.sites.active, *g.sites.standby)})

with DAG(
    dag_id="fail_over",
    description="Plan, decide, commit the epoch, fence, promote, switch traffic, verify, resume training.",
    schedule=None,
    start_date=pendulum.datetime(2026, 1, 1, tz="UTC"),
    catchup=False,
    # One plan per group at a time is the register's matter; one group's open approval must not hold up another.
    max_active_runs=16,
    default_args={"owner": "holdfast", "retries": 3, "retry_delay": timedelta(seconds=5)},
    tags=["holdfast", "recovery"],
    params={
        "group": Param(
            groups[0] if groups else None,
            type="string",
            enum=groups,
            title="Protection group",
            description="What is to be failed over.",
        ),
        "target": Param(
            None,
            type=["null", "string"],
            enum=[None, *sites],
            title="Target site",
            description="The site to activate; empty: the first standby that is not active now.",
        ),
        "verb": Param(
            "failover",
            type="string",
            enum=["failover", "switchover"],
            title="Verb",
            description="`failover`: the source is presumed dead. `switchover`: both live, nothing is lost.",
        ),
        "reason": Param(
            "started by hand",
            type="string",
            minLength=3,
            maxLength=500,
            title="Reason",
            description="Why; it goes into the plan, the register and the journal.",
        ),
    },
    doc_md="""
    ### Fail over

    **approve** makes the plan and looks at the source. When the group's policy is `automatic` and nothing stands
    against it, the rules decide and it goes on at once. Otherwise the task waits for a person under *Required
    actions*, with the findings in its text; no answer within an hour is a rejection, and a rejected plan is aborted.
    Where the group's `four_eyes` is set, whoever started the run cannot approve it: the task fails, and cleared it asks
    again.

    **fail_over** runs the critical path in one task: commit the epoch (from here on it only rolls forward), fence,
    promote, switch traffic, verify a correct answer through DNS. **resume_training** follows when the service answers.

    Every step is recorded in the buckets of the target and the witness. If Airflow is lost on the way,
    `holdfast failover resume PLAN` goes on from any machine.
    """,
):
    approve = ApprovePlanOperator(
        task_id="approve",
        group="{{ params.group }}",
        target="{{ params.target or '' }}",
        verb="{{ params.verb }}",
        reason="{{ params.reason }}",
        response_timeout=timedelta(hours=1),
    )
    plan_id = "{{ ti.xcom_pull('approve')['plan_id'] }}"
    fail_over = FailOverOperator(
        task_id="fail_over",
        group="{{ params.group }}",
        plan_id=plan_id,
    )
    resume = ResumeTrainingOperator(task_id="resume_training", group="{{ params.group }}", plan_id=plan_id)
    approve >> fail_over >> resume
