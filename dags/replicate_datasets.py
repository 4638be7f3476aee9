"""Snapshots of every protected dataset, checked, and verified replicas at the other sites."""

from __future__ import annotations

from datetime import timedelta

import pendulum
from airflow.sdk import DAG, TaskGroup

from holdfast.hooks.topology import topology_outline
from holdfast.operators.replication import ProtectGroupOperator
from holdfast.operators.sync import ReplicateDatasetOperator

topology = topology_outline()

# Twice per the tightest RPO: a replica older than the RPO makes the automatic decision wait for a person.
# Ten seconds is what a scheduler does well.
tightest = min((group.objectives.rpo_seconds for group in topology.groups.values()), default=600.0)
every = timedelta(seconds=max(10.0, tightest / 2))

with DAG(
    dag_id="replicate_datasets",
    description="Take each dataset at the active site, check it, publish it there and, verified, at every other site.",
    schedule=every,
    start_date=pendulum.datetime(2026, 1, 1, tz="UTC"),
    catchup=False,
    max_active_runs=1,
    default_args={"owner": "holdfast", "retries": 3, "retry_delay": timedelta(seconds=10)},
    tags=["holdfast", "replication"],
    doc_md="""
    ### Replicate datasets

    For every protection group: **replicate** each dataset from the site that is active *now* to all others in one read
    of what changed, checked against its Great Expectations suite before anything of it is published; then **protect**
    the group: bring models and checkpoints to the other sites as well, read back and hashed there.

    A dataset that breaks its suite is not published, so it never becomes a recovery point. A dataset whose residency
    class forbids a site is refused before a byte moves. A site that does not answer fails the task after the others
    were served; a retry copies the rest. The dataset's asset is updated when there is a new snapshot, and then only.
    """,
):
    for group, settings in topology.groups.items():
        with TaskGroup(group_id=group):
            protect = ProtectGroupOperator(task_id="protect", group=group)
            for dataset in settings.datasets:
                ReplicateDatasetOperator(task_id=f"replicate-{dataset}", group=group, dataset=dataset) >> protect
