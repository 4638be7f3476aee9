"""Snapshots of every protected dataset, checked, and verified replicas at the other sites."""

from __future__ import annotations

from datetime import timedelta

import pendulum
from airflow.sdk import DAG, TaskGroup

from holdfast.hooks.topology import topology_outline
from holdfast.operators.assets import dataset_asset
from holdfast.operators.quality import ValidateDatasetOperator
from holdfast.operators.replication import ProtectGroupOperator
from holdfast.operators.snapshot import PublishDatasetOperator

topology = topology_outline()

# Twice per the tightest RPO: a replica older than the RPO makes the automatic decision wait for a person.
# Ten seconds is what a scheduler does well.
tightest = min((group.objectives.rpo_seconds for group in topology.groups.values()), default=600.0)
every = timedelta(seconds=max(10.0, tightest / 2))

with DAG(
    dag_id="replicate_datasets",
    description="Publish a snapshot of each dataset at the active site, check it, replicate and verify it elsewhere.",
    schedule=every,
    start_date=pendulum.datetime(2026, 1, 1, tz="UTC"),
    catchup=False,
    max_active_runs=1,
    default_args={"owner": "holdfast", "retries": 3, "retry_delay": timedelta(seconds=10)},
    tags=["holdfast", "replication"],
    doc_md="""
    ### Replicate datasets

    For every protection group: **publish** a snapshot of each dataset at the site that is active *now* (none when
    nothing changed), **validate** its content against its Great Expectations suite, then **protect** the group: bring
    datasets, models and checkpoints to the other sites, read back and hash every object there, and only then publish.

    A dataset that breaks its suite is not replicated. A dataset whose residency class forbids a site is refused before
    a byte moves. A site that does not answer fails the task after the others were served; a retry copies the rest.
    """,
):
    for group, settings in topology.groups.items():
        with TaskGroup(group_id=group):
            protect = ProtectGroupOperator(
                task_id="protect", group=group, outlets=[dataset_asset(name) for name in settings.datasets]
            )
            for dataset in settings.datasets:
                publish = PublishDatasetOperator(task_id=f"publish-{dataset}", group=group, dataset=dataset)
                validate = ValidateDatasetOperator(task_id=f"validate-{dataset}", group=group, dataset=dataset)
                publish >> validate >> protect
