"""The operators of audit exports, posture and residency, over sites in folders."""

from __future__ import annotations

import json
import runpy
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from airflow.sdk.exceptions import AirflowFailException

from audit_world import add_audit
from folders import make_folders
from holdfast.notifications.audit import AuditFindingNotifier, AuditProblemNotifier
from holdfast.operators.assets import POSTURE, RESIDENCY, verified_asset
from holdfast.operators.audit import ExportAuditOperator, VerifyExportsOperator
from holdfast.operators.posture import CheckPostureOperator, CheckResidencyOperator


@pytest.fixture
def topology(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOLDFAST_STATE", str(tmp_path / "state"))
    monkeypatch.setenv("AIRFLOW_CONN_NONE", json.dumps({"conn_type": "generic"}))
    monkeypatch.delenv("HOLDFAST_SIGNING_KEY", raising=False)
    return add_audit(make_folders(tmp_path, prices={"residency": "eu-only"}))


class Events(dict):  # type: ignore[type-arg]
    def __missing__(self, key: Any) -> Any:
        return self.setdefault(key, SimpleNamespace(extra=None))


def run(operator: Any) -> Any:
    return operator.execute({"outlet_events": Events(), "run_id": "test"})


def test_an_export_is_sealed_and_verified_again(topology: Path) -> None:
    made = run(ExportAuditOperator(task_id="export", topology_path=str(topology)))
    assert made["seal"] == 0
    assert made["sites"] == {"site-b": None, "site-c": None}
    asset, events = verified_asset("example.com/desk"), Events()
    verify = VerifyExportsOperator(task_id="verify", topology_path=str(topology), outlets=[asset])
    done = verify.execute({"outlet_events": events, "run_id": "test"})  # type: ignore[typeddict-item]
    assert events[asset].extra == {"site": done["site"], "seals": [0]}
    assert (done["verdict"], done["seals"]) == ("fine", [0])


def test_a_damaged_export_fails_the_task_with_what_and_where(topology: Path) -> None:
    run(ExportAuditOperator(task_id="export", topology_path=str(topology)))
    (coverage,) = (topology.parent / "site-b" / "ledger").rglob("coverage/fake.json")
    coverage.write_bytes(coverage.read_bytes().replace(b"complete", b"complexe", 1))
    with pytest.raises(AirflowFailException, match=r"tampered: .*coverage/fake\.json"):
        run(VerifyExportsOperator(task_id="verify", site="site-b", topology_path=str(topology)))


def test_what_the_checks_found_is_sealed_by_the_next_export(topology: Path) -> None:
    run(CheckResidencyOperator(task_id="residency", topology_path=str(topology)))
    written = [
        Path(run(CheckPostureOperator(task_id="posture", topology_path=str(topology)))["file"]) for _run in range(2)
    ]
    assert len({path.name for path in written}) == 2
    made = run(ExportAuditOperator(task_id="export", topology_path=str(topology)))
    found = sorted(path.name for path in (topology.parent / "site-b" / "ledger").rglob("findings/*"))
    # Of two runs since the last export both are sealed, each once.
    assert [name.split("-")[0] for name in found] == ["posture", "posture", "residency"]
    assert {path.name for path in written} <= set(found)
    assert made["documents"] >= 5
    again = run(ExportAuditOperator(task_id="export", topology_path=str(topology)))
    assert again["seal"] == made["seal"] + 1
    assert sorted(path.name for path in (topology.parent / "site-b" / "ledger").rglob("findings/*")) == found


def test_the_checks_tell_their_assets_unless_they_fail(topology: Path) -> None:
    events = Events()
    for operator in (
        CheckPostureOperator(task_id="posture", topology_path=str(topology), outlets=[POSTURE]),
        CheckResidencyOperator(task_id="residency", topology_path=str(topology), outlets=[RESIDENCY]),
    ):
        operator.execute({"outlet_events": events, "run_id": "test"})  # type: ignore[typeddict-item]
    assert events[POSTURE].extra["fail"] == 0
    assert set(events[POSTURE].extra) == {"pass", "fail", "unknown", "not-applicable"}
    assert events[RESIDENCY].extra == {"lawful": 0, "breach": 0, "unknown": 0}


@pytest.mark.parametrize("file", ["export_audit.py", "verify_exports.py", "check_posture.py"])
def test_every_task_of_the_audit_dags_has_an_asset(topology: Path, file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from airflow.sdk import DAG

    monkeypatch.setenv("HOLDFAST_TOPOLOGY", str(topology))
    made: list[DAG] = []
    entered = DAG.__enter__
    monkeypatch.setattr(DAG, "__enter__", lambda self: made.append(self) or entered(self))
    runpy.run_path(str(Path(__file__).resolve().parents[2] / "dags" / file))
    outlets = [task.outlets for dag in made for task in dag.tasks]
    assert outlets
    assert all(len(one) == 1 for one in outlets)


def test_findings_of_an_export_that_failed_are_kept_for_the_next(
    topology: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = Path(run(CheckPostureOperator(task_id="posture", topology_path=str(topology)))["file"])

    def fails(*_args: Any, **_more: Any) -> Any:
        raise OSError("no space left")

    with monkeypatch.context() as patched:
        patched.setattr("holdfast.engine.audit.export.export_audit", fails)
        with pytest.raises(OSError, match="no space"):
            run(ExportAuditOperator(task_id="export", topology_path=str(topology)))
    assert file.is_file()
    run(ExportAuditOperator(task_id="export", topology_path=str(topology)))
    assert [one.name for one in (topology.parent / "site-b" / "ledger").rglob("findings/*")] == [file.name]


def test_data_that_lies_where_it_may_not_fails_the_task(topology: Path) -> None:
    from folders import folder_runtime
    from holdfast.engine.pipeline.sync import run as sync

    document = yaml.safe_load(topology.read_text())
    document["sites"]["site-c"]["jurisdiction"] = "EU"
    topology.write_text(yaml.safe_dump(document))
    file = topology.parent / "site-a" / "data" / "prices" / "day.csv"
    file.parent.mkdir(parents=True)
    file.write_text("1,2\n")
    sync(folder_runtime(topology), "desk", "prices")
    run(CheckResidencyOperator(task_id="residency", topology_path=str(topology)))
    document["sites"]["site-c"]["jurisdiction"] = "US"
    topology.write_text(yaml.safe_dump(document))
    with pytest.raises(AirflowFailException, match=r"prices .* at site-c"):
        run(CheckResidencyOperator(task_id="residency", topology_path=str(topology)))


def test_a_moment_that_is_none_is_refused_clearly(topology: Path) -> None:
    with pytest.raises(AirflowFailException, match="this is no moment"):
        run(ExportAuditOperator(task_id="export", until="{{ 7*7 }}", topology_path=str(topology)))


@pytest.mark.parametrize("away", [("site-c",), ("site-b", "site-c")])
def test_a_seal_that_is_not_everywhere_is_recorded_and_in_one_cloud_fails_the_task(
    topology: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, away: tuple[str, ...]
) -> None:
    monkeypatch.setenv("AIRFLOW__HOLDFAST__EVIDENCE_FOLDER", str(tmp_path / "evidence"))
    notifier = AuditProblemNotifier(what="an export")
    add_audit(topology, sites=["site-a", "site-b", "site-c"])
    for site in away:
        shutil.rmtree(topology.parent / site)
        (topology.parent / site).write_text("no folder")
    operator = ExportAuditOperator(task_id="export", topology_path=str(topology))
    if len(away) == 2:
        with pytest.raises(AirflowFailException, match="in one cloud alone"):
            run(operator)
        return
    made = run(operator)
    assert [one["code"] for one in made["problems"]] == ["site-lacks-seal"]
    for returned in (None, made, {**made, "problems": []}):
        notifier.notify({"ti": SimpleNamespace(xcom_pull=lambda returned=returned: returned), "run_id": "test"})  # type: ignore[typeddict-item]
    (file,) = (tmp_path / "evidence" / "audit-findings").iterdir()
    record = json.loads(file.read_text())
    assert record["run_id"] == "test"
    assert "site-c: the site does not have the seal" in record["why"]


def test_a_window_in_the_future_is_refused_and_not_sealed(topology: Path) -> None:
    with pytest.raises(AirflowFailException, match="ends in the future"):
        run(ExportAuditOperator(task_id="export", until="2140-01-01", topology_path=str(topology)))
    assert not list(topology.parent.glob("site-*/ledger/*"))


def test_a_site_that_is_none_is_refused_when_the_dag_is_parsed(topology: Path) -> None:
    from holdfast.errors import ConfigError

    with pytest.raises(ConfigError, match="there is no such site"):
        VerifyExportsOperator(task_id="verify", site="site-x", topology_path=str(topology))


def test_a_finding_leaves_a_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW__HOLDFAST__EVIDENCE_FOLDER", str(tmp_path))
    AuditFindingNotifier(what="an export").notify({"exception": ValueError("a gap"), "run_id": "one"})  # type: ignore[typeddict-item]
    (file,) = (tmp_path / "audit-findings").iterdir()
    record = json.loads(file.read_text())
    assert list(record) == ["format", "what", "why", "run_id", "noticed_at"]
    assert (record["format"], record["what"], record["why"]) == ("holdfast.audit-finding/1", "an export", "a gap")
