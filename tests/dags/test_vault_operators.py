"""The vault's operators in ``dag.test()``, over three folders as sites."""

from __future__ import annotations

import json
import os
import runpy
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowFailException

from folders import add_vault, folder_runtime, last_sample_of, make_folders
from holdfast.engine.pipeline.vaults import backing_up, keeping, opening, restoring
from holdfast.engine.vault.errors import NotTold
from holdfast.engine.vault.restore import RestoreReport
from holdfast.engine.vault.sources import TreeSource
from holdfast.errors import ConfigError
from holdfast.operators.vault import BackUpGroupOperator, NoteVerificationOperator, VerifyBackupsOperator
from holdfast.operators.vault_restore import RestoreBackupOperator
from vault_world import write_tree

TESTS = Path(__file__).resolve().parents[1]
#: A folder has no register, so the hook gives the runtime of `folders`. One DAG for the whole story: an Airflow takes
#: seconds to begin.
STORY = """
import os
from pathlib import Path
from airflow.sdk import DAG, chain, task
from folders import folder_runtime
from holdfast.engine.pipeline.datasets import publish_dataset
from holdfast.hooks.runtime import HoldfastHook
from holdfast.notifications.recovery_point import StaleRecoveryPointNotifier
from holdfast.operators.assets import BACKED_UP
from holdfast.operators.vault import (
    BackUpGroupOperator, CheckRecoveryPointsOperator, GroupsOfVaultOperator, RetainBackupsOperator,
    VerifyBackupsOperator,
)
from holdfast.operators.vault_restore import RestoreBackupOperator, RestoreLiveOperator

TOPOLOGY = Path(os.environ["HOLDFAST_TOPOLOGY"])
HoldfastHook.get_conn = lambda self: folder_runtime(TOPOLOGY)
DESK = {"group": "desk", "vault": "desk"}


@task(trigger_rule="all_failed")
def publish(name):
    file = TOPOLOGY.parent / "site-a" / "data" / "prices" / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(name.encode())
    publish_dataset(folder_runtime(TOPOLOGY), "desk", "prices")


@task
def damage():
    for pack in (TOPOLOGY.parent / "site-b" / "vault" / "desk" / "packs").rglob("*"):
        if pack.is_file():
            pack.write_bytes(pack.read_bytes()[:-1])


with DAG("story", schedule=None, catchup=False):
    groups = GroupsOfVaultOperator(task_id="groups", vault="desk", trigger_rule="all_done")
    chain(
        CheckRecoveryPointsOperator(
            task_id="none_yet", on_failure_callback=StaleRecoveryPointNotifier(**DESK), **DESK
        ),
        publish("one.bin"),
        groups,
        BackUpGroupOperator.partial(task_id="back_up", vault="desk", outlets=[BACKED_UP]).expand(group=groups.output),
        CheckRecoveryPointsOperator(task_id="fresh", **DESK),
        VerifyBackupsOperator(task_id="verify", vault="desk", depth="full"),
        RetainBackupsOperator(task_id="retain", vault="desk"),
        RestoreBackupOperator(task_id="restore", vault="desk", site="site-c", prefix="restored/x", source="prices"),
        RestoreLiveOperator(task_id="restore_live", source="prices", reason="spoiled", **DESK),
        damage(),
        VerifyBackupsOperator(task_id="verify_damaged", vault="desk", depth="structure"),
        RestoreBackupOperator(
            task_id="from_the_mirror", vault="desk", site="site-c", prefix="restored/y", source="prices",
            mirror="site-c", trigger_rule="all_done",
        ),
    )
"""


def test_backups_are_made_verified_kept_and_restored(tmp_path: Path, start_dag: Callable[..., Any]) -> None:
    topology = add_vault(make_folders(tmp_path))
    opening.made(folder_runtime(topology), "desk")
    (tmp_path / "dags").mkdir()
    (tmp_path / "dags" / "story.py").write_text(STORY)
    environ = {
        "HOLDFAST_TOPOLOGY": str(topology),
        "PYTHONPATH": f"{TESTS}:{TESTS.parent}/plugins",
        "AIRFLOW__HOLDFAST__EVIDENCE_FOLDER": str(tmp_path / "evidence"),
    }
    test = start_dag(tmp_path / "dags" / "story.py", "story", **environ)
    tasks = test.result()["tasks"]
    assert {name: one["state"] for name, one in tasks.items() if one["state"] != "success"} == {
        "none_yet": "failed",
        "verify_damaged": "failed",
    }, test.text[-6000:]
    found = {name: one["result"] for name, one in tasks.items()}
    assert found["groups"] == ["desk"]
    made = found["back_up"]["backups"]
    assert [(one["source"], one["objects"], one["mirrors"]["site-c"]["problems"]) for one in made] == [
        ("prices", 1, [])
    ]
    assert found["fresh"][0]["backup"] == made[0]["backup"]
    assert found["fresh"][0]["depth"] == "structure"
    assert found["verify"]["content_opened"] is True
    assert found["retain"]["kept"] == 1
    for folder in ("x", "y"):
        assert (tmp_path / "site-c" / "restored" / folder / "one.bin").read_bytes() == b"one.bin"
    events = asset_events(tmp_path / "airflow")
    assert [one["backups"] for one in events] == [{"prices": made[0]["backup"]}]
    (record,) = (tmp_path / "evidence" / "stale-recovery-points").iterdir()
    assert "no verified backup" in json.loads(record.read_text())["why"]
    points = keeping.recovery_points(folder_runtime(topology), "desk", "desk")
    assert points[0].depth == "full"


def asset_events(home: Path) -> list[dict[str, Any]]:
    with sqlite3.connect(home / "airflow.db") as database:
        return [json.loads(extra) for (extra,) in database.execute("select extra from asset_event order by id")]


def test_a_vault_with_locks_has_them_renewed_every_day_whatever_else_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    topology = add_vault(make_folders(tmp_path), lock_days={"daily": 30})
    monkeypatch.setenv("HOLDFAST_TOPOLOGY", str(topology))
    dag = runpy.run_path(str(TESTS.parent / "dags" / "verify_backups.py"))["verify_dag"]("x", "desk", "@daily")
    assert dag.get_task("verify-site-c").mirror == "site-c"
    after = dag.get_task("verify-site-c").downstream_task_ids
    assert after == {"note-site-c"}, "a damaged mirror keeps no retention from running"
    assert dag.get_task("note-site-c").downstream_task_ids == {"outcome"}
    lock = dag.get_task("lock")
    assert (lock.trigger_rule, lock.upstream_task_ids) == ("all_done", {"retain"})
    add_vault(topology)
    os.utime(topology, (0, 0))
    dag = runpy.run_path(str(TESTS.parent / "dags" / "verify_backups.py"))["verify_dag"]("x", "desk", "@daily")
    assert not dag.has_task("lock")


def test_a_run_fails_with_any_task_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Airflow takes the state of the last tasks for the run's, and some of these run whatever failed before them."""
    monkeypatch.setenv("HOLDFAST_TOPOLOGY", str(add_vault(make_folders(tmp_path), lock_days={"daily": 30})))
    dag = runpy.run_path(str(TESTS.parent / "dags" / "verify_backups.py"))["verify_dag"]("x", "desk", "@daily")
    assert [task.task_id for task in dag.leaves] == ["outcome"]
    outcome = dag.get_task("outcome")
    assert outcome.trigger_rule == "all_success"
    assert outcome.upstream_task_ids == {"note", "note-site-c", "retain", "lock", "check-desk"}
    assert dag.get_task("note").trigger_rule == dag.get_task("retain").trigger_rule == "all_success"


def test_a_verification_fails_with_missing_shares_and_is_tried_again_without_a_witness(tmp_path: Path) -> None:
    shares = {"sites": ["site-a", "site-b", "site-c"], "needed": 2}
    witnesses = ["site-b", "site-c"]
    topology = add_vault(make_folders(tmp_path), site="site-a", mirrors=[], witnesses=witnesses, shares=shares)
    runtime = folder_runtime(topology)
    opening.made(runtime, "desk")
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "one").write_bytes(b"one" * 1000)
    backing_up.back_up_source(runtime, "desk", TreeSource("tree", tmp_path / "source", runtime.clock.now()))
    task = VerifyBackupsOperator(task_id="t", vault="desk", depth="structure", topology_path=str(topology))
    assert task.act({}, folder_runtime(topology))["warnings"] == []
    shutil.rmtree(tmp_path / "site-c" / "vault" / "desk" / "packs")
    with pytest.raises(AirflowFailException, match=r"site-c: the share of packs/.* --repair"):
        task.act({}, folder_runtime(topology))
    full = VerifyBackupsOperator(task_id="full", vault="desk", depth="full", note=False, topology_path=str(topology))
    found = full.act({}, folder_runtime(topology))
    note = NoteVerificationOperator(task_id="note", vault="desk", verification=found, topology_path=str(topology))
    assert last_sample_of(topology) is None
    with pytest.raises(AirflowFailException, match=r"everything restores, but .* the first: site-c: the share"):
        note.act({}, folder_runtime(topology))
    assert last_sample_of(topology) is not None, "what restores counts as verified"
    keeping.repaired(folder_runtime(topology), "desk")
    for site in witnesses:
        (tmp_path / site / "vault-witness").rename(tmp_path / f"kept-{site}")
        (tmp_path / site / "vault-witness").write_text("a file where a folder should be")
    with pytest.raises(NotTold, match="no witness could be asked") as told:
        task.act({}, folder_runtime(topology))
    assert told.value.transient


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda file: BackUpGroupOperator(task_id="t", group="desk", vault="no", topology_path=file), "no such vault"),
        (lambda file: BackUpGroupOperator(task_id="t", group="no", vault="desk", topology_path=file), "no such group"),
        (
            lambda file: VerifyBackupsOperator(task_id="t", vault="desk", depth="deep", topology_path=file),
            "unknown depth",
        ),
        (
            lambda file: RestoreBackupOperator(
                task_id="t", vault="desk", site="nowhere", prefix="x", topology_path=file
            ),
            "no such site",
        ),
    ],
)
def test_a_wrong_name_is_refused_when_the_dag_is_parsed(
    tmp_path: Path, make: Callable[[str], object], says: str
) -> None:
    file = str(add_vault(make_folders(tmp_path)))
    with pytest.raises(ConfigError, match=says):
        make(file)


def test_a_restore_whose_table_names_its_old_place_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = add_vault(make_folders(tmp_path))
    runtime = folder_runtime(file)
    opening.made(runtime, "desk")
    write_tree(tmp_path / "notes", {"a.txt": b"a"})
    made = backing_up.back_up_source(runtime, "desk", TreeSource("notes", tmp_path / "notes", runtime.clock.now()))
    report = RestoreReport(made.report.backup, tables=({"root": "t", "not_moved": "no fastavro"},))
    monkeypatch.setattr(restoring, "restored", lambda *_args, **_kwargs: report)
    task = RestoreBackupOperator(task_id="t", vault="desk", site="site-c", prefix="x", topology_path=str(file))
    with pytest.raises(AirflowFailException, match="1 tables cannot be read at site-c"):
        task.act({}, runtime)
    report.tables = ()
    assert task.act({}, runtime)["tables"] == []
