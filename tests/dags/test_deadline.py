"""A missed deadline leaves a record, and the notifier runs where Airflow runs deadline callbacks."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from holdfast.notifications.deadline import MissedDeadlineNotifier

#: What Airflow 3.3 hands to a deadline's callback.
CONTEXT = {
    "dag_run": {"dag_id": "failover_drill", "dag_run_id": "manual__2026-11-21T10:00:00+00:00"},
    "deadline": {"id": "0", "deadline_time": "2026-11-21T10:06:00+00:00"},
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("AIRFLOW__HOLDFAST__EVIDENCE_FOLDER", str(tmp_path))
    return tmp_path / "missed-deadlines"


def test_awaiting_it_in_the_triggerer_leaves_a_record(folder: Path):
    async def as_the_triggerer() -> None:
        await MissedDeadlineNotifier(objective="a drill ends in time", context=CONTEXT)

    asyncio.run(as_the_triggerer())
    record = json.loads(next(folder.iterdir()).read_text())
    assert (record["dag_id"], record["objective"]) == ("failover_drill", "a drill ends in time")
    assert record["run_id"] == CONTEXT["dag_run"]["dag_run_id"]


def test_each_run_has_a_record_of_its_own_and_a_second_alert_does_not_add_one(folder: Path):
    notifier = MissedDeadlineNotifier(objective="a drill ends in time")
    for run in ("one", "two", "two"):
        notifier.notify({"dag_run": {"dag_id": "failover_drill", "dag_run_id": run}})
    assert len(list(folder.iterdir())) == 2
