"""Train a model at the active site, and bring it to the sites that may have to serve it."""

from __future__ import annotations

from datetime import timedelta

import pendulum
from airflow.sdk import DAG, AssetAny, Param

from holdfast.hooks.topology import topology_outline
from holdfast.operators.assets import FINISHED_TRAINING, TRAINED_MODEL, dataset_asset
from holdfast.operators.replication import ProtectGroupOperator
from holdfast.operators.training import TrainOperator

topology = topology_outline()
groups = sorted(name for name, group in topology.groups.items() if group.training)
jobs = sorted({job for name in groups for job in topology.groups[name].training})
datasets = sorted({topology.training[job].dataset for job in jobs})

with DAG(
    dag_id="train_model",
    description="Train at the active site from the newest verified snapshot; survive the loss of that site.",
    schedule=AssetAny(*(dataset_asset(name) for name in datasets)) if datasets else None,
    start_date=pendulum.datetime(2026, 1, 1, tz="UTC"),
    catchup=False,
    max_active_runs=1,
    default_args={
        "owner": "holdfast",
        "retries": 12,
        "retry_delay": timedelta(seconds=10),
        "max_retry_delay": timedelta(minutes=2),
        "retry_exponential_backoff": True,
    },
    tags=["holdfast", "training"],
    params={
        "group": Param(
            groups[0] if groups else None,
            type="string",
            enum=groups,
            title="Protection group",
            description="Its active site is where the training runs.",
        ),
        "job": Param(
            jobs[0] if jobs else None,
            type="string",
            enum=jobs,
            title="Training job",
            description="One of the group's training jobs.",
        ),
        "run": Param(
            None,
            type=["null", "string"],
            pattern="^[A-Za-z0-9][A-Za-z0-9.-]{1,99}$",
            title="Run",
            description="Run to go on with, <group>-<job>.<name>; leave it empty for a new one.",
        ),
    },
    doc_md="""
    ### Train a model

    **train** starts the job at the group's active site, as a process of its own, and waits in the triggerer. The job
    checkpoints into the site's bucket and to the standby. If the task, the worker or Airflow dies, the job goes on and
    a retry finds it. If the site is lost, the job stops itself; once a failover plan resumed the run elsewhere, the
    retry finds it there under its new epoch, and ends with the same model bit for bit.

    **protect** then brings the published model to the other sites, verified.

    A run that an updated dataset starts trains the first job; start others by hand.
    """,
):
    train = TrainOperator(
        task_id="train",
        group="{{ params.group }}",
        job="{{ params.job }}",
        run="{{ params.run or '' }}",
        outlets=[FINISHED_TRAINING],
    )
    protect = ProtectGroupOperator(
        task_id="protect",
        group="{{ params.group }}",
        model="{{ ti.xcom_pull('train')['model'] }}",
        outlets=[TRAINED_MODEL],
    )
    train >> protect
