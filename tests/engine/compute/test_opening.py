"""A job's command and environment: from the topology and the site, and nothing else of the parent."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from holdfast.clock import SystemClock
from holdfast.engine.compute import job_spec, open_backend
from holdfast.engine.config import Topology, load_topology
from holdfast.engine.config.compute import Placement
from holdfast.errors import ConfigError, UnknownName

PARENT = {
    "PATH": "/bin",
    "HOME": "/people/me",
    "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": "secret",
    "AIRFLOW_CONN_CLOUD": "{}",
    "AIRFLOW_CONN_ELSEWHERE": "{}",
    "HOLDFAST_SIGNING_KEY": "secret",
    "BUCKET": "b",
}


#: A process asks neither the bucket nor a service.
NOWHERE = {"store": lambda: None, "connection": lambda: None}


def topology(folder: Path, **compute: Any) -> Topology:
    (folder / "train.py").write_text("")
    site = {"cloud": "aws", "region": "r", "jurisdiction": "EU", "connection": "cloud", "bucket": "${BUCKET}"}
    (folder / "topology.yaml").write_text(
        json.dumps(
            {
                "version": 1,
                "sites": {"site-a": {**site, "compute": compute}},
                "groups": {},
                "datasets": {"data": {"path": "d"}},
                "training": {
                    "job": {
                        "dataset": "data",
                        "model": "model",
                        "steps": 3,
                        "checkpoint_every_steps": 1,
                        "command": ["{python}", "-u", "train.py", "--flag", "notes.txt"],
                    }
                },
            }
        )
    )
    return load_topology(folder / "topology.yaml", PARENT)


def environ_of(folder: Path, parent: dict[str, str] = PARENT, **compute: Any) -> dict[str, str]:
    it = topology(folder, **compute)
    return open_backend(
        "site-a", it.site("site-a"), topology=it, environ=parent, clock=SystemClock(), **NOWHERE
    ).environ


def test_without_an_environment_file_a_job_gets_what_the_topology_names(tmp_path: Path) -> None:
    assert environ_of(tmp_path) == {"PATH": "/bin", "HOME": "/people/me", "AIRFLOW_CONN_CLOUD": "{}", "BUCKET": "b"}


def test_with_one_it_gets_the_sites_own_view_and_not_the_parents(tmp_path: Path) -> None:
    (tmp_path / "site.env").write_text('AIRFLOW_CONN_CLOUD=\'{"host": "inside"}\'\n')
    assert environ_of(tmp_path, environment_file=str(tmp_path / "site.env")) == {
        "PATH": "/bin",
        "HOME": "/people/me",
        "AIRFLOW_CONN_CLOUD": '{"host": "inside"}',
    }


def test_an_environment_file_that_is_not_there_is_an_error_before_anything_starts(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="environment file"):
        environ_of(tmp_path, environment_file=str(tmp_path / "none.env"))


def test_jobs_lie_under_the_state_folder_or_where_the_site_says(tmp_path: Path) -> None:
    def folder(parent: dict[str, str], **compute: Any) -> Path:
        it = topology(tmp_path, **compute)
        return open_backend(
            "site-a", it.site("site-a"), topology=it, environ=parent, clock=SystemClock(), **NOWHERE
        )._folder

    assert folder(PARENT) == Path("/people/me/.holdfast/jobs/site-a")
    assert folder({**PARENT, "HOLDFAST_STATE": "/state"}) == Path("/state/jobs/site-a")
    assert folder(PARENT, state_folder="~/own") == Path("/people/me/own/site-a")


def spec(folder: Path, environ: dict[str, str] | None = None, **changes: Any) -> Any:
    (folder / "topology.yaml").unlink(missing_ok=True)
    it = topology(folder)
    # The group only has to exist.
    it = it.model_copy(update={"groups": {"group": object()}})
    it._path = folder / "topology.yaml"
    arguments = {
        "run": "run",
        "epoch": 3,
        "site": "site-a",
        "dataset_snapshot": "abc",
        "environ": environ or {},
        **changes,
    }
    return job_spec(it, "group", "job", **arguments)


def test_the_command_runs_this_interpreter_and_files_beside_the_topology(tmp_path: Path) -> None:
    made = spec(tmp_path)
    assert made.command == (sys.executable, "-u", str(tmp_path / "train.py"), "--flag", "notes.txt")
    assert made.name == "run.e3"


def test_the_environment_contract_is_complete(tmp_path: Path) -> None:
    assert spec(tmp_path).environment == {
        "HOLDFAST_TOPOLOGY": str(tmp_path / "topology.yaml"),
        "HOLDFAST_SITE": "site-a",
        "HOLDFAST_GROUP": "group",
        "HOLDFAST_JOB": "job",
        "HOLDFAST_RUN": "run",
        "HOLDFAST_EPOCH": "3",
        "HOLDFAST_DATASET_SNAPSHOT": "abc",
    }


def test_the_elected_checkpoint_is_told_where_there_is_one(tmp_path: Path) -> None:
    assert spec(tmp_path, resume_from="blake3:ab").environment["HOLDFAST_RESUME_FROM"] == "blake3:ab"
    assert "HOLDFAST_RESUME_FROM" not in spec(tmp_path).environment


def test_steps_and_pacing_can_be_overridden_and_nothing_else_is_taken(tmp_path: Path) -> None:
    made = spec(
        tmp_path,
        {
            "HOLDFAST_STEPS": "5",
            "HOLDFAST_STEP_SECONDS": "0",
            "HOLDFAST_SELF_TEST": "1",
            "HOLDFAST_PREEMPTION": "site",
            "HOLDFAST_SIGNING_KEY": "x",
        },
        dataset_snapshot=None,
    ).environment
    assert (made["HOLDFAST_STEPS"], made["HOLDFAST_STEP_SECONDS"]) == ("5", "0")
    assert made["HOLDFAST_SELF_TEST"] == "1"
    assert made["HOLDFAST_PREEMPTION"] == "site"
    assert not {"HOLDFAST_SIGNING_KEY", "HOLDFAST_DATASET_SNAPSHOT"} & set(made)


def test_an_unknown_site_is_named(tmp_path: Path) -> None:
    with pytest.raises(UnknownName):
        spec(tmp_path, site="site-z")


def test_a_placement_says_the_machine_and_one_of_another_site_is_refused(tmp_path: Path) -> None:
    assert (spec(tmp_path).machine, spec(tmp_path).spot) == (None, False)
    made = spec(tmp_path, placement=Placement(site="site-a", machine="big", spot=True))
    assert (made.machine, made.spot) == ("big", True)
    with pytest.raises(ConfigError, match="another site"):
        spec(tmp_path, placement=Placement(site="site-b"))
