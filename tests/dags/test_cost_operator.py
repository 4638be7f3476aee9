"""The cost operator: a report in the evidence folder, a small summary, an asset event; a failure without a bill."""

from __future__ import annotations

import json
import os
import runpy
import sqlite3
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from airflow.sdk.exceptions import AirflowFailException

from cost_world import OCTOBER, as_csv, line
from folders import folder_runtime, make_folders
from holdfast.errors import ConfigError
from holdfast.hooks.runtime import HoldfastHook
from holdfast.operators.assets import COSTS
from holdfast.operators.cost import ReportCostsOperator

TESTS = Path(__file__).resolve().parents[1]
STORY = """
import os
from pathlib import Path
from airflow.sdk import DAG
from folders import folder_runtime
from holdfast.hooks.runtime import HoldfastHook
from holdfast.operators.assets import COSTS
from holdfast.operators.cost import ReportCostsOperator

TOPOLOGY = Path(os.environ["HOLDFAST_TOPOLOGY"])
HoldfastHook.get_conn = lambda self: folder_runtime(TOPOLOGY)

with DAG("story", schedule=None, catchup=False):
    ReportCostsOperator(task_id="known", period="2026-10", outlets=[COSTS])
    ReportCostsOperator(task_id="unknown", period="2026-09")
"""


@pytest.fixture
def topology(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    file = make_folders(tmp_path)
    document = yaml.safe_load(file.read_text())
    document["cost"] = {
        "exports": {"bill": {"site": "site-b", "bucket": str(tmp_path / "bills")}},
        "rules": [{"resource": "vm-1", "group": "desk", "role": "standby", "site": "site-b"}],
    }
    file.write_text(yaml.safe_dump(document))
    (tmp_path / "bills").mkdir()
    (tmp_path / "bills" / "focus.csv").write_bytes(as_csv([line("12.34", month=OCTOBER, ResourceId="vm-1")]))
    monkeypatch.setattr(HoldfastHook, "evidence_folder", lambda _self: tmp_path / "evidence")
    return file


def test_a_report_is_filed_and_told_in_few_figures(topology: Path) -> None:
    events: Any = defaultdict(lambda: SimpleNamespace(extra=None))
    operator = ReportCostsOperator(task_id="report", period="2026-10", outlets=[COSTS])
    summary = operator.act({"outlet_events": events}, folder_runtime(topology))  # type: ignore[arg-type]
    folder = topology.parent / "evidence" / "costs" / "2026-10"
    assert summary["standby"] == {"USD": "12.34"}
    assert (summary["is_known"], summary["folder"]) == (True, str(folder))
    assert len(json.dumps(summary)) < 1000
    assert {one.name for one in folder.iterdir()} == {"report.json", "focus.parquet", "focus.csv", "focus.json"}
    report = json.loads((folder / "report.json").read_text())
    assert report["standby"]["totals"][0]["effective"] == "12.34"
    assert events[COSTS].extra == {"period": "2026-10", "state": "final", "standby": summary["standby"]}


def test_each_report_is_kept_at_the_sites_for_the_audit(topology: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    operator = ReportCostsOperator(task_id="report", period="2026-10")
    summary = operator.act({}, folder_runtime(topology))  # type: ignore[arg-type]
    assert summary["sites"] == ["site-a", "site-b", "site-c"]
    filed = json.loads((topology.parent / "evidence" / "costs" / "2026-10" / "report.json").read_text())
    for site in summary["sites"]:
        (record,) = (topology.parent / site / "costs" / "2026-10").iterdir()
        assert json.loads(record.read_text()) == filed
    # Once no site takes it, the audit would never know: the task says so.
    monkeypatch.setattr("holdfast.engine.cost.filing.keep_report", lambda *_args: {"site-a": "no answer"})
    with pytest.raises(AirflowFailException, match="no site keeps the report of 2026-10"):
        operator.act({}, folder_runtime(topology))  # type: ignore[arg-type]


def test_a_bill_that_is_not_there_fails_the_task_after_the_report(topology: Path) -> None:
    operator = ReportCostsOperator(task_id="report", period="2026-09")
    with pytest.raises(AirflowFailException, match="not known: bill: missing"):
        operator.act({}, folder_runtime(topology))  # type: ignore[arg-type]
    report = json.loads((topology.parent / "evidence" / "costs" / "2026-09" / "report.json").read_text())
    assert (report["is_known"], report["standby"]["state"]) == (False, "missing")
    quiet = ReportCostsOperator(task_id="quiet", period="2026-09", require_known=False)
    assert quiet.act({}, folder_runtime(topology))["is_known"] is False  # type: ignore[arg-type]


def test_a_period_is_no_path(topology: Path) -> None:
    operator = ReportCostsOperator(task_id="report", period="../../2026-10")
    with pytest.raises(ConfigError, match="no billing period"):
        operator.act({}, folder_runtime(topology))  # type: ignore[arg-type]
    assert not (topology.parent / "evidence").exists()


def test_the_dag_is_there_only_where_the_topology_speaks_of_cost(
    topology: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOLDFAST_TOPOLOGY", str(topology))
    file = str(TESTS.parent / "dags" / "report_costs.py")
    dag = runpy.run_path(file)["dag"]
    assert sorted(dag.task_ids) == ["month_to_date", "report"]
    assert dag.get_task("report").outlets == [COSTS]
    assert dag.schedule == "0 6 * * *"
    document = yaml.safe_load(topology.read_text())
    del document["cost"]
    topology.write_text(yaml.safe_dump(document))
    os.utime(topology, (0, 0))
    assert "dag" not in runpy.run_path(file)


@pytest.mark.slow
def test_the_report_is_an_asset_event_in_airflow(topology: Path, tmp_path: Path, start_dag: Callable[..., Any]) -> None:
    (tmp_path / "dags").mkdir()
    (tmp_path / "dags" / "story.py").write_text(STORY)
    environ = {
        "HOLDFAST_TOPOLOGY": str(topology),
        "PYTHONPATH": f"{TESTS}:{TESTS.parent}/plugins",
        "AIRFLOW__HOLDFAST__EVIDENCE_FOLDER": str(tmp_path / "evidence"),
    }
    test = start_dag(tmp_path / "dags" / "story.py", "story", **environ)
    tasks = test.result()["tasks"]
    assert {name: one["state"] for name, one in tasks.items()} == {"known": "success", "unknown": "failed"}, test.text
    assert tasks["unknown"]["tries"] == 1
    assert tasks["known"]["result"]["state"] == "final"
    with sqlite3.connect(tmp_path / "airflow" / "airflow.db") as database:
        (extra,) = database.execute(
            "select e.extra from asset_event e join asset a on a.id = e.asset_id where a.name = 'holdfast-costs'"
        ).fetchone()
    assert json.loads(extra)["period"] == "2026-10"
