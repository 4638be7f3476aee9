"""Whoever asks for a failover approves it as well: by another spelling, by a forged result, at the command line."""

from __future__ import annotations

import json
import pwd
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest
from airflow.sdk.exceptions import AirflowFailException
from typer.testing import CliRunner

from hitl_world import ALICE, BOB, answer, asks, no_hitl_table, run_of  # noqa: F401 - a fixture
from holdfast.cli.main import app
from holdfast.engine.audit.sources.holdfast_events import normalise
from holdfast.engine.config import Decision
from holdfast.engine.health.interface import Verdict
from holdfast.engine.recovery import SelfApproval, load_plan, new_plan, read_records, run_plan
from holdfast.engine.recovery.plan import plan_folder
from holdfast.engine.runtime import Runtime
from holdfast.hooks.runtime import HoldfastHook
from holdfast.operators.base import request_id
from holdfast.operators.recovery import ApprovePlanOperator, FailOverOperator
from world import AWS, GCP, GROUP, TOPOLOGY, World, make_world


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch, no_hitl_table: None) -> World:  # noqa: F811
    """A group with four eyes, whose source is not down by the rules: a person has to decide."""
    made = make_world()
    change(made, four_eyes=True)
    made.senses.verdicts = Verdict.SUSPECT
    monkeypatch.setattr("holdfast.engine.recovery.runner.RealSenses", lambda: made.senses)
    monkeypatch.setattr(HoldfastHook, "get_conn", lambda _self: made)
    monkeypatch.setattr(Runtime, "from_environment", lambda *_, **__: made)
    return made


def change(world: World, **settings: Any) -> None:
    group = world.topology.group(GROUP).model_copy(update=settings)
    world.topology = world.topology.model_copy(update={"groups": {GROUP: group}})


def approve() -> ApprovePlanOperator:
    return ApprovePlanOperator(task_id="approve", group=GROUP, reason="test", topology_path=str(TOPOLOGY))


def fail_over(context: Any) -> Any:
    operator = FailOverOperator(
        task_id="fail_over", group=GROUP, plan_id=request_id(context), topology_path=str(TOPOLOGY)
    )
    return operator.execute(context)


def records(world: World, context: Any) -> Any:
    return read_records(world, load_plan(world, GROUP, request_id(context)))


def attempts(world: World) -> list[dict[str, Any]]:
    keys = [one.key for one in world.bare(GCP).list(f"plans/{GROUP}/") if "/attempts/decide" in one.key]
    return [json.loads(world.bare(GCP).get(key)) for key in keys]


def assert_nothing_moved(world: World) -> None:
    state = world.epochs.read(GROUP)
    assert state is not None
    assert (state.epoch, state.active_site, state.operation) == (1, AWS, None)
    assert world.traffic_record.switches == 0
    assert world.backends[GCP].submitted == 0


@pytest.mark.parametrize(
    ("asked_by", "user"),
    [
        ("alice", ALICE),
        ("alice", {"id": "7", "name": "ALICE"}),
        (" Alice", {"id": "7", "name": "alice "}),
        ("alice", {"id": "7", "name": "\uff41lice"}),
        ("alice", {"id": "alice", "name": "Alice Smith"}),
        ("Straße", {"id": "7", "name": "STRASSE"}),
    ],
    ids=["same", "case", "spaces", "full-width", "by-id", "sharp-s"],
)
def test_who_started_the_run_cannot_approve_it_and_somebody_else_can(
    world: World, asked_by: str, user: dict[str, str]
) -> None:
    context = run_of(asked_by)
    operator = approve()
    asks(operator, context)
    assert "somebody else has to approve it" in str(operator.body)
    with pytest.raises(AirflowFailException, match=r"may not approve it as well; expected .* somebody other"):
        operator.execute_complete(context, answer(user))
    assert context["pushed"] == []
    assert_nothing_moved(world)
    with pytest.raises(AirflowFailException, match="a person has to decide"):
        fail_over(context)
    assert_nothing_moved(world)
    assert [one["error"]["error"] for one in attempts(world)].count("SelfApproval") == 1

    asks(approve(), context)  # cleared, it asks again
    decision = approve().execute_complete(context, answer(BOB))
    assert (decision["approved_by"], decision["asked_by"]) == ("bob", asked_by)
    assert fail_over(context)["active_site"] == GCP
    decided = records(world, context)["decide"].evidence
    assert (decided["asked_by"], decided["approved_by"]) == (asked_by, "bob")
    assert decided["four_eyes"] == {"required": True, "held": True}
    plan = load_plan(world, GROUP, request_id(context))
    raw = [one.model_dump_json().encode() for one in (plan, records(world, context)["decide"])]
    events = normalise(pa.array(raw, pa.large_binary())).to_pylist()
    assert f"asked for by {asked_by}: test" in events[0]["message"]
    assert events[1]["message"].endswith("done, approved by bob")


def test_what_a_task_returned_is_no_approval(world: World) -> None:
    """Who may edit runs may write an XCom and mark a task as successful: nothing of that is read."""
    context = run_of("alice")
    asks(approve(), context)
    with pytest.raises(TypeError):
        FailOverOperator(task_id="t", group=GROUP, plan_id="p", approved_by="bob")  # type: ignore[call-arg]
    with pytest.raises(AirflowFailException, match="a person has to decide"):
        fail_over(context)
    assert_nothing_moved(world)


def test_an_approval_without_a_name_is_none(world: World) -> None:
    context = run_of("alice")
    asks(approve(), context)
    with pytest.raises(AirflowFailException, match="approval by name"):
        approve().execute_complete(context, answer(None))
    assert_nothing_moved(world)


def test_who_asked_may_take_it_back(world: World) -> None:
    context = run_of("alice")
    asks(approve(), context)
    assert approve().execute_complete(context, answer(ALICE, "Reject"))["approved"] is False
    mark = json.loads(world.bare(GCP).get(f"{plan_folder(GROUP, request_id(context))}/aborted.json"))
    assert (mark["by"], mark["reason"]) == ("alice", "rejected")
    with pytest.raises(AirflowFailException, match="given up"):
        approve().execute_complete(context, answer(BOB))
    assert_nothing_moved(world)


def test_a_run_that_nobody_started_may_be_approved_by_anybody(world: World) -> None:
    context = run_of(None)
    asks(approve(), context)
    approve().execute_complete(context, answer(ALICE))
    assert fail_over(context)["active_site"] == GCP
    decided = records(world, context)["decide"].evidence
    assert (decided["asked_by"], decided["approved_by"]) == (None, "alice")
    assert decided["four_eyes"] == {"required": True, "held": None}


def test_a_group_without_four_eyes_says_that_they_were_one_person(world: World) -> None:
    change(world, four_eyes=False)
    context = run_of("alice")
    operator = approve()
    asks(operator, context)
    assert "asked for by alice" in str(operator.body)
    assert "somebody else" not in str(operator.body)
    operator.execute_complete(context, answer(ALICE))
    assert records(world, context)["decide"].evidence["four_eyes"] == {"required": False, "held": False}


def test_a_retry_of_an_answered_question_goes_on_with_the_answer(world: World) -> None:
    context = run_of("alice")
    asks(approve(), context)
    approve().execute_complete(context, answer(BOB))
    again = approve().execute(context)
    assert (again["approved"], again["approved_by"]) == (True, "bob")
    assert approve().execute_complete(context, answer({"id": "eve", "name": "eve"}))["approved_by"] == "bob"


def test_what_the_rules_decide_needs_nobody(world: World) -> None:
    world.senses.verdicts = Verdict.DOWN
    assert world.topology.group(GROUP).decision is Decision.AUTOMATIC
    context = run_of("alice")
    decision = approve().execute(context)
    assert (decision["approved"], decision["approved_by"]) == (True, None)
    assert records(world, context)["decide"].evidence["four_eyes"] == {"required": False, "held": None}


def test_a_drill_is_approved_by_being_run(world: World) -> None:
    plan = new_plan(world, GROUP, reason="test", operation="drill-1", operation_kind="drill", asked_by="alice")
    result = run_plan(world, plan, only=("detect", "decide"), senses=world.senses, approved_by="alice")
    decided = result.record("decide")
    assert decided is not None
    assert decided.evidence["four_eyes"] == {"required": False, "held": False}


def test_an_engine_that_is_called_by_itself_refuses_as_well(world: World) -> None:
    plan = new_plan(world, GROUP, reason="test", asked_by="alice")
    with pytest.raises(SelfApproval) as refused:
        run_plan(world, plan, senses=world.senses, approved_by="Alice")
    assert refused.value.exit_code == 3
    assert plan.plan_id in str(refused.value)
    assert_nothing_moved(world)


def test_at_the_command_line_the_account_counts_and_not_what_the_environment_says(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def at(account: str, *words: str, code: int) -> str:
        monkeypatch.setattr(pwd, "getpwuid", lambda _uid: SimpleNamespace(pw_name=account))
        done = CliRunner().invoke(app, ["failover", *words, "--group", GROUP], env={"USER": "bob", "LOGNAME": "bob"})
        assert done.exit_code == code, done.output
        return done.output

    refused = at("alice", "run", "--yes", code=3)
    assert "may not approve it as well" in " ".join(refused.split())
    assert_nothing_moved(world)
    (plan_id,) = {one.key.split("/")[2] for one in world.bare(GCP).list(f"plans/{GROUP}/")}
    at("alice", "resume", plan_id, "--yes", code=3)
    assert_nothing_moved(world)
    at("bob", "resume", plan_id, "--yes", code=0)
    state = world.epochs.read(GROUP)
    assert state is not None
    assert (state.epoch, state.active_site) == (2, GCP)
