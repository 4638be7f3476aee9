"""One worker queue per role of a vault: each task is on one of them, and a worker with that role's key suffices."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from folders import add_vault, folder_runtime, last_sample_of, make_folders
from holdfast.engine.pipeline.datasets import publish_dataset
from holdfast.engine.pipeline.vaults import backing_up, keeping, opening, verifying
from holdfast.engine.vault.verify import Depth
from holdfast.errors import ConfigError
from holdfast.operators.vault import RetainBackupsOperator

TESTS = Path(__file__).resolve().parents[1]
DAGS = TESTS.parent / "dags"
FILES = ("back_up", "back_up_airflow", "restore", "restore_drill", "verify_backups")
ROLES = ("writer", "reader", "admin")
QUEUES = {role: f"{role}s-queue" for role in ROLES}
READ = """
import json, sys
from airflow.dag_processing.dagbag import DagBag
found = {}
for file in sys.argv[1:]:
    bag = DagBag(file, safe_mode=False)
    assert not bag.import_errors, bag.import_errors
    found |= {dag.dag_id: {task.task_id: task.queue for task in dag.tasks} for dag in bag.dags.values()}
print("RESULT " + json.dumps(found))
"""
#: The real DAGs, where each task sees the key file of its own queue's role and no other.
STORY = """
# Airflow looks for a DAG in files that have both words.
import os
from pathlib import Path
from folders import folder_runtime
from holdfast.hooks.runtime import HoldfastHook
from holdfast.operators.base import HoldfastOperator

TOPOLOGY = Path(os.environ["HOLDFAST_TOPOLOGY"])
KEYS = Path(os.environ["TEST_KEYS"])


class OfOneRole(HoldfastHook):
    def __init__(self, queue):
        super().__init__()
        self.queue = queue

    def get_conn(self):
        role = self.queue.removesuffix("s-queue")
        for file in TOPOLOGY.parent.glob("*.key"):
            file.unlink()
        (TOPOLOGY.parent / f"{role}.key").write_text((KEYS / f"{role}.key").read_text())
        with (KEYS / "told").open("a") as told:
            told.write(f"{role}\\n")
        return folder_runtime(TOPOLOGY)


HoldfastOperator.hook = property(lambda self: OfOneRole(self.queue))
for name in ("back_up", "verify_backups", "restore", "restore_drill"):
    exec(compile((Path(os.environ["TEST_DAGS"]) / f"{name}.py").read_text(), __file__, "exec"))
"""


def queues_of(topology: Path, home: Path) -> dict[str, dict[str, str]]:
    """By DAG and task its queue, as Airflow reads the DAG files."""
    answer = subprocess.run(
        [sys.executable, "-c", READ, *(str(DAGS / f"{name}.py") for name in FILES)],
        env={
            **os.environ,
            "HOLDFAST_TOPOLOGY": str(topology),
            "PYTHONPATH": str(TESTS.parent / "plugins"),
            "AIRFLOW_HOME": str(home),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        },
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert answer.returncode == 0, answer.stderr[-4000:]
    found: dict[str, dict[str, str]] = json.loads(answer.stdout.split("RESULT ")[-1])
    return found


def second_vault(topology: Path, **settings: Any) -> Path:
    document = yaml.safe_load(topology.read_text())
    document["vaults"]["other"] = {**document["vaults"]["desk"], "prefix": "vault/other", **settings}
    topology.write_text(yaml.safe_dump(document))
    return topology


def recovery(topology: Path, queue: str) -> Path:
    document = yaml.safe_load(topology.read_text())
    settings = {"site": "site-b", "passphrase": "env:X", "data_folder": "/data", "queue": queue}
    document["airflow"] = {"recovery": settings}
    topology.write_text(yaml.safe_dump(document))
    return topology


def test_each_task_is_on_the_queue_of_the_role_it_needs(tmp_path: Path) -> None:
    topology = recovery(add_vault(make_folders(tmp_path), queues=QUEUES, lock_days={"daily": 1}), "beside-the-cluster")
    writer, reader, admin = QUEUES.values()
    assert queues_of(topology, tmp_path / "home") == {
        "back_up": {"groups": writer, "back_up": writer},
        "back_up.desk": {"groups": writer, "back_up": writer},
        "back_up_airflow": {"back_up-desk": writer, "base_backup": "beside-the-cluster"},
        "restore": {"restore": reader},
        "restore_live": {"approve": writer, "restore": reader},
        "restore_drill.desk": {"drill": reader},
        "verify_backups.desk": {
            "verify": reader,
            "note": writer,
            "verify-site-c": reader,
            "note-site-c": writer,
            "retain": admin,
            "lock": writer,
            "check-desk": writer,
            "outcome": "default",  # the scheduler's own, no worker runs it
        },
    }


def test_vaults_of_different_queues_have_dags_of_their_own(tmp_path: Path) -> None:
    topology = second_vault(add_vault(make_folders(tmp_path), queues=QUEUES), queues={"reader": "elsewhere"})
    found = queues_of(topology, tmp_path / "home")
    assert {name for name in found if name.startswith(("back_up", "restore"))} == {
        "back_up.desk",
        "back_up.other",
        "back_up_airflow",
        "restore.desk",
        "restore.other",
        "restore_live.desk",
        "restore_live.other",
        "restore_drill.desk",
    }
    assert found["restore.other"] == {"restore": "elsewhere"}
    assert found["restore_live.desk"] == {"approve": QUEUES["writer"], "restore": QUEUES["reader"]}
    assert found["back_up.other"] == {"groups": "default", "back_up": "default"}


def test_without_queues_everything_is_on_airflows_default_queue(tmp_path: Path) -> None:
    topology = second_vault(add_vault(make_folders(tmp_path)))
    found = queues_of(topology, tmp_path / "home")
    assert {"back_up", "restore", "restore_live"} <= found.keys()
    assert {queue for tasks in found.values() for queue in tasks.values()} == {"default"}


def test_a_task_whose_vault_is_a_parameter_is_on_no_ones_queue(tmp_path: Path) -> None:
    topology = str(second_vault(add_vault(make_folders(tmp_path), queues=QUEUES), queues={}))
    with pytest.raises(ConfigError, match="cannot be on the queue of each"):
        RetainBackupsOperator(task_id="t", vault="{{ params.vault }}", topology_path=topology)
    own = RetainBackupsOperator(task_id="t", vault="{{ params.vault }}", queue="mine", topology_path=topology)
    assert own.queue == "mine"
    assert RetainBackupsOperator(task_id="t", vault="desk", topology_path=topology).queue == QUEUES["admin"]


@pytest.mark.parametrize("mirror", [None, "site-c"])
def test_the_readers_key_verifies_and_the_writers_notes(tmp_path: Path, mirror: str | None) -> None:
    topology = add_vault(make_folders(tmp_path))
    live = tmp_path / "site-a" / "data" / "prices"
    live.mkdir(parents=True)
    (live / "one.bin").write_bytes(b"one")
    publish_dataset(folder_runtime(topology), "desk", "prices")
    opening.made(folder_runtime(topology), "desk")
    backing_up.back_up_subject(folder_runtime(topology), "desk", "prices", "desk")
    writer = tmp_path / "writer.key"
    writer.rename(tmp_path / "away")
    (tmp_path / "admin.key").unlink()
    proofs: list[verifying.Proof] = []
    report = verifying.verified(folder_runtime(topology), "desk", Depth.FULL, site=mirror, prove=proofs.append)
    assert (report.problems, report.warnings, report.content_opened) == ([], [], True)
    (tmp_path / "reader.key").unlink()
    (tmp_path / "away").rename(writer)
    assert last_sample_of(topology, site=mirror) is None
    proof = verifying.Proof.from_dict(json.loads(json.dumps(proofs[0].to_dict())))
    assert proof == proofs[0]
    verifying.noted(folder_runtime(topology), "desk", proof, site=mirror)
    assert last_sample_of(topology, site=mirror) == proof.at


@pytest.mark.slow
def test_a_worker_with_its_roles_key_alone_does_every_task(tmp_path: Path, start_dag: Callable[..., Any]) -> None:
    topology = add_vault(make_folders(tmp_path), queues=QUEUES, keep={"last": 1, "hourly": 0, "daily": 0})
    live = tmp_path / "site-a" / "data" / "prices"
    live.mkdir(parents=True)
    (live / "one.bin").write_bytes(b"one")
    publish_dataset(folder_runtime(topology), "desk", "prices")
    opening.made(folder_runtime(topology), "desk")
    keys, dags = tmp_path / "keys", tmp_path / "dags"
    keys.mkdir()
    dags.mkdir()
    for role in ROLES:
        (tmp_path / f"{role}.key").rename(keys / f"{role}.key")
    (dags / "story.py").write_text(STORY)
    environ = {
        "HOLDFAST_TOPOLOGY": str(topology),
        "HOLDFAST_STATE": str(tmp_path / "state"),
        "TEST_KEYS": str(keys),
        "TEST_DAGS": str(DAGS),
        "PYTHONPATH": f"{TESTS}:{TESTS.parent}/plugins",
        "AIRFLOW__HOLDFAST__EVIDENCE_FOLDER": str(tmp_path / "evidence"),
    }

    def run(dag: str, conf: dict[str, Any]) -> dict[str, Any]:
        test = start_dag(dags / "story.py", dag, conf, **environ)
        tasks = test.result()["tasks"]
        assert {one["state"] for one in tasks.values()} == {"success"}, test.text[-8000:]
        return {name: one["result"] for name, one in tasks.items()}

    run("back_up.desk", {})
    found = run("verify_backups.desk", {"depth": "full"})
    assert found["verify"]["content_opened"] is True
    assert found["check-desk"][0]["depth"] == "full"
    run("restore", {"site": "site-c", "prefix": "restored/x", "source": "prices"})
    assert (tmp_path / "site-c" / "restored" / "x" / "one.bin").read_bytes() == b"one"
    assert set((keys / "told").read_text().split()) == set(ROLES)
    (tmp_path / "writer.key").write_text((keys / "writer.key").read_text())
    points = keeping.recovery_points(folder_runtime(topology), "desk", "desk")
    assert [point.depth for point in points] == ["full"]
