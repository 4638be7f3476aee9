"""What befalls Airflow and its people does not befall the training: real processes, real kills, over REST."""

from __future__ import annotations

import signal
import sqlite3
from collections.abc import Iterator
from contextlib import closing

import psutil
import pytest

from holdfast.engine.recovery import new_plan, run_plan
from holdfast.sandbox.airflow import AirflowRefused
from holdfast.sandbox.processes import stop
from survival_world import AWS, GCP, Stage, Training, api_answers, eventually, set_stage

pytestmark = [pytest.mark.e2e, pytest.mark.alone, pytest.mark.slow, pytest.mark.sandbox, pytest.mark.timeout(600)]

#: Airflow's own patience, shrunk from minutes to seconds, so that a test need not outwait it.
SETTINGS = {
    "workers": {
        "min_heartbeat_interval": 1,
        "max_failed_heartbeats": 3,
        "execution_api_retries": 2,
        "execution_api_retry_wait_min": 0.1,
        "execution_api_retry_wait_max": 0.5,
    },
    "scheduler": {"task_instance_heartbeat_timeout": 15, "task_instance_heartbeat_timeout_detection_interval": 2},
    "triggerer": {"triggerer_health_check_threshold": 4},
}


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    for made in set_stage(tmp_path_factory.mktemp("stage"), SETTINGS):
        training = made.train("deferred", "undisturbed", upto=12)
        assert made.airflow.wait(training.dag_run, timeout_seconds=120) == "success", training.log()
        made.undisturbed = made.airflow.result(training.dag_run, "train")["model_digest"]
        training.assert_ended_well()
        yield made


def test_a_killed_triggerer_leaves_the_job_and_its_successor_waits_for_it(stage: Stage) -> None:
    training = stage.train("deferred", "triggerer")
    training.wait_checkpoint(4)
    training.wait_task("deferred")
    (job,) = training.alive()
    stage.airflow.process("triggerer").signal(signal.SIGKILL)
    training.allow(8)
    training.wait_checkpoint(8)
    stage.airflow.start()
    eventually(lambda: "step 8 of 12" in training.log())
    assert training.alive() == [job]
    training.allow_all()
    training.assert_ended_well()
    assert training.task["try_number"] == 1


def test_a_triggerer_that_wakes_up_after_another_took_its_place_stops_no_job(stage: Stage) -> None:
    """Airflow cancels the triggers that it lost as if a person had ended their tasks."""
    training = stage.train("deferred_stops", "stalled")
    training.wait_task("deferred")
    first = stage.airflow.process("triggerer")
    holder = eventually(lambda: training.task["triggerer_job"])["id"]
    (job,) = training.alive()
    second = stage.airflow.start_another("triggerer")
    try:
        first.signal(signal.SIGSTOP)
        eventually(lambda: (training.task["triggerer_job"] or {"id": holder})["id"] != holder)
        first.signal(signal.SIGCONT)
        eventually(lambda: "invoking on_kill" in training.log())
        training.allow_all()
        training.assert_ended_well()
        assert training.attempts() == [job]
    finally:
        stop([second], grace_seconds=10)


def test_an_api_server_that_is_away_for_longer_than_a_task_waits_costs_tries_and_no_training(stage: Stage) -> None:
    deferred, worker = stage.train("deferred", "api-deferred"), stage.train("worker", "api-worker")
    for training in (deferred, worker):
        training.wait_checkpoint(4)
    deferred.wait_task("deferred")
    worker.wait_task("running")
    jobs = deferred.alive() + worker.alive()
    stage.airflow.process("api-server").signal(signal.SIGKILL)
    # The worker's task is given up by its supervisor, and the tries that follow cannot even begin.
    eventually(lambda: tries_in_database(stage, worker) >= 2)
    for training in (deferred, worker):
        training.allow(8)
        training.wait_checkpoint(8)
    assert deferred.alive() + worker.alive() == jobs
    stage.airflow.start()
    eventually(lambda: api_answers(stage))
    eventually(lambda: "reattached at" in worker.log())
    assert deferred.alive() + worker.alive() == jobs
    for training in (deferred, worker):
        training.allow_all()
        training.assert_ended_well()
    assert worker.task["try_number"] > 1


def tries_in_database(stage: Stage, training: Training) -> int:
    """The API would tell, were it there."""
    with closing(sqlite3.connect(f"file:{stage.airflow.state / 'airflow.db'}?mode=ro", uri=True)) as database:
        query = "select try_number from task_instance where dag_id = ? and run_id = ?"
        found: int = database.execute(query, (training.dag_run.dag_id, training.dag_run.run_id)).fetchone()[0]
        return found


@pytest.mark.parametrize("way", ["deferred", "worker", "deferred_stops"])
def test_who_clears_a_task_that_waits_finds_its_job_again(stage: Stage, way: str) -> None:
    training = stage.train(way, f"clear-{way.replace('_', '-')}")
    training.wait_checkpoint(4)
    training.wait_task("deferred", "running")
    (job,) = training.alive()
    training.clear()
    eventually(lambda: "reattached at" in training.log())
    training.wait_task("deferred", "running", tries=2)
    assert training.alive() == [job]
    training.allow_all()
    training.assert_ended_well()
    assert training.attempts() == [job]


def test_who_clears_a_task_that_ended_well_gets_the_same_model_and_no_new_job(stage: Stage) -> None:
    training = stage.train("deferred", "finished", upto=12)
    training.assert_ended_well()
    before = stage.airflow.result(training.dag_run, "train")
    training.clear()
    training.wait_task("success", tries=2)
    training.assert_ended_well()
    assert stage.airflow.result(training.dag_run, "train") == before


@pytest.mark.parametrize("way", ["deferred", "worker"])
def test_who_ends_a_task_leaves_its_job(stage: Stage, way: str) -> None:
    training = stage.train(way, f"ended-{way}")
    training.wait_checkpoint(4)
    training.wait_task("deferred", "running")
    (job,) = training.alive()
    training.mark("failed")
    eventually(lambda: "goes on" in training.log())
    training.allow_all()
    eventually(lambda: training.published())
    eventually(lambda: not training.alive())
    training.assert_one_writer(attempts=1)
    assert training.state_of(job) == "succeeded"
    assert stage.airflow.wait(training.dag_run, timeout_seconds=60) == "failed"


@pytest.mark.parametrize("way", ["deferred_stops", "worker_stops"])
def test_who_ends_a_task_stops_its_job_where_that_was_asked_for(stage: Stage, way: str) -> None:
    training = stage.train(way, f"stopped-{way.replace('_', '-')}")
    training.wait_checkpoint(4)
    training.wait_task("deferred", "running")
    (job,) = training.alive()
    training.mark("failed")
    eventually(lambda: not training.alive())
    assert training.state_of(job) == "stopped"
    assert stage.airflow.wait(training.dag_run, timeout_seconds=60) == "failed"
    # What it saved on the way out is where the run goes on, when somebody clears the task.
    assert training.manifests()[-1].step == 5
    training.allow_all()
    training.clear()
    training.assert_ended_well(attempts=2)


def test_in_a_worker_that_stops_its_job_a_clear_stops_it_too_and_the_next_try_goes_on(stage: Stage) -> None:
    training = stage.train("worker_stops", "cleared-stops")
    training.wait_checkpoint(4)
    training.wait_task("running")
    (job,) = training.alive()
    training.clear()
    eventually(lambda: training.state_of(job) == "stopped")
    training.allow_all()
    training.assert_ended_well(attempts=2)


def test_a_killed_worker_leaves_the_job_and_the_next_try_finds_it(stage: Stage) -> None:
    training = stage.train("worker", "sigkill")
    training.wait_checkpoint(4)
    task = psutil.Process(training.wait_task("running")["pid"])
    (job,) = training.alive()
    supervisor = task.parent()
    assert supervisor is not None
    assert "LocalExecutor" in " ".join(supervisor.cmdline())
    for process in (supervisor, task):
        process.kill()
    training.allow(8)
    training.wait_checkpoint(8)
    eventually(lambda: "reattached at" in training.log())
    assert training.alive() == [job]
    training.allow_all()
    training.assert_ended_well()
    assert training.task["try_number"] == 2


def test_a_metadata_database_of_yesterday_knows_no_task_and_its_job_goes_on(stage: Stage) -> None:
    yesterday = stage.back_up_metadata()
    training = stage.train("deferred_stops", "restored")
    training.wait_checkpoint(4)
    training.wait_task("deferred")
    (job,) = training.alive()
    stage.restore_metadata(yesterday)
    with pytest.raises(AirflowRefused, match="404"):
        stage.airflow.state_of(training.dag_run)
    assert training.alive() == [job]
    training = stage.train("deferred_stops", "restored", upto=8)
    training.wait_task("deferred")
    assert training.alive() == [job]
    training.allow_all()
    training.assert_ended_well()


def test_a_lost_cloud_is_left_for_the_other_one_though_its_job_still_runs(stage: Stage) -> None:
    deferred = stage.train("deferred", "lost", group="moving", job="moving-deferred")
    worker = stage.train("worker", "lost", group="moving", job="moving-worker")
    for training in (deferred, worker):
        training.wait_checkpoint(4, GCP)
    deferred.wait_task("deferred")
    worker.wait_task("running")
    old = deferred.alive() + worker.alive()
    stage.sandbox.fault(AWS, "down", drop=True)
    try:
        for training in (deferred, worker):
            training.allow(7)
        plan = new_plan(stage.runtime, "moving", verb="failover", target=GCP, reason="its cloud is lost")
        run_plan(stage.runtime, plan)  # the rules call the site down, and a site that is down keeps its jobs
        assert (stage.state("moving").epoch, stage.state("moving").active_site) == (2, GCP)
        for training in (deferred, worker):
            eventually(lambda training=training: "it is now at" in training.log(), 120)
            training.allow_all()
            training.assert_ended_well(attempts=2, site=GCP, left_behind=1)
        assert deferred.alive() + worker.alive() == old
    finally:
        stage.sandbox.clear(AWS, drop=True)
    # Back again, the old jobs find that their epoch is over, and leave without having saved anything since.
    for training, job in zip((deferred, worker), old, strict=True):
        eventually(lambda job=job: stage.runtime.backend(AWS).status(job).state == "fenced")
        assert {one.step for one in training.manifests(AWS) if one.epoch == 1} <= {2, 4, 6}
        assert training.published(AWS) == []
