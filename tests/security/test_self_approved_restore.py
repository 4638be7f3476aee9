"""Whoever asks for a live restore approves it as well, or restores something else than what was approved."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import yaml
from airflow.sdk.exceptions import AirflowFailException
from typer.testing import CliRunner

from folders import SITES, add_vault, folder_runtime, make_folders
from hitl_world import ALICE, BOB, answer, asks, no_hitl_table, run_of  # noqa: F401 - a fixture
from holdfast.cli.main import app
from holdfast.engine.audit.sources.holdfast_events import normalise
from holdfast.engine.audit.sources.holdfast_kinds import KINDS
from holdfast.engine.pipeline.datasets import publish_dataset
from holdfast.engine.pipeline.vaults import backing_up, opening
from holdfast.engine.runtime import Runtime
from holdfast.engine.snapshot import latest
from holdfast.hooks.runtime import HoldfastHook
from holdfast.operators.vault_restore import ApproveRestoreOperator, RestoreLiveOperator


class Desk:
    """A group with four eyes and two backups of ``prices``; live is what neither of them holds."""

    def __init__(self, folder: Path) -> None:
        self.topology = add_vault(make_folders(folder))
        self.folder = folder
        self.four_eyes(True)
        opening.made(self.runtime(), "desk")
        self.first, self.second = self.back_up(b"one"), self.back_up(b"two")
        self.publish(b"spoiled")

    def four_eyes(self, on: bool) -> None:
        document = yaml.safe_load(self.topology.read_text())
        document["groups"]["desk"]["four_eyes"] = on
        self.topology.write_text(yaml.safe_dump(document))

    def runtime(self) -> Any:
        return folder_runtime(self.topology)

    def publish(self, data: bytes) -> None:
        file = self.folder / SITES[0] / "data" / "prices" / "one.bin"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
        publish_dataset(self.runtime(), "desk", "prices")

    def back_up(self, data: bytes) -> str:
        self.publish(data)
        (made,) = backing_up.back_up_group(self.runtime(), "desk", vault="desk")
        assert made.made is not None
        return str(made.made.to_summary()["backup"])

    def newest(self) -> Any:
        found = latest(self.runtime().store(SITES[0]), "prices", epoch=1)
        assert found is not None
        return found

    def approvals(self) -> list[str]:
        return [one.key for one in self.runtime().store(SITES[0]).list("approvals/")]

    def asking(self, **arguments: Any) -> ApproveRestoreOperator:
        return ApproveRestoreOperator(task_id="approve", **self.names(**arguments))

    def restore(self, context: Any, backup: str) -> Any:
        return RestoreLiveOperator(task_id="restore", **self.names(backup=backup)).execute(context)

    def names(self, **arguments: Any) -> dict[str, Any]:
        named = {"vault": "desk", "group": "desk", "source": "prices", "reason": "spoiled"}
        return {**named, "topology_path": str(self.topology), **arguments}


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_hitl_table: None) -> Desk:  # noqa: F811
    made = Desk(tmp_path)
    monkeypatch.setattr(HoldfastHook, "get_conn", lambda _self: made.runtime())
    monkeypatch.setattr(Runtime, "from_environment", lambda *_, **__: made.runtime())
    return made


def test_who_started_the_run_cannot_approve_it_and_somebody_else_can(desk: Desk) -> None:
    before, context = desk.newest().snapshot_id, run_of("alice")
    operator = desk.asking()
    kept = asks(operator, context)
    assert kept == {"backup": desk.second}
    assert "somebody else has to approve it" in str(operator.body)
    for user in (ALICE, {"id": "alice", "name": "Alice Smith"}, {"id": "7", "name": "ALICE"}):
        with pytest.raises(AirflowFailException, match="may not approve it as well"):
            desk.asking().execute_complete(context, answer(user), **kept)
    with pytest.raises(AirflowFailException, match="approval by name"):
        desk.asking().execute_complete(context, answer(None), **kept)
    assert (context["pushed"], desk.approvals()) == ([], [])
    with pytest.raises(AirflowFailException, match="a second person has to approve"):
        desk.restore(context, desk.second)
    assert desk.newest().snapshot_id == before

    decision = desk.asking().execute_complete(context, answer(BOB), **kept)
    assert decision == {"backup": desk.second, "approved": True, "approved_by": "bob"}
    (key,) = desk.approvals()
    record = json.loads(desk.runtime().store(SITES[0]).get(key))
    assert (record["asked_by"], record["approved_by"], record["backup"]) == ("alice", "bob", desk.second)
    assert record["four_eyes"] == {"required": True, "held": True}
    assert [kind.name for kind in KINDS if kind.pattern.fullmatch(key)] == ["approval"]
    (event,) = normalise(pa.array([json.dumps(record).encode()], pa.large_binary())).to_pylist()
    assert (event["actor"]["user"]["name"], event["api"]["operation"]) == ("bob", "approve")
    assert "asked for by alice" in event["message"]
    assert desk.asking().execute(context) == decision  # a retry, or cleared: it was answered
    assert desk.restore(context, desk.second)["published"] is True
    assert desk.newest().labels.items() >= {"approved_by": "bob", "asked_by": "alice"}.items()


def test_nothing_but_what_was_approved_is_restored(desk: Desk) -> None:
    """The approved backup's name goes from task to task in an XCom, which people may change."""
    before, context = desk.newest().snapshot_id, run_of("alice")
    kept = asks(desk.asking(), context)
    desk.asking().execute_complete(context, answer(BOB), **kept)
    for other, backup in ((context, desk.first), (run_of("alice", "manual__2"), desk.second)):
        with pytest.raises(AirflowFailException, match="a second person has to approve"):
            desk.restore(other, backup)
    assert desk.newest().snapshot_id == before


def test_an_altered_approval_is_none(desk: Desk) -> None:
    context = run_of("alice")
    kept = asks(desk.asking(), context)
    desk.asking().execute_complete(context, answer(BOB), **kept)
    (file,) = (desk.folder / SITES[0] / "approvals").rglob("*.json")
    record = json.loads(file.read_text())
    for change in ({"approved_by": "Alice"}, {"vault": "other"}, {"format": "holdfast.approval/2"}):
        file.write_text(json.dumps(record | change))
        with pytest.raises(AirflowFailException, match=r"may not approve|second person|no approval"):
            desk.restore(context, desk.second)


def test_a_run_that_nobody_started_may_be_approved_by_anybody(desk: Desk) -> None:
    context = run_of(None)
    kept = asks(desk.asking(), context)
    desk.asking().execute_complete(context, answer(ALICE), **kept)
    assert desk.restore(context, desk.second)["published"] is True
    labels = desk.newest().labels
    assert (labels["approved_by"], "asked_by" in labels) == ("alice", False)


def test_a_rejection_records_nothing(desk: Desk) -> None:
    context = run_of("alice")
    kept = asks(desk.asking(), context)
    assert desk.asking().execute_complete(context, answer(ALICE, "Reject"), **kept)["approved"] is False
    assert desk.approvals() == []


def test_the_command_has_one_person_and_is_refused(desk: Desk) -> None:
    words = ["vault", "restore", "--live", "--reason", "spoiled", "--source", "prices", "--yes"]
    before = desk.newest().snapshot_id
    refused = CliRunner().invoke(app, words)
    assert refused.exit_code == 3, refused.output
    assert "a second person has to approve a live restore" in " ".join(refused.output.split())
    assert desk.newest().snapshot_id == before
    desk.four_eyes(False)
    assert CliRunner().invoke(app, words).exit_code == 0
    assert desk.newest().snapshot_id != before


def test_a_group_without_four_eyes_says_that_they_were_one_person(desk: Desk) -> None:
    desk.four_eyes(False)
    context = run_of("alice")
    kept = asks(desk.asking(), context)
    desk.asking().execute_complete(context, answer(ALICE), **kept)
    (key,) = desk.approvals()
    assert json.loads(desk.runtime().store(SITES[0]).get(key))["four_eyes"] == {"required": False, "held": False}
    assert desk.restore(context, desk.second)["published"] is True
