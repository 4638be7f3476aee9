"""The operators and the sensor of the sync in ``dag.test()``, over three folders as sites."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from folders import folder_runtime, make_folders
from holdfast.engine.objectstore.errors import StoreUnavailable
from holdfast.engine.pipeline import replicas
from holdfast.errors import ConfigError
from holdfast.hooks.runtime import HoldfastHook
from holdfast.operators.sync import CopyShardOperator, PlanReplicationOperator, ReplicateDatasetOperator, queue_of
from holdfast.sensors.lag import ReplicationLagSensor
from holdfast.triggers.lag import ReplicationLagTrigger

TESTS = Path(__file__).resolve().parents[1]
#: A folder has no register, so the hook gives the runtime of `folders`. One DAG for the whole story: an Airflow takes
#: seconds to begin.
STORY = """
import os
from pathlib import Path
from airflow.sdk import DAG, chain, task
from folders import folder_runtime
from holdfast.hooks.runtime import HoldfastHook
from holdfast.operators.sync import (
    CopyShardOperator, PlanReplicationOperator, PublishSnapshotOperator, ReplicateDatasetOperator
)
from holdfast.sensors.lag import ReplicationLagSensor

TOPOLOGY = Path(os.environ["HOLDFAST_TOPOLOGY"])
HoldfastHook.get_conn = lambda self: folder_runtime(TOPOLOGY)
PRICES = {"group": "desk", "dataset": "prices"}
BOUND = {"site": "site-b", "seconds": 3600, "window_seconds": 0.5, "poll_seconds": 0.1}


@task
def put(name):
    (TOPOLOGY.parent / "site-a" / "data" / "prices" / name).write_bytes(name.encode())


@task
def lose_a_site():
    (TOPOLOGY.parent / "site-b").rename(TOPOLOGY.parent / "away")


@task(trigger_rule="all_failed")
def get_it_back():
    (TOPOLOGY.parent / "away").rename(TOPOLOGY.parent / "site-b")


with DAG("story", schedule=None, catchup=False):
    plan = PlanReplicationOperator(task_id="plan", shards=2, **PRICES)
    chain(
        ReplicationLagSensor(task_id="never_synced", when="over", **PRICES, **BOUND),
        ReplicateDatasetOperator(task_id="first", **PRICES),
        ReplicateDatasetOperator(task_id="nothing_changed", **PRICES),
        put.override(task_id="change")("two.bin"),
        ReplicateDatasetOperator(task_id="changed", **PRICES),
        ReplicationLagSensor(task_id="fresh", when="under", **PRICES, **BOUND),
        put.override(task_id="change_again")("three.bin"),
        lose_a_site(),
        ReplicateDatasetOperator(task_id="without_a_site", **PRICES),
        get_it_back(),
        ReplicateDatasetOperator(task_id="with_it_again", **PRICES),
        put.override(task_id="change_more")("four.bin"),
        plan,
        CopyShardOperator.partial(task_id="copy", site="site-b", **PRICES).expand(shard=plan.output),
        PublishSnapshotOperator(task_id="publish", **PRICES),
        ReplicationLagSensor(task_id="not_behind", when="over", **PRICES, **BOUND),
    )
"""


def events(home: Path) -> list[dict[str, Any]]:
    """The extras of the asset events of an Airflow."""
    with sqlite3.connect(home / "airflow.db") as database:
        return [json.loads(extra) for (extra,) in database.execute("select extra from asset_event order by id")]


def test_datasets_are_replicated_announced_once_and_watched(tmp_path: Path, start_dag: Callable[..., Any]) -> None:
    topology = make_folders(tmp_path)
    (tmp_path / "site-a" / "data" / "prices").mkdir(parents=True)
    (tmp_path / "site-a" / "data" / "prices" / "one.bin").write_bytes(b"first")
    (tmp_path / "dags").mkdir()
    (tmp_path / "dags" / "story.py").write_text(STORY)
    test = start_dag(tmp_path / "dags" / "story.py", "story", HOLDFAST_TOPOLOGY=str(topology), PYTHONPATH=str(TESTS))
    tasks = test.result()["tasks"]
    assert {name: one["state"] for name, one in tasks.items() if one["state"] != "success"} == {
        "without_a_site": "failed",
        "not_behind": "skipped",
    }, test.text[-6000:]
    found = {name: one["result"] for name, one in tasks.items()}
    assert found["never_synced"]["lag_seconds"] is None
    assert 0 <= found["fresh"]["lag_seconds"] < 3600
    assert {one["site"]: one["verified_objects"] for one in found["first"]["targets"]} == {"site-b": 1, "site-c": 1}
    assert [(found[name]["changed"], found[name]["announced"]) for name in ("first", "nothing_changed", "changed")] == [
        (True, True),
        (False, False),
        (True, True),
    ]
    # The run without a site published at the others, and was not announced: the next one was, for the same snapshot.
    assert (found["with_it_again"]["changed"], found["with_it_again"]["announced"]) == (False, True)
    # Planned, copied by mapped tasks to one site, published: only the other site still needed the object.
    assert [(one["objects"], one["size_bytes"]) for one in found["plan"]] == [(1, 8)]
    assert found["copy"]["targets"][0]["copied_objects"] == 1
    assert {one["site"]: one["copied_objects"] for one in found["publish"]["targets"]} == {"site-b": 0, "site-c": 1}
    announced = [found[name]["snapshot_id"] for name in ("first", "changed", "with_it_again", "publish")]
    assert [event["snapshot_id"] for event in events(tmp_path / "airflow")] == announced
    runtime = folder_runtime(topology)
    for site in runtime.topology.sites:
        assert replicas.snapshots(runtime, "desk", "prices", site=site)[0].snapshot_id == announced[-1]


def trigger(**changes: Any) -> ReplicationLagTrigger:
    settings = {"group": "desk", "dataset": "prices", "site": "site-b", "seconds": 5.0, "poll_seconds": 0.01}
    return ReplicationLagTrigger(**{**settings, "window_seconds": 5.0, **changes})


async def first(made: ReplicationLagTrigger) -> dict[str, Any]:
    async for event in made.run():
        return event.payload
    raise AssertionError("no event")


def looking(monkeypatch: pytest.MonkeyPatch, answers: list[float | Exception | None]) -> None:
    """Have the trigger see these lags, the last one again and again."""

    def look(*_arguments: Any) -> float | None:
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(HoldfastHook, "get_conn", lambda self: None)
    monkeypatch.setattr(replicas, "lag_seconds", look)


def test_the_trigger_fires_when_the_lag_is_on_the_awaited_side(monkeypatch: pytest.MonkeyPatch) -> None:
    looking(monkeypatch, [None, 60.0, 4.0])
    assert asyncio.run(first(trigger())) == {"found": True, "lag_seconds": 4.0}
    looking(monkeypatch, [0.0, 6.0])
    assert asyncio.run(first(trigger(when="over"))) == {"found": True, "lag_seconds": 6.0}
    looking(monkeypatch, [None])
    assert asyncio.run(first(trigger(when="over"))) == {"found": True, "lag_seconds": None}


def test_a_look_that_fails_is_no_finding_and_the_watch_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    looking(monkeypatch, [StoreUnavailable("gone"), 1.0])
    assert asyncio.run(first(trigger(when="over", window_seconds=0.1))) == {"found": False, "lag_seconds": 1.0}
    looking(monkeypatch, [StoreUnavailable("gone")])
    assert asyncio.run(first(trigger(when="over", window_seconds=0.1))) == {"found": False, "lag_seconds": None}
    looking(monkeypatch, [ConfigError("wrong")])
    with pytest.raises(ConfigError):
        asyncio.run(first(trigger()))


def test_the_event_loop_goes_on_while_the_trigger_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    looking(monkeypatch, [9.0])
    import threading

    asked, answer = threading.Event(), threading.Event()

    def hang(*_arguments: Any) -> float:
        asked.set()
        assert answer.wait(10)
        return 0.0

    monkeypatch.setattr(replicas, "lag_seconds", hang)

    async def both() -> dict[str, Any]:
        watching = asyncio.create_task(first(trigger()))
        while not asked.is_set():
            await asyncio.sleep(0)
        answer.set()  # only reached when the loop is free
        return await watching

    assert asyncio.run(both())["found"] is True


def test_a_trigger_is_made_again_from_what_it_serialises() -> None:
    path, arguments = trigger(when="over").serialize()
    assert path == "holdfast.triggers.lag.ReplicationLagTrigger"
    assert ReplicationLagTrigger(**json.loads(json.dumps(arguments))).serialize() == (path, arguments)


def test_a_task_pinned_to_a_site_goes_to_that_sites_queue(tmp_path: Path) -> None:
    file = str(make_folders(tmp_path))
    arguments = {"task_id": "t", "group": "desk", "dataset": "prices", "topology_path": file}
    assert queue_of("site-b", file) == "queue-of-site-b"
    assert ReplicateDatasetOperator(**arguments, site="site-b").queue == "queue-of-site-b"
    assert ReplicateDatasetOperator(**arguments, site="site-b", queue="mine").queue == "mine"
    assert ReplicateDatasetOperator(**arguments).queue == "default"
    assert CopyShardOperator(**arguments, shard={}, site="site-c").queue == "queue-of-site-c"


def test_the_operator_merges_two_written_sites_and_says_who_was_overruled(tmp_path: Path) -> None:
    policy = {"direction": "active-active", "winner": "site-a"}
    topology = make_folders(tmp_path, prices={"sync": {}}, merged={"sync": policy, "path": "prices"})
    runtime = folder_runtime(topology)
    for site, data in (("site-a", b"first"), ("site-a", b"from a"), ("site-b", b"from b!")):
        file = tmp_path / site / "data" / "prices" / "one.bin"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
        if data == b"first":
            move_to_active_active(topology, runtime)
            runtime = folder_runtime(topology)
    operator = ReplicateDatasetOperator(
        task_id="merge", group="desk", dataset="merged", topology_path=str(topology), outlets=[]
    )
    done = operator.act({}, runtime)
    assert done["changed"]
    assert (done["merge"]["overruled_objects"], done["merge"]["winner"]) == (1, "site-a")
    assert done["merge"]["overruled"][0]["path"] == "one.bin"
    assert json.loads(json.dumps(done)) == done
    assert not operator.act({}, runtime)["changed"]


def move_to_active_active(topology: Path, runtime: Any) -> None:
    """A first snapshot of `merged` everywhere, made one way."""
    from holdfast.engine.pipeline import sync

    settings = runtime.topology.datasets["merged"]
    one_way = settings.model_copy(
        update={"sync": settings.sync.model_copy(update={"direction": "one-way", "winner": None})}
    )
    datasets = {**runtime.topology.datasets, "merged": one_way}
    path = runtime.topology.path
    runtime.topology = runtime.topology.model_copy(update={"datasets": datasets})
    runtime.topology._path = path
    sync.run(runtime, "desk", "merged")


def test_a_plan_has_no_more_shards_than_airflow_maps(tmp_path: Path) -> None:
    arguments = {"task_id": "t", "group": "desk", "dataset": "prices", "topology_path": str(make_folders(tmp_path))}
    for wrong in (0, 1001):
        with pytest.raises(ConfigError, match="shards"):
            PlanReplicationOperator(**arguments, shards=wrong)


@pytest.mark.parametrize("wrong", [{"group": "nope"}, {"dataset": "nope"}, {"site": "nope"}, {"seconds": 0}])
def test_a_name_or_an_amount_that_cannot_be_is_told_when_the_dag_is_parsed(tmp_path: Path, wrong: Any) -> None:
    settings = {"group": "desk", "dataset": "prices", "site": "site-b", "seconds": 5.0, **wrong}
    file = str(make_folders(tmp_path))
    with pytest.raises(ConfigError):
        ReplicationLagSensor(task_id="t", topology_path=file, **settings)
    with pytest.raises(ConfigError, match="when"):
        ReplicationLagSensor(
            task_id="t", topology_path=file, group="desk", dataset="prices", site="site-b", seconds=1, when="later"
        )
