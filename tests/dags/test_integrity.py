"""What holds for every DAG file, and that the checks can say no."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted(p.name for p in (ROOT / "dags").glob("*.py"))
REJECTED = sorted((Path(__file__).parent / "rejected").glob("*.py"))


def test_the_dags_are_those_the_documentation_lists(parsed):
    ids = {dag["dag_id"] for name in FILES for dag in parsed[name]["dags"]}
    assert ids == {
        "back_up",
        "back_up.market-risk",
        "back_up_airflow",
        "check_posture",
        "export_audit",
        "fail_over",
        "failover_drill",
        "replicate_datasets",
        "report_costs",
        "restore",
        "restore_drill.market-risk",
        "restore_live",
        "train_model",
        "verify_backups.market-risk",
        "verify_exports",
        "watch_sites",
    }


@pytest.mark.parametrize("file", FILES)
def test_a_dag_file_passes_every_check_without_any_variable_set(file, violations):
    assert violations(file) == []


@pytest.mark.parametrize("file", FILES)
def test_a_dag_file_parses_cold_in_under_a_second(file, parsed):
    assert parsed[file]["seconds"] < 1.0


@pytest.mark.parametrize("file", REJECTED, ids=lambda path: path.stem)
def test_a_dag_that_must_not_run_is_rejected_for_its_reason(file, violations):
    reason = file.read_text(encoding="utf-8").splitlines()[0].removeprefix("# Rejected: ")
    assert any(reason in found for found in violations(file.name)), violations(file.name)


def test_every_check_has_a_dag_that_fails_it():
    assert len(REJECTED) >= 8


def test_the_drill_offers_the_scenarios_the_engine_has(parsed):
    from holdfast.engine.drill.scenarios import SCENARIOS

    drill = parsed["failover_drill.py"]["dags"][0]
    assert drill["params"]["scenario"]["enum"] == sorted(SCENARIOS)


def test_forms_offer_the_names_of_the_topology(parsed):
    assert parsed["failover_drill.py"]["dags"][0]["params"]["group"]["enum"] == ["market-risk"]
    assert parsed["train_model.py"]["dags"][0]["params"]["job"]["enum"] == ["volatility"]
    assert parsed["fail_over.py"]["dags"][0]["params"]["target"]["enum"] == [None, "aws-eu-west-1", "gcp-europe-west1"]


def test_a_restore_takes_every_name_a_backup_has(parsed):
    for dag in parsed["restore.py"]["dags"]:
        pattern = dag["params"]["backup"]["pattern"]
        for name in ("", "5f3a", "ab" * 16, "entry:17"):
            assert re.search(pattern, name), name
        for name in ("entry:", "latest; rm", "5f3", "entry:x"):
            assert not re.search(pattern, name), name


def test_a_drill_has_a_deadline_and_a_training_follows_its_data(parsed):
    assert parsed["failover_drill.py"]["dags"][0]["deadline"]
    assert "holdfast-dataset-market-data" in parsed["train_model.py"]["dags"][0]["schedule"]


def test_the_critical_path_of_a_failover_is_one_task(parsed):
    tasks = parsed["fail_over.py"]["dags"][0]["tasks"]
    assert list(tasks) == ["approve", "fail_over", "resume_training"]
