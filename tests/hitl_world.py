"""Approval tasks without Airflow's processes: a DAG run that somebody started, and people who answer."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk.exceptions import TaskAwaitingInput

ALICE = {"id": "alice", "name": "alice"}
BOB = {"id": "bob", "name": "bob"}


def run_of(asked_by: str | None, run_id: str = "manual__1") -> Any:
    """The context of a task of a run. ``pushed`` has what the task returned last."""
    run = SimpleNamespace(
        run_after=datetime(2026, 11, 30, tzinfo=UTC), dag_id="d", run_id=run_id, triggering_user_name=asked_by
    )
    pushed: list[Any] = []
    ti = SimpleNamespace(id=uuid.UUID(int=1), xcom_push=lambda *, key, value: pushed.append(value))
    return {"dag_run": run, "ti": ti, "task_instance": ti, "pushed": pushed}


def answer(user: dict[str, str] | None, option: str = "Approve") -> dict[str, Any]:
    """What Airflow resumes the task with."""
    return {
        "chosen_options": [option],
        "params_input": {},
        "responded_at": datetime(2026, 11, 30, tzinfo=UTC),
        "responded_by_user": user,
    }


def asks(operator: Any, context: Any) -> dict[str, Any]:
    """Run the task until it waits for a person; what it keeps for the answer."""
    with pytest.raises(TaskAwaitingInput) as waiting:
        operator.execute(context)
    return dict(waiting.value.kwargs or {})


@pytest.fixture
def no_hitl_table(monkeypatch: pytest.MonkeyPatch) -> None:
    """The question is not written to Airflow's database: there is none."""
    monkeypatch.setattr("airflow.providers.standard.operators.hitl.upsert_hitl_detail", lambda **_: None)


__all__ = ["ALICE", "BOB", "answer", "asks", "no_hitl_table", "run_of"]
